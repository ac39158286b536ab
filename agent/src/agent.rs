//! The agent as the daemon holds it: puts its parts together, and takes them down in order.

use std::{net::Ipv4Addr, path::PathBuf, sync::Arc, time::Duration};

use skep_api::{TaskId, wire};
use skep_link::{Answerer, Identity, Knows, stubs::prober_server::ProberServer};
use tokio::{
    sync::{Mutex, Semaphore, mpsc, oneshot, watch},
    task::JoinSet,
    time::timeout,
};

use crate::{
    assignment::Position,
    board::Board,
    docker::DockerEngine,
    embedded::Embedded,
    engine::{Container, Engine, chain},
    logs::LogStreams,
    mesh,
    netmesh::MeshNetwork,
    network::Network,
    prober::knows_by_mesh,
    records::{Records, RecordsError, Remembered},
    reporter::Reporter,
    session::{Introduction, Session},
    sim,
    task::{
        container::{NODE_ID_LABEL, TASK_ID_LABEL, container_id},
        runner::{Host, STARTS_MAX},
    },
    ties::{NodeRole, Ties, Trust},
    worker::{Command, Worker},
};

/// Assignment sets on their way to the worker, which takes each at once.
const COMMANDS_MAX: usize = 64;
/// How long the last statuses may take to reach the manager when the daemon stops.
const FLUSH_MAX: Duration = Duration::from_secs(1);

/// The files of the Docker Engine's sandboxes, below the state directory.
const SANDBOXES_DIR: &str = "sandboxes";

/// What an agent is started with.
#[derive(Debug, Clone)]
pub struct Config {
    /// The agent keeps what it remembers below it.
    pub state_dir: PathBuf,
    /// This node's certificate.
    pub identity: Identity,
    /// Managers to begin with, host:port; later ones are learnt from them.
    pub managers: Vec<String>,
    /// Host name, platform and resources.
    pub description: wire::NodeDescription,
    /// The address under which other nodes carry the mesh's traffic to this one.
    pub data_path_addr: Ipv4Addr,
    /// `host:port` where the daemon serves [`Agent::prober`]; an empty host: where this node dials from.
    /// Empty: nowhere.
    pub probe_addr: String,
    /// This node's name, for the log and for placeholders in specs.
    pub node_name: String,
    /// The daemon's API socket, alone in a directory that stays when the daemon starts anew.
    pub api_socket: PathBuf,
    /// The shim's program, for engines that need one.
    pub shim: PathBuf,
    /// Unix nanoseconds now.
    pub clock: fn() -> i64,
}

/// Why a daemon stops.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StopReason {
    /// It is back within a minute; its tasks run on and are not replaced.
    Restart,
    /// Its host stops: its tasks are replaced at once.
    Shutdown,
}

/// The agent cannot start.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// Its local record.
    #[error("the agent's record")]
    Records(#[from] RecordsError),
    /// The containers of an earlier daemon cannot be listed.
    #[error("the engine's containers cannot be listed: {0}")]
    Engine(String),
    /// The network of this node's tasks.
    #[error("the mesh cannot be started: {0}")]
    Network(String),
}

/// What runs the tasks of a node.
#[derive(Debug, Clone)]
pub enum TaskEngine {
    /// The runtime crate.
    Embedded(Arc<skep_runtime::Engine>),
    /// The Docker Engine of this machine.
    Docker(DockerEngine),
}

/// A node's agent. Cheap to clone; ends when the last clone is dropped, its tasks stay.
#[derive(Debug, Clone)]
pub struct Agent(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    host: Arc<Host>,
    board: Arc<Board>,
    ties: Arc<Ties>,
    identity: Identity,
    commands: mpsc::Sender<Command>,
    closing: watch::Sender<bool>,
    parts: Mutex<JoinSet<()>>,
}

/// What the agent needs of its surroundings to start.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) network: Arc<dyn Network>,
    /// What the agent remembers is written down.
    pub(crate) keeps_records: bool,
}

impl Agent {
    /// Starts the agent on an engine: takes up the tasks of an earlier daemon, then looks for a manager.
    ///
    /// # Errors
    /// [`AgentError`] if the local record, the engine or the network cannot be used.
    pub async fn start(config: Config, engine: TaskEngine) -> Result<Self, AgentError> {
        let network = MeshNetwork::start(&config).await.map_err(|e| AgentError::Network(chain(&e)))?;
        let engine: Arc<dyn Engine> = match engine {
            TaskEngine::Embedded(engine) => Arc::new(Embedded::new(engine, config.api_socket.clone())),
            TaskEngine::Docker(engine) => {
                let dir = config.state_dir.join(SANDBOXES_DIR);
                let engine = engine.of_node(&config.identity.node_id(), dir, config.api_socket.clone());
                engine.sweep().await.map_err(|e| AgentError::Engine(chain(&e)))?;
                Arc::new(engine)
            }
        };
        let parts = Parts { engine, network: Arc::new(network), keeps_records: true };
        Self::start_with(config, parts).await
    }

