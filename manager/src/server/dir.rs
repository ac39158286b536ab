//! The files of a manager's directory beside its log: which raft member it is, and what goes when it is none.

use std::{fs, io, path::Path};

use skep_api::id::IdSource;

use super::ManagerError;
use crate::SystemIds;

/// Without it a directory holds no manager.
pub(super) const RAFT_ID_FILE: &str = "raft-id";

/// `None` also if the file is damaged.
pub(crate) fn read_raft_id(dir: &Path) -> Option<u64> {
    fs::read_to_string(dir.join(RAFT_ID_FILE)).ok().and_then(|text| text.trim().parse().ok())
}

/// Random, so that no member of the swarm has ever had it.
pub(crate) fn fresh_raft_id() -> u64 {
    u64::try_from(SystemIds::default().next_id().0 >> 65).expect("63 bits are left").max(1)
}

/// Whole and on disk, or not there: a start that finds half of it would take this for a damaged manager.
pub(crate) fn write_raft_id(dir: &Path, raft_id: u64) -> Result<(), ManagerError> {
    let path = dir.join(RAFT_ID_FILE);
    let new = path.with_extension("new");
    fs::create_dir_all(dir)
        .and_then(|()| fs::write(&new, raft_id.to_string()))
        .and_then(|()| fs::File::open(&new)?.sync_all())
        .and_then(|()| fs::rename(&new, &path))
        .and_then(|()| fs::File::open(dir)?.sync_all())
        .map_err(|source| ManagerError::Dir { path, source })
}

fn gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Removes all of it. Cut off anywhere, it holds no manager any more.
pub(super) fn wipe(dir: &Path) -> Result<(), ManagerError> {
    gone(fs::remove_file(dir.join(RAFT_ID_FILE)))
        .and_then(|()| gone(fs::remove_dir_all(dir)))
        .map_err(|source| ManagerError::Dir { path: dir.to_owned(), source })
}

/// The same, but for the key file at `keys`.
pub(super) fn wipe_but_keys(dir: &Path, keys: &Path) -> Result<(), ManagerError> {
    let wiping = || -> io::Result<()> {
        gone(fs::remove_file(dir.join(RAFT_ID_FILE)))?;
        for dir in [Some(dir), keys.parent()].into_iter().flatten().filter(|dir| dir.exists()) {
            for file in fs::read_dir(dir)? {
                let path = file?.path();
                if path.is_file() && path != keys {
                    gone(fs::remove_file(path))?;
                }
            }
        }
        Ok(())
    };
    wiping().map_err(|source| ManagerError::Dir { path: dir.to_owned(), source })
}
