//! Follows what the store says this node is to be: a worker that is promoted becomes a manager, a manager
//! that is demoted goes on as a worker. Its tasks run throughout.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use skep_agent::NodeRole;
use skep_link::Role;
use skep_manager::{EnterError, Entrance, Manager, recovery};
use tokio::{sync::watch, time::sleep};
use tonic::service::Routes;

use super::{
    anew,
    listener::{self, Listener},
    lock,
    node::{Inner, Membership, Place},
    renewal, room,
};

/// The first pause before the managers are asked for a certificate again, doubled each time,
const RETRY_MIN: Duration = Duration::from_millis(50);
/// up to this.
const RETRY_MAX: Duration = Duration::from_secs(3);
/// A change of role that failed is tried again after this long.
const CHANGE_RETRY: Duration = Duration::from_secs(3);

/// What `info` says of a node that the managers have removed.
const REMOVED: &str =
    "this node was removed from the swarm: \"docker swarm leave\" here, then it may join again";

/// Why a change of role has not come about.
enum NotYet {
    /// This node is none of the swarm any more.
    Removed,
    /// Something else is wanted by now.
    Overtaken,
    /// A manager's disk is full.
    Full,
    /// Asking again will not help: in words for the user.
    Refused(String),
    /// It is tried again.
    Failed(anyhow::Error),
}

impl From<anyhow::Error> for NotYet {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(error)
    }
}

/// Runs as long as the node is a member. `first` is what a join granted; else the agent's session tells.
pub(super) async fn follow(node: Arc<Inner>, membership: Membership, first: Option<NodeRole>) {
    tokio::join!(
        follow_role(&node, &membership, first),
        remember_managers(&node, &membership),
        renewal::keep(&node, &membership),
        room::mind(&node, &membership),
        anew::mind_dropping(&node, &membership),
        anew::mind_address(&node, &membership),
        tell_agent(&node, &membership),
        lock::mind(&node, &membership)
    );
}

/// The next start begins with the managers that there are now: those of the join may be gone by then.
async fn remember_managers(node: &Inner, membership: &Membership) {
    let mut known = membership.agent.managers_known();
    let mut member = membership.member.clone();
    loop {
        let managers = known.borrow_and_update().clone();
        if !managers.is_empty() && managers != member.managers {
            member.managers = managers;
            if let Err(error) = member.save(&node.settings.state_dir) {
                tracing::warn!(err = format!("{error:#}"), "cannot keep the managers' addresses");
            }
        }
        if known.changed().await.is_err() {
            return;
        }
    }
}

/// A manager's agent looks for managers where its own manager knows them to be: it had no session, perhaps, while they
/// moved.
async fn tell_agent(node: &Inner, membership: &Membership) {
    let mut places = node.places();
    let mut connected = membership.agent.connected();
    loop {
        places.borrow_and_update();
        let entrance = node.manager.lock().await.as_ref().map(Manager::entrance);
        let telling = async {
            let Some(entrance) = entrance else { return std::future::pending().await };
            let mut members = entrance.members();
            loop {
                if !*connected.borrow_and_update() {
                    membership.agent.hear_of(members.borrow_and_update().clone());
                }
                tokio::select! {
                    changed = members.changed() => if changed.is_err() { return },
                    changed = connected.changed() => if changed.is_err() { return },
                }
            }
        };
        tokio::select! {
            changed = places.changed() => if changed.is_err() { return },
            // That manager is none any more.
            () = telling => sleep(CHANGE_RETRY).await,
        }
    }
}

