//! Signs a node's certificate as the state says: by an external CA where one is set for the root in use, else
//! by the key that the state holds.

use skep_api::{
    NodeId,
    object::{Cluster, NodeTls},
    spec::Role,
};
use skep_link::{Authority, ExternalCa, Identity, RootDigest, check_issued, issuer_of, normal_pem};
use tonic::Status;

use crate::{dispatcher::Shared, join::certified};

/// How often a certificate is made anew because the root changed meanwhile.
const CHANGES_MAX: u32 = 4;

/// A new certificate.
pub(crate) struct Issued {
    /// It, and those between it and the root.
    pub(crate) certificate_pem: String,
    /// The root to trust.
    pub(crate) root_pem: String,
    /// What it stands on.
    pub(crate) tls: NodeTls,
}

/// The root whose key signs: the next one during a rotation.
pub(super) fn signing_root(cluster: &Cluster) -> &str {
    cluster.ca_rotation.as_ref().map_or(&cluster.ca_cert_pem, |rotation| &rotation.cert_pem)
}

/// The external CAs that sign under this root. One that names no root is the current root's (Swarm's rule).
pub(super) fn external_cas(cluster: &Cluster, root_pem: &str) -> Vec<ExternalCa> {
    let next = cluster.ca_rotation.as_ref().map_or("", |rotation| &rotation.cert_pem);
    let roots_pem = format!("{}{next}", cluster.ca_cert_pem);
    let all = cluster.spec.external_cas().into_iter();
    let fitting = all.filter(|ca| {
        let of = if ca.ca_cert.is_empty() { cluster.ca_cert_pem.clone() } else { normal_pem(&ca.ca_cert) };
        of == normal_pem(root_pem)
    });
    fitting.map(|ca| ExternalCa { url: ca.url, roots_pem: roots_pem.clone() }).collect()
}

/// What goes after a certificate so that whoever trusts the current root, or missed the end of the last
/// rotation, can follow it.
fn through(cluster: &Cluster) -> String {
    let next = cluster.ca_rotation.as_ref().map_or("", |rotation| &rotation.cross_pem);
    format!("{next}{}", cluster.ca_cross_pem)
}

/// Signs for a node, by this state of the cluster.
pub(crate) async fn sign(
    identity: &Identity,
    cluster: &Cluster,
    csr_pem: &str,
    node: NodeId,
    role: Role,
    now_unix_secs: i64,
) -> Result<Issued, Status> {
    let root = signing_root(cluster);
    let (issuer_subject, issuer_public_key) =
        issuer_of(root).ok_or_else(|| Status::internal("the stored root certificate is damaged"))?;
    let (node, cluster_id, role) = (node.to_string(), cluster.id.to_string(), certified(role));
    let external = external_cas(cluster, root);
    let certificate_pem = if external.is_empty() {
        let key = cluster.ca_rotation.as_ref().map_or(&cluster.ca_key_pem, |rotation| &rotation.key_pem);
        if key.is_empty() {
            return Err(Status::unavailable(
                "no external CA is set that signs for the swarm's root, and the swarm has no key of it: \
                 set one by 'swarm update --external-ca'",
            ));
        }
        let authority = Authority::from_pem(root, key)
            .map_err(|error| Status::internal(format!("the stored CA is unusable: {error}")))?;
        authority
            .valid_for(cluster.spec.node_cert_expiry())
            .through(through(cluster))
            .sign_node(csr_pem, &node, role, &cluster_id, now_unix_secs)
            .map_err(|error| Status::invalid_argument(error.to_string()))?
    } else {
        let mut why = String::new();
        let mut signed = None;
        for ca in &external {
            match ca.sign_node(identity, csr_pem, &node, role, &cluster_id).await {
                Ok(leaf) => {
                    signed = Some(leaf);
                    break;
                }
                Err(error) => {
                    tracing::warn!(ca.url = ca.url, err = %error, "an external CA did not sign");
                    why = format!("{}: {error}", ca.url);
                }
            }
        }
        let leaf = signed.ok_or_else(|| Status::unavailable(format!("failed to sign CSR: {why}")))?;
        let chain = format!("{leaf}{}", through(cluster));
        check_issued(&chain, &cluster.ca_cert_pem, &node, role, &cluster_id).map_err(|why| {
            Status::unavailable(format!("the external CA's certificate is not what was asked for: {why}"))
        })?;
        chain
    };
    let root_digest = RootDigest::of_pem(&cluster.ca_cert_pem).0.to_vec();
    Ok(Issued {
        certificate_pem,
        root_pem: cluster.ca_cert_pem.clone(),
        tls: NodeTls { issuer_subject, issuer_public_key, root_digest },
    })
}

fn is_same_ca(one: &Cluster, other: &Cluster) -> bool {
    (&one.ca_cert_pem, &one.ca_cross_pem, &one.ca_rotation)
        == (&other.ca_cert_pem, &other.ca_cross_pem, &other.ca_rotation)
}

impl Shared {
    /// Renews for a node that was let in, by the state that is applied here.
    pub(crate) async fn renewed(&self, csr_pem: &str, node: NodeId, role: Role) -> Result<Issued, Status> {
        for _ in 0..CHANGES_MAX {
            let view = self.machine.view();
            let cluster =
                view.cluster().ok_or_else(|| Status::unavailable("this manager is still starting"))?;
            let now = (self.clock)() / 1_000_000_000;
            let issued = sign(&self.identity, cluster, csr_pem, node, role, now).await?;
            // An external CA takes its time.
            if self.machine.view().cluster().is_some_and(|now| is_same_ca(now, cluster)) {
                tracing::info!(node.id = %node, role = role.as_str(), "certificate renewed");
                return Ok(issued);
            }
        }
        Err(Status::aborted("the swarm's root changes all the time; ask again"))
    }
}
