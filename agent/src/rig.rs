//! Fakes of engine and network, and a worker on top of them: what the tests of this crate stand on.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures::{StreamExt, future::BoxFuture, stream::BoxStream};
use skep_api::{Id, Secret, TaskId, TaskState, wire};
use tokio::{
    sync::{Semaphore, mpsc, oneshot, watch},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;

use crate::{
    board::Board,
    engine::{Container, ContainerState, Engine, EngineError, Exit, Image, LogLine, LogWindow, NewContainer},
    network::{Attach, Attached, Network, NetworkError},
    records::Records,
    reporter::Reporter,
    task::{
        container::{NODE_ID_LABEL, TASK_ID_LABEL, container_id},
        runner::{Host, STARTS_MAX},
    },
    worker::{Command, Worker},
};

/// Whatever a test waits for comes within this, of paused or of real time.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);
pub(crate) const NODE: &str = "0000000000000000000000node";
pub(crate) const IMAGE: &str = "app:1";

/// Each call is one nanosecond later.
pub(crate) fn clock() -> i64 {
    static NOW: AtomicI64 = AtomicI64::new(1_000);
    NOW.fetch_add(1, Ordering::Relaxed)
}

pub(crate) fn task(n: u128) -> TaskId {
    TaskId(Id(n))
}

/// An assignment of a task to run [`IMAGE`].
pub(crate) fn assignment(task: TaskId, desired: TaskState) -> wire::Assignment {
    wire::Assignment {
        task_id: task.to_bytes(),
        service_id: vec![9; 16],
        service_name: "web".into(),
        slot: 1,
        spec: format!(r#"{{"ContainerSpec":{{"Image":"{IMAGE}"}}}}"#).into_bytes(),
        desired_state: desired.number(),
        state: TaskState::Assigned.number(),
        ..Default::default()
    }
}

/// The same behind a published port.
pub(crate) fn in_mesh(task: TaskId, desired: TaskState) -> wire::Assignment {
    wire::Assignment {
        ports: vec![port("ingress", 8080)],
        ingress_addr: u32::from(Ipv4Addr::new(10, 255, 0, 2)),
        ingress_prefix: 16,
        ..assignment(task, desired)
    }
}

pub(crate) fn port(mode: &str, published: u32) -> wire::Port {
    wire::Port { protocol: "tcp".into(), target: 80, published, mode: mode.into(), ..Default::default() }
}

pub(crate) fn set(complete: bool, put: Vec<wire::Assignment>) -> wire::AssignmentSet {
    wire::AssignmentSet { complete, put, ..Default::default() }
}

/// What a fake engine's containers do.
#[derive(Debug, Clone)]
pub(crate) struct Ways {
    pub(crate) create_error: Option<String>,
    pub(crate) start_error: Option<String>,
    /// How long making one takes.
    pub(crate) create_time: Duration,
    pub(crate) pull_time: Duration,
    /// The code with which a container ends when signalled to stop; `None`: it does not listen.
    pub(crate) stops_with: Option<i32>,
    pub(crate) stop_signal: Option<String>,
    /// Until then it neither signals nor removes anything.
    pub(crate) away_until: Option<Instant>,
}

/// Labels and state.
pub(crate) type FakeContainer = (BTreeMap<String, String>, watch::Sender<ContainerState>);

#[derive(Debug, Default)]
pub(crate) struct FakeEngine {
    pub(crate) ways: Mutex<Ways>,
    pub(crate) containers: Mutex<BTreeMap<String, FakeContainer>>,
    /// What was asked, in order.
    pub(crate) calls: Arc<Mutex<Vec<String>>>,
    pulled: Mutex<BTreeSet<String>>,
    creating: AtomicUsize,
    pub(crate) creating_most: AtomicUsize,
}

impl Default for Ways {
    fn default() -> Self {
        Self {
            create_error: None,
            start_error: None,
            create_time: Duration::ZERO,
            pull_time: Duration::ZERO,
            stops_with: Some(0),
            stop_signal: None,
            away_until: None,
        }
    }
}

fn failed(words: &str) -> EngineError {
    EngineError::Failed(words.into())
}

impl FakeEngine {
    fn called(&self, call: impl Into<String>) {
        self.calls.lock().unwrap().push(call.into());
    }

    /// A container as an earlier daemon left it.
    pub(crate) fn leave(&self, task: TaskId, state: ContainerState) {
        let labels = BTreeMap::from([
            (TASK_ID_LABEL.to_owned(), task.to_string()),
            (NODE_ID_LABEL.to_owned(), NODE.to_owned()),
        ]);
        self.containers.lock().unwrap().insert(container_id(task), (labels, watch::Sender::new(state)));
    }

    /// The container ends by itself.
    pub(crate) fn end(&self, task: TaskId, code: i32, oom_killed: bool) {
        let exit = Exit { code, oom_killed, error: None };
        let containers = self.containers.lock().unwrap();
        containers[&container_id(task)].1.send_replace(ContainerState::Exited(exit));
    }

    pub(crate) fn state(&self, task: TaskId) -> Option<ContainerState> {
        self.containers.lock().unwrap().get(&container_id(task)).map(|(_, state)| state.borrow().clone())
    }

    fn is_there(&self) -> Result<(), EngineError> {
        let until = self.ways.lock().unwrap().away_until;
        if until.is_some_and(|until| Instant::now() < until) { Err(failed("away")) } else { Ok(()) }
    }

    fn sender(&self, id: &str) -> Result<watch::Sender<ContainerState>, EngineError> {
        let containers = self.containers.lock().unwrap();
        containers.get(id).map(|(_, state)| state.clone()).ok_or_else(|| failed("no such container"))
    }
}

#[async_trait]
impl Engine for FakeEngine {
    async fn find_image(&self, image: &str) -> Result<Option<Image>, EngineError> {
        let stop_signal = self.ways.lock().unwrap().stop_signal.clone();
        let is_here = image == IMAGE || self.pulled.lock().unwrap().contains(image);
        Ok(is_here.then_some(Image { stop_signal }))
    }

    async fn pull(&self, image: &str, auth: &Secret) -> Result<(), EngineError> {
        self.called(format!("pull {image}"));
        let time = self.ways.lock().unwrap().pull_time;
        sleep(time).await;
        if auth.reveal() != b"let me in" {
            return Err(EngineError::NotPulled { image: image.to_owned(), reason: "not for you".into() });
        }
        self.called("pulled");
        self.pulled.lock().unwrap().insert(image.to_owned());
        Ok(())
    }

    async fn create(&self, container: NewContainer) -> Result<(), EngineError> {
        self.called("create");
        let now = self.creating.fetch_add(1, Ordering::SeqCst) + 1;
        self.creating_most.fetch_max(now, Ordering::SeqCst);
        let ways = self.ways.lock().unwrap().clone();
        sleep(ways.create_time).await;
        self.creating.fetch_sub(1, Ordering::SeqCst);
        if let Some(words) = ways.create_error {
            return Err(failed(&words));
        }
        let state = watch::Sender::new(ContainerState::Created);
        self.containers.lock().unwrap().insert(container.id, (container.labels, state));
        Ok(())
    }

    async fn start(&self, id: &str) -> Result<u32, EngineError> {
        self.called("start");
        if let Some(words) = self.ways.lock().unwrap().start_error.clone() {
            return Err(failed(&words));
        }
        let before = self.sender(id)?.send_replace(ContainerState::Running { pid: 42 });
        assert_eq!(before, ContainerState::Created, "a container is started once");
        Ok(42)
    }

    fn wait(&self, id: &str) -> BoxFuture<'static, Result<Exit, EngineError>> {
        let state = self.sender(id).map(|state| state.subscribe());
        Box::pin(async move {
            let mut state = state?;
            let ended = state.wait_for(|state| matches!(state, ContainerState::Exited(_))).await;
            match ended.map(|state| state.clone()) {
                Ok(ContainerState::Exited(exit)) => Ok(exit),
                Ok(ContainerState::Created | ContainerState::Running { .. }) | Err(_) => Err(failed("gone")),
            }
        })
    }

    async fn kill(&self, id: &str, signal: i32) -> Result<(), EngineError> {
        self.called(format!("kill {signal}"));
        self.is_there()?;
        let listens = self.ways.lock().unwrap().stops_with;
        if let Some(code) = if signal == 9 { Some(137) } else { listens } {
            let exit = Exit { code, oom_killed: false, error: None };
            self.sender(id)?.send_replace(ContainerState::Exited(exit));
        }
        Ok(())
    }

    async fn remove(&self, id: &str) -> Result<(), EngineError> {
        self.called("remove");
        self.is_there()?;
        self.containers.lock().unwrap().remove(id);
        Ok(())
    }

    async fn list(&self) -> Result<Vec<Container>, EngineError> {
        let containers = self.containers.lock().unwrap();
        Ok(containers
            .iter()
            .map(|(id, (labels, state))| Container {
                id: id.clone(),
                labels: labels.clone(),
                state: state.borrow().clone(),
            })
            .collect())
    }

    async fn logs(&self, id: &str, window: LogWindow) -> Result<BoxStream<'static, LogLine>, EngineError> {
        let (lines, read) = mpsc::channel(4);
        let mut ended = self.sender(id)?.subscribe();
        tokio::spawn(async move {
            for n in 0..window.tail.unwrap_or(1000) {
                let data = format!("line {n}\n").into_bytes();
                let line = LogLine { time: 7, stderr: n % 2 == 1, data };
                if lines.send(line).await.is_err() {
                    return;
                }
            }
            if window.follow {
                tokio::select! {
                    _ = ended.wait_for(|state| matches!(state, ContainerState::Exited(_))) => {}
                    () = lines.closed() => {}
                }
            }
        });
        Ok(ReceiverStream::new(read).boxed())
    }
}

