//! The network that is the netmesh crate: translates, decides nothing.

use std::{fmt::Display, net::Ipv4Addr};

use async_trait::async_trait;
use skep_api::{TaskId, spec::PortConfig, wire};
use skep_netmesh::{
    Config as MeshConfig, Desired, Endpoint, HostPort, Ingress, Mesh, MeshError, Peer, Protocol,
    PublishedPort, Remote,
};

use crate::{
    agent::Config,
    engine::chain,
    network::{Attach, Attached, Network, NetworkError},
};

/// Below the agent's state directory.
const DIR: &str = "netmesh";

/// This node's mesh.
#[derive(Debug)]
pub(crate) struct MeshNetwork {
    mesh: Mesh,
    vxlan_port: u16,
}

impl MeshNetwork {
    /// Makes this node's part of the mesh, or takes up what an earlier daemon left.
    pub(crate) async fn start(config: &Config) -> Result<Self, NetworkError> {
        let mesh = MeshConfig::new(&config.state_dir.join(DIR), config.data_path_addr);
        let vxlan_port = mesh.vxlan_port;
        Ok(Self { mesh: Mesh::start(mesh).await.map_err(failed)?, vxlan_port })
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the shape of map_err")]
fn failed(error: MeshError) -> NetworkError {
    NetworkError(chain(&error))
}

fn malformed(what: &str, value: impl Display) -> NetworkError {
    NetworkError(format!("malformed {what} '{value}'"))
}

#[async_trait]
impl Network for MeshNetwork {
    async fn attach(&self, task: TaskId, attach: Attach) -> Result<Attached, NetworkError> {
        let host_ports = attach.host_ports.iter().map(host_port_out).collect::<Result<_, _>>()?;
        let want = skep_netmesh::Attach { ingress: attach.ingress, host_ports, pid: attach.pid };
        let given = self.mesh.attach(&task.to_string(), want).await.map_err(failed)?;
        Ok(Attached {
            netns: given.netns,
            bridge_addr: given.bridge_addr,
            host_ports: given.host_ports.iter().map(host_port_in).collect(),
        })
    }

    async fn detach(&self, task: TaskId) -> Result<(), NetworkError> {
        self.mesh.detach(&task.to_string()).await.map_err(failed)
    }

    async fn attached(&self) -> Result<Vec<TaskId>, NetworkError> {
        Ok(self.mesh.attached().iter().filter_map(|task| task.parse().ok()).collect())
    }

    async fn apply(&self, mesh: &wire::MeshState) -> Result<(), NetworkError> {
        if mesh.data_path_port != 0 && mesh.data_path_port != u32::from(self.vxlan_port) {
            tracing::error!(
                port = mesh.data_path_port,
                own = self.vxlan_port,
                "the swarm's data path port is not served: nodes do not reach each other's tasks"
            );
        }
        self.mesh.apply(desired(mesh)?).await.map_err(failed)
    }

    async fn teardown(&self) -> Result<(), NetworkError> {
        self.mesh.teardown().await.map_err(failed)
    }
}

fn host_port_out(port: &PortConfig) -> Result<HostPort, NetworkError> {
    Ok(HostPort {
        protocol: protocol(port.protocol())?,
        published: port.published_port,
        target: port.target_port,
    })
}

fn host_port_in(port: &HostPort) -> PortConfig {
    PortConfig {
        name: String::new(),
        protocol: port.protocol.to_string(),
        target_port: port.target,
        published_port: port.published,
        publish_mode: "host".to_owned(),
        ..PortConfig::default()
    }
}

fn protocol(text: &str) -> Result<Protocol, NetworkError> {
    match text {
        "tcp" | "" => Ok(Protocol::Tcp),
        "udp" => Ok(Protocol::Udp),
        other => Err(NetworkError(format!("protocol '{other}' cannot be published: tcp or udp expected"))),
    }
}

fn address(what: &str, text: &str) -> Result<Ipv4Addr, NetworkError> {
    text.parse().map_err(|_| malformed(what, text))
}

fn port(number: u32) -> Result<u16, NetworkError> {
    u16::try_from(number).map_err(|_| malformed("port", number))
}

/// What the manager says, in the mesh's words.
fn desired(mesh: &wire::MeshState) -> Result<Desired, NetworkError> {
    let ingress = match mesh.ingress_addr {
        0 => None,
        addr => Some(Ingress {
            addr: Ipv4Addr::from(addr),
            prefix: u8::try_from(mesh.ingress_prefix)
                .map_err(|_| malformed("prefix", mesh.ingress_prefix))?,
        }),
    };
    let peer = |peer: &wire::MeshPeer| {
        Ok(Peer {
            node: skep_api::NodeId::from_bytes(&peer.node_id).unwrap_or_default().to_string(),
            data_path_addr: address("data path address", &peer.data_path_addr)?,
            ingress_addr: Ipv4Addr::from(peer.ingress_addr),
        })
    };
    let remote = |remote: &wire::MeshRemote| {
        Ok(Remote {
            addr: Ipv4Addr::from(remote.addr),
            data_path_addr: address("data path address", &remote.data_path_addr)?,
        })
    };
    let published = |published: &wire::MeshPort| {
        let endpoint = |addr: &u32| Endpoint { addr: Ipv4Addr::from(*addr), weight: 1 };
        Ok(PublishedPort {
            protocol: protocol(&published.protocol)?,
            published: port(published.published)?,
            target: port(published.target)?,
            endpoints: published.endpoints.iter().map(endpoint).collect(),
        })
    };
    Ok(Desired {
        revision: mesh.revision,
        ingress,
        peers: mesh.peers.iter().map(peer).collect::<Result<_, NetworkError>>()?,
        remotes: mesh.remotes.iter().map(remote).collect::<Result<_, NetworkError>>()?,
        ports: mesh.ports.iter().map(published).collect::<Result<_, NetworkError>>()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mesh_is_translated_whole() {
        let addr = |last| u32::from(Ipv4Addr::new(10, 255, 0, last));
        let state = wire::MeshState {
            revision: 5,
            ingress_addr: addr(9),
            ingress_prefix: 16,
            peers: vec![wire::MeshPeer {
                node_id: vec![1; 16],
                data_path_addr: "10.0.0.2".into(),
                ingress_addr: addr(8),
            }],
            remotes: vec![wire::MeshRemote { addr: addr(3), data_path_addr: "10.0.0.2".into() }],
            ports: vec![wire::MeshPort {
                protocol: "udp".into(),
                published: 8080,
                target: 80,
                endpoints: vec![addr(3), addr(4)],
            }],
            data_path_port: 4789,
            left_at: 0,
            ..wire::MeshState::default()
        };
        let desired = desired(&state).unwrap();
        assert_eq!(desired.ingress, Some(Ingress { addr: Ipv4Addr::new(10, 255, 0, 9), prefix: 16 }));
        assert_eq!(desired.peers[0].data_path_addr, Ipv4Addr::new(10, 0, 0, 2));
        assert_eq!(desired.remotes[0].addr, Ipv4Addr::new(10, 255, 0, 3));
        assert_eq!((desired.ports[0].protocol, desired.ports[0].endpoints.len()), (Protocol::Udp, 2));
        let bad = wire::MeshState { peers: vec![wire::MeshPeer::default()], ..Default::default() };
        assert_eq!(super::desired(&bad).unwrap_err().to_string(), "malformed data path address ''");
    }
}
