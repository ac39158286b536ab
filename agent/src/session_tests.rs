//! Whole agents on fake engines, against a manager of the test's own over real mTLS.

use std::{
    path::Path,
    pin::Pin,
    sync::atomic::{AtomicU32, Ordering},
    time::SystemTime,
};

use skep_api::{
    ClusterId, Id, NodeId, TaskId, TaskState as T,
    wire::{manager_message::Message, stopping_request::Reason},
};
use skep_link::{
    Authority, Role, new_csr,
    stubs::dispatcher_server::{Dispatcher, DispatcherServer},
};
use tokio::{net::TcpListener, task::JoinSet};
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, service::Routes};

use super::*;
use crate::{
    Agent, Config, StopReason,
    agent::Parts,
    rig::{FakeEngine, FakeNetwork, assignment, clock, fakes, task},
};

#[path = "session_certificate_tests.rs"]
mod certificates;
#[path = "session_log_tests.rs"]
mod logs;

const LIMIT: Duration = Duration::from_secs(10);
const WORKER: NodeId = NodeId(Id(7));

fn identity(authority: &Authority, node: NodeId, role: Role, now: i64) -> Identity {
    let (csr, key) = new_csr().unwrap();
    let cluster = ClusterId(Id(42)).to_string();
    let cert = authority.sign_node(&csr, &node.to_string(), role, &cluster, now).unwrap();
    Identity::new(cert, key, authority.cert_pem()).unwrap()
}

#[expect(clippy::disallowed_methods, reason = "certificates are checked against the real time")]
fn unix_now() -> i64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    i64::try_from(now).unwrap()
}

/// One session as the manager has it.
struct Talk {
    incoming: Streaming<wire::AgentMessage>,
    outgoing: mpsc::Sender<Result<wire::ManagerMessage, Status>>,
}

impl Talk {
    async fn say(&self, message: Message) {
        self.outgoing.send(Ok(wire::ManagerMessage { message: Some(message) })).await.unwrap();
    }

    /// The next message; `None` once the agent has ended the session.
    async fn hear(&mut self) -> Option<Out> {
        match timeout(LIMIT, self.incoming.message()).await.expect("the agent says something") {
            Ok(Some(message)) => message.message,
            Ok(None) | Err(_) => None,
        }
    }

    async fn hello(&mut self) -> wire::Hello {
        match self.hear().await {
            Some(Out::Hello(hello)) => hello,
            other => panic!("hello expected, not {other:?}"),
        }
    }

    async fn welcome(&self, beat_ms: u32) {
        self.say(Message::Welcome(wire::Welcome { beat_ms, ..Default::default() })).await;
    }

    async fn assign(&self, complete: bool, applies_to: u64, results_in: u64, put: Vec<wire::Assignment>) {
        let set = wire::AssignmentSet { complete, applies_to, results_in, put, remove: Vec::new() };
        self.say(Message::Assignments(set)).await;
    }

    async fn mesh(&self, revision: u64) {
        self.say(Message::Mesh(wire::MeshState { revision, ..Default::default() })).await;
    }

    async fn beat(&mut self) -> u64 {
        loop {
            match self.hear().await.unwrap() {
                Out::Beat(beat) => return beat.mesh_revision,
                Out::Hello(_) | Out::Statuses(_) | Out::Description(_) | Out::ProbeAnswer(_) => {}
            }
        }
    }

    /// The next batch of statuses.
    async fn statuses(&mut self) -> wire::StatusBatch {
        loop {
            match self.hear().await.unwrap() {
                Out::Statuses(batch) => return batch,
                Out::Hello(_) | Out::Beat(_) | Out::Description(_) | Out::ProbeAnswer(_) => {}
            }
        }
    }

    /// Stores statuses until the task has come so far.
    async fn stores_until(&mut self, task: TaskId, state: T) -> wire::TaskStatus {
        loop {
            let batch = self.statuses().await;
            self.say(Message::StatusesStored(wire::StatusesStored { sequence: batch.sequence })).await;
            let of_task = batch.reports.into_iter().find(|report| report.task_id == task.to_bytes());
            if let Some(status) = of_task.and_then(|report| report.status)
                && status.state >= state.number()
            {
                return status;
            }
        }
    }

    async fn ends_by_the_agent(mut self) {
        while self.hear().await.is_some() {}
    }
}

#[derive(Clone)]
struct Service {
    talks: mpsc::Sender<Talk>,
    logs: mpsc::Sender<Option<wire::LogBatch>>,
    /// How often a stream of logs is broken off after its first lines.
    breaks: Arc<AtomicU32>,
    stopping: mpsc::Sender<Reason>,
}

#[tonic::async_trait]
impl Dispatcher for Service {
    type SessionStream = Pin<Box<dyn Stream<Item = Result<wire::ManagerMessage, Status>> + Send>>;

