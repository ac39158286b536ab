//! All that the log does to the disk, one operation a function, so that tests can record every one, break
//! any, and crash between any two.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use crate::seal;

/// The operations that change files. A name is durable after `sync_dir`, what is in a file after `sync`.
pub(crate) trait Files: Send + Sync {
    /// A new empty file for its owner alone, in the place of one that was left there.
    fn create(&self, path: &Path) -> io::Result<File> {
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
    }

    /// Writes all of `bytes` at `offset`, or fails.
    fn write(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        file.write_all_at(bytes, offset)
    }

    /// Makes durable what was written to `file`, its length too. After an error nothing is known of it.
    fn sync(&self, file: &File) -> io::Result<()> {
        file.sync_data()
    }

    /// Gives a file another name.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    /// Removes a file; done already if there is none.
    fn remove(&self, path: &Path) -> io::Result<()> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Makes the names in `dir` durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        seal::sync_dir(dir)
    }
}

/// The disk itself.
pub(crate) struct RealFiles;

impl Files for RealFiles {}
