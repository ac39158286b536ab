//! A task: one attempt to run, what is wanted of it and what was observed.

use std::{net::Ipv4Addr, sync::Arc};

use super::{Meta, Service};
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

/// One attempt to run. Never moves to another node, never runs twice.
#[derive(Clone, PartialEq, Debug)]
pub struct Task {
    /// Its id.
    pub id: TaskId,
    /// Version and times.
    pub meta: Meta,
    /// Whose task it is.
    pub service_id: ServiceId,
    /// Its seat, 1..n.
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
}

impl Task {
    /// A new task of a service's current spec.
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
        }
    }

    /// Whether it may come to run or runs: wanted at most RUNNING and not past it.
    #[must_use]
    pub fn is_runnable(&self) -> bool {
        self.desired_state <= TaskState::Running && self.status.state <= TaskState::Running
    }

    /// Whether something of it may exist on its node.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.status.state <= TaskState::Running
    }

    /// Its name as Docker shows it: `service.slot.id`.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}.{}.{}", self.spec.name, self.slot, self.id)
    }

    /// Whether it publishes a port through the mesh.
    #[must_use]
    pub fn uses_ingress(&self) -> bool {
        self.ports.iter().any(PortConfig::is_ingress)
    }
}
