//! The engine that is the runtime crate: translates, decides nothing.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use futures::{StreamExt, future::BoxFuture, stream::BoxStream};
use skep_api::Secret;
use skep_runtime::{
    ContainerError, ContainerSpec, ContainerState as RunState, Credentials, ExitStatus, LogConfig,
    LogOptions, LogStream, PullRequest,
};
use tokio_stream::wrappers::ReceiverStream;

use crate::{
    api_socket,
    engine::{
        Container, ContainerState, Engine, EngineError, Exit, Image, LogLine, LogWindow, Mount, MountKind,
        NewContainer, Ulimit, chain,
    },
};

/// The embedded engine.
#[derive(Debug)]
pub(crate) struct Embedded {
    engine: Arc<skep_runtime::Engine>,
    /// The node's API socket, in a directory of its own.
    api_socket: PathBuf,
}

impl Embedded {
    pub(crate) fn new(engine: Arc<skep_runtime::Engine>, api_socket: PathBuf) -> Self {
        Self { engine, api_socket }
    }
}

fn failed(error: ContainerError) -> EngineError {
    EngineError::Failed(Box::new(error))
}

fn exit(status: ExitStatus) -> Exit {
    Exit { code: status.code, oom_killed: status.oom_killed, error: status.error }
}

#[async_trait]
impl Engine for Embedded {
    async fn find_image(&self, image: &str) -> Result<Option<Image>, EngineError> {
        let found = self.engine.find_image(image);
        Ok(found.map(|image| Image { stop_signal: image.config.stop_signal }))
    }

    async fn pull(&self, image: &str, auth: &Secret) -> Result<(), EngineError> {
        let not_pulled = |reason| EngineError::NotPulled { image: image.to_owned(), reason };
        let credentials = Credentials::parse(auth.reveal()).map_err(|e| not_pulled(chain(&e)))?;
        let request = PullRequest { reference: image.to_owned(), credentials, platform: None };
        let pulled = self.engine.pull(request).done.await;
        pulled.map(|_| ()).map_err(|e| not_pulled(chain(&e)))
    }

    async fn create(&self, container: NewContainer) -> Result<(), EngineError> {
        self.engine.create(spec(container, &self.api_socket)).await.map_err(failed)
    }

    async fn start(&self, id: &str) -> Result<u32, EngineError> {
        self.engine.start(id).await.map_err(failed)
    }

    fn wait(&self, id: &str) -> BoxFuture<'static, Result<Exit, EngineError>> {
        let (engine, id) = (Arc::clone(&self.engine), id.to_owned());
        Box::pin(async move { engine.wait(&id).await.map(exit).map_err(failed) })
    }

    async fn kill(&self, id: &str, signal: i32) -> Result<(), EngineError> {
        self.engine.kill(id, signal).await.map_err(failed)
    }

    async fn remove(&self, id: &str) -> Result<(), EngineError> {
        self.engine.remove(id).await.map_err(failed)
    }

    async fn list(&self) -> Result<Vec<Container>, EngineError> {
        let container = |info: skep_runtime::ContainerInfo| Container {
            id: info.id,
            labels: info.labels,
            state: match info.state {
                RunState::Created => ContainerState::Created,
                RunState::Running { pid } => ContainerState::Running { pid },
                RunState::Exited(status) => ContainerState::Exited(exit(status)),
            },
        };
        Ok(self.engine.list().into_iter().map(container).collect())
    }

    async fn logs(&self, id: &str, window: LogWindow) -> Result<BoxStream<'static, LogLine>, EngineError> {
        let bound = |nanos: i64| (nanos != 0).then_some(nanos);
        let options = LogOptions {
            follow: window.follow,
            tail: window.tail,
            since_unix_nanos: bound(window.since),
            until_unix_nanos: bound(window.until),
            stdout: window.stdout,
            stderr: window.stderr,
        };
        let read = self.engine.logs(id, options).map_err(failed)?;
        let line = |line: skep_runtime::LogLine| LogLine {
            time: line.time_unix_nanos,
            stderr: line.stream == LogStream::Stderr,
            data: line.bytes,
        };
        Ok(ReceiverStream::new(read).map(line).boxed())
    }
}

fn spec(container: NewContainer, api_path: &Path) -> ContainerSpec {
    let amount = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    let default = LogConfig::default();
    ContainerSpec {
        id: container.id,
        image: container.image,
        entrypoint: container.entrypoint,
        args: container.args,
        env: container.env,
        workdir: container.workdir,
        user: container.user,
        groups: container.groups,
        hostname: container.hostname,
        hosts: container.hosts,
        resolv_conf: container.resolv_conf,
        links: api_socket::links(&container.mounts, api_path),
        mounts: mounts(container.mounts, api_path),
        read_only_root: container.read_only_root,
        limits: skep_runtime::Limits {
            memory_bytes: amount(container.limits.memory_bytes),
            nano_cpus: amount(container.limits.nano_cpus),
            pids: amount(container.limits.pids),
        },
        cap_add: container.cap_add,
        cap_drop: container.cap_drop,
        stop_signal: container.stop_signal,
        labels: container.labels,
        netns: Some(container.netns),
        log: LogConfig {
            max_size: container.log.max_size.unwrap_or(default.max_size),
            max_file: container.log.max_file.unwrap_or(default.max_file),
        },
        sysctls: container.sysctls,
        ulimits: container.ulimits.into_iter().map(ulimit).collect(),
    }
}

fn ulimit(limit: Ulimit) -> skep_runtime::Ulimit {
    skep_runtime::Ulimit { name: limit.name, soft: limit.soft, hard: limit.hard }
}

fn mounts(mounts: Vec<Mount>, api_path: &Path) -> Vec<skep_runtime::Mount> {
    let mut made: Vec<skep_runtime::Mount> = Vec::with_capacity(mounts.len());
    for mount in mounts.into_iter().map(|own| one_mount(own, api_path)) {
        // Its directory is mounted once, whatever the number of links into it.
        if mount.target != api_socket::DIR || !made.iter().any(|other| other.target == api_socket::DIR) {
            made.push(mount);
        }
    }
    made
}

fn one_mount(mount: Mount, api_path: &Path) -> skep_runtime::Mount {
    let bare = skep_runtime::Mount {
        kind: skep_runtime::MountKind::Bind,
        source: None,
        target: mount.target,
        read_only: mount.read_only,
        tmpfs_size: None,
        tmpfs_mode: None,
        no_copy: false,
        labels: BTreeMap::new(),
    };
    match mount.kind {
        MountKind::Bind { source } => skep_runtime::Mount { source: Some(source), ..bare },
        MountKind::Volume { name, labels, no_copy } => skep_runtime::Mount {
            kind: skep_runtime::MountKind::Volume,
            source: name,
            labels,
            no_copy,
            ..bare
        },
        MountKind::Tmpfs { size_bytes, mode } => skep_runtime::Mount {
            kind: skep_runtime::MountKind::Tmpfs,
            tmpfs_size: i64::try_from(size_bytes).ok().filter(|size| *size > 0),
            tmpfs_mode: mode,
            ..bare
        },
        MountKind::ApiSocket => skep_runtime::Mount {
            source: Some(api_socket::source(api_path)),
            target: api_socket::DIR.to_owned(),
            read_only: true,
            ..bare
        },
    }
}
