//! Network namespaces: making, pinning and entering them.
//!
//! Invariant: only a throwaway thread ever changes its namespace; it ends there.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::io::Errno;
use rustix::mount::UnmountFlags;
use rustix::thread::{LinkNameSpaceType, UnshareFlags};

/// What statfs says of a file of the kernel's namespace file system.
const NSFS_MAGIC: u64 = 0x6e73_6673;

/// Runs `f` on a thread of its own, which may change its namespace.
pub(crate) fn on_own_thread<T: Send>(f: impl FnOnce() -> T + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("netns".to_owned()).spawn_scoped(scope, f)?;
        thread.join().map_err(|_| io::Error::other("the thread in the network namespace panicked"))
    })
}

/// Leaves for a new network namespace. Only on a thread of its own.
pub(crate) fn unshare() -> io::Result<()> {
    // SAFETY: the file table is not unshared, which is what the function is unsafe for.
    #[expect(unsafe_code, reason = "the only call that makes a namespace")]
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }?;
    Ok(())
}

/// Leaves for an existing network namespace. Only on a thread of its own.
pub(crate) fn enter(netns: BorrowedFd<'_>) -> io::Result<()> {
    rustix::thread::move_into_link_name_space(netns, Some(LinkNameSpaceType::Network))?;
    Ok(())
}

/// The namespace of the calling thread.
pub(crate) fn current() -> io::Result<OwnedFd> {
    open(Path::new("/proc/thread-self/ns/net"))
}

pub(crate) fn of_process(pid: u32) -> io::Result<OwnedFd> {
    open(Path::new(&format!("/proc/{pid}/ns/net")))
}

pub(crate) fn open(path: &Path) -> io::Result<OwnedFd> {
    Ok(File::open(path)?.into())
}

/// True if both are the same namespace.
pub(crate) fn is_same(a: &OwnedFd, b: &OwnedFd) -> io::Result<bool> {
    let (a, b) = (rustix::fs::fstat(a)?, rustix::fs::fstat(b)?);
    Ok((a.st_dev, a.st_ino) == (b.st_dev, b.st_ino))
}

/// True if the file is a namespace and not just the place for one: a daemon that came back in another mount
/// namespace finds the latter.
pub(crate) fn is_pinned(path: &Path) -> bool {
    rustix::fs::statfs(path).is_ok_and(|s| u64::try_from(s.f_type) == Ok(NSFS_MAGIC))
}

/// Keeps the namespace alive and findable under `path`.
pub(crate) fn pin(netns: &OwnedFd, path: &Path) -> io::Result<()> {
    OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
    rustix::mount::mount_bind(format!("/proc/self/fd/{}", netns.as_raw_fd()), path)?;
    Ok(())
}

/// Undoes all pins on `path` and removes the file; one that is gone is fine.
pub(crate) fn unpin(path: &Path) -> io::Result<()> {
    loop {
        match rustix::mount::unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            Err(Errno::INVAL | Errno::NOENT) => break,
            Err(e) => return Err(e.into()),
        }
    }
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        Ok(()) | Err(_) => Ok(()),
    }
}
