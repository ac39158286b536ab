//! A swarm made anew of a real manager's directory, cut off at each step; backups and what damages them.

use std::{collections::BTreeSet, fs, io, sync::Arc, time::Duration};

use skep_api::{
    Id, NodeId, Secret, TicketId, Timestamp,
    object::{Node, NodeState, Ticket},
    spec::{NodeSpec, Role, SwarmSpec},
};
use skep_raft::{Keys, UnlockKey};
use skep_store::Change;
use tempfile::TempDir;

use super::{
    RecoveryError, anew,
    backup::{self, BackupError, Sealed, Title},
    is_of_a_newer_swarm, preview,
};
use crate::{
    Manager, ManagerConfig, NodeKeyBox, OpenError,
    recovery::To,
    rig::{clock, config, first_manager},
};

const OTHER: NodeId = NodeId(Id(7));
const WORKER: NodeId = NodeId(Id(8));

fn to(addr: &str) -> To {
    To { advertise_addr: addr.to_owned(), data_path_addr: "127.0.0.9".to_owned() }
}

/// A stopped manager whose state has another manager and a worker.
async fn stopped() -> (NodeId, skep_link::Identity, TempDir) {
    let (manager, identity, dir) = first_manager().await;
    let control = manager.control();
    let node = |id, role, addr: &str| {
        let spec = NodeSpec { role, ..NodeSpec::default() };
        let mut node = Node { id, spec, advertise_addr: addr.to_owned(), ..Node::default() };
        node.status.state = NodeState::Ready;
        Change::PutNode(Arc::new(node))
    };
    let ticket = |n, uses_left| {
        Change::PutTicket(Arc::new(Ticket { id: TicketId(Id(n)), uses_left, ..Ticket::default() }))
    };
    let changes = vec![
        node(OTHER, Role::Manager, "127.0.0.1:2"),
        node(WORKER, Role::Worker, ""),
        ticket(1, Some(2)),
        ticket(2, Some(0)),
    ];
    control.shared.write(Vec::new(), changes).await.unwrap();
    manager.stop().await;
    (control.node_id(), identity, dir)
}

