//! What all parts of one simulation share: its random numbers, its trace, its members' state.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use skep_raft::Raft;
use skep_raft::sim::SimDisk;

use crate::history::Operation;
use crate::member::Machine;

/// All members that there can be; the last one is not in the swarm at first.
pub(crate) const IDS: [u64; 4] = [1, 2, 3, 4];

/// A simulation's shared state.
#[derive(Clone)]
pub(crate) struct World(Arc<Mutex<State>>);

/// What is known of a member.
pub(crate) struct Slot {
    pub(crate) disk: SimDisk,
    /// None while it is down.
    pub(crate) up: Option<(Raft, Arc<Machine>)>,
    pub(crate) seen: String,
}

pub(crate) struct State {
    random: u64,
    /// Raised by each event of a client, so that what came before what is known.
    clock: u64,
    pub(crate) slots: BTreeMap<u64, Slot>,
    /// Who is to vote; the leader works towards it.
    pub(crate) target: BTreeSet<u64>,
    /// Who is asked to give up its lead.
    pub(crate) resign: Option<u64>,
    /// Clients stop.
    pub(crate) is_over: bool,
    pub(crate) n_clients: u64,
    pub(crate) history: Vec<Operation>,
    /// What the log holds up to an index, as the first member had it.
    pub(crate) chain: BTreeMap<u64, u64>,
    /// Who led in a term.
    pub(crate) leaders: BTreeMap<u64, u64>,
    pub(crate) trace: Vec<String>,
    pub(crate) failures: Vec<String>,
    pub(crate) figures: Figures,
}

/// How much happened.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Figures {
    pub(crate) operations: u64,
    pub(crate) open: u64,
    pub(crate) terms: u64,
    pub(crate) crashes: u64,
    pub(crate) cuts: u64,
    pub(crate) changes: u64,
    /// Snapshots that a member took over from another,
    pub(crate) installs: u64,
    /// and those of them with which it began.
    pub(crate) joins: u64,
    pub(crate) healed_after_ms: u64,
}

/// What came of one seed.
pub(crate) struct Run {
    pub(crate) trace: Vec<String>,
    pub(crate) failures: Vec<String>,
    pub(crate) figures: Figures,
}

impl World {
    pub(crate) fn new(seed: u64) -> World {
        let slot = |id: u64| Slot { disk: SimDisk::new(seed ^ (id << 32)), up: None, seen: String::new() };
        World(Arc::new(Mutex::new(State {
            random: seed,
            clock: 0,
            slots: IDS.map(|id| (id, slot(id))).into(),
            target: [1, 2, 3].into(),
            resign: None,
            is_over: false,
            n_clients: 0,
            history: Vec::new(),
            chain: BTreeMap::new(),
            leaders: BTreeMap::new(),
            trace: Vec::new(),
            failures: Vec::new(),
            figures: Figures::default(),
        })))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("a simulation has one thread")
    }

    /// A random number below `n`.
    pub(crate) fn below(&self, n: u64) -> u64 {
        self.lock().below(n)
    }

    pub(crate) fn now(&self) -> u64 {
        let mut state = self.lock();
        state.clock += 1;
        state.clock
    }

    pub(crate) fn note(&self, line: String) {
        self.lock().note(line);
    }
}

impl State {
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        skep_raft::sim::random(&mut self.random) % n
    }

    pub(crate) fn note(&mut self, line: String) {
        let at = turmoil::sim_elapsed().unwrap_or_default().as_micros();
        self.trace.push(format!("{at} {line}"));
    }

    pub(crate) fn fail(&mut self, line: String) {
        self.note(format!("FAILED {line}"));
        self.failures.push(line);
    }
}
