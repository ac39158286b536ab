//! The embedded engine as the API server sees it.

use std::sync::Arc;

use anyhow::Context as _;
use async_trait::async_trait;
use serde_json::json;
use skep_agent::runtime::{self, ContainerState as State, ImageConfigChanges, ImageError, ImageInfo};
use skep_api::{ApiError, ErrorKind, Timestamp};

use super::settings::Settings;
use crate::http::{BodyReader, Container, ContainerState, Image, Loaded, LocalEngine, RemovedImage};

/// Opens the embedded engine; before the node has an id it runs no containers.
pub(super) async fn open_engine(
    settings: &Settings,
    node_id: Option<&str>,
) -> anyhow::Result<runtime::Engine> {
    let config = runtime::Config {
        state_dir: settings.state_dir.join("engine"),
        shim: settings.shim.clone(),
        cgroup_prefix: format!("skep/{}", node_id.unwrap_or("none")),
    };
    runtime::Engine::open(config).await.context("cannot open the embedded engine")
}

/// The images and containers of this node.
pub(super) struct Local(pub(super) Arc<runtime::Engine>);

#[async_trait]
impl LocalEngine for Local {
    async fn load(&self, archive: BodyReader) -> Result<Vec<Loaded>, ApiError> {
        let loaded = self.0.load(archive).await.map_err(|e| failure(&e))?;
        Ok(loaded.into_iter().map(|image| Loaded { reference: image.reference, id: image.id }).collect())
    }

    async fn import(&self, rootfs: BodyReader, reference: String) -> Result<String, ApiError> {
        let changes = ImageConfigChanges::default();
        let image = self.0.import_rootfs(rootfs, &reference, changes).await.map_err(|e| failure(&e))?;
        Ok(image.id)
    }

    async fn images(&self) -> Result<Vec<Image>, ApiError> {
        Ok(self.0.images().into_iter().map(image).collect())
    }

    async fn find_image(&self, name: &str) -> Result<Option<Image>, ApiError> {
        Ok(self.0.find_image(name).map(image))
    }

    async fn remove_image(&self, name: &str, _force: bool) -> Result<RemovedImage, ApiError> {
        let before = self.0.find_image(name);
        self.0.remove_image(name).await.map_err(|e| failure(&e))?;
        let Some(before) = before else { return Ok(RemovedImage::default()) };
        let left = self.0.find_image(&before.id);
        let untagged = before
            .references
            .into_iter()
            .filter(|reference| left.as_ref().is_none_or(|left| !left.references.contains(reference)))
            .collect();
        let deleted = if left.is_none() { vec![before.id] } else { Vec::new() };
        Ok(RemovedImage { untagged, deleted })
    }

    async fn containers(&self) -> Result<Vec<Container>, ApiError> {
        Ok(self.0.list().into_iter().map(container).collect())
    }
}

fn failure(error: &ImageError) -> ApiError {
    let kind = match error {
        ImageError::Invalid(_) | ImageError::Platform(_) | ImageError::Reference(_) => {
            ErrorKind::InvalidArgument
        }
        ImageError::NoSuchImage(_) => ErrorKind::NotFound,
        ImageError::InUse { .. } => ErrorKind::AlreadyExists,
        ImageError::Io { .. } => ErrorKind::Internal,
    };
    ApiError::new(kind, error.to_string())
}

fn image(info: ImageInfo) -> Image {
    let config = &info.config;
    let set = |names: &[String]| {
        names.iter().map(|name| (name.clone(), json!({}))).collect::<serde_json::Map<_, _>>()
    };
    let value = json!({
        "User": config.user,
        "ExposedPorts": set(&config.exposed_ports),
        "Env": config.env,
        "Cmd": config.cmd,
        "Volumes": set(&config.volumes),
        "WorkingDir": config.workdir,
        "Entrypoint": config.entrypoint,
        "Labels": config.labels,
        "StopSignal": config.stop_signal,
    });
    Image {
        created: Timestamp::parse_rfc3339(&info.created).unwrap_or_default(),
        size_bytes: info.size,
        config: value,
        layers: Vec::new(),
        arch: info.config.architecture,
        id: info.id,
        references: info.references,
    }
}

fn container(info: runtime::ContainerInfo) -> Container {
    let name = info.labels.get("com.docker.swarm.task.name").cloned();
    let since = Timestamp(info.started_at_unix_nanos.unwrap_or(0));
    let state = match info.state {
        State::Created => ContainerState::Created,
        State::Running { pid } => ContainerState::Running { pid, since },
        State::Exited(status) => ContainerState::Exited {
            code: status.code,
            oom_killed: status.oom_killed,
            at: Timestamp(status.finished_at_unix_nanos),
        },
    };
    Container {
        name: name.unwrap_or_else(|| info.id.clone()),
        image: info.image,
        image_id: info.image_id,
        command: Vec::new(),
        labels: info.labels,
        created: Timestamp(info.created_at_unix_nanos),
        state,
        id: info.id,
    }
}
