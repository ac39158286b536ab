//! Has a task leave its node for one of higher priority.
//!
//! Which one goes, and for whom, is said by who knows the nodes. It is as with a node that is drained: no failure, its
//! successor comes at once and waits for a node as any other task does, and its room is held until it has stopped.

use skep_api::{TaskId, object::Task};
use skep_store::Draft;

use crate::{Context, Differences, Fit, Look, Situation, Why, enforcer::send_away};

/// Stops a task, whose room is for another one then.
pub fn preempt(draft: &mut Draft, cx: &mut Context<'_>, task: &Task, room_for: TaskId, words: &str) {
    let look = Look::Seats([task.seat()].into());
    let Some(mut at) = Situation::read(draft, task.service_id, &look) else { return };
    cx.differences = Differences::default();
    let fit = Fit::of(&at, cx);
    send_away(&mut at, draft, cx, &fit, &task.with_room_for(room_for), Why::Words(words));
}
