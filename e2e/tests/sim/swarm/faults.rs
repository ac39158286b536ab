//! What befalls a swarm, in the order that a seed gives, and what must hold all along and at the end.

use std::collections::BTreeSet;
use std::time::Duration;

use skep_api::spec::{Availability, Role};
use skep_link::Role as Joins;
use turmoil::Sim;

use super::observe::observe;
use super::users::Ask;
use super::world::{Figures, MACHINES_MAX, World, host, set_clock};
use super::{calm, daemon, net, users};
use crate::invariants::{i01_acknowledged_writes_survive as survive, i06_it_heals as heals};
use crate::shared::{others, pairs};
use crate::trace::Trace;

const N_USERS: u64 = 4;
const SETUP_MAX: Duration = Duration::from_secs(20);
/// How long there is trouble, and how long healing may take: nodes that were cut off are given up after 3 s and
/// found again by their own retries, whole steps take a few seconds each.
const TROUBLE: Duration = Duration::from_secs(20);
const HEAL_MAX: Duration = Duration::from_secs(60);
const CALM_MAX: Duration = Duration::from_secs(60);
/// How many of the first machines are managers at first, of how many.
const SHAPES: [(u64, u64); 4] = [(3, 5), (3, 5), (3, 6), (5, 6)];
const TICK: Duration = Duration::from_millis(2);
const SLOWER: [u32; 3] = [4, 20, 60];
/// How many seconds a clock is wrong at most.
const SKEW_MAX: i64 = 300;

/// Runs one seed to its end.
pub(crate) fn run(seed: u64) -> (Trace, Figures) {
    Trouble::new(seed).end(Trouble::all)
}

pub(crate) struct Trouble<'a> {
    pub(crate) world: World,
    pub(crate) sim: Sim<'a>,
    ids: Vec<u64>,
    /// How many of them are managers at first.
    managers: u64,
    down: BTreeSet<u64>,
    n_admins: u64,
}

