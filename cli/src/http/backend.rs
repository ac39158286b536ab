//! The seam between the API server and the daemon: what the server asks, and nothing of how it is done.
//!
//! Traits stand for the control plane and the engine, so that the server is tested against a state
//! made by hand, with the real docker CLI and no daemon.

use std::{
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use skep_agent::DockerAbout;
use skep_agent::runtime::{Distribution, InForce, PullNews, Pulled};
use skep_api::{
    ApiError, NetworkId, NodeId, Secret, ServiceId, TaskId, TicketId, Timestamp,
    object::{GenericResource, Node, Ticket},
    spec::{InitRequest, JoinBody, Labels, NetworkSpec, NodeSpec, ServiceSpec, SwarmSpec},
};
use skep_link::JoinToken;
use skep_manager::{
    CreatedNetwork, CreatedService, LogItem, LogQuery, ManagerStatus, Plan, Rebalance, RegistryAuth, RollOut,
    Rotation, TicketAsked, UnlockKey, View, Waiting, recovery::Preview,
};
use tokio::{io::AsyncRead, sync::mpsc};

use super::RestoreRequest;

/// What this node is in a swarm.
#[derive(Clone)]
pub(crate) enum SwarmState {
    /// In none.
    Inactive,
    /// A manager whose disk is locked: it waits for the unlock key.
    Locked,
    /// Joining, or restarting as a member.
    Pending,
    /// Could not become a member again; why.
    Error(String),
    /// A manager that is stopped until its disk has room; the words say so.
    Full(String),
    /// Runs tasks, sees nothing of the cluster.
    Worker { node_id: NodeId },
    /// Holds the cluster's state.
    Manager(Arc<dyn ControlPlane>),
}

/// Where tasks go, for who asks.
#[async_trait]
pub(crate) trait Placing: Send + Sync {
    /// Why tasks of a service wait for a node.
    async fn explain_service(&self, id: ServiceId) -> Result<Vec<Waiting>, ApiError>;
    /// Where the tasks of a new one would go.
    async fn plan_service(&self, spec: ServiceSpec) -> Result<Plan, ApiError>;
    /// What would make the nodes of a service even.
    async fn plan_rebalance(&self, id: ServiceId) -> Result<Rebalance, ApiError>;
    /// Has that done.
    async fn rebalance(&self, id: ServiceId) -> Result<Rebalance, ApiError>;
}

#[async_trait]
impl Placing for skep_manager::Control {
    async fn explain_service(&self, id: ServiceId) -> Result<Vec<Waiting>, ApiError> {
        Self::explain_service(self, id).await
    }

    async fn plan_service(&self, spec: ServiceSpec) -> Result<Plan, ApiError> {
        Self::plan_service(self, spec).await
    }

    async fn plan_rebalance(&self, id: ServiceId) -> Result<Rebalance, ApiError> {
        Self::plan_rebalance(self, id).await
    }

    async fn rebalance(&self, id: ServiceId) -> Result<Rebalance, ApiError> {
        Self::rebalance(self, id).await
    }
}

/// Tokens for joining that have a life of their own.
#[async_trait]
pub(crate) trait Tickets: Send + Sync {
    /// Gives the token, which is told only once.
    async fn create_ticket(&self, asked: TicketAsked) -> Result<(TicketId, JoinToken), ApiError>;
    /// With the time by which they are judged.
    async fn tickets(&self) -> Result<(Vec<Arc<Ticket>>, Timestamp), ApiError>;
    async fn revoke_ticket(&self, id: TicketId) -> Result<(), ApiError>;
}

#[async_trait]
impl Tickets for skep_manager::Control {
    async fn create_ticket(&self, asked: TicketAsked) -> Result<(TicketId, JoinToken), ApiError> {
        Self::create_ticket(self, asked).await
    }

    async fn tickets(&self) -> Result<(Vec<Arc<Ticket>>, Timestamp), ApiError> {
        Self::tickets(self).await
    }

    async fn revoke_ticket(&self, id: TicketId) -> Result<(), ApiError> {
        Self::revoke_ticket(self, id).await
    }
}

/// What a manager does for its clients.
#[async_trait]
pub(crate) trait ControlPlane: Placing + Tickets + Send + Sync + 'static {
    /// The cluster as of now: what was acknowledged anywhere before the call is in it.
    async fn view(&self) -> Result<View, ApiError>;
    /// The cluster as this manager last heard.
    fn stale_view(&self) -> View;
    /// What people should know of nodes' clocks and managers' builds.
    fn warnings(&self) -> Vec<String>;
    async fn create_service(&self, spec: ServiceSpec, auth: Secret) -> Result<CreatedService, ApiError>;
    /// `None` goes back to the previous spec. Gives warnings.
    async fn update_service(
        &self,
        id: ServiceId,
        version: u64,
        spec: Option<ServiceSpec>,
        auth: RegistryAuth,
    ) -> Result<Vec<String>, ApiError>;
    /// An update by hand, or the way back to any spec that is kept.
    async fn roll_out(&self, id: ServiceId, version: u64, what: RollOut) -> Result<(), ApiError>;
    async fn remove_service(&self, id: ServiceId) -> Result<(), ApiError>;
    async fn create_network(&self, spec: NetworkSpec) -> Result<CreatedNetwork, ApiError>;
    async fn remove_network(&self, id: NetworkId) -> Result<(), ApiError>;
    /// Settings and join tokens; what `spec` leaves out stays.
    async fn update_cluster(&self, version: u64, spec: SwarmSpec, rotation: Rotation)
    -> Result<(), ApiError>;
    /// As users keep it; empty without autolock.
    async fn unlock_key(&self) -> Result<String, ApiError>;
    async fn update_node(&self, id: NodeId, version: u64, spec: NodeSpec) -> Result<(), ApiError>;
    async fn remove_node(&self, id: NodeId, force: bool) -> Result<(), ApiError>;
    async fn logs(&self, tasks: Vec<TaskId>, query: LogQuery) -> Result<mpsc::Receiver<LogItem>, ApiError>;
    /// A sealed backup, as it is written.
    async fn backup(&self, key: Secret) -> Result<mpsc::Receiver<std::io::Result<Bytes>>, ApiError>;
    /// What this manager has.
    fn preview(&self) -> Preview;
    fn node_id(&self) -> NodeId;
    /// `None` for a worker.
    fn manager_status(&self, node: &Node) -> Option<ManagerStatus>;
}

