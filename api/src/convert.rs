//! Translates objects to their stored form and back. Nothing else touches the wire types of objects.
//!
//! A stored task names its spec by service and version; the reader hands in that spec.

use std::{net::Ipv4Addr, sync::Arc};

use crate::{
    ClusterId, NetworkId, NodeId, Secret, ServiceId, TaskId, TaskState, Timestamp,
    object::{
        CaRotation, Cluster, Meta, Network, Node, NodeDescription, NodeState, NodeStatus, NodeTls, Service,
        Subnet, Task, TaskStatus, UpdateState, UpdateStatus,
    },
    spec::{PortConfig, ServiceSpec},
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
        Self {
            name: port.name,
            protocol: port.protocol,
            target_port: u16::try_from(port.target).unwrap_or(0),
            published_port: u16::try_from(port.published).unwrap_or(0),
            publish_mode: port.mode,
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

impl From<&UpdateStatus> for wire::UpdateStatus {
    fn from(status: &UpdateStatus) -> Self {
        Self {
            state: status.state.as_str().to_owned(),
            started_at: status.started_at.0,
            completed_at: status.completed_at.map_or(0, |at| at.0),
            message: status.message.clone(),
        }
    }
}

impl TryFrom<wire::UpdateStatus> for UpdateStatus {
    type Error = Malformed;

    fn try_from(status: wire::UpdateStatus) -> Result<Self, Malformed> {
        let state = UpdateState::ALL
            .into_iter()
            .find(|state| state.as_str() == status.state)
            .ok_or_else(|| malformed("service", format!("update state '{}'", status.state)))?;
        Ok(Self {
            state,
            started_at: Timestamp(status.started_at),
            completed_at: (status.completed_at != 0).then_some(Timestamp(status.completed_at)),
            message: status.message,
        })
    }
}

impl From<&Service> for wire::Service {
    fn from(service: &Service) -> Self {
        Self {
            id: service.id.to_bytes(),
            meta: Some(service.meta.into()),
            spec: json(&*service.spec),
            previous_spec: service.previous_spec.as_deref().map(json).unwrap_or_default(),
            spec_version: service.spec_version,
            previous_spec_version: service.previous_spec_version,
            ports: ports_out(&service.ports),
            update_status: service.update_status.as_ref().map(Into::into),
            registry_auth: service.registry_auth.reveal().to_vec(),
            previous_registry_auth: service.previous_registry_auth.reveal().to_vec(),
        }
    }
}

impl TryFrom<wire::Service> for Service {
    type Error = Malformed;

    fn try_from(service: wire::Service) -> Result<Self, Malformed> {
        let previous_spec = if service.previous_spec.is_empty() {
            None
        } else {
            Some(Arc::new(from_json("service", &service.previous_spec)?))
        };
        Ok(Self {
            id: ServiceId::from_bytes(&service.id).ok_or_else(|| malformed("service", "id"))?,
            meta: service.meta.unwrap_or_default().into(),
            spec: Arc::new(from_json("service", &service.spec)?),
            previous_spec,
            spec_version: service.spec_version,
            previous_spec_version: service.previous_spec_version,
            ports: ports_in(service.ports).into(),
            update_status: service.update_status.map(TryInto::try_into).transpose()?,
            registry_auth: Secret::new(service.registry_auth),
            previous_registry_auth: Secret::new(service.previous_registry_auth),
        })
    }
}

impl From<&TaskStatus> for wire::TaskStatus {
    fn from(status: &TaskStatus) -> Self {
        Self {
            state: status.state.number(),
            timestamp: status.timestamp.0,
            message: status.message.to_string(),
            err: status.err.to_string(),
            container_id: status.container_id.to_string(),
            pid: status.pid,
            exit_code: status.exit_code,
            host_ports: ports_out(&status.host_ports),
            running_at: status.running_at.0,
        }
    }
}

impl TryFrom<wire::TaskStatus> for TaskStatus {
    type Error = Malformed;

    fn try_from(status: wire::TaskStatus) -> Result<Self, Malformed> {
        Ok(Self {
            state: task_state(status.state)?,
            timestamp: Timestamp(status.timestamp),
            message: status.message.into(),
            err: status.err.into(),
            container_id: status.container_id.into(),
            pid: status.pid,
            exit_code: status.exit_code,
            host_ports: ports_in(status.host_ports).into(),
            running_at: Timestamp(status.running_at),
        })
    }
}

fn task_state(number: u32) -> Result<TaskState, Malformed> {
    TaskState::from_number(number).ok_or_else(|| malformed("task", format!("state {number}")))
}

impl From<&Task> for wire::Task {
    fn from(task: &Task) -> Self {
        Self {
            id: task.id.to_bytes(),
            meta: Some(task.meta.into()),
            service_id: task.service_id.to_bytes(),
            slot: u32::try_from(task.slot).unwrap_or(u32::MAX),
            node_id: task.node_id.map(NodeId::to_bytes).unwrap_or_default(),
            spec_version: task.spec_version,
            desired_state: task.desired_state.number(),
            status: Some((&task.status).into()),
            ports: ports_out(&task.ports),
            ingress_addr: addr_out(task.ingress_addr),
            not_before: task.not_before.0,
        }
    }
}

/// Reads a stored task; `spec` is the one of its service and spec version.
///
/// # Errors
/// The stored form is malformed.
pub fn task_in(task: wire::Task, spec: Arc<ServiceSpec>) -> Result<Task, Malformed> {
    Ok(Task {
        id: TaskId::from_bytes(&task.id).ok_or_else(|| malformed("task", "id"))?,
        meta: task.meta.unwrap_or_default().into(),
        service_id: ServiceId::from_bytes(&task.service_id).ok_or_else(|| malformed("task", "service id"))?,
        slot: u64::from(task.slot),
        node_id: NodeId::from_bytes(&task.node_id),
        spec_version: task.spec_version,
        spec,
        desired_state: task_state(task.desired_state)?,
        status: task.status.unwrap_or_default().try_into()?,
        ports: ports_in(task.ports).into(),
        ingress_addr: addr_in(task.ingress_addr),
        not_before: Timestamp(task.not_before),
    })
}

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
        let restarting_since = status.restarting_since.0;
        Self { state, message: status.message.clone(), addr: status.addr.clone(), restarting_since }
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
        let restarting_since = Timestamp(status.restarting_since);
        Ok(Self { state, message: status.message, addr: status.addr, restarting_since })
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

impl From<&Cluster> for wire::Cluster {
    fn from(cluster: &Cluster) -> Self {
        Self {
            id: cluster.id.to_bytes(),
            meta: Some(cluster.meta.into()),
            spec: json(&cluster.spec),
            ca_cert_pem: cluster.ca_cert_pem.clone(),
            ca_key_pem: cluster.ca_key_pem.clone(),
            ca_cross_pem: cluster.ca_cross_pem.clone(),
            ca_rotation: cluster.ca_rotation.clone().map(|rotation| wire::CaRotation {
                cert_pem: rotation.cert_pem,
                key_pem: rotation.key_pem,
                cross_pem: rotation.cross_pem,
            }),
            ca_forced: cluster.ca_forced,
            worker_token_secret: cluster.worker_token_secret.clone(),
            manager_token_secret: cluster.manager_token_secret.clone(),
            data_path_port: cluster.data_path_port,
            default_addr_pool: cluster.default_addr_pool.clone(),
            subnet_size: cluster.subnet_size,
            unlock_key: cluster.unlock_key.reveal().to_vec(),
            unlock_version: cluster.unlock_version,
            feature_level: cluster.feature_level,
        }
    }
}

impl TryFrom<wire::Cluster> for Cluster {
    type Error = Malformed;

    fn try_from(cluster: wire::Cluster) -> Result<Self, Malformed> {
        Ok(Self {
            id: ClusterId::from_bytes(&cluster.id).ok_or_else(|| malformed("cluster", "id"))?,
            meta: cluster.meta.unwrap_or_default().into(),
            spec: from_json("cluster", &cluster.spec)?,
            ca_cert_pem: cluster.ca_cert_pem,
            ca_key_pem: cluster.ca_key_pem,
            ca_cross_pem: cluster.ca_cross_pem,
            ca_rotation: cluster.ca_rotation.map(|rotation| CaRotation {
                cert_pem: rotation.cert_pem,
                key_pem: rotation.key_pem,
                cross_pem: rotation.cross_pem,
            }),
            ca_forced: cluster.ca_forced,
            worker_token_secret: cluster.worker_token_secret,
            manager_token_secret: cluster.manager_token_secret,
            data_path_port: cluster.data_path_port,
            default_addr_pool: cluster.default_addr_pool,
            subnet_size: cluster.subnet_size,
            unlock_key: Secret::new(cluster.unlock_key),
            unlock_version: cluster.unlock_version,
            feature_level: cluster.feature_level,
        })
    }
}

impl From<&Subnet> for wire::Subnet {
    fn from(subnet: &Subnet) -> Self {
        Self {
            subnet: subnet.subnet.to_string(),
            gateway: subnet.gateway.to_string(),
            ip_range: subnet.ip_range.map(|range| range.to_string()).unwrap_or_default(),
        }
    }
}

impl TryFrom<wire::Subnet> for Subnet {
    type Error = Malformed;

    fn try_from(subnet: wire::Subnet) -> Result<Self, Malformed> {
        let cidr = |text: &str| text.parse().map_err(|e| malformed("network", e));
        Ok(Self {
            subnet: cidr(&subnet.subnet)?,
            gateway: subnet.gateway.parse().map_err(|e| malformed("network", e))?,
            ip_range: if subnet.ip_range.is_empty() { None } else { Some(cidr(&subnet.ip_range)?) },
        })
    }
}

impl From<&Network> for wire::Network {
    fn from(network: &Network) -> Self {
        Self {
            id: network.id.to_bytes(),
            meta: Some(network.meta.into()),
            spec: json(&network.spec),
            subnets: network.subnets.iter().map(Into::into).collect(),
            vni: network.vni,
        }
    }
}

impl TryFrom<wire::Network> for Network {
    type Error = Malformed;

    fn try_from(network: wire::Network) -> Result<Self, Malformed> {
        Ok(Self {
            id: NetworkId::from_bytes(&network.id).ok_or_else(|| malformed("network", "id"))?,
            meta: network.meta.unwrap_or_default().into(),
            spec: from_json("network", &network.spec)?,
            subnets: network.subnets.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
            vni: network.vni,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_certificates_stand_on_is_stored_whole() {
        let rotation = CaRotation { cert_pem: "c".into(), key_pem: "k".into(), cross_pem: "x".into() };
        let cluster = Cluster {
            ca_cert_pem: "root".into(),
            ca_cross_pem: "cross".into(),
            ca_rotation: Some(rotation),
            ca_forced: 7,
            ..Cluster::default()
        };
        assert!(!format!("{cluster:?} {:?}", cluster.ca_rotation).contains("\"k\""));
        assert_eq!(Cluster::try_from(wire::Cluster::from(&cluster)).unwrap(), cluster);
        let tls = NodeTls { issuer_subject: vec![1], issuer_public_key: vec![2], root_digest: vec![3] };
        let description = NodeDescription { tls: Some(tls), ..NodeDescription::default() };
        assert_eq!(NodeDescription::from(wire::NodeDescription::from(&description)), description);
    }
}
