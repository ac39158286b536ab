//! Joining: a caller without a certificate shows a token and gets a node identity.

use std::sync::Arc;

use skep_api::{
    NodeId,
    id::IdSource,
    object::{Cluster, Node, NodeDescription, NodeState, NodeStatus},
    spec::{Availability, NodeSpec, Role},
    wire,
};
use skep_link::{JoinToken, remote_addr, stubs::join_server::Join};
use skep_store::{Change, Guard, GuardKind, View};
use tonic::{Request, Response, Status};

use crate::{
    SystemIds,
    ca::sign,
    dispatcher::{Shared, check_data_path},
    level,
    write::WriteError,
};

/// Swarm's words for a token that is not ours.
const BAD_TOKEN: &str = "A valid join token is necessary to join this cluster";

/// How often a node is taken in anew because the swarm's settings changed meanwhile.
const STALE_MAX: u32 = 8;

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
        for _ in 0..STALE_MAX {
            let view = shared.machine.view();
            match self.take_in(&view, &request, &addr).await {
                // The swarm's token, root or settings changed meanwhile.
                Err(Refused::Stale) => {}
                Err(Refused::For(status)) => return Err(status),
                Ok(answer) => return Ok(Response::new(answer)),
            }
        }
        Err(Status::aborted("the swarm's settings change all the time; try again"))
    }
}

/// Why a node was not taken in.
enum Refused {
    /// What it was decided from has changed.
    Stale,
    /// For good.
    For(Status),
}

impl From<Status> for Refused {
    fn from(status: Status) -> Self {
        Self::For(status)
    }
}

impl JoinService {
    async fn take_in(
        &self,
        view: &View,
        request: &wire::JoinRequest,
        addr: &str,
    ) -> Result<wire::JoinResponse, Refused> {
        let shared = &self.0;
        let cluster = view.cluster().ok_or_else(|| Status::unavailable("this manager is still starting"))?;
        let role = granted(cluster, &request.token)?;
        if role == Role::Manager {
            level::check_new(view, request.feature_level)?;
        }
        let availability = match request.availability.as_str() {
            "" => Availability::Active,
            word => Availability::parse(word)
                .ok_or_else(|| Status::invalid_argument(format!("invalid availability \"{word}\"")))?,
        };
        let data_path_addr =
            if request.data_path_addr.is_empty() { addr } else { request.data_path_addr.as_str() };
        check_data_path(data_path_addr)?;
        let id = NodeId(SystemIds::default().next_id());
        let now = (shared.clock)() / 1_000_000_000;
        let issued = sign(&shared.identity, cluster, &request.csr_pem, id, role, now).await?;
        let description = NodeDescription::from(request.description.clone().unwrap_or_default());
        let description = description.at_level(view.feature_level());
        let node = Node {
            id,
            spec: NodeSpec { role, availability, ..NodeSpec::default() },
            // It counts for a rotation of the root from its first moment.
            description: NodeDescription { tls: Some(issued.tls), ..description },
            // Ready once its session is there.
            status: NodeStatus { state: NodeState::Unknown, addr: addr.to_owned(), ..NodeStatus::default() },
            data_path_addr: data_path_addr.to_owned(),
            ..Node::default()
        };
        // The token and the root are still those that it was checked against.
        let guards = vec![
            Guard { kind: GuardKind::Node, id: id.0, version: 0 },
            Guard { kind: GuardKind::Cluster, id: cluster.id.0, version: cluster.meta.version },
        ];
        match shared.write(guards, vec![Change::PutNode(Arc::new(node))]).await {
            Ok(()) => {}
            Err(WriteError::Stale) => return Err(Refused::Stale),
            Err(error) => return Err(Refused::For(error.into())),
        }
        tracing::info!(node.id = %id, role = role.as_str(), "node joined");
        Ok(wire::JoinResponse {
            node_id: id.to_bytes(),
            certificate_pem: issued.certificate_pem,
            ca_cert_pem: issued.root_pem,
            cluster_id: cluster.id.to_bytes(),
            manager: role == Role::Manager,
            managers: managers(view),
        })
    }
}

/// The role that a token grants.
fn granted(cluster: &Cluster, token: &str) -> Result<Role, Status> {
    let token = JoinToken::parse(token).map_err(|e| Status::invalid_argument(e.to_string()))?;
    if token.has_secret(&cluster.manager_token_secret) {
        Ok(Role::Manager)
    } else if token.has_secret(&cluster.worker_token_secret) {
        Ok(Role::Worker)
    } else {
        Err(Status::permission_denied(BAD_TOKEN))
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
pub(crate) fn managers(view: &View) -> Vec<String> {
    let members = view.nodes().filter(|node| node.raft_id != 0 && !node.advertise_addr.is_empty());
    members.map(|node| node.advertise_addr.clone()).collect()
}
