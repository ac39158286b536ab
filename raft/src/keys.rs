//! The keys of a member at rest: one small file of numbered data keys, plain or wrapped under an unlock key.
//!
//! Each file of the log, each snapshot and each secret beside them names the number of its data key. New
//! files take the current one; another one is forgotten once nothing names it. The key file is replaced as a
//! whole (tmp, fsync, rename, fsync of the directory): cut off anywhere, it is the old or the new one. It never
//! says which unlock key it wants but by opening: keys are never in logs, errors or `Debug`.

mod file;
mod secret;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::{self, DirBuilder};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use self::file::Unread;
pub use self::secret::{KeyHeld, SealedSecret};
use crate::error::OpenError;
use crate::seal::{self, DataKey};
use crate::snapshot;
use crate::wal::files::{Files, RealFiles};
use crate::wal::segment;

const FILE: &str = "keys";
/// The number of the first data key of a member.
const FIRST: u32 = 1;

/// What a wrapped key file is opened with. The whole swarm has one.
#[derive(Clone, PartialEq, Eq)]
pub struct UnlockKey(Vec<u8>);

impl UnlockKey {
    /// Of bytes that somebody kept; of any length, as a wrong one is told only by its failing.
    pub fn new(bytes: impl Into<Vec<u8>>) -> UnlockKey {
        UnlockKey(bytes.into())
    }

    /// A fresh one, 32 bytes as Swarm's.
    ///
    /// # Errors
    /// The system gives no random numbers.
    pub fn generate() -> Result<UnlockKey, OpenError> {
        seal::random().map(UnlockKey::new)
    }

    /// The bytes, for who shows or keeps them.
    #[must_use]
    pub fn reveal(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for UnlockKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UnlockKey(redacted)")
    }
}

/// What a key file holds.
#[derive(Clone)]
struct Ring {
    current: u32,
    keys: BTreeMap<u32, Arc<DataKey>>,
    /// What the file is wrapped under; None: it is plain.
    unlock: Option<UnlockKey>,
    /// Counts the swarm's changes of the unlock key; what is older than this is not followed any more.
    lock_version: u64,
}

/// What following the swarm's lock did to the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Followed {
    /// It stands as asked already, or for something newer.
    Nothing,
    /// The same data keys under another unlock key, or under none any more.
    Rewrapped,
    /// It was plain and is wrapped, with a new data key for all that is written from now on.
    Locked,
}

/// The keys of a directory. Clones share them.
#[derive(Clone)]
pub struct Keys(Arc<Inner>);

struct Inner {
    dir: PathBuf,
    files: Arc<dyn Files>,
    ring: Mutex<Ring>,
    /// Raised by each change of the file.
    changed: watch::Sender<u64>,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ring = self.ring();
        f.debug_struct("Keys")
            .field("numbers", &ring.keys.keys().collect::<Vec<_>>())
            .field("is_wrapped", &ring.unlock.is_some())
            .field("lock_version", &ring.lock_version)
            .finish_non_exhaustive()
    }
}

impl Keys {
    /// Opens the keys of the log in `dir`. Changes nothing.
    ///
    /// # Errors
    /// There are none, or they are damaged; [`OpenError::KeyLocked`] and [`OpenError::WrongUnlockKey`] ask for
    /// the unlock key that they are wrapped under.
    pub fn open(dir: &Path, unlock: Option<&UnlockKey>) -> Result<Keys, OpenError> {
        Keys::open_with(dir, unlock, Arc::new(RealFiles))
    }

