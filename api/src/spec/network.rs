//! `NetworkSpec` (the body of `POST /networks/create`), and how a service names its networks.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Extra, Labels};

/// A network as the user wants it.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct NetworkSpec {
    /// Unique in the swarm.
    pub name: String,
    /// overlay, bridge...; empty: overlay.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub driver: String,
    /// swarm, local; empty: the driver's own.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub scope: String,
    /// On when absent.
    #[serde(rename = "EnableIPv4", skip_serializing_if = "Option::is_none")]
    pub enable_ipv4: Option<bool>,
    /// Off when absent.
    #[serde(rename = "EnableIPv6", skip_serializing_if = "Option::is_none")]
    pub enable_ipv6: Option<bool>,
    /// Not reached from outside.
    pub internal: bool,
    /// Containers outside services may join.
    pub attachable: bool,
    /// The network of the routing mesh.
    pub ingress: bool,
    /// Its address ranges.
    #[serde(rename = "IPAM", skip_serializing_if = "Option::is_none")]
    pub ipam: Option<Ipam>,
    /// Of the driver.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub options: Option<BTreeMap<String, String>>,
    /// Of the network.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<Labels>,
    /// Everything else.
    #[serde(flatten)]
    pub extra: Extra,
}

/// How a network's addresses are chosen.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Ipam {
    /// default.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub driver: String,
    /// Of that driver.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub options: Option<BTreeMap<String, String>>,
    /// Ranges; cut from the swarm's pool when there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config: Option<Vec<IpamConfig>>,
    /// Everything else.
    #[serde(flatten)]
    pub extra: Extra,
}

/// One range of addresses.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct IpamConfig {
    /// CIDR; empty: cut from the swarm's pool.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub subnet: String,
    /// CIDR within the subnet that tasks are given addresses from.
    #[serde(rename = "IPRange", skip_serializing_if = "String::is_empty")]
    pub ip_range: String,
    /// The first address when empty.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub gateway: String,
    /// Everything else.
    #[serde(flatten)]
    pub extra: Extra,
}

/// A service's place on a network.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct NetworkAttachment {
    /// Name or id; stored as the id.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub target: String,
    /// Further names there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aliases: Option<Vec<String>>,
    /// Of the driver.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub driver_opts: Option<BTreeMap<String, String>>,
    /// Everything else.
    #[serde(flatten)]
    pub extra: Extra,
}
