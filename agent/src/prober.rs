//! Answers probes: the word that this agent runs, for whoever hears nothing else of it.
//!
//! A frozen process still accepts TCP, so the answer is an RPC that the agent's own runtime gives.

use skep_api::{NodeId, wire};
use skep_link::{peer, stubs::prober_server::Prober};
use tokio::sync::watch;
use tonic::{Request, Response, Status};

/// The gRPC service. Any node of the swarm may ask.
#[derive(Debug)]
pub struct AgentProber {
    node_id: Vec<u8>,
    closing: watch::Receiver<bool>,
}

impl AgentProber {
    pub(crate) fn new(node_id: &str, closing: watch::Receiver<bool>) -> Self {
        let node_id = node_id.parse::<NodeId>().map(NodeId::to_bytes).unwrap_or_default();
        Self { node_id, closing }
    }
}

#[tonic::async_trait]
impl Prober for AgentProber {
    async fn probe(
        &self,
        request: Request<wire::ProbeRequest>,
    ) -> Result<Response<wire::ProbeResponse>, Status> {
        if peer(&request).is_none() {
            return Err(Status::unauthenticated("a node certificate is needed"));
        }
        if *self.closing.borrow() {
            return Err(Status::unavailable("the agent stops"));
        }
        Ok(Response::new(wire::ProbeResponse { node_id: self.node_id.clone() }))
    }
}
