//! Any sequence of writes and openings, torn or not, reads back as a plain map says.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Op {
    Append {
        n: u64,
        len: usize,
    },
    Vote,
    Truncate {
        back: u64,
    },
    Commit,
    /// Of what is committed, all but so many entries.
    Purge {
        kept: u64,
    },
    Reopen,
    /// The last batch lost its end before the next opening.
    Tear {
        keep: usize,
    },
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (1..6_u64, 0..1500_usize).prop_map(|(n, len)| Op::Append { n, len }),
        1 => Just(Op::Vote),
        1 => (0..5_u64).prop_map(|back| Op::Truncate { back }),
        1 => Just(Op::Commit),
        1 => (0..4_u64).prop_map(|kept| Op::Purge { kept }),
        1 => Just(Op::Reopen),
        2 => (0..600_usize).prop_map(|keep| Op::Tear { keep }),
    ]
}

struct World {
    dir: TempDir,
    wal: Option<Wal>,
    model: Recovered,
    /// The model before the last durable write.
    before: Recovered,
    term: u64,
}

impl World {
    fn next(&self) -> u64 {
        self.model.said.next
    }

    fn durable(&mut self, records: Vec<Record>) {
        records.iter().for_each(|record| self.model.take(record.clone()).unwrap());
        write(self.wal.as_ref().unwrap(), records);
    }

    fn step(&mut self, op: &Op) {
        let before = self.model.clone();
        let committed = self.model.said.committed.clone();
        match op {
            Op::Append { n, len } => {
                let records = (self.next()..self.next() + n).map(|i| entry(self.term, i, *len)).collect();
                self.durable(records);
            }
            Op::Vote => {
                self.term += 1;
                self.durable(vec![vote(self.term)]);
            }
            Op::Truncate { back } => {
                let least = committed.map_or(0, |c| c.index + 1);
                let first_gone = self.next().saturating_sub(*back).max(least);
                let keep_to = first_gone.checked_sub(1);
                self.durable(vec![Kind::Truncate(TruncateRecord { keep_to }).into()]);
            }
            Op::Commit => {
                let Some((index, entry)) = self.model.entries.last_key_value() else { return };
                let position = LogPosition { term: entry.term, index: *index };
                self.durable(vec![Kind::Committed(position).into()]);
            }
            Op::Purge { kept } => {
                let to = committed.and_then(|committed| committed.index.checked_sub(*kept));
                let Some(index) = to.filter(|to| *to >= self.model.said.first()) else { return };
                self.durable(vec![Kind::Purged(LogPosition { term: 1, index }).into()]);
            }
            Op::Reopen => return self.reopen(),
            Op::Tear { keep } => return self.tear(*keep),
        }
        self.before = before;
    }

    fn reopen(&mut self) {
        self.wal = None;
        let (wal, recovered) = open(self.dir.path()).unwrap();
        assert_eq!(recovered, self.model);
        self.wal = Some(wal);
    }

    fn tear(&mut self, keep: usize) {
        // What is purged or truncated and durable may be gone from the disk: no crash takes that back.
        if self.before.said.first() != self.model.said.first() || self.before.said.next > self.model.said.next
        {
            return self.reopen();
        }
        self.wal = None;
        let number = *segment::list(self.dir.path()).unwrap().last().unwrap();
        if let Some(at) = batches(self.dir.path(), number).last() {
            let path = segment::path(self.dir.path(), number);
            let mut bytes = fs::read(&path).unwrap();
            let kept = bytes.len().min(at + keep);
            bytes[kept..].fill(0);
            fs::write(path, bytes).unwrap();
            // A job over the size of a segment is several batches: any beginning of it may be there.
            let (wal, recovered) = open(self.dir.path()).unwrap();
            let low = self.before.entries.len().min(self.model.entries.len());
            let high = self.before.entries.len().max(self.model.entries.len());
            assert!((low..=high).contains(&recovered.entries.len()));
            assert!(
                recovered.said.vote == self.before.said.vote || recovered.said.vote == self.model.said.vote
            );
            self.model = recovered;
            self.wal = Some(wal);
            self.before = self.model.clone();
            return;
        }
        self.reopen();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn reads_back_what_a_map_says(ops in proptest::collection::vec(op(), 1..30)) {
        let dir = TempDir::new().unwrap();
        let (wal, _) = open(dir.path()).unwrap();
        let (model, before) = (Recovered::default(), Recovered::default());
        let mut world = World { dir, wal: Some(wal), model, before, term: 1 };
        ops.iter().for_each(|op| world.step(op));
        world.reopen();
    }
}
