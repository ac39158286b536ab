//! The engine that is the local Docker Engine: translates, decides nothing.
//!
//! A task is two containers there: a sandbox, which holds the network namespace that the mesh wires, and the
//! task's own, which joins it. Both carry labels of ours; containers without them are none of our business.
//! Docker gives its own ids, so ours is a label, and what Docker calls a container is looked up by it.

mod about;
mod logs;
mod pause;
mod pull;
mod sandbox;
mod translate;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bollard::{
    Docker,
    errors::Error,
    models::{
        ContainerCreateBody, ContainerInspectResponse, ContainerStateStatusEnum, ContainerSummaryStateEnum,
        LocalNodeState,
    },
    query_parameters::{
        CreateContainerOptionsBuilder, InspectContainerOptions, KillContainerOptionsBuilder,
        ListContainersOptionsBuilder, RemoveContainerOptionsBuilder, StartContainerOptions,
        UploadToContainerOptionsBuilder, WaitContainerOptions,
    },
};
use futures::{
    StreamExt, TryStreamExt,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use skep_api::Secret;

use crate::{
    engine::{
        Container, ContainerState, Engine, EngineError, Exit, Image, LogLine, LogWindow, NewContainer,
        NewSandbox, Sandbox, chain,
    },
    task::container::NODE_ID_LABEL,
};
pub use about::About;
use sandbox::Sandboxes;
use translate::Translated;

/// The label that holds our id of a task's container.
const ID_LABEL: &str = "skep.id";
/// The label that every sandbox has, and no other container.
pub const SANDBOX_LABEL: &str = "skep.sandbox";

/// The longest that Docker may take to begin its answer: a container's start on a busy machine takes seconds.
const ANSWER_MAX_S: u64 = 120;
/// The longest that it may take to say who it is.
const HELLO_MAX: Duration = Duration::from_secs(5);
/// Containers that are looked at at the same time when a daemon takes up what an earlier one left.
const INSPECTS_MAX: usize = 8;
/// How long to wait before a Docker Engine that does not answer is asked again for a container's end.
const AWAY_RETRY: Duration = Duration::from_millis(500);

/// The Docker Engine at a socket of this machine.
#[derive(Debug, Clone)]
pub struct DockerEngine {
    docker: Docker,
    socket: PathBuf,
    /// What a task that asks for Docker's socket gets.
    api_socket: PathBuf,
    sandboxes: Arc<Sandboxes>,
    about: Arc<About>,
    /// What Docker calls the containers that it made or showed for us, by our id.
    names: Arc<Mutex<BTreeMap<String, String>>>,
}

/// The swarm of its own that a Docker Engine is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OtherSwarm {
    /// It listens for other nodes, on port 2377 by default.
    pub is_manager: bool,
    /// UDP port of its overlay networks; 4789 unless its managers say otherwise.
    pub data_path_port: u32,
}

/// The Docker Engine cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the Docker Engine at {} does not answer", socket.display())]
pub struct DockerError {
    /// Where it was looked for.
    pub socket: PathBuf,
    /// Why.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// A container in a list.
struct Labelled {
    /// What Docker calls it.
    id: String,
    name: String,
    labels: BTreeMap<String, String>,
    state: Option<ContainerSummaryStateEnum>,
}

impl DockerEngine {
    /// Connects, and agrees on a version of the API.
    ///
    /// # Errors
    /// [`DockerError`] when nothing answers there.
    pub async fn connect(socket: &Path) -> Result<Self, DockerError> {
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| DockerError {
            socket: socket.to_owned(),
            source,
        };
        // The client's constructor wants text, and says nothing of a socket that is not there.
        std::fs::metadata(socket).map_err(|e| failed(e.into()))?;
        let path = socket.to_str().ok_or_else(|| failed("its path is no UTF-8".into()))?;
        let docker = Docker::connect_with_unix(path, ANSWER_MAX_S, bollard::API_DEFAULT_VERSION)
            .map_err(|e| failed(e.into()))?;
        let hello = async {
            // Asked before the version is agreed on, this would be refused by an older one.
            let docker = docker.negotiate_version().await?;
            let (version, info) = (docker.version().await?, docker.info().await?);
            Ok::<_, Error>((docker, version, info))
        };
        let (docker, version, info) = tokio::time::timeout(HELLO_MAX, hello)
            .await
            .map_err(|e| failed(e.into()))?
            .map_err(|e| failed(e.into()))?;
        let about = About::of(version, info);
        Ok(Self {
            docker,
            socket: socket.to_owned(),
            api_socket: PathBuf::new(),
            sandboxes: Arc::new(Sandboxes::new("", PathBuf::new())),
            about: Arc::new(about),
            names: Arc::default(),
        })
    }

