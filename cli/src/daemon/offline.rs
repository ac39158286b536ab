//! Work on the state directory of a daemon that does not run.

use std::{fs, path::Path};

use anyhow::{Context as _, bail, ensure};
use skep_api::NodeId;
use skep_link::{Identity, KeyBox};
use skep_manager::{
    Keys, NodeKeyBox, OpenError, UnlockKey,
    recovery::{
        self, Preview, To,
        check::{self, Report},
    },
};

use super::{address, machine, member::Member};

/// The file of the agent's records begins with this (the format of redb).
const REDB_MAGIC: &[u8] = b"redb\x1a\x0a\xa9\x0d\x0a";
const JOIN_ANEW: &str = "\"skep swarm leave --force\" here, then join again";

struct Here {
    member: Member,
    own: NodeId,
    /// None where there are none: what has to be there says so.
    keys: Option<Keys>,
}

fn here(state_dir: &Path, unlock: Option<&UnlockKey>) -> anyhow::Result<Here> {
    let own = Identity::node_id_in(&state_dir.join("identity")).context("this node's identity")?;
    let own = own.with_context(|| format!("{} holds no member of a swarm", state_dir.display()))?;
    let own = own.parse().context("the node's certificate names no node")?;
    let member = Member::load(state_dir)?.with_context(|| {
        format!("{} is missing: see \"skep swarm check\"", state_dir.join("member.json").display())
    })?;
    let raft = state_dir.join("manager").join("raft");
    let opened = Keys::exist(&raft).then(|| Keys::open(&raft, unlock)).transpose();
    let keys = opened.map_err(|error| {
        let is_locked = matches!(error, OpenError::KeyLocked { .. });
        let error = anyhow::Error::from(error);
        if is_locked { error.context("give the unlock key with --unlock-key-file") } else { error }
    })?;
    Ok(Here { member, own, keys })
}

/// What the manager there has, and what recovering it would drop.
///
/// # Errors
/// It runs; it is none; its state cannot be read.
pub(crate) fn preview(state_dir: &Path, unlock: Option<&UnlockKey>) -> anyhow::Result<Preview> {
    let Here { own, keys, .. } = here(state_dir, unlock)?;
    Ok(recovery::preview(&state_dir.join("manager"), own, keys.as_ref())?)
}

/// Makes the swarm anew of it. An address that is not said stays.
///
/// # Errors
/// As [`preview`]; nothing was changed.
pub(crate) fn recover(
    state_dir: &Path,
    unlock: Option<&UnlockKey>,
    advertise_addr: &str,
) -> anyhow::Result<Preview> {
    let Here { member, own, keys } = here(state_dir, unlock)?;
    let dir = state_dir.join("manager");
    // It also makes sure that no daemon runs.
    recovery::preview(&dir, own, keys.as_ref())?;
    let mut new = member.clone();
    if let Some((addr, port)) = address::advertised("--advertise-addr", advertise_addr)? {
        let followed = member.advertise_addr.starts_with(&format!("{}:", member.data_path_addr));
        let host = address::host(advertise_addr, addr);
        new.advertise_addr = format!("{host}:{}", port.unwrap_or(member.listen_addr.port()));
        new.asked_addr = advertise_addr.to_owned();
        if followed {
            new.data_path_addr = addr;
        }
    }
    new.managers = vec![new.advertise_addr.clone()];
    let to =
        To { advertise_addr: new.advertise_addr.clone(), data_path_addr: new.data_path_addr.to_string() };
    // First: a start after a cut then only sees an address that changed.
    new.save(state_dir)?;
    match recovery::make_anew(&dir, own, keys.as_ref(), &to, machine::clock()) {
        Ok(preview) => Ok(preview),
        Err(error) => {
            member.save(state_dir)?;
            Err(error.into())
        }
    }
}

/// Explains each file; what is locked is looked into with its `unlock` key. Changes nothing.
///
/// # Errors
/// There is no such directory, or its daemon runs.
pub(crate) fn check(state_dir: &Path, unlock: Option<&UnlockKey>) -> anyhow::Result<Vec<Report>> {
    ensure!(state_dir.is_dir(), "{} is no directory", state_dir.display());
    let member_file = state_dir.join("member.json");
    let identity_dir = state_dir.join("identity");
    let manager_dir = state_dir.join("manager");
    if !member_file.exists() && !identity_dir.exists() && !manager_dir.exists() {
        bail!("{} holds nothing of a swarm: no member.json, identity or manager", state_dir.display());
    }
    if recovery::is_running(&manager_dir) {
        bail!(
            "a daemon runs on {}: what it is writing would look torn; stop it first, or check a copy",
            state_dir.display()
        );
    }
    let mut reports = vec![match Member::load(state_dir) {
        Ok(Some(member)) => Report::ok(
            &member_file,
            format!(
                "reached at {}, listens on {}, knows the managers {}",
                member.advertise_addr,
                member.listen_addr,
                member.managers.join(", ")
            ),
        ),
        Ok(None) => Report::missing(
            &member_file,
            "without it the daemon takes this node for none of a swarm",
            JOIN_ANEW,
        ),
        Err(error) => Report::damaged(&member_file, format!("{error:#}"), JOIN_ANEW),
    }];
    let key_box = Keys::open(&manager_dir.join("raft"), unlock).ok().map(NodeKeyBox);
    let key_box = key_box.as_ref().map(|key_box| key_box as &dyn KeyBox);
    reports.extend(check::identity(&identity_dir, key_box, machine::clock() / 1_000_000_000));
    reports.extend(check::manager(&manager_dir, unlock));
    for (name, words) in [
        (
            "manager.before",
            "the manager's state before the swarm was made anew of it; remove it once all is well",
        ),
        ("manager.new", "left of a recovery that was cut off; the next start removes it"),
    ] {
        let path = state_dir.join(name);
        if path.exists() {
            reports.push(Report::ok(path, words));
        }
    }
    reports.push(agent(&state_dir.join("agent").join("agent.redb")));
    Ok(reports)
}

/// It is learnt anew from the containers and the managers: damage costs nothing but time.
fn agent(path: &Path) -> Report {
    match fs::read(path) {
        Ok(bytes) if bytes.starts_with(REDB_MAGIC) => {
            Report::ok(path, format!("what the agent remembers of its tasks, {} bytes", bytes.len()))
        }
        Ok(_) => Report::ok(
            path,
            "damaged; moved aside at the next start, and learnt anew from the containers and the managers",
        ),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Report::ok(path, "not there; learnt anew from the containers and the managers")
        }
        Err(error) => Report::damaged(path, error.to_string(), "look at the disk and at the file's mode"),
    }
}
