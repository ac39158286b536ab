//! The other managers: who they are by the applied state, and one connection to each, made when needed.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use skep_api::{NodeId, spec::Role};
use skep_link::{DialError, Identity, RootDigest};
use tonic::transport::Channel;

use crate::machine::Machine;

/// The book of managers.
#[derive(Debug)]
pub(crate) struct Peers {
    own: NodeId,
    identity: Identity,
    machine: Arc<Machine>,
    /// With which of this node's certificates each was dialled.
    channels: Mutex<BTreeMap<String, (RootDigest, Channel)>>,
}

impl Peers {
    pub(crate) fn new(own: NodeId, identity: Identity, machine: Arc<Machine>) -> Arc<Self> {
        Arc::new(Self { own, identity, machine, channels: Mutex::default() })
    }

    /// The node that this manager is.
    pub(crate) fn own(&self) -> NodeId {
        self.own
    }

    /// This node's certificate.
    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The other managers that are raft members or about to be, with their `host:port`.
    pub(crate) fn others(&self) -> Vec<(NodeId, String)> {
        let view = self.machine.view();
        let others = view.nodes().filter(|node| {
            node.id != self.own
                && node.spec.role == Role::Manager
                && node.raft_id != 0
                && !node.advertise_addr.is_empty()
        });
        others.map(|node| (node.id, node.advertise_addr.clone())).collect()
    }

    /// A connection to `host:port`, kept and shared; it connects again by itself when it breaks.
    ///
    /// # Errors
    /// [`DialError`] when there is none yet and none can be made.
    pub(crate) async fn channel(&self, addr: &str) -> Result<Channel, DialError> {
        let under = self.identity.fingerprint();
        if let Some((_, channel)) = self.lock().get(addr).filter(|(dialled, _)| *dialled == under) {
            return Ok(channel.clone());
        }
        let channel = skep_link::connect(addr, &self.identity).await?;
        // Whoever came second is as good.
        self.lock().insert(addr.to_owned(), (under, channel.clone()));
        Ok(channel)
    }

    /// Lets go of connections to addresses that no manager has any more.
    pub(crate) fn prune(&self) {
        let addrs: Vec<String> = self.others().into_iter().map(|(_, addr)| addr).collect();
        self.lock().retain(|addr, _| addrs.contains(addr));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, (RootDigest, Channel)>> {
        self.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
