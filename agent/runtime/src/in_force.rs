//! What is in force in a container: read from the bundle that it runs from, which is what its processes really got.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::bundle;
use crate::handoff::read_json;
use crate::spec::{MountKind, Ulimit};

/// What a container's processes see, and may do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InForce {
    /// The command with its arguments.
    pub command: Vec<String>,
    pub env: Vec<String>,
    pub workdir: String,
    /// `uid:gid`; empty for root.
    pub user: String,
    /// Numbers of further groups than that.
    pub groups: Vec<String>,
    pub hostname: String,
    /// By name, or by number where it has none.
    pub stop_signal: String,
    pub read_only_root: bool,
    pub sysctls: BTreeMap<String, String>,
    /// Beyond Docker's default ones.
    pub cap_add: Vec<String>,
    /// Docker's default ones that it lacks.
    pub cap_drop: Vec<String>,
    pub ulimits: Vec<Ulimit>,
    /// 0: no limit, as for those below.
    pub memory_bytes: u64,
    /// Memory and swap together.
    pub memory_swap_bytes: u64,
    pub nano_cpus: u64,
    pub pids: u64,
    /// Its own mounts, without those that each container has.
    pub mounts: Vec<MountInForce>,
}

/// A mount of a container's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountInForce {
    pub kind: MountKind,
    /// Of a volume that has one.
    pub name: Option<String>,
    /// On the host; empty for a tmpfs.
    pub source: PathBuf,
    pub target: String,
    pub read_only: bool,
    /// Of a tmpfs: bytes, 0 for the kernel's default, and mode.
    pub tmpfs: Option<(u64, u32)>,
}

impl crate::Engine {
    /// What is in force in a container; `None` where there is none, or its bundle cannot be read.
    #[must_use]
    pub fn in_force(&self, id: &str) -> Option<InForce> {
        let container = self.inner.container(id).ok()?;
        let dir = self.inner.container_dir(id);
        let config: Value = read_json(&dir.join("config.json")).ok().flatten()?;
        let stop_signal = crate::containers::signal_name(container.record.stop_signal);
        let volumes = self.inner.config.state_dir.join("volumes");
        Some(InForce { stop_signal, ..read(&config, &dir, &volumes) })
    }
}

