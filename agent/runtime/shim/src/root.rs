//! Makes a container's root file system: its mounts, its working directory, its volumes' first content.
//!
//! All of it happens in a mount namespace of its own, which is only passed through: in the end the mounts are
//! the container's alone. So nothing needs unmounting when the shim or the machine dies, it does not matter
//! in which mount namespace a later daemon runs, and the shim keeps no copies of others' mounts busy.
//! Nothing of the container runs yet, so paths can be walked without races.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use rustix::fs::{CWD, FileType, Mode};

use crate::handoff::{ShimConfig, VolumeFill};

/// As the kernel's limit on following links.
const LINKS_MAX: u32 = 40;

/// The mount namespace that the shim came from.
pub(crate) struct Home(fs::File);

impl Home {
    /// Leaves the mounts to the container, once it has them.
    pub(crate) fn go(self) -> nix::Result<()> {
        setns(self.0, CloneFlags::CLONE_NEWNS)
    }
}

/// Mounts the overlay at `<dir>/rootfs` and prepares what the OCI bundle takes for granted.
pub(crate) fn prepare(dir: &Path, config: &ShimConfig) -> Result<Home, String> {
    let home =
        fs::File::open("/proc/self/ns/mnt").map_err(|e| format!("failed to open /proc/self/ns/mnt: {e}"))?;
    unshare(CloneFlags::CLONE_NEWNS).map_err(|e| format!("failed to unshare the mount namespace: {e}"))?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SLAVE, None::<&str>)
        .map_err(|e| format!("failed to make mounts private to the shim: {e}"))?;
    overlay(config).map_err(|e| format!("failed to mount the overlay: {e}"))?;
    let root = dir.join("rootfs");
    for volume in &config.volumes {
        fill(&root, volume).map_err(|e| format!("failed to fill the volume at {}: {e}", volume.target))?;
    }
    resolve(&root, Path::new(&config.workdir))
        .and_then(fs::create_dir_all)
        .map_err(|e| format!("failed to create the working directory {:?}: {e}", config.workdir))?;
    for (at, to) in &config.links {
        link(&root, at, to).map_err(|e| format!("failed to make the link {at}: {e}"))?;
    }
    Ok(Home(home))
}

/// Makes a symbolic link in place of whatever is there.
fn link(root: &Path, at: &str, to: &str) -> io::Result<()> {
    let at = Path::new(at);
    let (Some(parent), Some(name)) = (at.parent(), at.file_name()) else {
        return Err(io::Error::other("a link needs a place"));
    };
    let parent = resolve(root, parent)?;
    fs::create_dir_all(&parent)?;
    let at = parent.join(name);
    match fs::remove_file(&at) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        Ok(()) | Err(_) => std::os::unix::fs::symlink(to, at),
    }
}

/// Layer names are relative, because the kernel takes at most a page of options.
fn overlay(config: &ShimConfig) -> io::Result<()> {
    std::env::set_current_dir(&config.layers_dir)?;
    let at = format!("../containers/{}", config.id);
    let options = format!("lowerdir={},upperdir={at}/upper,workdir={at}/work", config.lower.join(":"),);
    let flags = if config.no_devices { MsFlags::MS_NODEV } else { MsFlags::empty() };
    let target = format!("{at}/rootfs");
    mount(Some("overlay"), target.as_str(), Some("overlay"), flags, Some(options.as_str()))?;
    std::env::set_current_dir("/")
}

/// Where `path` of the container lies on the host: links are followed, but never out of `root`.
fn resolve(root: &Path, path: &Path) -> io::Result<PathBuf> {
    let mut left: Vec<std::ffi::OsString> = Vec::new();
    let push = |left: &mut Vec<std::ffi::OsString>, path: &Path| {
        for c in path.components().rev() {
            left.push(c.as_os_str().to_owned());
        }
    };
    push(&mut left, path);
    let mut inside = PathBuf::new();
    let mut links = 0;
    while let Some(name) = left.pop() {
        match Path::new(&name).components().next() {
            Some(Component::Normal(name)) => inside.push(name),
            Some(Component::ParentDir) => {
                inside.pop();
                continue;
            }
            Some(Component::RootDir) => {
                inside = PathBuf::new();
                continue;
            }
            Some(Component::CurDir | Component::Prefix(_)) | None => continue,
        }
        if let Ok(target) = fs::read_link(root.join(&inside)) {
            links += 1;
            if links > LINKS_MAX {
                return Err(io::Error::other("too many symbolic links"));
            }
            inside.pop();
            push(&mut left, &target);
        }
    }
    Ok(root.join(inside))
}

