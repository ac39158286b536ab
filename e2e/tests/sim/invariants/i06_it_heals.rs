//! Promise 6: once faults stop, observed equals desired in bounded time.

use crate::consensus::member::Machine;
use crate::consensus::world::World;

/// One leader, the voters that were asked for, nothing left to apply, and the same bytes everywhere.
pub(crate) fn consensus_has_healed(world: &World) -> bool {
    let state = world.lock();
    let members: Vec<_> = state.slots.iter().filter(|(id, _)| state.target.contains(id)).collect();
    let Some(up) = members.iter().map(|(_, slot)| slot.up.as_ref()).collect::<Option<Vec<_>>>() else {
        return false;
    };
    let statuses: Vec<_> = up.iter().map(|(raft, _)| raft.status().borrow().clone()).collect();
    let leaders = statuses.iter().filter(|status| status.is_leader).count();
    let agree = statuses.iter().all(|status| {
        status.leader == statuses[0].leader
            && status.applied == status.last
            && status.last == statuses[0].last
            && status.voters == state.target
            && status.learners.is_empty()
    });
    if state.n_clients > 0 || leaders != 1 || !agree {
        return false;
    }
    let written = |machine: &Machine| {
        let mut bytes = Vec::new();
        machine.store().write(&mut bytes).map(|()| bytes).unwrap()
    };
    let first = written(&up[0].1);
    up.iter().all(|(_, machine)| written(machine) == first)
}
