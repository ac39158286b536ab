//! What all parts of a simulated swarm share: its machines, what users were promised, what is known of tasks.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use skep_agent::sim::SimMachine;
use skep_api::object::SeatKey;
use skep_api::{NodeId, ServiceId, TaskId, TaskState};
use skep_manager::sim::{SimDisk, use_disk};
use skep_manager::{Control, View};
use tempfile::TempDir;
use tokio::sync::{Notify, mpsc};

use super::users::{Promise, Request};
use crate::invariants::attempts::Attempts;
use crate::invariants::i05_parallelism::Updates;
use crate::invariants::placement::Nodes;
use crate::shared::{Base, Shared};
use crate::trace::{self, Trace, now};

pub(crate) type World = Shared<State>;

/// A machine with its daemon.
pub(crate) struct Slot {
    pub(crate) dir: PathBuf,
    pub(crate) machine: SimMachine,
    /// Of its manager, whether one runs or not.
    pub(crate) disk: SimDisk,
    disks_made: u64,
    /// The node that it is, once it has joined.
    pub(crate) node: Option<NodeId>,
    /// The manager that runs there.
    pub(crate) control: Option<Control>,
    /// What users ask of the daemon.
    pub(crate) api: Option<mpsc::UnboundedSender<Request>>,
    /// Tells the daemon to stop in order.
    pub(crate) stop: Arc<Notify>,
    pub(crate) is_stopped: bool,
    /// The managers that it would dial at its next start.
    pub(crate) managers: Vec<String>,
    /// It was told that it is not in the swarm any more, or broke for good.
    pub(crate) is_removed: bool,
    /// The revision of the last view that was looked at.
    pub(crate) looked_at: u64,
}

/// What the newest state says of a task.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Known {
    pub(crate) revision: u64,
    pub(crate) service: ServiceId,
    pub(crate) seat: SeatKey,
    /// Which version of its service's spec it runs.
    pub(crate) version: u64,
    pub(crate) node: Option<NodeId>,
    /// What it runs beside until it takes over.
    pub(crate) beside: Option<TaskId>,
    pub(crate) state: TaskState,
    pub(crate) desired: TaskState,
    /// It is not in the state any more.
    pub(crate) is_gone: bool,
}

impl Slot {
    fn new(seed: u64, dir: &Path, id: u64) -> Slot {
        let dir = dir.join(id.to_string());
        let disk = SimDisk::new(seed ^ (id << 32), dir.join("manager/raft"));
        use_disk(&dir.join("manager"), disk.clone());
        Slot {
            machine: SimMachine::new(seed ^ (id << 40), now),
            dir,
            disk,
            disks_made: 0,
            node: None,
            control: None,
            api: None,
            stop: Arc::default(),
            is_stopped: false,
            managers: Vec::new(),
            is_removed: false,
            looked_at: 0,
        }
    }
}

pub(crate) struct State {
    random: u64,
    seed: u64,
    pub(crate) slots: BTreeMap<u64, Slot>,
    /// Join tokens: a worker's and a manager's.
    pub(crate) tokens: Option<(String, String)>,
    pub(crate) tasks: BTreeMap<TaskId, Known>,
    /// What is remembered of updates, attempts and nodes, beyond what the state holds.
    pub(crate) updates: Updates,
    pub(crate) attempts: Attempts,
    pub(crate) nodes: Nodes,
    /// The newest state of any manager.
    pub(crate) newest: View,
    /// A digest of what a revision holds, as the first manager had it.
    pub(crate) digests: BTreeMap<u64, u64>,
    /// By a service's name.
    pub(crate) promises: BTreeMap<String, Promise>,
    /// Users stop.
    pub(crate) is_over: bool,
    pub(crate) n_users: u64,
    pub(crate) trace: Trace,
    pub(crate) figures: Figures,
    dir: TempDir,
}

