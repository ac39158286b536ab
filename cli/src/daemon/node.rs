//! This node: in no swarm, a worker or a manager, and how it moves between these.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use anyhow::Context as _;
use arc_swap::ArcSwap;
use async_trait::async_trait;
use skep_agent::{Agent, DockerEngine, TaskEngine, runtime};
use skep_api::{
    ApiError, ErrorKind, NodeId, Timestamp,
    object::ingress::DATA_PATH_PORT,
    spec::{Availability, InitRequest, JoinBody},
    validate,
};
use skep_link::{Identity, JoinError, JoinParams, JoinToken};
use skep_manager::{InitParams, Manager, ManagerConfig, ManagerError};
use tokio::sync::Mutex;

use super::{
    address::{self, CONTROL_PORT},
    choice::{self, Kind},
    clash,
    engine::{Local, open_engine},
    machine,
    member::Member,
    settings::Settings,
    stopping,
};
use crate::http::{Backend, DockerSocket, Facts, LocalEngine, SwarmState};

/// Docker's limit of a join (`MB:daemon/cluster/swarm.go`).
const JOIN_TIMEOUT: Duration = Duration::from_secs(20);
/// How long the manager may take to note that we leave.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(3);
/// Docker's words (`MB:daemon/cluster/swarm.go`).
const LEAVE_WARNING: &str = "You are attempting to leave the swarm on a node that is participating as a manager. \
     Removing the last manager erases all current state of the swarm. Use `--force` to ignore this message. ";

/// What this node is.
#[derive(Clone)]
enum Place {
    Nowhere,
    /// Became a member and could not come back; the words say why.
    Broken(String),
    Worker(Membership),
    Manager(Membership, skep_manager::Control),
}

#[derive(Clone)]
struct Membership {
    agent: Agent,
    identity: Identity,
    member: Member,
}

/// The daemon's node.
pub(super) struct Node(Arc<Inner>);

struct Inner {
    settings: Settings,
    engine: ArcSwap<runtime::Engine>,
    /// Runs the tasks in place of the embedded engine.
    docker: Option<DockerEngine>,
    place: RwLock<Place>,
    /// Held while the node changes its place, with the manager that it runs.
    manager: Mutex<Option<Manager>>,
}

impl Node {
    /// Starts from what the state directory holds.
    ///
    /// # Errors
    /// What this node cannot serve without; a damaged log, by its file.
    pub(super) async fn start(settings: Settings) -> anyhow::Result<Self> {
        Ok(Self(Arc::new(Inner::start(settings).await?)))
    }

    /// The daemon stops: tasks stay.
    pub(super) async fn stop(&self) {
        if let Some(membership) = self.0.membership() {
            membership.agent.stop(stopping::reason().await).await;
        }
        if let Some(manager) = self.0.manager.lock().await.take() {
            manager.stop().await;
        }
    }
}

/// Runs a change of place to its end, also when the client that asked for it is gone.
async fn to_its_end<T: Send + 'static>(
    change: impl Future<Output = Result<T, ApiError>> + Send + 'static,
) -> Result<T, ApiError> {
    tokio::spawn(change).await.unwrap_or_else(|e| Err(ApiError::new(ErrorKind::Internal, e.to_string())))
}

impl Inner {
    async fn start(settings: Settings) -> anyhow::Result<Self> {
        make_private(&settings.state_dir)
            .with_context(|| format!("--state-dir: cannot make {}", settings.state_dir.display()))?;
        let identity =
            Identity::load(&settings.state_dir.join("identity")).context("this node's identity")?;
        let member = Member::load(&settings.state_dir)?;
        let node_id = identity.as_ref().map(Identity::node_id);
        let engine = open_engine(&settings, node_id.as_deref()).await?;
        let docker = choice::engine(&settings, node_id.as_deref(), &engine).await?;
        let node = Self {
            settings,
            docker,
            engine: ArcSwap::from_pointee(engine),
            place: RwLock::new(Place::Nowhere),
            manager: Mutex::new(None),
        };
        if let Some((identity, member)) = identity.zip(member)
            && let Err(error) = node.resume(identity, member).await
        {
            // A damaged or foreign log is never served: the daemon ends with the file's name.
            if let Some(ManagerError::Open(_)) = error.downcast_ref() {
                return Err(error);
            }
            // Else served all the same, so that `info` tells and `leave --force` works.
            let words = format!("{error:#}");
            tracing::error!(err = words, "could not come back as a member of the swarm");
            node.set(Place::Broken(words));
        }
        Ok(node)
    }

