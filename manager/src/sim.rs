//! For simulations only: managers on simulated disks, with ids from a seed. A simulation has one thread, and
//! what is set here is that thread's alone.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use skep_api::{
    Id,
    id::{IdSource, SeededIds},
};
pub use skep_raft::sim::SimDisk;

#[derive(Default)]
struct Simulated {
    ids: Option<SeededIds>,
    disks: BTreeMap<PathBuf, SimDisk>,
}

thread_local! {
    static SIMULATED: RefCell<Simulated> = RefCell::default();
}

/// From now on all ids and election timeouts on this thread come from `seed`; earlier disks are forgotten.
pub fn seed_this_thread(seed: u64) {
    skep_raft::sim::seed_this_thread(seed);
    SIMULATED.set(Simulated { ids: Some(SeededIds(seed)), disks: BTreeMap::new() });
}

/// The manager whose directory is `dir` keeps its log and snapshots on `disk`.
pub fn use_disk(dir: &Path, disk: SimDisk) {
    SIMULATED.with_borrow_mut(|simulated| simulated.disks.insert(dir.to_owned(), disk));
}

pub(crate) fn disk(dir: &Path) -> Option<SimDisk> {
    SIMULATED.with_borrow(|simulated| simulated.disks.get(dir).cloned())
}

pub(crate) fn is_simulated() -> bool {
    SIMULATED.with_borrow(|simulated| simulated.ids.is_some())
}

pub(crate) fn next_id() -> Id {
    let next = |simulated: &mut Simulated| simulated.ids.as_mut().map(IdSource::next_id);
    SIMULATED.with_borrow_mut(next).expect("whoever asks has looked")
}