    /// For the tasks of a node: `dir` is for the files of their sandboxes, `api_socket` what one gets that asks
    /// for Docker's.
    pub(crate) fn of_node(mut self, node_id: &str, dir: PathBuf, api_socket: PathBuf) -> Self {
        self.api_socket = api_socket;
        self.sandboxes = Arc::new(Sandboxes::new(node_id, dir));
        self
    }

    /// What it said of itself when it was found.
    #[must_use]
    pub fn about(&self) -> &About {
        &self.about
    }

    /// Where it listens.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The swarm of its own that it is in now, if any.
    ///
    /// # Errors
    /// [`DockerError`] when it does not answer.
    pub async fn other_swarm(&self) -> Result<Option<OtherSwarm>, DockerError> {
        let info = self.docker.info().await.map_err(|e| self.away(e))?;
        let swarm = info.swarm.unwrap_or_default();
        let is_in = matches!(
            swarm.local_node_state,
            Some(LocalNodeState::ACTIVE | LocalNodeState::PENDING | LocalNodeState::LOCKED)
        );
        let port = swarm.cluster.and_then(|cluster| cluster.data_path_port).filter(|port| *port != 0);
        Ok(is_in.then(|| OtherSwarm {
            is_manager: swarm.control_available.unwrap_or(false),
            data_path_port: port.unwrap_or(skep_api::object::ingress::DATA_PATH_PORT),
        }))
    }

    /// How many containers of tasks of this node it has.
    ///
    /// # Errors
    /// [`DockerError`] when it does not answer.
    pub async fn n_tasks(&self, node_id: &str) -> Result<usize, DockerError> {
        let found = self.ids(&[ID_LABEL.to_owned(), of_node(node_id)]).await;
        found.map(|ids| ids.len()).map_err(|e| self.away(e))
    }

    /// Removes all containers of this node's tasks, whatever they do.
    ///
    /// # Errors
    /// [`DockerError`] when it does not answer or does not remove one.
    pub async fn remove_tasks(&self, node_id: &str) -> Result<(), DockerError> {
        for label in [ID_LABEL, SANDBOX_LABEL] {
            let ids = self.ids(&[label.to_owned(), of_node(node_id)]).await.map_err(|e| self.away(e))?;
            for id in ids {
                self.force_remove(&id).await.map_err(|e| self.away(e))?;
            }
        }
        Ok(())
    }

    fn away(&self, error: Error) -> DockerError {
        DockerError { socket: self.socket.clone(), source: error.into() }
    }

    async fn ids(&self, labels: &[String]) -> Result<Vec<String>, Error> {
        Ok(self.labelled(labels).await?.into_iter().map(|found| found.id).collect())
    }

    /// All containers with the labels.
    async fn labelled(&self, labels: &[String]) -> Result<Vec<Labelled>, Error> {
        let filters = [("label", labels.to_vec())].into();
        let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
        let found = self.docker.list_containers(Some(options)).await?;
        let one = |summary: bollard::models::ContainerSummary| {
            let name = summary.names.and_then(|names| names.into_iter().next()).unwrap_or_default();
            Some(Labelled {
                id: summary.id?,
                name: name.trim_start_matches('/').to_owned(),
                labels: summary.labels.unwrap_or_default().into_iter().collect(),
                state: summary.state,
            })
        };
        Ok(found.into_iter().filter_map(one).collect())
    }

    /// What Docker calls the container; our id where it is not known, which Docker then does not know either.
    fn name(&self, id: &str) -> String {
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.get(id).cloned().unwrap_or_else(|| id.to_owned())
    }

    fn set_name(&self, id: &str, name: Option<String>) {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        match name {
            Some(name) => names.insert(id.to_owned(), name),
            None => names.remove(id),
        };
    }

    async fn inspect(&self, name: &str) -> Result<Option<ContainerInspectResponse>, Error> {
        found(self.docker.inspect_container(name, None::<InspectContainerOptions>).await)
    }

    /// One that is not there, or on its way out, is fine.
    async fn force_remove(&self, name: &str) -> Result<(), Error> {
        let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
        match self.docker.remove_container(name, Some(options)).await {
            Err(Error::DockerResponseServerError { status_code: 404, .. }) => Ok(()),
            Err(Error::DockerResponseServerError { status_code: 409, message })
                if message.contains("already in progress") =>
            {
                Ok(())
            }
            other => other,
        }
    }

