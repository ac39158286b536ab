//! A swarm's only manager with that state, on disk: a snapshot while writes go on, and a restart with it.

use std::io::{BufReader, Read};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use skep_raft::{Alone, Compaction, Config, Leadership, Raft, StateMachine, WriteState};
use skep_store::{Record, Restoring, Store, View};
use tokio::time::Instant;

/// As a manager's machine, without those who listen.
struct Machine {
    store: Mutex<Store>,
    view: Mutex<View>,
    every: AtomicU64,
}

impl Machine {
    fn new(store: Store) -> Arc<Machine> {
        let view = Mutex::new(store.view());
        Arc::new(Machine { store: Mutex::new(store), view, every: AtomicU64::new(u64::MAX) })
    }
}

impl StateMachine for Machine {
    fn apply(&self, _index: u64, entry: &[u8]) -> Vec<u8> {
        let mut store = self.store.lock().unwrap();
        let applied = store.apply(entry);
        *self.view.lock().unwrap() = store.view();
        applied.answer
    }

    fn snapshot(&self) -> WriteState {
        let store = self.store.lock().unwrap().clone();
        Box::new(move |out| store.write(out))
    }

    fn restore(&self, state: &mut (dyn Read + Send)) -> Result<(), String> {
        let (send, received) = mpsc::sync_channel(4);
        let restored = std::thread::scope(|scope| {
            scope.spawn(move || {
                let mut input = BufReader::with_capacity(256 * 1024, state);
                loop {
                    let batch: Vec<_> =
                        std::iter::from_fn(|| Record::read(&mut input).transpose()).take(256).collect();
                    let is_end = batch.len() < 256;
                    if send.send(batch).is_err() || is_end {
                        return;
                    }
                }
            });
            let mut restoring = Restoring::default();
            for record in received.into_iter().flatten() {
                restoring.take(record?)?;
            }
            restoring.end(|one, other| {
                std::thread::scope(|scope| {
                    scope.spawn(one);
                    other();
                });
            })
        });
        *self.store.lock().unwrap() = restored.map_err(|e| e.to_string())?;
        Ok(())
    }

    fn compaction(&self) -> Compaction {
        Compaction { every: self.every.load(Ordering::Relaxed), ..Compaction::default() }
    }
}

fn snapshot_bytes(dir: &Path) -> Option<u64> {
    let files = std::fs::read_dir(dir).unwrap().flatten();
    let mut whole = files.filter(|file| file.path().extension().is_some_and(|extension| extension == "snap"));
    whole.next().map(|file| file.metadata().unwrap().len())
}

async fn leads(raft: &Raft) {
    let mut leadership = raft.leadership();
    leadership.wait_for(|l| matches!(l, Leadership::Leader { .. })).await.unwrap();
}

/// Writes one after the other until `is_over`; the longest time that one took, and how many there were.
async fn write(raft: &Raft, entries: &[Vec<u8>], is_over: impl Fn() -> bool) -> (Duration, usize) {
    let (mut longest, mut n) = (Duration::ZERO, 0);
    while !is_over() {
        let at = Instant::now();
        raft.propose(entries[n % entries.len()].clone()).await.unwrap();
        longest = longest.max(at.elapsed());
        n += 1;
    }
    (longest, n)
}

#[tokio::main(flavor = "current_thread")]
pub(crate) async fn run(store: Store) {
    let dir = tempfile::tempdir_in(".").unwrap();
    let entries = super::state::reports(&store, 10_000, 10);
    let n_tasks = store.view().n_tasks();
    let machine = Machine::new(store);
    let raft = Raft::open(Config::new(dir.path(), 1), machine.clone(), Arc::new(Alone)).await.unwrap();
    raft.bootstrap().await.unwrap();
    leads(&raft).await;
    let at = Instant::now();
    let (longest, n) = write(&raft, &entries, || at.elapsed() > Duration::from_secs(3)).await;
    println!("without a snapshot: {} writes a second, the longest {} ms", n / 3, longest.as_millis());
    machine.every.store(1, Ordering::Relaxed);
    raft.propose(entries[0].clone()).await.unwrap();
    machine.every.store(u64::MAX, Ordering::Relaxed);
    let at = Instant::now();
    let (longest, n) = write(&raft, &entries, || snapshot_bytes(dir.path()).is_some()).await;
    let took = at.elapsed();
    let bytes = snapshot_bytes(dir.path()).unwrap_or_default();
    println!(
        "a snapshot of {n_tasks} tasks: {:.1} s, {} MB; {n} writes meanwhile, the longest {} ms",
        took.as_secs_f64(),
        bytes / 1_000_000,
        longest.as_millis()
    );
    raft.shutdown().await;
    drop((raft, machine));
    let machine = Machine::new(Store::default());
    let (at, before) = (Instant::now(), super::processors());
    let raft = Raft::open(Config::new(dir.path(), 1), machine.clone(), Arc::new(Alone)).await.unwrap();
    let (opened, took) = (at.elapsed(), super::processors() - before);
    leads(&raft).await;
    println!(
        "a restart: open after {:.2} s, {took:.2} s of the processors; leads after {:.2} s",
        opened.as_secs_f64(),
        at.elapsed().as_secs_f64()
    );
    assert_eq!(machine.store.lock().unwrap().view().n_tasks(), n_tasks);
    raft.shutdown().await;
}
