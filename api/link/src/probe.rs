//! Asks a node whether it is there: its agent itself must answer, under that node's own certificate.
//!
//! A frozen process still accepts TCP, so the answer is an RPC that the agent's own runtime gives.

use std::{fmt, sync::Arc, time::Duration};

use skep_api::{NodeId, wire};
use tokio::{sync::watch, time::timeout};
use tonic::{Request, Response, Status};

use crate::{
    DialError, Identity, Whom, connect_once, peer,
    stubs::{prober_client::ProberClient, prober_server::Prober},
};

/// Whether a node is of the swarm, as far as the one who is asked knows.
pub type Knows = Arc<dyn Fn(NodeId) -> bool + Send + Sync>;

/// Answers probes: the word that this node's agent runs, for whoever hears nothing else of it. Any node of
/// the swarm may ask.
pub struct Answerer {
    node_id: Vec<u8>,
    closing: watch::Receiver<bool>,
    knows: Knows,
}

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
        Self { node_id, closing, knows }
    }
}

#[tonic::async_trait]
impl Prober for Answerer {
    async fn probe(
        &self,
        request: Request<wire::ProbeRequest>,
    ) -> Result<Response<wire::ProbeResponse>, Status> {
        let peer = peer(&request).ok_or_else(|| Status::unauthenticated("a node certificate is needed"))?;
        if !peer.node_id.parse().is_ok_and(|node| (self.knows)(node)) {
            return Err(Status::permission_denied(format!("node {} is not in this swarm", peer.node_id)));
        }
        if *self.closing.borrow() {
            return Err(Status::unavailable("the agent stops"));
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

/// Returns when the agent of `node` at `addr` has answered.
///
/// # Errors
/// [`ProbeError`], after `limit` at most.
pub async fn probe(addr: &str, identity: &Identity, node: NodeId, limit: Duration) -> Result<(), ProbeError> {
    let silent = |reason: String| ProbeError::Silent { addr: addr.to_owned(), reason };
    let asking = async {
        let (channel, peer) = connect_once(addr, identity, Whom::Node, limit).await?;
        if peer.node_id != node.to_string() {
            return Err(ProbeError::OtherNode { addr: addr.to_owned(), found: peer.node_id });
        }
        let answer = ProberClient::new(channel).probe(wire::ProbeRequest {}).await;
        answer.map(|_| ()).map_err(|status| silent(status.message().to_owned()))
    };
    match timeout(limit, asking).await {
        Ok(result) => result,
        Err(_) => Err(silent(format!("not within {limit:?}"))),
    }
}
