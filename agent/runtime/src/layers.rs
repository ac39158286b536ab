//! The layers on disk: each unpacked once, in a directory named by the hash of its tar (its diff id).
//!
//! `sha256/<hex>/fs` holds the files, `l/<16 digits>` is a link there with a name short enough for a mount
//! of hundreds of layers. A layer appears by one rename; half an unpack is never seen.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use crate::reference::digest_hex;
use crate::stream::Hashing;
use crate::unpack::{is_opaque, is_whiteout, unpack};

/// Overlayfs takes 500; with 19 bytes a name, this many still fit into a page of mount options.
pub(crate) const LAYERS_MAX: usize = 180;
const SHORT: usize = 16;

/// A layer of an image.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Layer {
    /// `sha256:<hex>` of the uncompressed tar.
    pub(crate) diff_id: String,
    /// Bytes of its files.
    pub(crate) size: u64,
}

/// What came of adding a layer.
#[derive(Debug)]
pub(crate) struct Added {
    pub(crate) layer: Layer,
    pub(crate) newest_unix_secs: i64,
}

/// The directory of all layers.
#[derive(Debug)]
pub(crate) struct Layers {
    dir: PathBuf,
    tmp: PathBuf,
    next_tmp: AtomicU64,
}

impl Layers {
    /// Makes what is missing; empties `tmp`, where an earlier engine may have stopped half-way.
    pub(crate) fn open(dir: PathBuf, tmp: PathBuf) -> io::Result<Layers> {
        for sub in ["sha256", "l", "empty"] {
            fs::create_dir_all(dir.join(sub))?;
        }
        match fs::remove_dir_all(&tmp) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            Ok(()) | Err(_) => fs::create_dir_all(&tmp)?,
        }
        Ok(Layers { dir, tmp, next_tmp: AtomicU64::new(0) })
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// A new directory for what is not whole yet.
    pub(crate) fn scratch(&self) -> io::Result<PathBuf> {
        let path = self.tmp.join(self.next_tmp.fetch_add(1, Ordering::Relaxed).to_string());
        fs::create_dir(&path)?;
        Ok(path)
    }

    /// Name for the mount, relative to [`Layers::dir`].
    pub(crate) fn short_name(diff_id: &str) -> String {
        let hex = diff_id.trim_start_matches("sha256:");
        format!("l/{}", hex.get(..SHORT).unwrap_or(hex))
    }

    fn path(&self, diff_id: &str) -> Option<PathBuf> {
        Some(self.dir.join("sha256").join(digest_hex(diff_id)?))
    }

    /// The layer, if it is unpacked already.
    pub(crate) fn get(&self, diff_id: &str) -> Option<Layer> {
        let size = fs::read_to_string(self.path(diff_id)?.join("size")).ok()?.trim().parse().ok()?;
        Some(Layer { diff_id: diff_id.to_owned(), size })
    }

    /// Unpacks an uncompressed tar; `expected` is the diff id that it must turn out to have.
    pub(crate) fn add(&self, tar: &mut dyn Read, expected: Option<&str>) -> io::Result<Added> {
        let scratch = self.scratch()?;
        let added = self.add_in(&scratch, tar, expected);
        if added.is_err() {
            // The error that led here says more than one of cleaning up; open() tries again.
            let _cleaned = fs::remove_dir_all(&scratch);
        }
        added
    }

    fn add_in(&self, scratch: &Path, tar: &mut dyn Read, expected: Option<&str>) -> io::Result<Added> {
        let root = scratch.join("fs");
        fs::create_dir(&root)?;
        let mut tar = Hashing::new(tar);
        let unpacked = unpack(&mut tar, &root)?;
        // The end of the tar is padding, which counts for its hash.
        io::copy(&mut tar, &mut io::sink())?;
        let diff_id = format!("sha256:{}", tar.hex());
        if expected.is_some_and(|e| e != diff_id) {
            let words = format!("layer is {diff_id}, but its image says {}", expected.unwrap_or_default());
            return Err(io::Error::new(io::ErrorKind::InvalidData, words));
        }
        fs::write(scratch.join("size"), unpacked.size.to_string())?;
        let layer = Layer { diff_id, size: unpacked.size };
        let path = self.path(&layer.diff_id).ok_or_else(|| io::Error::other("bad diff id"))?;
        self.link(&layer.diff_id)?;
        match fs::rename(scratch, &path) {
            // Another unpacked the same meanwhile.
            Err(_) if path.exists() => fs::remove_dir_all(scratch)?,
            renamed => renamed?,
        }
        Ok(Added { layer, newest_unix_secs: unpacked.newest_unix_secs })
    }