    pub(crate) async fn start_with(config: Config, parts: Parts) -> Result<Self, AgentError> {
        let node_id = config.identity.node_id();
        let (records, remembered) = if parts.keeps_records {
            open_records(&config, &node_id).await?
        } else {
            (Arc::new(Records::unwritten()), Remembered::default())
        };
        let Remembered { revision, tasks } = remembered;
        let containers = parts.engine.list().await.map_err(|e| AgentError::Engine(chain(&e)))?;
        let host = Arc::new(Host {
            engine: parts.engine,
            network: parts.network,
            reporter: Reporter::default(),
            records,
            clock: config.clock,
            node_id,
            node_name: config.node_name.clone(),
            starts: Arc::new(Semaphore::new(STARTS_MAX)),
            mesh_applied: watch::Sender::new(0),
            has_ingress: watch::Sender::new(false),
        });
        let board = Arc::new(Board::default());
        let (commands, told) = mpsc::channel(COMMANDS_MAX);
        let (mesh, newest) = watch::channel(None);
        let ties = Arc::new(Ties {
            managers: watch::Sender::new(config.managers),
            told: watch::Sender::new(0),
            is_connected: watch::Sender::new(false),
            removed: watch::Sender::new(None),
            role: watch::Sender::new(None),
            trust: watch::Sender::new(None),
            refused: watch::Sender::new(None),
            renewals_wanted: watch::Sender::new(0),
            mesh,
            client: watch::Sender::new(None),
        });
        let closing = watch::Sender::new(false);
        let mut worker = Worker::new(Arc::clone(&host), Arc::clone(&board));
        worker.adopt(tasks, ours(containers, &host.node_id)).await;
        let identity = config.identity.clone();
        let introduction = Introduction {
            identity: config.identity.clone(),
            description: config.description,
            data_path_addr: config.data_path_addr,
            probe_addr: config.probe_addr,
        };
        let logs = LogStreams::new(Arc::clone(&host.engine), Arc::clone(&board), config.identity);
        let position = Position::new(revision);
        let session = Session::new(
            Arc::clone(&host),
            Arc::clone(&ties),
            introduction,
            commands.clone(),
            logs,
            position,
        );
        tracing::info!(node.id = host.node_id, node.name = config.node_name, "agent started");
        let mut parts = JoinSet::new();
        parts.spawn(worker.run(told));
        let (applied, has_ingress) = (host.mesh_applied.clone(), host.has_ingress.clone());
        parts.spawn(mesh::keep(Arc::clone(&host.network), newest, applied, has_ingress));
        parts.spawn(Arc::clone(&host.records).keep());
        let engine = Arc::clone(&host.engine);
        parts.spawn(async move { engine.keep().await });
        parts.spawn(session.run(closing.subscribe()));
        let parts = Mutex::new(parts);
        Ok(Self(Arc::new(Inner { host, board, ties, identity, commands, closing, parts })))
    }

    /// The daemon stops, and a manager hears why: tasks stay as they are, and the next daemon takes them up.
    /// Statuses still reach the manager if there is one.
    pub async fn stop(&self, reason: StopReason) {
        let agent = &*self.0;
        let (done, stopped) = oneshot::channel();
        if agent.commands.send(Command::Stop(done)).await.is_ok() {
            let _ended_already = stopped.await;
        }
        if self.is_connected() {
            let mut backlog = agent.host.reporter.backlog();
            if timeout(FLUSH_MAX, backlog.wait_for(|waiting| *waiting == 0)).await.is_err() {
                tracing::warn!("statuses are left for the next daemon to send");
            }
        }
        if timeout(FLUSH_MAX, self.announce(reason)).await.is_err() {
            tracing::warn!("no manager heard that this daemon stops; soon it counts as lost");
        }
        self.end_parts().await;
        Arc::clone(&agent.host.records).flush().await;
        agent.host.records.close();
    }

    /// The node leaves the swarm: ends all tasks, removes their containers and networks, and forgets.
    pub async fn leave(&self) {
        let agent = &*self.0;
        // First the session: nothing new is taken on.
        agent.closing.send_replace(true);
        let (done, ended) = oneshot::channel();
        if agent.commands.send(Command::Leave(done)).await.is_ok() {
            let _ended_already = ended.await;
        }
        self.end_parts().await;
        if let Err(e) = agent.host.engine.leave().await {
            tracing::error!(err = chain(&e), "what the engine kept for tasks to come cannot be removed");
        }
        if let Err(e) = agent.host.network.teardown().await {
            tracing::error!(err = chain(&e), "the mesh cannot be taken down");
        }
        let records = Arc::clone(&agent.host.records);
        match sim::off_thread(move || records.delete()).await {
            Ok(Ok(())) => {}
            Ok(Err(e)) => tracing::error!(err = chain(&e), "the agent's record cannot be removed"),
            Err(e) => tracing::error!(err = chain(&e), "removing the agent's record was cut off"),
        }
    }

