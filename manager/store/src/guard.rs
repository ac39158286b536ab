//! What a proposal was made from: checked at apply, on every replica alike.

use skep_api::{ClusterId, Id, NetworkId, NodeId, ServiceId, TaskId, wire};

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

impl From<&Guard> for wire::Guard {
    fn from(guard: &Guard) -> Self {
        let kind = match guard.kind {
            GuardKind::Service => wire::guard::Kind::Service,
            GuardKind::Task => wire::guard::Kind::Task,
            GuardKind::Node => wire::guard::Kind::Node,
            GuardKind::Cluster => wire::guard::Kind::Cluster,
            GuardKind::Network => wire::guard::Kind::Network,
        };
        Self { kind: kind.into(), id: guard.id.to_bytes(), version: guard.version }
    }
}

impl TryFrom<&wire::Guard> for Guard {
    type Error = Refusal;

    fn try_from(guard: &wire::Guard) -> Result<Self, Refusal> {
        let kind = match guard.kind() {
            wire::guard::Kind::Service => GuardKind::Service,
            wire::guard::Kind::Task => GuardKind::Task,
            wire::guard::Kind::Node => GuardKind::Node,
            wire::guard::Kind::Cluster => GuardKind::Cluster,
            wire::guard::Kind::Network => GuardKind::Network,
        };
        let id = Id::from_bytes(&guard.id)
            .ok_or_else(|| Refusal::new(RefusalKind::Format, "guard without an id"))?;
        Ok(Self { kind, id, version: guard.version })
    }
}
