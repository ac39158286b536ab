//! Images and containers of this node.

use serde_json::{Map, Value, json};
use skep_agent::runtime::{InForce, MountInForce, MountKind, Ulimit};
use skep_api::Timestamp;

use crate::http::backend::{Container, ContainerState, Image};

const NANOS_PER_SECOND: i64 = 1_000_000_000;

/// A line of `GET /images/json`.
pub(crate) fn image(image: &Image) -> Value {
    json!({
        "Id": image.id,
        "ParentId": "",
        "RepoTags": image.references,
        "RepoDigests": image.repo_digests,
        "Created": image.created.0 / NANOS_PER_SECOND,
        "Size": image.size_bytes,
        "SharedSize": -1,
        "Labels": image.config.get("Labels"),
        "Containers": -1,
    })
}

/// `GET /images/{name}/json`.
pub(crate) fn image_details(image: &Image) -> Value {
    json!({
        "Id": image.id,
        "RepoTags": image.references,
        "RepoDigests": image.repo_digests,
        "Parent": "",
        "Comment": "",
        "Created": image.created.to_string(),
        "DockerVersion": "",
        "Author": "",
        "Config": image.config,
        "Architecture": image.arch,
        "Os": "linux",
        "Size": image.size_bytes,
        "GraphDriver": { "Data": null, "Name": "overlayfs" },
        "RootFS": { "Type": "layers", "Layers": image.layers },
        "Metadata": { "LastTagTime": Timestamp::ZERO.to_string() },
    })
}

/// The state's word and the line that `docker ps` prints.
fn words(container: &Container, now: Timestamp) -> (&'static str, String) {
    match container.state {
        ContainerState::Created => ("created", "Created".to_owned()),
        ContainerState::Running { since, .. } => {
            ("running", format!("Up {}", crate::units::human_duration(now.since(since))))
        }
        ContainerState::Exited { code, at, .. } => {
            ("exited", format!("Exited ({code}) {} ago", crate::units::human_duration(now.since(at))))
        }
    }
}

/// A line of `GET /containers/json`.
pub(crate) fn container(container: &Container, now: Timestamp) -> Value {
    let (state, status) = words(container, now);
    json!({
        "Id": container.id,
        "Names": [format!("/{}", container.name)],
        "Image": container.image,
        "ImageID": container.image_id,
        "Command": container.command.join(" "),
        "Created": container.created.0 / NANOS_PER_SECOND,
        "Ports": [],
        "Labels": container.labels,
        "State": state,
        "Status": status,
        "HostConfig": { "NetworkMode": "default" },
        "NetworkSettings": { "Networks": {} },
        "Mounts": [],
    })
}

/// `GET /containers/{id}/json`.
pub(crate) fn container_details(container: &Container, in_force: &InForce, now: Timestamp) -> Value {
    let (word, _) = words(container, now);
    let (pid, code, oom_killed) = match container.state {
        ContainerState::Created => (0, 0, false),
        ContainerState::Running { pid, .. } => (pid, 0, false),
        ContainerState::Exited { code, oom_killed, .. } => (0, code, oom_killed),
    };
    let (started, finished) = match container.state {
        ContainerState::Created => (Timestamp::ZERO, Timestamp::ZERO),
        ContainerState::Running { since, .. } => (since, Timestamp::ZERO),
        ContainerState::Exited { at, .. } => (Timestamp::ZERO, at),
    };
    let command = &in_force.command;
    json!({
        "Id": container.id,
        "Created": container.created.to_string(),
        "Path": command.first().map_or("", String::as_str),
        "Args": command.get(1..).unwrap_or_default(),
        "State": {
            "Status": word,
            "Running": word == "running",
            "Paused": false,
            "Restarting": false,
            "OOMKilled": oom_killed,
            "Dead": false,
            "Pid": pid,
            "ExitCode": code,
            "Error": "",
            "StartedAt": started.to_string(),
            "FinishedAt": finished.to_string(),
        },
        "Image": container.image_id,
        "Name": format!("/{}", container.name),
        "RestartCount": 0,
        "Driver": "overlayfs",
        "Platform": "linux",
        "Mounts": in_force.mounts.iter().map(mount_point).collect::<Vec<_>>(),
        "HostConfig": host_config(in_force),
        // The bundle no longer tells an entrypoint from what follows it.
        "Config": {
            "Hostname": in_force.hostname,
            "User": in_force.user,
            "Tty": false,
            "OpenStdin": false,
            "Env": in_force.env,
            "Cmd": command,
            "Image": container.image,
            "WorkingDir": in_force.workdir,
            "Entrypoint": null,
            "Labels": container.labels,
            "StopSignal": in_force.stop_signal,
        },
        "NetworkSettings": { "Networks": {} },
    })
}

