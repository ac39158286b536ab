//! What befalls a swarm, in the order that a seed gives, and what must hold all along and at the end.

use std::collections::BTreeSet;
use std::time::Duration;

use turmoil::Sim;

use crate::history::is_linearizable;
use crate::member::Machine;
use crate::world::{IDS, Run, World};
use crate::{client, member, wire};

const N_CLIENTS: u64 = 4;
/// How long there is trouble, how long clients go on after it, and how long healing may take.
const TROUBLE: Duration = Duration::from_secs(8);
const CALM: Duration = Duration::from_secs(1);
const HEAL_MAX: Duration = Duration::from_secs(20);
const SETUP_MAX: Duration = Duration::from_secs(10);
/// How many may be down at once: with one more cut off there is no majority, which is fine for a while.
const DOWN_MAX: usize = 2;

/// Runs one seed to its end.
pub(crate) fn run(seed: u64) -> Run {
    skep_raft::sim::seed_this_thread(seed);
    let world = World::new(seed);
    let mut sim = turmoil::Builder::new()
        .rng_seed(seed)
        .simulation_duration(SETUP_MAX + TROUBLE + CALM + HEAL_MAX)
        .tick_duration(Duration::from_millis(1))
        .min_message_latency(Duration::from_micros(200))
        .max_message_latency(Duration::from_millis(3))
        .build();
    for id in IDS {
        let world = world.clone();
        sim.host(wire::host(id), move || member::run(id, world.clone()));
    }
    let mut trouble = Trouble { world, sim, down: BTreeSet::new() };
    trouble.all();
    let world = trouble.world.clone();
    drop(trouble);
    let mut state = world.lock();
    // Members hold the world, and the world holds members.
    state.slots.clear();
    Run {
        trace: std::mem::take(&mut state.trace),
        failures: std::mem::take(&mut state.failures),
        figures: state.figures,
    }
}

struct Trouble<'a> {
    world: World,
    sim: Sim<'a>,
    down: BTreeSet<u64>,
}

impl Trouble<'_> {
    fn all(&mut self) {
        let ready = |world: &World| {
            let state = world.lock();
            state.slots[&1].up.as_ref().is_some_and(|(raft, _)| raft.status().borrow().voters.len() == 3)
        };
        if !self.until(SETUP_MAX, ready) {
            return self.world.lock().fail("the swarm was not set up".into());
        }
        self.world.lock().n_clients = N_CLIENTS;
        for number in 1..=N_CLIENTS {
            self.sim.client(format!("c{number}"), client::run(number, self.world.clone()));
        }
        let end = self.sim.elapsed() + TROUBLE;
        while self.sim.elapsed() < end && self.world.lock().failures.is_empty() {
            let pause = Duration::from_millis(50 + self.world.below(500));
            self.run_for(pause);
            self.strike();
        }
        self.heal();
    }

    /// One more thing goes wrong, or is put right.
    fn strike(&mut self) {
        let (one, other) = (self.pick(), self.pick());
        match self.world.below(14) {
            0..=2 => self.kill(one),
            3 | 4 => {
                if let Some(id) = self.down.first().copied() {
                    self.start(id);
                }
            }
            5 => self.cut(format!("{one} and all"), |sim| {
                for id in IDS.into_iter().filter(|id| *id != one) {
                    sim.partition(wire::host(one), wire::host(id));
                }
            }),
            6 if one != other => self.cut(format!("{one} and {other}"), |sim| {
                sim.partition(wire::host(one), wire::host(other));
            }),
            7 if one != other => self.cut(format!("{one} to {other}"), |sim| {
                sim.partition_oneway(wire::host(one), wire::host(other));
            }),
            8 | 9 => self.join_all(),
            10 => {
                self.world.note(format!("m{one} is to resign"));
                self.world.lock().resign = Some(one);
            }
            11 => self.change_target(),
            12 => self.power_cut(),
            _ => {}
        }
    }

    fn pick(&self) -> u64 {
        1 + self.world.below(4)
    }

    /// All at one instant; they come back one by one.
    fn power_cut(&mut self) {
        for id in IDS {
            self.kill_one(id);
        }
        for id in IDS {
            let pause = Duration::from_millis(self.world.below(200));
            self.run_for(pause);
            self.start(id);
        }
    }

    fn kill(&mut self, id: u64) {
        if self.down.len() < DOWN_MAX {
            self.kill_one(id);
        }
    }

    fn kill_one(&mut self, id: u64) {
        if !self.down.insert(id) {
            return;
        }
        let disk = {
            let mut state = self.world.lock();
            state.note(format!("kill m{id}"));
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
        self.down.remove(&id);
        self.sim.bounce(wire::host(id));
    }

    fn cut(&mut self, what: String, cut: impl FnOnce(&Sim<'_>)) {
        self.world.note(format!("cut {what}"));
        self.world.lock().figures.cuts += 1;
        cut(&self.sim);
    }

    fn join_all(&mut self) {
        self.world.note("join all".into());
        for (one, other) in IDS.into_iter().flat_map(|one| IDS.map(|other| (one, other))) {
            if one < other {
                self.sim.repair(wire::host(one), wire::host(other));
            }
        }
    }

    fn change_target(&mut self) {
        let out = self.pick();
        let mut state = self.world.lock();
        let mut target: BTreeSet<u64> = IDS.into();
        if state.below(2) == 0 {
            target.remove(&out);
        }
        state.note(format!("the voters are to be {target:?}"));
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
        let healed = self.until(HEAL_MAX, is_healed);
        let mut state = self.world.lock();
        state.figures.healed_after_ms = u64::try_from((self.sim.elapsed() - began).as_millis()).unwrap();
        state.figures.terms = u64::try_from(state.leaders.len()).unwrap();
        if !healed && state.failures.is_empty() {
            let seen: Vec<String> = state.slots.values().map(|slot| slot.seen.clone()).collect();
            let clients = state.n_clients;
            state.fail(format!("no healing: {clients} clients wait, {seen:?}"));
        }
        let history = std::mem::take(&mut state.history);
        for key in history.iter().map(|operation| operation.key).collect::<BTreeSet<_>>() {
            let of_key: Vec<_> = history.iter().filter(|operation| operation.key == key).copied().collect();
            if !is_linearizable(&of_key) {
                state.fail(format!("what was told of s{key} fits no order"));
            }
        }
    }

    fn run_for(&mut self, time: Duration) {
        self.until(time, |_| false);
    }

    /// Runs until `wanted`, at most for `limit`.
    fn until(&mut self, limit: Duration, wanted: impl Fn(&World) -> bool) -> bool {
        let end = self.sim.elapsed() + limit;
        while self.sim.elapsed() < end {
            if let Err(error) = self.sim.step() {
                self.world.lock().fail(format!("a member failed: {error}"));
                return false;
            }
            observe(&self.world);
            if wanted(&self.world) {
                return true;
            }
        }
        false
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
    lines.into_iter().for_each(|line| state.note(line));
    for (term, id) in leaders {
        let first = *state.leaders.entry(term).or_insert(id);
        if first != id {
            state.fail(format!("m{first} and m{id} both led in term {term}"));
        }
    }
}

/// One leader, the voters that were asked for, nothing left to apply, and the same bytes everywhere.
fn is_healed(world: &World) -> bool {
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
