//! Writes the files of an identity so that a crash leaves the old set or the new one, never a mix.
//!
//! All files are written and synced in `next.tmp`; its renaming to `next` is the moment from which the
//! new set counts; then they move into place. A `next` that is found was not moved yet, or not wholly.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

const STAGING: &str = "next.tmp";
const STAGED: &str = "next";

/// A file operation that failed, with its path.
#[derive(Debug)]
pub(crate) struct FileError {
    pub(crate) path: PathBuf,
    pub(crate) source: io::Error,
}

trait At<T> {
    fn at(self, path: &Path) -> Result<T, FileError>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, path: &Path) -> Result<T, FileError> {
        self.map_err(|source| FileError { path: path.to_owned(), source })
    }
}

/// Replaces the files of `dir` (made if need be, for its owner alone) named in `files`: name, mode, text.
pub(crate) fn save(dir: &Path, files: &[(&str, u32, &str)]) -> Result<(), FileError> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir).at(dir)?;
    finish(dir)?;
    let staging = dir.join(STAGING);
    if staging.exists() {
        fs::remove_dir_all(&staging).at(&staging)?;
    }
    DirBuilder::new().mode(0o700).create(&staging).at(&staging)?;
    for (name, mode, text) in files {
        let path = staging.join(name);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(*mode).open(&path).at(&path)?;
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).at(&path)?;
    }
    sync_dir(&staging)?;
    fs::rename(&staging, dir.join(STAGED)).at(&staging)?;
    sync_dir(dir)?;
    finish(dir)
}

/// Moves a staged set that counts already into place; does nothing if there is none.
pub(crate) fn finish(dir: &Path) -> Result<(), FileError> {
    let staged = dir.join(STAGED);
    let entries = match fs::read_dir(&staged) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(FileError { path: staged, source }),
    };
    for entry in entries {
        let entry = entry.at(&staged)?;
        fs::rename(entry.path(), dir.join(entry.file_name())).at(&entry.path())?;
    }
    // The files must be in place on disk before the set that would restore them goes.
    sync_dir(dir)?;
    fs::remove_dir(&staged).at(&staged)?;
    sync_dir(dir)
}

/// The text of a file; `None` if it does not exist.
pub(crate) fn read(path: &Path) -> Result<Option<String>, FileError> {
    match fs::read(path) {
        // What is not UTF-8 is no PEM; the parser says so with the file's name.
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(FileError { path: path.to_owned(), source }),
    }
}

fn sync_dir(dir: &Path) -> Result<(), FileError> {
    File::open(dir).and_then(|file| file.sync_all()).at(dir)
}
