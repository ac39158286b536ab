//! Room on the disk: what counts as a full one, and when it has room again.

use std::io;
use std::path::{Path, PathBuf};

use crate::error::OpenError;
use crate::wal::segment::SEGMENT_BYTES;

/// What has to be free before a member that had no room is opened again: the segment that the opening
/// begins, the spare one after it, and as much again, so that it does not stop at once.
const FREE_BYTES_MIN: u64 = 4 * SEGMENT_BYTES;

/// The disk has no room for the log: nothing more can be acknowledged. What was is there.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "{reason}; make room on the disk of {}, at least {} MiB, and it goes on by itself",
    dir.display(), FREE_BYTES_MIN >> 20
)]
pub struct NoSpace {
    /// The directory of the log.
    pub dir: PathBuf,
    /// What failed, and how.
    pub reason: String,
}

/// Whether the disk of `dir` has room to open a log again that had none; true also if it does not say. A
/// quota does not show here, but in the opening.
#[must_use]
pub fn has_room(dir: &Path) -> bool {
    rustix::fs::statvfs(dir).map_or(true, |fs| fs.f_bavail.saturating_mul(fs.f_frsize) >= FREE_BYTES_MIN)
}

/// Whether an error says that there is no room, for all or for us.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Tells a full disk from all that an opening may fail by.
pub(crate) fn no_space(error: OpenError, dir: &Path) -> OpenError {
    if let OpenError::Io { action, path, source } = &error
        && is_full(source)
    {
        let reason = format!("cannot {action} {}: {source}", path.display());
        return OpenError::NoSpace(NoSpace { dir: dir.to_owned(), reason });
    }
    error
}
