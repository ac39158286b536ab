//! What a proposal was made from: checked at apply, on every replica alike.

use prost::Message;
use skep_api::{ClusterId, Id, NetworkId, NodeId, RequestId, ServiceId, TaskId, TicketId, wire};

use crate::{Refusal, RefusalKind, View};

/// Which table a guard looks into.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum GuardKind {
    /// Services.
    Service,
    /// Tasks.
    Task,
    /// Nodes.
    Node,
    /// The swarm.
    Cluster,
    /// Networks.
    Network,
    /// Tickets.
    Ticket,
}

/// "This object has this version", or with version 0 "it does not exist".
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Guard {
    /// The table.
    pub kind: GuardKind,
    /// The object.
    pub id: Id,
    /// Its version when the proposal was made; 0: absent.
    pub version: u64,
}

impl Guard {
    /// The version that the view has of the object.
    pub(crate) fn version_in(kind: GuardKind, id: Id, view: &View) -> u64 {
        match kind {
            GuardKind::Service => view.services.get(&ServiceId(id)).map_or(0, |o| o.meta.version),
            GuardKind::Task => view.tasks.get(&TaskId(id)).map_or(0, |o| o.meta.version),
            GuardKind::Node => view.nodes.get(&NodeId(id)).map_or(0, |o| o.meta.version),
            GuardKind::Network => view.networks.get(&NetworkId(id)).map_or(0, |o| o.meta.version),
            GuardKind::Ticket => view.tickets.get(&TicketId(id)).map_or(0, |o| o.meta.version),
            GuardKind::Cluster => {
                view.cluster.as_ref().filter(|c| c.id == ClusterId(id)).map_or(0, |o| o.meta.version)
            }
        }
    }

    /// Refuses when the view has moved on.
    pub(crate) fn check(&self, view: &View) -> Result<(), Refusal> {
        if Self::version_in(self.kind, self.id, view) == self.version {
            return Ok(());
        }
        Err(Refusal::new(RefusalKind::Stale, "update out of sequence"))
    }
}

/// "This object is as the proposal `request` left it": for what was drafted while that one was on its way, when
/// nobody knew yet which version it would give.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Follows {
    /// The table.
    pub kind: GuardKind,
    /// The object.
    pub id: Id,
    /// The request of the proposal that wrote it last.
    pub request: RequestId,
    /// How many changes of that proposal came after the one that wrote it: each raises the revision by one.
    pub back: u64,
}

impl Follows {
    /// Refuses when that proposal was refused, is not remembered, or was not the last to write the object.
    /// `answer` is what it got.
    pub(crate) fn check(&self, view: &View, answer: Option<&[u8]>) -> Result<(), Refusal> {
        let result = answer.and_then(|answer| wire::ProposalResult::decode(answer).ok());
        let revision = result.filter(|result| result.refusal.is_none()).map(|result| result.revision);
        let version = revision.and_then(|revision| revision.checked_sub(self.back));
        if version.is_some_and(|version| Guard::version_in(self.kind, self.id, view) == version) {
            return Ok(());
        }
        Err(Refusal::new(RefusalKind::Stale, "update out of sequence"))
    }
}

impl From<GuardKind> for wire::guard::Kind {
    fn from(kind: GuardKind) -> Self {
        match kind {
            GuardKind::Service => Self::Service,
            GuardKind::Task => Self::Task,
            GuardKind::Node => Self::Node,
            GuardKind::Cluster => Self::Cluster,
            GuardKind::Network => Self::Network,
            GuardKind::Ticket => Self::Ticket,
        }
    }
}

impl From<wire::guard::Kind> for GuardKind {
    fn from(kind: wire::guard::Kind) -> Self {
        match kind {
            wire::guard::Kind::Service => Self::Service,
            wire::guard::Kind::Task => Self::Task,
            wire::guard::Kind::Node => Self::Node,
            wire::guard::Kind::Cluster => Self::Cluster,
            wire::guard::Kind::Network => Self::Network,
            wire::guard::Kind::Ticket => Self::Ticket,
        }
    }
}

fn id_of(bytes: &[u8]) -> Result<Id, Refusal> {
    Id::from_bytes(bytes).ok_or_else(|| Refusal::new(RefusalKind::Format, "guard without an id"))
}

impl From<&Guard> for wire::Guard {
    fn from(guard: &Guard) -> Self {
        let kind = wire::guard::Kind::from(guard.kind);
        Self { kind: kind.into(), id: guard.id.to_bytes(), version: guard.version }
    }
}

impl TryFrom<&wire::Guard> for Guard {
    type Error = Refusal;

    fn try_from(guard: &wire::Guard) -> Result<Self, Refusal> {
        Ok(Self { kind: guard.kind().into(), id: id_of(&guard.id)?, version: guard.version })
    }
}

impl From<&Follows> for wire::Follows {
    fn from(follows: &Follows) -> Self {
        let kind = wire::guard::Kind::from(follows.kind);
        let (id, request_id) = (follows.id.to_bytes(), follows.request.to_bytes());
        Self { kind: kind.into(), id, request_id, back: follows.back }
    }
}

impl TryFrom<&wire::Follows> for Follows {
    type Error = Refusal;

    fn try_from(follows: &wire::Follows) -> Result<Self, Refusal> {
        let request = RequestId(id_of(&follows.request_id)?);
        Ok(Self { kind: follows.kind().into(), id: id_of(&follows.id)?, request, back: follows.back })
    }
}