#[tokio::test(flavor = "multi_thread")]
async fn one_manager_goes_on_with_all_that_it_has() {
    let (own, identity, dir) = stopped().await;
    let state = dir.path().join("manager");
    let seen = preview(&state, own, None).unwrap();
    assert_eq!((seen.nodes, seen.dropped.len(), seen.is_no_voter), (3, 1, false));
    assert!(seen.last_write_at.is_some() && seen.last_entry > 0);
    assert!(matches!(preview(&state, NodeId(Id(9)), None), Err(RecoveryError::NotInState(_))));
    let before = super::find(&state, own, None).unwrap().store.view();

    anew::make_anew(&state, own, None, &to("127.0.0.1:99"), clock()).unwrap();
    let manager = Manager::open(config(dir.path()), identity).await.unwrap();
    // What its session was told before must not make it come in anew, without what it has.
    assert!(manager.entrance().is_alone().await);
    let control = manager.control();
    let view = control.view().await.unwrap();
    assert!(is_of_a_newer_swarm(view.revision(), before.revision()));
    let (node, other, worker) =
        (view.node(own).unwrap(), view.node(OTHER).unwrap(), view.node(WORKER).unwrap());
    assert_eq!((node.advertise_addr.as_str(), node.data_path_addr.as_str()), ("127.0.0.1:99", "127.0.0.9"));
    assert_ne!(node.raft_id, before.node(own).unwrap().raft_id);
    // As in Swarm: a manager by its spec, a member no more, and down.
    assert!(other.dropped && other.raft_id == 0 && other.spec.role == Role::Manager);
    assert_eq!(other.status.state, NodeState::Down);
    assert!(control.manager_status(other).is_none());
    // The new leader may have given it an address on the mesh already.
    let as_before = |node: &Node| (node.spec.clone(), node.status.clone(), node.dropped);
    assert_eq!(as_before(worker), as_before(before.node(WORKER).unwrap()));
    let secrets = |view: &skep_store::View| {
        let cluster = view.cluster().unwrap();
        (cluster.ca_key_pem.clone(), cluster.worker_token_secret.clone(), cluster.id)
    };
    assert_eq!(secrets(&view), secrets(&before));
    // It may be used up or revoked in what was lost.
    let over: Vec<_> = view.tickets().map(|ticket| ticket.over(Timestamp(1)).unwrap().as_str()).collect();
    assert_eq!(over, ["revoked (swarm restored)", "used up"]);
    let is_known = |node| manager.knows()(node, skep_link::Role::Manager);
    assert!(!is_known(OTHER) && is_known(WORKER));
    // It is removed as any node that is down.
    // The leader may be writing to it.
    let removing = async { while control.remove_node(OTHER, false).await.is_err() {} };
    tokio::time::timeout(Duration::from_secs(10), removing).await.unwrap();
    manager.stop().await;
    assert!(dir.path().join("manager.before").join("raft-id").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn cut_off_anywhere_there_is_the_old_or_the_new() {
    let mut n_old = 0;
    let mut seen = BTreeSet::new();
    for at in 0.. {
        let (own, identity, dir) = stopped().await;
        let state = dir.path().join("manager");
        let old = preview(&state, own, None).unwrap();
        let (mut n, mut name) = (0, "");
        let made = anew::make_anew_in_steps(&state, own, None, &to("127.0.0.1:99"), clock(), &mut |step| {
            name = step;
            n += 1;
            if n > at { Err(io::Error::other("cut off")) } else { Ok(()) }
        });
        let is_through = made.is_ok();
        seen.insert(name);
        let now = preview(&state, own, None).unwrap();
        let is_old = now == old;
        n_old += usize::from(is_old);
        assert!(is_old || now.dropped.is_empty(), "cut off at {name}: {now:?}");
        let manager = Manager::open(config(dir.path()), identity).await.unwrap();
        let addr = manager.control().view().await.unwrap().node(own).unwrap().advertise_addr.clone();
        assert_eq!(addr == "127.0.0.1:99", !is_old, "cut off at {name}");
        manager.stop().await;
        assert!(!dir.path().join("manager.new").exists(), "the next start cleans up");
        if is_through {
            break;
        }
        // Tried again, it comes about.
        anew::make_anew(&state, own, None, &to("127.0.0.1:99"), clock()).unwrap();
    }
    assert!(n_old >= 3 && seen.contains("exchanged") && seen.contains("done"), "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_is_read_back_and_no_damage_passes() {
    let (own, _, dir) = stopped().await;
    let store = super::find(&dir.path().join("manager"), own, None).unwrap().store;
    let key = Secret::new("a passphrase");
    let title = Title::of(&store.view(), 5, clock(), Sealed::Key);
    let mut bytes = Vec::new();
    backup::write(&mut bytes, &store, &title, &key).unwrap();
    let path = dir.path().join("backup");
    fs::write(&path, &bytes).unwrap();
    assert_eq!(backup::verify_sum(&path).unwrap(), title);
    let (read, restored) = backup::read(&path, &key).unwrap();
    assert!(read == title && restored == store);
    let ca_key = store.view().cluster().unwrap().ca_key_pem.clone();
    let is_inside = |text: &str| bytes.windows(text.len()).any(|part| part == text.as_bytes());
    assert!(!is_inside(&ca_key[30..60]), "nothing secret is plain");

    assert!(matches!(backup::read(&path, &Secret::new("another")), Err(BackupError::WrongKey { .. })));
    let mut newer = bytes.clone();
    newer[8] = 2;
    fs::write(&path, &newer).unwrap();
    assert!(matches!(backup::verify_sum(&path), Err(BackupError::Version { found: 2, .. })));
    for at in (0..bytes.len()).step_by(97) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1;
        fs::write(&path, &damaged).unwrap();
        assert!(backup::verify_sum(&path).is_err(), "byte {at}");
    }
    for len in [0, 7, 11, 40, bytes.len() / 2, bytes.len() - 1] {
        fs::write(&path, &bytes[..len]).unwrap();
        assert!(backup::verify_sum(&path).is_err(), "cut at {len}");
        assert!(backup::read(&path, &key).is_err(), "cut at {len}");
    }
    // Whoever adds something to it can also make the sum right.
    let mut longer = bytes[..bytes.len() - 32].to_vec();
    longer.extend_from_slice(b"more");
    let sum = ring::digest::digest(&ring::digest::SHA256, &longer);
    longer.extend_from_slice(sum.as_ref());
    fs::write(&path, &longer).unwrap();
    assert!(matches!(backup::read(&path, &key), Err(BackupError::Damaged { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_manager_is_a_new_node_of_the_same_swarm() {
    let (own, identity, dir) = stopped().await;
    let store = super::find(&dir.path().join("manager"), own, None).unwrap().store;
    let fresh = tempfile::tempdir().unwrap();
    let params = super::RestoreParams {
        advertise_addr: "127.0.0.1:98".to_owned(),
        data_path_addr: "127.0.0.1".to_owned(),
        description: skep_api::object::NodeDescription::default(),
        identity_dir: fresh.path().join("identity"),
        now: clock(),
    };
    let (restored, _) = super::restore(&fresh.path().join("manager"), store.clone(), &params).unwrap();
    assert_eq!(restored.cluster_id(), identity.cluster_id());
    assert_ne!(restored.node_id(), identity.node_id());
    let manager = Manager::open(config(fresh.path()), restored).await.unwrap();
    let view = manager.control().view().await.unwrap();
    assert!(is_of_a_newer_swarm(view.revision(), store.view().revision()));
    assert!(view.node(own).unwrap().dropped && view.node(OTHER).unwrap().dropped);
    assert!(!view.node(WORKER).unwrap().dropped);
    manager.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_locked_is_read_and_made_anew_with_the_unlock_key_alone() {
    let (manager, identity, dir) = first_manager().await;
    let (control, own, state) = (manager.control(), manager.control().node_id(), dir.path().join("manager"));
    let version = control.view().await.unwrap().cluster().unwrap().meta.version;
    control
        .update_cluster(version, SwarmSpec::default().with_autolock(), crate::Rotation::default())
        .await
        .unwrap();
    let text = control.unlock_key().await.unwrap();
    let unlock = crate::parse_unlock_key(&text).unwrap();
    let mut changed = manager.keys().unwrap().changed();
    let keys = manager.keys().unwrap();
    changed.wait_for(|_| keys.lock().0).await.unwrap();
    manager.stop().await;
    let raft = state.join("raft");
    let is_locked = |error| matches!(error, RecoveryError::Open(OpenError::KeyLocked { .. }));
    assert!(is_locked(preview(&state, own, None).unwrap_err()));
    let findings = super::check::manager(&state, None);
    assert!(findings.iter().all(super::check::Report::is_ok), "{findings:?}");
    let wrong = super::check::manager(&state, Some(&UnlockKey::new([0; 32])));
    assert!(wrong.iter().any(|report| report.words.contains("another unlock key")), "{wrong:?}");
    let right = super::check::manager(&state, Some(&unlock));
    assert!(right.iter().any(|report| report.words.contains("the log as a whole")), "{right:?}");

    let keys = Keys::open(&raft, Some(&unlock)).unwrap();
    anew::make_anew(&state, own, Some(&keys), &to("127.0.0.1:99"), clock()).unwrap();
    assert!(Keys::are_wrapped(&raft).unwrap());
    let config_of = |dir, keys| ManagerConfig { keys: Some(keys), ..config(dir) };
    let keys = Keys::open(&raft, Some(&unlock)).unwrap();
    let manager = Manager::open(config_of(dir.path(), keys), identity).await.unwrap();
    assert_eq!(manager.control().view().await.unwrap().node(own).unwrap().advertise_addr, "127.0.0.1:99");
    assert_eq!(manager.control().unlock_key().await.unwrap(), text);
    let store = manager.control().shared.machine.store();
    manager.stop().await;

    // A backup knows the lock too.
    let fresh = tempfile::tempdir().unwrap();
    let identity_dir = fresh.path().join("identity");
    let params = super::RestoreParams {
        advertise_addr: "127.0.0.1:98".to_owned(),
        data_path_addr: "127.0.0.1".to_owned(),
        description: skep_api::object::NodeDescription::default(),
        identity_dir: identity_dir.clone(),
        now: clock(),
    };
    let (restored, keys) = super::restore(&fresh.path().join("manager"), store, &params).unwrap();
    assert!(Keys::are_wrapped(&fresh.path().join("manager/raft")).unwrap());
    assert!(skep_link::Identity::is_sealed(&identity_dir).unwrap());
    let loaded = skep_link::Identity::load_with(&identity_dir, Some(&NodeKeyBox(keys.clone()))).unwrap();
    assert_eq!(loaded.unwrap().node_id(), restored.node_id());
    let manager = Manager::open(config_of(fresh.path(), keys), restored).await.unwrap();
    assert_eq!(manager.control().unlock_key().await.unwrap(), text);
    manager.stop().await;
}