/// How much happened.
#[derive(Clone, Copy, Default, Debug, Serialize, Deserialize)]
pub(crate) struct Figures {
    /// Writes of users that were acknowledged, and that nobody knows of.
    pub(crate) acknowledged: u64,
    pub(crate) unknown: u64,
    pub(crate) revisions: u64,
    pub(crate) tasks: u64,
    pub(crate) crashes: u64,
    pub(crate) power_cuts: u64,
    pub(crate) cuts: u64,
    pub(crate) restarts: u64,
    pub(crate) roles: u64,
    pub(crate) drains: u64,
    /// Services and jobs made, of each mode.
    pub(crate) replicated: u64,
    pub(crate) global: u64,
    pub(crate) replicated_jobs: u64,
    pub(crate) global_jobs: u64,
    /// Updates that went back by themselves or were to, that were paused, and that came to their end.
    pub(crate) rollbacks: u64,
    pub(crate) paused: u64,
    pub(crate) completed: u64,
    /// Seats that were given up as their restart policy says, in the end.
    pub(crate) given_up: u64,
    /// Machines that came later, those in the place of one that broke among them.
    pub(crate) joins: u64,
    pub(crate) replaced: u64,
    /// Clocks that were set.
    pub(crate) jumps: u64,
    pub(crate) healed_after_ms: u64,
}

/// How many machines there are at most.
pub(crate) const MACHINES_MAX: usize = 8;

thread_local! {
    /// By how much machines' clocks are wrong, nanoseconds.
    static AHEAD: Cell<[i64; MACHINES_MAX]> = const { Cell::new([0; MACHINES_MAX]) };
}

/// The wall clock of a machine, Unix nanoseconds.
pub(crate) fn clock_of(id: u64) -> fn() -> i64 {
    const CLOCKS: [fn() -> i64; MACHINES_MAX] =
        [clock::<0>, clock::<1>, clock::<2>, clock::<3>, clock::<4>, clock::<5>, clock::<6>, clock::<7>];
    CLOCKS[at(id)]
}

fn clock<const AT: usize>() -> i64 {
    1_800_000_000_000_000_000 + i64::try_from(now().as_nanos()).unwrap() + AHEAD.get()[AT]
}

/// From now on its clock is so many nanoseconds ahead of the right one.
pub(crate) fn set_clock(id: u64, ahead: i64) {
    let mut all = AHEAD.get();
    all[at(id)] = ahead;
    AHEAD.set(all);
}

fn at(id: u64) -> usize {
    usize::try_from(id - 1).unwrap()
}

pub(crate) fn host(id: u64) -> String {
    format!("n{id}")
}

impl World {
    pub(crate) fn of(seed: u64, machines: u64) -> World {
        let dir = trace::memory_dir();
        Shared::new(State {
            random: seed,
            seed,
            slots: (1..=machines).map(|id| (id, Slot::new(seed, dir.path(), id))).collect(),
            tokens: None,
            tasks: BTreeMap::new(),
            updates: Updates::default(),
            attempts: Attempts::default(),
            nodes: Nodes::default(),
            newest: View::default(),
            digests: BTreeMap::new(),
            promises: BTreeMap::new(),
            is_over: false,
            n_users: 0,
            trace: Trace::default(),
            figures: Figures::default(),
            dir,
        })
    }

    pub(crate) fn with<T>(&self, id: u64, what: impl FnOnce(&mut Slot) -> T) -> T {
        what(self.lock().slots.get_mut(&id).unwrap())
    }

    /// One more machine.
    pub(crate) fn add(&self, id: u64) {
        let mut state = self.lock();
        let slot = Slot::new(state.seed, state.dir.path(), id);
        state.slots.insert(id, slot);
        state.figures.joins += 1;
    }

    /// One of those with a manager that runs.
    pub(crate) fn some_manager(&self) -> Option<u64> {
        let mut state = self.lock();
        let running = state.slots.iter().filter(|(_, slot)| slot.control.is_some());
        let running: Vec<u64> = running.map(|(id, _)| *id).collect();
        (!running.is_empty()).then(|| state.pick(&running))
    }

    /// A manager that begins anew there has an empty disk.
    pub(crate) fn fresh_disk(&self, id: u64) {
        let seed = self.lock().seed;
        self.with(id, |slot| {
            slot.disks_made += 1;
            let seed = seed ^ (id << 32) ^ (slot.disks_made << 48);
            slot.disk = SimDisk::new(seed, slot.dir.join("manager/raft"));
            use_disk(&slot.dir.join("manager"), slot.disk.clone());
        });
    }
}

impl Base for State {
    fn random(&mut self) -> &mut u64 {
        &mut self.random
    }

    fn trace(&mut self) -> &mut Trace {
        &mut self.trace
    }
}