/// Docker's zeros and nulls: no limit, none.
fn host_config(in_force: &InForce) -> Value {
    let or_null = |list: &[String]| if list.is_empty() { Value::Null } else { list.into() };
    let ulimit = |limit: &Ulimit| {
        // No limit is -1 there.
        let count = |count: u64| i64::try_from(count).unwrap_or(-1);
        json!({ "Name": limit.name, "Soft": count(limit.soft), "Hard": count(limit.hard) })
    };
    json!({
        "Binds": null,
        "NetworkMode": "default",
        "RestartPolicy": { "Name": "no", "MaximumRetryCount": 0 },
        "AutoRemove": false,
        "CapAdd": or_null(&in_force.cap_add),
        "CapDrop": or_null(&in_force.cap_drop),
        "GroupAdd": or_null(&in_force.groups),
        "Privileged": false,
        "ReadonlyRootfs": in_force.read_only_root,
        "Sysctls": in_force.sysctls,
        "Memory": in_force.memory_bytes,
        "MemorySwap": in_force.memory_swap_bytes,
        "NanoCpus": in_force.nano_cpus,
        "PidsLimit": (in_force.pids > 0).then_some(in_force.pids),
        "Ulimits": in_force.ulimits.iter().map(ulimit).collect::<Vec<_>>(),
        "Mounts": in_force.mounts.iter().map(asked_mount).collect::<Vec<_>>(),
        "Init": false,
    })
}

fn kind(mount: &MountInForce) -> &'static str {
    match mount.kind {
        MountKind::Bind => "bind",
        MountKind::Volume => "volume",
        MountKind::Tmpfs => "tmpfs",
    }
}

/// A mount as a specification asks for it.
fn asked_mount(mount: &MountInForce) -> Value {
    let mut out = Map::new();
    out.insert("Type".into(), kind(mount).into());
    let source = match mount.kind {
        MountKind::Bind => mount.source.to_string_lossy().into_owned(),
        MountKind::Volume | MountKind::Tmpfs => mount.name.clone().unwrap_or_default(),
    };
    if !source.is_empty() {
        out.insert("Source".into(), source.into());
    }
    out.insert("Target".into(), mount.target.clone().into());
    if mount.read_only {
        out.insert("ReadOnly".into(), true.into());
    }
    if let Some((size, mode)) = mount.tmpfs {
        out.insert("TmpfsOptions".into(), json!({ "SizeBytes": size, "Mode": mode }));
    }
    Value::Object(out)
}

/// A mount as it is.
fn mount_point(mount: &MountInForce) -> Value {
    let mut out = Map::new();
    out.insert("Type".into(), kind(mount).into());
    if mount.kind == MountKind::Volume {
        out.insert("Name".into(), mount.name.clone().unwrap_or_default().into());
        out.insert("Driver".into(), "local".into());
    }
    out.insert("Source".into(), mount.source.to_string_lossy().into());
    out.insert("Destination".into(), mount.target.clone().into());
    out.insert("Mode".into(), "".into());
    out.insert("RW".into(), (!mount.read_only).into());
    out.insert("Propagation".into(), if mount.kind == MountKind::Bind { "rprivate" } else { "" }.into());
    Value::Object(out)
}