    async fn resume(&self, identity: Identity, member: Member) -> anyhow::Result<()> {
        let config = self.manager_config(member.listen_addr);
        if !Manager::exists(&config) {
            let agent = self.start_agent(&identity, &member).await?;
            self.set(Place::Worker(Membership { agent, identity, member }));
            return Ok(());
        }
        let mut slot = self.manager.lock().await;
        let manager = Manager::open(config, identity.clone()).await?;
        let control = manager.control();
        let agent = self.start_agent(&identity, &member).await?;
        *slot = Some(manager);
        self.set(Place::Manager(Membership { agent, identity, member }, control));
        Ok(())
    }

    fn place(&self) -> Place {
        self.place.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, place: Place) {
        *self.place.write().unwrap_or_else(PoisonError::into_inner) = place;
    }

    fn membership(&self) -> Option<Membership> {
        match self.place() {
            Place::Worker(membership) | Place::Manager(membership, _) => Some(membership),
            Place::Nowhere | Place::Broken(_) => None,
        }
    }

    fn refuse_a_second_swarm(&self) -> Result<(), ApiError> {
        match self.place() {
            Place::Nowhere => Ok(()),
            Place::Broken(_) | Place::Worker(_) | Place::Manager(..) => Err(ApiError::new(
                ErrorKind::Unavailable,
                "This node is already part of a swarm. Use \"docker swarm leave\" to leave this swarm and join another one.",
            )),
        }
    }

    fn manager_config(&self, listen_addr: SocketAddr) -> ManagerConfig {
        ManagerConfig {
            dir: self.settings.state_dir.join("manager"),
            listen_addr,
            clock: machine::clock,
            raft_heartbeat: self.settings.raft_heartbeat,
            raft_election: self.settings.raft_election,
        }
    }

    async fn start_agent(&self, identity: &Identity, member: &Member) -> anyhow::Result<Agent> {
        let (kind, engine) = match &self.docker {
            Some(docker) => (Kind::Docker, TaskEngine::Docker(docker.clone())),
            None => (Kind::Embedded, TaskEngine::Embedded(self.engine_for(&identity.node_id()).await?)),
        };
        choice::remember(&self.settings.state_dir, kind)?;
        let config = skep_agent::Config {
            state_dir: self.settings.state_dir.clone(),
            identity: identity.clone(),
            managers: member.managers.clone(),
            description: (&machine::description(&self.settings)).into(),
            data_path_addr: member.data_path_addr,
            probe_addr: String::new(),
            node_name: self.settings.node_name.clone(),
            shim: self.settings.shim.clone(),
            clock: machine::clock,
        };
        Agent::start(config, engine).await.context("cannot start the agent")
    }

    /// The engine whose cgroups carry the node's id. Before the node has one it runs no containers, so it
    /// may be opened anew.
    async fn engine_for(&self, node_id: &str) -> anyhow::Result<Arc<runtime::Engine>> {
        let engine = open_engine(&self.settings, Some(node_id)).await?;
        self.engine.store(Arc::new(engine));
        Ok(self.engine.load_full())
    }

    fn advertised(&self, field: &str, text: &str) -> Result<(Ipv4Addr, Option<u16>), ApiError> {
        let found =
            address::parse(field, text)?.or_else(|| self.settings.advertise_addr.map(|addr| (addr, None)));
        found.ok_or_else(|| {
            ApiError::invalid(
                "could not choose an IP address to advertise since this system has no default route",
            )
        })
    }

    fn data_path(&self, text: &str, advertised: Ipv4Addr) -> Result<Ipv4Addr, ApiError> {
        let asked = address::parse("DataPathAddr", text)?.map(|(addr, _)| addr);
        Ok(asked.or(self.settings.data_path_addr).unwrap_or(advertised))
    }

