//! Specs of nodes and of the swarm itself, and the bodies of the calls on it.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Extra, Labels};
use crate::{Secret, json::is_zero, span};

/// The label of the swarm that says after how long a worker that is down is removed.
pub const DOWN_TTL_LABEL: &str = "skep.node.down-ttl";
/// How often an agent beats unless the swarm's settings say otherwise (Swarm: 5 s).
pub const HEARTBEAT_DEFAULT: Duration = Duration::from_secs(1);
/// Beats closer than this cost more than they tell: a busy machine would look down.
pub const HEARTBEAT_MIN: Duration = Duration::from_millis(500);
/// Tasks kept in each slot, the current one among them (Swarm's default).
pub const TASK_HISTORY_DEFAULT: i64 = 5;
/// Log entries between two snapshots of a manager (Swarm's default, `SK:manager/state/raft/raft.go`).
pub const SNAPSHOT_INTERVAL_DEFAULT: u64 = 10_000;
/// Log entries before a snapshot that stay for managers that are a little behind (Swarm's default).
pub const LOG_ENTRIES_KEPT_DEFAULT: u64 = 500;
/// Life of a node's certificate (Swarm's default, 90 days).
pub const NODE_CERT_EXPIRY_DEFAULT: Duration = Duration::from_secs(90 * 86_400);

/// An external CA as the settings name it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ExternalCaSpec {
    /// `cfssl`.
    pub protocol: String,
    /// `https://...`
    pub url: String,
    /// The root whose key it has (PEM); empty: the swarm's current one.
    pub ca_cert: String,
}

/// A root that an update brings, to rotate to.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SigningCa {
    /// PEM; empty: none.
    pub cert_pem: String,
    /// PEM; empty: none.
    pub key: Secret,
}

/// What the user wants of a node.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct NodeSpec {
    /// Of no effect on names; the hostname is shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// For constraints.
    pub labels: Labels,
    /// worker, manager.
    pub role: Role,
    /// active, pause, drain.
    pub availability: Availability,
    /// Unknown keys.
    #[serde(flatten)]
    pub extra: Extra,
}

/// What a node is to be in the swarm.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Runs tasks.
    #[default]
    Worker,
    /// Replicates the state, and runs tasks.
    Manager,
}

impl Role {
    /// The API's word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Worker => "worker",
            Self::Manager => "manager",
        }
    }
}

/// What the user allows on a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Availability {
    /// Takes tasks.
    #[default]
    Active,
    /// Keeps its tasks, takes no new ones.
    Pause,
    /// Its tasks move.
    Drain,
}

impl Availability {
    /// The API's word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Pause => "pause",
            Self::Drain => "drain",
        }
    }

    /// Reads the API's word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Active, Self::Pause, Self::Drain].into_iter().find(|a| a.as_str() == word)
    }
}

/// The swarm's settings. Kept whole; what is not honoured yet is refused by `validate`.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct SwarmSpec {
    /// Always "default".
    pub name: String,
    /// Of the swarm.
    pub labels: Labels,
    /// Orchestration, Raft, Dispatcher, CAConfig, TaskDefaults, EncryptionConfig.
    #[serde(flatten)]
    pub extra: Extra,
}

/// Settings of which an explicit zero is a value, not the default.
const ZERO_COUNTS: [&str; 2] = ["TaskHistoryRetentionLimit", "KeepOldSnapshots"];

impl SwarmSpec {
    /// A setting as given; `None` when it was not.
    #[must_use]
    pub fn setting(&self, section: &str, key: &str) -> Option<&Value> {
        self.extra.get(section)?.get(key)
    }

    fn duration(&self, section: &str, key: &str, default: Duration) -> Duration {
        let nanos = self.setting(section, key).and_then(Value::as_u64).filter(|nanos| *nanos != 0);
        nanos.map_or(default, Duration::from_nanos)
    }

    /// Between two beats of an agent; without three of them a node is down.
    #[must_use]
    pub fn heartbeat(&self) -> Duration {
        self.duration("Dispatcher", "HeartbeatPeriod", HEARTBEAT_DEFAULT)
    }

    /// Tasks kept in each slot, the current one among them; `None`: all of them.
    #[must_use]
    pub fn task_history_max(&self) -> Option<usize> {
        let limit = self.setting("Orchestration", "TaskHistoryRetentionLimit").and_then(Value::as_i64);
        usize::try_from(limit.unwrap_or(TASK_HISTORY_DEFAULT)).ok()
    }

