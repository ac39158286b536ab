//! What the log of a simulated member does to files: nothing waits for a real disk, and a crash tears.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use super::random;
use crate::wal::batch::ALIGN;
use crate::wal::files::Files;

/// Syncs cost nothing: when something is durable is the simulation's to say.
pub(super) struct Unsynced;

impl Files for Unsynced {
    fn sync(&self, _file: &File) -> io::Result<()> {
        Ok(())
    }

    fn sync_dir(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
    }
}

/// The same, until the crash.
#[derive(Default)]
pub(super) struct Tearing(Mutex<Option<Torn>>);

struct Torn {
    random: u64,
    /// Of four sectors, how many reach the disk.
    quarters: u64,
}

impl Tearing {
    /// From now on any subset of the sectors of what is written reaches the disk: often none, often all.
    pub(super) fn tear(&self, seed: u64) {
        *self.lock() = Some(Torn { random: seed, quarters: seed % 5 });
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Torn>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Files for Tearing {
    fn write(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut torn = self.lock();
        let Some(torn) = &mut *torn else { return file.write_all_at(bytes, offset) };
        for (sector, at) in bytes.chunks(ALIGN).zip((offset..).step_by(ALIGN)) {
            if random(&mut torn.random) % 4 < torn.quarters {
                file.write_all_at(sector, at)?;
            }
        }
        Ok(())
    }

    /// Its answer comes too late for anybody.
    fn sync(&self, _file: &File) -> io::Result<()> {
        match &*self.lock() {
            Some(torn) if torn.quarters < 4 => Err(io::Error::other("the machine has crashed")),
            Some(_) | None => Ok(()),
        }
    }

    fn sync_dir(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
    }
}
