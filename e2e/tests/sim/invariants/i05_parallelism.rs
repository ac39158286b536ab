//! Promise 5: at most `parallelism` slots of an update are in flight; its failure action comes within one
//! monitor.

use std::collections::BTreeSet;
use std::time::Duration;

use skep_api::object::UpdateState;
use skep_api::{ServiceId, TaskState};

use crate::swarm::world::{State, World};

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

/// Whether an update to what cannot run has been paused.
pub(crate) fn is_paused(world: &World, service: ServiceId) -> bool {
    let state = world.lock();
    let service = state.newest.service(service);
    let status = service.and_then(|service| service.update_status.as_ref());
    status.is_some_and(|status| status.state == UpdateState::Paused)
}

/// By when its failure action must have come: the task's own way to its end, and one monitor.
pub(crate) const FAILURE_ACTION_MAX: Duration = Duration::from_secs(4);