    /// What Docker calls the container that it made.
    async fn try_create(
        &self,
        name: &str,
        body: ContainerCreateBody,
        links: &BTreeMap<String, String>,
    ) -> Result<String, EngineError> {
        let options = CreateContainerOptionsBuilder::new().name(name).build();
        let made = self.docker.create_container(Some(options), body).await.map_err(failed)?;
        if !links.is_empty() {
            let archive = translate::archive(links).map_err(|e| EngineError::Failed(e.into()))?;
            let options = UploadToContainerOptionsBuilder::new().path("/").build();
            let body = bollard::body_full(archive.into());
            self.docker.upload_to_container(&made.id, Some(options), body).await.map_err(failed)?;
        }
        Ok(made.id)
    }

    /// Waits for the container's end, also across a restart of the Docker Engine.
    async fn ended(self, id: String) -> Result<Exit, EngineError> {
        let name = self.name(&id);
        loop {
            // An exit code that is not zero comes as an error, too: the look tells.
            let waited = self.docker.wait_container(&name, None::<WaitContainerOptions>).boxed().next().await;
            match self.inspect(&name).await {
                Ok(None) => return Err(EngineError::Failed(format!("No such container: {name}").into())),
                Ok(Some(about)) => {
                    if let ContainerState::Exited(exit) = state(&about) {
                        return Ok(exit);
                    }
                }
                Err(e) => tracing::debug!(err = %e, "the Docker Engine does not answer; asking again"),
            }
            if !matches!(waited, Some(Ok(_) | Err(Error::DockerContainerWaitError { .. }))) {
                tokio::time::sleep(AWAY_RETRY).await;
            }
        }
    }
}

fn of_node(node_id: &str) -> String {
    format!("{NODE_ID_LABEL}={node_id}")
}

/// `None` for what Docker says is not there.
fn found<T>(answer: Result<T, Error>) -> Result<Option<T>, Error> {
    match answer {
        Ok(found) => Ok(Some(found)),
        Err(Error::DockerResponseServerError { status_code: 404, .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Docker's own words where it gave an answer.
fn failed(error: Error) -> EngineError {
    if let Error::DockerResponseServerError { message, .. } = &error {
        return EngineError::Failed(message.clone().into());
    }
    EngineError::Failed(format!("the Docker Engine gave no answer: {}", chain(&error)).into())
}

/// How far a container is.
fn state(about: &ContainerInspectResponse) -> ContainerState {
    let state = about.state.clone().unwrap_or_default();
    let exit = || Exit {
        code: state.exit_code.and_then(|code| i32::try_from(code).ok()).unwrap_or(-1),
        oom_killed: state.oom_killed.unwrap_or(false),
        error: state.error.clone().filter(|words| !words.is_empty()),
    };
    use ContainerStateStatusEnum as Status;
    match state.status {
        Some(Status::RUNNING | Status::PAUSED | Status::RESTARTING | Status::STOPPING) => {
            ContainerState::Running { pid: pid(about) }
        }
        Some(Status::EXITED | Status::DEAD | Status::REMOVING) => ContainerState::Exited(exit()),
        None | Some(Status::EMPTY | Status::CREATED) => ContainerState::Created,
    }
}

/// The main process's id; zero where there is none.
fn pid(about: &ContainerInspectResponse) -> u32 {
    let pid = about.state.as_ref().and_then(|state| state.pid);
    pid.and_then(|pid| u32::try_from(pid).ok()).unwrap_or(0)
}

#[async_trait]
impl Engine for DockerEngine {
    async fn find_image(&self, image: &str) -> Result<Option<Image>, EngineError> {
        let about = found(self.docker.inspect_image(image).await).map_err(failed)?;
        Ok(about.map(|about| Image {
            stop_signal: about
                .config
                .and_then(|config| config.stop_signal)
                .filter(|signal| !signal.is_empty()),
        }))
    }

    async fn pull(&self, image: &str, auth: &Secret) -> Result<(), EngineError> {
        pull::pull(&self.docker, image, auth).await
    }

    async fn sandbox(&self, sandbox: NewSandbox) -> Result<Option<Sandbox>, EngineError> {
        self.sandboxes.asked();
        self.make_sandbox(sandbox).await.map(Some)
    }

    async fn remove_sandbox(&self, id: &str) -> Result<(), EngineError> {
        self.sandboxes.asked();
        self.drop_sandbox(id).await.map_err(failed)
    }

    async fn keep(&self) {
        self.keep_spares().await;
    }

    async fn leave(&self) -> Result<(), EngineError> {
        // All that is there of this node: its tasks have ended.
        self.remove_tasks(self.sandboxes.node_id()).await.map_err(|e| EngineError::Failed(e.into()))
    }

    async fn create(&self, container: NewContainer) -> Result<(), EngineError> {
        self.sandboxes.asked();
        let id = container.id.clone();
        self.write_files(&container).await?;
        let Translated { name, body, links } = translate::container(container, &self.api_socket);
        let made = self.try_create(&name, body, &links).await;
        if made.is_err() {
            // Docker may have made it all the same, and nobody else would know of it.
            self.force_remove(&name).await.unwrap_or_else(|e| {
                tracing::debug!(container = name, err = %e, "what may be there of a container is left");
            });
        }
        self.set_name(&id, Some(made?));
        Ok(())
    }

    async fn start(&self, id: &str) -> Result<u32, EngineError> {
        self.sandboxes.asked();
        let name = self.name(id);
        let started = self.docker.start_container(&name, None::<StartContainerOptions>).await;
        let about = self.inspect(&name).await;
        let pid = about.ok().flatten().as_ref().map_or(0, pid);
        match started {
            // Docker said no, or the connection broke and it had not begun.
            Err(e) if pid == 0 => Err(failed(e)),
            Ok(()) | Err(_) => Ok(pid),
        }
    }

    fn wait(&self, id: &str) -> BoxFuture<'static, Result<Exit, EngineError>> {
        Box::pin(self.clone().ended(id.to_owned()))
    }

    async fn kill(&self, id: &str, signal: i32) -> Result<(), EngineError> {
        let options = KillContainerOptionsBuilder::new().signal(&signal.to_string()).build();
        self.docker.kill_container(&self.name(id), Some(options)).await.map_err(failed)
    }

    async fn remove(&self, id: &str) -> Result<(), EngineError> {
        self.sandboxes.asked();
        self.force_remove(&self.name(id)).await.map_err(failed)?;
        self.set_name(id, None);
        self.drop_sandbox(id).await.map_err(failed)
    }

    async fn list(&self) -> Result<Vec<Container>, EngineError> {
        let found = self.labelled(&[ID_LABEL.to_owned()]).await.map_err(failed)?;
        let looking = found.into_iter().map(|Labelled { id: docker_id, labels, .. }| async move {
            let Some(about) = self.inspect(&docker_id).await? else { return Ok(None) };
            let id = labels.get(ID_LABEL).cloned().unwrap_or_default();
            self.set_name(&id, Some(docker_id));
            Ok(Some(Container { id, labels, state: state(&about) }))
        });
        let all: Vec<_> = stream::iter(looking).buffered(INSPECTS_MAX).try_collect().await.map_err(failed)?;
        Ok(all.into_iter().flatten().collect())
    }

    async fn logs(&self, id: &str, window: LogWindow) -> Result<BoxStream<'static, LogLine>, EngineError> {
        logs::read(&self.docker, &self.name(id), window).await
    }

    fn shown_id(&self, id: &str) -> String {
        self.name(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_is_as_far_as_docker_says() {
        use ContainerStateStatusEnum as Status;
        let about = |status, pid, exit_code, oom_killed| ContainerInspectResponse {
            state: Some(bollard::models::ContainerState {
                status: Some(status),
                pid: Some(pid),
                exit_code: Some(exit_code),
                oom_killed: Some(oom_killed),
                error: Some(String::new()),
                ..Default::default()
            }),
            ..Default::default()
        };
        let exited = |code, oom_killed| ContainerState::Exited(Exit { code, oom_killed, error: None });
        for (given, expect) in [
            (about(Status::CREATED, 0, 0, false), ContainerState::Created),
            (about(Status::RUNNING, 7, 0, false), ContainerState::Running { pid: 7 }),
            (about(Status::PAUSED, 7, 0, false), ContainerState::Running { pid: 7 }),
            (about(Status::EXITED, 0, 3, false), exited(3, false)),
            (about(Status::EXITED, 0, 137, true), exited(137, true)),
            (about(Status::DEAD, 0, 255, false), exited(255, false)),
            (ContainerInspectResponse::default(), ContainerState::Created),
        ] {
            assert_eq!(state(&given), expect);
        }
    }
}
