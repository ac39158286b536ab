//! Nodes.

use super::{Malformed, addr_in, addr_out, from_json, generic_in, generic_out, json, malformed};
use crate::{
    NodeId, Timestamp,
    object::{Node, NodeDescription, NodeState, NodeStatus, NodeTls, Plugin},
    wire,
};

impl From<&NodeDescription> for wire::NodeDescription {
    fn from(description: &NodeDescription) -> Self {
        let d = description.clone();
        Self {
            hostname: d.hostname,
            os: d.os,
            arch: d.arch,
            nano_cpus: d.nano_cpus,
            memory_bytes: d.memory_bytes,
            engine_version: d.engine_version,
            engine_labels: d.engine_labels,
            tls: d.tls.map(|tls| wire::NodeTls {
                issuer_subject: tls.issuer_subject,
                issuer_public_key: tls.issuer_public_key,
                root_digest: tls.root_digest,
            }),
            generic: generic_out(&d.generic),
            plugins: d.plugins.iter().map(Into::into).collect(),
        }
    }
}

impl From<wire::NodeDescription> for NodeDescription {
    fn from(d: wire::NodeDescription) -> Self {
        Self {
            hostname: d.hostname,
            os: d.os,
            arch: d.arch,
            nano_cpus: d.nano_cpus,
            memory_bytes: d.memory_bytes,
            engine_version: d.engine_version,
            engine_labels: d.engine_labels,
            tls: d.tls.map(|tls| NodeTls {
                issuer_subject: tls.issuer_subject,
                issuer_public_key: tls.issuer_public_key,
                root_digest: tls.root_digest,
            }),
            generic: generic_in(d.generic),
            plugins: d.plugins.into_iter().map(Plugin::from).collect(),
        }
    }
}

impl From<&NodeStatus> for wire::NodeStatus {
    fn from(status: &NodeStatus) -> Self {
        let state = match status.state {
            NodeState::Unknown => 0,
            NodeState::Down => 1,
            NodeState::Ready => 2,
        };
        Self {
            state,
            message: status.message.clone(),
            addr: status.addr.clone(),
            restarting_since: status.restarting_since.0,
            since: status.since.0,
        }
    }
}

impl TryFrom<wire::NodeStatus> for NodeStatus {
    type Error = Malformed;

    fn try_from(status: wire::NodeStatus) -> Result<Self, Malformed> {
        let state = match status.state {
            0 => NodeState::Unknown,
            1 => NodeState::Down,
            2 => NodeState::Ready,
            other => return Err(malformed("node", format!("state {other}"))),
        };
        Ok(Self {
            state,
            message: status.message,
            addr: status.addr,
            restarting_since: Timestamp(status.restarting_since),
            since: Timestamp(status.since),
        })
    }
}

impl From<&Node> for wire::Node {
    fn from(node: &Node) -> Self {
        Self {
            id: node.id.to_bytes(),
            meta: Some(node.meta.into()),
            spec: json(&node.spec),
            description: Some((&node.description).into()),
            status: Some((&node.status).into()),
            advertise_addr: node.advertise_addr.clone(),
            data_path_addr: node.data_path_addr.clone(),
            ingress_addr: addr_out(node.ingress_addr),
            raft_id: node.raft_id,
            dropped: node.dropped,
            probe_addr: node.probe_addr.clone(),
            feature_level: node.feature_level,
        }
    }
}

impl TryFrom<wire::Node> for Node {
    type Error = Malformed;

    fn try_from(node: wire::Node) -> Result<Self, Malformed> {
        Ok(Self {
            id: NodeId::from_bytes(&node.id).ok_or_else(|| malformed("node", "id"))?,
            meta: node.meta.unwrap_or_default().into(),
            spec: from_json("node", &node.spec)?,
            description: node.description.unwrap_or_default().into(),
            status: node.status.unwrap_or_default().try_into()?,
            advertise_addr: node.advertise_addr,
            data_path_addr: node.data_path_addr,
            ingress_addr: addr_in(node.ingress_addr),
            raft_id: node.raft_id,
            dropped: node.dropped,
            probe_addr: node.probe_addr,
            feature_level: node.feature_level,
        })
    }
}
