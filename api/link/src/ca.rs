//! The built-in certificate authority: makes the cluster's root and signs nodes' certificates.
//!
//! Of a CSR only the key is taken, after its signature was checked: names and extensions are the CA's
//! word. Certificates are ECDSA P-256 and backdated, so that a node whose clock is behind can use its own.

use std::{fmt, time::Duration};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData,
    SanType, SerialNumber,
};
use ring::rand::{SecureRandom, SystemRandom};
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::{Role, RootDigest, root, tls};

const DAY_SECS: i64 = 24 * 3600;
/// Swarm's figures.
const ROOT_VALID_SECS: i64 = 20 * 365 * DAY_SECS;
const NODE_VALID: Duration = Duration::from_secs(90 * 86_400);
const BACKDATE_SECS: i64 = 3600;
/// One more certificate between root and node, for a rotation by cross-signing.
const ROOT_PATH_LEN: u8 = 1;
/// A P-256 request has about 400 bytes; reading is refused well before it costs.
const CSR_MAX_BYTES: usize = 16 << 10;

/// The cluster's root certificate and its key.
pub struct Authority {
    cert_pem: String,
    key_pem: String,
    digest: RootDigest,
    issuer: Issuer<'static, KeyPair>,
    /// Goes after each certificate that it signs: what lies between it and the root that nodes trust.
    intermediates: String,
    node_valid: Duration,
}

/// A certificate could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// The certificate signing request is not one, or is not signed by the key in it.
    #[error("invalid certificate signing request")]
    Csr(#[source] rcgen::Error),
    /// The request is longer than any that a node sends.
    #[error("invalid certificate signing request: longer than {CSR_MAX_BYTES} bytes")]
    CsrTooLong,
    /// The request's key is of another kind.
    #[error("invalid certificate signing request: its key is not ECDSA P-256")]
    CsrKey,
    /// The root certificate is damaged.
    #[error("invalid root CA certificate: {0}")]
    Root(String),
    /// The root's key is damaged.
    #[error("invalid root CA key")]
    RootKey(#[source] rcgen::Error),
    /// Certificate and key are not of one pair.
    #[error("the root CA key does not belong to the root CA certificate")]
    RootKeyMismatch,
    /// A time that no certificate can express.
    #[error("time out of a certificate's range: {0} s since 1970")]
    Time(i64),
    /// Making or signing failed, or a name does not fit a certificate.
    #[error("cannot make a certificate")]
    Make(#[source] rcgen::Error),
    /// The system gave no randomness.
    #[error("no randomness from the system")]
    Random,
}

impl Authority {
    /// A new root: a fresh key, valid for 20 years from an hour before `now_unix_secs`.
    ///
    /// # Errors
    /// [`CaError`] for a time out of range or if the system gives no randomness.
    pub fn generate(now_unix_secs: i64) -> Result<Self, CaError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(CaError::Make)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "swarm-ca");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(ROOT_PATH_LEN));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.not_before = time(now_unix_secs - BACKDATE_SECS)?;
        params.not_after = time(now_unix_secs + ROOT_VALID_SECS)?;
        params.serial_number = Some(serial()?);
        let cert_pem = params.self_signed(&key).map_err(CaError::Make)?.pem();
        Self::from_pem(&cert_pem, &key.serialize_pem())
    }

    /// The authority that was stored as [`Authority::cert_pem`] and [`Authority::key_pem`].
    ///
    /// # Errors
    /// [`CaError`] says which of the two is damaged, or that they are not a pair.
    pub fn from_pem(cert: &str, key: &str) -> Result<Self, CaError> {
        let der = tls::certificates(cert)
            .map_err(|error| CaError::Root(error.to_string()))?
            .into_iter()
            .next()
            .ok_or_else(|| CaError::Root("no certificate in it".to_owned()))?;
        let (_, parsed) =
            X509Certificate::from_der(&der).map_err(|error| CaError::Root(error.to_string()))?;
        if !parsed.is_ca() {
            return Err(CaError::Root("not a CA certificate".to_owned()));
        }
        let key_pair = KeyPair::from_pem(key).map_err(CaError::RootKey)?;
        if parsed.public_key().raw != key_pair.subject_public_key_info() {
            return Err(CaError::RootKeyMismatch);
        }
        let issuer =
            Issuer::from_ca_cert_der(&der, key_pair).map_err(|error| CaError::Root(error.to_string()))?;
        Ok(Self {
            cert_pem: cert.to_owned(),
            key_pem: key.to_owned(),
            digest: RootDigest::of_der(&der),
            issuer,
            intermediates: String::new(),
            node_valid: NODE_VALID,
        })
    }

    /// The same, with these certificates (PEM) after each one that it signs: its own, signed by the root that
    /// nodes still trust.
    #[must_use]
    pub fn through(self, intermediates: impl Into<String>) -> Self {
        Self { intermediates: intermediates.into(), ..self }
    }

    /// Signs the root certificate of another authority, as it is but for the issuer: who trusts this root can
    /// then follow the other's signatures.
    ///
    /// # Errors
    /// [`CaError::Root`] for what is no certificate.
    pub fn cross_sign(&self, other_pem: &str) -> Result<String, CaError> {
        root::cross_sign(&self.cert_pem, self.issuer.key(), other_pem)
    }

    /// The same, signing nodes' certificates for this long from now on.
    #[must_use]
    pub fn valid_for(self, node_valid: Duration) -> Self {
        Self { node_valid, ..self }
    }

    /// The root certificate.
    #[must_use]
    pub fn cert_pem(&self) -> &str {
        &self.cert_pem
    }

    /// The root's key. Not to be printed.
    #[must_use]
    pub fn key_pem(&self) -> &str {
        &self.key_pem
    }

    /// What join tokens name this root by.
    #[must_use]
    pub fn digest(&self) -> RootDigest {
        self.digest
    }

    /// Signs a node's certificate, valid for 90 days unless told otherwise, and returns it as PEM, with those
    /// of [`Authority::through`] after it. Who may have it is the caller's decision.
    ///
    /// # Errors
    /// [`CaError::Csr`] and its siblings for a bad request; others if no certificate can hold the names.
    pub fn sign_node(
        &self,
        csr_pem: &str,
        node_id: &str,
        role: Role,
        cluster_id: &str,
        now_unix_secs: i64,
    ) -> Result<String, CaError> {
        if csr_pem.len() > CSR_MAX_BYTES {
            return Err(CaError::CsrTooLong);
        }
        let mut request = CertificateSigningRequestParams::from_pem(csr_pem).map_err(CaError::Csr)?;
        if request.public_key.algorithm() != &PKCS_ECDSA_P256_SHA256 {
            return Err(CaError::CsrKey);
        }
        request.params = node_params(node_id, role, cluster_id, now_unix_secs)?;
        let valid_secs = i64::try_from(self.node_valid.as_secs()).unwrap_or(i64::MAX);
        request.params.not_after = time(now_unix_secs.saturating_add(valid_secs))?;
        let leaf = request.signed_by(&self.issuer).map_err(CaError::Make)?.pem();
        Ok(format!("{leaf}{}", self.intermediates))
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("digest", &self.digest).finish_non_exhaustive()
    }
}

