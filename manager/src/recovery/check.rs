//! A stopped manager's directory and identity explained, file by file, with what to do. Changes nothing.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde::Serialize;
use skep_api::Timestamp;
use skep_link::{Identity, IdentityError, KeyBox};
use skep_raft::{
    Keys, UnlockKey,
    recover::{self, Verdict},
};

use crate::{members::read_peers, server::read_raft_id};

const OTHERS_HAVE_IT: &str = "with a majority of other managers: move DIR/manager away (of a locked swarm all of it but \
     manager/raft/keys) and start the daemon: it comes in anew by itself, and its tasks run on; the only one: \"skep \
     swarm restore\" from a backup";
const PUT_BACK: &str = "put the file back from where it was copied; without it nothing here can be read: join again \
     with a fresh state directory, or \"skep swarm restore\" from a backup";
const JOIN_ANEW: &str = "\"skep swarm leave --force\" here, then join again";

const SEALED: &str =
    "the node's key is sealed, as the swarm is locked: with the unlock key the rest is read, too";

const LAPSED: &str = "look at the clock first; a manager renews it by itself when it starts, a worker leaves and \
     joins again";

/// What is to be said of one file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Report {
    /// The file, or a directory as a whole.
    pub path: PathBuf,
    /// `ok`, `missing` or `damaged`.
    pub verdict: &'static str,
    /// What it holds, or what is wrong and where.
    pub words: String,
    /// What to do; empty where nothing is.
    pub advice: &'static str,
}

impl Report {
    /// Of a file that is as it should be.
    pub fn ok(path: impl Into<PathBuf>, words: impl Into<String>) -> Self {
        Self { path: path.into(), verdict: "ok", words: words.into(), advice: "" }
    }

    /// Of one that should be there.
    pub fn missing(path: impl Into<PathBuf>, words: impl Into<String>, advice: &'static str) -> Self {
        Self { path: path.into(), verdict: "missing", words: words.into(), advice }
    }

    /// Of one that cannot be used.
    pub fn damaged(path: impl Into<PathBuf>, words: impl Into<String>, advice: &'static str) -> Self {
        Self { path: path.into(), verdict: "damaged", words: words.into(), advice }
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.verdict == "ok"
    }
}

/// The manager's directory; nothing of a node that is none. A locked one is looked into with its `unlock` key.
#[must_use]
pub fn manager(dir: &Path, unlock: Option<&UnlockKey>) -> Vec<Report> {
    let mut reports = Vec::new();
    if !dir.exists() {
        return reports;
    }
    let raft_id = dir.join("raft-id");
    reports.push(match read_raft_id(dir) {
        Some(id) => Report::ok(raft_id, format!("this manager is raft member {id}")),
        None if raft_id.exists() => Report::damaged(
            raft_id,
            "it holds no raft id; the daemon takes this node for no member",
            OTHERS_HAVE_IT,
        ),
        None => Report::missing(raft_id, "without it this node is no manager", OTHERS_HAVE_IT),
    });
    let peers = dir.join("peers.json");
    reports.push(match (read_peers(dir), peers.exists()) {
        (Some(n), _) => Report::ok(peers, format!("addresses of {n} managers")),
        (None, true) => Report::ok(peers, "it cannot be read, and is made anew: it is an aid alone"),
        (None, false) => Report::ok(peers, "not there, and made anew: it is an aid alone"),
    });
    let raft = dir.join("raft");
    if !raft.exists() {
        reports.push(Report::missing(raft, "the directory of the log", OTHERS_HAVE_IT));
        return reports;
    }
    let key = Keys::path(&raft);
    reports.extend(recover::examine(&raft, unlock).into_iter().map(|finding| {
        let advice = if finding.path == key { PUT_BACK } else { OTHERS_HAVE_IT };
        match finding.verdict {
            Verdict::Ok => Report::ok(finding.path, finding.words),
            Verdict::Missing => Report::missing(finding.path, finding.words, advice),
            Verdict::Damaged => Report::damaged(finding.path, finding.words, advice),
        }
    }));
    reports
}

/// The identity's directory; a sealed key is opened by `key_box`. `now` in Unix seconds.
#[must_use]
pub fn identity(dir: &Path, key_box: Option<&dyn KeyBox>, now: i64) -> Vec<Report> {
    let read = |name: &str| fs::read_to_string(dir.join(name)).ok();
    let (cert, key, root) = (read("cert.pem"), read("key.pem"), read("ca.pem"));
    let mut reports = Vec::new();
    for (name, text) in [("cert.pem", &cert), ("key.pem", &key), ("ca.pem", &root)] {
        if text.is_none() {
            let words = "it is not there, or cannot be read; without it this node is of no swarm";
            reports.push(Report::missing(dir.join(name), words, JOIN_ANEW));
        }
    }
    let (Some(cert), Some(key), Some(root)) = (cert, key, root) else { return reports };
    reports.push(match Identity::of_texts(dir, (cert, key, root), key_box) {
        Err(IdentityError::Sealed { .. }) => Report::ok(dir, SEALED),
        Err(error) => Report::damaged(dir, error.to_string(), JOIN_ANEW),
        Ok(identity) => {
            let (from, until) = identity.validity();
            let at = |secs: i64| Timestamp(secs.saturating_mul(1_000_000_000));
            let role = match identity.role() {
                skep_link::Role::Manager => "manager",
                skep_link::Role::Worker => "worker",
            };
            let words = format!(
                "node {}, {role} of swarm {}, valid from {} to {}",
                identity.node_id(),
                identity.cluster_id(),
                at(from),
                at(until)
            );
            if now > until {
                Report::damaged(dir, format!("{words}: it has lapsed"), LAPSED)
            } else {
                Report::ok(dir, words)
            }
        }
    });
    reports
}
