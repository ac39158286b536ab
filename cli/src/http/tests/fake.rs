//! A backend without a daemon: the replicated store alone, tasks run as soon as they are wanted.

mod engine;

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use skep_api::{
    ApiError, ClusterId, ErrorKind, Id, NetworkId, NodeId, Secret, ServiceId, TaskId, TaskState, Timestamp,
    id::{IdSource, SeededIds},
    object::{Cluster, Network, Node, NodeState, Service, Task, UpdateState, UpdateStatus},
    spec::{Availability, InitRequest, JoinBody, NetworkSpec, NodeSpec, Role, ServiceSpec, SwarmSpec},
};
use skep_manager::{
    CreatedNetwork, CreatedService, LogItem, LogQuery, ManagerStatus, RegistryAuth, RollOut, Rotation,
    UnlockKey, View,
    recovery::{
        Preview,
        backup::{self, Sealed, Title},
    },
};
use skep_store::{Change, Proposal, Store, decode_result};
use tokio::{net::UnixListener, sync::mpsc};
use tokio_util::sync::CancellationToken;

use crate::http::{Backend, ControlPlane, Facts, LocalEngine, RestoreRequest, SwarmState, serve};
use engine::FakeEngine;

/// 2026-11-21, an hour before the objects of the tests are looked at.
const START: Timestamp = Timestamp(1_795_219_200_000_000_000);

/// A cluster in memory.
#[derive(Clone)]
pub(crate) struct FakeControl {
    store: Arc<Mutex<Store>>,
    ids: Arc<Mutex<SeededIds>>,
    /// A node was demoted: its managers write to it once more, and a drain that comes then is late.
    demoted: Arc<AtomicBool>,
}

impl FakeControl {
    fn new() -> Self {
        let ids = Arc::new(Mutex::new(SeededIds(7)));
        let control = Self { store: Arc::default(), ids, demoted: Arc::default() };
        let cluster = Cluster {
            id: ClusterId(control.id()),
            ca_cert_pem: "not a certificate".into(),
            worker_token_secret: "w".repeat(25),
            manager_token_secret: "m".repeat(25),
            data_path_port: 4789,
            default_addr_pool: vec!["10.0.0.0/8".into()],
            subnet_size: 24,
            ..Cluster::default()
        };
        let mut changes = vec![Change::PutCluster(Arc::new(cluster))];
        for (name, role) in [("alpha", Role::Manager), ("beta", Role::Worker)] {
            let mut node = Node { id: NodeId(control.id()), ..Node::default() };
            node.spec.role = role;
            node.description.hostname = name.into();
            node.description.os = "linux".into();
            node.description.arch = "x86_64".into();
            node.description.engine_version = "0.1.0".into();
            node.description.nano_cpus = 2_000_000_000;
            node.description.memory_bytes = 4 << 30;
            node.status.addr = "10.9.0.1".into();
            if role == Role::Manager {
                node.advertise_addr = "10.9.0.1:2377".into();
            }
            let mut status = node.status.clone();
            status.state = NodeState::Ready;
            changes.extend([Change::PutNode(Arc::new(node.clone())), Change::NodeStatus(node.id, status)]);
        }
        control.apply(changes).unwrap();
        control
    }

    fn id(&self) -> Id {
        self.ids.lock().unwrap().next_id()
    }

    fn apply(&self, changes: Vec<Change>) -> Result<u64, ApiError> {
        let proposal = Proposal { changes, now: START, ..Proposal::default() };
        let answer = self.store.lock().unwrap().apply(&proposal.encode()).answer;
        decode_result(&answer).map_err(|error| ApiError::new(ErrorKind::AlreadyExists, error.to_string()))
    }

    /// Where tasks go: a worker, or what there is.
    fn worker(&self) -> Option<NodeId> {
        let view = self.stale_view();
        let active = view.nodes().filter(|node| node.spec.availability == Availability::Active);
        active.max_by_key(|node| node.spec.role == Role::Worker).map(|node| node.id)
    }

    /// Takes the tasks off a drained node.
    fn drain(&self, node: NodeId) {
        let view = self.stale_view();
        let mut changes = Vec::new();
        for task in view.tasks().filter(|task| task.node_id == Some(node) && task.is_runnable()) {
            let mut old = Task::clone(task);
            old.desired_state = TaskState::Shutdown;
            old.status.state = TaskState::Shutdown;
            changes.push(Change::PutTask(Arc::new(old)));
        }
        self.apply(changes).unwrap();
        for service in view.services() {
            self.reconcile(service.id);
        }
    }

