//! The way of a new manager into raft, and out of it, from its own side.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use skep_api::wire;
use skep_link::{DialError, Identity, Whom, stubs::members_client::MembersClient};
use skep_raft::UnlockKey;
use skep_store::FEATURE_LEVEL;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tonic::{Code, Status};

use crate::dispatcher::Shared;

/// The first pause before the managers are asked again, doubled each time,
const RETRY_MIN: Duration = Duration::from_millis(50);
/// up to this.
const RETRY_MAX: Duration = Duration::from_secs(2);
/// One manager's time to answer: it dials this one back.
const ENTER_MAX: Duration = Duration::from_secs(6);
/// Its connection.
const DIAL_MAX: Duration = Duration::from_secs(2);
/// After the managers have taken this one in, it should hear of a leader; else they are asked again.
const VOTER_MAX: Duration = Duration::from_secs(5);
/// A member that was opened knows who votes after this long at most.
const STATUS_MAX: Duration = Duration::from_secs(1);

/// Why a manager was not taken in.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum EnterError {
    /// It will not help to ask again: an address that is taken or cannot be reached.
    #[error("{0}")]
    Refused(String),
    /// The manager is stopped.
    #[error("this manager stops")]
    Stopped,
}

/// A handle on a manager that is to become a member. It does not keep the manager alive.
#[derive(Clone)]
pub struct Entrance(pub(crate) Arc<Shared>);

impl std::fmt::Debug for Entrance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Entrance").field("raft_id", &self.0.raft.raft_id()).finish_non_exhaustive()
    }
}

impl Entrance {
    /// Returns once this manager votes and has applied all that was committed by then. Asks the managers
    /// that the state or its file names, and `managers`, again and again; dropping it ends that.
    ///
    /// # Errors
    /// [`EnterError`].
    pub async fn enter(
        &self,
        advertise_addr: &str,
        managers: impl Fn() -> Vec<String>,
    ) -> Result<(), EnterError> {
        let shared = &self.0;
        let mut pause = RETRY_MIN;
        // One that was a member before is heard soon, or its state is too old to know its peers.
        if self.has_state() {
            self.heard_within(VOTER_MAX).await;
        }
        loop {
            if self.is_stopped() {
                return Err(EnterError::Stopped);
            }
            // A leader that was heard may be gone again, and the next one nobody whom this state knows.
            if self.is_heard() {
                if self.0.raft.read_barrier().await.is_ok() {
                    return Ok(());
                }
                sleep(RETRY_MIN).await;
                continue;
            }
            let mut addrs: Vec<String> = managers();
            addrs.extend(shared.book.addrs());
            let mut seen = BTreeSet::from([advertise_addr.to_owned()]);
            addrs.retain(|addr| seen.insert(addr.clone()));
            for addr in addrs {
                match self.ask(&addr, advertise_addr).await {
                    Ok(peers) => {
                        shared.book.learn(&peers);
                        if self.heard_within(VOTER_MAX).await {
                            break;
                        }
                        tracing::warn!("the managers know of this one, and none has taken it in yet");
                    }
                    Err(Failure::Refused(words)) => return Err(EnterError::Refused(words)),
                    Err(Failure::Again(words)) => tracing::debug!(addr, err = words, "not taken in yet"),
                }
            }
            if !self.is_heard() {
                self.heard_within(pause).await;
                pause = (pause * 2).min(RETRY_MAX);
            }
        }
    }

    /// Returns once this member has heard no leader for so long that its state may be too old to know who leads:
    /// those that it knew may have come in anew while it was cut off. It is to enter again, as at a start.
    pub async fn lost(&self) {
        let mut status = self.0.raft.status();
        while status.wait_for(|status| !status.has_quorum).await.is_ok() {
            if !self.heard_within(VOTER_MAX).await {
                break;
            }
        }
        if self.is_stopped() {
            std::future::pending().await
        }
    }

    /// Follows where the members are, as far as this one knows, `host:port`.
    #[must_use]
    pub fn members(&self) -> watch::Receiver<Vec<String>> {
        self.0.book.named()
    }

    /// Its raft id.
    #[must_use]
    pub fn raft_id(&self) -> u64 {
        self.0.raft.raft_id()
    }

