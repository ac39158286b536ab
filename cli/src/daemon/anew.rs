//! This manager goes on alone (`init --force-new-cluster`), or a manager is made of a backup; and one that the
//! swarm was made anew without steps aside.

use std::{net::SocketAddr, sync::Arc};

use skep_agent::StopReason;
use skep_api::{ApiError, ErrorKind, NodeId, spec::InitRequest, validate};
use skep_manager::{
    Control, Manager, Rotation,
    recovery::{self, RestoreParams, To},
};
use tokio::{
    sync::watch,
    time::{Duration, timeout},
};

use super::{
    address,
    listener::{self, Listener},
    machine,
    member::Member,
    node::{Inner, Membership, Place},
    role,
    swarm::internal,
};
use crate::http::{LOCKED, RestoreRequest};

/// Docker's words (`MB:daemon/cluster/errors.go`, errSwarmNotManager).
const NOT_MANAGER: &str = "This node is not a swarm manager. Worker nodes can't be used to view or modify cluster state. \
     Please run this command on a manager node or promote the current node to a manager.";
/// A manager that is alone leads after this long at most.
const LEADS_WITHIN: Duration = Duration::from_secs(10);
/// What clients send when no listen address was asked for.
const LISTEN_DEFAULT: &str = "0.0.0.0:2377";

fn refuse(words: impl Into<String>) -> ApiError {
    ApiError::new(ErrorKind::Unavailable, words)
}

impl Inner {
    /// Drops the other managers and goes on with all that this one has.
    pub(super) async fn go_on_alone(self: &Arc<Self>, request: InitRequest) -> Result<String, ApiError> {
        validate::init(&request)?;
        let mut slot = self.manager.lock().await;
        let config = self.manager_config();
        if matches!(self.place(), Place::Locked) {
            return Err(refuse(LOCKED));
        }
        let Some(was) = self.membership() else {
            return Err(refuse(
                "this node could not come back as a member: stop the daemon, then \"skep swarm check\" and \"skep swarm recover --state-dir\" say what can be done",
            ));
        };
        if matches!(self.place(), Place::Worker(_)) || !Manager::exists(&config) {
            return Err(refuse(NOT_MANAGER));
        }
        let member = self.member_at(&was.member, &request)?;
        can_listen(was.member.listen_addr, member.listen_addr).await.map_err(|e| internal(&e))?;
        let own: NodeId =
            was.identity.node_id().parse().map_err(|_| refuse("the node's certificate names no node"))?;
        self.keep_role(None);
        self.set(Place::Joining(was.clone()));
        if let Some(manager) = slot.take() {
            manager.stop().await;
        }
        // First: a start after a cut then only sees an address that changed.
        let (dir, to) = (
            config.dir.clone(),
            To {
                advertise_addr: member.advertise_addr.clone(),
                data_path_addr: member.data_path_addr.to_string(),
            },
        );
        let saved = member.save(&self.settings.state_dir).map_err(|e| internal(&e));
        let keys = config.keys.clone();
        let making = move || recovery::make_anew(&dir, own, keys.as_ref(), &to, machine::clock());
        let made = match saved {
            Ok(()) => match tokio::task::spawn_blocking(making).await {
                Ok(made) => made.map_err(|e| internal(&e.into())),
                Err(error) => Err(refuse(error.to_string())),
            },
            Err(error) => Err(error),
        };
        let member = match &made {
            Ok(_) => member,
            Err(_) => {
                was.member.save(&self.settings.state_dir).map_err(|e| internal(&e))?;
                was.member.clone()
            }
        };
        let node_id = was.identity.node_id();
        let opened = self.open_again(&mut slot, was, member).await;
        let control = match opened {
            Ok(control) => control,
            Err(error) => {
                let words = format!("{error:#}");
                self.set(Place::Broken(words));
                return Err(internal(&error));
            }
        };
        drop(slot);
        made?;
        self.take_settings(&control, request).await?;
        Ok(node_id)
    }