/// A fresh key and the request to sign it: `(request, key)`, both PEM. The names are the CA's to give.
///
/// # Errors
/// [`CaError::Make`] if the system gives no randomness.
pub fn new_csr() -> Result<(String, String), CaError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(CaError::Make)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let request = params.serialize_request(&key).and_then(|csr| csr.pem()).map_err(CaError::Make)?;
    Ok((request, key.serialize_pem()))
}

fn node_params(
    node_id: &str,
    role: Role,
    cluster_id: &str,
    now_unix_secs: i64,
) -> Result<CertificateParams, CaError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, cluster_id);
    params.distinguished_name.push(DnType::OrganizationalUnitName, role.unit());
    params.distinguished_name.push(DnType::CommonName, node_id);
    for name in [role.unit(), node_id] {
        params.subject_alt_names.push(SanType::DnsName(name.try_into().map_err(CaError::Make)?));
    }
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    // Any node may be promoted and then serves with what it has until it is renewed.
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    params.not_before = time(now_unix_secs - BACKDATE_SECS)?;
    params.serial_number = Some(serial()?);
    Ok(params)
}

fn time(unix_secs: i64) -> Result<OffsetDateTime, CaError> {
    OffsetDateTime::from_unix_timestamp(unix_secs).map_err(|_| CaError::Time(unix_secs))
}

fn serial() -> Result<SerialNumber, CaError> {
    Ok(SerialNumber::from_slice(&serial_bytes()?))
}

