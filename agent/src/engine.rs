//! The seam to what runs containers: `embedded` is the runtime crate, `docker` the local Docker Engine.
//!
//! An engine names containers by the ids that the agent gives them, finds them again after a restart of
//! the daemon, and tells the end of one as an event: nobody asks it again and again.

use std::{collections::BTreeMap, error::Error, fmt, path::PathBuf};

use async_trait::async_trait;
use futures::{future::BoxFuture, stream::BoxStream};
use skep_api::Secret;

/// What the agent asks of an engine.
#[async_trait]
pub(crate) trait Engine: Send + Sync + fmt::Debug {
    /// What is known of an image on this node; `None` if it is not there.
    async fn find_image(&self, image: &str) -> Result<Option<Image>, EngineError>;
    /// Gets an image from its registry, by name, tag or digest, with the credentials of an
    /// `X-Registry-Auth` header, empty for none. Dropped, it stops. Calls for the same image share one pull.
    async fn pull(&self, image: &str, auth: &Secret) -> Result<(), EngineError>;
    /// Where an engine makes the network namespaces of tasks itself: makes the one of this task, or finds it
    /// again, for the network to wire; `None`: the namespace is the network's to make.
    async fn sandbox(&self, _sandbox: NewSandbox) -> Result<Option<Sandbox>, EngineError> {
        Ok(None)
    }
    /// Takes away what [`Engine::sandbox`] made for the container. One that is not there is no error.
    async fn remove_sandbox(&self, _id: &str) -> Result<(), EngineError> {
        Ok(())
    }
    /// Makes a container; nothing of it runs.
    async fn create(&self, container: NewContainer) -> Result<(), EngineError>;
    /// Starts a container that was made; its main process's id.
    async fn start(&self, id: &str) -> Result<u32, EngineError>;
    /// Ready once the container has ended; at once if it had.
    fn wait(&self, id: &str) -> BoxFuture<'static, Result<Exit, EngineError>>;
    /// Sends a signal to the main process.
    async fn kill(&self, id: &str, signal: i32) -> Result<(), EngineError>;
    /// Takes away a container that does not run, with its log. One that is not there is no error.
    async fn remove(&self, id: &str) -> Result<(), EngineError>;
    /// All containers of this engine.
    async fn list(&self) -> Result<Vec<Container>, EngineError>;
    /// A container's output; ends with the log, or with the container when followed.
    async fn logs(&self, id: &str, window: LogWindow) -> Result<BoxStream<'static, LogLine>, EngineError>;
    /// What the engine does of its own accord while the agent runs; dropped, it stops.
    async fn keep(&self) {}
    /// Takes away what [`Engine::keep`] made and no task has.
    async fn leave(&self) -> Result<(), EngineError> {
        Ok(())
    }
    /// Under which id the engine's own clients see a container that was made.
    fn shown_id(&self, id: &str) -> String {
        id.to_owned()
    }
}

/// Why an engine did not do it. Its words are shown in the task's status.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EngineError {
    #[error("No such image: {0}")]
    NoSuchImage(String),
    /// It is not here and could not be had; the first words are Swarm's, the reason is what Swarm only logs.
    #[error("No such image: {image}: {reason}")]
    NotPulled { image: String, reason: String },
    #[error(transparent)]
    Failed(Box<dyn Error + Send + Sync>),
}

/// An image's facts.
#[derive(Debug, Clone, Default)]
pub(crate) struct Image {
    /// By name or number.
    pub(crate) stop_signal: Option<String>,
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Exit {
    /// Exit code, or 128 + signal.
    pub(crate) code: i32,
    pub(crate) oom_killed: bool,
    /// What the engine says beyond that, as when its end was not seen.
    pub(crate) error: Option<String>,
}

/// A network namespace to be made by the engine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct NewSandbox {
    /// Of the container that will join it.
    pub(crate) id: String,
    /// `None`: any that no other has.
    pub(crate) hostname: Option<String>,
}

/// A network namespace that an engine made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Sandbox {
    /// A process in it.
    pub(crate) pid: u32,
    /// What the container will be called in it.
    pub(crate) hostname: String,
}

/// A container to be made.
#[derive(Debug, Clone, Default)]
pub(crate) struct NewContainer {
    pub(crate) id: String,
    pub(crate) image: String,
    /// `None`: the image's.
    pub(crate) entrypoint: Option<Vec<String>>,
    /// `None`: the image's.
    pub(crate) args: Option<Vec<String>>,
    pub(crate) env: Vec<String>,
    pub(crate) workdir: Option<String>,
    pub(crate) user: Option<String>,
    pub(crate) groups: Vec<String>,
    pub(crate) hostname: String,
    /// Whole text of `/etc/hosts`.
    pub(crate) hosts: String,
    /// Whole text of `/etc/resolv.conf`.
    pub(crate) resolv_conf: String,
    pub(crate) mounts: Vec<Mount>,
    pub(crate) read_only_root: bool,
    /// Zero for none, each.
    pub(crate) limits: Limits,
    pub(crate) cap_add: Vec<String>,
    pub(crate) cap_drop: Vec<String>,
    /// `None`: the image's.
    pub(crate) stop_signal: Option<String>,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) netns: PathBuf,
    pub(crate) log: LogLimits,
    pub(crate) sysctls: BTreeMap<String, String>,
    pub(crate) ulimits: Vec<Ulimit>,
}

/// A mount into the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mount {
    pub(crate) kind: MountKind,
    pub(crate) target: String,
    pub(crate) read_only: bool,
}

/// Where a mount's content comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum MountKind {
    Bind {
        source: String,
    },
    /// Without a name it is the container's own and goes with it.
    Volume {
        name: Option<String>,
        /// Of one that is made by this.
        labels: BTreeMap<String, String>,
        /// It does not take over what the image has at the target.
        no_copy: bool,
    },
    Tmpfs {
        size_bytes: u64,
        mode: Option<u32>,
    },
    /// The socket of the node's own Engine API, there also after the daemon was started anew.
    ApiSocket,
}

/// A limit of each process; `u64::MAX` is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ulimit {
    /// nofile, nproc...
    pub(crate) name: String,
    pub(crate) soft: u64,
    pub(crate) hard: u64,
}

/// Upper bounds; zero is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) memory_bytes: u64,
    pub(crate) nano_cpus: u64,
    pub(crate) pids: u64,
}

/// When a log turns over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct LogLimits {
    /// Bytes a file; `None`: the engine's default.
    pub(crate) max_size: Option<u64>,
    /// Files kept; `None`: the engine's default.
    pub(crate) max_file: Option<u32>,
}

/// A container that the engine has.
#[derive(Debug, Clone)]
pub(crate) struct Container {
    pub(crate) id: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) state: ContainerState,
}

/// How far a container is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ContainerState {
    Created,
    Running { pid: u32 },
    Exited(Exit),
}

/// Which part of a log is wanted; times are Unix nanoseconds, zero for open.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LogWindow {
    pub(crate) follow: bool,
    /// The last lines; `None`: all.
    pub(crate) tail: Option<usize>,
    pub(crate) since: i64,
    pub(crate) until: i64,
    pub(crate) stdout: bool,
    pub(crate) stderr: bool,
}

/// One line of output, with its line end if it had one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LogLine {
    /// Unix nanoseconds.
    pub(crate) time: i64,
    pub(crate) stderr: bool,
    pub(crate) data: Vec<u8>,
}

/// An error with all of its causes: what a status or a log line shows.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let words = cause.to_string();
        // Some errors of others say their cause themselves.
        if !text.ends_with(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        source = cause.source();
    }
    text
}
