//! Named network and mount namespaces: made, entered and removed.
//!
//! A namespace is a property of a thread, so each is made or entered in a thread of its own that ends
//! with the call; the caller's never changes. The name is a bind mount of the namespace's file, which
//! keeps it alive without a process and lets `ip netns` and `nsenter` find it.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::thread;

use anyhow::{Context as _, anyhow};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use rustix::thread::{LinkNameSpaceType, UnshareFlags};

use super::rtnl::Rtnl;

/// Makes a network namespace with its loopback up and pins it at `path`.
pub(crate) fn make_net(path: &Path) -> anyhow::Result<()> {
    File::create_new(path).with_context(|| format!("make {}", path.display()))?;
    in_thread(|| {
        unshare(UnshareFlags::NEWNET)?;
        rustix::mount::mount_bind("/proc/thread-self/ns/net", path)
            .with_context(|| format!("pin a network namespace at {}", path.display()))?;
        Rtnl::open()?.set_up("lo").context("bring lo up")
    })
}

/// Makes a mount namespace that sees the caller's mounts but keeps its own, and pins it at `path`.
///
/// `path` must be on a private mount: the kernel refuses to propagate a mount namespace into itself.
pub(crate) fn make_mnt(path: &Path) -> anyhow::Result<()> {
    File::create_new(path).with_context(|| format!("make {}", path.display()))?;
    let (send_tid, tid) = std::sync::mpsc::channel();
    let (pinned, wait_pinned) = std::sync::mpsc::channel::<()>();
    thread::scope(|scope| {
        let holder = scope.spawn(move || -> anyhow::Result<()> {
            unshare(UnshareFlags::NEWNS)?;
            rustix::mount::mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::DOWNSTREAM)
                .context("make the mounts of a new mount namespace private")?;
            send_tid.send(rustix::thread::gettid()).context("hand over a mount namespace")?;
            // Ends when the other side drops the channel, with the namespace pinned or given up.
            let _ = wait_pinned.recv();
            Ok(())
        });
        if let Ok(tid) = tid.recv() {
            let source = format!("/proc/self/task/{}/ns/mnt", tid.as_raw_nonzero());
            rustix::mount::mount_bind(&source, path)
                .with_context(|| format!("pin a mount namespace at {}", path.display()))?;
        }
        drop(pinned);
        join(holder.join())
    })
}

/// Runs `work` in the network namespace at `path`.
pub(crate) fn in_net<T: Send>(
    path: &Path,
    work: impl FnOnce() -> anyhow::Result<T> + Send,
) -> anyhow::Result<T> {
    in_thread(|| {
        enter(path, LinkNameSpaceType::Network)?;
        work()
    })
}

/// Moves the calling thread into the namespace at `path`.
pub(crate) fn enter(path: &Path, kind: LinkNameSpaceType) -> anyhow::Result<()> {
    let file = File::open(path).with_context(|| format!("open the namespace {}", path.display()))?;
    rustix::thread::move_into_link_name_space(file.as_fd(), Some(kind))
        .with_context(|| format!("enter the namespace {}", path.display()))
}

/// Removes a pinned namespace's name; it lives on while a process is in it.
pub(crate) fn remove(path: &Path) -> anyhow::Result<()> {
    if !path.exists() {
        return Ok(());
    }
    match rustix::mount::unmount(path, UnmountFlags::DETACH) {
        Ok(()) | Err(rustix::io::Errno::INVAL) => {}
        Err(err) => return Err(anyhow!(err).context(format!("unmount {}", path.display()))),
    }
    std::fs::remove_file(path).with_context(|| format!("remove {}", path.display()))
}

/// Makes `dir` a private mount, so that mount namespaces can be pinned in it.
pub(crate) fn make_private(dir: &Path) -> anyhow::Result<()> {
    rustix::mount::mount(dir, dir, "", MountFlags::BIND, None)
        .with_context(|| format!("mount {} on itself", dir.display()))?;
    rustix::mount::mount_change(dir, MountPropagationFlags::PRIVATE)
        .with_context(|| format!("make {} private", dir.display()))
}

/// Moves the calling thread into new namespaces; the caller is a thread or process made for that.
pub(crate) fn unshare(flags: UnshareFlags) -> anyhow::Result<()> {
    #[expect(unsafe_code, reason = "unshare is marked unsafe for FILES, which is not asked for here")]
    // SAFETY: only namespaces are unshared; the table of open files stays shared.
    unsafe { rustix::thread::unshare_unsafe(flags) }.with_context(|| format!("unshare {flags:?}"))
}

fn in_thread<T: Send>(work: impl FnOnce() -> anyhow::Result<T> + Send) -> anyhow::Result<T> {
    thread::scope(|scope| join(scope.spawn(work).join()))
}

fn join<T>(result: thread::Result<anyhow::Result<T>>) -> anyhow::Result<T> {
    result.unwrap_or_else(|_| Err(anyhow!("a namespace thread panicked")))
}