    /// Puts the service's tasks where its spec wants them, at once.
    fn reconcile(&self, id: ServiceId) {
        let view = self.stale_view();
        let service = view.service(id).unwrap();
        let mut changes = Vec::new();
        for task in view.tasks_of_service(id).filter(|task| task.is_runnable()) {
            let stale = task.spec_version != service.spec_version || task.slot > service.spec.replicas();
            if stale {
                let mut old = Task::clone(task);
                old.desired_state = TaskState::Shutdown;
                old.status.state = TaskState::Shutdown;
                old.status.timestamp = START;
                changes.push(Change::PutTask(Arc::new(old)));
            }
        }
        let kept: Vec<u64> = view
            .tasks_of_service(id)
            .filter(|task| task.is_runnable() && task.spec_version == service.spec_version)
            .map(|task| task.slot)
            .collect();
        for slot in (1..=service.spec.replicas()).filter(|slot| !kept.contains(slot)) {
            let mut task = Task::new(TaskId(self.id()), service, slot);
            task.node_id = self.worker();
            task.status.state = TaskState::Running;
            if task.node_id.is_none() {
                task.status.state = TaskState::Pending;
                task.status.err = "no suitable node (2 nodes not available for new tasks)".into();
            }
            task.status.timestamp = START;
            task.status.message = "started".into();
            task.status.container_id = format!("{:064x}", slot).into();
            changes.push(Change::PutTask(Arc::new(task)));
        }
        self.apply(changes).unwrap();
    }
}

#[async_trait]
impl ControlPlane for FakeControl {
    async fn view(&self) -> Result<View, ApiError> {
        Ok(self.stale_view())
    }

    fn stale_view(&self) -> View {
        self.store.lock().unwrap().view()
    }

    async fn backup(&self, key: Secret) -> Result<mpsc::Receiver<std::io::Result<Bytes>>, ApiError> {
        let (give, pieces) = mpsc::channel(2);
        let mut bytes = Vec::new();
        let store = self.store.lock().unwrap().clone();
        backup::write(&mut bytes, &store, &Title::of(&store.view(), 7, START.0, Sealed::Key), &key).unwrap();
        give.try_send(Ok(bytes.into())).unwrap();
        Ok(pieces)
    }

    fn preview(&self) -> Preview {
        Preview { last_entry: 7, ..Preview::default() }
    }
    fn warnings(&self) -> Vec<String> {
        Vec::new()
    }

    async fn create_service(
        &self,
        spec: ServiceSpec,
        registry_auth: Secret,
    ) -> Result<CreatedService, ApiError> {
        let id = ServiceId(self.id());
        let mut ports = spec.ports().to_vec();
        for port in &mut ports {
            if port.published_port == 0 {
                port.published_port = 30_000;
            }
        }
        self.apply(vec![Change::PutService(Arc::new(Service {
            id,
            ports: ports.into(),
            spec: Arc::new(spec),
            registry_auth,
            ..Service::default()
        }))])?;
        self.reconcile(id);
        Ok(CreatedService { id, warnings: Vec::new() })
    }

    async fn update_service(
        &self,
        id: ServiceId,
        version: u64,
        spec: Option<ServiceSpec>,
        _auth: RegistryAuth,
    ) -> Result<Vec<String>, ApiError> {
        let mut service = Service::clone(self.stale_view().service(id).unwrap());
        if service.meta.version != version {
            let words = "rpc error: code = Unknown desc = update out of sequence";
            return Err(ApiError::new(ErrorKind::Aborted, words));
        }
        let (state, next) = match (spec, service.previous_spec.clone()) {
            (Some(spec), _) => (None, Arc::new(spec)),
            (None, Some(previous)) => (Some(UpdateState::RollbackCompleted), previous),
            (None, None) => {
                let words = format!("service {id} does not have a previous spec");
                return Err(ApiError::new(ErrorKind::FailedPrecondition, words));
            }
        };
        service.history = service.history_before(&next, START);
        service.previous_spec = Some(std::mem::replace(&mut service.spec, next));
        service.update_status = state.map(|state| UpdateStatus {
            completed_at: Some(START),
            ..UpdateStatus::new(state, START, "rollback completed")
        });
        self.apply(vec![Change::PutService(Arc::new(service))])?;
        self.reconcile(id);
        Ok(Vec::new())
    }

    async fn roll_out(&self, id: ServiceId, version: u64, what: RollOut) -> Result<(), ApiError> {
        let mut service = Service::clone(self.stale_view().service(id).unwrap());
        assert_eq!(service.meta.version, version);
        let state = match what {
            RollOut::Pause => UpdateState::Paused,
            RollOut::Resume => UpdateState::Completed,
            RollOut::Abort | RollOut::BackTo(_) => UpdateState::RollbackCompleted,
        };
        service.update_status = Some(UpdateStatus::new(state, START, format!("{what:?}")));
        self.apply(vec![Change::PutService(Arc::new(service))]).map(drop)
    }

