//! A node's new certificate: for the role that the store gives it now, under a fresh key.

use skep_api::wire;
use tonic::transport::Channel;

use crate::{CaError, Identity, IdentityError, new_csr, stubs::node_ca_client::NodeCaClient, unary};

/// A certificate could not be renewed; the old one is as it was.
#[derive(Debug, thiserror::Error)]
pub enum RenewError {
    /// No request could be made.
    #[error("cannot make a certificate signing request")]
    Csr(#[source] CaError),
    /// The manager said no, or broke off.
    #[error("the manager does not renew this node's certificate: {}", .0.message())]
    Refused(#[source] Box<tonic::Status>),
    /// The answer does not fit our key or the root.
    #[error("unusable certificate from the manager")]
    Identity(#[source] IdentityError),
    /// The answer is for somebody else.
    #[error("the manager answered with a certificate of node {found}")]
    OtherNode {
        /// Whom it names.
        found: String,
    },
}

/// Asks the manager at the other end of `channel` for a new certificate in the place of `identity`'s. The
/// result is neither saved nor in use yet: see [`Identity::save`] and [`Identity::replace`].
///
/// # Errors
/// [`RenewError`].
pub async fn renew(channel: Channel, identity: &Identity) -> Result<Identity, RenewError> {
    let (csr_pem, key_pem) = new_csr().map_err(RenewError::Csr)?;
    let answer = NodeCaClient::new(channel)
        .renew(unary(wire::RenewRequest { csr_pem }))
        .await
        .map_err(|status| RenewError::Refused(Box::new(status)))?
        .into_inner();
    let renewed =
        Identity::new(answer.certificate_pem, key_pem, answer.ca_cert_pem).map_err(RenewError::Identity)?;
    if renewed.node_id() != identity.node_id() || renewed.cluster_id() != identity.cluster_id() {
        return Err(RenewError::OtherNode { found: renewed.node_id() });
    }
    Ok(renewed)
}