/// `dir` is the container's, `volumes` the one of the named volumes.
fn read(config: &Value, dir: &Path, volumes: &Path) -> InForce {
    let (process, linux) = (&config["process"], &config["linux"]);
    let limit = |path: &str| linux["resources"].pointer(path).and_then(Value::as_u64).unwrap_or(0);
    let (quota, period) = (limit("/cpu/quota"), limit("/cpu/period").max(1));
    let user = |key: &str| process["user"][key].as_u64().unwrap_or(0);
    let is_unified = list(&linux["namespaces"]).any(|namespace| namespace["type"] == "cgroup");
    let default: BTreeSet<String> = bundle::default_capabilities(is_unified).map(str::to_owned).collect();
    let has: BTreeSet<String> = strings(&process["capabilities"]["bounding"]).collect();
    InForce {
        command: strings(&process["args"]).collect(),
        env: strings(&process["env"]).collect(),
        workdir: text(&process["cwd"]),
        user: match (user("uid"), user("gid")) {
            (0, 0) => String::new(),
            (uid, gid) => format!("{uid}:{gid}"),
        },
        groups: list(&process["user"]["additionalGids"])
            .filter(|gid| gid.as_u64() != Some(user("gid")))
            .map(Value::to_string)
            .collect(),
        hostname: text(&config["hostname"]),
        stop_signal: String::new(),
        read_only_root: config["root"]["readonly"] == true,
        sysctls: linux["sysctl"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(key, value)| (key.clone(), text(value)))
            .collect(),
        cap_add: has.difference(&default).cloned().collect(),
        cap_drop: default.difference(&has).cloned().collect(),
        ulimits: list(&process["rlimits"]).map(ulimit).collect(),
        memory_bytes: limit("/memory/limit"),
        memory_swap_bytes: limit("/memory/swap"),
        nano_cpus: quota.saturating_mul(1_000_000_000 / period),
        pids: limit("/pids/limit"),
        mounts: list(&config["mounts"]).filter_map(|one| mount(one, dir, volumes)).collect(),
    }
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn strings(value: &Value) -> impl Iterator<Item = String> {
    list(value).map(text)
}

fn ulimit(limit: &Value) -> Ulimit {
    let name = text(&limit["type"]).trim_start_matches("RLIMIT_").to_ascii_lowercase();
    let count = |key: &str| limit[key].as_u64().unwrap_or(0);
    Ulimit { name, soft: count("soft"), hard: count("hard") }
}

/// `None` for what the engine gives to each container.
fn mount(mount: &Value, dir: &Path, volumes: &Path) -> Option<MountInForce> {
    let options: Vec<String> = strings(&mount["options"]).collect();
    let option = |key: &str| options.iter().find_map(|one| one.strip_prefix(key)?.strip_prefix('='));
    let source = PathBuf::from(text(&mount["source"]));
    let own = MountInForce {
        kind: MountKind::Bind,
        name: None,
        source: source.clone(),
        target: text(&mount["destination"]),
        read_only: options.iter().any(|one| one == "ro"),
        tmpfs: None,
    };
    match mount["type"].as_str() {
        // The files of its own directory: hosts, hostname, resolv.conf.
        Some("bind") if source.parent() == Some(dir) => None,
        Some("bind") => {
            let named = source.strip_prefix(volumes).ok().and_then(|rest| rest.iter().next());
            let name = named.map(|name| name.to_string_lossy().into_owned());
            let is_volume = name.is_some() || source.starts_with(dir);
            Some(MountInForce {
                kind: if is_volume { MountKind::Volume } else { MountKind::Bind },
                name,
                ..own
            })
        }
        // Its /dev is one too, and /dev/shm has another source.
        Some("tmpfs") if mount["source"] == "tmpfs" && !options.iter().any(|one| one == "strictatime") => {
            let size = option("size").and_then(|size| size.parse().ok()).unwrap_or(0);
            let mode = option("mode").and_then(|mode| u32::from_str_radix(mode, 8).ok()).unwrap_or(0o1777);
            let source = PathBuf::new();
            Some(MountInForce { kind: MountKind::Tmpfs, source, tmpfs: Some((size, mode)), ..own })
        }
        Some(_) | None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::{Bound, Host, config};
    use crate::images::ImageConfig;
    use crate::spec::{ContainerSpec, Limits, Mount};
    use crate::user::User;

    fn strings(list: &[&str]) -> Vec<String> {
        list.iter().map(|one| (*one).to_owned()).collect()
    }

    fn spec() -> ContainerSpec {
        let tmpfs = Mount {
            kind: MountKind::Tmpfs,
            source: None,
            target: "/t".to_owned(),
            read_only: false,
            tmpfs_size: Some(1024),
            tmpfs_mode: Some(0o700),
            no_copy: false,
            labels: BTreeMap::new(),
        };
        ContainerSpec {
            args: Some(strings(&["run", "it"])),
            env: strings(&["A=b"]),
            hostname: "h".to_owned(),
            workdir: Some("/w".to_owned()),
            read_only_root: true,
            cap_add: strings(&["NET_ADMIN"]),
            cap_drop: strings(&["CHOWN"]),
            sysctls: BTreeMap::from([("net.core.somaxconn".to_owned(), "7".to_owned())]),
            ulimits: vec![Ulimit { name: "nofile".to_owned(), soft: 1, hard: 2 }],
            limits: Limits { memory_bytes: 1 << 23, nano_cpus: 500_000_000, pids: 9 },
            mounts: vec![tmpfs],
            ..ContainerSpec::default()
        }
    }

    /// What is read of the bundle of [`spec`], with these mounts found on the host.
    fn read_back(unified: bool, bounds: &[Bound]) -> InForce {
        let host = Host {
            cgroup: "skep/n/c".to_owned(),
            unified,
            limits_swap: true,
            capabilities: u64::MAX,
            shares_network: false,
            oom_protected: false,
            open_files: None,
        };
        let user = User { uid: 5, gid: 6, groups: vec![6, 7] };
        let made = config(&spec(), &ImageConfig::default(), &user, &host, bounds).unwrap();
        read(&made, Path::new("/s/containers/c"), Path::new("/s/volumes"))
    }

    #[test]
    fn what_a_bundle_was_made_of_is_read_back() {
        for unified in [false, true] {
            let found = read_back(unified, &[]);
            assert_eq!((found.command, found.workdir), (strings(&["run", "it"]), "/w".to_owned()));
            assert!(found.env.contains(&"A=b".to_owned()) && found.read_only_root);
            assert_eq!((found.user.as_str(), found.groups), ("5:6", strings(&["7"])));
            assert_eq!(found.hostname, "h");
            assert_eq!(
                (found.cap_add, found.cap_drop),
                (strings(&["CAP_NET_ADMIN"]), strings(&["CAP_CHOWN"]))
            );
            assert_eq!(found.sysctls["net.core.somaxconn"], "7");
            assert_eq!(found.ulimits, spec().ulimits);
            assert_eq!((found.memory_bytes, found.memory_swap_bytes), (1 << 23, 1 << 24));
            assert_eq!((found.nano_cpus, found.pids), (500_000_000, 9));
        }
    }

    #[test]
    fn own_mounts_are_told_from_those_that_each_container_has() {
        let bound = |source: &str, target: &str| Bound {
            source: PathBuf::from(source),
            target: target.to_owned(),
            read_only: target == "/v",
        };
        let bounds = [
            bound("/s/containers/c/hosts", "/etc/hosts"),
            bound("/s/containers/c/volumes/0", "/anonymous"),
            bound("/s/volumes/data/_data", "/v"),
            bound("/srv", "/b"),
        ];
        let found = read_back(true, &bounds);
        let mounts: Vec<_> = found
            .mounts
            .iter()
            .map(|one| (one.kind, one.name.as_deref(), one.target.as_str(), one.read_only, one.tmpfs))
            .collect();
        let expect = [
            (MountKind::Tmpfs, None, "/t", false, Some((1024, 0o700))),
            (MountKind::Volume, None, "/anonymous", false, None),
            (MountKind::Volume, Some("data"), "/v", true, None),
            (MountKind::Bind, None, "/b", false, None),
        ];
        assert_eq!(mounts, expect);
    }
}