#[derive(Debug, Default)]
pub(crate) struct FakeNetwork {
    pub(crate) attached: Mutex<BTreeSet<TaskId>>,
    pub(crate) attach_error: Mutex<Option<String>>,
    /// Revisions applied, in order.
    pub(crate) applied: Mutex<Vec<u64>>,
    /// Shared with the engine's, so that their order can be seen.
    pub(crate) calls: Arc<Mutex<Vec<String>>>,
}

#[async_trait]
impl Network for FakeNetwork {
    async fn attach(&self, task: TaskId, attach: Attach) -> Result<Attached, NetworkError> {
        let found = if attach.pid.is_some() { " found" } else { "" };
        self.calls.lock().unwrap().push(format!("attach{found}"));
        if let Some(words) = self.attach_error.lock().unwrap().clone() {
            return Err(NetworkError(words));
        }
        self.attached.lock().unwrap().insert(task);
        let netns = PathBuf::from("/netns").join(task.to_string());
        Ok(Attached { netns, bridge_addr: Ipv4Addr::new(172, 30, 0, 2), host_ports: attach.host_ports })
    }

    async fn detach(&self, task: TaskId) -> Result<(), NetworkError> {
        self.calls.lock().unwrap().push("detach".to_owned());
        self.attached.lock().unwrap().remove(&task);
        Ok(())
    }