async fn follow_role(node: &Inner, membership: &Membership, first: Option<NodeRole>) {
    let mut told = membership.agent.role();
    let mut removed = membership.agent.removed();
    let mut wanted = *told.borrow_and_update();
    if wanted.is_none() {
        wanted = first;
    }
    loop {
        let changing = async {
            match wanted {
                // It goes on with the state that it has, once there is room.
                Some(role) if role.manager && matches!(node.place(), Place::Full(..)) => Err(NotYet::Full),
                // What it has stays until its users have it leave.
                Some(_) if node.is_dropped() => Err(NotYet::Full),
                Some(role) if role.manager => promote(node, membership, role, told.clone()).await,
                // It is demoted once the others have let it go.
                Some(role) if role.raft_id == 0 => demote(node, membership, told.clone()).await,
                Some(_) | None => Ok(()),
            }
        };
        let outcome = tokio::select! {
            outcome = changing => outcome,
            Ok(_) = removed.wait_for(Option::is_some) => Err(NotYet::Removed),
        };
        if outcome.is_ok() {
            node.trouble("");
        }
        let again = match outcome {
            Ok(()) | Err(NotYet::Overtaken) if !matches!(node.place(), Place::Full(..)) => None,
            Ok(()) | Err(NotYet::Overtaken | NotYet::Full) => Some(CHANGE_RETRY),
            Err(NotYet::Removed) => {
                if !give_up(node, membership).await {
                    sleep(CHANGE_RETRY).await;
                    continue;
                }
                if removed.wait_for(Option::is_none).await.is_err() {
                    return;
                }
                if !node.is_dropped() {
                    node.set(Place::Worker(node.current(membership)));
                }
                None
            }
            Err(NotYet::Refused(words)) => {
                tracing::error!(err = words, "this node cannot become a manager");
                node.refused(&words).await;
                Some(CHANGE_RETRY)
            }
            Err(NotYet::Failed(error)) => {
                tracing::error!(err = format!("{error:#}"), "this node cannot change its role; trying again");
                Some(CHANGE_RETRY)
            }
        };
        let entrance = node.manager.lock().await.as_ref().map(Manager::entrance);
        let waiting = async {
            match (again, entrance) {
                (Some(pause), _) => sleep(pause).await,
                // It comes in once more, as the managers that it knows may be others by now.
                (None, Some(entrance)) => entrance.lost().await,
                (None, None) => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = told.changed() => if changed.is_err() { return },
            Ok(_) = removed.wait_for(Option::is_some) => {}
            () = waiting => {}
        }
        wanted = told.borrow_and_update().or(wanted);
    }
}

/// The managers have removed this node: it is none of the swarm, whatever it was. What it has on disk stays
/// until it leaves. False if it is a manager in good standing, and goes on.
async fn give_up(node: &Inner, membership: &Membership) -> bool {
    let mut slot = node.manager.lock().await;
    if slot.as_ref().is_some_and(|manager| manager.entrance().is_heard()) {
        tracing::error!("a manager refuses this node, which is a manager itself: it goes on");
        return false;
    }
    let current = node.current(membership);
    if let Some(manager) = slot.take() {
        if let Some(listener) = &current.listener {
            listener.set(routes_of_worker(membership));
        }
        manager.stop().await;
    }
    if !node.is_dropped() {
        let said = membership.agent.removed().borrow().clone();
        let words = said.filter(|words| recovery::is_dropped(words)).unwrap_or_else(|| REMOVED.to_owned());
        node.set(Place::Refused(current, words));
    }
    true
}

/// What a node serves that is no manager.
pub(super) fn routes_of_worker(membership: &Membership) -> Routes {
    Routes::new(membership.agent.prober(None))
}

/// What a manager serves.
pub(super) fn routes_of_manager(manager: &Manager, membership: &Membership) -> Routes {
    manager.routes().add_service(membership.agent.prober(Some(manager.knows())))
}

async fn promote(
    node: &Inner,
    membership: &Membership,
    role: NodeRole,
    told: watch::Receiver<Option<NodeRole>>,
) -> Result<(), NotYet> {
    renew(node, membership, Role::Manager, told.clone()).await?;
    let entrance = open(node, membership, role).await?;
    let managers = || membership.agent.managers();
    let mut newer = told;
    let entering = entrance.enter(&membership.member.advertise_addr, managers);
    let entered = tokio::select! {
        entered = entering => entered,
        _ = newer.wait_for(|role| role.is_some_and(|role| !role.manager)) => return Err(NotYet::Overtaken),
    };
    match entered {
        Ok(()) => {}
        Err(EnterError::Refused(words)) => return Err(NotYet::Refused(words)),
        Err(EnterError::Stopped) => return Err(NotYet::Overtaken),
    }
    let slot = node.manager.lock().await;
    if let Some(manager) = slot.as_ref().filter(|manager| manager.entrance().raft_id() == entrance.raft_id())
        && !matches!(node.place(), Place::Manager(..))
    {
        node.set(Place::Manager(node.current(membership), manager.control()));
        tracing::info!("this node is a manager");
    }
    Ok(())
}

/// The manager that runs, or a fresh one.
async fn open(node: &Inner, membership: &Membership, role: NodeRole) -> anyhow::Result<Entrance> {
    let mut slot = node.manager.lock().await;
    let running = slot.as_ref().map(Manager::entrance);
    if let Some(entrance) = running {
        // A member of another id, or of none, that nobody talks to: it was let go while it was away, and
        // raft ids are never used again. But for one that goes on alone: that was told of before it did.
        let is_let_go = entrance.has_state()
            && entrance.raft_id() != role.raft_id
            && !entrance.is_heard()
            && !entrance.is_alone().await;
        if !is_let_go {
            return Ok(entrance);
        }
        tracing::warn!("the swarm let this manager go while it was away; it comes in anew");
    }
    if let Some(manager) = slot.take() {
        node.set(Place::Worker(node.current(membership)));
        manager.stop().await;
    }
    let listener = match node.current(membership).listener {
        Some(listener) => listener,
        None => {
            let bound = listener::bind(membership.member.listen_addr).await?;
            Listener::serve(bound, membership.identity.clone(), routes_of_worker(membership))
        }
    };
    let config = node.manager_config();
    let manager =
        Manager::fresh(config, membership.identity.clone()).await.context("cannot open a manager")?;
    node.keep_keys(&manager);
    listener.set(routes_of_manager(&manager, membership));
    node.amend(|current| current.listener = Some(listener));
    let entrance = manager.entrance();
    *slot = Some(manager);
    Ok(entrance)
}

async fn demote(
    node: &Inner,
    membership: &Membership,
    told: watch::Receiver<Option<NodeRole>>,
) -> Result<(), NotYet> {
    let mut slot = node.manager.lock().await;
    let running = slot.take();
    if running.is_some() || matches!(node.place(), Place::Full(..)) {
        let current = node.current(membership);
        if let Some(listener) = &current.listener {
            listener.set(routes_of_worker(membership));
        }
        node.set(Place::Worker(current));
        if let Some(manager) = running {
            manager.stop().await;
        }
        {
            let _renewing = node.renewing.lock().await;
            node.let_go_of_keys(&membership.identity).context("cannot keep this node's key")?;
        }
        Manager::wipe(&node.manager_config()).context("cannot remove the manager's state")?;
        tracing::info!("this node is no manager any more; its tasks run on");
    }
    drop(slot);
    renew(node, membership, Role::Worker, told).await
}

/// Gets a certificate for the role that the store gives this node, from any manager.
async fn renew(
    node: &Inner,
    membership: &Membership,
    role: Role,
    mut told: watch::Receiver<Option<NodeRole>>,
) -> Result<(), NotYet> {
    let identity = &membership.identity;
    let mut pause = RETRY_MIN;
    while identity.role() != role {
        match renewal::ask_any(node, membership, |renewed| renewed.role() == role).await {
            Ok(()) => return Ok(()),
            Err(why) => tracing::debug!(err = why, "no new certificate yet"),
        }
        let is_overtaken =
            |now: &Option<NodeRole>| now.is_some_and(|now| now.manager != (role == Role::Manager));
        tokio::select! {
            () = sleep(pause) => {}
            _ = told.wait_for(is_overtaken) => return Err(NotYet::Overtaken),
        }
        pause = (pause * 2).min(RETRY_MAX);
    }
    Ok(())
}
