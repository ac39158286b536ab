//! A task: one attempt to run, what is wanted of it and what was observed.

use std::{net::Ipv4Addr, sync::Arc};

use super::{GenericResource, Meta, Service};
use crate::{
    ContainerId, NodeId, ServiceId, TaskId, TaskState, Text, Timestamp,
    spec::{PortConfig, ServiceSpec},
};

/// What was observed of a task.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TaskStatus {
    /// How far it came.
    pub state: TaskState,
    /// When it came there.
    pub timestamp: Timestamp,
    /// What happened, for a person.
    pub message: Text,
    /// What went wrong; empty when nothing.
    pub err: Text,
    /// The container's id; empty before there is one.
    pub container_id: ContainerId,
    /// Its first process; 0 before there is one.
    pub pid: u32,
    /// Set once it has ended.
    pub exit_code: Option<i32>,
    /// Host-mode ports as opened.
    pub host_ports: Arc<[PortConfig]>,
    /// When RUNNING was first reached; zero for never.
    pub running_at: Timestamp,
}

impl Default for TaskStatus {
    fn default() -> Self {
        Self {
            state: TaskState::New,
            timestamp: Timestamp::ZERO,
            message: Text::default(),
            err: Text::default(),
            container_id: ContainerId::default(),
            pid: 0,
            exit_code: None,
            host_ports: Arc::default(),
            running_at: Timestamp::ZERO,
        }
    }
}

/// Which place of its service a task takes: there it is followed by another one when it ends.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum SeatKey {
    /// A number: 1..=n of a replicated service, 0..n of a replicated job.
    Slot(u64),
    /// A node, of a service that has a task on each.
    Node(NodeId),
}

/// What few tasks have.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TaskExtra {
    /// Its seat is this node: it runs there or nowhere.
    pub for_node: Option<NodeId>,
    /// Of a job: the iteration that it belongs to.
    pub job_iteration: u64,
    /// The task of its seat that it runs beside until it takes over.
    pub beside: Option<TaskId>,
    /// What of its node's generic resources it has.
    pub given: Vec<GenericResource>,
    /// Ends of its seat that led to it, since the last that counted as good.
    pub restarts: u32,
    /// The node that it was moved away from, so that nodes are even.
    pub moved_from: Option<NodeId>,
    /// Where and when tasks of its seat and version failed of late, the oldest first: history may keep fewer.
    pub failures: Vec<(NodeId, Timestamp)>,
    /// The task that its room on its node is for, once it has stopped.
    pub room_for: Option<TaskId>,
}

/// One attempt to run. Never moves to another node, never runs twice.
#[derive(Clone, PartialEq, Debug)]
pub struct Task {
    /// Its id.
    pub id: TaskId,
    /// Version and times.
    pub meta: Meta,
    /// Whose task it is.
    pub service_id: ServiceId,
    /// Its number; 0 for the task of a node. See [`Task::seat`].
    pub slot: u64,
    /// Where it runs, once decided.
    pub node_id: Option<NodeId>,
    /// Which version of the service's spec it runs.
    pub spec_version: u64,
    /// That spec: shared by all tasks of the version.
    pub spec: Arc<ServiceSpec>,
    /// Where we want it to go.
    pub desired_state: TaskState,
    /// Where it is.
    pub status: TaskStatus,
    /// The service's ports when it was made.
    pub ports: Arc<[PortConfig]>,
    /// Its address on the ingress network.
    pub ingress_addr: Option<Ipv4Addr>,
    /// It is not started before this (restart delay); zero for at once.
    pub not_before: Timestamp,
    /// Which update of its service made it; 0 for none.
    pub update: u64,
    /// What few tasks have.
    pub extra: Option<Box<TaskExtra>>,
}

impl Task {
    /// A new task of a service's current spec, wanted to run.
    #[must_use]
    pub fn new(id: TaskId, service: &Service, slot: u64) -> Self {
        Self {
            id,
            meta: Meta::default(),
            service_id: service.id,
            slot,
            node_id: None,
            spec_version: service.spec_version,
            spec: Arc::clone(&service.spec),
            desired_state: TaskState::Running,
            status: TaskStatus::default(),
            ports: Arc::clone(&service.ports),
            ingress_addr: None,
            not_before: Timestamp::ZERO,
            update: 0,
            extra: None,
        }
    }

    /// The place of its service that it takes.
    #[must_use]
    pub fn seat(&self) -> SeatKey {
        self.for_node().map_or(SeatKey::Slot(self.slot), SeatKey::Node)
    }

    /// The node that is its seat.
    #[must_use]
    pub fn for_node(&self) -> Option<NodeId> {
        self.extra.as_ref().and_then(|extra| extra.for_node)
    }

    /// The task of its seat that it runs beside.
    #[must_use]
    pub fn beside(&self) -> Option<TaskId> {
        self.extra.as_ref().and_then(|extra| extra.beside)
    }

    /// The node that it was moved away from, so that nodes are even.
    #[must_use]
    pub fn moved_from(&self) -> Option<NodeId> {
        self.extra.as_ref().and_then(|extra| extra.moved_from)
    }

    /// The task that its room is for, once it has stopped.
    #[must_use]
    pub fn room_for(&self) -> Option<TaskId> {
        self.extra.as_ref().and_then(|extra| extra.room_for)
    }

    /// The same, with its room for a task.
    #[must_use]
    pub fn with_room_for(&self, task: TaskId) -> Self {
        let extra = self.extra.as_deref().cloned().unwrap_or_default();
        Self { extra: Some(Box::new(TaskExtra { room_for: Some(task), ..extra })), ..self.clone() }
    }

    /// Of a job: its iteration; else 0.
    #[must_use]
    pub fn job_iteration(&self) -> u64 {
        self.extra.as_ref().map_or(0, |extra| extra.job_iteration)
    }

    /// What of its node's generic resources it has.
    #[must_use]
    pub fn given(&self) -> &[GenericResource] {
        self.extra.as_ref().map_or(&[], |extra| &extra.given)
    }

    /// Where and when it failed, and tasks of its seat and version before it of late.
    pub fn failures(&self) -> impl Iterator<Item = (NodeId, Timestamp)> {
        let has_failed = matches!(self.status.state, TaskState::Failed | TaskState::Rejected);
        let own = self.node_id.filter(|_| has_failed).map(|node| (node, self.status.timestamp));
        self.extra.iter().flat_map(|extra| extra.failures.iter().copied()).chain(own)
    }

    /// Whether we want it to be there: to run, or of a job to come to its end (that is past RUNNING).
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        self.desired_state <= TaskState::Complete
    }

    /// Whether it may come to run or runs: wanted, and not past RUNNING.
    #[must_use]
    pub fn is_runnable(&self) -> bool {
        self.is_wanted() && self.is_live()
    }

    /// Whether something of it may exist on its node.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.status.state <= TaskState::Running
    }

    /// Its name as Docker shows it: `service.slot.id`, with the node where the slot is 0 (`SK:api/naming`).
    #[must_use]
    pub fn name(&self) -> String {
        match self.node_id.or(self.for_node()).filter(|_| self.slot == 0) {
            Some(node) => format!("{}.{node}.{}", self.spec.name, self.id),
            None => format!("{}.{}.{}", self.spec.name, self.slot, self.id),
        }
    }

    /// Whether it publishes a port through the mesh.
    #[must_use]
    pub fn uses_ingress(&self) -> bool {
        self.ports.iter().any(PortConfig::is_ingress)
    }
}
