//! Promise 1: an acknowledged write survives the loss of any minority of managers, and a power cut; it is applied
//! once.

use std::sync::Arc;

use skep_api::object::Service;
use skep_manager::View;

use crate::consensus::history::{Kind, Operation, Outcome};
use crate::consensus::world::State;
use crate::swarm;
use crate::swarm::specs::number_of;

/// A member applied an entry: the log up to it is the same on all, and what it asks for was not done before.
pub(crate) fn applied(state: &mut State, member: u64, index: u64, chain: u64, times: u64) {
    let first = *state.chain.entry(index).or_insert(chain);
    if first != chain {
        state.trace.fail(format!("member {member} has other entries up to {index} than another one"));
    }
    if times > 1 {
        state.trace.fail(format!("member {member} applied the request of entry {index} twice"));
    }
}

/// A member leads: in its term no other one ever does.
pub(crate) fn leads(state: &mut State, term: u64, member: u64) {
    let first = *state.leaders.entry(term).or_insert(member);
    if first != member {
        state.trace.fail(format!("m{first} and m{member} both led in term {term}"));
    }
}

/// All members are equal again: each acknowledged write is there, or another one that saw it took its place.
pub(crate) fn at_the_end(state: &mut State) {
    let in_swarm = state.slots.iter().filter(|(id, _)| state.target.contains(id));
    let Some((_, machine)) = in_swarm.into_iter().find_map(|(_, slot)| slot.up.clone()) else { return };
    let there = machine.values();
    let lost: Vec<u64> = state
        .history
        .iter()
        .filter_map(acknowledged)
        .filter(|value| !there.contains(value))
        .filter(|value| !state.history.iter().any(|operation| replaces(operation, *value)))
        .collect();
    if !lost.is_empty() {
        state.trace.fail(format!("acknowledged and gone: {lost:?}"));
    }
}

/// The value that somebody was told is written.
fn acknowledged(operation: &Operation) -> Option<u64> {
    let (_, outcome) = operation.returned?;
    match operation.kind {
        Kind::Create(value) | Kind::Replace { value, .. } => {
            (outcome == Outcome::Written(true)).then_some(value)
        }
        Kind::Read | Kind::Delete { .. } => None,
    }
}

/// Whether it took the place of a value, or may have.
fn replaces(operation: &Operation, value: u64) -> bool {
    let may_be = operation.returned.is_none_or(|(_, outcome)| outcome == Outcome::Written(true));
    match operation.kind {
        Kind::Replace { seen, .. } | Kind::Delete { seen } => may_be && seen == value,
        Kind::Read | Kind::Create(_) => false,
    }
}

/// All managers hold the same at the same revision.
pub(crate) fn agree(state: &mut swarm::world::State, manager: u64, view: &View) {
    let mut text = String::new();
    for service in view.services() {
        text.push_str(&format!("{} {} {:?};", service.id, service.meta.version, service.ports));
    }
    for task in view.tasks() {
        text.push_str(&format!(
            "{} {} {:?} {:?} {:?} {:?};",
            task.id, task.slot, task.node_id, task.status, task.desired_state, task.ingress_addr
        ));
    }
    for node in view.nodes() {
        text.push_str(&format!("{} {:?} {:?} {};", node.id, node.status, node.spec, node.raft_id));
    }
    let mix = |sum: u64, byte: &u8| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    let digest = text.as_bytes().iter().fold(0xcbf2_9ce4_8422_2325, mix);
    let first = *state.digests.entry(view.revision()).or_insert(digest);
    if first != digest {
        state.trace.fail(format!("n{manager} has another state than others at {}", view.revision()));
    }
}

/// Its only user reads a name, through any manager: what was acknowledged is there, or what came of a write of which
/// nobody told, or what an update that failed went back to.
pub(crate) fn is_read(state: &mut swarm::world::State, name: &str, read: Option<&Arc<Service>>) {
    let promise = state.promises.entry(name.to_owned()).or_default();
    if !promise.allows(read) {
        let number = read.map_or(0, |service| number_of(&service.spec));
        let line = format!("{name} was read as {number}, and was said to be {promise:?}");
        state.trace.fail(line);
    }
}

/// Under each name is what its user was told, or one of the things of which nobody told.
pub(crate) fn promises_are_kept(state: &mut swarm::world::State) {
    let mut broken = Vec::new();
    for (name, promise) in &state.promises {
        let there = state.newest.service_by_name(name);
        if !promise.allows(there) {
            let number = there.map_or(0, |service| number_of(&service.spec));
            broken.push(format!("{name} is {number}, and was said to be {promise:?}"));
        }
    }
    broken.into_iter().for_each(|line| state.trace.fail(line));
}