#[async_trait]
impl ControlPlane for skep_manager::Control {
    async fn view(&self) -> Result<View, ApiError> {
        Self::view(self).await
    }

    fn stale_view(&self) -> View {
        Self::stale_view(self)
    }

    fn warnings(&self) -> Vec<String> {
        Self::warnings(self)
    }

    async fn create_service(&self, spec: ServiceSpec, auth: Secret) -> Result<CreatedService, ApiError> {
        Self::create_service(self, spec, auth).await
    }

    async fn update_service(
        &self,
        id: ServiceId,
        version: u64,
        spec: Option<ServiceSpec>,
        auth: RegistryAuth,
    ) -> Result<Vec<String>, ApiError> {
        Self::update_service(self, id, version, spec, auth).await
    }

    async fn roll_out(&self, id: ServiceId, version: u64, what: RollOut) -> Result<(), ApiError> {
        Self::roll_out(self, id, version, what).await
    }

    async fn remove_service(&self, id: ServiceId) -> Result<(), ApiError> {
        Self::remove_service(self, id).await
    }

    async fn create_network(&self, spec: NetworkSpec) -> Result<CreatedNetwork, ApiError> {
        Self::create_network(self, spec).await
    }

    async fn remove_network(&self, id: NetworkId) -> Result<(), ApiError> {
        Self::remove_network(self, id).await
    }

    async fn update_cluster(
        &self,
        version: u64,
        spec: SwarmSpec,
        rotation: Rotation,
    ) -> Result<(), ApiError> {
        Self::update_cluster(self, version, spec, rotation).await
    }

    async fn unlock_key(&self) -> Result<String, ApiError> {
        Self::unlock_key(self).await
    }

