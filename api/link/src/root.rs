//! Roots that users bring, and one root signed by another.
//!
//! A given root is checked before anything depends on it, and kept in one form: one PEM block each for
//! certificate and key, the key as PKCS #8. Cross-signing keeps the other's certificate byte for byte but
//! for serial number, issuer and signature.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_RSA_SHA256, SigningKey};
use rustls::pki_types::{PrivateKeyDer, pem::PemObject};
use x509_parser::{
    prelude::{FromDer, X509Certificate},
    public_key::PublicKey,
};

use crate::{Authority, CaError, Identity, Role, ca, new_csr, tls};

/// Swarm's least rest of a root's life (`SK:manager/controlapi/ca_rotation.go`).
const ROOT_REST_MIN_SECS: i64 = 365 * 86_400;
/// Below, RSA is refused (Swarm's figure).
const RSA_MIN_BITS: usize = 2048;

/// DER of algorithm identifiers.
const ALG_ECDSA_SHA256: &[u8] = &[0x30, 0x0a, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];
const ALG_ECDSA_SHA384: &[u8] = &[0x30, 0x0a, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 3];
const ALG_RSA_SHA256: &[u8] = &[0x30, 0x0d, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 0x0b, 5, 0];
const ALG_RSA: &[u8] = &[0x30, 0x0d, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1, 5, 0];
const OID_EC: &[u8] = &[6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1];
const OID_P256: &[u8] = &[6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];
const OID_P384: &[u8] = &[6, 5, 0x2b, 0x81, 4, 0, 0x22];

const TAG_INTEGER: u8 = 0x02;
const TAG_BITS: u8 = 0x03;
const TAG_OCTETS: u8 = 0x04;
const TAG_SEQUENCE: u8 = 0x30;
const TAG_0: u8 = 0xa0;

/// A root that was checked, in its normal form.
#[derive(Clone, PartialEq, Eq)]
pub struct Given {
    /// Its certificate.
    pub cert_pem: String,
    /// Its key; empty without one.
    pub key_pem: String,
}

impl std::fmt::Debug for Given {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Given").field("has_key", &!self.key_pem.is_empty()).finish_non_exhaustive()
    }
}

/// Why a given root is not taken. Swarm's words where it has some.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// It cannot be read.
    #[error("could not parse the desired CA certificate: {0}")]
    Parse(String),
    /// A bundle.
    #[error("the desired CA certificate cannot contain multiple certificates")]
    Multiple,
    /// It may not sign certificates.
    #[error("the desired CA certificate is not a CA certificate: its basic constraints must say CA:TRUE")]
    NoCa,
    /// Signed by somebody else.
    #[error(
        "error while validating Root CA Certificate: it is not signed by itself; give the root, not an intermediate"
    )]
    NotSelfSigned,
    /// It begins later than now.
    #[error("the desired CA certificate is not valid yet")]
    NotYet,
    /// Less than a year is left.
    #[error("CA certificate expires too soon: at least a year must be left")]
    TooSoon,
    /// A weak or unknown signature.
    #[error("unsupported signature algorithm: {0}; RSA or ECDSA with SHA-256, SHA-384 or SHA-512 is needed")]
    Signature(String),
    /// A small RSA key.
    #[error("unsupported RSA key parameters: at least {RSA_MIN_BITS} bits are needed")]
    Rsa,
    /// Another curve.
    #[error("unsupported ECDSA key parameters: the curve must be P-256 or P-384; our TLS knows no other")]
    Curve,
    /// Ed25519 and the like.
    #[error("unknown or unsupported certificate public key algorithm: ECDSA (P-256, P-384) or RSA is needed")]
    Kind,
    /// The key cannot be read.
    #[error("malformed private key: an unencrypted PEM key is needed (PKCS #8, PKCS #1 or SEC 1)")]
    Key,
    /// Certificate and key are not of one pair.
    #[error("certificate key mismatch: the CA key does not belong to the CA certificate")]
    Mismatch,
    /// What it signs is not valid under it.
    #[error("the desired CA certificate cannot be used: what it signs is not valid under it: {0}")]
    Unusable(String),
}

