//! A node's daemon, put together as the real one is: an agent, and a manager where the store wants one.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use skep_agent::{Agent, Config, NodeRole, StopReason};
use skep_api::object::NodeDescription;
use skep_api::spec::{Availability, SwarmSpec};
use skep_api::wire;
use skep_link::{Identity, JoinParams, Role, SharedRoutes};
use skep_manager::{EnterError, Entrance, FEATURE_LEVEL, InitParams, Manager, ManagerConfig};
use tokio::sync::{Mutex, mpsc, watch};
use tokio::time::sleep;
use tonic::service::Routes;
use turmoil::net::TcpListener;

use super::net::{self, PORT};
use super::users;
use super::world::{World, clock_of, host};

/// As the daemon's: the least and the most time between attempts, and after a failed change of role.
const RETRY_MIN: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(3);
const JOIN_MAX: Duration = Duration::from_secs(20);
const MIB: i64 = 1 << 20;

/// A daemon that runs.
struct Daemon {
    id: u64,
    world: World,
    identity: Identity,
    agent: Agent,
    routes: SharedRoutes,
    manager: Mutex<Option<Manager>>,
}

/// Runs until the machine's end, or until it is told to stop. `joins_as` is what a new node is to be.
pub(crate) async fn run(id: u64, joins_as: Role, world: World) -> turmoil::Result {
    let listener = TcpListener::bind(("0.0.0.0", PORT)).await?;
    let (dir, machine, stop) = world.with(id, |slot| {
        slot.is_stopped = false;
        // A process that ended while it joined has left a word unread.
        slot.stop = Arc::default();
        (slot.dir.clone(), slot.machine.clone(), slot.stop.clone())
    });
    let config = manager_config(id, &world);
    let (identity, manager) = match Identity::load(&dir.join("identity"))? {
        Some(identity) => {
            let exists = Manager::exists(&config);
            let manager = if exists { Some(Manager::open(config, identity.clone()).await?) } else { None };
            (identity, manager)
        }
        None if id == 1 => {
            let (manager, identity) = Manager::init(config, init_params(id, &world)).await?;
            (identity, Some(manager))
        }
        None => (join(id, joins_as, &world).await?, None),
    };
    world.with(id, |slot| slot.node = identity.node_id().parse().ok());
    let agent = Agent::start_simulated(agent_config(id, &identity, &world), &machine).await?;
    let routes = match &manager {
        Some(manager) => manager.routes().add_service(agent.prober(Some(manager.knows()))),
        None => Routes::new(agent.prober(None)),
    };
    let daemon = Arc::new(Daemon {
        id,
        world: world.clone(),
        identity: identity.clone(),
        agent,
        routes: routes.into(),
        manager: Mutex::new(None),
    });
    if let Some(manager) = manager {
        daemon.manages(&manager);
        *daemon.manager.lock().await = Some(manager);
    }
    let (api, requests) = mpsc::unbounded_channel();
    world.with(id, |slot| slot.api = Some(api));
    let listener = &listener;
    let serving = skep_link::sim::serve(move || listener.accept(), identity, daemon.routes.clone());
    tokio::select! {
        served = serving => served?,
        () = daemon.follow() => {}
        () = daemon.remember_managers() => {}
        () = users::serve(id, requests, world.clone()) => {}
        () = stop.notified() => {}
    }
    daemon.stop().await;
    // The trouble starts it again.
    std::future::pending().await
}

fn manager_config(id: u64, world: &World) -> ManagerConfig {
    ManagerConfig {
        dir: world.with(id, |slot| slot.dir.join("manager")),
        clock: clock_of(id),
        raft_heartbeat: Duration::from_millis(50),
        raft_election: (Duration::from_millis(250), Duration::from_millis(500)),
        keys: None,
    }
}

fn ip(id: u64) -> Ipv4Addr {
    match turmoil::lookup(host(id)) {
        IpAddr::V4(ip) => ip,
        IpAddr::V6(_) => unreachable!("the simulation has IPv4"),
    }
}

