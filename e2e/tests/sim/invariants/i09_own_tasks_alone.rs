//! Promise 9: a worker's credential reads and writes nothing of another node's tasks.
//!
//! Seen here is what nodes are given; what one may call and report is held by the manager's own tests.

use skep_agent::sim::Done;

use crate::swarm::world::State;

/// What a machine makes is assigned to its own node.
pub(crate) fn did(state: &mut State, id: u64, done: &Done) {
    let Done::Made(task) = done else { return };
    let node = state.slots[&id].node;
    let known = state.tasks.get(task).copied();
    if known.is_none_or(|known| known.node.is_none() || known.node != node) {
        state.trace.fail(format!("n{id} made a container for {task}, which is {known:?}"));
    }
}