/// Checks a root that a user gives, `key_pem` empty for one whose key is an external CA's.
///
/// # Errors
/// [`RootError`].
pub fn check_root(cert_pem: &str, key_pem: &str, now_unix_secs: i64) -> Result<Given, RootError> {
    let all = tls::certificates(cert_pem).map_err(|error| RootError::Parse(error.to_string()))?;
    let der = match all.as_slice() {
        [] => return Err(RootError::Parse("no certificate in it".to_owned())),
        [one] => one,
        [..] => return Err(RootError::Multiple),
    };
    let (rest, root) = X509Certificate::from_der(der).map_err(|error| RootError::Parse(error.to_string()))?;
    if !rest.is_empty() {
        return Err(RootError::Parse("bytes after its end".to_owned()));
    }
    check_kind(&root)?;
    if !root.is_ca() {
        return Err(RootError::NoCa);
    }
    if root.subject().as_raw() != root.issuer().as_raw() || root.verify_signature(None).is_err() {
        return Err(RootError::NotSelfSigned);
    }
    if root.validity().not_before.timestamp() > now_unix_secs {
        return Err(RootError::NotYet);
    }
    if root.validity().not_after.timestamp() < now_unix_secs.saturating_add(ROOT_REST_MIN_SECS) {
        return Err(RootError::TooSoon);
    }
    let cert_pem = pem("CERTIFICATE", der);
    if key_pem.is_empty() {
        return Ok(Given { cert_pem, key_pem: String::new() });
    }
    let key = read_key(key_pem, &root)?;
    if key.public_key_raw() != root.public_key().subject_public_key.data.as_ref() {
        return Err(RootError::Mismatch);
    }
    let given = Given { cert_pem, key_pem: key.serialize_pem() };
    try_out(&given, now_unix_secs).map_err(RootError::Unusable)?;
    Ok(given)
}

/// Whether a certificate, with those between it and the root after it, is this node's and valid under the root.
///
/// # Errors
/// What is wrong with it.
pub fn check_issued(
    chain_pem: &str,
    root_pem: &str,
    node_id: &str,
    role: Role,
    cluster_id: &str,
) -> Result<(), String> {
    let subject = crate::identity::check_chain(chain_pem, root_pem).map_err(|error| error.to_string())?;
    if (subject.node_id.as_str(), subject.role, subject.cluster_id.as_str()) != (node_id, role, cluster_id) {
        return Err("it names another node, role or cluster".to_owned());
    }
    Ok(())
}

/// What the TLS of the nodes can verify.
fn check_kind(root: &X509Certificate<'_>) -> Result<(), RootError> {
    let algorithm = root.signature_algorithm.algorithm.to_id_string();
    // RSA with SHA-256, 384, 512; ECDSA with the same.
    let known = [
        "1.2.840.113549.1.1.11",
        "1.2.840.113549.1.1.12",
        "1.2.840.113549.1.1.13",
        "1.2.840.10045.4.3.2",
        "1.2.840.10045.4.3.3",
        "1.2.840.10045.4.3.4",
    ];
    match root.public_key().parsed() {
        Ok(PublicKey::RSA(key)) if key.key_size() < RSA_MIN_BITS => Err(RootError::Rsa),
        Ok(PublicKey::EC(_)) if curve(root).is_none() => Err(RootError::Curve),
        Ok(PublicKey::RSA(_) | PublicKey::EC(_)) if known.contains(&algorithm.as_str()) => Ok(()),
        Ok(PublicKey::RSA(_) | PublicKey::EC(_)) => Err(RootError::Signature(algorithm)),
        Ok(
            PublicKey::DSA(_)
            | PublicKey::GostR3410(_)
            | PublicKey::GostR3410_2012(_)
            | PublicKey::Unknown(_),
        )
        | Err(_) => Err(RootError::Kind),
    }
}