pub(crate) fn serial_bytes() -> Result<[u8; 16], CaError> {
    let mut bytes = [0; 16];
    SystemRandom::new().fill(&mut bytes).map_err(|_| CaError::Random)?;
    // A serial number is positive.
    bytes[0] &= 0x7f;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    use rustls::pki_types::{CertificateSigningRequestDer, pem::PemObject};

    use super::*;
    use crate::subject::Subject;

    const NOW: i64 = 1_780_000_000;

    #[test]
    fn a_signed_certificate_says_what_the_authority_says() {
        let authority = Authority::generate(NOW).unwrap();
        // The request asks for more than it may have.
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["swarm-manager".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::OrganizationalUnitName, "swarm-manager");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let csr = params.serialize_request(&key).unwrap().pem().unwrap();

        let pem = authority.sign_node(&csr, "node1", Role::Worker, "cluster1", NOW).unwrap();
        let der = tls::certificates(&pem).unwrap().remove(0);
        let subject = Subject::of_der(&der).unwrap();
        assert_eq!(
            subject,
            Subject {
                node_id: "node1".to_owned(),
                role: Role::Worker,
                cluster_id: "cluster1".to_owned(),
                not_before: NOW - 3600,
                not_after: NOW + 90 * DAY_SECS,
            }
        );
        let (_, certificate) = X509Certificate::from_der(&der).unwrap();
        assert!(!certificate.is_ca());
        let names = certificate.subject_alternative_name().unwrap().unwrap().value.general_names.len();
        assert_eq!(names, 2);
        let root = tls::certificates(authority.cert_pem()).unwrap().remove(0);
        let (_, root) = X509Certificate::from_der(&root).unwrap();
        certificate.verify_signature(Some(root.public_key())).unwrap();
        assert_eq!(root.validity().not_after.timestamp(), NOW + ROOT_VALID_SECS);

        let brief = authority.valid_for(Duration::from_secs(7200));
        let pem = brief.sign_node(&csr, "node1", Role::Worker, "cluster1", NOW).unwrap();
        let der = tls::certificates(&pem).unwrap().remove(0);
        assert_eq!(Subject::of_der(&der).unwrap().not_after, NOW + 7200);
    }

    #[test]
    fn a_broken_request_is_refused() {
        let authority = Authority::generate(NOW).unwrap();
        let sign = |csr: &str| authority.sign_node(csr, "node1", Role::Worker, "cluster1", NOW);
        let (csr, _) = new_csr().unwrap();
        sign(&csr).unwrap();

        let mut der = CertificateSigningRequestDer::from_pem_slice(csr.as_bytes()).unwrap().to_vec();
        *der.last_mut().unwrap() ^= 1;
        let label = "CERTIFICATE REQUEST";
        let broken = format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(der));
        assert!(matches!(sign(&broken), Err(CaError::Csr(_))));
        assert!(matches!(sign("nothing"), Err(CaError::Csr(_))));
        assert!(matches!(sign(&"x".repeat(CSR_MAX_BYTES + 1)), Err(CaError::CsrTooLong)));

        let key = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let other = CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap();
        assert!(matches!(sign(&other), Err(CaError::CsrKey)));
    }

    #[test]
    fn an_authority_is_read_back_and_damage_is_named() {
        let authority = Authority::generate(NOW).unwrap();
        let again = Authority::from_pem(authority.cert_pem(), authority.key_pem()).unwrap();
        assert_eq!(again.digest(), authority.digest());
        assert_eq!(authority.digest(), RootDigest::of_pem(authority.cert_pem()));
        assert!(!format!("{authority:?}").contains("PRIVATE"));

        let other = Authority::generate(NOW).unwrap();
        let check = |cert: &str, key: &str| Authority::from_pem(cert, key).unwrap_err();
        assert!(matches!(check(authority.cert_pem(), other.key_pem()), CaError::RootKeyMismatch));
        assert!(matches!(check("", authority.key_pem()), CaError::Root(_)));
        assert!(matches!(check(authority.cert_pem(), ""), CaError::RootKey(_)));
        let (csr, key) = new_csr().unwrap();
        let leaf = authority.sign_node(&csr, "node1", Role::Manager, "cluster1", NOW).unwrap();
        assert!(matches!(check(&leaf, &key), CaError::Root(_)));
    }
}
