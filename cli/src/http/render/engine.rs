//! Images and containers of this node.

use serde_json::{Value, json};
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
pub(crate) fn container_details(container: &Container, now: Timestamp) -> Value {
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
    let command = &container.command;
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
        "Mounts": [],
        "Config": { "Image": container.image, "Cmd": command, "Labels": container.labels },
        "NetworkSettings": { "Networks": {} },
    })
}
