//! Promise 3: task state and desired state never go back; a task never changes node.

use skep_manager::View;

use crate::swarm::world::State;

/// A manager shows a state: beside the newest that any showed, each task is where it was then, or further in a
/// newer one and not as far in an older one.
pub(crate) fn looks(state: &mut State, manager: u64, view: &View) {
    let revision = view.revision();
    let mut wrong = Vec::new();
    for task in view.tasks() {
        let Some(known) = state.tasks.get(&task.id) else { continue };
        let now = (task.status.state, task.desired_state);
        let is_later = revision >= known.revision;
        let goes_back = if is_later {
            known.is_gone || now.0 < known.state || now.1 < known.desired
        } else {
            !known.is_gone && (now.0 > known.state || now.1 > known.desired)
        };
        let moved = match (known.node, task.node_id) {
            (Some(known), Some(now)) => known != now,
            (Some(_), None) => is_later,
            (None, _) => false,
        };
        if goes_back || moved {
            wrong.push(format!(
                "n{manager} at {revision} has task {} at {now:?} {:?}, known is {known:?}",
                task.id, task.node_id
            ));
        }
    }
    wrong.into_iter().for_each(|line| state.trace.fail(line));
}
