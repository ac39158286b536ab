//! Keeps as many slots as a service wants replicas.
//!
//! Scaling down prefers nodes with most copies, then tasks that do not run, then high slot numbers
//! (`SK:manager/orchestrator/replicated`); a slot whose last task is done for is the first to go.

use std::{cmp::Reverse, collections::BTreeMap};

use skep_api::{NodeId, TaskState, object::SeatKey, spec::Mode};
use skep_store::Draft;

use crate::{Context, NewTask, Seat, ServicePart, Situation};

/// Adds and removes slots of replicated services.
#[derive(Clone, Copy, Debug)]
pub struct Replicated;

impl ServicePart for Replicated {
    fn name(&self) -> &'static str {
        "replicated"
    }

    fn is_by_seat(&self) -> bool {
        false
    }

    fn reconcile(&self, at: &mut Situation, draft: &mut Draft, cx: &mut Context<'_>) {
        let replicas = match at.mode() {
            Mode::Replicated { replicas } => replicas,
            Mode::Global | Mode::ReplicatedJob { .. } | Mode::GlobalJob => return,
        };
        let n_wanted = usize::try_from(replicas).unwrap_or(usize::MAX);
        let occupied = at.keys(Seat::is_occupied);
        let n_missing = n_wanted.saturating_sub(occupied.len());
        if occupied.len() > n_wanted {
            for key in by_worth(at).split_off(n_wanted) {
                let tasks = at.seat(key).map(|seat| seat.tasks.clone()).unwrap_or_default();
                tasks.iter().for_each(|task| at.remove(draft, task));
            }
            return;
        }
        let free = (1..).map(SeatKey::Slot).filter(|key| occupied.binary_search(key).is_err());
        for key in free.take(n_missing) {
            at.create(draft, cx, key, NewTask::from(draft.now()));
        }
    }
}

/// The occupied slots, the first to be kept first.
fn by_worth(at: &Situation) -> Vec<SeatKey> {
    let mut slots: Vec<(SeatKey, &Seat)> = at.seats().filter(|(_, seat)| seat.is_occupied()).collect();
    let runs = |seat: &Seat| seat.counted().is_some_and(|task| task.status.state == TaskState::Running);
    slots.sort_by_key(|(slot, seat)| (Reverse(runs(seat)), *slot));
    let mut copies: BTreeMap<NodeId, u64> = BTreeMap::new();
    let mut ranked: Vec<(bool, u64, SeatKey)> = Vec::with_capacity(slots.len());
    for (slot, seat) in slots {
        let rank = match seat.counted().map(|task| task.node_id) {
            Some(Some(node)) => {
                let nth = copies.entry(node).or_default();
                *nth += 1;
                (false, *nth, slot)
            }
            // Without a node there is nothing to lose; without a live task even less.
            Some(None) => (true, 0, slot),
            None => (true, 1, slot),
        };
        ranked.push(rank);
    }
    // Stable: among the nth copies the running ones and the low numbers stay in front.
    ranked.sort_by_key(|(unplaced, nth, _)| (*unplaced, *nth));
    ranked.into_iter().map(|(_, _, slot)| slot).collect()
}
