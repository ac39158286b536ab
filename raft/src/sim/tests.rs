//! What a crash of a simulated disk leaves: all that was acknowledged, nothing behind a hole.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::wal::record::{Content, EntryRecord, Kind};

/// Longer than a sector.
fn entry(index: u64) -> Record {
    let content = Some(Content::Command(Bytes::from(vec![7; 700])));
    Kind::Entry(EntryRecord { term: 1, index, content }).into()
}

/// Writes entries one by one, crashes after `micros`, and says what was acknowledged and what is there.
fn crashed(seed: u64, micros: u64) -> (u64, u64, bool) {
    let dir = tempfile::tempdir().unwrap();
    let disk = SimDisk::new(seed, dir.path().to_owned());
    disk.recover().unwrap();
    let acknowledged = Arc::new(AtomicU64::new(0));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.unwrap().block_on(async {
        for index in 0..40 {
            let acknowledged = acknowledged.clone();
            let done = move |result: io::Result<()>| {
                result.unwrap();
                acknowledged.store(index + 1, Ordering::Relaxed);
            };
            // Some batches are of one entry, some of many.
            Disk::write(&disk, vec![entry(index)], Box::new(done));
            tokio::time::sleep(Duration::from_micros(300)).await;
        }
        tokio::time::sleep(Duration::from_micros(micros)).await;
    });
    disk.crash();
    let there = disk.recover().unwrap().said.next;
    (acknowledged.load(Ordering::Relaxed), there, disk.torn_tails() > 0)
}

#[test]
fn a_crash_keeps_what_was_acknowledged_and_any_part_of_the_rest() {
    let runs: Vec<_> = (0..200).map(|seed| crashed(seed, seed * 20)).collect();
    assert!(runs.iter().all(|(acknowledged, there, _)| acknowledged <= there && *there <= 40), "{runs:?}");
    let count = |what: fn(&(u64, u64, bool)) -> bool| runs.iter().filter(|run| what(run)).count();
    assert!(count(|(_, there, _)| *there < 40) > 10, "something is lost: {runs:?}");
    assert!(count(|(acknowledged, there, _)| acknowledged < there) > 10, "or kept unsaid: {runs:?}");
    assert!(count(|(_, _, torn)| *torn) > 10, "or torn: {runs:?}");
}