    async fn attached(&self) -> Result<Vec<TaskId>, NetworkError> {
        Ok(self.attached.lock().unwrap().iter().copied().collect())
    }

    async fn apply(&self, mesh: &wire::MeshState) -> Result<(), NetworkError> {
        self.applied.lock().unwrap().push(mesh.revision);
        Ok(())
    }

    async fn teardown(&self) -> Result<(), NetworkError> {
        self.calls.lock().unwrap().push("teardown".to_owned());
        Ok(())
    }
}

/// An engine and a network that write into the same list of calls.
pub(crate) fn fakes() -> (Arc<FakeEngine>, Arc<FakeNetwork>) {
    let engine = Arc::new(FakeEngine::default());
    let network = FakeNetwork { calls: Arc::clone(&engine.calls), ..FakeNetwork::default() };
    (engine, Arc::new(network))
}

/// What an earlier daemon wrote down.
pub(crate) type Remembered = BTreeMap<TaskId, (wire::Assignment, Option<wire::TaskStatus>)>;

/// A worker without a session.
#[derive(Debug)]
pub(crate) struct Rig {
    pub(crate) engine: Arc<FakeEngine>,
    pub(crate) network: Arc<FakeNetwork>,
    pub(crate) host: Arc<Host>,
    pub(crate) board: Arc<Board>,
    pub(crate) commands: mpsc::Sender<Command>,
    _dir: tempfile::TempDir,
    _worker: JoinSet<()>,
}

