//! What the agent remembers over a restart: its assignments, the last status of each, the highest revision.
//!
//! Every value carries a checksum. A damaged file is moved aside and all is learnt again from the
//! containers and the manager, so nothing here waits for the disk: changes are kept in memory, newest
//! only, and written some milliseconds later in one commit. What a crash takes of that, the containers say.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, ErrorKind},
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use prost::Message;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use skep_api::{TaskId, wire};
use tokio::sync::Notify;

use crate::{assignment::without_secrets, engine::chain, sim};

const FILE: &str = "agent.redb";
/// What this build writes; a file of another format is moved aside.
const FORMAT: u64 = 1;
/// A few hundred tasks of one or two KiB; redb's own default is 1 GiB.
const CACHE_BYTES: usize = 1 << 20;
/// Changes of so much time go into one commit: a burst of starts costs a few syncs, not hundreds.
const SETTLE: Duration = Duration::from_millis(50);

const ASSIGNMENTS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("assignments");
const STATUSES: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("statuses");
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
const META_FORMAT: &str = "format";
const META_REVISION: &str = "revision";
const META_NODE: &str = "node";

/// The local record cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum RecordsError {
    /// The directory or file cannot be used.
    #[error("the agent's directory {dir} cannot be used")]
    Directory {
        /// Which one.
        dir: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another daemon runs on the same state directory.
    #[error("{0} is in use by another daemon: give this one a state directory of its own")]
    InUse(PathBuf),
    /// Even a fresh file could not be made.
    #[error("{path} cannot be written")]
    Write {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<redb::Error>,
    },
}

/// What was remembered.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Remembered {
    pub(crate) revision: u64,
    pub(crate) tasks: BTreeMap<TaskId, (wire::Assignment, Option<wire::TaskStatus>)>,
}

/// Changes not yet written; `None` stands for a removal.
#[derive(Debug, Default)]
struct Pending {
    assignments: BTreeMap<TaskId, Option<Arc<wire::Assignment>>>,
    statuses: BTreeMap<TaskId, Option<wire::TaskStatus>>,
    revision: Option<u64>,
}

impl Pending {
    fn is_empty(&self) -> bool {
        self.assignments.is_empty() && self.statuses.is_empty() && self.revision.is_none()
    }

    /// What could not be written waits again, under what came since.
    fn put_back(&mut self, old: Self) {
        for (task, change) in old.assignments {
            self.assignments.entry(task).or_insert(change);
        }
        for (task, change) in old.statuses {
            self.statuses.entry(task).or_insert(change);
        }
        self.revision = self.revision.or(old.revision);
    }
}

