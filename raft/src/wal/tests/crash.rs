//! Crashes between any two operations of the disk, with any subset of what is not synced lost: over segment
//! changes, spares, purges, openings and rewriting. What opens then is what was acknowledged, and at most
//! what was on its way.

use super::disk::{Recorder, put};
use super::*;
use crate::sim::random;

const KEY: [u8; 32] = [9; 32];

/// A random history of the log, valid as openraft writes it.
struct History {
    row: u64,
    /// All that was ever given to the log.
    records: Vec<Record>,
    model: Recovered,
    term: u64,
}

impl History {
    fn new(seed: u64) -> History {
        History { row: seed, records: Vec::new(), model: Recovered::default(), term: 1 }
    }

    fn below(&mut self, n: u64) -> u64 {
        random(&mut self.row) % n
    }

    /// The records of the next job.
    fn job(&mut self) -> Vec<Record> {
        let next = self.model.said.next;
        let committed = self.model.said.committed.as_ref().map_or(0, |committed| committed.index + 1);
        let job: Vec<Record> = match self.below(10) {
            0 => {
                self.term += 1;
                vec![vote(self.term)]
            }
            1 if next > committed => {
                let first_gone = committed + self.below(next - committed);
                vec![Kind::Truncate(TruncateRecord { keep_to: first_gone.checked_sub(1) }).into()]
            }
            2 | 3 if next > committed => {
                let index = committed + self.below(next - committed);
                vec![Kind::Committed(LogPosition { term: self.term, index }).into()]
            }
            4 | 5 if committed > self.model.said.first() => {
                let first = self.model.said.first();
                let index = first + self.below(committed - first);
                vec![Kind::Purged(LogPosition { term: 1, index }).into()]
            }
            _ => {
                let (n, len) = (1 + self.below(4), usize::try_from(self.below(2500)).unwrap());
                (next..next + n).map(|index| entry(self.term, index, len)).collect()
            }
        };
        job.iter().for_each(|record| self.model.take(record.clone()).unwrap());
        self.records.extend(job.iter().cloned());
        job
    }

    /// What the log says after so many records.
    fn after(&self, n: usize) -> Recovered {
        let mut model = Recovered::default();
        self.records[..n].iter().for_each(|record| model.take(record.clone()).unwrap());
        model
    }

    /// How many records what was found stands for, of those that may be there.
    #[track_caller]
    fn find(&self, found: &Recovered, acknowledged: usize, given: usize, what: &str) -> usize {
        let found_at = (acknowledged..=given).rev().find(|n| self.after(*n) == *found);
        found_at.unwrap_or_else(|| {
            panic!("{what}: {:?} is after none of {acknowledged} to {given} records", found.said)
        })
    }

    /// Only so many of them were kept.
    fn goes_on_after(&mut self, n: usize) {
        self.records.truncate(n);
        self.model = self.after(n);
    }
}

/// Runs jobs until `n` were given, some of them at once; all are acknowledged, unless the disk fails.
fn run(wal: &Wal, disk: &Arc<Recorder>, history: &mut History, n: u64) {
    let (tell, answers) = mpsc::channel();
    let mut open = 0;
    for _ in 0..n {
        let is_lazy = history.below(8) == 0;
        let job = history.job();
        let at = history.records.len();
        disk.given(at);
        if is_lazy && job.len() == 1 {
            wal.write_lazily(job[0].clone());
            continue;
        }
        let (tell, disk) = (tell.clone(), Arc::clone(disk));
        let done = move |result: io::Result<()>| {
            if result.is_ok() {
                disk.acknowledged(at);
            }
            tell.send(()).unwrap();
        };
        wal.write(job, Box::new(done));
        open += 1;
        if history.below(3) > 0 {
            answers.iter().take(std::mem::take(&mut open)).for_each(drop);
        }
    }
    answers.iter().take(open).for_each(drop);
}

fn start(dir: &Path, disk: &Arc<Recorder>) -> Result<(Wal, Recovered), OpenError> {
    open_with(with_files(dir, Arc::clone(disk) as _))
}

/// A history of some openings on one disk, each of which ends well.
fn lived(seed: u64) -> (Arc<Recorder>, History, TempDir) {
    let dir = TempDir::new().unwrap();
    let disk = put(dir.path(), &BTreeMap::new(), &KEY);
    let mut history = History::new(seed);
    for _ in 0..2 + history.below(10) {
        let (wal, found) = start(dir.path(), &disk).unwrap();
        assert_eq!(found, history.model);
        let n = history.below(12);
        run(&wal, &disk, &mut history, n);
    }
    (disk, history, dir)
}

