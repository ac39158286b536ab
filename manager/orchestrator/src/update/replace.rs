//! Takes up one seat of an update: what is up to date in it stays, else it gets a new task.

use std::sync::Arc;

use skep_api::{
    TaskState,
    object::{SeatKey, Service, Task},
    spec::{Mount, PortConfig, ServiceSpec, UpdateOrder},
};
use skep_store::Draft;

use crate::{Context, NewTask, Situation, Why};

pub(super) fn take_up(
    at: &mut Situation,
    draft: &mut Draft,
    cx: &mut Context<'_>,
    key: SeatKey,
    order: UpdateOrder,
) {
    let Some(seat) = at.seat(key) else { return };
    let service = Arc::clone(at.service());
    let runnable: Vec<Arc<Task>> = seat.runnable().cloned().collect();
    let ended: Vec<Arc<Task>> =
        seat.tasks.iter().filter(|task| task.is_wanted() && !task.is_live()).cloned().collect();
    let clean = runnable.iter().find(|task| !cx.differences.is_dirty(draft, task, &service));
    let is_new_level = draft.feature_level() >= 2;
    let beside = runnable
        .iter()
        .find(|task| order == UpdateOrder::StartFirst && is_new_level && may_stay(task, &service))
        .filter(|_| clean.is_none());
    let kept = clean.or(beside).map(|task| task.id);
    for task in runnable.iter().chain(&ended).filter(|task| Some(task.id) != kept) {
        at.shut_down(draft, task, Why::Quiet);
    }
    if clean.is_none() {
        let update = if is_new_level { service.updates } else { 0 };
        let new = NewTask { beside: kept, update, ..NewTask::from(draft.now()) };
        at.create(draft, cx, key, new);
    }
}

/// Whether a task runs, and may do so beside a new one.
fn may_stay(task: &Task, service: &Service) -> bool {
    task.status.state == TaskState::Running
        && task.desired_state == TaskState::Running
        && !share_ports(task, service)
        && !share_volumes(&task.spec, &service.spec)
}

/// Whether both want a port of their node.
fn share_ports(task: &Task, service: &Service) -> bool {
    let is_host = |port: &&PortConfig| !port.is_ingress() && port.published_port != 0;
    task.ports.iter().filter(is_host).any(|old| {
        let mut new = service.ports.iter().filter(is_host);
        new.any(|new| new.published_port == old.published_port && new.protocol() == old.protocol())
    })
}

/// Whether both want a volume that only one may have.
pub(crate) fn share_volumes(old: &ServiceSpec, new: &ServiceSpec) -> bool {
    let of = |spec: &ServiceSpec| -> Vec<Mount> {
        spec.container().and_then(|container| container.mounts.clone()).unwrap_or_default()
    };
    let new = of(new);
    of(old).iter().any(|old| {
        new.iter().any(|new| {
            (old.is_exclusive() || new.is_exclusive()) && old.kind == new.kind && old.source == new.source
        })
    })
}
