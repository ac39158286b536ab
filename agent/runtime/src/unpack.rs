//! Unpacks one layer's tar into a directory of its own, in the form that overlayfs stacks.
//!
//! A layer comes from strangers: nothing in it may touch a file outside of the directory, and no attribute
//! that steers overlayfs is taken from it. Deletions of lower files (`.wh.x`) become 0/0 device files,
//! replaced directories (`.wh..wh..opq`) the `opaque` attribute.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};
use tar::{Archive, Entry, EntryType};

const WHITEOUT: &str = ".wh.";
const OPAQUE: &str = ".wh..wh..opq";
/// Other names of the kind belong to aufs itself, not to the layer's content.
const AUFS: &str = ".wh..wh.";
const XATTR: &str = "SCHILY.xattr.";

/// What a layer amounted to.
#[derive(Debug, Default)]
pub(crate) struct Unpacked {
    /// Bytes of its files.
    pub(crate) size: u64,
    /// Newest modification time, in seconds since 1970.
    pub(crate) newest_unix_secs: i64,
}

/// Unpacks the tar `from` into the empty directory `into`. Owners, modes, times, links, devices and the
/// harmless extended attributes are kept.
pub(crate) fn unpack(from: &mut dyn Read, into: &Path) -> io::Result<Unpacked> {
    let mut archive = Archive::new(from);
    archive.set_preserve_permissions(true);
    archive.set_preserve_ownerships(true);
    archive.set_preserve_mtime(true);
    archive.set_overwrite(true);
    archive.set_unpack_xattrs(false);
    let mut done = Unpacked::default();
    // A directory's time changes with its content, so it is set at the end.
    let mut directories: Vec<(PathBuf, i64)> = Vec::new();
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        let named = |e: io::Error| io::Error::new(e.kind(), format!("{}: {}", path.display(), chain(&e)));
        let relative = clean(&path).map_err(named)?;
        let mtime = i64::try_from(entry.header().mtime()?).unwrap_or(0);
        done.newest_unix_secs = done.newest_unix_secs.max(mtime);
        done.size += entry.header().entry_size().unwrap_or(0);
        unpack_entry(&mut entry, into, &relative).map_err(named)?;
        if entry.header().entry_type().is_dir() {
            directories.push((relative, mtime));
        }
    }
    for (relative, mtime) in directories.iter().rev() {
        // It may have been replaced by something else later in the archive.
        let path = into.join(relative);
        if fs::symlink_metadata(&path).is_ok_and(|m| m.is_dir()) && parent(into, relative).is_ok() {
            set_mtime(&path, *mtime)?;
        }
    }
    Ok(done)
}

/// The tar crate's errors say what failed, and only their sources why.
fn chain(error: &io::Error) -> String {
    let mut words = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(e) = source {
        words = format!("{words}: {e}");
        source = e.source();
    }
    words
}

/// The path without leading `/` and `./`; empty for the root itself.
fn clean(path: &Path) -> io::Result<PathBuf> {
    let mut relative = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => relative.push(name),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "path leads out of the layer"));
            }
        }
    }
    Ok(relative)
}

