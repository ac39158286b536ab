//! Finds, joins, reads and removes cgroups by path, under v1, v2 and the hybrid of both.
//!
//! Compiled into the engine and the shim. Limits are set by libcontainer; this file only does what lies
//! around it: the shims' own cgroup, the out-of-memory count, and leaving nothing behind.

use std::io;
use std::path::PathBuf;

/// Times that a cgroup is tried again while its last process is still on its way out.
const REMOVE_TRIES: u32 = 50;

/// One mounted hierarchy.
#[derive(Debug)]
pub(crate) struct Hierarchy {
    mount: PathBuf,
    /// Mount options of v1, which name its controllers; empty for v2.
    controllers: String,
    v2: bool,
}

impl Hierarchy {
    fn has(&self, controller: &str) -> bool {
        self.controllers.split(',').any(|c| c == controller)
    }

    fn at(&self, path: &str) -> PathBuf {
        self.mount.join(path.trim_start_matches('/'))
    }
}

/// All hierarchies mounted in this mount namespace.
pub(crate) fn hierarchies() -> io::Result<Vec<Hierarchy>> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for line in std::fs::read_to_string("/proc/self/mountinfo")?.lines() {
        let Some((front, back)) = line.split_once(" - ") else { continue };
        let (Some(mount), mut back) = (front.split(' ').nth(4), back.split(' ')) else { continue };
        let kind = back.next().unwrap_or_default();
        let controllers = back.nth(1).unwrap_or_default();
        // One hierarchy may be mounted twice; the first is the one that libcontainer finds.
        let v2 = kind == "cgroup2";
        let known = |h: &Hierarchy| h.v2 == v2 && (v2 || h.controllers == controllers);
        if !mount.starts_with("/sys/fs/cgroup") || found.iter().any(known) {
            continue;
        }
        if v2 || kind == "cgroup" {
            let controllers = if v2 { String::new() } else { controllers.to_owned() };
            found.push(Hierarchy { mount: PathBuf::from(mount), controllers, v2 });
        }
    }
    Ok(found)
}

/// Whether the memory controller is a v2 one, in which case no device filter is applied.
pub(crate) fn is_unified(hierarchies: &[Hierarchy]) -> bool {
    !hierarchies.iter().any(|h| h.has("memory"))
}

/// Whether swap can be limited.
pub(crate) fn limits_swap(hierarchies: &[Hierarchy]) -> bool {
    match hierarchies.iter().find(|h| h.has("memory")) {
        Some(v1) => v1.mount.join("memory.memsw.limit_in_bytes").exists(),
        None => std::path::Path::new("/proc/swaps").exists(),
    }
}

/// Moves a process into the cgroup, which is made if need be.
///
/// Only where it matters: what counts memory and processes, and what service managers look at.
pub(crate) fn join(hierarchies: &[Hierarchy], path: &str, pid: i32) -> io::Result<()> {
    for h in hierarchies {
        if !(h.v2 || h.has("memory") || h.has("pids") || h.has("name=systemd")) {
            continue;
        }
        let dir = h.at(path);
        let mut tries = 0;
        // Another engine's last removal may take the empty directory away between the two steps.
        loop {
            std::fs::create_dir_all(&dir)?;
            match std::fs::write(dir.join("cgroup.procs"), pid.to_string()) {
                Ok(()) => break,
                Err(e) if e.kind() == io::ErrorKind::NotFound && tries < 3 => tries += 1,
                Err(e) => return Err(e),
            }
        }
    }
    Ok(())
}

/// Whether the kernel killed a process of the cgroup for want of memory. Ask before [`remove`].
pub(crate) fn oom_killed(hierarchies: &[Hierarchy], path: &str) -> bool {
    let count = |file: PathBuf| {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let line = text.lines().find_map(|l| l.strip_prefix("oom_kill "));
        line.and_then(|n| n.trim().parse::<u64>().ok()).unwrap_or(0)
    };
    hierarchies.iter().any(|h| {
        h.has("memory") && count(h.at(path).join("memory.oom_control")) > 0
            || h.v2 && count(h.at(path).join("memory.events")) > 0
    })
}

/// Removes the cgroup from every hierarchy; true if nothing of it is left.
pub(crate) fn remove(hierarchies: &[Hierarchy], path: &str) -> bool {
    let mut gone = true;
    for h in hierarchies {
        let dir = h.at(path);
        let mut tries = 0;
        gone &= loop {
            match std::fs::remove_dir(&dir) {
                Ok(()) => break true,
                Err(e) if e.kind() == io::ErrorKind::NotFound => break true,
                Err(e) if e.raw_os_error() == Some(16) && tries < REMOVE_TRIES => tries += 1,
                Err(_) => break false,
            }
            let wait = rustix::time::Timespec { tv_sec: 0, tv_nsec: 2_000_000 };
            let _interrupted = rustix::thread::nanosleep(&wait);
        };
    }
    gone
}

/// Removes the cgroup and its empty parents once, without waiting: for the last one to leave.
pub(crate) fn remove_if_empty(hierarchies: &[Hierarchy], path: &str) {
    for h in hierarchies {
        let top = h.mount.clone();
        let mut dir = h.at(path);
        while dir != top && dir.starts_with(&top) {
            match std::fs::remove_dir(&dir) {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(_) => break,
            }
            if !dir.pop() {
                break;
            }
        }
    }
}

/// Processes of the cgroup.
pub(crate) fn pids(hierarchies: &[Hierarchy], path: &str) -> Vec<i32> {
    let mut pids: Vec<i32> = Vec::new();
    for h in hierarchies {
        let text = std::fs::read_to_string(h.at(path).join("cgroup.procs")).unwrap_or_default();
        pids.extend(text.lines().filter_map(|l| l.parse::<i32>().ok()));
    }
    pids.sort_unstable();
    pids.dedup();
    pids
}