    async fn remove_service(&self, id: ServiceId) -> Result<(), ApiError> {
        let tasks = self.stale_view().tasks_of_service(id).map(|task| Change::DeleteTask(task.id)).collect();
        self.apply(tasks)?;
        self.apply(vec![Change::DeleteService(id)]).map(|_| ())
    }

    async fn create_network(&self, spec: NetworkSpec) -> Result<CreatedNetwork, ApiError> {
        let id = NetworkId(self.id());
        self.apply(vec![Change::PutNetwork(Arc::new(Network { id, spec, ..Network::default() }))])?;
        Ok(CreatedNetwork { id, warning: String::new() })
    }

    async fn remove_network(&self, id: NetworkId) -> Result<(), ApiError> {
        self.apply(vec![Change::DeleteNetwork(id)]).map(|_| ())
    }

    async fn update_cluster(
        &self,
        version: u64,
        spec: SwarmSpec,
        rotation: Rotation,
    ) -> Result<(), ApiError> {
        skep_api::validate::swarm(&spec)?;
        let mut cluster = Cluster::clone(self.stale_view().cluster().unwrap());
        if cluster.meta.version != version {
            let words = "rpc error: code = Unknown desc = update out of sequence";
            return Err(ApiError::new(ErrorKind::Aborted, words));
        }
        cluster.spec = cluster.spec.merged(&spec);
        for (asked, secret) in [
            (rotation.worker, &mut cluster.worker_token_secret),
            (rotation.manager, &mut cluster.manager_token_secret),
        ] {
            if asked {
                *secret = self.id().to_string();
            }
        }
        if !cluster.spec.autolock() {
            cluster.unlock_key = Secret::default();
        } else if cluster.unlock_key.is_empty() || rotation.unlock_key {
            cluster.unlock_key = Secret::new(vec![7; 32]);
        }
        self.apply(vec![Change::PutCluster(Arc::new(cluster))]).map(|_| ())
    }

    async fn unlock_key(&self) -> Result<String, ApiError> {
        let view = self.stale_view();
        let key = &view.cluster().unwrap().unlock_key;
        let text = || skep_manager::unlock_key_text(&UnlockKey::new(key.reveal()));
        Ok(if key.is_empty() { String::new() } else { text() })
    }

    async fn update_node(&self, id: NodeId, _version: u64, spec: NodeSpec) -> Result<(), ApiError> {
        let is_last = self.stale_view().nodes().filter(|node| node.spec.role == Role::Manager).count() == 1;
        if is_last && id == self.node_id() && spec.role == Role::Worker {
            let words = "rpc error: code = FailedPrecondition desc = attempting to demote the last manager of the swarm";
            return Err(ApiError::new(ErrorKind::FailedPrecondition, words));
        }
        let is_drained = spec.availability == Availability::Drain;
        if self.demoted.swap(false, Ordering::Relaxed) && is_drained {
            let words = "rpc error: code = Unknown desc = update out of sequence";
            return Err(ApiError::new(ErrorKind::Aborted, words));
        }
        let before = Node::clone(self.stale_view().node(id).unwrap());
        let is_demoted = before.spec.role == Role::Manager && spec.role == Role::Worker;
        self.demoted.fetch_or(is_demoted, Ordering::Relaxed);
        let node = Node { spec, ..before };
        self.apply(vec![Change::PutNode(Arc::new(node))])?;
        if is_drained {
            self.drain(id);
        }
        Ok(())
    }

    async fn remove_node(&self, id: NodeId, force: bool) -> Result<(), ApiError> {
        if !force {
            let words = format!(
                "rpc error: code = FailedPrecondition desc = node {id} is not down and can't be removed"
            );
            return Err(ApiError::new(ErrorKind::FailedPrecondition, words));
        }
        self.apply(vec![Change::DeleteNode(id)]).map(|_| ())
    }

    async fn logs(&self, tasks: Vec<TaskId>, query: LogQuery) -> Result<mpsc::Receiver<LogItem>, ApiError> {
        let (lines, receiver) = mpsc::channel(64);
        let time = START.0;
        tokio::spawn(async move {
            for task in &tasks {
                let line =
                    |stderr, text: &str| LogItem::Line { task: *task, time, stderr, data: text.into() };
                lines.send(line(false, "hello\n")).await.unwrap();
                lines.send(line(true, "oh no\n")).await.unwrap();
            }
            lines
                .send(LogItem::Warning("warning: incomplete log stream: node beta is not there".into()))
                .await
                .unwrap();
            if query.follow {
                lines.closed().await;
            }
        });
        Ok(receiver)
    }

    fn node_id(&self) -> NodeId {
        self.stale_view().nodes().find(|node| node.description.hostname == "alpha").unwrap().id
    }

