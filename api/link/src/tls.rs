//! TLS as the nodes speak it: 1.3 or 1.2 by ring, HTTP/2 alone, and whom each side believes.
//!
//! A manager is known by the DNS name `swarm-manager`, which the CA writes into managers' certificates
//! alone (a worker by `swarm-worker`); addresses and host names say nothing. A client's certificate is optional, because a
//! joiner has none yet, but one of another CA is refused.

use std::sync::Arc;

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, OtherError,
    RootCertStore, ServerConfig, SignatureScheme,
    client::{
        ResolvesClientCert, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::CryptoProvider,
    pki_types::{CertificateDer, ServerName, UnixTime, pem, pem::PemObject},
    server::{
        ClientHello, ResolvesServerCert, VerifierBuilderError, WebPkiClientVerifier,
        danger::ClientCertVerifier,
    },
    sign::CertifiedKey,
};

use crate::{Role, RootDigest, subject::Subject};

const ALPN_H2: &[u8] = b"h2";

/// The presented chain does not hold the root that the join token names.
#[derive(Debug, thiserror::Error)]
#[error("remote CA does not match fingerprint. Expected: {expected}")]
pub(crate) struct DigestMismatch {
    pub(crate) expected: RootDigest,
}

/// The manager is of another cluster under the same root.
#[derive(Debug, thiserror::Error)]
#[error("it belongs to cluster {found}, not {expected}")]
pub(crate) struct OtherCluster {
    pub(crate) found: String,
    pub(crate) expected: String,
}

pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The certificates of a PEM text in their order, other blocks skipped.
pub(crate) fn certificates(text: &str) -> Result<Vec<CertificateDer<'static>>, pem::Error> {
    CertificateDer::pem_slice_iter(text.as_bytes()).collect()
}

pub(crate) fn server_name(role: Role) -> ServerName<'static> {
    ServerName::try_from(role.unit()).expect("a role's unit is a DNS name")
}

/// Who may call: nodes under these roots, and joiners, who have no certificate yet.
pub(crate) fn callers(
    roots: Arc<RootCertStore>,
) -> Result<Arc<dyn ClientCertVerifier>, VerifierBuilderError> {
    WebPkiClientVerifier::builder_with_provider(roots, provider()).allow_unauthenticated().build()
}

pub(crate) fn server_config(callers: Arc<dyn ClientCertVerifier>, key: Arc<CertifiedKey>) -> ServerConfig {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("ring has TLS 1.2 and 1.3")
        .with_client_cert_verifier(callers)
        .with_cert_resolver(Arc::new(Fixed(key)));
    config.alpn_protocols = vec![ALPN_H2.to_vec()];
    config
}

/// How a node with a certificate dials a node of its cluster in one of these roles.
pub(crate) fn client_config(
    roots: Arc<RootCertStore>,
    key: Arc<CertifiedKey>,
    cluster_id: &str,
    roles: &'static [Role],
) -> Result<ClientConfig, VerifierBuilderError> {
    let chain = WebPkiServerVerifier::builder_with_provider(roots, provider()).build()?;
    let verifier = NodeVerifier { chain, cluster_id: cluster_id.to_owned(), roles };
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("ring has TLS 1.2 and 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(Arc::new(Fixed(key)));
    config.alpn_protocols = vec![ALPN_H2.to_vec()];
    Ok(config)
}

/// How an external CA is dialled: it must be whom its URL names, and speaks HTTP/1.1.
pub(crate) fn external_config(roots: RootCertStore, key: Arc<CertifiedKey>) -> ClientConfig {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("ring has TLS 1.2 and 1.3")
        .with_root_certificates(roots)
        .with_client_cert_resolver(Arc::new(Fixed(key)));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config
}

/// How a joiner, who knows the root's digest alone, dials a manager.
pub(crate) fn join_config(expected: RootDigest) -> ClientConfig {
    let verifier = JoinVerifier { expected, provider: provider() };
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("ring has TLS 1.2 and 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN_H2.to_vec()];
    config
}

/// Presents one certificate, always.
#[derive(Debug)]
struct Fixed(Arc<CertifiedKey>);

impl ResolvesServerCert for Fixed {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

impl ResolvesClientCert for Fixed {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Accepts nodes of our cluster in these roles, whatever address they were dialled by.
#[derive(Debug)]
struct NodeVerifier {
    chain: Arc<WebPkiServerVerifier>,
    cluster_id: String,
    roles: &'static [Role],
}

impl ServerCertVerifier for NodeVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let subject = Subject::of_der(leaf).map_err(refused)?;
        // Of a role that is not wanted: the chain is then asked for a name that is not in it, and says so.
        let role = if self.roles.contains(&subject.role) { subject.role } else { Role::Manager };
        let verified = self.chain.verify_server_cert(leaf, intermediates, &server_name(role), ocsp, now)?;
        if subject.cluster_id != self.cluster_id {
            let expected = self.cluster_id.clone();
            return Err(refused(OtherCluster { found: subject.cluster_id, expected }));
        }
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, leaf, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, leaf, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }

    fn root_hint_subjects(&self) -> Option<&[DistinguishedName]> {
        self.chain.root_hint_subjects()
    }
}

/// Accepts a manager under the root whose digest is expected; the root is taken from its chain.
#[derive(Debug)]
struct JoinVerifier {
    expected: RootDigest,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for JoinVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let root = intermediates
            .iter()
            .find(|certificate| RootDigest::of_der(certificate) == self.expected)
            .ok_or_else(|| refused(DigestMismatch { expected: self.expected }))?;
        let mut roots = RootCertStore::empty();
        roots.add(root.clone().into_owned())?;
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&self.provider))
            .build()
            .map_err(refused)?
            .verify_server_cert(leaf, intermediates, &server_name(Role::Manager), ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, leaf, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, leaf, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn refused(reason: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(reason))))
}
