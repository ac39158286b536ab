//! One stream to another manager, on which many questions are on their way at once: each is a message of one
//! frame, and so is its answer, where a call of its own would cost headers and trailers both ways.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use futures::{StreamExt as _, stream::FuturesUnordered};
use skep_api::wire;
use skep_link::{Peer, stubs::members_client::MembersClient};
use skep_raft::HandleError;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming, transport::Channel};

use crate::{auth::Need, dispatcher::Shared};

/// Questions that may wait to be written to one member: raft has a few on their way to each, and users' writes
/// that are forwarded wait for more than this at the leader's disk, not here.
const ASKS_MAX: usize = 1024;
/// Answers that may wait to be written to one member.
const ANSWERS_MAX: usize = 64;
/// Questions of one member that are answered at once; further ones wait on the connection.
const ANSWERING_MAX: usize = 1024;

/// Who waits for which answer. Numbers are never used again: an answer may come when nobody waits any more.
#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    by_number: BTreeMap<u64, oneshot::Sender<Result<Bytes, Status>>>,
}

type Pending = Arc<Mutex<Waiting>>;

fn lock(pending: &Pending) -> MutexGuard<'_, Waiting> {
    pending.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The asking end; clones share it. The stream ends with the last of them.
#[derive(Clone, Debug)]
pub(super) struct Talk {
    asks: mpsc::Sender<wire::RaftAsk>,
    pending: Pending,
}

impl Talk {
    /// Opens the stream. Must be called on the runtime that it is to live on.
    pub(super) async fn open(mut client: MembersClient<Channel>) -> Result<Self, Status> {
        let (asks, queue) = mpsc::channel(ASKS_MAX);
        let answers = client.raft(ReceiverStream::new(queue)).await?.into_inner();
        let pending = Pending::default();
        tokio::spawn(read(answers, pending.clone()));
        Ok(Self { asks, pending })
    }

    /// Asks, and waits for the answer; may be dropped at any time.
    pub(super) async fn ask(&self, to: u64, body: Bytes) -> Result<Bytes, Status> {
        let (answer, answered) = oneshot::channel();
        let number = {
            let mut waiting = lock(&self.pending);
            waiting.next += 1;
            let number = waiting.next;
            waiting.by_number.insert(number, answer);
            number
        };
        let _forget = Forget { pending: &self.pending, number };
        let broken = || Status::unavailable("the connection broke");
        self.asks.send(wire::RaftAsk { number, to, body: body.into() }).await.map_err(|_| broken())?;
        answered.await.unwrap_or_else(|_| Err(broken()))
    }
}

/// Nobody waits for an answer any more, or it has come.
struct Forget<'a> {
    pending: &'a Pending,
    number: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        lock(self.pending).by_number.remove(&self.number);
    }
}

/// Hands answers to those who wait, until the stream ends; then nobody waits in vain.
async fn read(mut answers: Streaming<wire::RaftAnswer>, pending: Pending) {
    let end = loop {
        match answers.message().await {
            Ok(Some(wire::RaftAnswer { number, body, code, words })) => {
                let code = Code::from_i32(code);
                let is_answer = code == Code::Ok;
                let answer = if is_answer { Ok(Bytes::from(body)) } else { Err(Status::new(code, words)) };
                if let Some(waits) = lock(&pending).by_number.remove(&number) {
                    // Its call may have been dropped just now.
                    drop(waits.send(answer));
                }
            }
            Ok(None) => break Status::unavailable("the other end closed the connection"),
            Err(status) => break status,
        }
    };
    let waiting = std::mem::take(&mut lock(&pending).by_number);
    for waits in waiting.into_values() {
        drop(waits.send(Err(end.clone())));
    }
}

/// Answers what a member asks until it ends the stream. Each question is judged by itself: the caller may have
/// been let go since the last one.
pub(super) fn answer(
    shared: Arc<Shared>,
    caller: Option<Peer>,
    mut asks: Streaming<wire::RaftAsk>,
) -> ReceiverStream<Result<wire::RaftAnswer, Status>> {
    let (answers, queue) = mpsc::channel(ANSWERS_MAX);
    let mut leadership = shared.raft.leadership();
    tokio::spawn(async move {
        // It closes as raft stops: another one may be in its place soon, behind the same port.
        let stopped = async { while leadership.changed().await.is_ok() {} };
        tokio::pin!(stopped);
        let mut answering = FuturesUnordered::new();
        loop {
            let next = tokio::select! {
                biased;
                () = &mut stopped => return,
                Some(answer) = answering.next() => {
                    if answers.send(Ok(answer)).await.is_err() {
                        return;
                    }
                    continue;
                }
                ask = asks.message(), if answering.len() < ANSWERING_MAX => ask,
                () = answers.closed() => return,
            };
            // What was asked before the end is answered, or nobody listens any more.
            let Ok(Some(ask)) = next else { break };
            answering.push(answer_one(&shared, caller.clone(), ask));
        }
        while let Some(answer) = answering.next().await {
            if answers.send(Ok(answer)).await.is_err() {
                return;
            }
        }
    });
    ReceiverStream::new(queue)
}

async fn answer_one(shared: &Shared, caller: Option<Peer>, ask: wire::RaftAsk) -> wire::RaftAnswer {
    let wire::RaftAsk { number, to, body } = ask;
    match handle(shared, caller, to, body.into()).await {
        Ok(body) => {
            wire::RaftAnswer { number, body: body.into(), code: Code::Ok.into(), words: String::new() }
        }
        Err(status) => {
            let (code, words) = (status.code().into(), status.message().to_owned());
            wire::RaftAnswer { number, body: Vec::new(), code, words }
        }
    }
}

async fn handle(shared: &Shared, caller: Option<Peer>, to: u64, body: Bytes) -> Result<Bytes, Status> {
    shared.caller(caller, Need::Raft).await?;
    let own = shared.raft.raft_id();
    if to != own {
        let words = format!("raft member {to} is not here, but {own}");
        return Err(Status::failed_precondition(words));
    }
    shared.raft.handle(body).await.map_err(|error| match error {
        HandleError::NotForMe { .. } => Status::failed_precondition(error.to_string()),
        HandleError::Malformed { .. } => Status::invalid_argument(error.to_string()),
    })
}