    /// Makes the first data key of a member that has no log yet, wrapped if `lock` names an unlock key and the
    /// number of its change. Keys that are there already are opened and follow it.
    ///
    /// # Errors
    /// As [`Keys::open`]; the file cannot be written.
    pub fn create(dir: &Path, lock: Option<(UnlockKey, u64)>) -> Result<Keys, OpenError> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(OpenError::io("create", dir))?;
        if Keys::exist(dir) {
            let keys = Keys::open(dir, lock.as_ref().map(|(unlock, _)| unlock))?;
            if let Some((unlock, version)) = lock {
                keys.follow(Some(unlock), version)?;
            }
            return Ok(keys);
        }
        Keys::make(dir, lock, Arc::new(RealFiles))
    }

    /// The same keys for the log of another directory, which has none.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn copy_to(&self, dir: &Path) -> Result<Keys, OpenError> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(OpenError::io("create", dir))?;
        let copy = Keys::of(dir, self.ring().clone(), Arc::clone(&self.0.files));
        copy.write(&copy.ring())?;
        Ok(copy)
    }

    /// Opens them, or makes the first where there is nothing that could be sealed under any.
    pub(crate) fn load(dir: &Path, files: Arc<dyn Files>) -> Result<Keys, OpenError> {
        match Keys::open_with(dir, None, Arc::clone(&files)) {
            Err(OpenError::MissingKey { key }) => {
                let numbers = segment::list(dir).map_err(OpenError::io("list", dir))?;
                if !numbers.is_empty() || snapshot::exists(dir)? {
                    return Err(OpenError::MissingKey { key });
                }
                Keys::make(dir, None, files)
            }
            other => other,
        }
    }

    /// Where the key file of a log in `dir` is.
    #[must_use]
    pub fn path(dir: &Path) -> PathBuf {
        dir.join(FILE)
    }

    /// Whether `dir` has a key file.
    #[must_use]
    pub fn exist(dir: &Path) -> bool {
        Keys::path(dir).exists()
    }

    /// Whether the key file of `dir` is wrapped; false if there is none.
    ///
    /// # Errors
    /// It is damaged, of a newer format, or cannot be read.
    pub fn are_wrapped(dir: &Path) -> Result<bool, OpenError> {
        let path = Keys::path(dir);
        match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(OpenError::io("read", &path)(error)),
            Ok(bytes) => file::is_wrapped(&bytes).map_err(|why| unread(&path, why)),
        }
    }

    fn open_with(dir: &Path, unlock: Option<&UnlockKey>, files: Arc<dyn Files>) -> Result<Keys, OpenError> {
        let path = Keys::path(dir);
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(OpenError::MissingKey { key: path });
            }
            other => other.map_err(OpenError::io("read", &path))?,
        };
        let ring = file::decode(&bytes, unlock).map_err(|why| unread(&path, why))?;
        warn_if_readable(&path);
        Ok(Keys::of(dir, ring, files))
    }

    fn make(dir: &Path, lock: Option<(UnlockKey, u64)>, files: Arc<dyn Files>) -> Result<Keys, OpenError> {
        let key = DataKey { number: FIRST, bytes: seal::random()? };
        let (unlock, lock_version) = lock.map_or((None, 0), |(unlock, version)| (Some(unlock), version));
        let ring = Ring { current: FIRST, keys: [(FIRST, Arc::new(key))].into(), unlock, lock_version };
        let keys = Keys::of(dir, ring, files);
        keys.write(&keys.ring())?;
        Ok(keys)
    }

    fn of(dir: &Path, ring: Ring, files: Arc<dyn Files>) -> Keys {
        let changed = watch::Sender::new(0);
        Keys(Arc::new(Inner { dir: dir.to_owned(), files, ring: Mutex::new(ring), changed }))
    }

    /// Of the log that is sealed under them.
    pub(crate) fn dir(&self) -> &Path {
        &self.0.dir
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.0.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a whole new file in the place of the old one.
    fn write(&self, ring: &Ring) -> Result<(), OpenError> {
        let Inner { dir, files, .. } = &*self.0;
        let (path, new) = (Keys::path(dir), dir.join("keys.new"));
        let bytes = file::encode(ring)?;
        // The mode of one that an interrupted write left is not to be trusted.
        files.remove(&new).map_err(OpenError::io("remove", &new))?;
        let file = files.create(&new).map_err(OpenError::io("create", &new))?;
        files
            .write(&file, &bytes, 0)
            .and_then(|()| files.sync(&file))
            .map_err(OpenError::io("write", &new))?;
        files.rename(&new, &path).map_err(OpenError::io("rename to", &path))?;
        files.sync_dir(dir).map_err(OpenError::io("sync", dir))
    }

    /// What new files are sealed under.
    pub(crate) fn current(&self) -> Arc<DataKey> {
        let ring = self.ring();
        Arc::clone(&ring.keys[&ring.current])
    }

    /// The key of a file that names it.
    pub(crate) fn get(&self, number: u32) -> Option<Arc<DataKey>> {
        self.ring().keys.get(&number).cloned()
    }

    /// The numbers of all keys, the current one last.
    #[must_use]
    pub fn numbers(&self) -> Vec<u32> {
        self.ring().keys.keys().copied().collect()
    }

    /// Whether the file is wrapped, and by which change of the unlock key.
    #[must_use]
    pub fn lock(&self) -> (bool, u64) {
        let ring = self.ring();
        (ring.unlock.is_some(), ring.lock_version)
    }

    /// Follows the changes of the key file: secrets beside the log may have to be sealed anew, or not any more.
    #[must_use]
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.0.changed.subscribe()
    }

    /// Has the file stand as the swarm wants it since its change `version` of the unlock key; an older one
    /// than it follows already changes nothing, as a member reads its log anew at each start. May block.
    ///
    /// # Errors
    /// The file cannot be written; it is the old one or the new one, and asking again is right.
    pub fn follow(&self, unlock: Option<UnlockKey>, version: u64) -> Result<Followed, OpenError> {
        let mut ring = self.ring();
        if version <= ring.lock_version {
            return Ok(Followed::Nothing);
        }
        let mut new = Ring { lock_version: version, ..ring.clone() };
        let followed = if unlock.is_some() && new.unlock.is_none() {
            // Whoever read the disk before has the old one.
            let number = new.keys.keys().next_back().map_or(FIRST, |last| last + 1);
            new.keys.insert(number, Arc::new(DataKey { number, bytes: seal::random()? }));
            new.current = number;
            Followed::Locked
        } else {
            Followed::Rewrapped
        };
        new.unlock = unlock;
        self.write(&new)?;
        *ring = new;
        drop(ring);
        self.0.changed.send_modify(|n| *n += 1);
        Ok(followed)
    }

    /// Forgets the data keys that no file of the directory names and nobody holds. May block.
    pub(crate) fn tidy(&self) -> Result<(), OpenError> {
        let mut ring = self.ring();
        if ring.keys.len() == 1 {
            return Ok(());
        }
        let named = named_in(&self.0.dir).map_err(OpenError::io("look for files in", &self.0.dir))?;
        let mut new = ring.clone();
        // One is the ring's own, the other the copy's.
        let is_used = |number: &u32, key: &Arc<DataKey>| {
            *number == ring.current || named.contains(number) || Arc::strong_count(key) > 2
        };
        new.keys.retain(|number, key| is_used(number, key));
        if new.keys.len() < ring.keys.len() {
            self.write(&new)?;
            *ring = new;
            drop(ring);
            self.0.changed.send_modify(|n| *n += 1);
        }
        Ok(())
    }

    /// The same, where a failure may wait for the next time.
    pub(crate) fn tidy_some_time(&self) {
        if let Err(error) = self.tidy() {
            tracing::warn!(err = %error, "an old data key cannot be forgotten yet");
        }
    }
}

