//! What users ask of a manager: reads on the applied state, writes as guarded proposals.
//!
//! Parse is validation; a write is acknowledged once it is committed and applied here; nothing that comes
//! later fails it. A lost answer is asked again with the same request id.

mod cluster;
mod explain;
mod networks;
mod nodes;
mod recovery;
pub(crate) mod services;
mod tickets;

pub use cluster::Rotation;
pub use services::{RegistryAuth, RollOut};
pub use tickets::TicketAsked;

use std::{sync::Arc, time::Duration};

use skep_api::{ApiError, ErrorKind, NodeId, object::Node};
use skep_store::{Change, Guard, Refusal, RefusalKind, View};
use tokio::sync::mpsc;

pub use networks::{CreatedNetwork, network_note};

use crate::{LogItem, LogQuery, dispatcher::Shared, logs::LogReader, write::WriteError};

/// A read or write that cannot be served fails within this time.
const NO_LEADER_AFTER: Duration = Duration::from_secs(1);
/// Swarm's words without a leader (`SK:manager/state/raft/raft.go`).
const NO_LEADER: &str = "rpc error: code = Unknown desc = The swarm does not have a leader. It's possible that too \
                         few managers are online. Make sure more than half of the managers are online.";

/// A user's handle on the control plane.
#[derive(Clone)]
pub struct Control {
    pub(crate) shared: Arc<Shared>,
    pub(crate) node_id: NodeId,
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Control").field("node_id", &self.node_id).finish_non_exhaustive()
    }
}

/// A service was created.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CreatedService {
    /// Its id.
    pub id: skep_api::ServiceId,
    /// What the user should know.
    pub warnings: Vec<String>,
}

/// A manager as its peers see it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ManagerStatus {
    /// Whether it leads.
    pub leader: bool,
    /// Whether it answers.
    pub reachable: bool,
    /// `host:port`.
    pub addr: String,
}

impl Control {
    /// The node that this manager is.
    #[must_use]
    pub fn node_id(&self) -> NodeId {
        self.node_id
    }

    /// A linearizable read: everything acknowledged before the call is in it.
    ///
    /// # Errors
    /// No leader, with Swarm's words, within a second.
    pub async fn view(&self) -> Result<View, ApiError> {
        match tokio::time::timeout(NO_LEADER_AFTER, self.shared.raft.read_barrier()).await {
            Ok(Ok(())) => Ok(self.stale_view()),
            Ok(Err(_)) | Err(_) => Err(ApiError::new(ErrorKind::Unavailable, NO_LEADER)),
        }
    }

    /// Decides on what is applied here, however old, and only if that says no, on a state that is whole: so a
    /// write costs one round of the managers and not two. For what the store judges again when it applies it.
    pub(crate) async fn decide<T>(
        &self,
        decide: impl Fn(&View) -> Result<T, ApiError>,
    ) -> Result<T, ApiError> {
        match decide(&self.stale_view()) {
            Ok(decided) => Ok(decided),
            Err(_) => decide(&self.view().await?),
        }
    }

    /// What is applied here, however old.
    #[must_use]
    pub fn stale_view(&self) -> View {
        self.shared.machine.view()
    }

    /// What the other managers say of a member of theirs; `None` for what is none (yet, or any more).
    #[must_use]
    pub fn manager_status(&self, node: &Node) -> Option<ManagerStatus> {
        let raft = self.shared.raft.status().borrow().clone();
        if !raft.voters.contains(&node.raft_id) {
            return None;
        }
        Some(ManagerStatus {
            leader: raft.leader == Some(node.raft_id),
            reachable: self.shared.is_reachable(&raft, node),
            addr: node.advertise_addr.clone(),
        })
    }

    /// What people should know of nodes' clocks and of managers' builds, in whole sentences.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let view = self.stale_view();
        let mut warnings = self.shared.clocks.warnings(&view);
        warnings.extend(crate::level::warning(&view));
        warnings
    }

    /// Lines of these tasks from the nodes that have them.
    ///
    /// # Errors
    /// Too many streams are open.
    pub async fn logs(
        &self,
        tasks: Vec<skep_api::TaskId>,
        query: LogQuery,
    ) -> Result<mpsc::Receiver<LogItem>, ApiError> {
        let view = self.view().await?;
        let mut reader = LogReader::open(&self.shared, &view, &tasks, &query).ok_or_else(|| {
            ApiError::new(
                ErrorKind::ResourceExhausted,
                "too many log streams are open; close one and try again",
            )
        })?;
        let (lines, receiver) = mpsc::channel(1);
        // Ends with the stream or with the caller; then the nodes are told.
        tokio::spawn(async move {
            loop {
                let item = tokio::select! {
                    item = reader.recv() => item,
                    () = lines.closed() => None,
                };
                let Some(item) = item else { return };
                if lines.send(item).await.is_err() {
                    return;
                }
            }
        });
        Ok(receiver)
    }

    /// Proposes and waits until it is applied here.
    async fn write(&self, guards: Vec<Guard>, changes: Vec<Change>) -> Result<(), ApiError> {
        self.shared.write(guards, changes).await.map_err(not_written)
    }
}

/// Why a user's write was not acknowledged.
fn not_written(error: WriteError) -> ApiError {
    match error {
        WriteError::Stale => out_of_sequence(),
        WriteError::Refused(refusal) => refused(refusal),
        WriteError::NoLeader => ApiError::new(ErrorKind::Unavailable, NO_LEADER),
        WriteError::TooLarge(words) => ApiError::invalid(words),
        WriteError::Unknown => ApiError::new(ErrorKind::Unavailable, error.to_string()),
        WriteError::Answer(words) => ApiError::new(ErrorKind::Internal, words),
    }
}

fn refused(refusal: Refusal) -> ApiError {
    match refusal.kind {
        RefusalKind::Stale => out_of_sequence(),
        RefusalKind::NameTaken => ApiError::new(ErrorKind::AlreadyExists, refusal.message),
        RefusalKind::PortTaken => ApiError::invalid(invalid_argument(&refusal.message)),
        RefusalKind::SubnetTaken | RefusalKind::VniTaken | RefusalKind::InUse | RefusalKind::TooOld => {
            failed_precondition(&refusal.message)
        }
        // Users' writes refer to nothing but networks.
        RefusalKind::Missing => ApiError::not_found(refusal.message),
        RefusalKind::SlotTaken
        | RefusalKind::AddressTaken
        | RefusalKind::ResourceTaken
        | RefusalKind::Format => ApiError::new(ErrorKind::Internal, refusal.message),
    }
}

/// Docker's words for a stale version: a 500, and clients match the text.
fn out_of_sequence() -> ApiError {
    ApiError::new(ErrorKind::Aborted, "rpc error: code = Unknown desc = update out of sequence")
}

/// The state of the cluster does not allow it now.
fn failed_precondition(words: &str) -> ApiError {
    let words = format!("rpc error: code = FailedPrecondition desc = {words}");
    ApiError::new(ErrorKind::FailedPrecondition, words)
}

/// What Swarm cannot do.
fn unimplemented(words: &str) -> ApiError {
    ApiError::new(ErrorKind::Unimplemented, format!("rpc error: code = Unimplemented desc = {words}"))
}

/// Docker passes its control API's status on in the message.
pub(crate) fn invalid_argument(words: &str) -> String {
    format!("rpc error: code = InvalidArgument desc = {words}")
}
