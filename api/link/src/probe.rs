//! Asks a node whether it is there: its agent itself must answer, under that node's own certificate.
//!
//! A frozen process still accepts TCP, so the answer is an RPC that the agent's own runtime gives.

use std::{fmt, sync::Arc, time::Duration};

use skep_api::{NodeId, wire};
use tokio::{sync::watch, time::timeout};
use tonic::{Request, Response, Status};

use crate::{
    DialError, Identity, Role, Whom, connect_once, peer,
    stubs::{prober_client::ProberClient, prober_server::Prober},
};

/// Whether a node, with the role in its certificate, is of the swarm as far as the one who is asked knows.
pub type Knows = Arc<dyn Fn(NodeId, Role) -> bool + Send + Sync>;

/// Answers probes: the word that this node's agent runs, for whoever hears nothing else of it. Any node of
/// the swarm may ask.
pub struct Answerer {
    node_id: Vec<u8>,
    closing: watch::Receiver<bool>,
    knows: Knows,
    hear: Option<Hear>,
}

/// Told where a manager says that the managers are, `host:port`.
pub type Hear = Arc<dyn Fn(Vec<String>) + Send + Sync>;

/// So many of them are heard.
const MANAGERS_MAX: usize = 64;

impl fmt::Debug for Answerer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answerer").field("closing", &self.closing).finish_non_exhaustive()
    }
}

impl Answerer {
    /// Answers as `node_id` until `closing`, to the nodes that `knows` names.
    #[must_use]
    pub fn new(node_id: &str, closing: watch::Receiver<bool>, knows: Knows) -> Self {
        let node_id = node_id.parse::<NodeId>().map(NodeId::to_bytes).unwrap_or_default();
        Self { node_id, closing, knows, hear: None }
    }

    /// Also hands on what managers that ask say of where the managers are.
    #[must_use]
    pub fn hearing(self, hear: Hear) -> Self {
        Self { hear: Some(hear), ..self }
    }
}

#[tonic::async_trait]
impl Prober for Answerer {
    async fn probe(
        &self,
        request: Request<wire::ProbeRequest>,
    ) -> Result<Response<wire::ProbeResponse>, Status> {
        let peer = peer(&request).ok_or_else(|| Status::unauthenticated("a node certificate is needed"))?;
        if !peer.node_id.parse().is_ok_and(|node| (self.knows)(node, peer.role)) {
            return Err(Status::permission_denied(format!("node {} is not in this swarm", peer.node_id)));
        }
        if *self.closing.borrow() {
            return Err(Status::unavailable("the agent stops"));
        }
        let mut managers = request.into_inner().managers;
        if let Some(hear) = self.hear.as_ref().filter(|_| peer.role == Role::Manager && !managers.is_empty())
        {
            managers.truncate(MANAGERS_MAX);
            hear(managers);
        }
        Ok(Response::new(wire::ProbeResponse { node_id: self.node_id.clone() }))
    }
}

/// A probe brought no sign of life.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// No connection.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// Another node is there.
    #[error("{addr} is node {found}")]
    OtherNode {
        /// Where it was tried.
        addr: String,
        /// Whom its certificate names.
        found: String,
    },
    /// It took the connection, but its agent does not answer, or stops.
    #[error("the agent at {addr} does not answer: {reason}")]
    Silent {
        /// Where it was tried.
        addr: String,
        /// What it said, or that it said nothing.
        reason: String,
    },
}

/// Returns when the agent of `node` at `addr` has answered. A manager says where the `managers` are, for an agent
/// that has lost them.
///
/// # Errors
/// [`ProbeError`], after `limit` at most.
pub async fn probe(
    addr: &str,
    identity: &Identity,
    node: NodeId,
    managers: Vec<String>,
    limit: Duration,
) -> Result<(), ProbeError> {
    let silent = |reason: String| ProbeError::Silent { addr: addr.to_owned(), reason };
    let asking = async {
        let (channel, peer) = connect_once(addr, identity, Whom::Node, limit).await?;
        if peer.node_id != node.to_string() {
            return Err(ProbeError::OtherNode { addr: addr.to_owned(), found: peer.node_id });
        }
        let answer = ProberClient::new(channel).probe(wire::ProbeRequest { managers }).await;
        answer.map(|_| ()).map_err(|status| silent(status.message().to_owned()))
    };
    match timeout(limit, asking).await {
        Ok(result) => result,
        Err(_) => Err(silent(format!("not within {limit:?}"))),
    }
}
