//! One pass of the leader: all that is decided of services and the scheduler, in a fixed order, on one draft.
//!
//! In: a view, what changed, now, fresh ids. Out: a draft, and when to look at what again.
//! It looks only at what is dirty; within one service it decides from that service's state.
//! Invariants: same input, same draft; stored state is the only memory; a quiet cluster drafts nothing.

mod placement;
mod scope;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use skep_api::{Timestamp, id::IdSource};
use skep_orchestrator::{Context, Look, WakeKey, assign_addresses, expire_nodes, expire_tickets, reconcile};
use skep_store::{Change, Dirty, Draft, View};

pub use self::placement::{Move, Plan, Rebalance, Waiting};
pub(crate) use self::placement::{never_even, plan, plan_rebalance, waiting};
use self::scope::{fresh, is_room_freed, scope};

/// What the leader keeps from pass to pass to be quick. Nothing that decides: a pass with a fresh one is the same.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Memo {
    kept: placement::Kept,
}

/// What a pass decided.
#[derive(Debug)]
pub struct Pass {
    /// The changes.
    pub draft: Draft,
    /// What it looked at whole: what this waited for before counts no more.
    pub settled: BTreeSet<WakeKey>,
    /// When to look at something again even if nothing changes, besides what is waited for already.
    pub wakes: BTreeMap<WakeKey, Timestamp>,
    /// What it did not come to.
    pub rest: Dirty,
}

/// When a pass is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Times {
    /// Never at or before an earlier pass, or what is stored.
    pub now: Timestamp,
    /// What the clock shows: behind, where another one was ahead.
    pub clock: Timestamp,
}

impl From<Timestamp> for Times {
    fn from(now: Timestamp) -> Self {
        Self { now, clock: now }
    }
}

/// Runs one pass. What a wake-up came due for belongs into `dirty`. Once `budget` changes are drafted it comes to no
/// further service; of tasks that it did not make itself it then places, or words anew, as many again.
#[must_use]
pub fn pass(
    view: View,
    dirty: &Dirty,
    times: impl Into<Times>,
    ids: &mut dyn IdSource,
    memo: &mut Memo,
    budget: usize,
) -> Pass {
    let Times { now, clock } = times.into();
    let mut scope = scope(&view, dirty);
    let is_room_freed = is_room_freed(&view, dirty);
    let fresh = fresh(&view, dirty);
    let mut draft = Draft::new(view, now);
    let mut cx = Context::new(ids);
    cx.ahead = now.since(clock);
    let mut rest = Dirty::default();
    scope.services.retain(|id, look| {
        let is_reached = draft.changes().len() + cx.reaped.len() < budget;
        if is_reached {
            reconcile(&mut draft, &mut cx, *id, look);
        } else {
            rest.services.insert(*id);
        }
        is_reached
    });
    assign_addresses(&mut draft, &scope.nodes);
    let placing = (&dirty.placing, is_room_freed);
    rest.placing = placement::place(&mut draft, &mut cx, &scope, placing, &mut memo.kept, budget);
    placement::rebalance(&mut draft, &mut cx, &scope, &fresh, &mut memo.kept);
    for id in std::mem::take(&mut cx.reaped) {
        // It is there, or was not found.
        draft.push(Change::DeleteTask(id)).ok();
    }
    expire_nodes(&mut draft, &mut cx);
    if dirty.all || dirty.tickets {
        expire_tickets(&mut draft, &mut cx);
    }
    let whole = scope.services.iter().filter(|(_, look)| **look == Look::Whole);
    let nodes = scope.nodes.iter().map(|id| WakeKey::Node(*id));
    let tickets = (dirty.all || dirty.tickets).then_some(WakeKey::Tickets);
    let settled = whole.map(|(id, _)| WakeKey::Service(*id)).chain(nodes).chain(tickets).collect();
    Pass { draft, settled, wakes: cx.wakes, rest }
}

impl Pass {
    /// Brings what is waited for up to date.
    pub fn settle(&self, wakes: &mut BTreeMap<WakeKey, Timestamp>) {
        wakes.retain(|key, _| !self.settled.contains(key));
        for (key, at) in &self.wakes {
            let known = wakes.entry(*key).or_insert(*at);
            *known = (*known).min(*at);
        }
    }
}
