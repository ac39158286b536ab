//! Translates objects to their stored form and back. Nothing else touches the wire types of objects.
//!
//! A stored task names its spec by service and version; the reader hands in that spec.

mod cluster;
mod generic;
mod network;
mod node;
mod service;
mod task;
mod ticket;

pub use generic::{generic_in, generic_out};
pub use task::task_in;

use std::net::Ipv4Addr;

use crate::{
    Timestamp,
    object::Meta,
    spec::{Extra, PortConfig},
    wire,
};

/// Stored bytes do not have the form that this build reads.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("stored {object} is malformed: {what}")]
pub struct Malformed {
    /// Which kind of object.
    pub object: &'static str,
    /// What is wrong with it.
    pub what: String,
}

fn malformed(object: &'static str, what: impl ToString) -> Malformed {
    Malformed { object, what: what.to_string() }
}

fn json<T: serde::Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("specs hold only strings as keys and finite numbers")
}

fn from_json<T: serde::de::DeserializeOwned>(object: &'static str, bytes: &[u8]) -> Result<T, Malformed> {
    serde_json::from_slice(bytes).map_err(|e| malformed(object, e))
}

fn addr_out(addr: Option<Ipv4Addr>) -> u32 {
    addr.map_or(0, u32::from)
}

fn addr_in(addr: u32) -> Option<Ipv4Addr> {
    (addr != 0).then(|| Ipv4Addr::from(addr))
}

impl From<Meta> for wire::Meta {
    fn from(meta: Meta) -> Self {
        Self { version: meta.version, created_at: meta.created_at.0, updated_at: meta.updated_at.0 }
    }
}

impl From<wire::Meta> for Meta {
    fn from(meta: wire::Meta) -> Self {
        Self {
            version: meta.version,
            created_at: Timestamp(meta.created_at),
            updated_at: Timestamp(meta.updated_at),
        }
    }
}

impl From<&PortConfig> for wire::Port {
    fn from(port: &PortConfig) -> Self {
        Self {
            name: port.name.clone(),
            protocol: port.protocol().to_owned(),
            target: u32::from(port.target_port),
            published: u32::from(port.published_port),
            mode: if port.is_ingress() { "ingress" } else { "host" }.to_owned(),
        }
    }
}

impl From<wire::Port> for PortConfig {
    fn from(port: wire::Port) -> Self {
        // With its defaults spelled out, as it is written.
        let protocol = if port.protocol.is_empty() { "tcp".to_owned() } else { port.protocol };
        Self {
            name: port.name,
            protocol,
            target_port: u16::try_from(port.target).unwrap_or(0),
            published_port: u16::try_from(port.published).unwrap_or(0),
            publish_mode: if port.mode == "host" { "host" } else { "ingress" }.to_owned(),
            extra: Extra::default(),
        }
    }
}

/// Ports to their stored form.
#[must_use]
pub fn ports_out(ports: &[PortConfig]) -> Vec<wire::Port> {
    ports.iter().map(wire::Port::from).collect()
}

/// Ports from their stored form.
#[must_use]
pub fn ports_in(ports: Vec<wire::Port>) -> Vec<PortConfig> {
    ports.into_iter().map(PortConfig::from).collect()
}

#[cfg(test)]
mod level_one;
#[cfg(test)]
mod tests;
