//! What befalls a swarm's managers, in the order that a seed gives, and what must hold all along and at the end.

use std::collections::BTreeSet;
use std::time::Duration;

use turmoil::Sim;

use super::world::{Figures, World};
use super::{client, member, wire};
use crate::invariants::{
    i01_acknowledged_writes_survive as survive, i02_conflicts_and_names as conflicts, i06_it_heals as heals,
};
use crate::shared::{Base as _, others, pairs};
use crate::trace::Trace;

const N_CLIENTS: u64 = 4;
/// How long there is trouble, how long clients go on after it, and how long healing may take.
const TROUBLE: Duration = Duration::from_secs(8);
const CALM: Duration = Duration::from_secs(1);
const HEAL_MAX: Duration = Duration::from_secs(20);
const SETUP_MAX: Duration = Duration::from_secs(10);
/// What a link takes at most, and one that is slow: longer than a heartbeat, and than an election timeout.
const LINK_MAX: Duration = Duration::from_millis(3);
const SLOW_LINKS_MAX: [Duration; 2] = [Duration::from_millis(80), Duration::from_millis(600)];
/// A member that clients write to writes again within this.
const WRITES_WITHIN: Duration = Duration::from_millis(100);
/// How many times as long a slow disk takes.
const SLOWER: [u32; 3] = [4, 20, 100];

/// Runs one seed to its end.
pub(crate) fn run(seed: u64) -> (Trace, Figures) {
    skep_raft::sim::seed_this_thread(seed);
    let world = World::of(seed);
    let mut sim = turmoil::Builder::new()
        .rng_seed(seed)
        .simulation_duration(SETUP_MAX + TROUBLE + CALM + HEAL_MAX)
        .tick_duration(Duration::from_millis(1))
        .min_message_latency(Duration::from_micros(200))
        .max_message_latency(LINK_MAX)
        .build();
    let shape = world.lock().shape;
    for id in shape.ids() {
        let world = world.clone();
        sim.host(wire::host(id), move || member::run(id, world.clone()));
    }
    world.note(format!("{shape:?}"));
    let ids = shape.ids().collect();
    let mut trouble = Trouble { world, sim, ids, down: BTreeSet::new() };
    trouble.all();
    let world = trouble.world.clone();
    drop(trouble);
    let mut state = world.lock();
    // Members hold the world, and the world holds members.
    state.slots.clear();
    (std::mem::take(&mut state.trace), state.figures)
}

struct Trouble<'a> {
    world: World,
    sim: Sim<'a>,
    ids: Vec<u64>,
    down: BTreeSet<u64>,
}

