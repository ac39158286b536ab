//! A manager is cut off while the lead goes to those that it knows as workers: it lets none of them in, and nothing
//! but its own question brings it back.

use std::time::Duration;

use skep_api::spec::Role;

use super::faults::Trouble;
use super::users::Ask;
use super::world::{Figures, World, host};
use crate::shared::others;
use crate::trace::{Trace, one};

/// Of the shapes with five managers.
pub(crate) const SEED: u64 = 3;
const AWAY: u64 = 2;
/// Those that lead in the end.
const NEXT: [u64; 2] = [3, 4];
/// A manager that is let go, or taken in.
const CHANGE_MAX: Duration = Duration::from_secs(10);
const ASK_EVERY: Duration = Duration::from_millis(500);

fn run(seed: u64) -> (Trace, Figures) {
    Trouble::new(seed).end(|trouble| {
        if !trouble.set_up() {
            return;
        }
        NEXT.into_iter().for_each(|id| becomes(trouble, id, Role::Worker));
        trouble.cut(format!("{AWAY} and all"), |sim, ids| {
            others(ids, AWAY).for_each(|id| sim.partition(host(AWAY), host(id)));
        });
        NEXT.into_iter().for_each(|id| becomes(trouble, id, Role::Manager));
        // The lead leaves these two.
        becomes(trouble, 5, Role::Worker);
        becomes(trouble, 1, Role::Worker);
        // One whom it can ask.
        becomes(trouble, 1, Role::Manager);
        trouble.heal();
    })
}

/// Asks until it is so.
fn becomes(trouble: &mut Trouble<'_>, id: u64, role: Role) {
    let node = trouble.world.with(id, |slot| slot.node).unwrap();
    let is_so = |world: &World| {
        let state = world.lock();
        let is_member = state.newest.node(node).is_some_and(|node| node.raft_id != 0);
        let is_manager = role == Role::Manager;
        is_member == is_manager && state.slots[&id].control.is_some() == is_manager
    };
    let end = trouble.sim.elapsed() + CHANGE_MAX;
    while trouble.sim.elapsed() < end {
        trouble.admin(Some(Ask::Role(node, role)));
        if trouble.until(ASK_EVERY, is_so) {
            return;
        }
    }
    trouble.world.fail(format!("n{id} does not become a {role:?}"));
}

#[test]
#[ignore = "another one runs it, in a process of its own"]
fn one_seed() {
    one(run);
}
