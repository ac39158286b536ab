//! The dispatcher's RPCs. Each is authorised by the store: the caller must be a node that it has.

use std::{pin::Pin, sync::Arc};

use skep_api::{
    NodeId, Timestamp,
    object::{NodeDescription, NodeState, NodeStatus},
    wire::{self, agent_message::Message as In, manager_message::Message as Out, stopping_request::Reason},
};
use skep_link::{Identity, peer, remote_addr, stubs::dispatcher_server::Dispatcher};
use skep_raft::{Leadership, Raft};
use skep_store::{Change, Proposal};
use tokio::{sync::mpsc, time::Instant};
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::{Request, Response, Status, Streaming};

use super::{
    Collector, Hub,
    hub::ASIDE_MAX,
    session::{Cut, Introduced, LEFT, Session, describe, receive_all},
};
use crate::{
    auth::Need,
    clocks::Clocks,
    liveness::{Liveness, RESTARTING, SHUTTING_DOWN},
    logs::LogBroker,
    machine::Machine,
    members::Book,
    peers::Peers,
};

/// Messages under way to one agent before its session waits.
const OUT_MAX: usize = 16;

/// What the RPCs work on.
pub(crate) struct Shared {
    /// This node's certificate.
    pub(crate) identity: Identity,
    pub(crate) raft: Raft,
    pub(crate) book: Arc<Book>,
    pub(crate) machine: Arc<Machine>,
    pub(crate) hub: Arc<Hub>,
    pub(crate) collector: Collector,
    pub(crate) liveness: Arc<Liveness>,
    pub(crate) logs: Arc<LogBroker>,
    pub(crate) peers: Arc<Peers>,
    pub(crate) clock: fn() -> i64,
    pub(crate) clocks: Clocks,
}

impl Shared {
    /// Whether this manager leads.
    pub(crate) fn leads(&self) -> bool {
        matches!(*self.raft.leadership().borrow(), Leadership::Leader { .. })
    }

    /// What the leader's clock shows, as far as it is known, in Unix nanoseconds.
    pub(crate) fn leaders_clock(&self) -> i64 {
        let ours = (self.clock)();
        if self.leads() { ours } else { self.clocks.of_leader(ours) }
    }
}

/// The gRPC service.
pub(crate) struct DispatcherService(pub(crate) Arc<Shared>);

impl DispatcherService {
    /// The calling node, if the store has it.
    fn node<T>(&self, request: &Request<T>) -> impl Future<Output = Result<NodeId, Status>> + use<'_, T> {
        // Read before the wait: a stream in the request cannot be held through it.
        let peer = peer(request);
        async move { Ok(self.0.caller(peer, Need::Node).await?.node) }
    }
}

#[tonic::async_trait]
impl Dispatcher for DispatcherService {
    type SessionStream = Pin<Box<dyn Stream<Item = Result<wire::ManagerMessage, Status>> + Send>>;