fn init_params(id: u64, world: &World) -> InitParams {
    InitParams {
        advertise_addr: net::addr(id),
        data_path_addr: ip(id).to_string(),
        data_path_port: 0,
        description: NodeDescription::from(description(id)),
        availability: Availability::Active,
        spec: serde_json::from_value::<SwarmSpec>(serde_json::json!({
            // So small that members that were away are sent snapshots.
            "Raft": { "SnapshotInterval": 200, "LogEntriesForSlowFollowers": 20 },
            "Orchestration": { "TaskHistoryRetentionLimit": 2 },
        }))
        .unwrap(),
        identity_dir: world.with(id, |slot| slot.dir.join("identity")),
    }
}

fn description(id: u64) -> wire::NodeDescription {
    wire::NodeDescription {
        hostname: host(id),
        os: "linux".to_owned(),
        arch: "x86_64".to_owned(),
        nano_cpus: 4_000_000_000,
        memory_bytes: 4096 * MIB,
        ..wire::NodeDescription::default()
    }
}

fn agent_config(id: u64, identity: &Identity, world: &World) -> Config {
    let (dir, mut managers) = world.with(id, |slot| (slot.dir.clone(), slot.managers.clone()));
    if managers.is_empty() {
        managers.push(net::addr(if id == 1 { id } else { 1 }));
    }
    Config {
        api_socket: dir.join("api.sock"),
        shim: dir.join("shim"),
        state_dir: dir,
        identity: identity.clone(),
        managers,
        description: description(id),
        data_path_addr: ip(id),
        probe_addr: net::addr(id),
        node_name: host(id),
        clock: clock_of(id),
    }
}

async fn join(id: u64, joins_as: Role, world: &World) -> Result<Identity, Box<dyn std::error::Error>> {
    loop {
        let tokens = world.lock().tokens.clone();
        let (Some((worker, manager)), Some(with)) = (tokens, world.some_manager()) else {
            sleep(RETRY_MIN).await;
            continue;
        };
        let token = if joins_as == Role::Manager { manager } else { worker }.parse()?;
        let params = JoinParams {
            description: description(id),
            data_path_addr: ip(id).to_string(),
            availability: String::new(),
            feature_level: FEATURE_LEVEL,
        };
        match skep_link::join(&net::addr(with), &token, params, JOIN_MAX).await {
            Ok(joined) => {
                joined.identity.save(&world.with(id, |slot| slot.dir.join("identity")))?;
                world.with(id, |slot| slot.managers = joined.managers);
                return Ok(joined.identity);
            }
            Err(error) => world.note(format!("n{id} does not join yet: {error}")),
        }
        sleep(RETRY_MIN).await;
    }
}

impl Daemon {
    /// The node is a manager: users may ask it.
    fn manages(&self, manager: &Manager) {
        let control = manager.control();
        self.world.with(self.id, |slot| (slot.control, slot.looked_at) = (Some(control), 0));
    }

    fn manages_no_more(&self) {
        self.world.with(self.id, |slot| slot.control = None);
        self.routes.set(Routes::new(self.agent.prober(None)));
    }

    async fn stop(&self) {
        self.world.with(self.id, |slot| slot.api = None);
        self.agent.stop(StopReason::Restart).await;
        let manager = self.manager.lock().await.take();
        self.world.with(self.id, |slot| slot.control = None);
        if let Some(manager) = manager {
            manager.stop().await;
        }
        self.world.with(self.id, |slot| slot.is_stopped = true);
    }

