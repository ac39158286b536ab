//! A first manager for tests: real consensus in a directory of its own.

use std::{path::Path, time::Duration};

use rustls::pki_types::UnixTime;
use skep_api::{
    object::NodeDescription,
    spec::{Availability, SwarmSpec},
};
use skep_link::Identity;
use tempfile::TempDir;

use crate::{InitParams, Manager, ManagerConfig};

/// Wall time in Unix nanoseconds, to the second.
pub(crate) fn clock() -> i64 {
    i64::try_from(UnixTime::now().as_secs()).unwrap() * 1_000_000_000
}

/// Of the manager in this directory.
pub(crate) fn config(dir: &Path) -> ManagerConfig {
    ManagerConfig {
        dir: dir.join("manager"),
        clock,
        keys: None,
        raft_heartbeat: Duration::from_millis(50),
        raft_election: (Duration::from_millis(250), Duration::from_millis(500)),
    }
}

/// The only manager of a new swarm. Nobody listens for it yet.
pub(crate) async fn first_manager() -> (Manager, Identity, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    let params = InitParams {
        advertise_addr: "127.0.0.1:1".to_owned(),
        data_path_addr: "127.0.0.1".to_owned(),
        data_path_port: 0,
        description: NodeDescription::default(),
        availability: Availability::Active,
        spec: SwarmSpec::default(),
        identity_dir: dir.path().join("identity"),
    };
    let (manager, identity) = Manager::init(config, params).await.unwrap();
    (manager, identity, dir)
}