    /// Opens the manager at where `member` says, with the agent that runs if nothing changed for it.
    async fn open_again(
        self: &Arc<Self>,
        slot: &mut Option<Manager>,
        was: Membership,
        member: Member,
    ) -> anyhow::Result<Control> {
        let Membership { agent, identity, member: old, listener } = was;
        let moved = old.advertise_addr != member.advertise_addr
            || old.listen_addr != member.listen_addr
            || old.data_path_addr != member.data_path_addr;
        let (agent, listener) = if moved {
            agent.stop(StopReason::Restart).await;
            drop(agent);
            if let Some(listener) = listener {
                listener.stop().await;
            }
            (None, None)
        } else {
            (Some(agent), listener)
        };
        let manager = Manager::open(self.manager_config(), identity.clone()).await?;
        let listener = match listener {
            Some(listener) => listener,
            None => {
                let bound = listener::bind(member.listen_addr).await?;
                Listener::serve(bound, identity.clone(), manager.routes())
            }
        };
        let agent = match agent {
            Some(agent) => agent,
            None => self.start_agent(&identity, &member, true).await?,
        };
        let membership = Membership { agent, identity, member, listener: Some(listener.clone()) };
        listener.set(role::routes_of_manager(&manager, &membership));
        let control = manager.control();
        *slot = Some(manager);
        self.set(Place::Manager(membership.clone(), control.clone()));
        self.keep_role(Some(tokio::spawn(role::follow(self.clone(), membership, None))));
        Ok(control)
    }

    /// Where the node is to be from now on: what is not said stays.
    fn member_at(&self, old: &Member, request: &InitRequest) -> Result<Member, ApiError> {
        let listen_addr = match request.listen_addr.as_str() {
            "" | LISTEN_DEFAULT => old.listen_addr,
            asked => address::listen(asked)?,
        };
        let (ip, addr) = match address::advertised("AdvertiseAddr", &request.advertise_addr)? {
            Some((ip, port)) => {
                let host = address::host(&request.advertise_addr, ip);
                (Some(ip), format!("{host}:{}", port.unwrap_or(listen_addr.port())))
            }
            None => (None, old.advertise_addr.clone()),
        };
        let asked = address::data_path(&request.data_path_addr)?;
        // What followed the address goes on to do so.
        let followed = old.advertise_addr.starts_with(&format!("{}:", old.data_path_addr));
        let data_path_addr = asked.or(ip.filter(|_| followed)).unwrap_or(old.data_path_addr);
        Ok(Member {
            listen_addr,
            data_path_addr,
            managers: vec![addr.clone()],
            asked_addr: if ip.is_some() { request.advertise_addr.clone() } else { old.asked_addr.clone() },
            advertise_addr: addr,
            ..old.clone()
        })
    }

    /// Settings that the request names, upon those that the swarm has (`MB:daemon/cluster/swarm.go:initClusterSpec`).
    async fn take_settings(&self, control: &Control, request: InitRequest) -> Result<(), ApiError> {
        let leading = async {
            loop {
                match control.view().await {
                    Ok(view) => return view,
                    Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                }
            }
        };
        let view = timeout(LEADS_WITHIN, leading).await.map_err(|_| {
            refuse("the swarm is made anew, and this manager does not lead it yet; see its log")
        })?;
        let Some(cluster) = view.cluster() else { return Ok(()) };
        // Docker turns autolock off here unless it is asked for again. Nobody expects that of a recovery.
        let is_locked = request.auto_lock_managers || cluster.spec.autolock();
        let spec = if is_locked { request.spec.with_autolock() } else { request.spec };
        control.update_cluster(cluster.meta.version, spec, Rotation::default()).await
    }

    /// A manager of what a backup holds, on a node without a swarm.
    pub(super) async fn restore(self: &Arc<Self>, request: RestoreRequest) -> Result<String, ApiError> {
        let mut slot = self.manager.lock().await;
        self.refuse_a_second_swarm()?;
        let restored = self.restore_in(&mut slot, request).await;
        if restored.is_err() {
            self.wipe();
        }
        restored
    }

