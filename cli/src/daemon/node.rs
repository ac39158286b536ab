//! This node: in no swarm, a worker or a manager, and how it moves between these.

use std::{
    net::Ipv4Addr,
    path::PathBuf,
    sync::{Arc, Mutex as StdMutex, PoisonError, atomic::AtomicBool},
};

use anyhow::Context as _;
use arc_swap::ArcSwap;
use async_trait::async_trait;
use skep_agent::{Agent, DockerEngine, StopReason, TaskEngine, runtime};
use skep_api::{
    ApiError, ErrorKind, NodeId, Timestamp,
    object::ingress::DATA_PATH_PORT,
    spec::{InitRequest, JoinBody},
};
use skep_link::Identity;
use skep_manager::{Keys, Manager, ManagerConfig, ManagerError, OpenError, UnlockKey};
use tokio::{
    sync::{Mutex, watch},
    task::JoinHandle,
};

use super::{
    address,
    choice::{self, Kind},
    clash,
    engine::{Local, open_engine},
    listener::{self, Listener},
    lock, machine,
    member::Member,
    role, room,
    settings::Settings,
    stopping,
};
use crate::http::{Backend, DockerSocket, Facts, LocalEngine, RestoreRequest, SwarmState};

/// What this node is.
#[derive(Clone)]
pub(super) enum Place {
    Nowhere,
    /// Became a member and could not come back; the words say why.
    Broken(String),
    /// A manager whose disk is locked: it waits for the unlock key.
    Locked,
    /// Joined as a manager, and is not one of them yet.
    Joining(Membership),
    /// The managers do not take it in; the words say why.
    Refused(Membership, String),
    Worker(Membership),
    Manager(Membership, skep_manager::Control),
    /// A manager that is stopped until its disk has room; the words say so.
    Full(Membership, String),
}

#[derive(Clone)]
pub(super) struct Membership {
    pub(super) agent: Agent,
    pub(super) identity: Identity,
    pub(super) member: Member,
    /// A worker whose port is taken goes on without.
    pub(super) listener: Option<Listener>,
}

/// The daemon's node.
pub(super) struct Node(Arc<Inner>);

pub(super) struct Inner {
    pub(super) settings: Settings,
    engine: ArcSwap<runtime::Engine>,
    /// Runs the tasks in place of the embedded engine.
    pub(super) docker: Option<DockerEngine>,
    place: watch::Sender<Place>,
    /// Held while the node changes its place, with the manager that it runs.
    pub(super) manager: Mutex<Option<Manager>>,
    /// Held while a certificate is asked for and taken into use.
    pub(super) renewing: Mutex<()>,
    /// What the manager's disk is sealed under; None on a worker, and while it is locked.
    pub(super) keys: watch::Sender<Option<Keys>>,
    /// Held while this node is unlocked, or leaves.
    pub(super) unlocking: Mutex<()>,
    /// The certificate in use could not be kept on disk.
    pub(super) unsaved: AtomicBool,
    /// Follows what the store wants of this node.
    role: StdMutex<Option<JoinHandle<()>>>,
    /// Why the managers do not take this worker in among them; empty: nothing is wrong.
    trouble: StdMutex<String>,
    /// A client wants the daemon to stop; whether its host does too.
    asked_to_stop: watch::Sender<Option<bool>>,
}

impl Node {
    /// Starts from what the state directory holds.
    ///
    /// # Errors
    /// What this node cannot serve without; a damaged log, by its file.
    pub(super) async fn start(settings: Settings) -> anyhow::Result<Self> {
        Ok(Self(Inner::start(settings).await?))
    }

    /// Once a client has asked the daemon to stop.
    pub(super) async fn asked_to_stop(&self) {
        let mut asked = self.0.asked_to_stop.subscribe();
        // The sender is in this node.
        let _never = asked.wait_for(Option::is_some).await;
    }

