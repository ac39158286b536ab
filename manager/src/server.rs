//! A manager as a whole: opened from its directory or made by `init`, served, shut down.

mod dir;

use std::{path::PathBuf, sync::Arc, time::Duration};

use skep_api::{
    ClusterId, NodeId, Secret, Timestamp,
    id::IdSource,
    object::{Cluster, Node, NodeDescription, NodeTls, ingress::DATA_PATH_PORT},
    spec::{Availability, NodeSpec, Role, SwarmSpec},
};
use skep_link::{
    Authority, Identity, JoinToken, Knows, MESSAGE_MAX_BYTES, RenewError, new_csr,
    stubs::{
        dispatcher_server::DispatcherServer, join_server::JoinServer, members_server::MembersServer,
        node_ca_server::NodeCaServer,
    },
};
use skep_raft::{Config, Keys, Leadership, NoSpace, Raft, UnlockKey};
use skep_store::{Change, Dirty, FEATURE_LEVEL, Proposal, decode_result};
use tokio::task::JoinSet;
use tonic::service::Routes;

use crate::{
    Control, Entrance, NodeKeyBox, SystemIds, ca,
    clocks::Clocks,
    dispatcher::{Collector, DispatcherService, Hub, Shared, mind_leader},
    join::JoinService,
    leader::Leader,
    level, liveness,
    machine::Machine,
    members::{Book, Links, MembersService, NodeCaService},
    peers::Peers,
    recovery, roles, sim, tell, unlock,
};

pub(crate) use dir::{fresh_raft_id, read_raft_id, write_raft_id};

/// A fresh member of one leads after this long at most.
const FIRST_LEADER_AFTER: Duration = Duration::from_secs(10);

/// Between attempts to learn whether the state here is whole, when there is no leader.
const WHOLE_RETRY: Duration = Duration::from_millis(200);

/// Where a manager lives.
#[derive(Clone, Debug)]
pub struct ManagerConfig {
    /// Its own directory: the log and its key, its raft id, the managers' addresses.
    pub dir: PathBuf,
    /// Wall time in Unix nanoseconds.
    pub clock: fn() -> i64,
    /// Between the leader's heartbeats.
    pub raft_heartbeat: Duration,
    /// A follower that hears nothing for a random time between these two stands for election.
    pub raft_election: (Duration, Duration),
    /// The keys of its disk, if they were opened already. None: they are plain, or made with it.
    pub keys: Option<Keys>,
}

impl ManagerConfig {
    /// Where its log and the key file are.
    #[must_use]
    pub fn raft_dir(&self) -> PathBuf {
        self.dir.join("raft")
    }

