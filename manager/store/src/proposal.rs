//! Changes and the proposals that carry them: results, not commands, so that replicas of different
//! binaries agree.

use std::sync::Arc;

use prost::Message;
use skep_api::{
    ClusterId, Id, NetworkId, NodeId, RequestId, ServiceId, TaskId, TicketId, Timestamp,
    convert::{Malformed, generic_out},
    object::{Cluster, GenericResource, Network, Node, NodeStatus, Service, Task, TaskStatus, Ticket},
    wire,
};

use crate::{Follows, Guard, GuardKind};

/// The form of a proposal that this build writes and reads.
pub(crate) const FORMAT: u32 = 1;

/// How many requests the replicated state remembers, so that a repeated one is not applied again:
/// far more than can be in flight, of users and of the leader, in the time in which a lost answer is asked for
/// again; about 2 MiB once they are that many.
pub const REQUESTS_REMEMBERED: usize = 16_384;

/// How many bytes their answers may have together: those of refusals say names that users chose. The oldest
/// are forgotten first.
pub const ANSWER_BYTES_MAX: usize = 1024 * 1024;

/// One write of one object.
#[derive(Clone, PartialEq, Debug)]
pub enum Change {
    /// Creates or replaces; meta is set when it is applied.
    PutService(Arc<Service>),
    /// Removes.
    DeleteService(ServiceId),
    /// Creates or replaces; the status is max-merged with the stored one.
    PutTask(Arc<Task>),
    /// Removes.
    DeleteTask(TaskId),
    /// Creates or replaces; the status of an existing node stays.
    PutNode(Arc<Node>),
    /// Removes.
    DeleteNode(NodeId),
    /// Creates or replaces.
    PutCluster(Arc<Cluster>),
    /// Creates or replaces.
    PutNetwork(Arc<Network>),
    /// Removes; refused while a service is on it.
    DeleteNetwork(NetworkId),
    /// A max-merge: does not raise the version, is dropped when the task is gone.
    TaskStatus(TaskId, TaskStatus),
    /// Does not raise the version, is dropped when the node is gone.
    NodeStatus(NodeId, NodeStatus),
    /// Creates or replaces.
    PutTicket(Arc<Ticket>),
    /// Removes.
    DeleteTicket(TicketId),
    /// A task gets its node; as `PutTask`, a fraction of its size.
    AssignTask(TaskId, Assigned),
}

/// The object that a change is about.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Subject {
    /// A service.
    Service(ServiceId),
    /// A task.
    Task(TaskId),
    /// A node.
    Node(NodeId),
    /// The swarm.
    Cluster(ClusterId),
    /// A network.
    Network(NetworkId),
    /// A ticket.
    Ticket(TicketId),
}

impl Subject {
    /// As guards name it.
    pub(crate) fn key(self) -> (GuardKind, Id) {
        match self {
            Self::Service(id) => (GuardKind::Service, id.0),
            Self::Task(id) => (GuardKind::Task, id.0),
            Self::Node(id) => (GuardKind::Node, id.0),
            Self::Cluster(id) => (GuardKind::Cluster, id.0),
            Self::Network(id) => (GuardKind::Network, id.0),
            Self::Ticket(id) => (GuardKind::Ticket, id.0),
        }
    }
}

impl Change {
    /// What it is about.
    #[must_use]
    pub fn subject(&self) -> Subject {
        match self {
            Self::PutService(service) => Subject::Service(service.id),
            Self::DeleteService(id) => Subject::Service(*id),
            Self::PutTask(task) => Subject::Task(task.id),
            Self::DeleteTask(id) | Self::TaskStatus(id, _) | Self::AssignTask(id, _) => Subject::Task(*id),
            Self::PutNode(node) => Subject::Node(node.id),
            Self::DeleteNode(id) | Self::NodeStatus(id, _) => Subject::Node(*id),
            Self::PutCluster(cluster) => Subject::Cluster(cluster.id),
            Self::PutNetwork(network) => Subject::Network(network.id),
            Self::DeleteNetwork(id) => Subject::Network(*id),
            Self::PutTicket(ticket) => Subject::Ticket(ticket.id),
            Self::DeleteTicket(id) => Subject::Ticket(*id),
        }
    }

    /// Whether it is an observation, which raises no version and is guarded by none.
    pub(crate) fn is_report(&self) -> bool {
        matches!(self, Self::TaskStatus(..) | Self::NodeStatus(..))
    }
}

/// What a task gets with its node.
#[derive(Clone, PartialEq, Debug)]
pub struct Assigned {
    /// The node.
    pub node: NodeId,
    /// What is said of the task then; max-merged with the stored one.
    pub status: TaskStatus,
    /// What of the node's generic resources it gets.
    pub given: Vec<GenericResource>,
}

impl Assigned {
    /// The task as it is with that.
    #[must_use]
    pub(crate) fn to(&self, task: &Task) -> Task {
        let mut new = Task { node_id: Some(self.node), ..task.clone() };
        if !self.given.is_empty() || new.extra.is_some() {
            new.extra.get_or_insert_default().given.clone_from(&self.given);
        }
        new
    }
}

/// An atomic write.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Proposal {
    /// Remembered with its result; `None` for what may be applied twice.
    pub request: Option<RequestId>,
    /// What it was made from.
    pub guards: Vec<Guard>,
    /// What it was made from, of proposals that were on their way.
    pub follows: Vec<Follows>,
    /// What it does, in order.
    pub changes: Vec<Change>,
    /// The proposer's time.
    pub now: Timestamp,
}