    /// The daemon stops: tasks stay.
    pub(super) async fn stop(&self) {
        let mut slot = self.0.manager.lock().await;
        self.0.keep_role(None);
        let membership = self.0.membership();
        if let Some(membership) = &membership {
            let reason = match *self.0.asked_to_stop.borrow() {
                Some(true) => StopReason::Shutdown,
                Some(false) | None => StopReason::Restart,
            };
            membership.agent.stop(stopping::or_of_host(reason).await).await;
        }
        if let Some(manager) = slot.take() {
            manager.stop().await;
        }
        if let Some(listener) = membership.and_then(|membership| membership.listener) {
            listener.stop().await;
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
    async fn start(settings: Settings) -> anyhow::Result<Arc<Self>> {
        make_private(&settings.state_dir)
            .with_context(|| format!("--state-dir: cannot make {}", settings.state_dir.display()))?;
        let node_id =
            Identity::node_id_in(&settings.state_dir.join("identity")).context("this node's identity")?;
        let member = Member::load(&settings.state_dir)?.map(|member| member.moved(&settings)).transpose()?;
        let engine = open_engine(&settings, node_id.as_deref()).await?;
        let docker = choice::engine(&settings, node_id.as_deref(), &engine).await?;
        let node = Arc::new(Self {
            settings,
            docker,
            engine: ArcSwap::from_pointee(engine),
            place: watch::Sender::new(Place::Nowhere),
            manager: Mutex::new(None),
            renewing: Mutex::new(()),
            keys: watch::Sender::new(None),
            unlocking: Mutex::new(()),
            unsaved: AtomicBool::new(false),
            role: StdMutex::default(),
            trouble: StdMutex::default(),
            asked_to_stop: watch::Sender::new(None),
        });
        if let Some(member) = member
            && let Err(error) = node.come_back(member).await
        {
            // A damaged or foreign log is never served, nor one of a newer build: the daemon ends with what it found.
            if lock::is_fatal(&error) {
                let dir = node.settings.state_dir.display();
                return Err(
                    error.context(format!("see \"skep swarm check {dir}\", which explains each file"))
                );
            }
            // Else served all the same, so that `info` tells and `leave --force` works.
            let words = format!("{error:#}");
            tracing::error!(err = words, "could not come back as a member of the swarm");
            node.set(Place::Broken(words));
        }
        Ok(node)
    }

    pub(super) async fn resume(self: &Arc<Self>, identity: Identity, member: Member) -> anyhow::Result<()> {
        let config = self.manager_config();
        if !Manager::exists(&config) {
            let bound = listener::bind(member.listen_addr).await;
            let membership = self.become_member(identity, member, bound.ok()).await?;
            self.set(Place::Worker(membership.clone()));
            self.keep_role(Some(tokio::spawn(role::follow(self.clone(), membership, None))));
            return Ok(());
        }
        let mut slot = self.manager.lock().await;
        let bound = listener::bind(member.listen_addr).await?;
        let manager = match Manager::open(config, identity.clone()).await {
            Ok(manager) => manager,
            Err(ManagerError::Open(OpenError::NoSpace(why))) => {
                drop(slot);
                let membership = self.become_member(identity, member, Some(bound)).await?;
                tracing::error!(err = %why, "this manager cannot start yet");
                self.set(Place::Full(membership.clone(), room::words(&why)));
                self.keep_role(Some(tokio::spawn(role::follow(self.clone(), membership, None))));
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        let listener = Listener::serve(bound, identity.clone(), manager.routes());
        let agent = self.start_agent(&identity, &member, true).await?;
        let membership = Membership { agent, identity, member, listener: Some(listener.clone()) };
        listener.set(role::routes_of_manager(&manager, &membership));
        // One that was cut off while it came in has no state: it goes on with that.
        let place = if manager.entrance().has_state() {
            Place::Manager(membership.clone(), manager.control())
        } else {
            Place::Joining(membership.clone())
        };
        self.keep_keys(&manager);
        *slot = Some(manager);
        self.set(place);
        self.keep_role(Some(tokio::spawn(role::follow(self.clone(), membership, None))));
        Ok(())
    }

    /// A member that is no manager (yet): its port if it has one, and its agent.
    pub(super) async fn become_member(
        &self,
        identity: Identity,
        member: Member,
        bound: Option<tokio::net::TcpListener>,
    ) -> anyhow::Result<Membership> {
        if bound.is_none() {
            let addr = member.listen_addr;
            tracing::warn!(%addr, "the port is taken: other nodes cannot probe this one, nor can it be promoted");
        }
        let agent = self.start_agent(&identity, &member, bound.is_some()).await?;
        let mut membership = Membership { agent, identity, member, listener: None };
        let routes = role::routes_of_worker(&membership);
        let identity = membership.identity.clone();
        membership.listener = bound.map(|bound| Listener::serve(bound, identity, routes));
        Ok(membership)
    }

    /// Lets `task` follow the role of this node, in the place of an earlier one.
    pub(super) fn keep_role(&self, task: Option<JoinHandle<()>>) {
        let mut role = self.role.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(earlier) = std::mem::replace(&mut *role, task) {
            earlier.abort();
        }
    }

    pub(super) fn place(&self) -> Place {
        self.place.borrow().clone()
    }

    pub(super) fn places(&self) -> watch::Receiver<Place> {
        self.place.subscribe()
    }

    pub(super) fn set(&self, place: Place) {
        self.place.send_replace(place);
    }

    /// The membership as it is now, else as it was.
    pub(super) fn current(&self, was: &Membership) -> Membership {
        self.membership().unwrap_or_else(|| was.clone())
    }

    /// Changes the membership, wherever this node stands with it.
    pub(super) fn amend(&self, change: impl FnOnce(&mut Membership)) {
        self.place.send_modify(|place| match place {
            Place::Nowhere | Place::Broken(_) | Place::Locked => {}
            Place::Joining(membership)
            | Place::Refused(membership, _)
            | Place::Worker(membership)
            | Place::Manager(membership, _)
            | Place::Full(membership, _) => change(membership),
        });
    }

    /// Changes the place if `change` says that it did.
    pub(super) fn turn(&self, change: impl FnOnce(&mut Place) -> bool) {
        self.place.send_if_modified(change);
    }

    /// The managers refuse this one: a join failed, a promotion waits.
    pub(super) async fn refused(&self, words: &str) {
        let _changing = self.manager.lock().await;
        if let Place::Joining(membership) = self.place() {
            self.set(Place::Refused(membership, words.to_owned()));
        }
        self.trouble(words);
    }

    /// What `info` says of a worker beside that it is one.
    pub(super) fn trouble(&self, words: &str) {
        words.clone_into(&mut self.trouble.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub(super) fn membership(&self) -> Option<Membership> {
        match self.place() {
            Place::Joining(membership)
            | Place::Refused(membership, _)
            | Place::Worker(membership)
            | Place::Manager(membership, _)
            | Place::Full(membership, _) => Some(membership),
            Place::Nowhere | Place::Broken(_) | Place::Locked => None,
        }
    }

    pub(super) fn refuse_a_second_swarm(&self) -> Result<(), ApiError> {
        match self.place() {
            Place::Nowhere => Ok(()),
            Place::Broken(_)
            | Place::Locked
            | Place::Joining(_)
            | Place::Refused(..)
            | Place::Worker(_)
            | Place::Manager(..)
            | Place::Full(..) => Err(ApiError::new(
                ErrorKind::Unavailable,
                "This node is already part of a swarm. Use \"docker swarm leave\" to leave this swarm and join another one.",
            )),
        }
    }

    pub(super) fn manager_config(&self) -> ManagerConfig {
        ManagerConfig {
            dir: self.settings.state_dir.join("manager"),
            clock: machine::clock,
            raft_heartbeat: self.settings.raft_heartbeat,
            raft_election: self.settings.raft_election,
            keys: self.keys.borrow().clone(),
        }
    }

    pub(super) async fn start_agent(
        &self,
        identity: &Identity,
        member: &Member,
        is_listening: bool,
    ) -> anyhow::Result<Agent> {
        let (kind, engine) = match &self.docker {
            Some(docker) => (Kind::Docker, TaskEngine::Docker(docker.clone())),
            None => (Kind::Embedded, TaskEngine::Embedded(self.engine_for(&identity.node_id()).await?)),
        };
        choice::remember(&self.settings.state_dir, kind)?;
        let config = skep_agent::Config {
            state_dir: self.settings.state_dir.clone(),
            identity: identity.clone(),
            managers: member.managers.clone(),
            description: (&machine::description(&self.settings, self.docker.as_ref())).into(),
            data_path_addr: member.data_path_addr,
            probe_addr: if is_listening { member.advertise_addr.clone() } else { String::new() },
            node_name: self.settings.node_name.clone(),
            api_socket: self.settings.api_socket.clone(),
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

    pub(super) fn advertised(&self, field: &str, text: &str) -> Result<(Ipv4Addr, Option<u16>), ApiError> {
        let found = address::advertised(field, text)?
            .or_else(|| self.settings.advertise_addr.map(|addr| (addr, None)));
        found.ok_or_else(|| {
            ApiError::invalid(
                "could not choose an IP address to advertise since this system has no default route",
            )
        })
    }

    pub(super) fn data_path(&self, text: &str, advertised: Ipv4Addr) -> Result<Ipv4Addr, ApiError> {
        let asked = address::data_path(text)?;
        Ok(asked.or(self.settings.data_path_addr).unwrap_or(advertised))
    }

    /// Removes what a membership left on disk.
    pub(super) fn wipe(&self) {
        let dir = &self.settings.state_dir;
        self.keys.send_replace(None);
        let mut results = vec![Member::forget(dir), choice::forget(dir)];
        for sub in ["identity", "manager", "manager.new", "manager.before", "agent"] {
            results.push(match std::fs::remove_dir_all(dir.join(sub)) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
                other => other,
            });
        }
        for error in results.into_iter().filter_map(Result::err) {
            tracing::error!(err = %error, "could not remove the state of the left swarm");
        }
    }

    /// A node that could not come back as a member still has the containers of its tasks.
    pub(super) async fn end_tasks_without_an_agent(&self) {
        choice::remove_tasks(self.docker.as_ref(), &self.engine.load_full(), &self.settings.state_dir).await;
    }

    /// A Docker Engine that is in a swarm of its own has ports that this one would need.
    pub(super) async fn check_ports(&self, control: u16, data_path: u32) -> Result<(), ApiError> {
        clash::check(self.docker.as_ref(), control, data_path).await
    }
}

fn make_private(dir: &PathBuf) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::create_dir_all(dir)?;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700))
}

#[async_trait]
impl Backend for Node {
    fn swarm(&self) -> SwarmState {
        match self.0.place() {
            Place::Nowhere => SwarmState::Inactive,
            Place::Broken(words) | Place::Refused(_, words) => SwarmState::Error(words),
            Place::Locked => SwarmState::Locked,
            Place::Joining(_) => SwarmState::Pending,
            Place::Worker(membership) => {
                SwarmState::Worker { node_id: membership.identity.node_id().parse().unwrap_or_default() }
            }
            Place::Manager(_, control) => SwarmState::Manager(Arc::new(control)),
            Place::Full(_, words) => SwarmState::Full(words),
        }
    }

    async fn init(&self, request: InitRequest) -> Result<String, ApiError> {
        let node = Arc::clone(&self.0);
        to_its_end(async move { Box::pin(node.init(request)).await }).await
    }

    async fn restore(&self, request: RestoreRequest) -> Result<String, ApiError> {
        let node = Arc::clone(&self.0);
        to_its_end(async move { Box::pin(node.restore(request)).await }).await
    }

    async fn join(&self, request: JoinBody) -> Result<(), ApiError> {
        let node = Arc::clone(&self.0);
        to_its_end(async move { Box::pin(node.join(request)).await }).await
    }

    async fn leave(&self, force: bool) -> Result<(), ApiError> {
        let node = Arc::clone(&self.0);
        to_its_end(async move { Box::pin(node.leave(force)).await }).await
    }

    async fn unlock(&self, key: UnlockKey) -> Result<(), ApiError> {
        let node = Arc::clone(&self.0);
        to_its_end(async move { Box::pin(node.unlock(key)).await }).await
    }

    fn engine(&self) -> Arc<dyn LocalEngine> {
        Arc::new(Local(self.0.engine.load_full()))
    }

    fn docker(&self) -> Option<DockerSocket> {
        self.0.docker.as_ref().map(|docker| DockerSocket::of(docker.socket(), docker.about()))
    }

    fn stop(&self, host_stops: bool) {
        self.0.asked_to_stop.send_replace(Some(host_stops));
    }

    fn facts(&self) -> Facts {
        let membership = self.0.membership();
        let node_id = membership.as_ref().and_then(|m| m.identity.node_id().parse::<NodeId>().ok());
        let addr = membership.as_ref().map(|m| m.member.advertise_addr.clone()).unwrap_or_default();
        let remote_managers = match self.0.place() {
            Place::Manager(_, control) => {
                let view = control.stale_view();
                let managers =
                    view.nodes().filter(|node| node.raft_id != 0 && !node.advertise_addr.is_empty());
                managers.map(|node| (node.id, node.advertise_addr.clone())).collect()
            }
            // A worker knows where managers are, not which ids they have.
            Place::Worker(m) | Place::Joining(m) | Place::Refused(m, _) | Place::Full(m, _) => {
                m.agent.managers().into_iter().map(|addr| (NodeId::default(), addr)).collect()
            }
            Place::Nowhere | Place::Broken(_) | Place::Locked => Vec::new(),
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
            generic: self.0.settings.generic.clone(),
            labels: self.0.settings.labels.iter().map(|(key, value)| format!("{key}={value}")).collect(),
            now: Timestamp(machine::clock()),
            trouble: self.0.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }
}
