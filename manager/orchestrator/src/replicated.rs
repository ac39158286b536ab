//! Keeps as many slots as a service wants replicas.
//!
//! Scaling down prefers nodes with most copies, then tasks that do not run, then high slot numbers
//! (`SK:manager/orchestrator/replicated`); a slot whose last task is done for is the first to go.

use std::{cmp::Reverse, collections::BTreeMap, sync::Arc};

use skep_api::{
    NodeId, ServiceId, TaskState,
    object::{Service, Task},
};
use skep_store::Draft;

use crate::{
    Context, Reconciler,
    seats::{Seat, create, remove, seats},
};

/// Adds and removes slots of replicated services, and the tasks of services that are gone.
#[derive(Clone, Copy, Debug)]
pub struct Replicated;

impl Reconciler for Replicated {
    fn name(&self) -> &'static str {
        "replicated"
    }

    fn reconcile(&mut self, draft: &mut Draft, cx: &mut Context<'_>) {
        for id in cx.scope.services.clone() {
            match draft.service(id).cloned() {
                Some(service) => reconcile_service(draft, cx, &service),
                None => remove_all(draft, id),
            }
        }
    }
}

fn remove_all(draft: &mut Draft, service: ServiceId) {
    let tasks: Vec<Arc<Task>> = draft.tasks_of_service(service).cloned().collect();
    for task in tasks {
        remove(draft, &task);
    }
}

fn reconcile_service(draft: &mut Draft, cx: &mut Context<'_>, service: &Service) {
    let seats = seats(draft, service.id);
    let n_wanted = usize::try_from(service.spec.replicas()).unwrap_or(usize::MAX);
    let n_occupied = seats.values().filter(|seat| seat.is_occupied()).count();
    if n_occupied > n_wanted {
        for slot in by_worth(&seats).split_off(n_wanted) {
            for task in &seats[&slot].tasks {
                remove(draft, task);
            }
        }
        return;
    }
    let empty = Seat::default();
    let mut slot = 0;
    for _ in n_occupied..n_wanted {
        slot = (slot + 1..)
            .find(|slot| !seats.get(slot).is_some_and(Seat::is_occupied))
            .expect("there are more numbers than slots");
        create(draft, cx, service, (slot, seats.get(&slot).unwrap_or(&empty)), draft.now());
    }
}

/// The occupied slots, the first to be kept first.
fn by_worth(seats: &BTreeMap<u64, Seat>) -> Vec<u64> {
    let mut slots: Vec<(u64, &Seat)> =
        seats.iter().filter(|(_, seat)| seat.is_occupied()).map(|(slot, seat)| (*slot, seat)).collect();
    let runs = |seat: &Seat| seat.counted().is_some_and(|task| task.status.state == TaskState::Running);
    slots.sort_by_key(|(slot, seat)| (Reverse(runs(seat)), *slot));
    let mut copies: BTreeMap<NodeId, u64> = BTreeMap::new();
    let mut ranked: Vec<(bool, u64, u64)> = Vec::with_capacity(slots.len());
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