    async fn update_node(&self, id: NodeId, version: u64, spec: NodeSpec) -> Result<(), ApiError> {
        Self::update_node(self, id, version, spec).await
    }

    async fn remove_node(&self, id: NodeId, force: bool) -> Result<(), ApiError> {
        Self::remove_node(self, id, force).await
    }

    async fn logs(&self, tasks: Vec<TaskId>, query: LogQuery) -> Result<mpsc::Receiver<LogItem>, ApiError> {
        Self::logs(self, tasks, query).await
    }

    async fn backup(&self, key: Secret) -> Result<mpsc::Receiver<std::io::Result<Bytes>>, ApiError> {
        Self::backup(self, key).await
    }

    fn preview(&self) -> Preview {
        Self::preview(self)
    }

    fn node_id(&self) -> NodeId {
        Self::node_id(self)
    }

    fn manager_status(&self, node: &Node) -> Option<ManagerStatus> {
        Self::manager_status(self, node)
    }
}

/// What the daemon does for the server.
#[async_trait]
pub(crate) trait Backend: Send + Sync + 'static {
    fn swarm(&self) -> SwarmState;
    /// Makes a swarm of this node; gives its id.
    async fn init(&self, request: InitRequest) -> Result<String, ApiError>;
    /// Makes a swarm of a backup; gives this node's id.
    async fn restore(&self, request: RestoreRequest) -> Result<String, ApiError>;
    async fn join(&self, request: JoinBody) -> Result<(), ApiError>;
    async fn leave(&self, force: bool) -> Result<(), ApiError>;
    /// Has a locked manager come back.
    async fn unlock(&self, key: UnlockKey) -> Result<(), ApiError>;
    fn engine(&self) -> Arc<dyn LocalEngine>;
    /// The Docker Engine that runs this node's tasks, if one does: it answers for all that is no swarm's.
    fn docker(&self) -> Option<DockerSocket> {
        None
    }
    fn facts(&self) -> Facts;
    /// The daemon is to stop, as on a signal; `host_stops` has its tasks replaced at once. Returns before it does.
    fn stop(&self, host_stops: bool);
}

/// Where a Docker Engine of this machine is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DockerSocket {
    pub(crate) path: PathBuf,
    /// The newest API that it speaks.
    pub(crate) api: (u32, u32),
}

impl DockerSocket {
    pub(crate) fn of(path: &Path, about: &DockerAbout) -> Self {
        Self { path: path.to_owned(), api: about.api }
    }
}

/// What is known of this node without asking anybody.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    pub(crate) node_name: String,
    pub(crate) n_cpus: u64,
    pub(crate) memory_bytes: u64,
    /// Its release, as `uname -r`.
    pub(crate) kernel: String,
    /// The distribution's name for people.
    pub(crate) os: String,
    /// As `uname -m`.
    pub(crate) arch: String,
    /// Where other nodes reach it; empty outside a swarm.
    pub(crate) node_addr: String,
    pub(crate) node_id: Option<NodeId>,
    /// Id and `host:port` of each manager.
    pub(crate) remote_managers: Vec<(NodeId, String)>,
    pub(crate) state_dir: PathBuf,
    /// UDP port of the VXLAN.
    #[expect(dead_code, reason = "Docker shows it of the cluster alone")]
    pub(crate) data_path_port: u32,
    /// What it offers besides CPUs and memory.
    pub(crate) generic: Vec<GenericResource>,
    /// The engine's labels, `key=value`.
    pub(crate) labels: Vec<String>,
    pub(crate) now: Timestamp,
    /// What is wrong with a worker that is one all the same; else empty.
    pub(crate) trouble: String,
}

/// A request's body, read as it comes.
pub(crate) type BodyReader = Pin<Box<dyn AsyncRead + Send>>;

