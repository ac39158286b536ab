//! A manager whose disk is full: it moves its lead away and stops; the rest of the node goes on. Once there
//! is room, it opens what it has and catches up.

use std::time::Duration;

use skep_manager::{Manager, ManagerError, NoSpace, OpenError};
use tokio::{sync::watch, time::sleep};

use super::{
    node::{Inner, Membership, Place},
    role,
};

/// Between two looks at the disk.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// What users are told meanwhile.
pub(super) fn words(why: &NoSpace) -> String {
    format!("this manager's disk is full: {why}")
}

/// Runs as long as the node is a member.
pub(super) async fn mind(node: &Inner, membership: &Membership) {
    let mut places = node.places();
    loop {
        let is_full = matches!(*places.borrow_and_update(), Place::Full(..));
        if is_full {
            go_on(node, membership).await;
            continue;
        }
        let running = node.manager.lock().await.as_ref().map(Manager::no_space);
        tokio::select! {
            changed = places.changed() => if changed.is_err() { return },
            () = filled(running) => suspend(node, membership).await,
        }
    }
}

/// Returns once the manager's disk is full; never for one that stops otherwise.
async fn filled(running: Option<watch::Receiver<Option<NoSpace>>>) {
    let is_full = match running {
        Some(mut full) => full.wait_for(Option::is_some).await.is_ok(),
        None => false,
    };
    if !is_full {
        std::future::pending::<()>().await;
    }
}

async fn suspend(node: &Inner, membership: &Membership) {
    let mut slot = node.manager.lock().await;
    // Another one may be in its place by now.
    let why = slot.as_ref().and_then(|manager| manager.no_space().borrow().clone());
    let (Some(why), Some(manager)) = (why, slot.take()) else { return };
    tracing::error!(err = %why, "this manager stops, and its tasks run on");
    let current = node.current(membership);
    let listener = current.listener.clone();
    node.set(Place::Full(current, words(&why)));
    manager.stop().await;
    if let Some(listener) = listener {
        listener.set(role::routes_of_worker(membership));
    }
}

/// Waits for room and opens the manager; returns also if this node is to be something else by then.
async fn go_on(node: &Inner, membership: &Membership) {
    let mut places = node.places();
    loop {
        tokio::select! {
            () = sleep(LOOK_AGAIN) => {}
            _ = places.wait_for(|place| !matches!(place, Place::Full(..))) => return,
        }
        let mut slot = node.manager.lock().await;
        if !matches!(node.place(), Place::Full(..)) {
            return;
        }
        let config = node.manager_config();
        if !Manager::has_room(&config) {
            continue;
        }
        match Manager::open(config, membership.identity.clone()).await {
            Ok(manager) => {
                let current = node.current(membership);
                if let Some(listener) = &current.listener {
                    listener.set(role::routes_of_manager(&manager, membership));
                }
                let control = manager.control();
                let has_state = manager.entrance().has_state();
                *slot = Some(manager);
                node.set(if has_state { Place::Manager(current, control) } else { Place::Joining(current) });
                tracing::info!("there is room again: this node is a manager");
                return;
            }
            Err(ManagerError::Open(OpenError::NoSpace(why))) => {
                node.set(Place::Full(node.current(membership), words(&why)));
            }
            Err(error) => {
                let error = anyhow::Error::from(error);
                let words = format!("this manager cannot be opened again: {error:#}");
                tracing::error!(err = words, "trying again");
                node.set(Place::Full(node.current(membership), words));
            }
        }
    }
}
