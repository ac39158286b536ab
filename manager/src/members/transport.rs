//! Carries raft's words to other members: one connection each for small and for large messages.
//!
//! Everything here lives on raft's own runtime. A connection is made when it is first needed, by a task of
//! its own that several calls wait for; a dead peer costs its own calls their limits and others nothing.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures::{
    FutureExt as _,
    future::{BoxFuture, Shared},
};
use skep_link::{Identity, MESSAGE_MAX_BYTES, RootDigest, Whom, stubs::members_client::MembersClient};
use skep_raft::{Transport, TransportError};
use tokio::time::{Instant, timeout};
use tonic::{Code, Status};

use super::{Book, talk::Talk};
use crate::recovery;

/// TCP and TLS with a peer on a busy machine; beyond, it is tried anew, as the first packets may be lost.
const DIAL_MAX: Duration = Duration::from_secs(1);
/// After a failed dial, calls fail at once for this long: a daemon that restarts is found soon after.
const DIAL_PAUSE: Duration = Duration::from_millis(50);
/// A connection on which nothing was answered for this long is given up: a new one is heard sooner after
/// a cut than one whose packets wait for their next retransmission.
const SILENT_MAX: Duration = Duration::from_secs(1);
/// Between attempts at a line under a new certificate while the old one goes on.
const NEXT_PAUSE: Duration = Duration::from_secs(1);
/// Larger messages go over a connection of their own, so that heartbeats do not queue behind them.
const SMALL_MAX_BYTES: usize = 64 << 10;

type Dial = Shared<BoxFuture<'static, Result<Talk, String>>>;

/// The connections of one member to the others.
#[derive(Debug)]
pub(crate) struct Links {
    identity: Identity,
    book: Arc<Book>,
    lines: Arc<Mutex<BTreeMap<Key, Line>>>,
}

/// Raft id, and whether it is the line for large messages.
type Key = (u64, bool);

struct Next {
    under: RootDigest,
    dial: Dial,
}

struct Line {
    /// Tells a line from the one before.
    number: u64,
    addr: String,
    /// Under which of this node's certificates it was dialled: each is used for its own time alone.
    under: RootDigest,
    dial: Dial,
    /// The one that takes its place, under a new certificate, once it stands; and when another may be tried.
    next: Option<Next>,
    next_at: Instant,
    /// When it was made, or last answered.
    heard: Instant,
    /// When its dial failed.
    failed: Option<Instant>,
}

impl std::fmt::Debug for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Line").field("addr", &self.addr).field("failed", &self.failed).finish_non_exhaustive()
    }
}

impl Links {
    pub(crate) fn new(identity: Identity, book: Arc<Book>) -> Arc<Self> {
        Arc::new(Self { identity, book, lines: Arc::default() })
    }

    /// The line to a member, made if need be. Must be called on raft's runtime.
    fn line(&self, key: Key) -> Result<(u64, Dial), TransportError> {
        let unknown = || TransportError::Unreachable(format!("no address of raft member {} is known", key.0));
        let addr = self.book.addr(key.0).ok_or_else(unknown)?;
        let mut lines = lock(&self.lines);
        let now = Instant::now();
        let last = lines.get_mut(&key);
        let under = self.identity.fingerprint();
        if let Some(line) = last.filter(|line| line.addr == addr) {
            if line.failed.is_none() {
                self.refresh(line, under, now);
            }
            let is_resting = line.failed.is_some_and(|at| now < at + DIAL_PAUSE);
            if line.failed.is_none() || is_resting {
                return Ok((line.number, line.dial.clone()));
            }
        }
        let number = lines.get(&key).map_or(0, |line| line.number + 1);
        let dial = self.dial(&addr);
        // Those of members that are gone.
        lines.retain(|(id, _), _| self.book.addr(*id).is_some());
        let line = Line {
            number,
            addr,
            under,
            dial: dial.clone(),
            next: None,
            next_at: now,
            heard: now,
            failed: None,
        };
        lines.insert(key, line);
        Ok((number, dial))
    }

    fn dial(&self, addr: &str) -> Dial {
        let (identity, to) = (self.identity.clone(), addr.to_owned());
        let dialling = tokio::spawn(async move { dial(&to, &identity).await });
        dialling.map(|done| done.unwrap_or_else(|e| Err(e.to_string()))).boxed().shared()
    }

