//! What no torn write leaves behind: refused by file and offset, and nothing is changed.

use super::*;

/// Spoils a log by `spoil`, and expects an opening to fail without a trace; returns the error.
fn refused(n: u64, spoil: impl FnOnce(&Path)) -> OpenError {
    let dir = TempDir::new().unwrap();
    sample(dir.path(), n, 600);
    drop(open(dir.path()).unwrap());
    spoil(dir.path());
    let before = files(dir.path());
    let error = open(dir.path()).expect_err("this log must not open");
    assert!(files(dir.path()) == before, "{error}: something was changed");
    error
}

fn damage_at(error: &OpenError) -> (String, u64) {
    let OpenError::Damaged { file, offset, .. } = error else { panic!("not damage: {error}") };
    let name = file.file_name().unwrap().to_str().unwrap().to_owned();
    assert!(error.to_string().contains(&format!("{name} is damaged at byte {offset}")), "{error}");
    (name, *offset)
}

fn flip(dir: &Path, number: u64, at: usize) {
    let path = segment::path(dir, number);
    let mut bytes = fs::read(&path).unwrap();
    bytes[at] ^= 0x10;
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_bit_flipped_in_any_batch_but_the_last() {
    let first = TempDir::new().unwrap();
    sample(first.path(), 40, 600);
    let segments: Vec<u64> = segment::list(first.path()).unwrap();
    assert!(segments.len() >= 3);
    for number in segments {
        let all = batches(first.path(), number);
        // The last batch of a segment too: the next segment says where it begins.
        for (i, inner) in [(0, 0), (1, 9), (2, 100), (all.len() - 1, 20), (all.len() - 1, 200)] {
            let at = all[i];
            let error = refused(40, |dir| flip(dir, number, at + inner));
            let name = format!("wal-{number:016x}.seg");
            assert_eq!(damage_at(&error), (name, u64::try_from(at).unwrap()), "byte {inner} of batch {i}");
        }
    }
}

#[test]
fn a_bit_flipped_in_any_byte_of_the_last_write() {
    // Nothing says that more was written: but a torn write lacks something, and this one does not.
    let dir = TempDir::new().unwrap();
    sample(dir.path(), 2, 1200);
    let (number, at) = (1, *batches(dir.path(), 1).last().unwrap());
    let bytes = fs::read(segment::path(dir.path(), number)).unwrap();
    let last = batch::FRAME_BYTES + record::encoded_len(&entry(1, 1, 1200));
    for inner in (0..last).filter(|inner| *inner < 600 || inner % 7 == 0 || inner + 40 > last) {
        let mut spoilt = bytes.clone();
        spoilt[at + inner] ^= 1 << (inner % 8);
        fs::write(segment::path(dir.path(), number), &spoilt).unwrap();
        let error = rescan(dir.path()).expect_err("a write that was acknowledged is not cut");
        let name = format!("wal-{number:016x}.seg");
        // One bit of the version makes a newer format of it.
        if !matches!(error, OpenError::NewerFormat { .. }) {
            assert_eq!(damage_at(&error), (name, u64::try_from(at).unwrap()), "byte {inner}");
        }
    }
}

#[test]
fn a_bit_flipped_in_a_last_write_that_ends_in_zeros() {
    // One in 256 does, and lacks nothing.
    let dir = TempDir::new().unwrap();
    let (wal, _) = open(dir.path()).unwrap();
    let last = (0..).find(|index| {
        write(&wal, vec![entry(1, *index, 100)]);
        let number = segment::list(dir.path()).unwrap().last().copied().unwrap();
        let at = *batches(dir.path(), number).last().unwrap();
        let bytes = fs::read(segment::path(dir.path(), number)).unwrap();
        bytes[at + batch::FRAME_BYTES + record::encoded_len(&entry(1, *index, 100)) - 2] == 0
    });
    drop(wal);
    let number = segment::list(dir.path()).unwrap().last().copied().unwrap();
    let at = *batches(dir.path(), number).last().unwrap();
    flip(dir.path(), number, at + 50);
    let error = rescan(dir.path()).expect_err("a write that was acknowledged is not cut");
    assert_eq!(damage_at(&error).1, u64::try_from(at).unwrap(), "{last:?}");
}

#[test]
fn a_bit_flipped_in_what_every_segment_begins_with() {
    let header = usize::try_from(segment::HEADER_BYTES).unwrap();
    for number in [1, 2] {
        for at in [header, header + 20, header + 40] {
            let error = refused(3, |dir| flip(dir, number, at));
            assert_eq!(
                damage_at(&error),
                (format!("wal-{number:016x}.seg"), segment::HEADER_BYTES),
                "byte {at}"
            );
        }
    }
}

#[test]
fn a_bit_flipped_where_nothing_was_written() {
    let dir = TempDir::new().unwrap();
    sample(dir.path(), 4, 100);
    let path = segment::path(dir.path(), 1);
    let bytes = fs::read(&path).unwrap();
    let all = batches(dir.path(), 1);
    let (end, last) = (all[0] + batch::ALIGN, all[all.len() - 1] + batch::ALIGN);
    assert!(bytes[end - 100..end].iter().chain(&bytes[last - 100..last]).all(|byte| *byte == 0));
    for (at, offset) in
        [(100, 92), (4095, 92), (end - 100, all[0]), (end - 1, all[0]), (last - 1, last - 512)]
    {
        let mut spoilt = bytes.clone();
        spoilt[at] ^= 1;
        fs::write(&path, &spoilt).unwrap();
        let error = rescan(dir.path()).expect_err("it was written as zeros");
        assert_eq!(damage_at(&error).1, u64::try_from(offset).unwrap(), "byte {at}");
    }
}

#[test]
fn a_batch_lost_in_the_middle() {
    let mut offset = 0;
    let error = refused(6, |dir| {
        let all = batches(dir, 1);
        let path = segment::path(dir, 1);
        let mut bytes = fs::read(&path).unwrap();
        bytes[all[3]..all[4]].fill(0);
        fs::write(path, bytes).unwrap();
        offset = u64::try_from(all[3]).unwrap();
    });
    assert_eq!(damage_at(&error), ("wal-0000000000000001.seg".to_owned(), offset));
}

#[test]
fn a_batch_from_elsewhere_or_rewritten() {
    // One batch over another: whole, but not at its place.
    let error = refused(6, |dir| {
        let all = batches(dir, 1);
        let path = segment::path(dir, 1);
        let mut bytes = fs::read(&path).unwrap();
        bytes.copy_within(all[2]..all[3], all[1]);
        fs::write(path, bytes).unwrap();
    });
    assert!(error.to_string().contains("batch 3 should stand here, not 4"), "{error}");
    // Altered by someone who knows how to make checksums, in the last batch: still not a torn tail.
    let error = refused(6, |dir| {
        let at = *batches(dir, 1).last().unwrap();
        let path = segment::path(dir, 1);
        let mut bytes = fs::read(&path).unwrap();
        bytes[at + 50] ^= 1;
        let len = u32::from_le_bytes(bytes[at + 16..at + 20].try_into().unwrap());
        let body = at + 32..at + 32 + usize::try_from(len).unwrap();
        let crc = crc32fast::hash(&bytes[body]).to_le_bytes();
        bytes[at + 20..at + 24].copy_from_slice(&crc);
        let crc = crc32fast::hash(&bytes[at..at + 28]).to_le_bytes();
        bytes[at + 28..at + 32].copy_from_slice(&crc);
        fs::write(path, bytes).unwrap();
    });
    assert!(error.to_string().contains("it was altered"), "{error}");
}

#[test]
fn segments_missing_swapped_or_cut_short() {
    let error = refused(40, |dir| fs::remove_file(segment::path(dir, 2)).unwrap());
    assert_eq!(damage_at(&error), ("wal-0000000000000002.seg".to_owned(), 0));
    let error = refused(40, |dir| fs::remove_file(segment::path(dir, 1)).unwrap());
    assert_eq!(damage_at(&error), ("wal-0000000000000001.seg".to_owned(), 0));
    let error = refused(40, |dir| {
        fs::copy(segment::path(dir, 1), segment::path(dir, 2)).unwrap();
    });
    assert!(error.to_string().contains("segment 1 under another name"), "{error}");
    let error = refused(4, |dir| {
        let path = segment::path(dir, 1);
        let bytes = fs::read(&path).unwrap();
        fs::write(path, &bytes[..9000]).unwrap();
    });
    assert_eq!(damage_at(&error), ("wal-0000000000000001.seg".to_owned(), 9000));
    let error = refused(4, |dir| fs::write(segment::path(dir, 1), b"").unwrap());
    assert_eq!(damage_at(&error), ("wal-0000000000000001.seg".to_owned(), 0));
}

#[test]
fn a_header_damaged_or_newer() {
    for at in [0, 9, 17, 25, 33, 50, 80, 89] {
        let error = refused(4, |dir| flip(dir, 1, at));
        let newer = matches!(error, OpenError::NewerFormat { version: 4099, .. });
        assert!(newer || matches!(error, OpenError::Damaged { offset: 0, .. }), "byte {at}: {error}");
        assert_eq!(newer, at == 9, "byte {at}");
    }
}

#[test]
fn keys_wrong_missing_or_malformed() {
    let other = crate::keys::plain_file([7; 32]);
    let error = refused(4, |dir| fs::write(Keys::path(dir), &other).unwrap());
    assert!(matches!(error, OpenError::WrongKey { .. }), "{error}");
    let error = refused(4, |dir| fs::remove_file(Keys::path(dir)).unwrap());
    assert!(matches!(error, OpenError::MissingKey { .. }), "{error}");
    let error = refused(4, |dir| fs::write(Keys::path(dir), [7; 31]).unwrap());
    assert!(matches!(error, OpenError::DamagedKeys { offset: 31, .. }), "{error}");
}