/// The images and containers of this node.
#[async_trait]
pub(crate) trait LocalEngine: Send + Sync + 'static {
    /// Takes in a `docker save` or OCI archive.
    async fn load(&self, archive: BodyReader) -> Result<Vec<Loaded>, ApiError>;
    /// Makes an image of a root file system's tar; gives its id.
    async fn import(&self, rootfs: BodyReader, reference: String) -> Result<String, ApiError>;
    async fn images(&self) -> Result<Vec<Image>, ApiError>;
    /// By name, id or prefix of an id.
    async fn find_image(&self, name: &str) -> Result<Option<Image>, ApiError>;
    async fn remove_image(&self, name: &str, force: bool) -> Result<RemovedImage, ApiError>;
    /// Begins to pull; dropped, it stops. Ends with `Done`.
    fn pull(&self, request: PullAsked) -> Result<BoxStream<'static, PullEvent>, ApiError>;
    async fn tag_image(&self, source: &str, target: &str) -> Result<(), ApiError>;
    /// What an image's name stands for at its registry.
    async fn distribution(&self, name: &str, auth: &Secret) -> Result<Distribution, ApiError>;
    /// Whether the registry at an address knows who sent this `POST /auth`.
    async fn check_login(&self, address: &str, request: &[u8]) -> Result<(), ApiError>;
    async fn containers(&self) -> Result<Vec<Container>, ApiError>;
    /// What is in force in a container; the default where that is not known.
    async fn in_force(&self, id: &str) -> Result<InForce, ApiError>;
    /// The named ones, by name.
    async fn volumes(&self) -> Result<Vec<Volume>, ApiError>;
    /// One of this name that is there already is given back as it is.
    async fn create_volume(&self, name: &str, labels: Labels) -> Result<Volume, ApiError>;
    async fn remove_volume(&self, name: &str) -> Result<(), ApiError>;
}

/// A named volume of this node.
#[derive(Clone, Debug, Default)]
pub(crate) struct Volume {
    pub(crate) name: String,
    pub(crate) labels: Labels,
    /// Zero: not known.
    pub(crate) created: Timestamp,
    pub(crate) mountpoint: String,
    /// A container mounts it, or did and is not removed yet.
    pub(crate) is_used: bool,
}

/// What is to be pulled.
#[derive(Debug)]
pub(crate) struct PullAsked {
    pub(crate) reference: String,
    /// `os/architecture`; empty for this machine's.
    pub(crate) platform: String,
    /// `X-Registry-Auth`, or empty.
    pub(crate) auth: Secret,
}

/// What happens in a pull.
#[derive(Debug)]
pub(crate) enum PullEvent {
    News(PullNews),
    Done(Result<Pulled, ApiError>),
}

/// An image that was loaded.
#[derive(Clone, Debug, Default)]
pub(crate) struct Loaded {
    /// `name:tag`; `None` for one without a name.
    pub(crate) reference: Option<String>,
    /// `sha256:...`
    pub(crate) id: String,
}

/// An image of this node.
#[derive(Clone, Debug, Default)]
pub(crate) struct Image {
    /// `sha256:...`
    pub(crate) id: String,
    /// `name:tag`
    pub(crate) references: Vec<String>,
    /// `name@sha256:...`
    pub(crate) repo_digests: Vec<String>,
    pub(crate) created: Timestamp,
    pub(crate) size_bytes: u64,
    /// The `config` object of the image's configuration.
    pub(crate) config: serde_json::Value,
    /// The layers' diff ids.
    pub(crate) layers: Vec<String>,
    pub(crate) arch: String,
}

/// What went with a removed image.
#[derive(Clone, Debug, Default)]
pub(crate) struct RemovedImage {
    pub(crate) untagged: Vec<String>,
    pub(crate) deleted: Vec<String>,
}

/// A container of this node.
#[derive(Clone, Debug, Default)]
pub(crate) struct Container {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) image: String,
    pub(crate) image_id: String,
    pub(crate) command: Vec<String>,
    pub(crate) labels: Labels,
    pub(crate) created: Timestamp,
    pub(crate) state: ContainerState,
}

/// How far a container is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum ContainerState {
    #[default]
    Created,
    Running {
        pid: u32,
        since: Timestamp,
    },
    Exited {
        code: i32,
        oom_killed: bool,
        at: Timestamp,
    },
}
