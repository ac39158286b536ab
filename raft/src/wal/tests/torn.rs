//! The last write, interrupted: whatever of it reached the disk, all before it is there, and it is cut.

use super::*;

const LAST: u64 = 5;

/// A log whose last batch spans several sectors; its segment's bytes; where its last batch is.
fn torn_sample(dir: &Path) -> (Vec<u8>, std::ops::Range<usize>) {
    sample(dir, LAST, 60);
    let (wal, _) = open(dir).unwrap();
    write(&wal, vec![vote(2)]);
    write(&wal, vec![entry(2, LAST, 2000)]);
    drop(wal);
    let at = batches(dir, 2);
    let bytes = fs::read(segment::path(dir, 2)).unwrap();
    (bytes, at[1]..at[1] + batch::disk_len(record::encoded_len(&entry(2, LAST, 2000))))
}

/// What is recovered must be all, or all but the last batch.
fn check(dir: &Path, whole: bool, tail: usize, what: &str) {
    let scan = rescan(dir).unwrap_or_else(|e| panic!("{what}: {e}"));
    let n_entries = if whole { LAST + 1 } else { LAST };
    assert_eq!(u64::try_from(scan.recovered.entries.len()).unwrap(), n_entries, "{what}");
    assert_eq!(scan.recovered.said.vote.as_ref().unwrap().term, 2, "{what}");
    let end = scan.tail.unwrap();
    let at = usize::try_from(end.from).unwrap() + end.batch.len();
    assert_eq!((end.path, at == tail), (segment::path(dir, 2), !whole), "{what}");
    assert!(!(whole && end.is_torn), "{what}");
}

/// Opening cuts the tail for good, and the sequence number is used again.
fn reopen_and_go_on(dir: &Path, tail: usize, what: &str) {
    let (wal, recovered) = open(dir).unwrap_or_else(|e| panic!("{what}: {e}"));
    assert_eq!(u64::try_from(recovered.entries.len()).unwrap(), LAST, "{what}");
    write(&wal, vec![entry(3, LAST, 10)]);
    drop(wal);
    assert!(fs::read(segment::path(dir, 2)).unwrap()[tail..].iter().all(|byte| *byte == 0), "{what}");
    assert_eq!(rescan(dir).unwrap().recovered.entries[&LAST].term, 3, "{what}");
    // As before, for the next case.
    segment::list(dir)
        .unwrap()
        .into_iter()
        .skip(2)
        .for_each(|n| fs::remove_file(segment::path(dir, n)).unwrap());
}

#[test]
fn torn_at_every_byte() {
    let dir = TempDir::new().unwrap();
    let (bytes, last) = torn_sample(dir.path());
    let body = last.start + batch::HEADER_BYTES + record::encoded_len(&entry(2, LAST, 2000));
    let whole_at = body + crate::seal::TAG_BYTES;
    for end in last.clone() {
        let mut torn = bytes.clone();
        torn[end..].fill(0);
        // A tag that ends in zeros is whole some bytes earlier.
        let whole = torn[..whole_at] == bytes[..whole_at];
        fs::write(segment::path(dir.path(), 2), &torn).unwrap();
        check(dir.path(), whole, last.start, &format!("torn at byte {end}"));
        if !whole && end % 97 == 0 {
            reopen_and_go_on(dir.path(), last.start, &format!("torn at byte {end}"));
        }
    }
}

#[test]
fn any_subset_of_the_last_writes_sectors_lost() {
    let dir = TempDir::new().unwrap();
    let (bytes, last) = torn_sample(dir.path());
    let n_sectors = last.len() / batch::ALIGN;
    assert!(n_sectors >= 4);
    for lost in 0_u32..1 << n_sectors {
        let mut torn = bytes.clone();
        for sector in (0..n_sectors).filter(|sector| lost & (1 << sector) != 0) {
            let at = last.start + sector * batch::ALIGN;
            torn[at..at + batch::ALIGN].fill(0);
        }
        fs::write(segment::path(dir.path(), 2), &torn).unwrap();
        let what = format!("sectors {lost:b} lost");
        check(dir.path(), lost == 0, last.start, &what);
        if lost != 0 && lost % 3 == 0 {
            reopen_and_go_on(dir.path(), last.start, &what);
        }
    }
}

#[test]
fn a_torn_tail_of_an_earlier_segment_is_no_damage() {
    let dir = TempDir::new().unwrap();
    let (mut bytes, last) = torn_sample(dir.path());
    bytes[last.start + batch::ALIGN..last.start + 2 * batch::ALIGN].fill(0);
    fs::write(segment::path(dir.path(), 2), &bytes).unwrap();
    for index in LAST..LAST + 3 {
        let (wal, recovered) = open(dir.path()).unwrap();
        assert_eq!(u64::try_from(recovered.entries.len()).unwrap(), index);
        write(&wal, vec![entry(3, index, 10)]);
    }
}