    async fn restore_in(
        self: &Arc<Self>,
        slot: &mut Option<Manager>,
        request: RestoreRequest,
    ) -> Result<String, ApiError> {
        let (addr, port) = self.advertised("AdvertiseAddr", &request.advertise_addr)?;
        let listen_addr = address::listen(&request.listen_addr)?;
        let data_path_addr = self.data_path("", addr)?;
        let host = address::host(&request.advertise_addr, addr);
        let advertise_addr = format!("{host}:{}", port.unwrap_or(listen_addr.port()));
        let path = request.path.clone();
        let reading = move || recovery::backup::read(&path, &request.key);
        let read = tokio::task::spawn_blocking(reading).await.map_err(|e| refuse(e.to_string()))?;
        let (title, store) = read.map_err(|error| ApiError::invalid(error.to_string()))?;
        let data_path_port = store.view().cluster().map_or(0, |cluster| cluster.data_path_port);
        self.check_ports(listen_addr.port(), data_path_port).await?;
        let bound = listener::bind(listen_addr).await.map_err(|e| internal(&e))?;
        self.wipe();
        let config = self.manager_config();
        let params = RestoreParams {
            advertise_addr: advertise_addr.clone(),
            data_path_addr: data_path_addr.to_string(),
            description: machine::description(&self.settings, self.docker.as_ref()),
            identity_dir: self.identity_dir(),
            now: machine::clock(),
        };
        let dir = config.dir.clone();
        let making = move || recovery::restore(&dir, store, &params);
        let made = tokio::task::spawn_blocking(making).await.map_err(|e| refuse(e.to_string()))?;
        let (identity, keys) = made.map_err(|e| internal(&e.into()))?;
        self.keys.send_replace(Some(keys));
        let member = Member {
            format: 1,
            listen_addr,
            advertise_addr: advertise_addr.clone(),
            data_path_addr,
            managers: vec![advertise_addr],
            data_path_port,
            asked_addr: request.advertise_addr,
            default_addr: self.settings.advertise_addr,
        };
        tracing::info!(made_at = title.made_at, revision = title.revision, "restored from a backup");
        let opening = Manager::open(self.manager_config(), identity.clone());
        let manager = opening.await.map_err(|e| internal(&e.into()))?;
        self.begin_as_manager(slot, manager, identity, member, bound).await
    }

    /// Whether the swarm was made anew without this manager.
    pub(super) fn is_dropped(&self) -> bool {
        matches!(self.place(), Place::Refused(_, words) if recovery::is_dropped(&words))
    }
}

/// Whether the node can listen there, as far as that shows while it listens where it did: nothing is stopped for an
/// address that it does not have, or a port that is taken.
async fn can_listen(before: SocketAddr, now: SocketAddr) -> anyhow::Result<()> {
    if before == now {
        return Ok(());
    }
    let port = if before.port() == now.port() { 0 } else { now.port() };
    listener::bind(SocketAddr::new(now.ip(), port)).await.map(drop)
}

/// Steps aside once another manager has said that this one is none any more. What it has on disk stays until it
/// leaves. Runs as long as the node is a member.
pub(super) async fn mind_dropping(node: &Inner, membership: &Membership) {
    let mut places = node.places();
    loop {
        places.borrow_and_update();
        let running = node.manager.lock().await.as_ref().map(Manager::dropped);
        tokio::select! {
            changed = places.changed() => if changed.is_err() { return },
            () = dropped(running) => step_aside(node, membership).await,
        }
    }
}

async fn dropped(running: Option<watch::Receiver<Option<String>>>) {
    let is_dropped = match running {
        Some(mut dropped) => dropped.wait_for(Option::is_some).await.is_ok(),
        None => false,
    };
    if !is_dropped {
        std::future::pending::<()>().await;
    }
}

async fn step_aside(node: &Inner, membership: &Membership) {
    let mut slot = node.manager.lock().await;
    // Another one may be in its place by now.
    let words = slot.as_ref().and_then(|manager| manager.dropped().borrow().clone());
    let (Some(words), Some(manager)) = (words, slot.take()) else { return };
    tracing::error!(err = words, "this manager stops");
    let current = node.current(membership);
    let listener = current.listener.clone();
    node.set(Place::Refused(current, words));
    manager.stop().await;
    if let Some(listener) = listener {
        listener.set(role::routes_of_worker(membership));
    }
}

/// Tells the other managers where this one is, when that is not what they know.
pub(super) async fn mind_address(node: &Inner, membership: &Membership) {
    let mut places = node.places();
    loop {
        places.borrow_and_update();
        let entrance = node.manager.lock().await.as_ref().map(Manager::entrance);
        let telling = async {
            if let Some(entrance) = entrance {
                let addr = &membership.member.advertise_addr;
                entrance.moved(addr, || membership.agent.managers()).await;
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            changed = places.changed() => if changed.is_err() { return },
            () = telling => {}
        }
    }
}
