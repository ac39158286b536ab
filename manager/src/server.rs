//! A manager as a whole: opened from its directory or made by `init`, served, shut down.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use skep_api::{
    ClusterId, NodeId, Timestamp,
    id::IdSource,
    object::{Cluster, Node, NodeDescription, ingress::DATA_PATH_PORT},
    spec::{Availability, NodeSpec, Role, SwarmSpec},
};
use skep_link::{
    Authority, Identity, JoinToken, MESSAGE_MAX_BYTES, new_csr,
    stubs::{dispatcher_server::DispatcherServer, join_server::JoinServer},
};
use skep_raft::{Alone, Config, Leadership, Raft};
use skep_store::{Change, Proposal, decode_result};
use tokio::{net::TcpListener, sync::watch, task::JoinSet};

use crate::{
    Control, SystemIds,
    dispatcher::{DispatcherService, Hub, Shared, mind_leader},
    join::JoinService,
    leader::Leader,
    liveness,
    machine::Machine,
    peers::Peers,
    tell,
};

/// A fresh member of one leads after this long at most.
const FIRST_LEADER_AFTER: Duration = Duration::from_secs(10);

/// Where a manager lives and how it is reached.
#[derive(Clone, Debug)]
pub struct ManagerConfig {
    /// Its own directory: the log and its key.
    pub dir: PathBuf,
    /// Where it listens for nodes.
    pub listen_addr: SocketAddr,
    /// Wall time in Unix nanoseconds.
    pub clock: fn() -> i64,
    /// Between the leader's heartbeats.
    pub raft_heartbeat: Duration,
    /// A follower that hears nothing for a random time between these two stands for election.
    pub raft_election: (Duration, Duration),
}

impl ManagerConfig {
    fn raft(&self, raft_id: u64) -> Config {
        let mut raft = Config::new(self.dir.join("raft"), raft_id);
        (raft.heartbeat, raft.election) = (self.raft_heartbeat, self.raft_election);
        raft
    }
}

/// What `swarm init` sets.
#[derive(Clone, Debug)]
pub struct InitParams {
    /// `host:port` at which nodes reach this manager.
    pub advertise_addr: String,
    /// Of this node's VXLAN.
    pub data_path_addr: String,
    /// 0: 4789.
    pub data_path_port: u32,
    /// Of this node.
    pub description: NodeDescription,
    /// Of this node.
    pub availability: Availability,
    /// The swarm's settings.
    pub spec: SwarmSpec,
    /// Where the identity is kept.
    pub identity_dir: PathBuf,
}

