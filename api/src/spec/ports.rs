//! How a service is reached.

use serde::{Deserialize, Serialize};

use super::Extra;

/// How a service is reached.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct EndpointSpec {
    /// vip when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// Published ports.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ports: Option<Vec<PortConfig>>,
    /// Unknown keys.
    #[serde(flatten)]
    pub extra: Extra,
}

/// A published port, as asked for and as given.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct PortConfig {
    /// Of no effect.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// tcp, udp; empty: tcp.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub protocol: String,
    /// In the container.
    #[serde(skip_serializing_if = "is_zero")]
    pub target_port: u16,
    /// On the nodes; 0: one is given.
    #[serde(skip_serializing_if = "is_zero")]
    pub published_port: u16,
    /// ingress, host; empty: ingress.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub publish_mode: String,
    /// Unknown keys, of a port as asked for; one that is given has none.
    #[serde(flatten)]
    pub extra: Extra,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the shape that serde calls")]
fn is_zero(port: &u16) -> bool {
    *port == 0
}

impl PortConfig {
    /// Whether every node answers on it.
    #[must_use]
    pub fn is_ingress(&self) -> bool {
        self.publish_mode != "host"
    }

    /// The protocol with its default.
    #[must_use]
    pub fn protocol(&self) -> &str {
        if self.protocol.is_empty() { "tcp" } else { &self.protocol }
    }
}