    async fn session(
        &self,
        request: Request<Streaming<wire::AgentMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let node = self.node(&request).await?;
        let addr = remote_addr(&request).map(|addr| addr.ip().to_string()).unwrap_or_default();
        let mut messages = request.into_inner();
        let Some(wire::AgentMessage { message: Some(In::Hello(hello)) }) = messages.message().await? else {
            return Err(Status::invalid_argument("a session begins with hello"));
        };
        let shared = &self.0;
        let (takes_mesh_changes, takes_few_peers) = (hello.takes_mesh_changes, hello.takes_few_peers);
        if hello.revision > shared.machine.view().revision() {
            return Err(Status::unavailable("this manager's state is older than the node's; try another"));
        }
        let introduced = Introduced {
            data_path_addr: hello.data_path_addr,
            probe_addr: reachable(hello.probe_addr, &addr),
            addr: addr.clone(),
        };
        let description: NodeDescription = hello.description.unwrap_or_default().into();
        let cut = Cut::of(&description, shared.machine.view().feature_level());
        describe(shared, node, description, Some(introduced)).await?;
        shared.liveness.alive([(node, Instant::now())]);

        let (aside_tx, aside) = mpsc::channel(ASIDE_MAX);
        let (out, out_rx) = mpsc::channel(OUT_MAX);
        let mut ties = shared.hub.connect(node, aside_tx);
        let session = ties.session;
        tracing::info!(node.id = %node, session.id = session, "session opened");
        let welcome = Out::Welcome(ties.terms.borrow_and_update().welcome(node));
        // No await from connect to spawn: a handler that is dropped there would leave the session behind.
        let first = Ok(wire::ManagerMessage { message: Some(welcome) });
        out.try_send(first).expect("a fresh queue has room for one");
        let out_too = out.clone();
        let sender = Session {
            shared: shared.clone(),
            node,
            ties,
            takes_mesh_changes,
            takes_few_peers,
            aside,
            out: out_too,
        };
        let shared = shared.clone();
        // Ends with the stream, or when another session of the node takes over.
        tokio::spawn(async move {
            tokio::select! {
                () = sender.send_all() => {}
                () = receive_all(shared.clone(), node, session, addr, (messages, cut), out) => {}
            }
            if shared.hub.disconnect(node, session) {
                shared.logs.node_gone(node);
                shared.liveness.broken([node]);
            }
            tracing::info!(node.id = %node, session.id = session, "session ended");
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(out_rx))))
    }

    async fn publish_logs(
        &self,
        request: Request<Streaming<wire::LogBatch>>,
    ) -> Result<Response<wire::LogsDone>, Status> {
        let node = self.node(&request).await?;
        self.0.logs.take_in(node, request.into_inner()).await;
        Ok(Response::new(wire::LogsDone {}))
    }

    async fn leave(
        &self,
        request: Request<wire::LeaveRequest>,
    ) -> Result<Response<wire::LeaveResponse>, Status> {
        let node = self.node(&request).await?;
        let shared = &self.0;
        let addr = remote_addr(&request).map(|addr| addr.ip().to_string()).unwrap_or_default();
        let status =
            NodeStatus { state: NodeState::Down, message: LEFT.to_owned(), addr, ..NodeStatus::default() };
        store_status(shared, node, status).await?;
        Ok(Response::new(wire::LeaveResponse {}))
    }

    async fn stopping(
        &self,
        request: Request<wire::StoppingRequest>,
    ) -> Result<Response<wire::StoppingResponse>, Status> {
        let node = self.node(&request).await?;
        let shared = &self.0;
        shared.hub.stopping(node);
        let view = shared.machine.view();
        let stored =
            view.node(node).map(|stored| stored.status.clone()).filter(|now| now.state == NodeState::Ready);
        if let Some(now) = stored {
            let status = match request.into_inner().reason() {
                Reason::Restart => NodeStatus {
                    message: RESTARTING.to_owned(),
                    restarting_since: Timestamp((shared.clock)()),
                    ..now
                },
                Reason::Shutdown => {
                    NodeStatus { state: NodeState::Down, message: SHUTTING_DOWN.to_owned(), ..now }
                }
            };
            tracing::info!(node.id = %node, "a daemon stops: {}", status.message);
            store_status(shared, node, status).await?;
        }
        Ok(Response::new(wire::StoppingResponse {}))
    }
}

async fn store_status(shared: &Shared, node: NodeId, status: NodeStatus) -> Result<(), Status> {
    let changes = vec![Change::NodeStatus(node, status)];
    let proposal = Proposal { changes, now: Timestamp((shared.clock)()), ..Proposal::default() };
    let answer = shared.raft.propose(proposal.encode()).await;
    answer.map(|_| ()).map_err(|e| Status::unavailable(e.to_string()))
}

/// Where a node is probed: `addr` as it says, at the host from where it calls if it names none.
fn reachable(addr: String, host: &str) -> String {
    match addr.rsplit_once(':') {
        Some(("" | "0.0.0.0" | "[::]", port)) if host.contains(':') => format!("[{host}]:{port}"),
        Some(("" | "0.0.0.0" | "[::]", port)) => format!("{host}:{port}"),
        Some(_) | None => addr,
    }
}
