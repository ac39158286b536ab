//! What a session tells the rest of the daemon of itself, and of what its manager says.

use std::sync::Arc;

use skep_api::wire;
use skep_link::stubs::dispatcher_client::DispatcherClient;
use tokio::sync::watch;
use tonic::transport::Channel;

/// What the store says this node is to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NodeRole {
    /// The role that it is to have.
    pub manager: bool,
    /// The raft member that it is or is about to be; 0: none.
    pub raft_id: u64,
}

/// What the managers say of certificates.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Trust {
    /// The root to trust.
    pub root_pem: String,
    /// How long certificates are to live, in seconds; 0: not said.
    pub cert_expiry_secs: u64,
}

/// What the session tells others of itself.
#[derive(Debug)]
pub(crate) struct Ties {
    /// Every manager known, host:port.
    pub(crate) managers: watch::Sender<Vec<String>>,
    /// Without a session a manager said where the managers are: so many, the first of those known.
    pub(crate) told: watch::Sender<usize>,
    pub(crate) is_connected: watch::Sender<bool>,
    /// How a manager said that this node is not in the swarm any more.
    pub(crate) removed: watch::Sender<Option<String>>,
    /// What the store says this node is to be; `None` until a manager said it.
    pub(crate) role: watch::Sender<Option<NodeRole>>,
    pub(crate) trust: watch::Sender<Option<Trust>>,
    /// Why a manager did not take this node's certificate; `None` once one has taken it.
    pub(crate) refused: watch::Sender<Option<String>>,
    /// How often a manager wanted this node to renew its certificate at once.
    pub(crate) renewals_wanted: watch::Sender<u64>,
    /// The newest mesh.
    pub(crate) mesh: watch::Sender<Option<Arc<wire::MeshState>>>,
    /// The session's manager, for a last word.
    pub(crate) client: watch::Sender<Option<DispatcherClient<Channel>>>,
}

/// So many managers are looked for.
const MANAGERS_MAX: usize = 64;

impl Ties {
    /// A manager that misses this node says where the managers are. Without a session they are looked for there
    /// first: all of them may have moved.
    pub(crate) fn hear_of(&self, managers: Vec<String>) {
        if managers.is_empty() || *self.is_connected.borrow() {
            return;
        }
        let n = managers.len().min(MANAGERS_MAX);
        self.managers.send_if_modified(|known| {
            let is_news = !known.starts_with(&managers);
            if is_news {
                let old = std::mem::take(known);
                let fresh = managers.iter().chain(old.iter().filter(|manager| !managers.contains(manager)));
                *known = fresh.take(MANAGERS_MAX).cloned().collect();
            }
            is_news
        });
        self.told.send_replace(n);
    }
}
