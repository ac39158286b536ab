//! What is purged or truncated frees the disk, without a live entry written again.

use super::*;

/// Waits until the thread that removes segments has done so: an order before an opening is carried out by
/// the end of it.
fn n_segments(dir: &Path, wal: Wal) -> usize {
    drop(wal);
    segment::list(dir).unwrap().len()
}

fn purge(wal: &Wal, index: u64) {
    write(wal, vec![Kind::Purged(LogPosition { term: 1, index }).into()]);
}

#[test]
fn segments_without_an_entry_that_counts_go() {
    let dir = TempDir::new().unwrap();
    let (wal, _) = open(dir.path()).unwrap();
    write(&wal, vec![vote(5)]);
    (0..100).for_each(|index| write(&wal, vec![entry(1, index, 900)]));
    let all = segment::list(dir.path()).unwrap().len();
    assert!(all > 8, "{all}");
    purge(&wal, 49);
    assert!((all / 2..=all / 2 + 2).contains(&n_segments(dir.path(), wal)));
    let (wal, recovered) = open(dir.path()).unwrap();
    assert_eq!(recovered.entries.keys().copied().collect::<Vec<_>>(), (50..100).collect::<Vec<_>>());
    assert_eq!(recovered.said.vote.as_ref().unwrap().term, 5, "which an older segment said first");
    // All of it: the only segment left is the one that says so.
    purge(&wal, 99);
    assert_eq!(n_segments(dir.path(), wal), 1);
    let (wal, recovered) = open(dir.path()).unwrap();
    assert_eq!((recovered.entries.len(), recovered.said.next, recovered.said.first()), (0, 100, 100));
    write(&wal, vec![entry(6, 100, 10)]);
    drop(wal);
    assert_eq!(open(dir.path()).unwrap().1.entries.len(), 1);
}

#[test]
fn a_snapshot_from_elsewhere_ends_the_log() {
    let dir = TempDir::new().unwrap();
    sample(dir.path(), 60, 900);
    let (wal, _) = open(dir.path()).unwrap();
    purge(&wal, 5000);
    write(&wal, vec![entry(1, 5001, 10)]);
    assert_eq!(n_segments(dir.path(), wal), 1);
    assert_eq!(open(dir.path()).unwrap().1.entries.into_keys().collect::<Vec<_>>(), [5001]);
}

#[test]
fn truncated_segments_go_too() {
    let dir = TempDir::new().unwrap();
    sample(dir.path(), 60, 900);
    let (wal, _) = open(dir.path()).unwrap();
    write(&wal, vec![Kind::Truncate(TruncateRecord { keep_to: None }).into(), entry(2, 0, 10)]);
    assert_eq!(n_segments(dir.path(), wal), 1);
    assert_eq!(open(dir.path()).unwrap().1.entries[&0].term, 2);
}

#[test]
fn an_unfinished_removal_opens_to_the_same_whichever_are_left() {
    let dir = TempDir::new().unwrap();
    sample(dir.path(), 60, 900);
    let before = files(dir.path());
    let (wal, _) = open(dir.path()).unwrap();
    purge(&wal, 40);
    drop(wal);
    let after = files(dir.path());
    let said = rescan(dir.path()).unwrap().recovered;
    let gone: Vec<&String> = before.keys().filter(|name| !after.contains_key(*name)).collect();
    assert!(gone.len() >= 3, "{gone:?}");
    for left in 0_u32..1 << gone.len().min(6) {
        for (i, name) in gone.iter().enumerate().filter(|(i, _)| left & (1 << i) != 0) {
            assert!(i < 32);
            fs::write(dir.path().join(name), &before[*name]).unwrap();
        }
        assert_eq!(rescan(dir.path()).unwrap().recovered, said, "left: {left:b}");
        gone.iter().for_each(|name| drop(fs::remove_file(dir.path().join(name))));
    }
    // One of those that count is another matter.
    let newest = segment::list(dir.path()).unwrap();
    fs::remove_file(segment::path(dir.path(), newest[1])).unwrap();
    let error = rescan(dir.path()).unwrap_err();
    assert!(error.to_string().contains("with entries"), "{error}");
}

#[test]
fn many_openings_leave_few_segments() {
    let dir = TempDir::new().unwrap();
    sample(dir.path(), 3, 50);
    for term in 2..40 {
        let (wal, recovered) = open(dir.path()).unwrap();
        assert_eq!(recovered.entries.len(), 3);
        assert_eq!(recovered.said.vote.unwrap().term, term - 1);
        write(&wal, vec![vote(term)]);
        assert!(n_segments(dir.path(), wal) <= 10);
    }
}
