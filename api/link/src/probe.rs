//! Asks a node whether it is there: its agent itself must answer, under that node's own certificate.

use std::time::Duration;

use skep_api::{NodeId, wire};
use tokio::time::timeout;

use crate::{DialError, Identity, Whom, connect_once, stubs::prober_client::ProberClient};

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
