//! Has a task leave its node for one of higher priority.
//!
//! Which one goes, and for whom, is said by who knows the nodes. It is as with a node that is drained: no failure, its
//! successor comes at once and waits for a node as any other task does, and its room is held until it has stopped.

use skep_api::{TaskId, object::Task};
use skep_store::Draft;

use crate::{Context, Differences, Fit, Look, NewTask, Seat, Situation, Why, moves::is_no_more_than_a_move};

/// Stops a task, whose room is for another one then.
pub fn preempt(draft: &mut Draft, cx: &mut Context<'_>, task: &Task, room_for: TaskId, words: &str) {
    let key = task.seat();
    let Some(mut at) = Situation::read(draft, task.service_id, &Look::Seats([key].into())) else { return };
    cx.differences = Differences::default();
    let fit = Fit::of(&at, cx);
    let counted = at.seat(key).and_then(Seat::counted).map(|counted| counted.id);
    at.shut_down(draft, &task.with_room_for(room_for), Why::Words(words));
    // Who runs beside another one leaves the seat to that one.
    let is_seat_empty = counted == Some(task.id) && !is_no_more_than_a_move(task, at.seat(key));
    if is_seat_empty && fit.may_fill(draft, key) {
        let new = NewTask::instead_of(task, at.seat(key), draft.now());
        at.create(draft, cx, key, new);
    }
}
