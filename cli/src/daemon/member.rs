//! What this node remembers of its membership between starts: one small file, written whole.

use std::{
    io::Write as _,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

const FILE: &str = "member.json";

/// Where a member listens and whom it knows.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Member {
    /// Form of this file.
    pub(super) format: u32,
    /// A manager's listener.
    pub(super) listen_addr: SocketAddr,
    /// `host:port` under which this node is reached.
    pub(super) advertise_addr: String,
    /// Of the VXLAN.
    pub(super) data_path_addr: Ipv4Addr,
    /// Managers to begin with.
    pub(super) managers: Vec<String>,
    /// UDP port of the VXLAN.
    pub(super) data_path_port: u32,
}

impl Member {
    /// What an earlier start remembered; `None` outside a swarm.
    pub(super) fn load(dir: &Path) -> anyhow::Result<Option<Self>> {
        let path = dir.join(FILE);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        let member: Self = serde_json::from_slice(&bytes).with_context(|| {
            format!(
                "{} is damaged; restore it from a backup, or remove the state directory and join again",
                path.display()
            )
        })?;
        anyhow::ensure!(
            member.format == 1,
            "{} has format {}, this build reads 1",
            path.display(),
            member.format
        );
        Ok(Some(member))
    }

    /// Written to a temporary file, then renamed.
    pub(super) fn save(&self, dir: &Path) -> anyhow::Result<()> {
        let (path, new) = (dir.join(FILE), dir.join("member.json.new"));
        let mut file =
            std::fs::File::create(&new).with_context(|| format!("cannot write {}", new.display()))?;
        file.write_all(&serde_json::to_vec_pretty(self).context("membership as JSON")?)
            .and_then(|()| file.sync_all())
            .and_then(|()| std::fs::rename(&new, &path))
            .and_then(|()| std::fs::File::open(dir)?.sync_all())
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// The node left.
    pub(super) fn forget(dir: &Path) -> std::io::Result<()> {
        match std::fs::remove_file(dir.join(FILE)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }
}
