//! The swarm itself: its settings, keys and tokens.

use super::Meta;
use crate::{ClusterId, Id, NetworkId, Secret, spec::SwarmSpec};

/// The swarm.
#[derive(Clone, PartialEq, Default)]
pub struct Cluster {
    /// Its id.
    pub id: ClusterId,
    /// Version and times.
    pub meta: Meta,
    /// The user's settings.
    pub spec: SwarmSpec,
    /// Root certificate: the one that nodes trust.
    pub ca_cert_pem: String,
    /// Root key; empty: an external CA signs.
    pub ca_key_pem: String,
    /// The root certificate, signed by the root before it; empty: it is the first. A node that missed the end
    /// of a rotation knows the managers by it.
    pub ca_cross_pem: String,
    /// The next root, while nodes change to it.
    pub ca_rotation: Option<CaRotation>,
    /// The `ForceRotate` of the last rotation that was asked for.
    pub ca_forced: u64,
    /// The secret part of the token for workers.
    pub worker_token_secret: String,
    /// The secret part of the token for managers.
    pub manager_token_secret: String,
    /// UDP port of the VXLAN.
    pub data_path_port: u32,
    /// Pools from which networks are cut.
    pub default_addr_pool: Vec<String>,
    /// Their prefix length.
    pub subnet_size: u32,
    /// Which rules the managers apply: what all of their builds can. It never falls.
    pub feature_level: u32,
    /// What the managers' key files are wrapped under; none: autolock is off.
    pub unlock_key: Secret,
    /// Counts the changes of the unlock key.
    pub unlock_version: u64,
}

/// A root that nodes change to.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct CaRotation {
    /// Its certificate.
    pub cert_pem: String,
    /// Its key; empty: an external CA signs.
    pub key_pem: String,
    /// Its certificate, signed by the current root.
    pub cross_pem: String,
}

impl std::fmt::Debug for CaRotation {
    /// The key is never printed.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CaRotation").field("has_key", &!self.key_pem.is_empty()).finish_non_exhaustive()
    }
}

impl Cluster {
    /// The id of the swarm's ingress network: told apart from the swarm's own, and the same on every manager.
    #[must_use]
    pub fn ingress_id(&self) -> NetworkId {
        const MARK: u128 = 0x696e_6772_6573_732d_6e65_7477_6f72_6b00;
        NetworkId(Id(self.id.0.0 ^ MARK))
    }
}

impl std::fmt::Debug for Cluster {
    /// Keys and tokens are never printed.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster").field("id", &self.id).field("meta", &self.meta).finish_non_exhaustive()
    }
}
