//! Turns a container's specification and its image into an OCI bundle, with Docker's defaults.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::images::ImageConfig;
use crate::spec::{ContainerSpec, Limits, Mount, MountKind, Ulimit};
use crate::user::User;

const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// One CPU's worth of time in each period, in microseconds.
const CPU_PERIOD_US: i64 = 100_000;

/// Docker's default capabilities.
const CAPABILITIES: [&str; 14] = [
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

/// All capabilities by their numbers in the kernel.
const ALL_CAPABILITIES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

const MASKED_PATHS: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];

const READONLY_PATHS: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// What this machine and the engine add to a specification.
#[derive(Debug)]
pub(crate) struct Host {
    /// Cgroup of the container, from the root of each hierarchy.
    pub(crate) cgroup: String,
    /// Cgroup v2 alone: no cgroup filters devices, so that none may be made.
    pub(crate) unified: bool,
    pub(crate) limits_swap: bool,
    /// Bits of the capabilities that this process could give away.
    pub(crate) capabilities: u64,
    /// The network namespace is the daemon's own.
    pub(crate) shares_network: bool,
    /// This process is protected from the kernel's memory killer; containers must not be.
    pub(crate) oom_protected: bool,
    /// How many files a process may have open, if the container does not say: now, and what it may raise that to.
    pub(crate) open_files: Option<(u64, u64)>,
}

/// A mount with its place on the host found.
#[derive(Debug, Clone)]
pub(crate) struct Bound {
    pub(crate) source: PathBuf,
    pub(crate) target: String,
    pub(crate) read_only: bool,
}

/// The command with its arguments: entrypoint, then command; a new entrypoint drops the image's command.
pub(crate) fn command(spec: &ContainerSpec, image: &ImageConfig) -> Vec<String> {
    let (entrypoint, cmd) = match (&spec.entrypoint, &spec.args) {
        (Some(entrypoint), args) => (entrypoint, args.clone().unwrap_or_default()),
        (None, Some(args)) => (&image.entrypoint, args.clone()),
        (None, None) => (&image.entrypoint, image.cmd.clone()),
    };
    entrypoint.iter().cloned().chain(cmd).collect()
}

/// The working directory: absolute in the end.
pub(crate) fn workdir(spec: &ContainerSpec, image: &ImageConfig) -> String {
    let wanted = spec.workdir.as_deref().filter(|w| !w.is_empty()).unwrap_or(&image.workdir);
    Path::new("/").join(wanted).to_string_lossy().into_owned()
}

fn env(spec: &ContainerSpec, image: &ImageConfig) -> Vec<String> {
    let mut env = vec![DEFAULT_PATH.to_owned(), format!("HOSTNAME={}", spec.hostname)];
    for wanted in image.env.iter().chain(&spec.env) {
        let (name, sets) = wanted.split_once('=').map_or((wanted.as_str(), false), |(n, _)| (n, true));
        let is_it = |e: &String| e.split_once('=').is_some_and(|(n, _)| n == name);
        match (env.iter().position(is_it), sets) {
            (Some(at), true) => env[at].clone_from(wanted),
            (Some(at), false) => drop(env.remove(at)),
            (None, true) => env.push(wanted.clone()),
            (None, false) => {}
        }
    }
    // libcontainer's way to the command leads through PATH, even if there is none.
    if !env.iter().any(|e| e.starts_with("PATH=")) {
        env.push("PATH=".to_owned());
    }
    env
}

/// Docker's default ones; without devices where no cgroup filters them.
pub(crate) fn default_capabilities(is_unified: bool) -> impl Iterator<Item = &'static str> {
    CAPABILITIES.into_iter().filter(move |name| !(is_unified && *name == "CAP_MKNOD"))
}