    /// Whether it holds a state of the swarm: it was a member once.
    #[must_use]
    pub fn has_state(&self) -> bool {
        self.0.machine.view().cluster().is_some()
    }

    /// Whether it is a member in good standing: it votes, and hears a leader, or leads.
    #[must_use]
    pub fn is_heard(&self) -> bool {
        is_heard(&self.0.raft.status().borrow())
    }

    /// Whether nobody else votes, by its own log: then nobody can have let it go.
    pub async fn is_alone(&self) -> bool {
        let own = self.0.raft.raft_id();
        let mut status = self.0.raft.status();
        // The first word of it comes a moment after the opening.
        let known = timeout(STATUS_MAX, status.wait_for(|status| !status.voters.is_empty())).await;
        matches!(known, Ok(Ok(status)) if status.voters.iter().eq([&own]))
    }

    fn is_stopped(&self) -> bool {
        self.0.raft.status().has_changed().is_err()
    }

    async fn heard_within(&self, limit: Duration) -> bool {
        let mut status = self.0.raft.status();
        matches!(timeout(limit, status.wait_for(is_heard)).await, Ok(Ok(_)))
    }

    pub(super) async fn ask(&self, addr: &str, advertise_addr: &str) -> Result<Vec<wire::RaftPeer>, Failure> {
        let mut client = client(addr, &self.0.identity).await?;
        // What it is sent next is not to lie on an open disk.
        let answer = timeout(ENTER_MAX, client.lock(wire::LockRequest {})).await;
        let answer = answer.map_err(|_| Failure::Again("no answer".to_owned()))?;
        let wire::LockResponse { unlock_key, version } = answer.map_err(Failure::from)?.into_inner();
        let unlock = (!unlock_key.is_empty()).then(|| UnlockKey::new(unlock_key));
        let followed = self.0.raft.follow_lock(unlock, version).await;
        followed.map_err(|error| Failure::Again(error.to_string()))?;
        let request = wire::EnterRequest {
            raft_id: self.0.raft.raft_id(),
            advertise_addr: advertise_addr.to_owned(),
            feature_level: FEATURE_LEVEL,
        };
        let answer = timeout(ENTER_MAX, client.enter(request)).await;
        let answer = answer.map_err(|_| Failure::Again("no answer".to_owned()))?;
        Ok(answer.map_err(Failure::from)?.into_inner().peers)
    }
}

/// Whether it votes, and heard a leader just now: the last one that it knew may be long gone.
fn is_heard(status: &skep_raft::Status) -> bool {
    status.voters.contains(&status.raft_id) && status.leader.is_some() && status.has_quorum
}

/// Takes this node out of the managers before it leaves: the first of `managers` that does it is enough.
///
/// # Errors
/// The words of the last one.
pub async fn depart(identity: &Identity, managers: &[String], limit: Duration) -> Result<(), String> {
    let mut why = "no other manager is known".to_owned();
    let departing = async {
        for addr in managers {
            let left = async {
                client(addr, identity).await?.depart(wire::DepartRequest {}).await.map_err(Failure::from)
            };
            match left.await {
                Ok(_) => return Ok(()),
                Err(Failure::Refused(words) | Failure::Again(words)) => why = format!("{addr}: {words}"),
            }
        }
        Err(why.clone())
    };
    timeout(limit, departing).await.unwrap_or_else(|_| Err("the other managers do not answer".to_owned()))
}

/// Why a manager did not take this one.
pub(super) enum Failure {
    Again(String),
    Refused(String),
}

impl From<DialError> for Failure {
    fn from(error: DialError) -> Self {
        Self::Again(error.to_string())
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        let words = status.message().to_owned();
        if matches!(status.code(), Code::FailedPrecondition | Code::InvalidArgument) {
            Self::Refused(words)
        } else {
            Self::Again(words)
        }
    }
}

async fn client(
    addr: &str,
    identity: &Identity,
) -> Result<MembersClient<tonic::transport::Channel>, Failure> {
    let (channel, _) = skep_link::connect_once(addr, identity, Whom::Manager, DIAL_MAX).await?;
    Ok(MembersClient::new(channel))
}
