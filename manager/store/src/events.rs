//! What changed: the objects that a pass has to look at.

use std::collections::{BTreeMap, BTreeSet};

use skep_api::{NetworkId, NodeId, ServiceId, TaskId, TicketId};

/// An object that was changed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum ObjectRef {
    /// A service.
    Service(ServiceId),
    /// A task, of a service, maybe on a node.
    Task(TaskId, ServiceId, Option<NodeId>),
    /// A node.
    Node(NodeId),
    /// The swarm.
    Cluster,
    /// A network.
    Network(NetworkId),
    /// A token for joining.
    Ticket(TicketId),
}

/// What changed since the last look. `all` after a start or a change of leader.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Dirty {
    /// Everything is to be looked at.
    pub all: bool,
    /// These services, with all of their tasks.
    pub services: BTreeSet<ServiceId>,
    /// These tasks, with their services.
    pub tasks: BTreeMap<TaskId, ServiceId>,
    /// These nodes.
    pub nodes: BTreeSet<NodeId>,
}

impl Dirty {
    /// Look at everything.
    #[must_use]
    pub fn everything() -> Self {
        Self { all: true, ..Self::default() }
    }

    /// Whether there is nothing to look at.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.all && self.services.is_empty() && self.tasks.is_empty() && self.nodes.is_empty()
    }

    /// Marks one object.
    pub fn mark(&mut self, object: ObjectRef) {
        match object {
            ObjectRef::Service(id) => {
                self.services.insert(id);
            }
            ObjectRef::Task(id, service, _) => {
                self.tasks.insert(id, service);
            }
            ObjectRef::Node(id) => {
                self.nodes.insert(id);
            }
            // Its settings say how much history tasks have, whosesoever they are.
            ObjectRef::Cluster => *self = Self::everything(),
            // Nothing is decided from them by a pass.
            ObjectRef::Network(_) | ObjectRef::Ticket(_) => {}
        }
    }

    /// Adds what another one has. Beside everything, single objects are not kept: a member that does not
    /// lead marks for as long as it lives.
    pub fn merge(&mut self, other: Self) {
        if self.all || other.all {
            *self = Self::everything();
            return;
        }
        self.services.extend(other.services);
        self.tasks.extend(other.tasks);
        self.nodes.extend(other.nodes);
    }
}