#[test]
fn between_any_two_operations() {
    for seed in 0..12 {
        let (disk, mut history, _dir) = lived(seed);
        for i in 0..60 {
            let what = format!("seed {seed}, crash {i}");
            let n = usize::try_from(history.below(u64::try_from(disk.len() + 1).unwrap())).unwrap();
            let (image, acknowledged, given) = disk.crash(n, seed * 1000 + i);
            let dir = TempDir::new().unwrap();
            let again = put(dir.path(), &image, &KEY);
            let begun = again.len();
            let (wal, found) = start(dir.path(), &again).unwrap_or_else(|e| panic!("{what}: {e}"));
            let at = history.find(&found, acknowledged, given, &what);
            let opened = again.len();
            let index = found.said.next;
            write(&wal, vec![entry(99, index, 30)]);
            drop(wal);
            assert_eq!(open(dir.path()).unwrap().1.entries[&index].term, 99, "{what}");
            // The opening itself is cut off; then what it would have found is there, if it had told anybody.
            for j in 0..4 {
                let n = begun
                    + usize::try_from(history.below(u64::try_from(opened - begun + 1).unwrap())).unwrap();
                let (image, _, _) = again.crash(n, seed * 7 + i * 31 + j);
                let dir = TempDir::new().unwrap();
                let third = put(dir.path(), &image, &KEY);
                let (_wal, found) = start(dir.path(), &third).unwrap_or_else(|e| panic!("{what}.{j}: {e}"));
                let least = if n == opened { at } else { acknowledged };
                history.find(&found, least, at, &format!("{what}.{j}"));
            }
        }
    }
}

#[test]
fn after_an_operation_that_failed() {
    let kinds = [io::ErrorKind::StorageFull, io::ErrorKind::Other];
    for (seed, n) in (0..400_u64).map(|i| (i, usize::try_from(i).unwrap() / 4)) {
        let kind = kinds[usize::try_from(seed % 2).unwrap()];
        let what = format!("seed {seed}, {kind:?} after {n}");
        let dir = TempDir::new().unwrap();
        let disk = put(dir.path(), &BTreeMap::new(), &KEY);
        let mut history = History::new(seed);
        let mut options = with_files(dir.path(), Arc::clone(&disk) as _);
        let (tell, told) = mpsc::channel();
        // Only the first is listened to.
        let hook: Hook = Arc::new(move |_, _| tell.send(()).unwrap_or_default());
        let silent: Hook = Arc::new(|file, e| panic!("{}: {e}", file.display()));
        options.hooks = if kind == io::ErrorKind::StorageFull {
            Hooks { full: hook, fatal: silent }
        } else {
            Hooks { full: silent, fatal: hook }
        };
        disk.fail_after(n, kind);
        let opened = open_with(options);
        if let Ok((wal, _)) = opened {
            run(&wal, &disk, &mut history, 30);
            // While it is open: what fails behind a log that is being closed is nobody's business.
            let failed = disk.heal();
            let is_told =
                if failed { told.recv_timeout(BEHIND_MAX).is_ok() } else { told.try_recv().is_ok() };
            assert_eq!(failed, is_told, "{what}: who has to know is told");
        } else {
            assert!(disk.heal(), "{what}: an opening fails for a reason");
        }
        // In the same boot: what a sync has lost is still to be read.
        let (_, acknowledged, given) = disk.crash(disk.len(), 0);
        let (wal, found) = start(dir.path(), &disk).unwrap_or_else(|e| panic!("{what}: {e}"));
        let at = history.find(&found, acknowledged, given, &what);
        history.goes_on_after(at);
        disk.given(at);
        disk.acknowledged(at);
        run(&wal, &disk, &mut history, 6);
        drop(wal);
        let (image, acknowledged, given) = disk.crash(disk.len(), seed);
        let dir = TempDir::new().unwrap();
        let third = put(dir.path(), &image, &KEY);
        let (_wal, found) = start(dir.path(), &third).unwrap_or_else(|e| panic!("{what}, power lost: {e}"));
        history.find(&found, acknowledged, given, &format!("{what}, power lost"));
    }
}