/// Default, added and dropped capabilities; the error names what is none.
pub(crate) fn capabilities(spec: &ContainerSpec, host: &Host) -> Result<Vec<String>, String> {
    let read = |list: &[String]| -> Result<BTreeSet<String>, String> {
        let mut names = BTreeSet::new();
        for name in list {
            let upper = name.to_ascii_uppercase();
            let full =
                if upper == "ALL" || upper.starts_with("CAP_") { upper } else { format!("CAP_{upper}") };
            match full.as_str() {
                "ALL" => names.extend(ALL_CAPABILITIES.iter().map(|c| (*c).to_owned())),
                full if ALL_CAPABILITIES.contains(&full) => drop(names.insert(full.to_owned())),
                _ => return Err(format!("invalid capability: {name:?}")),
            }
        }
        Ok(names)
    };
    let (added, dropped) = (read(&spec.cap_add)?, read(&spec.cap_drop)?);
    let mut names: BTreeSet<String> = default_capabilities(host.unified).map(str::to_owned).collect();
    if spec.cap_add.iter().any(|c| c.eq_ignore_ascii_case("all")) {
        // Add all but these.
        names.extend(added);
        names.retain(|c| !dropped.contains(c));
    } else {
        names.retain(|c| !dropped.contains(c));
        names.extend(added);
    }
    let has = |name: &String| {
        ALL_CAPABILITIES.iter().zip(0..).any(|(n, bit)| n == name && host.capabilities >> bit & 1 == 1)
    };
    names.retain(has);
    Ok(names.into_iter().collect())
}

fn mounts(spec: &ContainerSpec, host: &Host, bound: &[Bound]) -> Vec<Value> {
    let mount = |target: &str, kind: &str, source: &str, options: &[&str]| json!({ "destination": target, "type": kind, "source": source, "options": options });
    let sysfs: &[&str] = &["nosuid", "noexec", "nodev", "ro"];
    let mut mounts = vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        mount("/sys", "sysfs", "sysfs", sysfs),
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
    ];
    if host.unified {
        // Not on v1: libcontainer leaves its mounts writable there, limits and all.
        mounts.push(mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "ro"]));
    }
    let mut own: Vec<(String, Value)> = Vec::new();
    for m in spec.mounts.iter().filter(|m| m.kind == MountKind::Tmpfs) {
        own.push((m.target.clone(), tmpfs(m)));
    }
    for b in bound {
        let access = if b.read_only { "ro" } else { "rw" };
        let source = b.source.to_string_lossy();
        own.push((b.target.clone(), mount(&b.target, "bind", &source, &["rbind", "rprivate", access])));
    }
    let clean = |path: &str| path.trim_end_matches('/').to_owned();
    mounts.retain(|m| !own.iter().any(|(target, _)| m["destination"] == *clean(target)));
    // Outer before inner, whatever the order they were given in.
    own.sort_by_key(|(target, _)| target.split('/').filter(|p| !p.is_empty()).count());
    mounts.extend(own.into_iter().map(|(_, mount)| mount));
    mounts
}

fn tmpfs(mount: &Mount) -> Value {
    let mut options: Vec<String> = ["nosuid", "nodev", "noexec"].map(str::to_owned).to_vec();
    options.push(if mount.read_only { "ro" } else { "rw" }.to_owned());
    options.push(format!("mode={:o}", mount.tmpfs_mode.unwrap_or(0o1777)));
    options.extend(mount.tmpfs_size.filter(|s| *s > 0).map(|s| format!("size={s}")));
    json!({ "destination": mount.target, "type": "tmpfs", "source": "tmpfs", "options": options })
}

fn resources(limits: &Limits, host: &Host) -> Value {
    let mut resources = json!({});
    if !host.unified {
        // Nothing is allowed but what libcontainer then adds: the default devices.
        resources["devices"] = json!([{ "allow": false, "access": "rwm" }]);
    }
    if limits.memory_bytes > 0 {
        resources["memory"] = json!({ "limit": limits.memory_bytes });
        if host.limits_swap {
            // Docker's rule: memory and swap together twice the memory.
            resources["memory"]["swap"] = json!(limits.memory_bytes.saturating_mul(2));
        }
    }
    if limits.nano_cpus > 0 {
        // The kernel refuses less than a millisecond.
        let quota = (limits.nano_cpus / (1_000_000_000 / CPU_PERIOD_US)).max(1000);
        resources["cpu"] = json!({ "quota": quota, "period": CPU_PERIOD_US });
    }
    if limits.pids > 0 {
        resources["pids"] = json!({ "limit": limits.pids });
    }
    resources
}