/// The object identifier (DER) of its curve, if it is one that we know.
fn curve(root: &X509Certificate<'_>) -> Option<&'static [u8]> {
    let oid = root.public_key().algorithm.parameters.as_ref()?.as_oid().ok()?.to_id_string();
    match oid.as_str() {
        "1.2.840.10045.3.1.7" => Some(OID_P256),
        "1.3.132.0.34" => Some(OID_P384),
        _ => None,
    }
}

fn read_key(key_pem: &str, root: &X509Certificate<'_>) -> Result<KeyPair, RootError> {
    let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).map_err(|_| RootError::Key)?;
    let algorithm = match &key {
        PrivateKeyDer::Pkcs8(der) => {
            return KeyPair::try_from(der.secret_pkcs8_der()).map_err(|_| RootError::Key);
        }
        PrivateKeyDer::Pkcs1(_) => ALG_RSA.to_vec(),
        PrivateKeyDer::Sec1(_) => {
            let curve = curve(root).ok_or(RootError::Mismatch)?;
            sequence(&[OID_EC, curve])
        }
        _ => return Err(RootError::Key),
    };
    let version = value(TAG_INTEGER, &[0]);
    let inner = value(TAG_OCTETS, key.secret_der());
    let pkcs8 = sequence(&[&version, &algorithm, &inner]);
    KeyPair::try_from(pkcs8).map_err(|_| RootError::Key)
}

/// Signs a node's certificate and sees whether it is taken.
fn try_out(given: &Given, now_unix_secs: i64) -> Result<(), String> {
    let authority =
        Authority::from_pem(&given.cert_pem, &given.key_pem).map_err(|error| error.to_string())?;
    let (csr, key) = new_csr().map_err(|error| error.to_string())?;
    let leaf = authority
        .sign_node(&csr, "probe", Role::Worker, "probe", now_unix_secs)
        .map_err(|error| error.to_string())?;
    Identity::new(leaf, key, given.cert_pem.as_str()).map(|_| ()).map_err(|error| error.to_string())
}

/// The first certificate of a text in its normal form; the text itself if there is none in it.
#[must_use]
pub fn normal_pem(text: &str) -> String {
    match tls::certificates(text).ok().and_then(|all| all.into_iter().next()) {
        Some(der) => pem("CERTIFICATE", &der),
        None => text.to_owned(),
    }
}

/// Name and public key (DER) that certificates signed by this root are known by; `None` for no certificate.
#[must_use]
pub fn issuer_of(root_pem: &str) -> Option<(Vec<u8>, Vec<u8>)> {
    let der = tls::certificates(root_pem).ok()?.into_iter().next()?;
    let (_, root) = X509Certificate::from_der(&der).ok()?;
    Some((root.subject().as_raw().to_vec(), root.public_key().raw.to_vec()))
}

/// `other`'s certificate, signed by the key of `root`.
pub(crate) fn cross_sign(root: &str, key: &KeyPair, other: &str) -> Result<String, CaError> {
    let read = |text: &str| {
        let all = tls::certificates(text).map_err(|error| CaError::Root(error.to_string()))?;
        all.into_iter().next().ok_or_else(|| CaError::Root("no certificate in it".to_owned()))
    };
    let (root, other) = (read(root)?, read(other)?);
    let damaged =
        |error: x509_parser::nom::Err<x509_parser::error::X509Error>| CaError::Root(error.to_string());
    let (_, root) = X509Certificate::from_der(&root).map_err(damaged)?;
    let (_, other) = X509Certificate::from_der(&other).map_err(damaged)?;
    let algorithm = signature_algorithm(key)?;
    let version = value(TAG_0, &value(TAG_INTEGER, &[2]));
    let serial = value(TAG_INTEGER, &ca::serial_bytes()?);
    // Validity, subject, key and extensions follow the issuer.
    let tbs = other.tbs_certificate.as_ref();
    let issuer = other.issuer().as_raw();
    let rest = after(tbs, issuer).ok_or_else(|| CaError::Root("it has no issuer".to_owned()))?;
    let tbs = sequence(&[&version, &serial, algorithm, root.subject().as_raw(), rest]);
    let crossed = signed(key, &tbs, algorithm)?;
    // What is oddly encoded may read otherwise in its new place.
    let same = X509Certificate::from_der(&crossed).is_ok_and(|(_, crossed)| {
        crossed.subject() == other.subject() && crossed.public_key().raw == other.public_key().raw
    });
    if !same {
        return Err(CaError::Root("its issuer is not encoded as one should be".to_owned()));
    }
    Ok(pem("CERTIFICATE", &crossed))
}

