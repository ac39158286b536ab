//! A log that begins anew: cut off at any place it says the same, and older segments go.

use super::*;

type Files = BTreeMap<String, Vec<u8>>;

/// A log of several segments that begins anew with all that it says; its files before and after, and what
/// it says.
fn begun(dir: &Path) -> (Files, Files, Recovered) {
    sample(dir, 12, 900);
    let (wal, recovered) = open(dir).unwrap();
    write(&wal, vec![vote(2)]);
    drop(wal);
    let (wal, _) = open(dir).unwrap();
    let before = files(dir);
    let recovered =
        Recovered { vote: Some(VoteRecord { term: 2, raft_id: 7, committed: true }), ..recovered };
    wal.begin_anew(recovered.records());
    drop(wal);
    (before, files(dir), recovered)
}

fn put(dir: &Path, files: &Files) {
    for number in segment::list(dir).unwrap() {
        fs::remove_file(segment::path(dir, number)).unwrap();
    }
    for (name, bytes) in files {
        fs::write(dir.join(name), bytes).unwrap();
    }
}

#[test]
fn older_segments_go_and_nothing_else() {
    let dir = TempDir::new().unwrap();
    let (before, after, said) = begun(dir.path());
    let segments = |files: &Files| files.keys().filter(|name| name.ends_with(".seg")).count();
    assert!(segments(&before) >= SEGMENTS_AT_PURGE, "{:?}", before.keys());
    assert_eq!(segments(&after), 1);
    let (wal, recovered) = open(dir.path()).unwrap();
    assert_eq!(recovered, said);
    write(&wal, vec![entry(2, 12, 10)]);
    drop(wal);
    assert_eq!(open(dir.path()).unwrap().1.entries.len(), 13);
}

#[test]
fn cut_off_anywhere_it_says_the_same() {
    let dir = TempDir::new().unwrap();
    let (before, after, said) = begun(dir.path());
    let (newest, whole) = after.iter().find(|(name, _)| name.ends_with(".seg")).unwrap();
    let old: Vec<&String> = before.keys().filter(|name| name.ends_with(".seg")).collect();
    // The batch is on its way to the disk.
    let header = usize::try_from(segment::HEADER_BYTES).unwrap();
    for kept in [header, header + 16, header + 512, header + 4096, whole.len()] {
        let mut state = before.clone();
        let mut bytes = whole.clone();
        bytes[kept..].fill(0);
        state.insert(newest.clone(), bytes);
        put(dir.path(), &state);
        assert_eq!(open(dir.path()).unwrap().1, said, "cut at {kept}");
        let is_whole = kept == whole.len();
        assert_eq!(segment::list(dir.path()).unwrap().len() <= 2, is_whole, "what it stands for is gone");
    }
    // The older ones go one by one; one that is damaged by then is of no weight.
    for gone in 0..=old.len() {
        let mut state = before.clone();
        old[..gone].iter().for_each(|name| drop(state.remove(*name)));
        if let Some(bytes) = old.get(gone).and_then(|name| state.get_mut(*name)) {
            bytes[header] ^= 1;
        }
        state.insert(newest.clone(), whole.clone());
        put(dir.path(), &state);
        assert_eq!(open(dir.path()).unwrap().1, said, "without {gone}");
    }
    // Damaged itself it is not taken for a torn one: what it stood for is gone.
    let mut bytes = whole.clone();
    bytes[header + 40] ^= 1;
    put(
        dir.path(),
        &after
            .iter()
            .map(|(name, old)| (name.clone(), if name == newest { bytes.clone() } else { old.clone() }))
            .collect(),
    );
    assert!(matches!(open(dir.path()), Err(OpenError::Damaged { .. })));
}

#[test]
fn many_openings_leave_few_segments() {
    let dir = TempDir::new().unwrap();
    sample(dir.path(), 3, 50);
    for term in 2..40 {
        let (wal, recovered) = open(dir.path()).unwrap();
        assert_eq!(recovered.entries.len(), 3);
        assert_eq!(recovered.vote.unwrap().term, term - 1);
        write(&wal, vec![vote(term)]);
        drop(wal);
        assert!(segment::list(dir.path()).unwrap().len() <= SEGMENTS_AT_OPENING + 1);
    }
}