    /// After how long a worker that is down is removed; `None`: never.
    #[must_use]
    pub fn down_ttl(&self) -> Option<Duration> {
        let nanos = span::parse(self.labels.get(DOWN_TTL_LABEL)?).ok()?;
        u64::try_from(nanos).ok().filter(|nanos| *nanos != 0).map(Duration::from_nanos)
    }

    /// After how many log entries a manager makes a snapshot.
    #[must_use]
    pub fn snapshot_interval(&self) -> u64 {
        self.count("Raft", "SnapshotInterval").filter(|n| *n != 0).unwrap_or(SNAPSHOT_INTERVAL_DEFAULT)
    }

    /// How many log entries before a snapshot stay in the log.
    #[must_use]
    pub fn log_entries_kept(&self) -> u64 {
        self.count("Raft", "LogEntriesForSlowFollowers")
            .filter(|n| *n != 0)
            .unwrap_or(LOG_ENTRIES_KEPT_DEFAULT)
    }

    /// How many snapshots older than the newest a manager keeps.
    #[must_use]
    pub fn old_snapshots(&self) -> u64 {
        self.count("Raft", "KeepOldSnapshots").unwrap_or(0)
    }

    fn count(&self, section: &str, key: &str) -> Option<u64> {
        self.setting(section, key).and_then(Value::as_u64)
    }

    /// How long a node's certificate is valid from now on.
    #[must_use]
    pub fn node_cert_expiry(&self) -> Duration {
        self.duration("CAConfig", "NodeCertExpiry", NODE_CERT_EXPIRY_DEFAULT)
    }

    /// The external CAs that sign certificates.
    #[must_use]
    pub fn external_cas(&self) -> Vec<ExternalCaSpec> {
        let all = self.setting("CAConfig", "ExternalCAs").and_then(Value::as_array);
        let text = |ca: &Value, key: &str| ca.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let read = |ca: &Value| ExternalCaSpec {
            protocol: text(ca, "Protocol"),
            url: text(ca, "URL"),
            ca_cert: text(ca, "CACert"),
        };
        all.map(|all| all.iter().map(read).collect()).unwrap_or_default()
    }

    /// Whether managers that start want the unlock key.
    #[must_use]
    pub fn autolock(&self) -> bool {
        self.setting("EncryptionConfig", "AutoLockManagers") == Some(&Value::Bool(true))
    }

    /// The same settings with autolock.
    #[must_use]
    pub fn with_autolock(mut self) -> Self {
        let section = self.extra.entry("EncryptionConfig").or_insert_with(|| Value::Object(Map::new()));
        if !section.is_object() {
            *section = Value::Object(Map::new());
        }
        section["AutoLockManagers"] = Value::Bool(true);
        self
    }

    /// Raised by a user who wants another root.
    #[must_use]
    pub fn force_rotate(&self) -> u64 {
        self.setting("CAConfig", "ForceRotate").and_then(Value::as_u64).unwrap_or_default()
    }

    /// Takes the root out that an update brings: it is acted upon once, and neither kept nor shown.
    #[must_use]
    pub fn take_signing(&mut self) -> SigningCa {
        let Some(Value::Object(section)) = self.extra.get_mut("CAConfig") else {
            return SigningCa::default();
        };
        let mut take = |key| match section.remove(key) {
            Some(Value::String(text)) => text,
            Some(_) | None => String::new(),
        };
        SigningCa { cert_pem: take("SigningCACert"), key: Secret::new(take("SigningCAKey")) }
    }

    /// These settings with those of `update` over them, as Docker merges: what is zero or absent there
    /// stays as it is here (`MB:daemon/cluster/convert/swarm.go`).
    #[must_use]
    pub fn merged(&self, update: &Self) -> Self {
        let mut out = self.clone();
        if !update.labels.is_empty() {
            out.labels.clone_from(&update.labels);
        }
        for (key, value) in &update.extra {
            merge(&mut out.extra, key, value);
        }
        out
    }
}

fn merge(out: &mut Map<String, Value>, key: &str, value: &Value) {
    match value {
        Value::Object(members) => {
            let section = out.entry(key).or_insert_with(|| Value::Object(Map::new()));
            if !section.is_object() {
                *section = Value::Object(Map::new());
            }
            if let Value::Object(section) = section {
                members.iter().for_each(|(key, value)| merge(section, key, value));
            }
        }
        // A flag is what was said last.
        Value::Bool(_) => {
            out.insert(key.to_owned(), value.clone());
        }
        Value::Null | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            if !is_zero(value) || ZERO_COUNTS.contains(&key) {
                out.insert(key.to_owned(), value.clone());
            }
        }
    }
}

