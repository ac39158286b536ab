//! What all parts of one simulation share: its random numbers, its trace, its members' state.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use skep_raft::sim::SimDisk;
use skep_raft::{Compaction, Raft};
use tempfile::TempDir;

use super::history::Operation;
use super::member::Machine;
use crate::shared::{Base, Shared};
use crate::trace::{self, Trace};

pub(crate) type World = Shared<State>;

/// What is known of a member.
pub(crate) struct Slot {
    pub(crate) disk: SimDisk,
    /// None while it is down.
    pub(crate) up: Option<(Raft, Arc<Machine>)>,
    pub(crate) seen: String,
}

/// What the seed makes of a simulation from the start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// Members that there can be, numbered from 1; the last one is not in the swarm at first, if there are
    /// fewer than seven to begin with.
    pub(crate) members: u64,
    /// How many of them vote at first.
    pub(crate) voters: u64,
    /// Small, so that snapshots are made, sent and restored all the time.
    pub(crate) compaction: Compaction,
}

impl Shape {
    fn of(seed: u64) -> Shape {
        let mut random = seed ^ 0x5eed;
        let mut pick = |choices: &[u64]| {
            let n = u64::try_from(choices.len()).unwrap();
            choices[usize::try_from(skep_raft::sim::random(&mut random) % n).unwrap()]
        };
        let voters = pick(&[3, 3, 3, 5, 5, 7]);
        let compaction =
            Compaction { every: pick(&[20, 60, 60, 200]), keep: pick(&[0, 5, 60, 60]), old_snapshots: 0 };
        Shape { members: (voters + 1).min(7), voters, compaction }
    }

    pub(crate) fn ids(&self) -> RangeInclusive<u64> {
        1..=self.members
    }
}

pub(crate) struct State {
    pub(crate) shape: Shape,
    random: u64,
    /// Raised by each event of a client, so that what came before what is known.
    clock: u64,
    pub(crate) slots: BTreeMap<u64, Slot>,
    /// Who is to vote; the leader works towards it.
    pub(crate) target: BTreeSet<u64>,
    /// Who is asked to give up its lead, and to whom.
    pub(crate) resign: Option<(u64, Option<u64>)>,
    /// Clients stop.
    pub(crate) is_over: bool,
    pub(crate) n_clients: u64,
    pub(crate) history: Vec<Operation>,
    /// What the log holds up to an index, as the first member had it.
    pub(crate) chain: BTreeMap<u64, u64>,
    /// Who led in a term.
    pub(crate) leaders: BTreeMap<u64, u64>,
    pub(crate) trace: Trace,
    pub(crate) figures: Figures,
    /// The members' logs, in memory.
    _dir: TempDir,
}

/// How much happened.
#[derive(Clone, Copy, Default, Debug, Serialize, Deserialize)]
pub(crate) struct Figures {
    pub(crate) operations: u64,
    pub(crate) open: u64,
    pub(crate) terms: u64,
    pub(crate) crashes: u64,
    /// Starts that found a write torn.
    pub(crate) torn: u64,
    pub(crate) cuts: u64,
    pub(crate) changes: u64,
    /// Snapshots that a member took over from another,
    pub(crate) installs: u64,
    /// and those of them with which it began.
    pub(crate) joins: u64,
    pub(crate) healed_after_ms: u64,
}

impl World {
    pub(crate) fn of(seed: u64) -> World {
        let dir = trace::memory_dir();
        let shape = Shape::of(seed);
        let slot = |id: u64| {
            let disk = SimDisk::new(seed ^ (id << 32), dir.path().join(id.to_string()));
            Slot { disk, up: None, seen: String::new() }
        };
        Shared::new(State {
            shape,
            random: seed,
            clock: 0,
            slots: shape.ids().map(|id| (id, slot(id))).collect(),
            target: (1..=shape.voters).collect(),
            resign: None,
            is_over: false,
            n_clients: 0,
            history: Vec::new(),
            chain: BTreeMap::new(),
            leaders: BTreeMap::new(),
            trace: Trace::default(),
            figures: Figures::default(),
            _dir: dir,
        })
    }

    pub(crate) fn now(&self) -> u64 {
        let mut state = self.lock();
        state.clock += 1;
        state.clock
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