    async fn session(
        &self,
        request: Request<Streaming<wire::AgentMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let (outgoing, messages) = mpsc::channel(16);
        self.talks.send(Talk { incoming: request.into_inner(), outgoing }).await.unwrap();
        Ok(Response::new(Box::pin(ReceiverStream::new(messages))))
    }

    async fn publish_logs(
        &self,
        request: Request<Streaming<wire::LogBatch>>,
    ) -> Result<Response<wire::LogsDone>, Status> {
        let mut batches = request.into_inner();
        while let Some(Ok(batch)) = batches.next().await {
            let has_lines = !batch.lines.is_empty();
            self.logs.send(Some(batch)).await.unwrap();
            let fewer = |n: u32| n.checked_sub(u32::from(has_lines));
            if has_lines && self.breaks.fetch_update(Ordering::SeqCst, Ordering::SeqCst, fewer).is_ok() {
                return Err(Status::unavailable("the connection ended"));
            }
        }
        self.logs.send(None).await.unwrap();
        Ok(Response::new(wire::LogsDone {}))
    }

    async fn leave(&self, _: Request<wire::LeaveRequest>) -> Result<Response<wire::LeaveResponse>, Status> {
        Ok(Response::new(wire::LeaveResponse {}))
    }

    async fn stopping(
        &self,
        request: Request<wire::StoppingRequest>,
    ) -> Result<Response<wire::StoppingResponse>, Status> {
        self.stopping.send(request.into_inner().reason()).await.unwrap();
        Ok(Response::new(wire::StoppingResponse {}))
    }
}

/// A manager, and a node for an agent.
struct Stage {
    addr: String,
    authority: Authority,
    worker: Identity,
    talks: mpsc::Receiver<Talk>,
    logs: mpsc::Receiver<Option<wire::LogBatch>>,
    breaks: Arc<AtomicU32>,
    stopping: mpsc::Receiver<Reason>,
    engine: Arc<FakeEngine>,
    network: Arc<FakeNetwork>,
    dir: tempfile::TempDir,
    _serving: JoinSet<()>,
}

impl Stage {
    async fn new() -> Self {
        let now = unix_now();
        let authority = Authority::generate(now).unwrap();
        let manager = identity(&authority, NodeId(Id(1)), Role::Manager, now);
        let worker = identity(&authority, WORKER, Role::Worker, now);
        let (talks_in, talks) = mpsc::channel(4);
        let (logs_in, logs) = mpsc::channel(64);
        let (stopping_in, stopping) = mpsc::channel(4);
        let breaks = Arc::<AtomicU32>::default();
        let own = Arc::clone(&breaks);
        let service = Service { talks: talks_in, logs: logs_in, breaks: own, stopping: stopping_in };
        let routes = Routes::new(DispatcherServer::new(service));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            skep_link::serve(listener, manager, routes, std::future::pending()).await.unwrap();
        });
        let (engine, network) = fakes();
        let dir = tempfile::tempdir().unwrap();
        Self {
            addr,
            authority,
            worker,
            talks,
            logs,
            breaks,
            stopping,
            engine,
            network,
            dir,
            _serving: serving,
        }
    }

    async fn agent(&self) -> Agent {
        self.agent_that_knows(&[&self.addr]).await
    }

    async fn agent_that_knows(&self, managers: &[&str]) -> Agent {
        let config = Config {
            state_dir: Path::to_path_buf(self.dir.path()),
            identity: self.worker.clone(),
            managers: managers.iter().map(|&manager| manager.to_owned()).collect(),
            description: wire::NodeDescription { hostname: "n1".into(), ..Default::default() },
            data_path_addr: Ipv4Addr::LOCALHOST,
            probe_addr: ":7".into(),
            node_name: "n1".into(),
            shim: "/nowhere".into(),
            api_socket: "/nowhere/docker.sock".into(),
            clock,
        };
        let (engine, network) = (Arc::clone(&self.engine), Arc::clone(&self.network));
        Agent::start_with(config, Parts { engine, network, keeps_records: true }).await.unwrap()
    }

    async fn talk(&mut self) -> (Talk, wire::Hello) {
        let mut talk = timeout(LIMIT, self.talks.recv()).await.expect("the agent dials").unwrap();
        let hello = talk.hello().await;
        (talk, hello)
    }

    async fn log(&mut self) -> Option<wire::LogBatch> {
        timeout(LIMIT, self.logs.recv()).await.expect("a batch comes").unwrap()
    }
}