fn unpack_entry(entry: &mut Entry<'_, &mut dyn Read>, into: &Path, relative: &Path) -> io::Result<()> {
    let Some(name) = relative.file_name().map(|n| n.to_string_lossy().into_owned()) else {
        // The root directory: it exists, its attributes count.
        return if entry.header().entry_type().is_dir() { set_attributes(entry, into) } else { Ok(()) };
    };
    if name == OPAQUE {
        let dir = parent(into, relative)?;
        return Ok(rustix::fs::setxattr(&dir, "trusted.overlay.opaque", b"y", XattrFlags::empty())?);
    }
    if name.starts_with(AUFS) {
        return Ok(());
    }
    if let Some(gone) = name.strip_prefix(WHITEOUT) {
        let path = parent(into, relative)?.join(gone);
        clear(&path)?;
        return Ok(rustix::fs::mknodat(CWD, &path, FileType::CharacterDevice, Mode::empty(), 0)?);
    }
    let Some(kind) = special(entry.header().entry_type()) else {
        if !entry.unpack_in(into)? {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "path leads out of the layer"));
        }
        return set_xattrs(entry, &into.join(relative));
    };
    let path = parent(into, relative)?.join(&name);
    clear(&path)?;
    let number = |n: io::Result<Option<u32>>| n.ok().flatten().unwrap_or(0);
    let (major, minor) = (number(entry.header().device_major()), number(entry.header().device_minor()));
    rustix::fs::mknodat(CWD, &path, kind, Mode::empty(), rustix::fs::makedev(major, minor))?;
    set_attributes(entry, &path)?;
    set_xattrs(entry, &path)
}

/// What the tar crate would make a plain file of.
fn special(entry: EntryType) -> Option<FileType> {
    let kinds = [
        (EntryType::Char, FileType::CharacterDevice),
        (EntryType::Block, FileType::BlockDevice),
        (EntryType::Fifo, FileType::Fifo),
    ];
    kinds.into_iter().find(|(kind, _)| *kind == entry).map(|(_, kind)| kind)
}

/// The directory that holds `relative`, made if missing; a link on the way there is refused.
fn parent(into: &Path, relative: &Path) -> io::Result<PathBuf> {
    let mut dir = into.to_owned();
    for part in relative.parent().into_iter().flat_map(Path::components) {
        dir.push(part);
        match fs::symlink_metadata(&dir) {
            Ok(m) if m.is_dir() => {}
            Ok(_) => return Err(io::Error::new(io::ErrorKind::InvalidData, "lies beneath no directory")),
            Err(e) if e.kind() == io::ErrorKind::NotFound => fs::create_dir(&dir)?,
            Err(e) => return Err(e),
        }
    }
    Ok(dir)
}

/// Makes room for what an archive has twice.
fn clear(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(m) if m.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
    }
}

fn set_attributes(entry: &Entry<'_, &mut dyn Read>, path: &Path) -> io::Result<()> {
    let header = entry.header();
    let id = |n: u64| u32::try_from(n).map_err(|_| io::Error::other("owner does not fit 32 bits"));
    lchown(path, Some(id(header.uid()?)?), Some(id(header.gid()?)?))?;
    fs::set_permissions(path, fs::Permissions::from_mode(header.mode()? & 0o7777))?;
    set_mtime(path, i64::try_from(header.mtime()?).unwrap_or(0))
}

