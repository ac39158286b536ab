//! What a manager answers other managers, and the certificates that it signs for any node.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use skep_api::{
    NodeId,
    object::{Node, NodeState, NodeStatus},
    spec::{NodeSpec, Role},
    wire,
};
use skep_link::{
    Whom, peer, remote_addr,
    stubs::{members_server::Members, node_ca_server::NodeCa},
};
use skep_store::{Change, Guard, GuardKind, View};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{book, talk};
use crate::{
    auth::Need,
    ca::Issued,
    dispatcher::{LEFT, Shared},
    level, recovery, roles, tell, unlock,
    write::WriteError,
};

/// How long a manager that asks to come in may take to answer on the address that it names.
const DIAL_BACK_MAX: Duration = Duration::from_secs(3);
/// How long a manager that leaves waits to be taken out; its users wait as well.
const DEPART_MAX: Duration = Duration::from_secs(3);
/// How often a write is made anew because its node changed meanwhile.
const STALE_MAX: u32 = 8;

/// Signs certificates.
pub(crate) struct NodeCaService(pub(crate) Arc<Shared>);

#[tonic::async_trait]
impl NodeCa for NodeCaService {
    async fn renew(
        &self,
        request: Request<wire::RenewRequest>,
    ) -> Result<Response<wire::RenewResponse>, Status> {
        let shared = &self.0;
        let caller = shared.caller(peer(&request), Need::Node).await?;
        let Issued { certificate_pem, root_pem, .. } =
            shared.renewed(&request.into_inner().csr_pem, caller.node, caller.role).await?;
        Ok(Response::new(wire::RenewResponse { certificate_pem, ca_cert_pem: root_pem }))
    }
}

/// Talks with other managers.
pub(crate) struct MembersService(pub(crate) Arc<Shared>);

#[tonic::async_trait]
impl Members for MembersService {
    type RaftStream = ReceiverStream<Result<wire::RaftAnswer, Status>>;

    async fn raft(
        &self,
        request: Request<Streaming<wire::RaftAsk>>,
    ) -> Result<Response<Self::RaftStream>, Status> {
        let caller = peer(&request);
        self.0.caller(caller.clone(), Need::Raft).await?;
        Ok(Response::new(talk::answer(self.0.clone(), caller, request.into_inner())))
    }

