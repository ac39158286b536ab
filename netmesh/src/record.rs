//! The mesh's memory on disk: which task has which address and host ports.
//!
//! Invariants: written before the kernel hears of an address, so a restart gives none twice; replaced by
//! rename, so it is whole or the one before. It need not survive a power cut: neither do the tasks.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::config::{Config, HostPort};
use crate::desired::Ingress;
use crate::error::{Doing, MeshError};
use crate::pool::Pool;

const FORMAT: u32 = 1;

/// What a task was given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TaskRecord {
    pub(crate) bridge_addr: Ipv4Addr,
    pub(crate) ingress: Option<Ipv4Addr>,
    pub(crate) host_ports: Vec<HostPort>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    format: u32,
    ingress: Option<Ingress>,
    tasks: BTreeMap<String, TaskRecord>,
    resting: Vec<Ipv4Addr>,
}

/// The records of all tasks, and the addresses left.
#[derive(Debug)]
pub(crate) struct Book {
    path: PathBuf,
    subnet: (Ipv4Addr, u8),
    ingress: Option<Ingress>,
    tasks: BTreeMap<String, TaskRecord>,
    pool: Pool,
}

impl Book {
    pub(crate) fn open(config: &Config) -> Result<Book, MeshError> {
        let path = config.state_file.clone();
        let stored = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|source| MeshError::Record { path: path.clone(), source })?,
            Err(e) if e.kind() == ErrorKind::NotFound => {
                Stored { format: FORMAT, ingress: None, tasks: BTreeMap::new(), resting: Vec::new() }
            }
            Err(source) => return Err(MeshError::Io { what: format!("read {}", path.display()), source }),
        };
        if stored.format != FORMAT {
            return Err(MeshError::RecordFormat { path, format: stored.format });
        }
        let held = stored.tasks.values().map(|t| t.bridge_addr);
        let pool = Pool::new(config.bridge_subnet, held, stored.resting);
        Ok(Book { path, subnet: config.bridge_subnet, ingress: stored.ingress, tasks: stored.tasks, pool })
    }

    pub(crate) fn tasks(&self) -> &BTreeMap<String, TaskRecord> {
        &self.tasks
    }

    pub(crate) fn ingress(&self) -> Option<Ingress> {
        self.ingress
    }

    pub(crate) fn set_ingress(&mut self, ingress: Option<Ingress>) -> Result<(), MeshError> {
        if self.ingress == ingress {
            return Ok(());
        }
        self.ingress = ingress;
        self.save()
    }

    /// Gives a new task an address, and remembers it.
    pub(crate) fn admit(
        &mut self,
        task: &str,
        ingress: Option<Ipv4Addr>,
        host_ports: Vec<HostPort>,
    ) -> Result<TaskRecord, MeshError> {
        let (network, prefix) = self.subnet;
        let bridge_addr = self.pool.take().ok_or(MeshError::NoFreeAddress { network, prefix })?;
        let record = TaskRecord { bridge_addr, ingress, host_ports };
        self.tasks.insert(task.to_owned(), record.clone());
        if let Err(e) = self.save() {
            self.tasks.remove(task);
            self.pool.free(bridge_addr);
            return Err(e);
        }
        Ok(record)
    }

    /// A task that was there before it published, or the reverse.
    pub(crate) fn set_task_ingress(
        &mut self,
        task: &str,
        ingress: Option<Ipv4Addr>,
    ) -> Result<(), MeshError> {
        match self.tasks.get_mut(task) {
            Some(record) if record.ingress != ingress => record.ingress = ingress,
            Some(_) | None => return Ok(()),
        }
        self.save()
    }

    pub(crate) fn dismiss(&mut self, task: &str) -> Result<(), MeshError> {
        let Some(record) = self.tasks.remove(task) else { return Ok(()) };
        self.pool.free(record.bridge_addr);
        self.save()
    }

    /// Forgets all of it, and the file.
    pub(crate) fn erase(&mut self) -> Result<(), MeshError> {
        self.tasks.clear();
        self.ingress = None;
        self.pool = Pool::new(self.subnet, [], []);
        match std::fs::remove_file(&self.path) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(e),
            Ok(()) | Err(_) => Ok(()),
        }
        .doing(|| format!("remove {}", self.path.display()))
    }

    fn save(&self) -> Result<(), MeshError> {
        let stored = Stored {
            format: FORMAT,
            ingress: self.ingress,
            tasks: self.tasks.clone(),
            resting: self.pool.resting().collect(),
        };
        let bytes = serde_json::to_vec(&stored)
            .map_err(|source| MeshError::Record { path: self.path.clone(), source })?;
        replace(&self.path, &bytes).doing(|| format!("write {}", self.path.display()))
    }
}

fn replace(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let next = path.with_extension("next");
    std::fs::write(&next, bytes)?;
    std::fs::rename(&next, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(dir: &Path) -> Config {
        Config::new(dir, Ipv4Addr::new(10, 0, 0, 1))
    }

    #[test]
    fn a_restart_gives_no_held_address_and_lets_freed_ones_rest() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path());
        let mut book = Book::open(&config).unwrap();
        let a = book.admit("a", None, Vec::new()).unwrap().bridge_addr;
        let b = book.admit("b", None, Vec::new()).unwrap().bridge_addr;
        book.dismiss("b").unwrap();
        drop(book);
        let mut book = Book::open(&config).unwrap();
        let c = book.admit("c", None, Vec::new()).unwrap().bridge_addr;
        assert!(c != a && c != b, "{c} after {a} and {b}");
        assert_eq!(book.tasks().keys().collect::<Vec<_>>(), ["a", "c"]);
    }

    #[test]
    fn damage_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path());
        std::fs::write(&config.state_file, b"{").unwrap();
        let error = Book::open(&config).unwrap_err().to_string();
        assert!(error.contains("netmesh.json is damaged"), "{error}");
        std::fs::write(&config.state_file, br#"{"format":2,"ingress":null,"tasks":{},"resting":[]}"#)
            .unwrap();
        let error = Book::open(&config).unwrap_err().to_string();
        assert!(error.contains("format 2"), "{error}");
    }
}