/// The agent's memory.
#[derive(Debug)]
pub(crate) struct Records {
    path: PathBuf,
    database: Mutex<Option<Database>>,
    pending: Mutex<Pending>,
    changed: Notify,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Records {
    /// Opens or makes the record of `node` in `dir`. Blocks on the disk.
    pub(crate) fn open(dir: &Path, node: &str, now: i64) -> Result<(Self, Remembered), RecordsError> {
        make_private(dir).map_err(|source| RecordsError::Directory { dir: dir.to_owned(), source })?;
        let path = dir.join(FILE);
        let (database, remembered) = match read(&path, node) {
            Ok(found) => found,
            Err(redb::Error::DatabaseAlreadyOpen) => return Err(RecordsError::InUse(path)),
            Err(damage) => {
                let aside = dir.join(format!("{FILE}.damaged-{now}"));
                tracing::error!(path = %path.display(), aside = %aside.display(), err = chain(&damage),
                    "the agent's record is damaged: moved aside, learnt again from the containers and the manager");
                fs::rename(&path, &aside)
                    .map_err(|source| RecordsError::Directory { dir: dir.to_owned(), source })?;
                read(&path, node)
                    .map_err(|e| RecordsError::Write { path: path.clone(), source: Box::new(e) })?
            }
        };
        let records = Self {
            path,
            database: Mutex::new(Some(database)),
            pending: Mutex::default(),
            changed: Notify::new(),
        };
        Ok((records, remembered))
    }

    /// A record that is written nowhere.
    pub(crate) fn unwritten() -> Self {
        Self {
            path: PathBuf::new(),
            database: Mutex::default(),
            pending: Mutex::default(),
            changed: Notify::new(),
        }
    }

    /// A task as the manager gives it.
    pub(crate) fn put_assignment(&self, task: TaskId, assignment: Arc<wire::Assignment>) {
        lock(&self.pending).assignments.insert(task, Some(assignment));
        self.changed.notify_one();
    }

    /// A task's newest status.
    pub(crate) fn put_status(&self, task: TaskId, status: wire::TaskStatus) {
        lock(&self.pending).statuses.insert(task, Some(status));
        self.changed.notify_one();
    }

    /// Forgets a task.
    pub(crate) fn remove(&self, task: TaskId) {
        let mut pending = lock(&self.pending);
        pending.assignments.insert(task, None);
        pending.statuses.insert(task, None);
        drop(pending);
        self.changed.notify_one();
    }

    /// The highest revision seen.
    pub(crate) fn put_revision(&self, revision: u64) {
        lock(&self.pending).revision = Some(revision);
        self.changed.notify_one();
    }

    /// Writes what changes, until dropped.
    pub(crate) async fn keep(self: Arc<Self>) {
        loop {
            self.changed.notified().await;
            tokio::time::sleep(SETTLE).await;
            Arc::clone(&self).flush().await;
        }
    }

    /// Writes all changes now.
    pub(crate) async fn flush(self: Arc<Self>) {
        if let Err(e) = sim::off_thread(move || self.write()).await {
            tracing::error!(err = chain(&e), "writing the agent's record was cut off");
        }
    }

    fn write(&self) {
        let database = lock(&self.database);
        let pending = std::mem::take(&mut *lock(&self.pending));
        let Some(database) = database.as_ref().filter(|_| !pending.is_empty()) else { return };
        if let Err(e) = commit(database, &pending) {
            tracing::error!(path = %self.path.display(), err = chain(&e), "the agent's record cannot be written");
            lock(&self.pending).put_back(pending);
        }
    }

    /// Closes the file. Nothing is written after it.
    pub(crate) fn close(&self) {
        lock(&self.database).take();
    }

    /// Closes the file and takes it away. Blocks on the disk.
    pub(crate) fn delete(&self) -> io::Result<()> {
        self.close();
        match fs::remove_file(&self.path) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(e),
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

fn make_private(dir: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700))
}

fn damaged(what: impl Into<String>) -> redb::Error {
    redb::Error::Corrupted(what.into())
}

/// Opens or makes the file and reads all of it. A file of another node or format reads as damaged.
fn read(path: &Path, node: &str) -> Result<(Database, Remembered), redb::Error> {
    let opened = std::panic::catch_unwind(|| Database::builder().set_cache_size(CACHE_BYTES).create(path));
    let database = opened.map_err(|_| damaged("the file makes its reader fail"))??;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    let write = database.begin_write()?;
    {
        let mut meta = write.open_table(META)?;
        for (key, expect) in
            [(META_FORMAT, FORMAT.to_le_bytes().to_vec()), (META_NODE, node.as_bytes().to_vec())]
        {
            let found =
                meta.get(key)?.map(|value| unsealed(value.value()).map(<[u8]>::to_vec)).transpose()?;
            match found {
                Some(found) if found != expect => return Err(damaged(format!("another {key}"))),
                Some(_) => {}
                None => drop(meta.insert(key, sealed(&expect).as_slice())?),
            }
        }
        write.open_table(ASSIGNMENTS)?;
        write.open_table(STATUSES)?;
    }
    write.commit()?;
    let remembered = load(&database)?;
    Ok((database, remembered))
}

fn load(database: &Database) -> Result<Remembered, redb::Error> {
    let read = database.begin_read()?;
    let mut remembered = Remembered::default();
    if let Some(value) = read.open_table(META)?.get(META_REVISION)? {
        let bytes = unsealed(value.value())?;
        remembered.revision =
            u64::from_le_bytes(bytes.try_into().map_err(|_| damaged("revision of a wrong length"))?);
    }
    let statuses = read.open_table(STATUSES)?;
    for row in read.open_table(ASSIGNMENTS)?.iter()? {
        let (key, value) = row?;
        let task = TaskId::from_bytes(key.value()).ok_or_else(|| damaged("key that is no task id"))?;
        let assignment = decode(unsealed(value.value())?)?;
        let status = statuses.get(key.value())?.map(|value| decode(unsealed(value.value())?)).transpose()?;
        remembered.tasks.insert(task, (assignment, status));
    }
    Ok(remembered)
}

fn decode<M: Message + Default>(bytes: &[u8]) -> Result<M, redb::Error> {
    M::decode(bytes).map_err(|e| damaged(e.to_string()))
}

/// The value with its checksum in front.
fn sealed(value: &[u8]) -> Vec<u8> {
    let mut bytes = crc32fast::hash(value).to_le_bytes().to_vec();
    bytes.extend_from_slice(value);
    bytes
}

fn unsealed(bytes: &[u8]) -> Result<&[u8], redb::Error> {
    let (sum, value) = bytes.split_first_chunk::<4>().ok_or_else(|| damaged("value without a checksum"))?;
    if crc32fast::hash(value).to_le_bytes() == *sum { Ok(value) } else { Err(damaged("wrong checksum")) }
}

fn commit(database: &Database, pending: &Pending) -> Result<(), redb::Error> {
    let write = database.begin_write()?;
    {
        let mut assignments = write.open_table(ASSIGNMENTS)?;
        for (task, change) in &pending.assignments {
            let key = task.to_bytes();
            match change {
                Some(assignment) => {
                    let bytes = without_secrets((**assignment).clone()).encode_to_vec();
                    assignments.insert(key.as_slice(), sealed(&bytes).as_slice())?;
                }
                None => drop(assignments.remove(key.as_slice())?),
            }
        }
        let mut statuses = write.open_table(STATUSES)?;
        for (task, change) in &pending.statuses {
            let key = task.to_bytes();
            match change {
                Some(status) => {
                    statuses.insert(key.as_slice(), sealed(&status.encode_to_vec()).as_slice())?;
                }
                None => drop(statuses.remove(key.as_slice())?),
            }
        }
        if let Some(revision) = pending.revision {
            write.open_table(META)?.insert(META_REVISION, sealed(&revision.to_le_bytes()).as_slice())?;
        }
    }
    write.commit()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use skep_api::Id;

    use super::*;

    fn assignment(task: TaskId) -> Arc<wire::Assignment> {
        Arc::new(wire::Assignment { task_id: task.to_bytes(), slot: 4, ..Default::default() })
    }

    #[tokio::test]
    async fn what_was_flushed_is_remembered_and_what_was_removed_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (TaskId(Id(1)), TaskId(Id(2)));
        let (records, empty) = Records::open(dir.path(), "n", 1).unwrap();
        assert_eq!(empty, Remembered::default());
        let records = Arc::new(records);
        records.put_assignment(a, assignment(a));
        records.put_status(a, wire::TaskStatus { state: 512, ..Default::default() });
        records.put_assignment(b, assignment(b));
        records.put_revision(77);
        Arc::clone(&records).flush().await;
        records.remove(b);
        Arc::clone(&records).flush().await;
        assert!(matches!(Records::open(dir.path(), "n", 2), Err(RecordsError::InUse(_))));
        records.close();
        let (records, found) = Records::open(dir.path(), "n", 3).unwrap();
        assert_eq!(found.revision, 77);
        assert_eq!(found.tasks.len(), 1);
        assert_eq!(found.tasks[&a].0, *assignment(a));
        assert_eq!(found.tasks[&a].1.as_ref().unwrap().state, 512);
        records.delete().unwrap();
        assert_eq!(Records::open(dir.path(), "n", 4).unwrap().1, Remembered::default());
    }