fn rlimits(spec: &ContainerSpec, host: &Host) -> Vec<Value> {
    let is_said = spec.ulimits.iter().any(|limit| limit.name == "nofile");
    let ours = host.open_files.filter(|_| !is_said);
    let ours = ours.map(|(soft, hard)| Ulimit { name: "nofile".to_owned(), soft, hard });
    let limit = |limit: &Ulimit| {
        let kind = format!("RLIMIT_{}", limit.name.to_ascii_uppercase());
        json!({ "type": kind, "soft": limit.soft, "hard": limit.hard })
    };
    spec.ulimits.iter().chain(&ours).map(limit).collect()
}

/// The bundle's `config.json`.
pub(crate) fn config(
    spec: &ContainerSpec,
    image: &ImageConfig,
    user: &User,
    host: &Host,
    bound: &[Bound],
) -> Result<Value, String> {
    let capabilities = capabilities(spec, host)?;
    let mut namespaces = vec![
        json!({ "type": "pid" }),
        json!({ "type": "ipc" }),
        json!({ "type": "uts" }),
        json!({ "type": "mount" }),
    ];
    namespaces.push(match &spec.netns {
        Some(path) => json!({ "type": "network", "path": path }),
        None => json!({ "type": "network" }),
    });
    if host.unified {
        namespaces.push(json!({ "type": "cgroup" }));
    }
    let mut sysctls: BTreeMap<String, String> = BTreeMap::new();
    if !host.shares_network {
        // As Docker does it: ports below 1024 and ping without rights.
        sysctls.insert("net.ipv4.ip_unprivileged_port_start".to_owned(), "0".to_owned());
        sysctls.insert("net.ipv4.ping_group_range".to_owned(), "0 2147483647".to_owned());
    }
    sysctls.extend(spec.sysctls.clone());
    let mut process = json!({
        "user": user.to_oci(),
        "args": command(spec, image),
        "env": env(spec, image),
        "cwd": workdir(spec, image),
        "capabilities": {
            "bounding": capabilities,
            "effective": capabilities,
            "permitted": capabilities,
            "inheritable": [],
            "ambient": [],
        },
    });
    let rlimits = rlimits(spec, host);
    if !rlimits.is_empty() {
        process["rlimits"] = rlimits.into();
    }
    if host.oom_protected {
        process["oomScoreAdj"] = json!(0);
    }
    Ok(json!({
        "ociVersion": "1.0.2",
        "root": { "path": "rootfs", "readonly": spec.read_only_root },
        "hostname": spec.hostname,
        "process": process,
        "mounts": mounts(spec, host, bound),
        "linux": {
            "cgroupsPath": format!("/{}", host.cgroup),
            "namespaces": namespaces,
            "resources": resources(&spec.limits, host),
            "maskedPaths": MASKED_PATHS,
            "readonlyPaths": READONLY_PATHS,
            "sysctl": sysctls,
        },
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(list: &[&str]) -> Vec<String> {
        list.iter().map(|s| (*s).to_owned()).collect()
    }

    fn host() -> Host {
        Host {
            cgroup: "skep/n/c".to_owned(),
            unified: false,
            limits_swap: false,
            capabilities: u64::MAX,
            shares_network: false,
            oom_protected: false,
            open_files: None,
        }
    }

    #[test]
    fn command_and_environment_merge_as_dockers() {
        let image = ImageConfig {
            entrypoint: strings(&["/entry"]),
            cmd: strings(&["a", "b"]),
            env: strings(&["PATH=/bin", "X=1", "Y=2"]),
            ..ImageConfig::default()
        };
        let spec = |entrypoint: Option<&[&str]>, args: Option<&[&str]>| ContainerSpec {
            entrypoint: entrypoint.map(strings),
            args: args.map(strings),
            env: strings(&["X=3", "Y", "Z=4"]),
            hostname: "h".to_owned(),
            ..ContainerSpec::default()
        };
        assert_eq!(command(&spec(None, None), &image), ["/entry", "a", "b"]);
        assert_eq!(command(&spec(None, Some(&["c"])), &image), ["/entry", "c"]);
        assert_eq!(command(&spec(Some(&["sh"]), None), &image), ["sh"]);
        assert_eq!(command(&spec(Some(&["sh"]), Some(&["-c"])), &image), ["sh", "-c"]);
        assert_eq!(env(&spec(None, None), &image), ["PATH=/bin", "HOSTNAME=h", "X=3", "Z=4"]);
    }

    #[test]
    fn capabilities_follow_docker() {
        let check = |add: &[&str], drop: &[&str]| {
            let spec =
                ContainerSpec { cap_add: strings(add), cap_drop: strings(drop), ..ContainerSpec::default() };
            capabilities(&spec, &host()).map(|c| c.len())
        };
        assert_eq!(check(&[], &[]), Ok(14));
        assert_eq!(check(&["net_admin"], &["MKNOD", "CAP_KILL"]), Ok(13));
        assert_eq!(check(&["ALL"], &["SYS_ADMIN"]), Ok(40));
        assert_eq!(check(&["CHOWN"], &["all"]), Ok(1));
        assert_eq!(check(&["FLY"], &[]).unwrap_err(), "invalid capability: \"FLY\"");
    }

    #[test]
    fn a_container_has_the_open_files_that_the_daemon_had_unless_it_says() {
        let host = Host { open_files: Some((1024, 4096)), ..host() };
        let limits = |names: &[(&str, u64)]| {
            let ulimits = names.iter().map(|(name, n)| Ulimit { name: (*name).into(), soft: *n, hard: *n });
            rlimits(&ContainerSpec { ulimits: ulimits.collect(), ..ContainerSpec::default() }, &host)
        };
        let limit = |kind: &str, soft, hard| json!({ "type": kind, "soft": soft, "hard": hard });
        let ours = limit("RLIMIT_NOFILE", 1024, 4096);
        assert_eq!(limits(&[]), std::slice::from_ref(&ours));
        assert_eq!(limits(&[("core", 1)]), [limit("RLIMIT_CORE", 1, 1), ours]);
        assert_eq!(limits(&[("nofile", 5)]), [limit("RLIMIT_NOFILE", 5, 5)]);
    }

    #[test]
    fn own_mounts_replace_defaults_and_go_outer_first() {
        let mount = |target: &str| Mount {
            kind: MountKind::Tmpfs,
            source: None,
            target: target.to_owned(),
            read_only: false,
            tmpfs_size: Some(1024),
            tmpfs_mode: Some(0o700),
            no_copy: false,
            labels: BTreeMap::new(),
        };
        let spec =
            ContainerSpec { mounts: vec![mount("/a/b"), mount("/dev/shm/")], ..ContainerSpec::default() };
        let bound = Bound { source: PathBuf::from("/x"), target: "/a".to_owned(), read_only: true };
        let mounts = mounts(&spec, &host(), &[bound]);
        let targets: Vec<&str> = mounts.iter().map(|m| m["destination"].as_str().unwrap()).collect();
        assert_eq!(targets, ["/proc", "/dev", "/dev/pts", "/sys", "/dev/mqueue", "/a", "/a/b", "/dev/shm/"]);
        assert_eq!(mounts[6]["options"], json!(["nosuid", "nodev", "noexec", "rw", "mode=700", "size=1024"]));
    }
}
