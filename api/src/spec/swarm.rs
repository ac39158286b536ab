//! Specs of nodes and of the swarm itself, and the bodies of the calls on it.

use serde::{Deserialize, Serialize};

use super::{Extra, Labels};

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
    /// Not honoured yet.
    pub force_new_cluster: bool,
    /// The swarm's settings.
    pub spec: SwarmSpec,
    /// Not honoured yet.
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