    fn raft(&self, raft_id: u64) -> Config {
        let mut raft = Config::new(self.raft_dir(), raft_id);
        raft.keys.clone_from(&self.keys);
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
    /// Its directory cannot be written.
    #[error("cannot keep the state of this manager in {}", path.display())]
    Dir {
        /// The directory or file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The swarm has a newer build's state.
    #[error("this manager cannot start: {0}")]
    TooOld(#[from] skep_store::TooOld),
    /// The first write failed.
    #[error("cannot write the first state: {0}")]
    First(String),
}

/// A running manager. What it serves to nodes, [`Manager::routes`], is for the daemon to put on its listener.
#[derive(Debug)]
pub struct Manager {
    control: Control,
    tasks: JoinSet<()>,
}

impl Manager {
    /// Makes a new swarm with this node as its only manager.
    ///
    /// # Errors
    /// [`ManagerError`]; the caller wipes the directory, as Swarm does after a failed init.
    pub async fn init(config: ManagerConfig, params: InitParams) -> Result<(Self, Identity), ManagerError> {
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
        // What an init that was cut off left is nobody's.
        Self::wipe(&config)?;
        let raft_id = fresh_raft_id();
        write_raft_id(&config.dir, raft_id)?;
        let unlock = params.spec.autolock().then(UnlockKey::generate).transpose()?;
        let keys = Keys::create(&config.raft_dir(), unlock.clone().map(|unlock| (unlock, 1)))?;
        let config = ManagerConfig { keys: Some(keys.clone()), ..config };
        let opened = Opened::open(&config, raft_id, &identity).await?;
        opened.raft.bootstrap().await?;
        wait_for_leader(&opened.raft).await?;
        let unlock = unlock.map(|unlock| Secret::new(unlock.reveal()));
        let ids = (node_id, raft_id, cluster_id);
        let changes = first_state(&params, ids, &authority, identity.tls(), unlock);
        let proposal = Proposal { changes, now: Timestamp(now), ..Proposal::default() };
        let answer =
            opened.raft.propose(proposal.encode()).await.map_err(|e| ManagerError::First(e.to_string()))?;
        decode_result(&answer).map_err(|e| ManagerError::First(e.to_string()))?;
        identity.save_with(&params.identity_dir, Some(&NodeKeyBox(keys)))?;
        Ok((Self::run(&config, opened, identity.clone(), node_id), identity))
    }

    /// Opens the state of an earlier start. Needs no leader, nor anybody else.
    ///
    /// # Errors
    /// [`ManagerError`]: nothing was changed.
    pub async fn open(config: ManagerConfig, identity: Identity) -> Result<Self, ManagerError> {
        if let Err(error) = recovery::tidy(&config.dir) {
            tracing::warn!(err = %error, "what a recovery that was cut off has left cannot be removed");
        }
        let file = config.dir.join(dir::RAFT_ID_FILE);
        let raft_id = read_raft_id(&config.dir).ok_or_else(|| {
            ManagerError::First(format!("{} is missing or damaged; restore it from a backup", file.display()))
        })?;
        let opened = Opened::open(&config, raft_id, &identity).await?;
        let node_id = node_id_of(&identity)?;
        Ok(Self::run(&config, opened, identity, node_id))
    }

    /// A manager without a state, under a fresh raft id: it comes in by [`Manager::entrance`]. What an
    /// earlier one left is removed, but for keys that are open already: the disk stays locked throughout.
    ///
    /// # Errors
    /// [`ManagerError`].
    pub async fn fresh(config: ManagerConfig, identity: Identity) -> Result<Self, ManagerError> {
        if config.keys.is_some() {
            dir::wipe_but_keys(&config.dir, &Keys::path(&config.raft_dir()))?
        } else {
            Self::wipe(&config)?
        }
        let raft_id = fresh_raft_id();
        write_raft_id(&config.dir, raft_id)?;
        let opened = Opened::open(&config, raft_id, &identity).await?;
        let node_id = node_id_of(&identity)?;
        Ok(Self::run(&config, opened, identity, node_id))
    }

    /// Whether a directory holds a manager's state.
    #[must_use]
    pub fn exists(config: &ManagerConfig) -> bool {
        config.dir.join(dir::RAFT_ID_FILE).exists()
    }

    /// Whether the disk of a stopped manager has room for it, as far as that shows.
    #[must_use]
    pub fn has_room(config: &ManagerConfig) -> bool {
        skep_raft::has_room(&config.dir)
    }

    /// Removes a stopped manager's directory. Cut off anywhere, it holds no manager any more.
    ///
    /// # Errors
    /// [`ManagerError::Dir`].
    pub fn wipe(config: &ManagerConfig) -> Result<(), ManagerError> {
        dir::wipe(&config.dir)
    }

    fn run(config: &ManagerConfig, opened: Opened, identity: Identity, node_id: NodeId) -> Self {
        let Opened { raft, machine, book } = opened;
        let hub = Hub::new();
        machine.listen(hub.clone());
        let shared = Arc::new(Shared {
            raft: raft.clone(),
            machine: machine.clone(),
            hub: hub.clone(),
            collector: Collector::default(),
            liveness: Arc::default(),
            logs: Arc::default(),
            peers: Peers::new(node_id, identity.clone(), machine.clone()),
            identity,
            book,
            clock: config.clock,
            clocks: Clocks::default(),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { hub.keep_mesh(move || machine.view()).await });
        tasks.spawn(lead(shared.clone()));
        tasks.spawn(tell::keep_telling(shared.clone()));
        tasks.spawn(mind_leader(shared.clone()));
        tasks.spawn(keep_book(shared.clone()));
        tasks.spawn(heed_removal(shared.clone()));
        tasks.spawn(level::report(shared.clone(), node_id, config.dir.clone()));
        tasks.spawn(unlock::follow(shared.clone()));
        let collecting = shared.clone();
        tasks.spawn(async move { collecting.collector.keep(&collecting.raft, collecting.clock).await });
        Self { control: Control { shared, node_id }, tasks }
    }

    /// What it serves to nodes.
    #[must_use]
    pub fn routes(&self) -> Routes {
        let shared = &self.control.shared;
        Routes::new(JoinServer::new(JoinService::new(shared.clone())))
            .add_service(NodeCaServer::new(NodeCaService(shared.clone())))
            .add_service(
                DispatcherServer::new(DispatcherService(shared.clone()))
                    .max_decoding_message_size(MESSAGE_MAX_BYTES),
            )
            .add_service(
                MembersServer::new(MembersService(shared.clone()))
                    .max_decoding_message_size(MESSAGE_MAX_BYTES)
                    .max_encoding_message_size(MESSAGE_MAX_BYTES),
            )
    }

    /// Which nodes are of the swarm by the state that is applied here; without any, all of them.
    #[must_use]
    pub fn knows(&self) -> Knows {
        let machine = self.control.shared.machine.clone();
        Arc::new(move |node, _| {
            let view = machine.view();
            view.cluster().is_none() || view.node(node).is_some_and(|node| !node.dropped)
        })
    }

    /// A handle for users' calls.
    #[must_use]
    pub fn control(&self) -> Control {
        self.control.clone()
    }

    /// Renews its own certificate by the state that is here, without asking anybody: for a manager that no other
    /// one lets in any more, as all slept past their certificates' ends, or that is the only one.
    ///
    /// # Errors
    /// The state does not have this node as a manager, or does not hold the root's key.
    pub async fn renew_own(&self) -> Result<Identity, RenewError> {
        self.control.renew_own().await
    }

    /// Follows whether its disk has room. Without, it is to be stopped, and opened again once there is.
    #[must_use]
    pub fn no_space(&self) -> tokio::sync::watch::Receiver<Option<NoSpace>> {
        self.control.shared.raft.no_space()
    }

    /// Follows whether another manager has said that the swarm was made anew without this one, and its words. It is
    /// to be stopped then.
    #[must_use]
    pub fn dropped(&self) -> tokio::sync::watch::Receiver<Option<String>> {
        self.control.shared.book.dropped()
    }

    /// The keys that its disk is sealed under.
    #[must_use]
    pub fn keys(&self) -> Option<Keys> {
        self.control.shared.raft.keys()
    }

    /// The way to become a member.
    #[must_use]
    pub fn entrance(&self) -> Entrance {
        Entrance(self.control.shared.clone())
    }

    /// Ends: moves its lead away first, closes its sessions. What is acknowledged is on disk.
    pub async fn stop(mut self) {
        let shared = &self.control.shared;
        shared.raft.step_down().await;
        shared.hub.end_all();
        shared.raft.shutdown().await;
        self.tasks.shutdown().await;
    }
}

/// A raft member on its directory.
struct Opened {
    raft: Raft,
    machine: Arc<Machine>,
    book: Arc<Book>,
}

impl Opened {
    async fn open(config: &ManagerConfig, raft_id: u64, identity: &Identity) -> Result<Self, ManagerError> {
        level::check_kept(&config.dir)?;
        let machine = Machine::new();
        let book = Book::open(&config.dir);
        let links = Links::new(identity.clone(), book.clone());
        let raft = match sim::disk(&config.dir) {
            Some(disk) => Raft::open_simulated(config.raft(raft_id), machine.clone(), links, &disk).await?,
            None => Raft::open(config.raft(raft_id), machine.clone(), links).await?,
        };
        Ok(Self { raft, machine, book })
    }
}

fn node_id_of(identity: &Identity) -> Result<NodeId, ManagerError> {
    identity.node_id().parse().map_err(|e| ManagerError::First(format!("node certificate: {e}")))
}

/// Keeps the managers' addresses for raft and for the next start.
async fn keep_book(shared: Arc<Shared>) {
    let mut changed = shared.machine.nodes_changed();
    let follow = |caught_up| {
        shared.book.follow(&shared.machine.view(), caught_up);
        shared.peers.prune();
    };
    loop {
        follow(false);
        let whole = async {
            while shared.raft.read_barrier().await.is_err() {
                if shared.raft.status().has_changed().is_err() {
                    return std::future::pending().await;
                }
                tokio::time::sleep(WHOLE_RETRY).await;
            }
        };
        tokio::pin!(whole);
        loop {
            tokio::select! {
                () = &mut whole => break,
                done = changed.changed() => if done.is_err() { return },
            }
            changed.borrow_and_update();
            follow(false);
        }
        follow(true);
        loop {
            tokio::select! {
                // It was cut off, and asked: what it was told counts until the state here is whole again.
                () = shared.book.learned() => break,
                done = changed.changed() => if done.is_err() { return },
            }
            follow(true);
        }
    }
}

/// A manager that is none any more sends its agents to others.
async fn heed_removal(shared: Arc<Shared>) {
    let mut status = shared.raft.status();
    if status.wait_for(|status| status.removed).await.is_ok() {
        tracing::info!("the other managers have let this one go");
        shared.hub.end_all();
    }
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
        let leading = async {
            tokio::join!(
                leader.run(),
                liveness::watch(shared.clone()),
                roles::converge(&shared),
                recovery::keep_calling(&shared),
                ca::converge(&shared),
                level::raise(&shared)
            )
        };
        tokio::select! {
            _ = leading => {}
            ended = leadership.wait_for(|state| *state != term) => if ended.is_err() { return },
        }
        // Nobody takes what changes from now on, one thing at a time; the next leader looks at everything.
        shared.machine.mark(Dirty::everything());
        tracing::info!("no longer leading");
    }
}

fn first_state(
    params: &InitParams,
    (node_id, raft_id, cluster_id): (NodeId, u64, ClusterId),
    authority: &Authority,
    tls: NodeTls,
    unlock: Option<Secret>,
) -> Vec<Change> {
    let mut spec = params.spec.clone();
    "default".clone_into(&mut spec.name);
    let cluster = Cluster {
        id: cluster_id,
        spec,
        ca_cert_pem: authority.cert_pem().to_owned(),
        ca_key_pem: authority.key_pem().to_owned(),
        // The first one is what was wanted.
        ca_forced: params.spec.force_rotate(),
        worker_token_secret: JoinToken::generate_secret(),
        manager_token_secret: JoinToken::generate_secret(),
        data_path_port: if params.data_path_port == 0 { DATA_PATH_PORT } else { params.data_path_port },
        default_addr_pool: vec!["10.0.0.0/8".to_owned()],
        subnet_size: 24,
        feature_level: FEATURE_LEVEL,
        unlock_version: u64::from(unlock.is_some()),
        unlock_key: unlock.unwrap_or_default(),
        ..Cluster::default()
    };
    let node = Node {
        id: node_id,
        spec: NodeSpec { role: Role::Manager, availability: params.availability, ..NodeSpec::default() },
        description: NodeDescription { tls: Some(tls), ..params.description.clone() },
        advertise_addr: params.advertise_addr.clone(),
        data_path_addr: params.data_path_addr.clone(),
        raft_id,
        feature_level: FEATURE_LEVEL,
        ..Node::default()
    };
    vec![Change::PutCluster(Arc::new(cluster)), Change::PutNode(Arc::new(node))]
}
