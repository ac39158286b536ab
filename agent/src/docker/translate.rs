//! What a task's container is in Docker's words.

use std::{collections::BTreeMap, path::Path};

use bollard::models::{
    ContainerCreateBody, HostConfig, HostConfigLogConfig, Mount as DockerMount, MountTmpfsOptions, MountType,
    MountVolumeOptions, ResourcesUlimits,
};

use super::{ID_LABEL, sandbox};
use crate::{
    api_socket,
    engine::{LogLimits, Mount, MountKind, NewContainer, Ulimit},
    task::container::TASK_NAME_LABEL,
};

/// A container in Docker's words.
pub(super) struct Translated {
    pub(super) name: String,
    pub(super) body: ContainerCreateBody,
    /// Links to be made in it before it starts, and what they lead to.
    pub(super) links: BTreeMap<String, String>,
}

/// The container's network, host name, `/etc/hosts` and `/etc/resolv.conf` are its sandbox's. `api_path` is
/// the socket that a task which asks for Docker's gets.
pub(super) fn container(container: NewContainer, api_path: &Path) -> Translated {
    let name = container.labels.get(TASK_NAME_LABEL).unwrap_or(&container.id).clone();
    let amount = |value: u64| (value != 0).then(|| i64::try_from(value).unwrap_or(i64::MAX));
    let some = |list: Vec<String>| Some(list).filter(|list| !list.is_empty());
    let mut labels = container.labels;
    labels.insert(ID_LABEL.to_owned(), container.id.clone());
    // Docker makes no links in a root that is read-only: such a task gets the socket itself, which is stale once
    // the daemon was started anew.
    let links = if container.read_only_root {
        BTreeMap::new()
    } else {
        api_socket::links(&container.mounts, api_path)
    };
    let host_config = HostConfig {
        network_mode: Some(format!("container:{}", sandbox::name(&container.id))),
        mounts: Some(mounts(container.mounts, api_path, !links.is_empty())),
        readonly_rootfs: Some(container.read_only_root),
        memory: amount(container.limits.memory_bytes),
        nano_cpus: amount(container.limits.nano_cpus),
        pids_limit: amount(container.limits.pids),
        group_add: some(container.groups),
        cap_add: some(container.cap_add),
        cap_drop: some(container.cap_drop),
        log_config: log_config(container.log),
        sysctls: (!container.sysctls.is_empty()).then(|| container.sysctls.into_iter().collect()),
        ulimits: some_ulimits(container.ulimits),
        ..HostConfig::default()
    };
    let body = ContainerCreateBody {
        image: Some(container.image),
        entrypoint: container.entrypoint,
        cmd: container.args,
        env: some(container.env),
        working_dir: container.workdir,
        user: container.user,
        stop_signal: container.stop_signal,
        labels: Some(labels.into_iter().collect()),
        host_config: Some(host_config),
        ..ContainerCreateBody::default()
    };
    Translated { name, body, links }
}

/// Links in the form in which Docker copies files into a container's root.
pub(super) fn archive(links: &BTreeMap<String, String>) -> std::io::Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    for (at, to) in links {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_mode(0o777);
        header.set_size(0);
        tar.append_link(&mut header, at.trim_start_matches('/'), to)?;
    }
    tar.into_inner()
}

/// Nothing asked for is the Docker Engine's own default.
fn log_config(log: LogLimits) -> Option<HostConfigLogConfig> {
    let options = [
        ("max-size", log.max_size.map(|bytes| bytes.to_string())),
        ("max-file", log.max_file.map(|files| files.to_string())),
    ];
    let given: Vec<_> =
        options.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect();
    (!given.is_empty()).then(|| HostConfigLogConfig {
        typ: Some("json-file".to_owned()),
        config: Some(given.into_iter().collect()),
    })
}

