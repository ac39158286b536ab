//! Named volumes: a directory each, which outlives the containers that mount it.
//!
//! `<state dir>/volumes/<name>/_data` is the content, `volume.json` beside it what it was made with.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::engine::is_name;
use crate::handoff::{read_json, write_json};
use crate::stamp;

const RECORD_FILE: &str = "volume.json";

/// A named volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    /// 0: not known.
    pub created_at_unix_nanos: i64,
    /// Where its content lies.
    pub path: PathBuf,
}

/// A volume cannot be made or removed.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    #[error(
        "{0:?} includes invalid characters for a local volume name; letters, digits, '_', '.' and '-' are allowed"
    )]
    Name(String),
    #[error("get {0}: no such volume")]
    Missing(String),
    #[error("remove {name}: volume is in use - [{}]", containers.join(", "))]
    InUse { name: String, containers: Vec<String> },
    #[error("volume {name}")]
    Io { name: String, source: io::Error },
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Record {
    labels: BTreeMap<String, String>,
    created_at_unix_nanos: i64,
}

fn dir(state_dir: &Path, name: &str) -> PathBuf {
    state_dir.join("volumes").join(name)
}

/// The content's directory of a volume, made if there is none; one that is there keeps its labels.
pub(crate) fn make(state_dir: &Path, name: &str, labels: &BTreeMap<String, String>) -> io::Result<PathBuf> {
    let dir = dir(state_dir, name);
    let data = dir.join("_data");
    if !data.exists() {
        make_data(&data)?;
        let record = Record { labels: labels.clone(), created_at_unix_nanos: stamp::now_unix_nanos() };
        write_json(&dir.join(RECORD_FILE), &record)?;
    }
    Ok(data)
}

/// A directory for a volume's content.
pub(crate) fn make_data(path: &Path) -> io::Result<()> {
    if !path.exists() {
        fs::create_dir_all(path)?;
        // Whatever mask the daemon runs under.
        fs::set_permissions(path, PermissionsExt::from_mode(0o755))?;
    }
    Ok(())
}

fn read(state_dir: &Path, name: &str) -> Option<Volume> {
    let dir = dir(state_dir, name);
    let path = dir.join("_data");
    if !is_name(name) || !path.is_dir() {
        return None;
    }
    // One of an older build has no record; a damaged one says nothing that its content needs.
    let record: Record = read_json(&dir.join(RECORD_FILE)).ok().flatten().unwrap_or_default();
    let Record { labels, created_at_unix_nanos } = record;
    Some(Volume { name: name.to_owned(), labels, created_at_unix_nanos, path })
}

impl crate::Engine {
    /// All named volumes, by name.
    #[must_use]
    pub fn volumes(&self) -> Vec<Volume> {
        let state_dir = &self.inner.config.state_dir;
        let entries = fs::read_dir(state_dir.join("volumes")).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let mut all: Vec<Volume> = names.filter_map(|name| read(state_dir, &name)).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// A volume by name.
    #[must_use]
    pub fn volume(&self, name: &str) -> Option<Volume> {
        read(&self.inner.config.state_dir, name)
    }

    /// Makes a volume; one of this name that is there already is given back as it is.
    ///
    /// # Errors
    /// The name is none, or the directory cannot be made.
    pub fn create_volume(
        &self,
        name: &str,
        labels: &BTreeMap<String, String>,
    ) -> Result<Volume, VolumeError> {
        let state_dir = &self.inner.config.state_dir;
        if !is_name(name) {
            return Err(VolumeError::Name(name.to_owned()));
        }
        let failed = |source| VolumeError::Io { name: name.to_owned(), source };
        make(state_dir, name, labels).map_err(failed)?;
        read(state_dir, name).ok_or_else(|| VolumeError::Missing(name.to_owned()))
    }

    /// The containers that mount a volume: those that ended count until they are removed.
    #[must_use]
    pub fn users_of_volume(&self, name: &str) -> Vec<String> {
        let data = dir(&self.inner.config.state_dir, name).join("_data");
        let mounts_it = |id: &String| {
            let config = self.inner.container_dir(id).join("config.json");
            let config: Option<serde_json::Value> = read_json(&config).ok().flatten();
            let mounts = config.as_ref().and_then(|config| config["mounts"].as_array());
            mounts
                .into_iter()
                .flatten()
                .any(|mount| mount["source"].as_str().is_some_and(|s| Path::new(s) == data))
        };
        self.list().into_iter().map(|container| container.id).filter(mounts_it).collect()
    }

    /// Removes a volume with its content.
    ///
    /// # Errors
    /// There is none, a container mounts it, or its files cannot be removed.
    pub fn remove_volume(&self, name: &str) -> Result<(), VolumeError> {
        if self.volume(name).is_none() {
            return Err(VolumeError::Missing(name.to_owned()));
        }
        let containers = self.users_of_volume(name);
        if !containers.is_empty() {
            return Err(VolumeError::InUse { name: name.to_owned(), containers });
        }
        fs::remove_dir_all(dir(&self.inner.config.state_dir, name))
            .map_err(|source| VolumeError::Io { name: name.to_owned(), source })
    }
}