    #[tokio::test]
    async fn a_damaged_file_is_moved_aside() {
        for damage in ["garbage", "flip", "node"] {
            let dir = tempfile::tempdir().unwrap();
            let (records, _) = Records::open(dir.path(), "n", 1).unwrap();
            let records = Arc::new(records);
            let task = TaskId(Id(0x5a5a_5a5a_5a5a_5a5a));
            records.put_assignment(task, assignment(task));
            Arc::clone(&records).flush().await;
            records.close();
            let path = dir.path().join(FILE);
            let mut bytes = fs::read(&path).unwrap();
            match damage {
                "garbage" => bytes = b"not a database".to_vec(),
                "flip" => {
                    // The value holds the id once more than the key; both copies are turned over.
                    let needle = [0x5a_u8; 8];
                    let at: Vec<usize> =
                        (0..bytes.len() - 8).filter(|i| bytes[*i..*i + 8] == needle).collect();
                    assert!(!at.is_empty());
                    at.into_iter().for_each(|i| bytes[i] ^= 0xff);
                }
                _ => {}
            }
            fs::write(&path, bytes).unwrap();
            let node = if damage == "node" { "other" } else { "n" };
            let (_, found) = Records::open(dir.path(), node, 9).unwrap();
            assert_eq!(found, Remembered::default(), "{damage}");
            assert!(dir.path().join("agent.redb.damaged-9").exists(), "{damage}");
        }
    }
}