    async fn announce(&self, reason: StopReason) {
        let reason = match reason {
            StopReason::Restart => wire::stopping_request::Reason::Restart,
            StopReason::Shutdown => wire::stopping_request::Reason::Shutdown,
        };
        let request = wire::StoppingRequest { reason: reason.into() };
        let client = self.0.ties.client.borrow().clone();
        if let Some(mut client) = client
            && client.stopping(skep_link::unary(request)).await.is_ok()
        {
            return;
        }
        for manager in self.managers() {
            let Ok(channel) = skep_link::connect(&manager, &self.0.identity).await else { continue };
            if skep_link::dispatcher(channel).stopping(skep_link::unary(request)).await.is_ok() {
                return;
            }
        }
    }

    async fn end_parts(&self) {
        self.0.closing.send_replace(true);
        self.0.ties.is_connected.send_replace(false);
        // What is left holds nothing: tasks are let go, and the record is written after this.
        self.0.parts.lock().await.shutdown().await;
    }

    /// The managers known, host:port.
    #[must_use]
    pub fn managers(&self) -> Vec<String> {
        self.0.ties.managers.borrow().clone()
    }

    /// Says where the managers are, `host:port`, to an agent that has no session and may look for them where they were;
    /// one that has a session hears of them there.
    pub fn hear_of(&self, managers: Vec<String>) {
        self.0.ties.hear_of(managers);
    }

    /// Follows whether a manager holds a session with this node.
    #[must_use]
    pub fn connected(&self) -> watch::Receiver<bool> {
        self.0.ties.is_connected.subscribe()
    }

    /// Follows the managers known, host:port.
    #[must_use]
    pub fn managers_known(&self) -> watch::Receiver<Vec<String>> {
        self.0.ties.managers.subscribe()
    }

    /// Follows whether the managers say that this node is not in the swarm any more, with their words.
    #[must_use]
    pub fn removed(&self) -> watch::Receiver<Option<String>> {
        self.0.ties.removed.subscribe()
    }

    /// Whether a manager holds a session with this node.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        *self.0.ties.is_connected.borrow()
    }

    /// What the store says this node is to be, as its session tells it; `None` until then.
    #[must_use]
    pub fn role(&self) -> watch::Receiver<Option<NodeRole>> {
        self.0.ties.role.subscribe()
    }

    /// Which root the managers say is to be trusted, and how long certificates are to live; `None` until then.
    #[must_use]
    pub fn trust(&self) -> watch::Receiver<Option<Trust>> {
        self.0.ties.trust.subscribe()
    }

    /// Why managers do not take this node's certificate; `None` while one does, or none was asked.
    #[must_use]
    pub fn refused(&self) -> watch::Receiver<Option<String>> {
        self.0.ties.refused.subscribe()
    }

    /// Follows how often a manager wanted this node to renew its certificate at once.
    #[must_use]
    pub fn renewals_wanted(&self) -> watch::Receiver<u64> {
        self.0.ties.renewals_wanted.subscribe()
    }

    /// Answers other nodes' probes while this agent runs, for the daemon to serve at its `probe_addr`.
    /// `knows` says which nodes are of the swarm; without it the newest mesh does.
    #[must_use]
    pub fn prober(&self, knows: Option<Knows>) -> ProberServer<Answerer> {
        let ties = &self.0.ties;
        let knows =
            knows.unwrap_or_else(|| knows_by_mesh(ties.mesh.subscribe(), ties.is_connected.subscribe()));
        let ties = Arc::clone(&self.0.ties);
        let hear = Arc::new(move |managers| ties.hear_of(managers));
        let answerer = Answerer::new(&self.0.host.node_id, self.0.closing.subscribe(), knows);
        ProberServer::new(answerer.hearing(hear))
    }

    /// Tasks on this node that have not come to their end.
    #[must_use]
    pub fn n_tasks(&self) -> usize {
        self.0.board.n_live()
    }
}

async fn open_records(config: &Config, node_id: &str) -> Result<(Arc<Records>, Remembered), AgentError> {
    let (dir, node, now) = (config.state_dir.join("agent"), node_id.to_owned(), (config.clock)());
    let opening = sim::off_thread(move || Records::open(&dir, &node, now));
    let (records, remembered) = opening.await.expect("reading the record catches its own panics")?;
    Ok((Arc::new(records), remembered))
}

/// The containers of this node's tasks.
pub(crate) fn ours(containers: Vec<Container>, node_id: &str) -> Vec<(TaskId, Container)> {
    let task = |container: &Container| {
        let labels = &container.labels;
        let is_here = labels.get(NODE_ID_LABEL).is_some_and(|node| node == node_id);
        let task = labels.get(TASK_ID_LABEL).filter(|_| is_here)?.parse::<TaskId>().ok()?;
        (container.id == container_id(task)).then_some(task)
    };
    containers.into_iter().filter_map(|container| Some((task(&container)?, container))).collect()
}
