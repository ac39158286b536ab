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
    /// Nodes with room that a pass had given away, and that was not taken.
    pub freed: BTreeSet<NodeId>,
    /// Placing that is still to be done.
    pub placing: Placing,
    /// Tickets.
    pub tickets: bool,
}

/// How far tasks that wait for a node were looked at: a pass places so many, and the next one goes on. It goes through
/// the services in a circle, so that none waits for ever.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Placing {
    /// The last service that was come to; the next one goes on behind it.
    pub at: Option<ServiceId>,
    /// All services behind that one up to this one are to be looked at.
    pub upto: Option<ServiceId>,
    /// Of others, the tasks of these.
    pub services: BTreeSet<ServiceId>,
}

impl Placing {
    /// Whether nothing is left to do.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.upto.is_none() && self.services.is_empty()
    }
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
        !self.all
            && self.services.is_empty()
            && self.tasks.is_empty()
            && self.nodes.is_empty()
            && self.freed.is_empty()
            && self.placing.is_done()
            && !self.tickets
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
            ObjectRef::Cluster => self.merge(Self::everything()),
            // Nothing is decided from them by a pass.
            ObjectRef::Network(_) => {}
            ObjectRef::Ticket(_) => self.tickets = true,
        }
    }

    /// Adds what another one has. Beside everything, single objects are not kept: a member that does not
    /// lead marks for as long as it lives.
    pub fn merge(&mut self, other: Self) {
        let at = other.placing.at.or(self.placing.at);
        if self.all || other.all {
            *self = Self { placing: Placing { at, ..Placing::default() }, ..Self::everything() };
            return;
        }
        self.placing.at = at;
        self.placing.upto = other.placing.upto.or(self.placing.upto);
        self.placing.services.extend(other.placing.services);
        self.services.extend(other.services);
        self.tasks.extend(other.tasks);
        self.nodes.extend(other.nodes);
        self.freed.extend(other.freed);
        self.tickets |= other.tickets;
    }
}