/// The numbers that the headers of a directory's files name. Segments, snapshots, and such as are being
/// written have them at one place.
fn named_in(dir: &Path) -> io::Result<BTreeSet<u32>> {
    let mut named = BTreeSet::new();
    for file in fs::read_dir(dir)? {
        let mut head = [0; 16];
        let read = fs::File::open(file?.path()).and_then(|mut file| file.read_exact(&mut head));
        match read {
            Ok(()) if head[..8] == segment::MAGIC || head[..8] == snapshot::MAGIC => {
                named.insert(u32::from_le_bytes([head[12], head[13], head[14], head[15]]));
            }
            // A directory, a file that went meanwhile, or one too short for a header.
            Err(error)
                if !matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof | io::ErrorKind::IsADirectory
                ) =>
            {
                return Err(error);
            }
            Ok(()) | Err(_) => {}
        }
    }
    Ok(named)
}

fn unread(path: &Path, why: Unread) -> OpenError {
    let key = path.to_owned();
    match why {
        Unread::Damaged(offset, reason) => OpenError::DamagedKeys {
            key,
            offset: u64::try_from(offset).unwrap_or(u64::MAX),
            reason: reason.to_owned(),
        },
        Unread::Newer(version) => OpenError::NewerFormat { file: key, version, known: file::VERSION },
        Unread::Locked => OpenError::KeyLocked { key },
        Unread::WrongUnlockKey => OpenError::WrongUnlockKey { key },
    }
}

fn warn_if_readable(path: &Path) {
    if let Ok(meta) = fs::metadata(path)
        && meta.permissions().mode() & 0o077 != 0
    {
        tracing::warn!(file = %path.display(), "others may read the data keys; set its mode to 0600");
    }
}

/// The bytes of a plain file with this one key.
#[cfg(test)]
pub(crate) fn plain_file(bytes: [u8; seal::KEY_BYTES]) -> Vec<u8> {
    let key = Arc::new(DataKey { number: FIRST, bytes });
    let ring = Ring { current: FIRST, keys: [(FIRST, key)].into(), unlock: None, lock_version: 0 };
    file::encode(&ring).expect("the system gives random numbers")
}