/// Docker writes no limit as -1.
fn some_ulimits(ulimits: Vec<Ulimit>) -> Option<Vec<ResourcesUlimits>> {
    let amount = |value: u64| Some(i64::try_from(value).unwrap_or(-1));
    let one = |ulimit: Ulimit| ResourcesUlimits {
        name: Some(ulimit.name),
        soft: amount(ulimit.soft),
        hard: amount(ulimit.hard),
    };
    (!ulimits.is_empty()).then(|| ulimits.into_iter().map(one).collect())
}

fn mounts(mounts: Vec<Mount>, api_path: &Path, by_link: bool) -> Vec<DockerMount> {
    let (of_socket, others): (Vec<_>, Vec<_>) =
        mounts.into_iter().partition(|mount| by_link && mount.kind == MountKind::ApiSocket);
    let mut made: Vec<_> = others.into_iter().map(|own| mount(own, api_path)).collect();
    // Once, whatever the number of links into it.
    if !of_socket.is_empty() {
        made.push(DockerMount {
            typ: Some(MountType::BIND),
            source: Some(api_socket::source(api_path)),
            target: Some(api_socket::DIR.to_owned()),
            read_only: Some(true),
            ..DockerMount::default()
        });
    }
    made
}

fn mount(mount: Mount, api_path: &Path) -> DockerMount {
    let mut volume_options = None;
    let (typ, source, tmpfs_options) = match mount.kind {
        MountKind::Bind { source } => (MountType::BIND, Some(source), None),
        MountKind::ApiSocket => (MountType::BIND, Some(api_path.to_string_lossy().into_owned()), None),
        MountKind::Volume { name, labels, no_copy } => {
            if no_copy || !labels.is_empty() {
                let labels = (!labels.is_empty()).then(|| labels.into_iter().collect());
                let no_copy = no_copy.then_some(true);
                volume_options = Some(MountVolumeOptions { no_copy, labels, ..Default::default() });
            }
            (MountType::VOLUME, name, None)
        }
        MountKind::Tmpfs { size_bytes, mode } => {
            let size_bytes = i64::try_from(size_bytes).ok().filter(|size| *size != 0);
            let options = MountTmpfsOptions { size_bytes, mode: mode.map(i64::from), ..Default::default() };
            (MountType::TMPFS, None, Some(options))
        }
    };
    DockerMount {
        typ: Some(typ),
        source,
        target: Some(mount.target),
        read_only: Some(mount.read_only),
        volume_options,
        tmpfs_options,
        ..DockerMount::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::engine::Limits;

    #[test]
    fn what_asks_for_nothing_leaves_all_to_docker() {
        let Translated { name, body, links } = container(
            NewContainer { id: "a".repeat(64), image: "i:1".into(), ..Default::default() },
            Path::new("/api.sock"),
        );
        assert_eq!((name, links), ("a".repeat(64), BTreeMap::new()));
        let expect = json!({
            "Image": "i:1",
            "Labels": { "skep.id": "a".repeat(64) },
            "HostConfig": {
                "NetworkMode": format!("container:{}", sandbox::name(&"a".repeat(64))),
                "Mounts": [],
                "ReadonlyRootfs": false,
            },
        });
        assert_eq!(serde_json::to_value(body).unwrap(), expect);
    }

    /// All that the agent can ask for.
    fn asked() -> NewContainer {
        let words = |list: &[&str]| list.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let mount = |kind, target: &str, read_only| Mount { kind, target: target.into(), read_only };
        NewContainer {
            id: "b".repeat(64),
            image: "i:1".into(),
            entrypoint: Some(words(&["/x"])),
            args: Some(words(&["y"])),
            env: words(&["A=b"]),
            workdir: Some("/w".into()),
            user: Some("1:2".into()),
            groups: words(&["5"]),
            mounts: vec![
                mount(MountKind::Bind { source: "/s".into() }, "/t", true),
                mount(
                    MountKind::Volume {
                        name: Some("v".into()),
                        labels: [("k".into(), "v".into())].into(),
                        no_copy: true,
                    },
                    "/v",
                    false,
                ),
                mount(
                    MountKind::Volume { name: None, labels: BTreeMap::new(), no_copy: false },
                    "/own",
                    false,
                ),
                mount(MountKind::Tmpfs { size_bytes: 4096, mode: Some(0o777) }, "/m", false),
                mount(MountKind::Tmpfs { size_bytes: 0, mode: None }, "/n", false),
                mount(MountKind::ApiSocket, "/var/run/docker.sock", true),
            ],
            read_only_root: true,
            limits: Limits { memory_bytes: 1 << 20, nano_cpus: 5, pids: 10 },
            cap_add: words(&["NET_ADMIN"]),
            cap_drop: words(&["ALL"]),
            stop_signal: Some("SIGQUIT".into()),
            labels: [(TASK_NAME_LABEL.to_owned(), "web.1.t".to_owned())].into(),
            log: LogLimits { max_size: Some(10), max_file: Some(3) },
            sysctls: [("net.core.somaxconn".to_owned(), "9".to_owned())].into(),
            ulimits: vec![Ulimit { name: "nofile".into(), soft: 10, hard: u64::MAX }],
            ..Default::default()
        }
    }

    #[test]
    fn all_that_a_spec_asks_for_is_passed_on() {
        let Translated { name, body, links } = container(asked(), Path::new("/d/api.sock"));
        assert_eq!((name.as_str(), links), ("web.1.t", BTreeMap::new()));
        let made = serde_json::to_value(body).unwrap();
        for (path, expect) in [
            ("/Entrypoint", json!(["/x"])),
            ("/Cmd", json!(["y"])),
            ("/Env", json!(["A=b"])),
            ("/WorkingDir", json!("/w")),
            ("/User", json!("1:2")),
            ("/StopSignal", json!("SIGQUIT")),
            ("/HostConfig/GroupAdd", json!(["5"])),
            ("/HostConfig/ReadonlyRootfs", json!(true)),
            ("/HostConfig/Memory", json!(1 << 20)),
            ("/HostConfig/NanoCpus", json!(5)),
            ("/HostConfig/PidsLimit", json!(10)),
            ("/HostConfig/CapAdd", json!(["NET_ADMIN"])),
            ("/HostConfig/CapDrop", json!(["ALL"])),
            ("/HostConfig/LogConfig/Type", json!("json-file")),
            ("/HostConfig/LogConfig/Config", json!({ "max-size": "10", "max-file": "3" })),
            (
                "/HostConfig/Mounts/0",
                json!({ "Type": "bind", "Source": "/s", "Target": "/t", "ReadOnly": true }),
            ),
            (
                "/HostConfig/Mounts/1",
                json!({ "Type": "volume", "Source": "v", "Target": "/v", "ReadOnly": false,
                    "VolumeOptions": { "NoCopy": true, "Labels": { "k": "v" } } }),
            ),
            ("/HostConfig/Mounts/2", json!({ "Type": "volume", "Target": "/own", "ReadOnly": false })),
            ("/HostConfig/Mounts/3/TmpfsOptions", json!({ "SizeBytes": 4096, "Mode": 511 })),
            ("/HostConfig/Mounts/4/TmpfsOptions", json!({})),
            ("/HostConfig/Mounts/5/Source", json!("/d/api.sock")),
            ("/HostConfig/Sysctls", json!({ "net.core.somaxconn": "9" })),
            ("/HostConfig/Ulimits", json!([{ "Name": "nofile", "Soft": 10, "Hard": -1 }])),
        ] {
            assert_eq!(made.pointer(path), Some(&expect), "{path}");
        }
    }

    #[test]
    fn dockers_socket_is_a_link_that_outlives_the_daemon() {
        let asked = NewContainer { read_only_root: false, ..asked() };
        let made = container(asked, Path::new("/d/api.sock"));
        let link = ("/var/run/docker.sock".to_owned(), "/run/skep-engine/api.sock".to_owned());
        assert_eq!(made.links, BTreeMap::from([link]));
        let body = serde_json::to_value(made.body).unwrap();
        assert_eq!(
            body["HostConfig"]["Mounts"][5],
            json!({ "Type": "bind", "Source": "/d", "Target": "/run/skep-engine", "ReadOnly": true })
        );
    }
}