#[tokio::test]
async fn a_task_is_reported_up_to_running_and_remembered_over_a_restart() {
    let mut stage = Stage::new().await;
    let agent = stage.agent().await;
    let (mut talk, hello) = stage.talk().await;
    assert_eq!((hello.revision, hello.data_path_addr.as_str()), (0, "127.0.0.1"));
    assert_eq!(hello.description.unwrap().hostname, "n1");
    assert!(!agent.is_connected());
    talk.welcome(20).await;
    talk.beat().await;
    talk.beat().await;
    assert!(agent.is_connected());
    let a = task(1);
    talk.assign(true, 0, 40, vec![assignment(a, T::Running)]).await;
    assert_eq!(talk.stores_until(a, T::Running).await.message, "started");
    assert_eq!(agent.n_tasks(), 1);
    agent.stop(StopReason::Restart).await;
    assert_eq!(stage.stopping.recv().await, Some(Reason::Restart));
    assert!(!agent.is_connected());
    talk.ends_by_the_agent().await;

    let next = stage.agent().await;
    assert_eq!(next.n_tasks(), 1, "known before any manager answers");
    let (talk, hello) = stage.talk().await;
    assert_eq!(hello.revision, 40);
    talk.welcome(1000).await;
    // A manager that is behind is left, whatever it says.
    talk.assign(true, 0, 39, vec![]).await;
    talk.ends_by_the_agent().await;
    assert_eq!(next.n_tasks(), 1);
    let (talk, _) = stage.talk().await;
    drop(talk);
    next.leave().await;
    assert_eq!((stage.engine.state(a), next.n_tasks()), (None, 0));
    assert_eq!(stage.agent().await.n_tasks(), 0, "nothing is remembered");
}

#[tokio::test]
async fn statuses_that_were_not_stored_are_sent_again() {
    let mut stage = Stage::new().await;
    let agent = stage.agent().await;
    let (mut talk, _) = stage.talk().await;
    talk.welcome(1000).await;
    let a = task(1);
    talk.assign(true, 0, 4, vec![assignment(a, T::Running)]).await;
    talk.statuses().await;
    drop(talk);
    let (mut talk, hello) = stage.talk().await;
    assert_eq!(hello.revision, 4);
    talk.welcome(1000).await;
    talk.stores_until(a, T::Running).await;
    stage.engine.end(a, 2, false);
    // The last ones reach the manager before the daemon is gone.
    talk.stores_until(a, T::Failed).await;
    agent.stop(StopReason::Shutdown).await;
    assert_eq!(stage.stopping.recv().await, Some(Reason::Shutdown));
}

#[tokio::test]
async fn what_the_node_is_to_be_is_told_at_each_change() {
    let mut stage = Stage::new().await;
    let agent = stage.agent().await;
    let (talk, hello) = stage.talk().await;
    assert_eq!(hello.probe_addr, ":7");
    let mut role = agent.role();
    assert_eq!(*role.borrow_and_update(), None);
    talk.welcome(1000).await;
    for (manager, raft_id) in [(false, 0), (true, 0), (true, 8)] {
        talk.say(Message::Role(wire::NodeRole { manager, raft_id })).await;
        timeout(LIMIT, role.changed()).await.unwrap().unwrap();
        assert_eq!(*role.borrow_and_update(), Some(NodeRole { manager, raft_id }));
    }
}

