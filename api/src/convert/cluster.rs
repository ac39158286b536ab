//! The swarm itself.

use super::{Malformed, from_json, json, malformed};
use crate::{
    ClusterId, Secret,
    object::{CaRotation, Cluster},
    wire,
};

impl From<&Cluster> for wire::Cluster {
    fn from(cluster: &Cluster) -> Self {
        Self {
            id: cluster.id.to_bytes(),
            meta: Some(cluster.meta.into()),
            spec: json(&cluster.spec),
            ca_cert_pem: cluster.ca_cert_pem.clone(),
            ca_key_pem: cluster.ca_key_pem.clone(),
            ca_cross_pem: cluster.ca_cross_pem.clone(),
            ca_rotation: cluster.ca_rotation.clone().map(|rotation| wire::CaRotation {
                cert_pem: rotation.cert_pem,
                key_pem: rotation.key_pem,
                cross_pem: rotation.cross_pem,
            }),
            ca_forced: cluster.ca_forced,
            worker_token_secret: cluster.worker_token_secret.clone(),
            manager_token_secret: cluster.manager_token_secret.clone(),
            data_path_port: cluster.data_path_port,
            default_addr_pool: cluster.default_addr_pool.clone(),
            subnet_size: cluster.subnet_size,
            unlock_key: cluster.unlock_key.reveal().to_vec(),
            unlock_version: cluster.unlock_version,
            feature_level: cluster.feature_level,
        }
    }
}

impl TryFrom<wire::Cluster> for Cluster {
    type Error = Malformed;

    fn try_from(cluster: wire::Cluster) -> Result<Self, Malformed> {
        Ok(Self {
            id: ClusterId::from_bytes(&cluster.id).ok_or_else(|| malformed("cluster", "id"))?,
            meta: cluster.meta.unwrap_or_default().into(),
            spec: from_json("cluster", &cluster.spec)?,
            ca_cert_pem: cluster.ca_cert_pem,
            ca_key_pem: cluster.ca_key_pem,
            ca_cross_pem: cluster.ca_cross_pem,
            ca_rotation: cluster.ca_rotation.map(|rotation| CaRotation {
                cert_pem: rotation.cert_pem,
                key_pem: rotation.key_pem,
                cross_pem: rotation.cross_pem,
            }),
            ca_forced: cluster.ca_forced,
            worker_token_secret: cluster.worker_token_secret,
            manager_token_secret: cluster.manager_token_secret,
            data_path_port: cluster.data_path_port,
            default_addr_pool: cluster.default_addr_pool,
            subnet_size: cluster.subnet_size,
            unlock_key: Secret::new(cluster.unlock_key),
            unlock_version: cluster.unlock_version,
            feature_level: cluster.feature_level,
        })
    }
}