/// Copies the image's content into a volume that is still empty. Two containers may come at once.
fn fill(root: &Path, volume: &VolumeFill) -> io::Result<()> {
    let from = resolve(root, Path::new(&volume.target))?;
    if !fs::symlink_metadata(&from).is_ok_and(|m| m.is_dir()) {
        return Ok(());
    }
    let dir = fs::File::open(&volume.source)?;
    rustix::fs::flock(&dir, rustix::fs::FlockOperation::LockExclusive)?;
    if fs::read_dir(&volume.source)?.next().is_some() {
        return Ok(());
    }
    copy_tree(&from, &volume.source)
}

fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        let meta = fs::symlink_metadata(&from)?;
        let kind = meta.file_type();
        if kind.is_dir() {
            fs::create_dir(&to)?;
            copy_tree(&from, &to)?;
            continue;
        }
        if kind.is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(&from)?, &to)?;
        } else if kind.is_file() {
            fs::copy(&from, &to)?;
        } else {
            let kind = FileType::from_raw_mode(meta.mode());
            rustix::fs::mknodat(CWD, &to, kind, Mode::from_raw_mode(meta.mode()), meta.rdev())?;
        }
        copy_attributes(&meta, &to)?;
    }
    copy_attributes(&fs::symlink_metadata(from)?, to)
}

/// Owner first: changing it clears the set-id bits.
fn copy_attributes(meta: &fs::Metadata, to: &Path) -> io::Result<()> {
    std::os::unix::fs::lchown(to, Some(meta.uid()), Some(meta.gid()))?;
    if !meta.is_symlink() {
        fs::set_permissions(to, fs::Permissions::from_mode(meta.mode() & 0o7777))?;
    }
    let mtime = rustix::fs::Timespec { tv_sec: meta.mtime(), tv_nsec: meta.mtime_nsec() };
    let times = rustix::fs::Timestamps { last_access: mtime, last_modification: mtime };
    Ok(rustix::fs::utimensat(CWD, to, &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_takes_the_place_of_a_file_and_stays_in_the_root() {
        let root = std::env::temp_dir().join(format!("skep-shim-link-{}", std::process::id()));
        fs::create_dir_all(root.join("run")).unwrap();
        fs::create_dir_all(root.join("var")).unwrap();
        std::os::unix::fs::symlink("/run", root.join("var/run")).unwrap();
        for _ in 0..2 {
            link(&root, "/var/run/docker.sock", "/run/skep-engine/skep.sock").unwrap();
            let made = fs::read_link(root.join("run/docker.sock")).unwrap();
            assert_eq!(made, Path::new("/run/skep-engine/skep.sock"));
        }
        link(&root, "/new/dir/sock", "/x").unwrap();
        assert!(fs::symlink_metadata(root.join("new/dir/sock")).unwrap().is_symlink());
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn links_never_lead_out_of_the_root() {
        let root = std::env::temp_dir().join(format!("skep-shim-root-{}", std::process::id()));
        fs::create_dir_all(root.join("a/b")).unwrap();
        for (target, link) in [("/a", "abs"), ("../../../etc", "a/up"), ("loop", "loop"), ("b", "a/c")] {
            std::os::unix::fs::symlink(target, root.join(link)).unwrap();
        }
        for (path, found) in [
            ("/abs/b", "a/b"),
            ("/a/up/passwd", "etc/passwd"),
            ("a/c/new/dir", "a/b/new/dir"),
            ("/../../x", "x"),
            ("/", ""),
        ] {
            assert_eq!(resolve(&root, Path::new(path)).unwrap(), root.join(found), "{path}");
        }
        assert!(resolve(&root, Path::new("/loop")).is_err());
        fs::remove_dir_all(root).unwrap();
    }
}
