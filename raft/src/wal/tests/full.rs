//! A disk without room: met where the spare segment is made, never in an append.

use tokio::time::Instant;

use super::*;

/// A disk that has room for so many files of a segment's size.
struct Small(AtomicUsize);

impl Files for Small {
    fn create(&self, path: &Path) -> io::Result<File> {
        if path.ends_with("keys.new") {
            return Unsynced.create(path);
        }
        let left = self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        left.map_err(|_| io::Error::from(io::ErrorKind::StorageFull))?;
        Unsynced.create(path)
    }

    fn sync(&self, _file: &File) -> io::Result<()> {
        Ok(())
    }

    fn sync_dir(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
    }
}

fn small(dir: &Path, room: usize) -> (Arc<Small>, Options, mpsc::Receiver<()>) {
    let disk = Arc::new(Small(AtomicUsize::new(room)));
    let mut options = with_files(dir, Arc::clone(&disk) as _);
    let (tell, told) = mpsc::channel();
    options.hooks.full = Arc::new(move |_, error| {
        assert!(space::is_full(error));
        tell.send(()).unwrap();
    });
    (disk, options, told)
}

/// Writes until it is refused; how many entries were acknowledged.
fn fill(wal: &Wal, from: u64) -> u64 {
    for index in from.. {
        let (done, written) = mpsc::channel();
        wal.write(vec![entry(1, index, 900)], Box::new(move |result| done.send(result).unwrap()));
        match written.recv().unwrap() {
            Ok(()) => {}
            Err(error) if space::is_full(&error) => return index,
            Err(error) => panic!("{error}"),
        }
    }
    unreachable!("it is refused")
}

#[test]
fn is_told_before_the_room_that_is_left_is_needed() {
    let dir = TempDir::new().unwrap();
    let (_, options, told) = small(dir.path(), 2);
    let (wal, _) = open_with(options).unwrap();
    write(&wal, vec![vote(1)]);
    assert!(told.try_recv().is_err(), "a segment, and a spare one");
    let mut index = 0;
    // The spare one is taken, and there is no room for another.
    while segment::list(dir.path()).unwrap().len() < 2 {
        write(&wal, vec![entry(1, index, 900)]);
        index += 1;
    }
    told.recv_timeout(BEHIND_MAX).unwrap();
    // In the last segment there is room for what a move of the lead takes.
    write(&wal, vec![entry(1, index, 900), vote(2)]);
    let n = fill(&wal, index + 1);
    let refused = mpsc::channel();
    wal.write(vec![vote(3)], Box::new(move |result| refused.0.send(result).unwrap()));
    assert!(refused.1.recv().unwrap().is_err(), "nothing is acknowledged from then on");
    drop(wal);
    assert!(!spare::new_path(dir.path()).exists(), "half a spare takes nobody's room");
    let (_wal, recovered) = open(dir.path()).unwrap();
    assert_eq!(u64::try_from(recovered.entries.len()).unwrap(), n);
    assert_eq!(recovered.said.vote.unwrap().term, 2);
}

#[test]
fn goes_on_once_there_is_room() {
    let dir = TempDir::new().unwrap();
    let mut n = 0;
    for _ in 0..3 {
        let (disk, options, _told) = small(dir.path(), 2);
        let (wal, recovered) = open_with(options).unwrap();
        assert_eq!(u64::try_from(recovered.entries.len()).unwrap(), n);
        n = fill(&wal, n);
        disk.0.store(5, Ordering::SeqCst);
        drop(wal);
        let (_, options, _told) = small(dir.path(), 0);
        let before = files(dir.path());
        let refused = Wal::open(options).expect_err("no room for a segment");
        let OpenError::NoSpace(why) = refused else { panic!("{refused}") };
        assert!(why.to_string().contains("make room on the disk of"), "{why}");
        assert_eq!(files(dir.path()).len(), before.len());
    }
}

#[test]
fn a_spare_segment_is_used_by_the_next_opening_or_goes() {
    let dir = TempDir::new().unwrap();
    let spare = spare::path(dir.path());
    let (wal, _) = open(dir.path()).unwrap();
    write(&wal, vec![entry(1, 0, 10)]);
    let limit = Instant::now() + BEHIND_MAX;
    while !spare.exists() {
        assert!(Instant::now() < limit, "a spare segment is made behind the log");
        std::thread::yield_now();
    }
    drop(wal);
    // No room is needed.
    let (_, options, _told) = small(dir.path(), 0);
    drop(open_with(options).unwrap());
    assert!(!spare.exists());
    drop(open(dir.path()).unwrap());
    for spoil in [&b"short"[..], &[7; 16 * 1024]] {
        fs::write(&spare, spoil).unwrap();
        fs::write(spare::new_path(dir.path()), b"half").unwrap();
        let (wal, recovered) = open(dir.path()).unwrap();
        assert_eq!(recovered.entries.len(), 1);
        write(&wal, vec![vote(3)]);
    }
    assert_eq!(open(dir.path()).unwrap().1.said.vote.unwrap().term, 3);
}
