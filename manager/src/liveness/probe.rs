//! Asks a node that is not heard whether it is there: directly, and through agents that may reach it when
//! this manager does not.
//!
//! An answer is a sign of life; no answer proves nothing.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use skep_api::{NodeId, object::Node, wire};
use skep_link::{DEFAULT_PORT, DialError, ProbeError};
use tokio::{sync::Semaphore, task::JoinSet, time::Instant};

use crate::{dispatcher::Shared, tell};

/// One probe, from the dial to the answer: just under the time between two of a node.
const PROBE_MAX: Duration = Duration::from_millis(650);
/// Probes at a time: a handshake each, and the managers have other work when a fleet is silent.
const PROBES_MAX: usize = 64;
/// Agents that are asked to probe the same node.
const HELPERS: usize = 3;

/// The probes under way.
pub(super) struct Probes {
    shared: Arc<Shared>,
    permits: Arc<Semaphore>,
    running: JoinSet<()>,
}

impl Probes {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, permits: Arc::new(Semaphore::new(PROBES_MAX)), running: JoinSet::new() }
    }

    /// Begins to probe this node; one too many is not begun, its turn comes again.
    pub(super) fn begin(&mut self, node: &Node) {
        while self.running.try_join_next().is_some() {}
        let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() else { return };
        let shared = self.shared.clone();
        let (id, addr, host) = (node.id, node.called_at().to_owned(), node.status.addr.clone());
        self.running.spawn(async move {
            let _permit = permit;
            if addr.is_empty() {
                // Whether its host is there can be told all the same.
                if is_refused(&host).await {
                    shared.liveness.host_alive(id);
                }
                return;
            }
            tokio::join!(directly(&shared, id, &addr), through_others(&shared, id, &addr));
        });
    }
}

async fn directly(shared: &Shared, node: NodeId, addr: &str) {
    let managers = crate::join::managers(&shared.machine.view());
    match skep_link::probe(addr, shared.peers.identity(), node, managers, PROBE_MAX).await {
        Ok(()) => shared.liveness.alive([(node, Instant::now())]),
        Err(ProbeError::Dial(DialError::Unreachable { source, .. }))
            if source.kind() == io::ErrorKind::ConnectionRefused =>
        {
            shared.liveness.host_alive(node);
        }
        Err(error) => tracing::debug!(node.id = %node, err = %error, "a probe was not answered"),
    }
}

async fn through_others(shared: &Shared, node: NodeId, addr: &str) {
    for helper in shared.hub.helpers(node, HELPERS) {
        let wanted = wire::ProbeWanted { node_id: node.to_bytes(), addr: addr.to_owned() };
        // A helper that is gone is one less.
        tell::send(shared, helper, wire::manager_message::Message::ProbeWanted(wanted)).await;
    }
}

/// Whether a host refuses a connection: then it is there, though nobody listens.
async fn is_refused(host: &str) -> bool {
    let Ok(ip) = host.parse() else { return false };
    if skep_link::sim::is_simulated() {
        return false;
    }
    let dial = tokio::net::TcpStream::connect(SocketAddr::new(ip, DEFAULT_PORT));
    match tokio::time::timeout(PROBE_MAX, dial).await {
        Ok(Ok(_)) => true,
        Ok(Err(error)) => error.kind() == io::ErrorKind::ConnectionRefused,
        Err(_) => false,
    }
}