    /// Removes what a membership left on disk.
    fn wipe(&self) {
        let dir = &self.settings.state_dir;
        let mut results = vec![Member::forget(dir), choice::forget(dir)];
        for sub in ["identity", "manager", "agent"] {
            results.push(match std::fs::remove_dir_all(dir.join(sub)) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
                other => other,
            });
        }
        for error in results.into_iter().filter_map(Result::err) {
            tracing::error!(err = %error, "could not remove the state of the left swarm");
        }
    }

    async fn make_swarm(&self, slot: &mut Option<Manager>, request: InitRequest) -> Result<String, ApiError> {
        validate::init(&request)?;
        let (addr, port) = self.advertised("AdvertiseAddr", &request.advertise_addr)?;
        let listen_addr = address::listen(&request.listen_addr)?;
        let data_path_addr = self.data_path(&request.data_path_addr, addr)?;
        let advertise_addr = format!("{addr}:{}", port.unwrap_or(listen_addr.port()));
        let data_path_port =
            if request.data_path_port == 0 { DATA_PATH_PORT } else { request.data_path_port };
        clash::check(self.docker.as_ref(), listen_addr.port(), data_path_port).await?;
        let params = InitParams {
            advertise_addr: advertise_addr.clone(),
            data_path_addr: data_path_addr.to_string(),
            data_path_port: request.data_path_port,
            description: machine::description(&self.settings),
            availability: Availability::parse(&request.availability).unwrap_or_default(),
            spec: request.spec,
            identity_dir: self.settings.state_dir.join("identity"),
        };
        let (manager, identity) =
            Manager::init(self.manager_config(listen_addr), params).await.map_err(|e| internal(&e.into()))?;
        let member = Member {
            format: 1,
            listen_addr,
            advertise_addr: advertise_addr.clone(),
            data_path_addr,
            managers: vec![advertise_addr],
            data_path_port,
        };
        let node_id = identity.node_id();
        let agent = async {
            member.save(&self.settings.state_dir)?;
            self.start_agent(&identity, &member).await
        }
        .await;
        let agent = match agent {
            Ok(agent) => agent,
            Err(error) => {
                manager.stop().await;
                return Err(internal(&error));
            }
        };
        let control = manager.control();
        *slot = Some(manager);
        self.set(Place::Manager(Membership { agent, identity, member }, control));
        Ok(node_id)
    }

    async fn join_swarm(&self, body: JoinBody) -> Result<(), ApiError> {
        let token = JoinToken::parse(&body.join_token).map_err(|e| ApiError::invalid(e.to_string()))?;
        if body.remote_addrs.is_empty() {
            return Err(ApiError::invalid("RemoteAddrs: at least 1 RemoteAddr is required to join"));
        }
        let (addr, port) = self.advertised("AdvertiseAddr", &body.advertise_addr)?;
        let listen_addr = address::listen(&body.listen_addr)?;
        let data_path_addr = self.data_path(&body.data_path_addr, addr)?;
        clash::check(self.docker.as_ref(), listen_addr.port(), DATA_PATH_PORT).await?;
        let params = JoinParams {
            description: (&machine::description(&self.settings)).into(),
            data_path_addr: data_path_addr.to_string(),
            availability: body.availability,
        };
        let mut failure = None;
        for remote in &body.remote_addrs {
            match Box::pin(skep_link::join(remote, &token, params.clone(), JOIN_TIMEOUT)).await {
                Ok(skep_link::Joined { identity, .. }) => {
                    let member = Member {
                        format: 1,
                        listen_addr,
                        advertise_addr: format!("{addr}:{}", port.unwrap_or(CONTROL_PORT)),
                        data_path_addr,
                        managers: body.remote_addrs.clone(),
                        data_path_port: DATA_PATH_PORT,
                    };
                    return self.become_worker(identity, member).await.map_err(|e| internal(&e));
                }
                Err(error) => failure = Some(error),
            }
        }
        Err(failure.map_or_else(|| ApiError::invalid("RemoteAddrs: none"), |error| join_failure(&error)))
    }

    async fn become_worker(&self, identity: Identity, member: Member) -> anyhow::Result<()> {
        identity.save(&self.settings.state_dir.join("identity"))?;
        member.save(&self.settings.state_dir)?;
        let agent = self.start_agent(&identity, &member).await?;
        self.set(Place::Worker(Membership { agent, identity, member }));
        Ok(())
    }

    async fn init(&self, request: InitRequest) -> Result<String, ApiError> {
        let mut slot = self.manager.lock().await;
        self.refuse_a_second_swarm()?;
        let made = Box::pin(self.make_swarm(&mut slot, request)).await;
        if made.is_err() {
            // As Swarm does: a failed first init leaves nothing behind.
            self.wipe();
        }
        made
    }

    async fn join(&self, request: JoinBody) -> Result<(), ApiError> {
        let _changing = self.manager.lock().await;
        self.refuse_a_second_swarm()?;
        let joined = Box::pin(self.join_swarm(request)).await;
        if joined.is_err() {
            self.wipe();
        }
        joined
    }

    async fn leave(&self, force: bool) -> Result<(), ApiError> {
        let mut slot = self.manager.lock().await;
        let place = self.place();
        if matches!(place, Place::Nowhere) {
            return Err(ApiError::new(ErrorKind::Unavailable, "This node is not part of a swarm"));
        }
        if matches!(place, Place::Manager(..)) && !force {
            return Err(ApiError::new(ErrorKind::Unavailable, LEAVE_WARNING));
        }
        match self.membership() {
            Some(membership) => {
                if slot.is_none() {
                    say_goodbye(&membership).await;
                }
                membership.agent.leave().await;
            }
            None => {
                choice::remove_tasks(self.docker.as_ref(), &self.engine.load_full(), &self.settings.state_dir)
                    .await
            }
        }
        if let Some(manager) = slot.take() {
            manager.stop().await;
        }
        self.set(Place::Nowhere);
        self.wipe();
        Ok(())
    }
}

