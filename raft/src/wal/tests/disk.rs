//! A disk that remembers every operation, fails where it is told to, and says what a crash after any of
//! them may leave: of what is not synced any subset, sector by sector and name by name.

use std::os::unix::fs::MetadataExt;

use super::*;
use crate::sim::random;

/// One thing that happened, in order.
#[derive(Clone)]
enum Op {
    Create(String, usize),
    Write(usize, u64, Vec<u8>),
    Sync(usize),
    /// A sync that failed: what was to be synced is in memory, and counts as written.
    Lost(usize),
    Rename(String, String, usize),
    Remove(String),
    SyncDir,
    /// So many records were given to the log,
    Given(usize),
    /// so many acknowledged.
    Acknowledged(usize),
}

#[derive(Default)]
struct State {
    ops: Vec<Op>,
    /// The files by inode.
    files: BTreeMap<u64, usize>,
    names: BTreeMap<String, usize>,
    n_files: usize,
    /// After so many further changes of the disk, one fails like this; all later ones too if it is the room.
    fail: Option<(usize, io::ErrorKind)>,
    failed: bool,
}

/// The disk; it passes everything on to a directory.
#[derive(Default)]
pub(super) struct Recorder(Mutex<State>);

pub(super) type Image = BTreeMap<String, Vec<u8>>;