/// A request for a certificate of this root's name and key, for another CA to sign.
pub(crate) fn root_csr(root: &Given) -> Result<String, CaError> {
    let all = tls::certificates(&root.cert_pem).map_err(|error| CaError::Root(error.to_string()))?;
    let der = all.into_iter().next().ok_or_else(|| CaError::Root("no certificate in it".to_owned()))?;
    let (_, parsed) = X509Certificate::from_der(&der).map_err(|error| CaError::Root(error.to_string()))?;
    let key = KeyPair::from_pem(&root.key_pem).map_err(CaError::RootKey)?;
    let attributes = value(TAG_0, &[]);
    let version = value(TAG_INTEGER, &[0]);
    let info = sequence(&[&version, parsed.subject().as_raw(), parsed.public_key().raw, &attributes]);
    signed(&key, &info, signature_algorithm(&key)?).map(|der| pem("CERTIFICATE REQUEST", &der))
}

/// A root's common name, and the DER of its basic constraints.
pub(crate) fn about(root_pem: &str) -> Result<(String, Vec<u8>), CaError> {
    let all = tls::certificates(root_pem).map_err(|error| CaError::Root(error.to_string()))?;
    let der = all.into_iter().next().ok_or_else(|| CaError::Root("no certificate in it".to_owned()))?;
    let (_, parsed) = X509Certificate::from_der(&der).map_err(|error| CaError::Root(error.to_string()))?;
    let name =
        parsed.subject().iter_common_name().next().and_then(|name| name.as_str().ok()).unwrap_or_default();
    let constraints = parsed.extensions().iter().find(|one| one.oid.to_id_string() == "2.5.29.19");
    let constraints = constraints.ok_or_else(|| CaError::Root("not a CA certificate".to_owned()))?;
    Ok((name.to_owned(), constraints.value.to_vec()))
}

fn signature_algorithm(key: &KeyPair) -> Result<&'static [u8], CaError> {
    let algorithm = rcgen::PublicKeyData::algorithm(key);
    [
        (&PKCS_ECDSA_P256_SHA256, ALG_ECDSA_SHA256),
        (&PKCS_ECDSA_P384_SHA384, ALG_ECDSA_SHA384),
        (&PKCS_RSA_SHA256, ALG_RSA_SHA256),
    ]
    .into_iter()
    .find_map(|(known, der)| (known == algorithm).then_some(der))
    .ok_or(CaError::RootKey(rcgen::Error::UnsupportedSignatureAlgorithm))
}

fn signed(key: &KeyPair, what: &[u8], algorithm: &[u8]) -> Result<Vec<u8>, CaError> {
    let mut bits = vec![0];
    bits.extend(key.sign(what).map_err(CaError::Make)?);
    let signature = value(TAG_BITS, &bits);
    Ok(sequence(&[what, algorithm, &signature]))
}

/// What follows `part`, which is a piece of `whole`'s contents, up to the end of `whole`.
fn after<'a>(whole: &'a [u8], part: &[u8]) -> Option<&'a [u8]> {
    let start = (part.as_ptr() as usize).checked_sub(whole.as_ptr() as usize)?;
    whole.get(start.checked_add(part.len())?..)
}

/// DER of one value.
fn value(tag: u8, contents: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    match u8::try_from(contents.len()) {
        Ok(short) if short < 0x80 => out.push(short),
        Ok(_) | Err(_) => {
            let bytes = contents.len().to_be_bytes();
            let long: Vec<u8> = bytes.into_iter().skip_while(|byte| *byte == 0).collect();
            out.push(0x80 | u8::try_from(long.len()).unwrap_or_default());
            out.extend(long);
        }
    }
    out.extend_from_slice(contents);
    out
}

fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    value(TAG_SEQUENCE, &parts.concat())
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let mut out = format!("-----BEGIN {label}-----\n");
    for line in text.as_bytes().chunks(64) {
        out.extend(line.iter().copied().map(char::from));
        out.push('\n');
    }
    out.push_str(&format!("-----END {label}-----\n"));
    out
}

#[cfg(test)]
#[path = "root_tests.rs"]
mod tests;