/// Tells the managers that this node leaves; they find out by themselves if it does not reach them.
async fn say_goodbye(membership: &Membership) {
    let said = async {
        for manager in membership.agent.managers() {
            let Ok(channel) = skep_link::connect(&manager, &membership.identity).await else { continue };
            let request = skep_link::unary(skep_api::wire::LeaveRequest {});
            if skep_link::dispatcher(channel).leave(request).await.is_ok() {
                return;
            }
        }
        tracing::warn!("no manager heard that this node leaves; it will show as down");
    };
    if tokio::time::timeout(LEAVE_TIMEOUT, said).await.is_err() {
        tracing::warn!("no manager answered that this node leaves; it will show as down");
    }
}

fn make_private(dir: &PathBuf) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::create_dir_all(dir)?;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700))
}

/// The whole chain of causes, for the person who called.
fn internal(error: &anyhow::Error) -> ApiError {
    ApiError::new(ErrorKind::Internal, format!("{error:#}"))
}

fn join_failure(error: &JoinError) -> ApiError {
    let mut words = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let cause_words = cause.to_string();
        if !words.contains(&cause_words) {
            words = format!("{words}: {cause_words}");
        }
        source = cause.source();
    }
    let kind = match error {
        JoinError::Digest { .. } | JoinError::Refused { .. } => ErrorKind::InvalidArgument,
        JoinError::Dial(_) | JoinError::Timeout { .. } => ErrorKind::Unavailable,
        JoinError::Answer { .. } | JoinError::Identity(_) | JoinError::Csr(_) => ErrorKind::Internal,
    };
    ApiError::new(kind, words)
}

#[async_trait]
impl Backend for Node {
    fn swarm(&self) -> SwarmState {
        match self.0.place() {
            Place::Nowhere => SwarmState::Inactive,
            Place::Broken(words) => SwarmState::Error(words),
            Place::Worker(membership) => {
                SwarmState::Worker { node_id: membership.identity.node_id().parse().unwrap_or_default() }
            }
            Place::Manager(_, control) => SwarmState::Manager(Arc::new(control)),
        }
    }

    async fn init(&self, request: InitRequest) -> Result<String, ApiError> {
        let node = Arc::clone(&self.0);
        to_its_end(async move { Box::pin(node.init(request)).await }).await
    }

    async fn join(&self, request: JoinBody) -> Result<(), ApiError> {
        let node = Arc::clone(&self.0);
        to_its_end(async move { Box::pin(node.join(request)).await }).await
    }

    async fn leave(&self, force: bool) -> Result<(), ApiError> {
        let node = Arc::clone(&self.0);
        to_its_end(async move { node.leave(force).await }).await
    }

    fn engine(&self) -> Arc<dyn LocalEngine> {
        Arc::new(Local(self.0.engine.load_full()))
    }

    fn docker(&self) -> Option<DockerSocket> {
        self.0.docker.as_ref().map(|docker| DockerSocket::of(docker.socket(), docker.about()))
    }

    fn facts(&self) -> Facts {
        let membership = self.0.membership();
        let node_id = membership.as_ref().and_then(|m| m.identity.node_id().parse::<NodeId>().ok());
        let addr = membership.as_ref().map(|m| m.member.advertise_addr.clone()).unwrap_or_default();
        let remote_managers = match self.0.place() {
            Place::Manager(_, control) => {
                let view = control.stale_view();
                let managers = view.nodes().filter(|node| !node.advertise_addr.is_empty());
                managers.map(|node| (node.id, node.advertise_addr.clone())).collect()
            }
            // A worker knows where managers are, not which ids they have.
            Place::Worker(m) => {
                m.agent.managers().into_iter().map(|addr| (NodeId::default(), addr)).collect()
            }
            Place::Nowhere | Place::Broken(_) => Vec::new(),
        };
        Facts {
            node_name: self.0.settings.node_name.clone(),
            n_cpus: machine::n_cpus(),
            memory_bytes: u64::try_from(machine::memory_bytes()).unwrap_or(0),
            kernel: machine::kernel(),
            os: machine::distribution(),
            arch: machine::arch(),
            node_addr: addr.rsplit_once(':').map_or(String::new(), |(host, _)| host.to_owned()),
            node_id,
            remote_managers,
            state_dir: self.0.settings.state_dir.clone(),
            data_path_port: membership.map_or(DATA_PATH_PORT, |m| m.member.data_path_port),
            labels: self.0.settings.labels.iter().map(|(key, value)| format!("{key}={value}")).collect(),
            now: Timestamp(machine::clock()),
        }
    }
}