/// Body of `POST /swarm/init`.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct InitRequest {
    /// `0.0.0.0:2377` when empty.
    pub listen_addr: String,
    /// Address or interface; the daemon's own when empty.
    pub advertise_addr: String,
    /// Of the VXLAN; the advertise address when empty.
    pub data_path_addr: String,
    /// 0: 4789.
    pub data_path_port: u32,
    /// Of a manager: goes on alone, with all that it has, and without the other managers.
    pub force_new_cluster: bool,
    /// The swarm's settings.
    pub spec: SwarmSpec,
    /// Managers that start want the unlock key.
    pub auto_lock_managers: bool,
    /// active, pause, drain.
    pub availability: String,
    /// Pools from which subnets are cut.
    pub default_addr_pool: Option<Vec<String>>,
    /// Prefix length of those subnets.
    pub subnet_size: u32,
    /// Unknown keys.
    #[serde(flatten)]
    pub extra: Extra,
}

/// Body of `POST /swarm/join`.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct JoinBody {
    /// `0.0.0.0:2377` when empty.
    pub listen_addr: String,
    /// Address or interface.
    pub advertise_addr: String,
    /// Of the VXLAN.
    pub data_path_addr: String,
    /// Managers to try, `host:port`.
    pub remote_addrs: Vec<String>,
    /// `SWMTKN-1-...`.
    pub join_token: String,
    /// active, pause, drain.
    pub availability: String,
    /// Unknown keys.
    #[serde(flatten)]
    pub extra: Extra,
}

/// Body of `POST /swarm/unlock`.
#[derive(Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct UnlockRequest {
    /// `SWMKEY-1-...`.
    pub unlock_key: String,
}

impl std::fmt::Debug for UnlockRequest {
    /// The key is never printed.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("UnlockRequest(redacted)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(text: &str) -> SwarmSpec {
        crate::json::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn settings_have_defaults() {
        let bare = spec(r#"{"Dispatcher":{"HeartbeatPeriod":0},"CAConfig":{}}"#);
        assert_eq!(bare.heartbeat(), Duration::from_secs(1));
        assert_eq!(bare.node_cert_expiry(), Duration::from_secs(7_776_000));
        assert_eq!(bare.task_history_max(), Some(5));
        assert_eq!(
            (bare.snapshot_interval(), bare.log_entries_kept(), bare.old_snapshots()),
            (10_000, 500, 0)
        );
        let raft =
            spec(r#"{"Raft":{"SnapshotInterval":7,"LogEntriesForSlowFollowers":3,"KeepOldSnapshots":2}}"#);
        assert_eq!((raft.snapshot_interval(), raft.log_entries_kept(), raft.old_snapshots()), (7, 3, 2));
        let given = spec(
            r#"{"Dispatcher":{"HeartbeatPeriod":5000000000},"Orchestration":{"TaskHistoryRetentionLimit":0}}"#,
        );
        assert_eq!((given.heartbeat(), given.task_history_max()), (Duration::from_secs(5), Some(0)));
        let for_ever = spec(r#"{"Orchestration":{"TaskHistoryRetentionLimit":-1}}"#);
        assert_eq!(for_ever.task_history_max(), None);
    }

    #[test]
    fn an_update_changes_what_it_names() {
        let old = spec(
            r#"{"Name":"default","Labels":{"a":"1"},"Orchestration":{"TaskHistoryRetentionLimit":3},
            "Dispatcher":{"HeartbeatPeriod":2000000000},"EncryptionConfig":{"AutoLockManagers":true}}"#,
        );
        let new = old.merged(&spec(
            r#"{"Orchestration":{},"Dispatcher":{"HeartbeatPeriod":0},"CAConfig":{"NodeCertExpiry":7200000000000},
            "EncryptionConfig":{"AutoLockManagers":false}}"#,
        ));
        assert_eq!(new.task_history_max(), Some(3));
        assert_eq!(new.heartbeat(), Duration::from_secs(2));
        assert_eq!(new.node_cert_expiry(), Duration::from_secs(7200));
        assert_eq!((old.autolock(), new.autolock(), spec("{}").autolock()), (true, false, false));
        assert!(new.with_autolock().autolock() && spec("{}").with_autolock().autolock());
        let new = old.merged(&spec(r#"{"EncryptionConfig":{"AutoLockManagers":false}}"#));
        assert_eq!((new.name.as_str(), new.labels.len()), ("default", 1));
        let none = spec(r#"{"Orchestration":{"TaskHistoryRetentionLimit":0}}"#);
        assert_eq!(old.merged(&none).task_history_max(), Some(0));
    }
}
