//! Promise 10: tasks run on while managers are down, and while a daemon restarts or is upgraded.

use skep_agent::sim::Done;
use skep_api::TaskState;

use crate::swarm::world::State;

/// No daemon stops a task that the swarm wants, whatever it does not hear, however often it starts.
pub(crate) fn did(state: &mut State, id: u64, done: &Done) {
    let Done::Stopped(task) = done else { return };
    let Some(known) = state.tasks.get(task).copied() else {
        return state.trace.fail(format!("n{id} stopped {task}, which no manager knows"));
    };
    let is_wanted =
        !known.is_gone && known.desired <= TaskState::Running && known.state <= TaskState::Running;
    if is_wanted && !state.slots[&id].is_removed {
        state.trace.fail(format!("n{id} stopped {task}, which is wanted: {known:?}"));
    }
}