fn set_mtime(path: &Path, unix_secs: i64) -> io::Result<()> {
    let time = Timespec { tv_sec: unix_secs, tv_nsec: 0 };
    let times = Timestamps { last_access: time, last_modification: time };
    Ok(rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

/// File capabilities and the users' own attributes; `trusted.overlay.*` above all must not come in.
fn set_xattrs(entry: &mut Entry<'_, &mut dyn Read>, path: &Path) -> io::Result<()> {
    let Some(extensions) = entry.pax_extensions()? else { return Ok(()) };
    let mut wanted: Vec<(String, Vec<u8>)> = Vec::new();
    for extension in extensions {
        let extension = extension?;
        let name = extension.key().ok().and_then(|k| k.strip_prefix(XATTR));
        if let Some(name) = name.filter(|n| *n == "security.capability" || n.starts_with("user.")) {
            wanted.push((name.to_owned(), extension.value_bytes().to_owned()));
        }
    }
    for (name, value) in wanted {
        match rustix::fs::lsetxattr(path, &name, &value, XattrFlags::empty()) {
            // A file system without them loses users' attributes, as it would by cp.
            Ok(()) | Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::PERM) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

/// Whether the file hides what lower layers have at its place.
pub(crate) fn is_whiteout(meta: &fs::Metadata) -> bool {
    FileType::from_raw_mode(meta.mode()) == FileType::CharacterDevice && meta.rdev() == 0
}

/// Whether the directory hides the content that lower layers have in it.
pub(crate) fn is_opaque(dir: &Path) -> bool {
    let mut value = [0_u8; 1];
    rustix::fs::lgetxattr(dir, "trusted.overlay.opaque", &mut value).is_ok_and(|n| n == 1 && value == *b"y")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileTypeExt;

    use super::*;

    fn header(kind: EntryType, mode: u32) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(1);
        header.set_gid(2);
        header.set_mtime(1000);
        header.set_size(0);
        header
    }

    #[test]
    fn a_layer_keeps_its_attributes_and_its_place() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: owners and devices need root");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let (into, outside) = (dir.path().join("fs"), dir.path().join("outside"));
        fs::create_dir(&into).unwrap();
        let mut tar = tar::Builder::new(Vec::new());
        let empty = io::empty;
        tar.append_data(&mut header(EntryType::Directory, 0o511), "d", empty()).unwrap();
        let xattrs =
            [("SCHILY.xattr.user.a", b"1".as_slice()), ("SCHILY.xattr.trusted.overlay.redirect", b"/")];
        tar.append_pax_extensions(xattrs).unwrap();
        tar.append_data(&mut header(EntryType::Regular, 0o4755), "./d/file", empty()).unwrap();
        tar.append_link(&mut header(EntryType::Link, 0o644), "d/hard", "d/file").unwrap();
        tar.append_data(&mut header(EntryType::Fifo, 0o600), "d/fifo", empty()).unwrap();
        let mut device = header(EntryType::Char, 0o666);
        device.set_device_major(1).unwrap();
        device.set_device_minor(3).unwrap();
        tar.append_data(&mut device, "d/null", empty()).unwrap();
        tar.append_data(&mut header(EntryType::Regular, 0o644), "d/.wh.gone", empty()).unwrap();
        let whole = tar.into_inner().unwrap();
        unpack(&mut &whole[..], &into).unwrap();

        let meta = |name: &str| fs::symlink_metadata(into.join(name)).unwrap();
        assert_eq!((meta("d").mode() & 0o7777, meta("d").mtime()), (0o511, 1000));
        let file = meta("d/file");
        assert_eq!((file.mode() & 0o7777, file.uid(), file.gid(), file.nlink()), (0o4755, 1, 2, 2));
        assert_eq!(meta("d/null").rdev(), rustix::fs::makedev(1, 3));
        assert!(meta("d/fifo").file_type().is_fifo());
        assert!(is_whiteout(&meta("d/gone")) && !is_whiteout(&meta("d/null")));
        let mut value = [0_u8; 8];
        assert_eq!(rustix::fs::lgetxattr(into.join("d/file"), "user.a", &mut value).ok(), Some(1));
        assert!(rustix::fs::lgetxattr(into.join("d/file"), "trusted.overlay.redirect", &mut value).is_err());

        // Through a link that leads out, by each of the ways that write.
        for (kind, name) in [
            (EntryType::Regular, "out/file"),
            (EntryType::Directory, "out/dir"),
            (EntryType::Fifo, "out/fifo"),
            (EntryType::Regular, "out/.wh.x"),
            (EntryType::Regular, "out/.wh..wh..opq"),
        ] {
            fs::create_dir_all(&outside).unwrap();
            let mut tar = tar::Builder::new(Vec::new());
            tar.append_link(&mut header(EntryType::Symlink, 0o777), "out", "../outside").unwrap();
            tar.append_data(&mut header(kind, 0o644), name, empty()).unwrap();
            let tar = tar.into_inner().unwrap();
            let fresh = tempfile::tempdir_in(dir.path()).unwrap();
            assert!(unpack(&mut &tar[..], fresh.path()).is_err(), "{name}");
            assert_eq!(fs::read_dir(&outside).unwrap().count(), 0, "{name}");
        }
    }
}