/// Why a manager could not start.
#[derive(Debug, thiserror::Error)]
pub enum ManagerError {
    /// The log cannot be opened.
    #[error("cannot open the state of this manager")]
    Open(#[from] skep_raft::OpenError),
    /// It is one already.
    #[error("cannot become the first manager")]
    Bootstrap(#[from] skep_raft::BootstrapError),
    /// Keys and certificates.
    #[error("cannot make the certificate authority")]
    Ca(#[from] skep_link::CaError),
    /// The identity on disk.
    #[error("cannot keep this node's identity")]
    Identity(#[from] skep_link::IdentityError),
    /// The port is taken, or not ours to listen on.
    #[error("cannot listen on {addr} for other nodes; stop what uses it, or choose another --listen-addr")]
    Listen {
        /// Where.
        addr: SocketAddr,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The first write failed.
    #[error("cannot write the first state: {0}")]
    First(String),
}

/// A running manager.
#[derive(Debug)]
pub struct Manager {
    control: Control,
    raft: Raft,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

impl Manager {
    /// Makes a new swarm with this node as its only manager.
    ///
    /// # Errors
    /// [`ManagerError`]; the caller wipes the directory, as Swarm does after a failed init.
    pub async fn init(config: ManagerConfig, params: InitParams) -> Result<(Self, Identity), ManagerError> {
        let listener = listen(config.listen_addr).await?;
        let now = (config.clock)();
        let mut ids = SystemIds::default();
        let (node_id, cluster_id) = (NodeId(ids.next_id()), ClusterId(ids.next_id()));
        let authority = Authority::generate(now / 1_000_000_000)?.valid_for(params.spec.node_cert_expiry());
        let (csr, key) = new_csr()?;
        let (node_name, cluster_name) = (node_id.to_string(), cluster_id.to_string());
        let certificate = authority.sign_node(
            &csr,
            &node_name,
            skep_link::Role::Manager,
            &cluster_name,
            now / 1_000_000_000,
        )?;
        let identity = Identity::new(certificate, key, authority.cert_pem())?;
        let raft_id = u64::try_from(ids.next_id().0 >> 65).expect("63 bits are left").max(1);
        tokio::fs::create_dir_all(&config.dir).await.map_err(|e| ManagerError::First(e.to_string()))?;
        tokio::fs::write(config.dir.join("raft-id"), raft_id.to_string())
            .await
            .map_err(|e| ManagerError::First(e.to_string()))?;
        let machine = Machine::new();
        let raft = Raft::open(config.raft(raft_id), machine.clone(), Arc::new(Alone)).await?;
        raft.bootstrap().await?;
        wait_for_leader(&raft).await?;
        let changes = first_state(&params, node_id, cluster_id, &authority);
        let proposal = Proposal { changes, now: Timestamp(now), ..Proposal::default() };
        let answer = raft.propose(proposal.encode()).await.map_err(|e| ManagerError::First(e.to_string()))?;
        decode_result(&answer).map_err(|e| ManagerError::First(e.to_string()))?;
        identity.save(&params.identity_dir)?;
        Ok((Self::serve(config, raft, machine, identity.clone(), listener, node_id), identity))
    }

    /// Opens the state of an earlier start.
    ///
    /// # Errors
    /// [`ManagerError`]: nothing was changed.
    pub async fn open(config: ManagerConfig, identity: Identity) -> Result<Self, ManagerError> {
        let listener = listen(config.listen_addr).await?;
        let id_file = config.dir.join("raft-id");
        let raft_id =
            tokio::fs::read_to_string(&id_file).await.ok().and_then(|text| text.trim().parse().ok());
        let raft_id = raft_id.ok_or_else(|| {
            ManagerError::First(format!(
                "{} is missing or damaged; restore it from a backup",
                id_file.display()
            ))
        })?;
        let node_id =
            identity.node_id().parse().map_err(|e| ManagerError::First(format!("node certificate: {e}")))?;
        let machine = Machine::new();
        let raft = Raft::open(config.raft(raft_id), machine.clone(), Arc::new(Alone)).await?;
        Ok(Self::serve(config, raft, machine, identity, listener, node_id))
    }

    /// Whether a directory holds a manager's state.
    #[must_use]
    pub fn exists(config: &ManagerConfig) -> bool {
        config.dir.join("raft-id").exists()
    }

    fn serve(
        config: ManagerConfig,
        raft: Raft,
        machine: Arc<Machine>,
        identity: Identity,
        listener: TcpListener,
        node_id: NodeId,
    ) -> Self {
        let hub = Hub::new();
        machine.listen(hub.clone());
        let shared = Arc::new(Shared {
            raft: raft.clone(),
            machine: machine.clone(),
            hub: hub.clone(),
            liveness: Arc::default(),
            logs: Arc::default(),
            peers: Peers::new(node_id, identity.clone(), machine.clone()),
            clock: config.clock,
        });
        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        let routes = tonic::service::Routes::new(JoinServer::new(JoinService(shared.clone()))).add_service(
            DispatcherServer::new(DispatcherService(shared.clone()))
                .max_decoding_message_size(MESSAGE_MAX_BYTES),
        );
        let until = until_stopped(stopped);
        tasks.spawn(async move {
            if let Err(error) = skep_link::serve(listener, identity, routes, until).await {
                tracing::error!(err = %error, "the listener for nodes ended; restart the daemon");
            }
        });
        tasks.spawn(async move { hub.keep_mesh(move || machine.view()).await });
        tasks.spawn(lead(shared.clone()));
        tasks.spawn(tell::keep_telling(shared.clone()));
        tasks.spawn(mind_leader(shared.clone()));
        Self { control: Control { shared, node_id }, raft, stop, tasks }
    }

    /// A handle for users' calls.
    #[must_use]
    pub fn control(&self) -> Control {
        self.control.clone()
    }

    /// Ends serving; what is acknowledged is on disk.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        self.raft.shutdown().await;
        self.tasks.shutdown().await;
    }
}

/// Waits out the listener's own grace, then for the word to stop.
async fn until_stopped(mut stopped: watch::Receiver<bool>) {
    // An error means that the manager is gone: stop as well.
    stopped.wait_for(|stop| *stop).await.map(|_| ()).unwrap_or_default();
}

async fn listen(addr: SocketAddr) -> Result<TcpListener, ManagerError> {
    TcpListener::bind(addr).await.map_err(|source| ManagerError::Listen { addr, source })
}

async fn wait_for_leader(raft: &Raft) -> Result<(), ManagerError> {
    let mut leadership = raft.leadership();
    let leads = leadership.wait_for(|state| matches!(state, Leadership::Leader { .. }));
    match tokio::time::timeout(FIRST_LEADER_AFTER, leads).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(_)) | Err(_) => Err(ManagerError::First("this member did not become the leader".to_owned())),
    }
}

/// Runs the leader while this member leads; dropping it leaves nothing running.
async fn lead(shared: Arc<Shared>) {
    let mut leadership = shared.raft.leadership();
    loop {
        let leads =
            leadership.wait_for(|state| matches!(state, Leadership::Leader { .. })).await.map(|state| *state);
        let Ok(term) = leads else { return };
        let leader =
            Leader { raft: shared.raft.clone(), machine: shared.machine.clone(), clock: shared.clock };
        let leading = async { tokio::join!(leader.run(), liveness::watch(shared.clone())) };
        tokio::select! {
            _ = leading => {}
            ended = leadership.wait_for(|state| *state != term) => if ended.is_err() { return },
        }
        tracing::info!("no longer leading");
    }
}

fn first_state(
    params: &InitParams,
    node_id: NodeId,
    cluster_id: ClusterId,
    authority: &Authority,
) -> Vec<Change> {
    let mut spec = params.spec.clone();
    "default".clone_into(&mut spec.name);
    let cluster = Cluster {
        id: cluster_id,
        spec,
        ca_cert_pem: authority.cert_pem().to_owned(),
        ca_key_pem: authority.key_pem().to_owned(),
        worker_token_secret: JoinToken::generate_secret(),
        manager_token_secret: JoinToken::generate_secret(),
        data_path_port: if params.data_path_port == 0 { DATA_PATH_PORT } else { params.data_path_port },
        default_addr_pool: vec!["10.0.0.0/8".to_owned()],
        subnet_size: 24,
        ..Cluster::default()
    };
    let node = Node {
        id: node_id,
        spec: NodeSpec { role: Role::Manager, availability: params.availability, ..NodeSpec::default() },
        description: params.description.clone(),
        advertise_addr: params.advertise_addr.clone(),
        data_path_addr: params.data_path_addr.clone(),
        ..Node::default()
    };
    vec![Change::PutCluster(Arc::new(cluster)), Change::PutNode(Arc::new(node))]
}