    async fn remember_managers(&self) {
        let mut known = self.agent.managers_known();
        loop {
            let managers = known.borrow_and_update().clone();
            self.world.with(self.id, |slot| slot.managers = managers);
            if known.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// Becomes what the store says that it is to be.
    async fn follow(&self) {
        let mut told = self.agent.role();
        let mut removed = self.agent.removed();
        loop {
            let wanted = *told.borrow_and_update();
            let changing = async {
                match wanted {
                    Some(role) if role.manager => self.promote(role, told.clone()).await,
                    Some(role) if role.raft_id == 0 => self.demote(told.clone()).await,
                    Some(_) | None => true,
                }
            };
            let done = tokio::select! {
                done = changing => done,
                Ok(_) = removed.wait_for(Option::is_some) => {
                    if self.give_up().await {
                        return std::future::pending().await;
                    }
                    sleep(RETRY_MAX).await;
                    continue;
                }
            };
            let entrance = self.manager.lock().await.as_ref().map(Manager::entrance);
            let waiting = async {
                match entrance {
                    _ if !done => sleep(RETRY_MAX).await,
                    Some(entrance) => entrance.lost().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = told.changed() => if changed.is_err() { return std::future::pending().await },
                Ok(_) = removed.wait_for(Option::is_some) => {}
                () = waiting => {}
            }
        }
    }

    /// False if it is a manager in good standing, and goes on.
    async fn give_up(&self) -> bool {
        let mut slot = self.manager.lock().await;
        if slot.as_ref().is_some_and(|manager| manager.entrance().is_heard()) {
            return false;
        }
        self.world.note(format!("n{} was removed", self.id));
        self.world.with(self.id, |slot| slot.is_removed = true);
        self.manages_no_more();
        if let Some(manager) = slot.take() {
            manager.stop().await;
        }
        true
    }

    async fn promote(&self, role: NodeRole, mut told: watch::Receiver<Option<NodeRole>>) -> bool {
        if !self.renew(Role::Manager, told.clone()).await {
            return true;
        }
        let Ok(entrance) = self.open(role).await else { return false };
        let own = net::addr(self.id);
        let entered = tokio::select! {
            entered = entrance.enter(&own, || self.agent.managers()) => entered,
            _ = told.wait_for(|role| role.is_some_and(|role| !role.manager)) => return true,
        };
        match entered {
            Ok(()) => {}
            Err(error @ EnterError::Refused(_)) => {
                self.world.note(format!("n{} is not taken in: {error}", self.id));
                return false;
            }
            Err(EnterError::Stopped) => return true,
        }
        let slot = self.manager.lock().await;
        if let Some(manager) = slot.as_ref().filter(|m| m.entrance().raft_id() == entrance.raft_id()) {
            self.manages(manager);
            self.world.note(format!("n{} is a manager", self.id));
        }
        true
    }

    async fn open(&self, role: NodeRole) -> Result<Entrance, skep_manager::ManagerError> {
        let mut slot = self.manager.lock().await;
        if let Some(manager) = slot.as_ref() {
            let entrance = manager.entrance();
            let is_let_go =
                entrance.has_state() && entrance.raft_id() != role.raft_id && !entrance.is_heard();
            if !is_let_go {
                return Ok(entrance);
            }
        }
        if let Some(manager) = slot.take() {
            self.manages_no_more();
            manager.stop().await;
        }
        self.world.fresh_disk(self.id);
        let config = manager_config(self.id, &self.world);
        let manager = Manager::fresh(config, self.identity.clone()).await?;
        self.routes.set(manager.routes().add_service(self.agent.prober(Some(manager.knows()))));
        let entrance = manager.entrance();
        *slot = Some(manager);
        Ok(entrance)
    }

    async fn demote(&self, told: watch::Receiver<Option<NodeRole>>) -> bool {
        let mut slot = self.manager.lock().await;
        if let Some(manager) = slot.take() {
            self.manages_no_more();
            manager.stop().await;
            if Manager::wipe(&manager_config(self.id, &self.world)).is_err() {
                return false;
            }
            self.world.note(format!("n{} is no manager any more", self.id));
        }
        drop(slot);
        self.renew(Role::Worker, told).await;
        true
    }

    /// False if something else is wanted by now.
    async fn renew(&self, role: Role, mut told: watch::Receiver<Option<NodeRole>>) -> bool {
        let mut pause = RETRY_MIN;
        while self.identity.role() != role {
            for addr in self.agent.managers() {
                let Ok(channel) = skep_link::connect(&addr, &self.identity).await else { continue };
                if let Ok(renewed) = skep_link::renew(channel, &self.identity).await
                    && renewed.role() == role
                {
                    renewed.save(&self.world.with(self.id, |slot| slot.dir.join("identity"))).unwrap();
                    self.identity.replace(&renewed);
                    return true;
                }
            }
            let is_overtaken =
                |now: &Option<NodeRole>| now.is_some_and(|now| now.manager != (role == Role::Manager));
            tokio::select! {
                () = sleep(pause) => {}
                _ = told.wait_for(is_overtaken) => return false,
            }
            pause = (pause * 2).min(RETRY_MAX);
        }
        true
    }
}