    fn manager_status(&self, node: &Node) -> Option<ManagerStatus> {
        let addr = node.advertise_addr.clone();
        let leader = node.id == self.node_id();
        (node.spec.role == Role::Manager).then_some(ManagerStatus { leader, reachable: true, addr })
    }
}

/// A node in memory.
pub(crate) struct FakeBackend {
    swarm: Mutex<SwarmState>,
    /// Ends its server.
    stop: CancellationToken,
}

impl FakeBackend {
    pub(crate) fn new(swarm: SwarmState, stop: CancellationToken) -> Self {
        Self { swarm: Mutex::new(swarm), stop }
    }
}

#[async_trait]
impl Backend for FakeBackend {
    fn swarm(&self) -> SwarmState {
        self.swarm.lock().unwrap().clone()
    }

    async fn init(&self, request: InitRequest) -> Result<String, ApiError> {
        let control = FakeControl::new();
        if request.auto_lock_managers {
            let version = control.stale_view().cluster().unwrap().meta.version;
            control.update_cluster(version, request.spec.with_autolock(), Rotation::default()).await?;
        }
        let id = control.node_id().to_string();
        *self.swarm.lock().unwrap() = SwarmState::Manager(Arc::new(control));
        Ok(id)
    }

    async fn restore(&self, request: RestoreRequest) -> Result<String, ApiError> {
        backup::read(&request.path, &request.key).map_err(|error| ApiError::invalid(error.to_string()))?;
        self.init(InitRequest::default()).await
    }

    async fn join(&self, request: JoinBody) -> Result<(), ApiError> {
        if request.join_token.is_empty() {
            return Err(ApiError::invalid("invalid join token"));
        }
        *self.swarm.lock().unwrap() = SwarmState::Worker { node_id: NodeId(Id(5)) };
        Ok(())
    }

    async fn leave(&self, force: bool) -> Result<(), ApiError> {
        if !force && matches!(self.swarm(), SwarmState::Manager(_)) {
            return Err(ApiError::new(
                ErrorKind::Unavailable,
                "You are attempting to leave the swarm on a manager.",
            ));
        }
        *self.swarm.lock().unwrap() = SwarmState::Inactive;
        Ok(())
    }

    async fn unlock(&self, key: UnlockKey) -> Result<(), ApiError> {
        if key.reveal() != [7; 32] {
            let words = "swarm could not be unlocked: invalid key provided";
            return Err(ApiError::new(ErrorKind::Unauthenticated, words));
        }
        *self.swarm.lock().unwrap() = SwarmState::Manager(Arc::new(FakeControl::new()));
        Ok(())
    }

    fn engine(&self) -> Arc<dyn LocalEngine> {
        Arc::new(FakeEngine)
    }

    fn stop(&self, _host_stops: bool) {
        self.stop.cancel();
    }

    fn facts(&self) -> Facts {
        let (node_id, remote_managers) = match self.swarm() {
            SwarmState::Manager(control) => {
                let id = control.node_id();
                (Some(id), vec![(id, "10.9.0.1:2377".to_owned())])
            }
            SwarmState::Worker { node_id } => (Some(node_id), Vec::new()),
            SwarmState::Inactive
            | SwarmState::Locked
            | SwarmState::Pending
            | SwarmState::Error(_)
            | SwarmState::Full(_) => (None, Vec::new()),
        };
        Facts {
            node_name: "alpha".into(),
            n_cpus: 2,
            memory_bytes: 4 << 30,
            kernel: "6.1.0".into(),
            os: "Debian GNU/Linux 12".into(),
            arch: "x86_64".into(),
            node_addr: "10.9.0.1".into(),
            node_id,
            remote_managers,
            state_dir: PathBuf::from("/var/lib/skep"),
            data_path_port: 4789,
            generic: Vec::new(),
            labels: Vec::new(),
            now: Timestamp(START.0 + 3_600_000_000_000),
            trouble: String::new(),
        }
    }
}

/// A server on a socket of its own, stopped when dropped.
pub(crate) struct Running {
    directory: tempfile::TempDir,
    stop: CancellationToken,
}

impl Running {
    pub(crate) fn start(swarm: SwarmState) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("s")).unwrap();
        let stop = CancellationToken::new();
        let backend = FakeBackend::new(swarm, stop.clone());
        tokio::spawn(serve(listener, Arc::new(backend), stop.clone().cancelled_owned()));
        Self { directory, stop }
    }

    pub(crate) fn manager() -> Self {
        Self::start(SwarmState::Manager(Arc::new(FakeControl::new())))
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("s")
    }

    /// An empty home for clients.
    pub(crate) fn home(&self) -> &Path {
        self.directory.path()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
