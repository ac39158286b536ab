//! What this node remembers of its membership between starts: one small file, written whole.

use std::{
    io::Write as _,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use super::{address, settings::Settings};

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
    /// The advertised address as `init` or `join` named it: an address, an interface, or empty for the daemon's own.
    pub(super) asked_addr: String,
    /// The daemon's own address by then.
    pub(super) default_addr: Option<Ipv4Addr>,
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

    /// Where this node is by now; saved, if that is news.
    pub(super) fn moved(self, settings: &Settings) -> anyhow::Result<Self> {
        let now = self.clone().at(settings.advertise_addr, settings.is_addr_given);
        if now.advertise_addr != self.advertise_addr {
            tracing::warn!(
                was = self.advertise_addr,
                now = now.advertise_addr,
                "this node's address has changed"
            );
            now.save(&settings.state_dir)?;
        }
        Ok(now)
    }

    /// Where this node is if `own` is the daemon's own address, by a flag or as it found it: the interface that was
    /// named may have another address by now, or the daemon itself.
    fn at(self, own: Option<Ipv4Addr>, is_given: bool) -> Self {
        let Some((host, port)) = self.advertise_addr.rsplit_once(':') else { return self };
        let is_news = own.is_some() && own != self.default_addr && (is_given || self.asked_addr.is_empty());
        let now = if is_news {
            own
        } else {
            // An interface that is gone for now leaves all as it was.
            address::parse("AdvertiseAddr", &self.asked_addr).ok().flatten().map(|(addr, _)| addr)
        };
        // A DNS name stays: the node moves behind it.
        let is_name = host.parse::<Ipv4Addr>().is_err();
        let Some(now) = now.filter(|now| now.to_string() != host && (is_news || !is_name)) else {
            return self;
        };
        let listen_addr = if self.listen_addr.ip().to_string() == host {
            SocketAddr::from((now, self.listen_addr.port()))
        } else {
            self.listen_addr
        };
        Self {
            advertise_addr: format!("{now}:{port}"),
            data_path_addr: if self.data_path_addr.to_string() == host { now } else { self.data_path_addr },
            listen_addr,
            // The flag is what counts from now on.
            asked_addr: if is_news { String::new() } else { self.asked_addr.clone() },
            default_addr: own.or(self.default_addr),
            ..self
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn member(asked: &str) -> Member {
        Member {
            format: 1,
            listen_addr: ([0, 0, 0, 0], 2377).into(),
            advertise_addr: "10.0.0.1:2377".to_owned(),
            data_path_addr: Ipv4Addr::new(10, 0, 0, 1),
            managers: vec!["10.0.0.1:2377".to_owned()],
            data_path_port: 4789,
            asked_addr: asked.to_owned(),
            default_addr: Some(Ipv4Addr::new(10, 0, 0, 1)),
        }
    }

    #[test]
    fn an_address_follows_what_it_came_from() {
        let (same, other) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
        // What init or join named; the daemon's own address now, and whether a flag says it; where it is then.
        let cases = [
            ("", Some(same), false, "10.0.0.1:2377"),
            ("", Some(other), false, "10.0.0.2:2377"),
            ("", Some(other), true, "10.0.0.2:2377"),
            ("", None, false, "10.0.0.1:2377"),
            ("10.0.0.1", Some(other), false, "10.0.0.1:2377"),
            ("10.0.0.1", Some(other), true, "10.0.0.2:2377"),
            ("lo", Some(same), false, "127.0.0.1:2377"),
            ("gone0", Some(same), false, "10.0.0.1:2377"),
        ];
        for (asked, own, is_given, expect) in cases {
            let moved = member(asked).at(own, is_given);
            assert_eq!(moved.advertise_addr, expect, "{asked} {own:?} {is_given}");
            assert_eq!(format!("{}:2377", moved.data_path_addr), expect);
            // A start without news changes nothing.
            assert_eq!(moved.clone().at(own, is_given).advertise_addr, expect);
        }
    }
}