impl Trouble<'_> {
    fn all(&mut self) {
        let ready = |world: &World| {
            let state = world.lock();
            let first = state.slots[&1].up.as_ref();
            first.is_some_and(|(raft, _)| raft.status().borrow().voters == state.target)
        };
        if !self.until(SETUP_MAX, ready) {
            return self.world.fail("the swarm was not set up".into());
        }
        self.world.lock().n_clients = N_CLIENTS;
        for number in 1..=N_CLIENTS {
            self.sim.client(format!("c{number}"), client::run(number, self.world.clone()));
        }
        let end = self.sim.elapsed() + TROUBLE;
        while self.sim.elapsed() < end && !self.world.has_failed() {
            let pause = Duration::from_millis(50 + self.world.below(500));
            self.run_for(pause);
            self.strike();
        }
        self.heal();
    }

    /// One more thing goes wrong, or is put right.
    fn strike(&mut self) {
        let (one, other) = (self.pick(), self.pick());
        match self.world.below(22) {
            0..=2 => self.kill(one),
            3 | 4 => {
                if let Some(id) = self.down.first().copied() {
                    self.start(id);
                }
            }
            5 => self.cut(format!("{one} and all"), |sim, ids| {
                others(ids, one).for_each(|id| sim.partition(wire::host(one), wire::host(id)));
            }),
            6 if one != other => self.cut(format!("{one} and {other}"), |sim, _| {
                sim.partition(wire::host(one), wire::host(other));
            }),
            7 if one != other => self.cut(format!("{one} to {other}"), |sim, _| {
                sim.partition_oneway(wire::host(one), wire::host(other));
            }),
            8 => self.cut(format!("{one} to all"), |sim, ids| {
                others(ids, one).for_each(|id| sim.partition_oneway(wire::host(one), wire::host(id)));
            }),
            9 => self.cut(format!("all to {one}"), |sim, ids| {
                others(ids, one).for_each(|id| sim.partition_oneway(wire::host(id), wire::host(one)));
            }),
            10 => self.halve(),
            11 | 12 => self.join_all(),
            13 => {
                let to = (one != other).then_some(other);
                self.world.note(format!("m{one} is to resign for {to:?}"));
                self.world.lock().resign = Some((one, to));
            }
            14 => self.change_target(),
            15 => self.power_cut(),
            16 | 17 => self.slow_disk(one),
            18 if one != other => self.slow_link(one, other),
            19 => self.hold(one),
            _ => {}
        }
    }

    fn pick(&self) -> u64 {
        self.world.pick(&self.ids)
    }

    /// All at one instant; they come back one by one.
    fn power_cut(&mut self) {
        let one = self.pick();
        self.until(WRITES_WITHIN, |world| world.lock().slots[&one].disk.is_writing());
        for id in self.ids.clone() {
            self.kill_one(id);
        }
        for id in self.ids.clone() {
            let pause = Duration::from_millis(self.world.below(200));
            self.run_for(pause);
            self.start(id);
        }
    }

    /// One more than a minority may be down: then there is no majority for a while. Often it is in the middle
    /// of a write.
    fn kill(&mut self, id: u64) {
        if self.down.len() > self.ids.len() / 2 {
            return;
        }
        if self.world.below(2) == 0 {
            self.until(WRITES_WITHIN, |world| world.lock().slots[&id].disk.is_writing());
        }
        self.kill_one(id);
    }

    fn kill_one(&mut self, id: u64) {
        if !self.down.insert(id) {
            return;
        }
        let disk = {
            let mut state = self.world.lock();
            state.trace.note(format!("kill m{id}"));
            state.figures.crashes += 1;
            let slot = state.slots.get_mut(&id).unwrap();
            slot.up = None;
            slot.disk.clone()
        };
        self.sim.crash(wire::host(id));
        disk.crash();
    }

    fn start(&mut self, id: u64) {
        self.world.note(format!("start m{id}"));
        if self.down.remove(&id) {
            self.sim.bounce(wire::host(id));
        }
    }

    fn cut(&mut self, what: String, cut: impl FnOnce(&Sim<'_>, &[u64])) {
        self.world.note(format!("cut {what}"));
        self.world.lock().figures.cuts += 1;
        cut(&self.sim, &self.ids);
    }

    /// Two parts that do not hear each other.
    fn halve(&mut self) {
        let (here, there): (Vec<u64>, Vec<u64>) = self.ids.iter().partition(|_| self.world.below(2) == 0);
        self.cut(format!("{here:?} and {there:?}"), |sim, _| {
            for (one, other) in here.iter().flat_map(|one| there.iter().map(move |other| (one, other))) {
                sim.partition(wire::host(*one), wire::host(*other));
            }
        });
    }

    /// What is on its way from and to it waits.
    fn hold(&mut self, one: u64) {
        self.cut(format!("{one} hangs"), |sim, ids| {
            others(ids, one).for_each(|id| sim.hold(wire::host(one), wire::host(id)));
        });
        let pause = Duration::from_millis(self.world.below(900));
        self.run_for(pause);
        self.world.note(format!("m{one} goes on"));
        for id in others(&self.ids, one) {
            self.sim.release(wire::host(one), wire::host(id));
        }
    }

    fn slow_disk(&self, id: u64) {
        let slower = self.world.pick(&SLOWER);
        self.world.note(format!("the disk of m{id} is {slower} times slower"));
        self.world.lock().slots[&id].disk.slow_down(slower);
    }

    fn slow_link(&self, one: u64, other: u64) {
        let max = self.world.pick(&SLOW_LINKS_MAX);
        self.world.note(format!("up to {max:?} between m{one} and m{other}"));
        self.sim.set_link_max_message_latency(wire::host(one), wire::host(other), max);
    }

    /// Cuts are mended, links and disks as fast as at first.
    fn join_all(&mut self) {
        self.world.note("join all".into());
        for (one, other) in pairs(&self.ids) {
            let (one, other) = (wire::host(one), wire::host(other));
            self.sim.repair(one.clone(), other.clone());
            self.sim.set_link_max_message_latency(one, other, LINK_MAX);
        }
        self.world.lock().slots.values().for_each(|slot| slot.disk.slow_down(1));
    }

    fn change_target(&mut self) {
        let (out, another) = (self.pick(), self.pick());
        let mut state = self.world.lock();
        let mut target: BTreeSet<u64> = self.ids.iter().copied().collect();
        if state.below(3) > 0 {
            target.remove(&out);
        }
        if target.len() > 4 && state.below(3) > 0 {
            target.remove(&another);
        }
        state.trace.note(format!("the voters are to be {target:?}"));
        state.figures.changes += 1;
        state.target = target;
    }

    /// All is put right; then all must come right, within its time.
    fn heal(&mut self) {
        self.join_all();
        while let Some(id) = self.down.first().copied() {
            self.start(id);
        }
        self.run_for(CALM);
        self.world.lock().is_over = true;
        let began = self.sim.elapsed();
        let healed = self.until(HEAL_MAX, heals::consensus_has_healed);
        let mut state = self.world.lock();
        state.figures.healed_after_ms = u64::try_from((self.sim.elapsed() - began).as_millis()).unwrap();
        state.figures.terms = u64::try_from(state.leaders.len()).unwrap();
        state.figures.torn = state.slots.values().map(|slot| slot.disk.torn_tails()).sum();
        if !healed && !state.trace.has_failed() {
            let seen: Vec<String> = state.slots.values().map(|slot| slot.seen.clone()).collect();
            let clients = state.n_clients;
            state.trace.fail(format!("no healing: {clients} clients wait, {seen:?}"));
        }
        if healed {
            survive::at_the_end(&mut state);
        }
        conflicts::history(&mut state);
    }

    fn run_for(&mut self, time: Duration) {
        self.until(time, |_| false);
    }

    /// Runs until `wanted`, at most for `limit`.
    fn until(&mut self, limit: Duration, wanted: impl Fn(&World) -> bool) -> bool {
        self.world.run_until(&mut self.sim, limit, observe, wanted)
    }
}

/// What must hold at any time; and the trace.
fn observe(world: &World) {
    let mut state = world.lock();
    let mut lines = Vec::new();
    let mut leaders = Vec::new();
    for (id, slot) in &mut state.slots {
        let Some((raft, _)) = &slot.up else { continue };
        let status = raft.status().borrow().clone();
        let seen = format!(
            "m{id} term {} leader {:?} leads {} applied {} voters {:?}",
            status.term, status.leader, status.is_leader, status.applied, status.voters
        );
        if status.is_leader {
            leaders.push((status.term, *id));
        }
        if slot.seen != seen {
            lines.push(seen.clone());
            slot.seen = seen;
        }
    }
    lines.into_iter().for_each(|line| state.trace.note(line));
    for (term, id) in leaders {
        survive::leads(&mut state, term, id);
    }
}