impl Trouble<'_> {
    /// The machines of a seed, before anything runs.
    pub(crate) fn new(seed: u64) -> Self {
        skep_manager::sim::seed_this_thread(seed);
        skep_agent::sim::simulate_this_thread();
        net::simulate_this_thread();
        let (managers, machines) = SHAPES[usize::try_from(seed % 4).unwrap()];
        let world = World::of(seed, machines);
        let mut sim = turmoil::Builder::new()
            .rng_seed(seed)
            .simulation_duration(SETUP_MAX + TROUBLE + HEAL_MAX + 2 * CALM_MAX)
            .tick_duration(TICK)
            .min_message_latency(Duration::from_micros(200))
            .max_message_latency(Duration::from_millis(3))
            .tcp_capacity(1024)
            .build();
        let ids: Vec<u64> = (1..=machines).collect();
        for id in ids.clone() {
            let (world, joins) = (world.clone(), if id <= managers { Joins::Manager } else { Joins::Worker });
            sim.host(host(id), move || daemon::run(id, joins, world.clone()));
        }
        Self { world, sim, ids, managers, down: BTreeSet::new(), n_admins: 0 }
    }

    /// Has `what` happen, and takes all down.
    pub(crate) fn end(mut self, what: impl FnOnce(&mut Self)) -> (Trace, Figures) {
        what(&mut self);
        let world = self.world.clone();
        drop(self);
        let mut state = world.lock();
        // Daemons hold the world, and the world holds them.
        state.slots.values_mut().for_each(|slot| (slot.control, slot.api) = (None, None));
        (std::mem::take(&mut state.trace), state.figures)
    }

    /// Whether all machines are ready nodes, and the first of them managers, in time.
    pub(crate) fn set_up(&mut self) -> bool {
        let managers = self.managers;
        let is_set_up = self.until(SETUP_MAX, |world| is_set_up(world, managers));
        if !is_set_up {
            self.world.fail("the swarm was not set up".into());
        }
        is_set_up
    }

    fn all(&mut self) {
        // In half of the swarms clocks agree until one is set.
        if self.world.below(2) == 0 {
            self.ids.clone().into_iter().for_each(|id| self.set_clock(id));
        }
        if !self.set_up() {
            return;
        }
        // Half of them in each zone.
        for id in self.ids.clone() {
            self.zone(id, Some(if id % 2 == 0 { "a" } else { "b" }));
        }
        self.world.lock().n_users = N_USERS;
        for number in 1..=N_USERS {
            self.sim.client(format!("u{number}"), users::run(number, self.world.clone()));
        }
        let end = self.sim.elapsed() + TROUBLE;
        while self.sim.elapsed() < end && !self.world.has_failed() {
            let pause = Duration::from_millis(50 + self.world.below(900));
            self.run_for(pause);
            self.strike();
        }
        self.heal();
        if !self.world.has_failed() {
            calm::update(self, CALM_MAX);
        }
        if !self.world.has_failed() {
            calm::rollback(self, CALM_MAX);
        }
    }

    /// One more thing goes wrong, or is put right, or is asked for.
    fn strike(&mut self) {
        let (one, other) = (self.pick(), self.pick());
        match self.world.below(30) {
            0..=2 => self.kill(one, false),
            3 => self.kill(one, true),
            4..=6 => {
                if let Some(id) = self.down.first().copied() {
                    self.start(id);
                }
            }
            7 => self.cut(format!("{one} and all"), |sim, ids| {
                others(ids, one).for_each(|id| sim.partition(host(one), host(id)));
            }),
            8 if one != other => self.cut(format!("{one} and {other}"), |sim, _| {
                sim.partition(host(one), host(other));
            }),
            9 if one != other => self.cut(format!("{one} to {other}"), |sim, _| {
                sim.partition_oneway(host(one), host(other));
            }),
            10 => self.cut(format!("{one} to all"), |sim, ids| {
                others(ids, one).for_each(|id| sim.partition_oneway(host(one), host(id)));
            }),
            11..=13 => self.join_all(),
            14 => self.hold(one),
            15 => {
                let slower = self.world.pick(&SLOWER);
                self.world.note(format!("the disk of n{one} is {slower} times slower"));
                self.world.with(one, |slot| slot.disk.slow_down(slower));
            }
            16 | 17 => self.restart(one),
            18 => self.power_cut(),
            19 | 20 => self.available(one),
            21 | 22 => self.change_role(one),
            23 => self.set_clock(one),
            24 => self.add(),
            25 => self.replace(one),
            26..=28 => self.label(one),
            _ => {}
        }
    }

    fn pick(&self) -> u64 {
        self.world.pick(&self.ids)
    }

    /// The daemon is killed, or with `power` the machine and its tasks as well.
    fn kill(&mut self, id: u64, power: bool) {
        if self.down.len() < self.ids.len() / 2 {
            self.kill_one(id, power);
        }
    }

    fn kill_one(&mut self, id: u64, power: bool) {
        if !self.down.insert(id) {
            return;
        }
        let (machine, disk) = {
            let mut state = self.world.lock();
            state.trace.note(format!("{} n{id}", if power { "no power for" } else { "kill" }));
            state.figures.crashes += 1;
            state.figures.power_cuts += u64::from(power);
            let slot = state.slots.get_mut(&id).unwrap();
            let gone = (slot.control.take(), slot.api.take());
            let parts = (slot.machine.clone(), slot.disk.clone());
            drop(state);
            drop(gone);
            parts
        };
        self.sim.crash(host(id));
        disk.crash();
        if power {
            machine.power_off();
        }
    }

    pub(crate) fn start(&mut self, id: u64) {
        if self.down.remove(&id) {
            self.world.note(format!("start n{id}"));
            self.sim.bounce(host(id));
        }
    }

    /// The daemon stops in order, and comes back.
    fn restart(&mut self, id: u64) {
        if self.down.contains(&id) {
            return;
        }
        self.world.note(format!("restart n{id}"));
        self.world.lock().figures.restarts += 1;
        self.world.with(id, |slot| slot.stop.notify_one());
        self.until(Duration::from_secs(8), |world| world.with(id, |slot| slot.is_stopped));
        self.kill_one(id, false);
        self.start(id);
    }

    /// All machines at one instant; they come back one by one.
    fn power_cut(&mut self) {
        for id in self.ids.clone() {
            self.kill_one(id, true);
        }
        for id in self.ids.clone() {
            let pause = Duration::from_millis(self.world.below(300));
            self.run_for(pause);
            self.start(id);
        }
    }

    pub(crate) fn cut(&mut self, what: String, cut: impl FnOnce(&Sim<'_>, &[u64])) {
        self.world.note(format!("cut {what}"));
        self.world.lock().figures.cuts += 1;
        cut(&self.sim, &self.ids);
    }

    /// Its packets wait, as if it were frozen.
    fn hold(&mut self, one: u64) {
        self.cut(format!("{one} hangs"), |sim, ids| {
            others(ids, one).for_each(|id| sim.hold(host(one), host(id)));
        });
        let pause = Duration::from_millis(self.world.below(6000));
        self.run_for(pause);
        self.world.note(format!("n{one} goes on"));
        others(&self.ids, one).for_each(|id| self.sim.release(host(one), host(id)));
    }

    fn join_all(&mut self) {
        self.world.note("join all".into());
        for (one, other) in pairs(&self.ids) {
            self.sim.repair(host(one), host(other));
        }
        self.world.lock().slots.values().for_each(|slot| slot.disk.slow_down(1));
    }

    /// Forwards or back, by minutes.
    fn set_clock(&mut self, id: u64) {
        let ahead = i64::try_from(self.world.below(2 * SKEW_MAX.unsigned_abs())).unwrap() - SKEW_MAX;
        self.world.note(format!("the clock of n{id} is {ahead} s ahead"));
        self.world.lock().figures.jumps += 1;
        set_clock(id, ahead * 1_000_000_000);
    }

    /// One more machine joins.
    fn add(&mut self) {
        let n = self.world.lock().slots.len();
        if n == MACHINES_MAX {
            return;
        }
        let id = u64::try_from(n).unwrap() + 1;
        let joins = if self.world.below(2) == 0 { Joins::Manager } else { Joins::Worker };
        self.world.note(format!("n{id} joins as a {joins:?}"));
        self.world.add(id);
        let world = self.world.clone();
        self.sim.host(host(id), move || daemon::run(id, joins, world.clone()));
        self.ids.push(id);
    }

    /// A worker's machine breaks for good: it is removed, and another one joins in its place.
    fn replace(&mut self, id: u64) {
        let (node, has_room) = {
            let state = self.world.lock();
            let node = state.slots[&id].node.and_then(|node| state.newest.node(node));
            let node = node.filter(|node| node.spec.role == Role::Worker && node.raft_id == 0);
            (node.map(|node| node.id), state.slots.len() < MACHINES_MAX)
        };
        let Some(node) = node.filter(|_| has_room) else { return };
        self.kill_one(id, true);
        self.down.remove(&id);
        self.ids.retain(|other| *other != id);
        self.world.note(format!("n{id} is broken"));
        self.world.with(id, |slot| {
            slot.machine.power_off();
            slot.is_removed = true;
        });
        self.world.lock().figures.replaced += 1;
        self.world.lock().n_users += 1;
        self.sim.client(format!("rm{id}"), users::remove_node(node, self.world.clone()));
        self.add();
    }

    fn available(&mut self, id: u64) {
        let wanted = match self.world.below(3) {
            0 => Availability::Drain,
            1 => Availability::Pause,
            _ => Availability::Active,
        };
        self.world.lock().figures.drains += u64::from(wanted == Availability::Drain);
        let node = self.world.with(id, |slot| slot.node);
        self.admin(node.map(|node| Ask::Availability(node, wanted)));
    }

    fn label(&mut self, id: u64) {
        let zone = self.world.pick(&[Some("a"), Some("b"), None]);
        self.zone(id, zone);
    }

    fn zone(&mut self, id: u64, zone: Option<&'static str>) {
        let node = self.world.with(id, |slot| slot.node);
        self.admin(node.map(|node| Ask::Zone(node, zone)));
    }

    fn change_role(&mut self, id: u64) {
        let role = if self.world.below(2) == 0 { Role::Manager } else { Role::Worker };
        self.world.lock().figures.roles += 1;
        let node = self.world.with(id, |slot| slot.node);
        self.admin(node.map(|node| Ask::Role(node, role)));
    }

    /// Asks once, and waits for no answer.
    pub(crate) fn admin(&mut self, what: Option<Ask>) {
        let Some(what) = what else { return };
        self.n_admins += 1;
        let world = self.world.clone();
        self.sim.client(format!("a{}", self.n_admins), async move {
            let answered = users::ask(&world, what.clone()).await;
            world.note(format!("{what:?}: {answered:?}"));
            Ok(())
        });
    }

    /// All is put right; then all must come right, within its time.
    pub(crate) fn heal(&mut self) {
        self.join_all();
        while let Some(id) = self.down.first().copied() {
            self.start(id);
        }
        self.world.lock().is_over = true;
        let world = self.world.clone();
        self.sim.client("admin", calm::all_take_tasks(world));
        let began = self.sim.elapsed();
        let healed = self.until(HEAL_MAX, |world| heals::what_ails_the_swarm(world).is_none());
        let why = heals::what_ails_the_swarm(&self.world);
        let mut state = self.world.lock();
        state.figures.healed_after_ms = u64::try_from((self.sim.elapsed() - began).as_millis()).unwrap();
        if !healed && !state.trace.has_failed() {
            state.trace.fail(format!("no healing: {}", why.unwrap_or_default()));
        }
        if healed {
            state.figures.given_up = heals::n_given_up(&state);
            survive::promises_are_kept(&mut state);
        }
    }

    pub(crate) fn run_for(&mut self, time: Duration) {
        self.until(time, |_| false);
    }

    /// Runs until `wanted`, at most for `limit`.
    pub(crate) fn until(&mut self, limit: Duration, wanted: impl Fn(&World) -> bool) -> bool {
        self.world.run_until(&mut self.sim, limit, observe, wanted)
    }
}

/// All machines are ready nodes, and the first of them managers.
fn is_set_up(world: &World, managers: u64) -> bool {
    let mut state = world.lock();
    if state.tokens.is_none()
        && let Some(cluster) = state.newest.cluster()
    {
        let token = |secret: &str| skep_link::JoinToken::new(&cluster.ca_cert_pem, secret).to_string();
        state.tokens = Some((token(&cluster.worker_token_secret), token(&cluster.manager_token_secret)));
    }
    let n_managers = state.slots.values().filter(|slot| slot.control.is_some()).count();
    let ready = state.newest.nodes().filter(|node| node.status.state == skep_api::object::NodeState::Ready);
    u64::try_from(n_managers) == Ok(managers) && ready.count() == state.slots.len()
}