impl State {
    /// Whether this change fails.
    fn fails(&mut self) -> io::Result<()> {
        match &mut self.fail {
            Some((0, kind)) => {
                self.failed = true;
                let error = Err((*kind).into());
                if *kind != io::ErrorKind::StorageFull {
                    self.fail = None;
                }
                error
            }
            Some((left, _)) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Which file that is; one that was there at the beginning is as durable as it is.
    fn file(&mut self, file: &File) -> usize {
        let ino = file.metadata().unwrap().ino();
        self.files[&ino]
    }
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_str().unwrap().to_owned()
}

impl Recorder {
    /// The changes after the next `n` fail.
    pub(super) fn fail_after(&self, n: usize, kind: io::ErrorKind) {
        self.0.lock().unwrap().fail = Some((n, kind));
    }

    /// Nothing fails any more; whether anything did.
    pub(super) fn heal(&self) -> bool {
        let mut state = self.0.lock().unwrap();
        state.fail = None;
        std::mem::take(&mut state.failed)
    }

    pub(super) fn given(&self, n: usize) {
        self.0.lock().unwrap().ops.push(Op::Given(n));
    }

    pub(super) fn acknowledged(&self, n: usize) {
        self.0.lock().unwrap().ops.push(Op::Acknowledged(n));
    }

    pub(super) fn len(&self) -> usize {
        self.0.lock().unwrap().ops.len()
    }

    /// What may be on the disk after the first `n` operations and a crash; how many records were
    /// acknowledged by then, and how many given.
    pub(super) fn crash(&self, n: usize, seed: u64) -> (Image, usize, usize) {
        let ops = self.0.lock().unwrap().ops[..n].to_vec();
        let mut platter = Platter::default();
        let (mut acknowledged, mut given) = (0, 0);
        for op in ops {
            match op {
                Op::Given(n) => given = n,
                Op::Acknowledged(n) => acknowledged = n,
                Op::Create(..)
                | Op::Write(..)
                | Op::Sync(_)
                | Op::Lost(_)
                | Op::Rename(..)
                | Op::Remove(_)
                | Op::SyncDir => platter.take(op),
            }
        }
        (platter.crash(seed), acknowledged, given)
    }
}

/// What is durable, and what is on its way.
#[derive(Default)]
struct Platter {
    names: BTreeMap<String, usize>,
    files: BTreeMap<usize, Vec<u8>>,
    unsynced_names: Vec<Op>,
    unsynced: Vec<(usize, u64, Vec<u8>)>,
}

impl Platter {
    fn take(&mut self, op: Op) {
        match op {
            Op::Create(_, file) => {
                self.files.insert(file, Vec::new());
                self.unsynced_names.push(op);
            }
            Op::Write(file, at, bytes) => self.unsynced.push((file, at, bytes)),
            Op::Sync(file) => {
                let writes = std::mem::take(&mut self.unsynced);
                let (synced, rest): (Vec<_>, Vec<_>) = writes.into_iter().partition(|w| w.0 == file);
                self.unsynced = rest;
                synced.iter().for_each(|(_, at, bytes)| self.put(file, *at, bytes));
            }
            Op::Lost(file) => self.unsynced.retain(|w| w.0 != file),
            Op::Rename(..) | Op::Remove(_) => self.unsynced_names.push(op),
            Op::SyncDir => {
                for op in std::mem::take(&mut self.unsynced_names) {
                    self.change_names(op);
                }
            }
            Op::Given(_) | Op::Acknowledged(_) => unreachable!("no change of the disk"),
        }
    }

    fn put(&mut self, file: usize, at: u64, bytes: &[u8]) {
        let content = self.files.get_mut(&file).unwrap();
        let at = usize::try_from(at).unwrap();
        if content.len() < at + bytes.len() {
            content.resize(at + bytes.len(), 0);
        }
        content[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn change_names(&mut self, op: Op) {
        match op {
            Op::Create(name, file) => drop(self.names.insert(name, file)),
            Op::Rename(from, to, file) => {
                if self.names.get(&from) == Some(&file) {
                    self.names.remove(&from);
                }
                self.names.insert(to, file);
            }
            Op::Remove(name) => drop(self.names.remove(&name)),
            Op::Write(..) | Op::Sync(_) | Op::Lost(_) | Op::SyncDir | Op::Given(_) | Op::Acknowledged(_) => {
                unreachable!("no change of names")
            }
        }
    }

    fn crash(mut self, seed: u64) -> Image {
        let mut row = seed;
        // Nothing, everything, or a coin for each.
        let mode = random(&mut row) % 3;
        let mut kept = move || mode == 1 || mode == 2 && random(&mut row).is_multiple_of(2);
        for op in std::mem::take(&mut self.unsynced_names) {
            if kept() {
                self.change_names(op);
            }
        }
        for (file, at, bytes) in std::mem::take(&mut self.unsynced) {
            for (i, sector) in (0..).zip(bytes.chunks(batch::ALIGN)) {
                if kept() {
                    self.put(file, at + i * u64::try_from(batch::ALIGN).unwrap(), sector);
                }
            }
        }
        self.names.iter().map(|(name, file)| (name.clone(), self.files[file].clone())).collect()
    }
}

impl Files for Recorder {
    fn create(&self, path: &Path) -> io::Result<File> {
        let mut state = self.0.lock().unwrap();
        state.fails()?;
        let file = Unsynced.create(path)?;
        state.n_files += 1;
        let number = state.n_files;
        state.files.insert(file.metadata()?.ino(), number);
        state.names.insert(name(path), number);
        state.ops.push(Op::Create(name(path), number));
        Ok(file)
    }

    fn write(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        let number = state.file(file);
        let failing = state.fails();
        // A disk that fills up takes some of it.
        let bytes = if failing.is_err() { &bytes[..bytes.len() / 2] } else { bytes };
        Unsynced.write(file, bytes, offset)?;
        state.ops.push(Op::Write(number, offset, bytes.to_vec()));
        failing
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        let number = state.file(file);
        let failing = state.fails();
        state.ops.push(if failing.is_err() { Op::Lost(number) } else { Op::Sync(number) });
        failing
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        Unsynced.rename(from, to)?;
        let file = state.names.remove(&name(from)).expect("it is there");
        state.names.insert(name(to), file);
        state.ops.push(Op::Rename(name(from), name(to), file));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        if path.exists() {
            Unsynced.remove(path)?;
            state.ops.push(Op::Remove(name(path)));
        }
        Ok(())
    }

    fn sync_dir(&self, _dir: &Path) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        state.ops.push(Op::SyncDir);
        Ok(())
    }
}

/// A disk that holds `image`, durably, in `dir`; and the key beside it.
pub(super) fn put(dir: &Path, image: &Image, key: &[u8; 32]) -> Arc<Recorder> {
    let recorder = Recorder::default();
    for (name, bytes) in image {
        let file = recorder.create(&dir.join(name)).unwrap();
        recorder.write(&file, bytes, 0).unwrap();
        recorder.sync(&file).unwrap();
    }
    recorder.sync_dir(dir).unwrap();
    fs::write(Keys::path(dir), crate::keys::plain_file(*key)).unwrap();
    Arc::new(recorder)
}