#[tokio::test]
async fn a_gap_in_the_assignments_ends_the_session() {
    let mut stage = Stage::new().await;
    let agent = stage.agent().await;
    let (mut talk, _) = stage.talk().await;
    talk.welcome(1000).await;
    let (a, b) = (task(1), task(2));
    talk.assign(true, 0, 5, vec![assignment(a, T::Running)]).await;
    talk.stores_until(a, T::Running).await;
    talk.assign(false, 5, 6, vec![assignment(b, T::Running)]).await;
    talk.stores_until(b, T::Running).await;
    talk.assign(false, 7, 8, vec![]).await;
    talk.ends_by_the_agent().await;
    let (talk, hello) = stage.talk().await;
    assert_eq!(hello.revision, 6);
    // What a complete set does not name is ended.
    talk.welcome(1000).await;
    talk.assign(true, 0, 9, vec![assignment(b, T::Running)]).await;
    let gone = async {
        while stage.engine.state(a).is_some() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(LIMIT, gone).await.unwrap();
    assert_eq!(agent.n_tasks(), 1);
}

#[tokio::test]
async fn a_mesh_is_applied_and_told_at_once_and_never_goes_back() {
    let mut stage = Stage::new().await;
    let _agent = stage.agent().await;
    let (mut talk, _) = stage.talk().await;
    // No beat comes by itself within the test but the first.
    talk.welcome(60_000).await;
    assert_eq!(talk.beat().await, 0);
    talk.mesh(7).await;
    assert_eq!(talk.beat().await, 7);
    talk.mesh(6).await;
    talk.mesh(9).await;
    assert_eq!(talk.beat().await, 9);
    let applied = stage.network.applied.lock().unwrap().clone();
    assert_eq!(applied, [7, 9]);
    // Another manager must not be behind it either.
    drop(talk);
    let (_talk, hello) = stage.talk().await;
    assert_eq!(hello.revision, 9);
}

#[tokio::test]
async fn the_terms_of_a_session_change_while_it_lasts() {
    let mut stage = Stage::new().await;
    let agent = stage.agent().await;
    let (mut talk, _) = stage.talk().await;
    talk.welcome(60_000).await;
    talk.beat().await;
    let managers = vec![stage.addr.clone(), "10.0.0.9:2377".to_owned()];
    let welcome = wire::Welcome { beat_ms: 10, managers: managers.clone(), ..Default::default() };
    talk.say(Message::Welcome(welcome)).await;
    talk.beat().await;
    talk.beat().await;
    assert_eq!(agent.managers(), managers);
}

#[tokio::test]
async fn a_removed_node_knows_that_it_is_none() {
    let mut stage = Stage::new().await;
    let agent = stage.agent().await;
    let (talk, _) = stage.talk().await;
    talk.welcome(1000).await;
    let gone = Status::permission_denied("this node was removed from the swarm");
    talk.outgoing.send(Err(gone)).await.unwrap();
    let mut removed = agent.removed();
    let heard =
        timeout(LIMIT, removed.wait_for(Option::is_some)).await.expect("it hears of it").unwrap().clone();
    assert_eq!(heard.as_deref(), Some("this node was removed from the swarm"));
    assert!(!agent.is_connected());
}

#[tokio::test]
async fn agents_answer_probes_and_probe_for_managers() {
    let mut stage = Stage::new().await;
    let agent = stage.agent().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let (worker, routes) = (stage.worker.clone(), Routes::new(agent.prober(None)));
    let mut serving = JoinSet::new();
    serving.spawn(async move {
        skep_link::serve(listener, worker, routes, std::future::pending()).await.unwrap();
    });
    let (mut talk, _) = stage.talk().await;
    talk.welcome(1000).await;
    // It answers as itself alone; the agent asks itself here, as it would ask others.
    for (node, expect) in [(WORKER, true), (NodeId(Id(8)), false)] {
        let wanted = wire::ProbeWanted { node_id: node.to_bytes(), addr: addr.clone() };
        talk.say(Message::ProbeWanted(wanted)).await;
        let answer = loop {
            if let Out::ProbeAnswer(answer) = talk.hear().await.unwrap() {
                break answer;
            }
        };
        assert_eq!((answer.node_id, answer.answered), (node.to_bytes(), expect));
    }
    let now = unix_now();
    let manager = identity(&stage.authority, NodeId(Id(1)), Role::Manager, now);
    skep_link::probe(&addr, &manager, WORKER, Vec::new(), LIMIT).await.unwrap();
    agent.stop(StopReason::Restart).await;
    let error = skep_link::probe(&addr, &manager, WORKER, Vec::new(), LIMIT).await.unwrap_err();
    assert!(matches!(error, skep_link::ProbeError::Silent { .. }), "{error:?}");
}

#[tokio::test]
async fn an_agent_that_lost_its_managers_goes_where_a_probe_says() {
    let mut stage = Stage::new().await;
    // Nobody is there; in its own time it would ask for seconds.
    let agent = stage.agent_that_knows(&["127.0.0.1:1", "127.0.0.1:2"]).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let (worker, routes) = (stage.worker.clone(), Routes::new(agent.prober(None)));
    let mut serving = JoinSet::new();
    serving.spawn(async move {
        skep_link::serve(listener, worker, routes, std::future::pending()).await.unwrap();
    });
    let now = unix_now();
    let other = identity(&stage.authority, NodeId(Id(2)), Role::Worker, now);
    let manager = identity(&stage.authority, NodeId(Id(1)), Role::Manager, now);
    for (who, expect) in [(other, "127.0.0.1:1"), (manager, stage.addr.as_str())] {
        skep_link::probe(&addr, &who, WORKER, vec![stage.addr.clone()], LIMIT).await.unwrap();
        assert_eq!(agent.managers()[0], expect, "a manager alone is believed");
    }
    let (talk, _) = stage.talk().await;
    talk.welcome(1000).await;
}

#[test]
fn pauses_grow_and_differ() {
    let mut chance = SeededIds(1);
    for (failures, least, most) in [(0, 50, 100), (1, 100, 200), (4, 800, 1600), (30, 1500, 3000)] {
        let pauses: Vec<_> = (0..20).map(|_| backoff(failures, &mut chance)).collect();
        assert!(pauses.iter().all(|pause| (least..=most).contains(&pause.as_millis())), "{pauses:?}");
        assert!(pauses.iter().any(|pause| *pause != pauses[0]));
    }
}
