//! Tasks: a stored one names its spec by service and version.

use std::sync::Arc;

use super::{Malformed, addr_in, addr_out, generic_in, generic_out, malformed, ports_in, ports_out};
use crate::{
    NodeId, ServiceId, TaskId, TaskState, Timestamp,
    object::{Task, TaskExtra, TaskStatus},
    spec::ServiceSpec,
    wire,
};

impl From<&TaskStatus> for wire::TaskStatus {
    fn from(status: &TaskStatus) -> Self {
        Self {
            state: status.state.number(),
            timestamp: status.timestamp.0,
            message: status.message.to_string(),
            err: status.err.to_string(),
            container_id: status.container_id.to_string(),
            pid: status.pid,
            exit_code: status.exit_code,
            host_ports: ports_out(&status.host_ports),
            running_at: status.running_at.0,
        }
    }
}

impl TryFrom<wire::TaskStatus> for TaskStatus {
    type Error = Malformed;

    fn try_from(status: wire::TaskStatus) -> Result<Self, Malformed> {
        Ok(Self {
            state: task_state(status.state)?,
            timestamp: Timestamp(status.timestamp),
            message: status.message.into(),
            err: status.err.into(),
            container_id: status.container_id.into(),
            pid: status.pid,
            exit_code: status.exit_code,
            host_ports: ports_in(status.host_ports).into(),
            running_at: Timestamp(status.running_at),
        })
    }
}

fn task_state(number: u32) -> Result<TaskState, Malformed> {
    TaskState::from_number(number).ok_or_else(|| malformed("task", format!("state {number}")))
}

impl From<&Task> for wire::Task {
    fn from(task: &Task) -> Self {
        Self {
            id: task.id.to_bytes(),
            meta: Some(task.meta.into()),
            service_id: task.service_id.to_bytes(),
            slot: task.slot,
            node_id: task.node_id.map(NodeId::to_bytes).unwrap_or_default(),
            spec_version: task.spec_version,
            desired_state: task.desired_state.number(),
            status: Some((&task.status).into()),
            ports: ports_out(&task.ports),
            ingress_addr: addr_out(task.ingress_addr),
            not_before: task.not_before.0,
            update: task.update,
            extra: task.extra.as_deref().map(Into::into),
        }
    }
}

/// Reads a stored task; `spec` is the one of its service and spec version.
///
/// # Errors
/// The stored form is malformed.
pub fn task_in(task: wire::Task, spec: Arc<ServiceSpec>) -> Result<Task, Malformed> {
    Ok(Task {
        id: TaskId::from_bytes(&task.id).ok_or_else(|| malformed("task", "id"))?,
        meta: task.meta.unwrap_or_default().into(),
        service_id: ServiceId::from_bytes(&task.service_id).ok_or_else(|| malformed("task", "service id"))?,
        slot: task.slot,
        node_id: NodeId::from_bytes(&task.node_id),
        spec_version: task.spec_version,
        spec,
        desired_state: task_state(task.desired_state)?,
        status: task.status.unwrap_or_default().try_into()?,
        ports: ports_in(task.ports).into(),
        ingress_addr: addr_in(task.ingress_addr),
        not_before: Timestamp(task.not_before),
        update: task.update,
        extra: task.extra.map(|extra| Box::new(extra.into())),
    })
}

impl From<&TaskExtra> for wire::TaskExtra {
    fn from(extra: &TaskExtra) -> Self {
        Self {
            for_node: extra.for_node.map(NodeId::to_bytes).unwrap_or_default(),
            job_iteration: extra.job_iteration,
            beside: extra.beside.map(TaskId::to_bytes).unwrap_or_default(),
            given: generic_out(&extra.given),
            restarts: extra.restarts,
            moved_from: extra.moved_from.map(NodeId::to_bytes).unwrap_or_default(),
            failures: extra.failures.iter().map(failure_out).collect(),
            room_for: extra.room_for.map(TaskId::to_bytes).unwrap_or_default(),
        }
    }
}

impl From<wire::TaskExtra> for TaskExtra {
    fn from(extra: wire::TaskExtra) -> Self {
        Self {
            for_node: NodeId::from_bytes(&extra.for_node),
            job_iteration: extra.job_iteration,
            beside: TaskId::from_bytes(&extra.beside),
            given: generic_in(extra.given),
            restarts: extra.restarts,
            moved_from: NodeId::from_bytes(&extra.moved_from),
            failures: extra.failures.iter().filter_map(failure_in).collect(),
            room_for: TaskId::from_bytes(&extra.room_for),
        }
    }
}

fn failure_out((node, at): &(NodeId, Timestamp)) -> wire::Failure {
    wire::Failure { node: node.to_bytes(), at: at.0 }
}

fn failure_in(failure: &wire::Failure) -> Option<(NodeId, Timestamp)> {
    Some((NodeId::from_bytes(&failure.node)?, Timestamp(failure.at)))
}