    async fn enter(
        &self,
        request: Request<wire::EnterRequest>,
    ) -> Result<Response<wire::EnterResponse>, Status> {
        let shared = &self.0;
        let caller = shared.caller(peer(&request), Need::Manager).await?;
        let from = remote_addr(&request);
        let wire::EnterRequest { raft_id, advertise_addr, feature_level } = request.into_inner();
        if raft_id == 0 {
            return Err(Status::invalid_argument("raft_id: 0 is no raft member"));
        }
        let addr = advertised(&advertise_addr, from)?;
        let mut is_checked = false;
        for _ in 0..STALE_MAX {
            let view = shared.machine.view();
            let Some(new) = entering(&view, caller.node, raft_id, &addr, feature_level)? else {
                return Ok(Response::new(wire::EnterResponse { peers: peers(&view) }));
            };
            if !is_checked {
                dial_back(shared, caller.node, &addr).await?;
                is_checked = true;
            }
            let guard = Guard { kind: GuardKind::Node, id: new.id.0, version: new.meta.version };
            match shared.write(vec![guard], vec![Change::PutNode(Arc::new(new))]).await {
                Ok(()) => tracing::info!(node.id = %caller.node, addr, "a manager comes in"),
                Err(WriteError::Stale) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(Status::aborted("the node changes all the time; ask again"))
    }

    async fn lock(
        &self,
        request: Request<wire::LockRequest>,
    ) -> Result<Response<wire::LockResponse>, Status> {
        self.0.caller(peer(&request), Need::Manager).await?;
        let (unlock, version) = unlock::wanted(&self.0.machine.view()).unwrap_or_default();
        let unlock_key = unlock.map(|key| key.reveal().to_vec()).unwrap_or_default();
        Ok(Response::new(wire::LockResponse { unlock_key, version }))
    }

    async fn depart(
        &self,
        request: Request<wire::DepartRequest>,
    ) -> Result<Response<wire::DepartResponse>, Status> {
        let shared = &self.0;
        let caller = shared.caller(peer(&request), Need::Node).await?;
        let mut changed = shared.machine.nodes_changed();
        for _ in 0..STALE_MAX {
            let view = shared.machine.view();
            let Some(node) = view.node(caller.node) else { break };
            if !shared.may_remove(&view, node) {
                return Err(Status::failed_precondition(roles::LOSS_OF_QUORUM));
            }
            let spec = NodeSpec { role: Role::Worker, ..node.spec.clone() };
            let guard = Guard { kind: GuardKind::Node, id: node.id.0, version: node.meta.version };
            let new = Node { spec, ..(**node).clone() };
            let status =
                NodeStatus { state: NodeState::Down, message: LEFT.to_owned(), ..node.status.clone() };
            let changes = vec![Change::PutNode(Arc::new(new)), Change::NodeStatus(node.id, status)];
            match shared.write(vec![guard], changes).await {
                Ok(()) => break,
                Err(WriteError::Stale) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let is_out = || shared.machine.view().node(caller.node).is_none_or(|node| node.raft_id == 0);
        let waiting = async { while !is_out() && changed.changed().await.is_ok() {} };
        if timeout(DEPART_MAX, waiting).await.is_err() {
            return Err(Status::deadline_exceeded("the other managers have not let this one go yet"));
        }
        tracing::info!(node.id = %caller.node, "a manager left");
        Ok(Response::new(wire::DepartResponse {}))
    }

    async fn dismiss(
        &self,
        request: Request<wire::DismissRequest>,
    ) -> Result<Response<wire::DismissResponse>, Status> {
        let shared = &self.0;
        let caller = shared.caller(peer(&request), Need::Member).await?;
        let wire::DismissRequest { revision, words } = request.into_inner();
        if !recovery::is_of_a_newer_swarm(revision, shared.machine.view().revision()) {
            return Err(Status::failed_precondition("this manager's state is as new as that"));
        }
        tracing::error!(by = %caller.node, "the swarm was made anew without this manager");
        shared.book.drop_out(&words);
        Ok(Response::new(wire::DismissResponse {}))
    }

    async fn tell(&self, request: Request<wire::Told>) -> Result<Response<wire::ToldAnswer>, Status> {
        let caller = self.0.caller(peer(&request), Need::Member).await?;
        tell::take(&self.0, caller.node, &request.into_inner());
        Ok(Response::new(wire::ToldAnswer {}))
    }

    async fn relay(
        &self,
        request: Request<wire::RelayRequest>,
    ) -> Result<Response<wire::RelayResponse>, Status> {
        self.0.caller(peer(&request), Need::Member).await?;
        Ok(Response::new(tell::relay(&self.0, request.into_inner())))
    }
}

/// The members as a new one is told of them.
fn peers(view: &View) -> Vec<wire::RaftPeer> {
    let peer = |(raft_id, entry): (u64, book::Entry)| wire::RaftPeer {
        raft_id,
        addr: entry.addr,
        node_id: entry.node.to_bytes(),
    };
    book::members(view).into_iter().map(peer).collect()
}

/// `host:port` as the caller means it: no host, or any address, is where the call came from.
fn advertised(asked: &str, from: Option<SocketAddr>) -> Result<String, Status> {
    let invalid = || Status::invalid_argument(format!("advertise_addr: '{asked}': host:port expected"));
    let (host, port) = asked.rsplit_once(':').ok_or_else(invalid)?;
    let port: u16 = port.parse().ok().filter(|port| *port != 0).ok_or_else(invalid)?;
    if !["", "0.0.0.0", "[::]"].contains(&host) {
        return Ok(asked.to_owned());
    }
    let from = from.ok_or_else(invalid)?;
    Ok(SocketAddr::new(from.ip(), port).to_string())
}

/// The node as a member; `None` when it is that already.
fn entering(
    view: &View,
    id: NodeId,
    raft_id: u64,
    addr: &str,
    feature_level: u32,
) -> Result<Option<Node>, Status> {
    let node = view.node(id).filter(|node| node.spec.role == Role::Manager);
    let node = node.ok_or_else(|| Status::permission_denied(format!("node {id} is not to be a manager")))?;
    level::check_new(view, feature_level)?;
    if node.raft_id == raft_id && node.advertise_addr == addr {
        return Ok(None);
    }
    for other in view.nodes().filter(|other| other.id != id) {
        if other.raft_id == raft_id {
            return Err(Status::invalid_argument("raft_id: it is another node's; take a fresh one"));
        }
        if other.raft_id != 0 && other.advertise_addr == addr {
            let words =
                format!("address {addr} is node {}'s; give this node its own --advertise-addr", other.id);
            return Err(Status::failed_precondition(words));
        }
    }
    Ok(Some(Node { raft_id, advertise_addr: addr.to_owned(), feature_level, ..(**node).clone() }))
}

/// Makes sure that the others will reach it: by its address, and that it is itself.
async fn dial_back(shared: &Shared, node: NodeId, addr: &str) -> Result<(), Status> {
    // Swarm's words (`SK:manager/state/raft/raft.go`).
    let refuse = |why: &str| {
        let words = "could not connect to prospective new cluster member using its advertised address";
        Status::failed_precondition(format!("{words}: {why}"))
    };
    let dialled = skep_link::connect_once(addr, &shared.identity, Whom::Manager, DIAL_BACK_MAX).await;
    let (_, found) = dialled.map_err(|error| refuse(&error.to_string()))?;
    if found.node_id != node.to_string() {
        return Err(refuse(&format!("{addr} is node {}'s", found.node_id)));
    }
    Ok(())
}
