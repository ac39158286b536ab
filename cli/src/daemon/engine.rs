//! The embedded engine as the API server sees it.

use std::sync::Arc;

use anyhow::Context as _;
use async_trait::async_trait;
use futures::{
    FutureExt as _, Stream, StreamExt as _,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use serde_json::json;
use skep_agent::runtime::{
    self, ContainerState as State, Credentials, Distribution, ImageConfigChanges, ImageError, ImageInfo,
    InForce, Platform, PullError, PullRequest,
};
use skep_api::{ApiError, ErrorKind, Secret, Timestamp, spec::Labels};
use tokio_stream::wrappers::BroadcastStream;

use super::settings::Settings;
use crate::http::{
    BodyReader, Container, ContainerState, Image, Loaded, LocalEngine, PullAsked, PullEvent, RemovedImage,
    Volume,
};

/// Opens the embedded engine; before the node has an id it runs no containers.
pub(super) async fn open_engine(
    settings: &Settings,
    node_id: Option<&str>,
) -> anyhow::Result<runtime::Engine> {
    let config = runtime::Config {
        state_dir: settings.state_dir.join("engine"),
        shim: settings.shim.clone(),
        cgroup_prefix: format!("skep/{}", node_id.unwrap_or("none")),
        registries: settings.registries.clone(),
        open_files: settings.open_files,
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

    fn pull(&self, asked: PullAsked) -> Result<BoxStream<'static, PullEvent>, ApiError> {
        let platform = match asked.platform.as_str() {
            "" => None,
            text => Some(Platform::parse(text).ok_or_else(|| {
                ApiError::invalid(format!("platform: '{text}': expected OS/ARCHITECTURE[/VARIANT]"))
            })?),
        };
        let credentials = credentials(&asked.auth)?;
        let pull = self.0.pull(PullRequest { reference: asked.reference, credentials, platform });
        let news = BroadcastStream::new(pull.news).filter_map(async |news| news.ok().map(PullEvent::News));
        let done = pull.done.map(|outcome| PullEvent::Done(outcome.map_err(|e| pull_failure(&e))));
        // The news end when the pull does, which only goes on as it is asked.
        Ok(with_end(news.boxed(), done.boxed()).boxed())
    }

    async fn tag_image(&self, source: &str, target: &str) -> Result<(), ApiError> {
        self.0.tag_image(source, target).await.map_err(|e| failure(&e))
    }

    async fn distribution(&self, name: &str, auth: &Secret) -> Result<Distribution, ApiError> {
        self.0.distribution(name, &credentials(auth)?).await.map_err(|e| pull_failure(&e))
    }

    async fn check_login(&self, address: &str, request: &[u8]) -> Result<(), ApiError> {
        let credentials = Credentials::parse_json(request).map_err(|e| ApiError::invalid(e.to_string()))?;
        match self.0.check_login(address, &credentials).await {
            Err(PullError::Denied { registry, reason, .. }) => {
                let words = format!("login attempt to https://{registry}/v2/ failed: {reason}");
                Err(ApiError::new(ErrorKind::PermissionDenied, words))
            }
            other => other.map_err(|e| pull_failure(&e)),
        }
    }

    async fn containers(&self) -> Result<Vec<Container>, ApiError> {
        Ok(self.0.list().into_iter().map(container).collect())
    }

    async fn in_force(&self, id: &str) -> Result<InForce, ApiError> {
        let id = id.to_owned();
        self.blocking(move |engine| engine.in_force(&id).unwrap_or_default()).await
    }

    async fn volumes(&self) -> Result<Vec<Volume>, ApiError> {
        let all = self.blocking(|engine| {
            let is_used = |volume: &runtime::Volume| !engine.users_of_volume(&volume.name).is_empty();
            engine.volumes().into_iter().map(|one| (is_used(&one), one)).collect::<Vec<_>>()
        });
        Ok(all.await?.into_iter().map(|(is_used, one)| Volume { is_used, ..volume(one) }).collect())
    }

    async fn create_volume(&self, name: &str, labels: Labels) -> Result<Volume, ApiError> {
        let name = name.to_owned();
        let made = self.blocking(move |engine| engine.create_volume(&name, &labels)).await?;
        made.map(volume).map_err(|error| volume_failure(&error))
    }

    async fn remove_volume(&self, name: &str) -> Result<(), ApiError> {
        let name = name.to_owned();
        let removed = self.blocking(move |engine| engine.remove_volume(&name)).await?;
        removed.map_err(|error| volume_failure(&error))
    }
}

impl Local {
    /// Work on the disk, away from the threads that answer.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&runtime::Engine) -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        let engine = Arc::clone(&self.0);
        tokio::task::spawn_blocking(move || work(&engine)).await.map_err(|error| {
            ApiError::new(ErrorKind::Internal, format!("the work on the disk ended: {error}"))
        })
    }
}

fn volume(volume: runtime::Volume) -> Volume {
    Volume {
        name: volume.name,
        labels: volume.labels,
        created: Timestamp(volume.created_at_unix_nanos),
        mountpoint: volume.path.to_string_lossy().into_owned(),
        is_used: false,
    }
}

fn volume_failure(error: &runtime::VolumeError) -> ApiError {
    let kind = match error {
        runtime::VolumeError::Name(_) => ErrorKind::InvalidArgument,
        runtime::VolumeError::Missing(_) => ErrorKind::NotFound,
        runtime::VolumeError::InUse { .. } => ErrorKind::AlreadyExists,
        runtime::VolumeError::Io { source, .. } => {
            return ApiError::new(ErrorKind::Internal, format!("{error}: {source}"));
        }
    };
    ApiError::new(kind, error.to_string())
}

fn credentials(auth: &Secret) -> Result<Credentials, ApiError> {
    Credentials::parse(auth.reveal()).map_err(|e| ApiError::invalid(e.to_string()))
}

/// All news that come before the end, then the end.
fn with_end(
    news: BoxStream<'static, PullEvent>,
    done: BoxFuture<'static, PullEvent>,
) -> impl Stream<Item = PullEvent> + Send {
    stream::unfold(Some((news, done, None)), |state| async {
        let (mut news, mut done, mut end) = state?;
        if end.is_none() {
            tokio::select! {
                biased;
                Some(event) = news.next() => return Some((event, Some((news, done, None)))),
                event = &mut done => end = Some(event),
            }
        }
        // What was told just before the end.
        match news.next().now_or_never().flatten() {
            Some(event) => Some((event, Some((news, done, end)))),
            None => end.map(|event| (event, None)),
        }
    })
}

/// The codes are Docker's: also what it may not have is "not found" (`MB:distribution/errors.go`).
fn pull_failure(error: &PullError) -> ApiError {
    let kind = match error {
        PullError::Reference(_) | PullError::Credentials(_) => ErrorKind::InvalidArgument,
        PullError::Denied { .. } | PullError::NotFound { .. } | PullError::Platform { .. } => {
            ErrorKind::NotFound
        }
        PullError::Unreachable { .. } | PullError::Registry { .. } | PullError::Image { .. } => {
            ErrorKind::Internal
        }
    };
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}"));
    ApiError::new(kind, format!("{error}{}", cause.unwrap_or_default()))
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
        repo_digests: info.repo_digests,
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