impl Rig {
    pub(crate) async fn new() -> Self {
        let (engine, network) = fakes();
        Self::adopting(engine, network, Remembered::new()).await
    }

    pub(crate) async fn adopting(
        engine: Arc<FakeEngine>,
        network: Arc<FakeNetwork>,
        remembered: Remembered,
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (records, _) = Records::open(dir.path(), NODE, 1).unwrap();
        let host = Arc::new(Host {
            engine: Arc::clone(&engine) as Arc<dyn Engine>,
            network: Arc::clone(&network) as Arc<dyn Network>,
            reporter: Reporter::default(),
            records: Arc::new(records),
            clock,
            node_id: NODE.to_owned(),
            node_name: "name-of-node".to_owned(),
            starts: Arc::new(Semaphore::new(STARTS_MAX)),
            mesh_applied: watch::Sender::new(1),
            has_ingress: watch::Sender::new(true),
        });
        let board = Arc::new(Board::default());
        let mut worker = Worker::new(Arc::clone(&host), Arc::clone(&board));
        let containers = crate::agent::ours(engine.list().await.unwrap(), NODE);
        worker.adopt(remembered, containers).await;
        let (commands, told) = mpsc::channel(16);
        let mut parts = JoinSet::new();
        parts.spawn(worker.run(told));
        Self { engine, network, host, board, commands, _dir: dir, _worker: parts }
    }

    pub(crate) async fn assign(&self, set: wire::AssignmentSet) {
        self.commands.send(Command::Assign(set)).await.unwrap();
    }

    pub(crate) async fn put(&self, assignment: wire::Assignment) {
        self.assign(set(false, vec![assignment])).await;
    }

    pub(crate) async fn remove(&self, task: TaskId) {
        let remove = vec![task.to_bytes()];
        self.assign(wire::AssignmentSet { remove, ..Default::default() }).await;
    }

    /// The task's status once it has come so far.
    pub(crate) async fn until(&self, task: TaskId, state: TaskState) -> wire::TaskStatus {
        let reached = async {
            let mut status = loop {
                match self.board.status(task) {
                    Some(status) => break status,
                    None => tokio::task::yield_now().await,
                }
            };
            status.wait_for(|status| status.state >= state.number()).await.unwrap().clone()
        };
        let status = timeout(LIMIT, reached).await.unwrap();
        assert_eq!(TaskState::from_number(status.state), Some(state), "{status:?}");
        status
    }

    /// Waits for a condition; the worker and its runners go on meanwhile.
    pub(crate) async fn when(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        let met = async {
            while !condition(self) {
                sleep(Duration::from_millis(1)).await;
            }
        };
        assert!(timeout(LIMIT, met).await.is_ok(), "never: {what}; calls {:?}", self.calls());
    }

    pub(crate) fn calls(&self) -> Vec<String> {
        self.engine.calls.lock().unwrap().clone()
    }

    pub(crate) async fn command(&self, command: impl FnOnce(oneshot::Sender<()>) -> Command) {
        let (done, answer) = oneshot::channel();
        self.commands.send(command(done)).await.unwrap();
        timeout(LIMIT, answer).await.unwrap().unwrap();
    }
}
