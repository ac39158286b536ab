//! Promise 5: at most `parallelism` slots of an update are in flight; its failure action comes within one
//! monitor.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use skep_api::object::{SeatKey, Service, Task, UpdateState};
use skep_api::{ServiceId, TaskId, TaskState};
use skep_manager::View;

use crate::swarm::world::{State, World};
use crate::trace::now;

/// For how long what was decided before somebody changed the settings may still come.
const ON_ITS_WAY: Duration = Duration::from_secs(1);

/// What is remembered of updates.
#[derive(Default)]
pub(crate) struct Updates {
    /// By service and update, how many seats wait for their new task to run.
    in_flight: BTreeMap<(ServiceId, u64), u64>,
    /// What each service allowed before somebody lowered that, and until when a pass that knew it may still come.
    lowered: BTreeMap<ServiceId, (u64, Duration)>,
    allowed: BTreeMap<ServiceId, u64>,
    /// Tasks that were seen without a node: what finds none holds up nothing but what runs, and others that wait come
    /// along with it.
    waited: BTreeSet<TaskId>,
}

/// Of an update, or of the way back, at most `parallelism` seats wait for their first task of it to run; more only when
/// somebody lowered that meanwhile. What was lost or drained is followed in its seat, so nothing adds to that.
pub(crate) fn view(state: &mut State, view: &View) {
    for service in view.services().filter(|service| service.is_updating()) {
        let is_rollback = service.update_status.as_ref().is_some_and(|status| status.state.is_rollback());
        let settings = if is_rollback { service.spec.rollback() } else { service.spec.update() };
        let updates = &mut state.updates;
        let allowed_before = updates.allowed.insert(service.id, settings.parallelism).unwrap_or(0);
        if allowed_before > settings.parallelism {
            updates.lowered.insert(service.id, (allowed_before, now() + ON_ITS_WAY));
        }
        let still = updates.lowered.get(&service.id).filter(|(_, until)| *until > now());
        let allowed = settings.parallelism.max(still.map_or(0, |(before, _)| *before));
        let coming = coming(&mut state.updates.waited, view, service);
        let n = u64::try_from(coming.len()).unwrap();
        let before = state.updates.in_flight.insert((service.id, service.updates), n).unwrap_or(0);
        if n > allowed.max(before) {
            let times = |(_, id): &(SeatKey, TaskId)| {
                view.task(*id).map(|task| (task.meta.created_at, task.status.timestamp))
            };
            let line = format!(
                "{coming:?}, made and last heard at {:?}, of {} are in flight at {}, not {} (before: {before})",
                coming.iter().map(times).collect::<Vec<_>>(),
                service.spec.name,
                view.revision(),
                allowed
            );
            state.trace.fail(line);
        }
    }
}

/// The seats in which the first task of the update that tells something is on its way, with that.
fn coming(waited: &mut BTreeSet<TaskId>, view: &View, service: &Service) -> Vec<(SeatKey, TaskId)> {
    let has_ended_itself =
        |state: TaskState| matches!(state, TaskState::Complete | TaskState::Failed | TaskState::Rejected);
    let tells = |task: &Task| {
        task.is_runnable() || has_ended_itself(task.status.state) || !task.status.running_at.is_zero()
    };
    let of_update = view.tasks_of_service(service.id).filter(|task| task.update == service.updates);
    let mut own: Vec<&Arc<Task>> =
        of_update.filter(|task| task.desired_state < TaskState::Remove && tells(task)).collect();
    own.sort_by_key(|task| (task.meta.created_at, task.is_runnable(), task.id));
    // Of several states only the last is shown: one that got its node in a later pass than the one that made it has waited.
    let has_waited = |task: &&&Arc<Task>| {
        let is_fresh = task.status.state == TaskState::Assigned;
        task.node_id.is_none()
            || is_fresh && task.status.timestamp.since(task.meta.created_at) > Duration::from_nanos(1)
    };
    waited.extend(own.iter().filter(has_waited).map(|task| task.id));
    let mut first: BTreeMap<SeatKey, &Arc<Task>> = BTreeMap::new();
    for task in &own {
        first.entry(task.seat()).or_insert(task);
    }
    let is_coming = |task: &&Arc<Task>| {
        task.is_runnable() && task.status.running_at.is_zero() && !waited.contains(&task.id)
    };
    first.into_iter().filter(|(_, task)| is_coming(task)).map(|(seat, task)| (seat, task.id)).collect()
}

/// Without any fault, of a service whose tasks all ran when its update began, no more slots are without a
/// running task than it may replace at a time.
pub(crate) fn in_flight(state: &mut State, service: ServiceId, replicas: u64, parallelism: u64) {
    let running: BTreeSet<u64> = state
        .newest
        .tasks_of_service(service)
        .filter(|task| task.status.state == TaskState::Running && task.desired_state <= TaskState::Running)
        .map(|task| task.slot)
        .collect();
    let out = replicas.saturating_sub(u64::try_from(running.len()).unwrap());
    if out > parallelism {
        state.trace.fail(format!("{out} slots of {service} are replaced at once, not {parallelism}"));
    }
}

/// How the update of a service goes.
pub(crate) fn update(world: &World, service: ServiceId) -> Option<UpdateState> {
    let state = world.lock();
    let service = state.newest.service(service);
    service.and_then(|service| service.update_status.as_ref()).map(|status| status.state)
}

/// By when its failure action must have come: the task's own way to its end, and one monitor.
pub(crate) const FAILURE_ACTION_MAX: Duration = Duration::from_secs(4);