impl Proposal {
    /// The bytes for the log.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        wire::Proposal {
            format: FORMAT,
            request_id: self.request.map(RequestId::to_bytes).unwrap_or_default(),
            guards: self.guards.iter().map(Into::into).collect(),
            follows: self.follows.iter().map(Into::into).collect(),
            changes: self.changes.iter().map(Into::into).collect(),
            now: self.now.0,
        }
        .encode_to_vec()
    }
}

impl From<&Change> for wire::Change {
    fn from(change: &Change) -> Self {
        use wire::change::Change as Out;
        let out = match change {
            Change::PutService(service) => Out::PutService((&**service).into()),
            Change::DeleteService(id) => Out::DeleteService(id.to_bytes()),
            Change::PutTask(task) => Out::PutTask((&**task).into()),
            Change::DeleteTask(id) => Out::DeleteTask(id.to_bytes()),
            Change::PutNode(node) => Out::PutNode((&**node).into()),
            Change::DeleteNode(id) => Out::DeleteNode(id.to_bytes()),
            Change::PutCluster(cluster) => Out::PutCluster((&**cluster).into()),
            Change::PutNetwork(network) => Out::PutNetwork((&**network).into()),
            Change::DeleteNetwork(id) => Out::DeleteNetwork(id.to_bytes()),
            Change::TaskStatus(id, status) => {
                Out::TaskStatus(wire::StatusReport { task_id: id.to_bytes(), status: Some(status.into()) })
            }
            Change::NodeStatus(id, status) => Out::NodeStatus(wire::NodeStatusReport {
                node_id: id.to_bytes(),
                status: Some(status.into()),
            }),
            Change::PutTicket(ticket) => Out::PutTicket((&**ticket).into()),
            Change::DeleteTicket(id) => Out::DeleteTicket(id.to_bytes()),
            Change::AssignTask(id, assigned) => Out::AssignTask(wire::AssignTask {
                task_id: id.to_bytes(),
                node_id: assigned.node.to_bytes(),
                status: Some((&assigned.status).into()),
                given: generic_out(&assigned.given),
            }),
        };
        Self { change: Some(out) }
    }
}

/// Why a proposal was not applied. Nothing of it was.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// Its class.
    pub kind: RefusalKind,
    /// For a person.
    pub message: String,
}

/// The classes of refusals.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RefusalKind {
    /// The state that it was made from has changed.
    Stale,
    /// The name belongs to another object.
    NameTaken,
    /// The slot has a counted task.
    SlotTaken,
    /// The address is given to somebody.
    AddressTaken,
    /// The port belongs to somebody.
    PortTaken,
    /// It refers to what does not exist.
    Missing,
    /// This build does not read it.
    Format,
    /// The address range belongs to another network.
    SubnetTaken,
    /// The VXLAN id belongs to another network.
    VniTaken,
    /// Somebody uses what was to be removed.
    InUse,
    /// A manager's build cannot do what the swarm's feature level asks for.
    TooOld,
    /// The generic resource belongs to another task.
    ResourceTaken,
}

impl Refusal {
    pub(crate) fn new(kind: RefusalKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }
}

impl From<Malformed> for Refusal {
    fn from(error: Malformed) -> Self {
        Self::new(RefusalKind::Format, error.to_string())
    }
}

impl From<&Refusal> for wire::Refusal {
    fn from(refusal: &Refusal) -> Self {
        use wire::refusal::Kind;
        let kind = match refusal.kind {
            RefusalKind::Stale => Kind::Stale,
            RefusalKind::NameTaken => Kind::NameTaken,
            RefusalKind::SlotTaken => Kind::SlotTaken,
            RefusalKind::AddressTaken => Kind::AddressTaken,
            RefusalKind::PortTaken => Kind::PortTaken,
            RefusalKind::Missing => Kind::Missing,
            RefusalKind::Format => Kind::Format,
            RefusalKind::SubnetTaken => Kind::SubnetTaken,
            RefusalKind::VniTaken => Kind::VniTaken,
            RefusalKind::InUse => Kind::InUse,
            RefusalKind::TooOld => Kind::TooOld,
            RefusalKind::ResourceTaken => Kind::ResourceTaken,
        };
        Self { kind: kind.into(), message: refusal.message.clone() }
    }
}

/// Why a proposal has no revision.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ProposalError {
    /// The state did not allow it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The answer of apply is not one.
    #[error("the answer to a proposal is malformed: {0}")]
    Answer(String),
}

/// Reads the answer of [`crate::Store::apply`]: the revision after the proposal, or why it was refused.
///
/// # Errors
/// The refusal, or a malformed answer.
pub fn decode_result(answer: &[u8]) -> Result<u64, ProposalError> {
    use wire::refusal::Kind;
    let result = wire::ProposalResult::decode(answer).map_err(|e| ProposalError::Answer(e.to_string()))?;
    let Some(refusal) = result.refusal else { return Ok(result.revision) };
    // A kind that only a newer build knows is a refusal all the same.
    let kind = match Kind::try_from(refusal.kind).unwrap_or(Kind::None) {
        Kind::None => RefusalKind::Format,
        Kind::Stale => RefusalKind::Stale,
        Kind::NameTaken => RefusalKind::NameTaken,
        Kind::SlotTaken => RefusalKind::SlotTaken,
        Kind::AddressTaken => RefusalKind::AddressTaken,
        Kind::PortTaken => RefusalKind::PortTaken,
        Kind::Missing => RefusalKind::Missing,
        Kind::Format => RefusalKind::Format,
        Kind::SubnetTaken => RefusalKind::SubnetTaken,
        Kind::VniTaken => RefusalKind::VniTaken,
        Kind::InUse => RefusalKind::InUse,
        Kind::TooOld => RefusalKind::TooOld,
        Kind::ResourceTaken => RefusalKind::ResourceTaken,
    };
    Err(Refusal::new(kind, refusal.message).into())
}