    /// Makes the short name. That 64 bits of two hashes are equal is not met by chance; it is refused.
    fn link(&self, diff_id: &str) -> io::Result<()> {
        let hex = diff_id.trim_start_matches("sha256:");
        let target = PathBuf::from(format!("../sha256/{hex}/fs"));
        let link = self.dir.join(Layers::short_name(diff_id));
        match std::os::unix::fs::symlink(&target, &link) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                if fs::read_link(&link)? == target {
                    return Ok(());
                }
                Err(io::Error::other(format!("the short name of layer {diff_id} is taken")))
            }
            other => other,
        }
    }

    /// Everything on disk, before the index names it: a power cut must not leave an image with torn files.
    pub(crate) fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::syncfs(fs::File::open(&self.dir)?)?)
    }

    /// Removes the layers that `used` does not name.
    pub(crate) fn remove_unused(&self, used: &BTreeSet<String>) -> io::Result<()> {
        for entry in fs::read_dir(self.dir.join("sha256"))? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            let diff_id = format!("sha256:{name}");
            if used.contains(&diff_id) {
                continue;
            }
            let _already_gone = fs::remove_file(self.dir.join(Layers::short_name(&diff_id)));
            // Out of sight first, so that half of it is never a layer.
            let scratch = self.scratch()?;
            fs::rename(self.dir.join("sha256").join(&name), scratch.join("layer"))?;
            fs::remove_dir_all(scratch)?;
        }
        Ok(())
    }

    /// Reads a file of the stacked layers (uppermost first) as the container will see it; `None` if there
    /// is none. Links are followed within the image.
    pub(crate) fn read_file(&self, layers: &[String], path: &Path) -> io::Result<Option<Vec<u8>>> {
        let mut left: Vec<PathBuf> = parts(path);
        let mut at = PathBuf::new();
        let mut links = 0;
        while let Some(part) = left.pop() {
            if part.as_os_str() == ".." {
                at.pop();
                continue;
            }
            at.push(&part);
            let Some(real) = self.find(layers, &at) else { return Ok(None) };
            let meta = fs::symlink_metadata(&real)?;
            if meta.is_symlink() {
                links += 1;
                if links > 40 {
                    return Ok(None);
                }
                let target = fs::read_link(&real)?;
                if target.is_absolute() {
                    at = PathBuf::new();
                } else {
                    at.pop();
                }
                left.extend(parts(&target));
            } else if left.is_empty() {
                return if meta.is_file() { fs::read(&real).map(Some) } else { Ok(None) };
            }
        }
        Ok(None)
    }

    /// Where the uppermost layer that has `path`, none of whose parts is a link, keeps it.
    fn find(&self, layers: &[String], path: &Path) -> Option<PathBuf> {
        for diff_id in layers {
            let mut real = self.path(diff_id)?.join("fs");
            let mut hides = false;
            let mut found = true;
            for part in path {
                hides |= is_opaque(&real);
                real.push(part);
                match fs::symlink_metadata(&real) {
                    Ok(meta) if is_whiteout(&meta) => return None,
                    // A file or link here hides a lower directory.
                    Ok(meta) => hides |= !meta.is_dir(),
                    Err(_) => {
                        found = false;
                        break;
                    }
                }
            }
            if found {
                return Some(real);
            }
            if hides {
                return None;
            }
        }
        None
    }
}

/// The path's parts, last first.
fn parts(path: &Path) -> Vec<PathBuf> {
    let mut parts: Vec<PathBuf> = path
        .components()
        .filter(|c| matches!(c, Component::Normal(_) | Component::ParentDir))
        .map(|c| PathBuf::from(c.as_os_str()))
        .collect();
    parts.reverse();
    parts
}
