//! Joining: a caller without a certificate shows a token and gets a node identity.

use std::sync::Arc;

use skep_api::{
    NodeId,
    id::IdSource,
    object::{Node, NodeState, NodeStatus},
    spec::{Availability, NodeSpec, Role},
    wire,
};
use skep_link::{Authority, JoinToken, remote_addr, stubs::join_server::Join};
use skep_store::{Change, Guard, GuardKind, View};
use tonic::{Request, Response, Status};

use crate::{
    SystemIds,
    dispatcher::{Shared, check_data_path},
};

/// Swarm's words for a token that is not ours.
const BAD_TOKEN: &str = "A valid join token is necessary to join this cluster";

/// The gRPC service.
pub(crate) struct JoinService(pub(crate) Arc<Shared>);

#[tonic::async_trait]
impl Join for JoinService {
    async fn join(
        &self,
        request: Request<wire::JoinRequest>,
    ) -> Result<Response<wire::JoinResponse>, Status> {
        let shared = &self.0;
        let addr = remote_addr(&request).map(|addr| addr.ip().to_string()).unwrap_or_default();
        let request = request.into_inner();
        // A token that was rotated is no token any more, whichever manager is asked.
        shared.raft.read_barrier().await.map_err(|e| Status::unavailable(e.to_string()))?;
        let view = shared.machine.view();
        let cluster = view.cluster().ok_or_else(|| Status::unavailable("this manager is still starting"))?;
        let token = JoinToken::parse(&request.token).map_err(|e| Status::invalid_argument(e.to_string()))?;
        let role = if token.has_secret(&cluster.manager_token_secret) {
            Role::Manager
        } else if token.has_secret(&cluster.worker_token_secret) {
            Role::Worker
        } else {
            return Err(Status::permission_denied(BAD_TOKEN));
        };
        let availability = match request.availability.as_str() {
            "" => Availability::Active,
            word => Availability::parse(word)
                .ok_or_else(|| Status::invalid_argument(format!("invalid availability \"{word}\"")))?,
        };
        let authority = Authority::from_pem(&cluster.ca_cert_pem, &cluster.ca_key_pem)
            .map_err(|e| Status::internal(format!("the stored CA is unusable: {e}")))?
            .valid_for(cluster.spec.node_cert_expiry());
        let id = NodeId(SystemIds::default().next_id());
        let now = (shared.clock)();
        let certificate_pem = authority
            .sign_node(
                &request.csr_pem,
                &id.to_string(),
                certified(role),
                &cluster.id.to_string(),
                now / 1_000_000_000,
            )
            .map_err(|e| Status::invalid_argument(e.to_string()))?;
        let data_path_addr =
            if request.data_path_addr.is_empty() { addr.clone() } else { request.data_path_addr };
        check_data_path(&data_path_addr)?;
        let node = Node {
            id,
            spec: NodeSpec { role, availability, ..NodeSpec::default() },
            description: request.description.unwrap_or_default().into(),
            // Ready once its session is there.
            status: NodeStatus { state: NodeState::Unknown, addr, ..NodeStatus::default() },
            data_path_addr,
            ..Node::default()
        };
        let guard = Guard { kind: GuardKind::Node, id: id.0, version: 0 };
        shared.write(vec![guard], vec![Change::PutNode(Arc::new(node))]).await?;
        tracing::info!(node.id = %id, role = role.as_str(), "node joined");
        Ok(Response::new(wire::JoinResponse {
            node_id: id.to_bytes(),
            certificate_pem,
            ca_cert_pem: cluster.ca_cert_pem.clone(),
            cluster_id: cluster.id.to_bytes(),
            manager: role == Role::Manager,
            managers: managers(&view),
        }))
    }
}

/// A role as certificates say it.
pub(crate) fn certified(role: Role) -> skep_link::Role {
    match role {
        Role::Manager => skep_link::Role::Manager,
        Role::Worker => skep_link::Role::Worker,
    }
}

/// `host:port` of every manager.
fn managers(view: &View) -> Vec<String> {
    let members = view.nodes().filter(|node| node.raft_id != 0 && !node.advertise_addr.is_empty());
    members.map(|node| node.advertise_addr.clone()).collect()
}
