//! Ends what runs beside another task: once the newer one runs, the older one stops.
//!
//! Seat by seat, from stored tasks alone, so that it goes on whatever becomes of the update that began it. When the
//! newer one ends first, the older one goes on; another try follows as the restart policy says, if the older one
//! is not what is asked for any more.

use std::sync::Arc;

use skep_api::{
    TaskState,
    object::{NodeState, SeatKey, Task},
    spec::Availability,
};
use skep_store::{Draft, View};

use crate::{
    Context, NewTask, Seat, ServicePart, Situation, WakeKey, Why,
    restart::{delay, may_restart, n_restarts},
};

/// Completes what was begun beside a running task.
#[derive(Clone, Copy, Debug)]
pub struct Takeover;

impl ServicePart for Takeover {
    fn name(&self) -> &'static str {
        "takeover"
    }

    fn is_by_seat(&self) -> bool {
        true
    }

    fn reconcile(&self, at: &mut Situation, draft: &mut Draft, cx: &mut Context<'_>) {
        // One task alone takes over from none.
        for key in at.keys(|seat| seat.tasks.len() > 1) {
            let Some(seat) = at.seat(key) else { continue };
            let pair = seat.pair().map(|(old, new)| (Arc::clone(old), Arc::clone(new)));
            match pair {
                Some((old, new)) => end_old(at, draft, cx, &old, &new),
                None => try_again(at, draft, cx, key),
            }
            put_away(at, draft, key);
        }
    }
}

/// The older one stops once the newer one runs, unless it is the one that is asked for by now; or when its own node
/// will not do any more.
fn end_old(at: &mut Situation, draft: &mut Draft, cx: &mut Context<'_>, old: &Arc<Task>, new: &Arc<Task>) {
    let differences = &mut cx.differences;
    let service = Arc::clone(at.service());
    let runs = new.status.state == TaskState::Running
        && (differences.is_dirty(draft, old, &service) || !differences.is_dirty(draft, new, &service));
    if runs || has_to_leave(draft, old) {
        at.shut_down(draft, old, Why::Quiet);
    }
}

fn has_to_leave(view: &View, task: &Task) -> bool {
    let node = task.node_id.and_then(|id| view.node(id));
    node.is_none_or(|node| {
        node.status.state == NodeState::Down || node.spec.availability == Availability::Drain
    })
}

/// What was to take over has ended by itself, and the other one still runs.
fn try_again(at: &mut Situation, draft: &mut Draft, cx: &mut Context<'_>, key: SeatKey) {
    let Some(seat) = at.seat(key) else { return };
    let (Some(old), Some(last)) = (seat.counted().cloned(), seat.newest().cloned()) else { return };
    if last.is_live() || !last.is_wanted() || last.beside() != Some(old.id) {
        return;
    }
    let service = Arc::clone(at.service());
    let is_outdated = cx.differences.is_dirty(draft, &last, &service);
    let now = draft.now();
    if !is_outdated && last.not_before > now {
        cx.wake(WakeKey::Service(last.service_id), last.not_before);
        return;
    }
    let settings = last.spec.task_template.restart();
    // One whose node is gone has not failed.
    let may_follow = last.status.state == TaskState::Orphaned || may_restart(&settings, seat, &last);
    let is_due = !is_outdated && may_follow && cx.differences.is_dirty(draft, &old, &service);
    at.shut_down(draft, &last, Why::Quiet);
    if is_due {
        let new = NewTask {
            beside: Some(old.id),
            update: last.update,
            restarts: n_restarts(draft, &service, &last),
            ..NewTask::from(now.after(delay(draft, &service, &last)))
        };
        at.create(draft, cx, key, new);
    }
}

/// An older one that ended while the newer one is there needs no successor.
fn put_away(at: &mut Situation, draft: &mut Draft, key: SeatKey) {
    let Some(counted) = at.seat(key).and_then(Seat::counted).cloned() else { return };
    let is_over =
        |task: &&Arc<Task>| task.is_wanted() && !task.is_live() && counted.beside() == Some(task.id);
    let over = at.seat(key).and_then(|seat| seat.tasks.iter().find(is_over)).cloned();
    if let Some(over) = over {
        at.shut_down(draft, &over, Why::Quiet);
    }
}