    /// A line under a certificate that was replaced goes on until another one stands: heartbeats do not wait
    /// for a handshake.
    fn refresh(&self, line: &mut Line, under: RootDigest, now: Instant) {
        if line.under == under {
            line.next = None;
            return;
        }
        let next = match line.next.take() {
            Some(next) if next.under == under => next,
            Some(_) | None if now < line.next_at => return,
            Some(_) | None => Next { under, dial: self.dial(&line.addr) },
        };
        match next.dial.clone().now_or_never() {
            None => line.next = Some(next),
            Some(Ok(_)) => {
                (line.number, line.under, line.dial, line.heard) = (line.number + 1, under, next.dial, now);
            }
            Some(Err(_)) => line.next_at = now + NEXT_PAUSE,
        }
    }
}

async fn dial(addr: &str, identity: &Identity) -> Result<Talk, String> {
    let (channel, _) = skep_link::connect_once(addr, identity, Whom::Manager, DIAL_MAX)
        .await
        .map_err(|error| error.to_string())?;
    let client = MembersClient::new(channel)
        .max_decoding_message_size(MESSAGE_MAX_BYTES)
        .max_encoding_message_size(MESSAGE_MAX_BYTES);
    match timeout(DIAL_MAX, Talk::open(client)).await {
        Ok(opened) => opened.map_err(|status| status.message().to_owned()),
        Err(_) => Err(format!("{addr} does not answer")),
    }
}

impl Transport for Links {
    fn call(
        &self,
        to: u64,
        body: Bytes,
        limit: Duration,
    ) -> BoxFuture<'static, Result<Bytes, TransportError>> {
        let key = (to, body.len() > SMALL_MAX_BYTES);
        let (number, dial) = match self.line(key) {
            Ok(line) => line,
            Err(error) => return std::future::ready(Err(error)).boxed(),
        };
        let tally = Tally { lines: self.lines.clone(), key, number };
        let book = self.book.clone();
        let deadline = Instant::now() + limit;
        async move {
            let talk = match timeout(limit, dial).await {
                Ok(Ok(talk)) => talk,
                Ok(Err(why)) => {
                    heed(&book, &why);
                    tally.failed();
                    return Err(TransportError::Unreachable(why));
                }
                Err(_) => return Err(TransportError::Unreachable("not connected yet".to_owned())),
            };
            let left = deadline.saturating_duration_since(Instant::now());
            match timeout(left, talk.ask(to, body)).await {
                Ok(Ok(answer)) => {
                    tally.heard();
                    Ok(answer)
                }
                Ok(Err(status)) => {
                    heed(&book, status.message());
                    Err(tally.refused(&status))
                }
                Err(_) => {
                    tally.silent();
                    Err(TransportError::NoAnswer(format!("nothing within {limit:?}")))
                }
            }
        }
        .boxed()
    }
}

/// A manager of this swarm may say that it was made anew without this one.
fn heed(book: &Book, words: &str) {
    if recovery::is_dropped(words) {
        book.drop_out(words);
    }
}

/// How a line does; ignored once another has taken its place.
struct Tally {
    lines: Arc<Mutex<BTreeMap<Key, Line>>>,
    key: Key,
    number: u64,
}

impl Tally {
    fn with(&self, change: impl FnOnce(&mut Line)) {
        if let Some(line) = lock(&self.lines).get_mut(&self.key).filter(|line| line.number == self.number) {
            change(line);
        }
    }

    fn failed(&self) {
        self.with(|line| line.failed = line.failed.or_else(|| Some(Instant::now())));
    }

    fn heard(&self) {
        self.with(|line| line.heard = Instant::now());
    }

    fn silent(&self) {
        let now = Instant::now();
        // Dialled anew by the next call.
        self.with(|line| {
            if line.heard + SILENT_MAX <= now {
                line.failed = Some(now.checked_sub(DIAL_PAUSE).unwrap_or(now));
            }
        });
    }

    /// A status of the other end says that it did nothing; any other one, that the line is broken.
    fn refused(&self, status: &Status) -> TransportError {
        let words = status.message().to_owned();
        match status.code() {
            Code::PermissionDenied
            | Code::Unauthenticated
            | Code::FailedPrecondition
            | Code::Unimplemented => {
                self.heard();
                TransportError::Unreachable(words)
            }
            Code::Ok
            | Code::Cancelled
            | Code::Unknown
            | Code::InvalidArgument
            | Code::DeadlineExceeded
            | Code::NotFound
            | Code::AlreadyExists
            | Code::ResourceExhausted
            | Code::Aborted
            | Code::OutOfRange
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss => {
                let now = Instant::now();
                self.with(|line| line.failed = Some(now.checked_sub(DIAL_PAUSE).unwrap_or(now)));
                TransportError::NoAnswer(words)
            }
        }
    }
}

fn lock(lines: &Mutex<BTreeMap<Key, Line>>) -> MutexGuard<'_, BTreeMap<Key, Line>> {
    lines.lock().unwrap_or_else(PoisonError::into_inner)
}
