//! This node's certificate, key and root: kept on disk, replaced while running.
//!
//! Clones share one value: after [`Identity::replace`] every new connection, in and out, uses the new
//! certificate; old connections live on with theirs. A value is complete and consistent or is not made.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    client::{WebPkiServerVerifier, danger::ServerCertVerifier},
    pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem::PemObject},
    server::danger::ClientCertVerifier,
    sign::CertifiedKey,
};

use skep_api::object::NodeTls;
use tokio::sync::watch;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::{
    Role, RootDigest,
    storage::{self, FileError},
    subject::Subject,
    tls,
};

const CERT_FILE: &str = "cert.pem";
const KEY_FILE: &str = "key.pem";
const ROOT_FILE: &str = "ca.pem";

/// This node's certificate, key and root. Cheap to clone; clones share replacements.
#[derive(Clone)]
pub struct Identity {
    shared: Arc<Shared>,
}

struct Shared {
    current: ArcSwap<Inner>,
    /// How often it was replaced.
    replaced: watch::Sender<u64>,
}

struct Inner {
    cert_pem: String,
    key_pem: String,
    root_pem: String,
    subject: Subject,
    tls: NodeTls,
    fingerprint: RootDigest,
    callers: Arc<dyn ClientCertVerifier>,
    key: Arc<CertifiedKey>,
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
    client_of_nodes: Arc<ClientConfig>,
}

/// An identity could not be made, read or kept. Texts of keys are never in it.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The certificate is damaged or is not a node's.
    #[error("invalid node certificate: {0}")]
    Certificate(String),
    /// The key is damaged.
    #[error("invalid node key: {0}")]
    Key(String),
    /// The root certificate is damaged.
    #[error("invalid root CA certificate: {0}")]
    Root(String),
    /// The key is of another certificate.
    #[error("the node key does not belong to the node certificate")]
    KeyMismatch,
    /// The certificate is of another root.
    #[error("the node certificate is not signed by the root CA certificate: {0}")]
    NotSigned(String),
    /// A file of a stored identity is missing or damaged.
    #[error(
        "damaged node identity: {path}: {reason}; restore the file, or remove its directory and join again",
        path = path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The file system refused.
    #[error("cannot access {path} of the node identity", path = path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

impl From<FileError> for IdentityError {
    fn from(error: FileError) -> Self {
        Self::Io { path: error.path, source: error.source }
    }
}

impl Identity {
    /// An identity of three PEM texts. The certificate's dates are not looked at: an expired identity
    /// still says who the node is.
    ///
    /// # Errors
    /// [`IdentityError`] says which text is damaged, or which two do not fit.
    pub fn new(
        cert_pem: impl Into<String>,
        key_pem: impl Into<String>,
        root_pem: impl Into<String>,
    ) -> Result<Self, IdentityError> {
        let inner = Inner::new(cert_pem.into(), key_pem.into(), root_pem.into())?;
        let shared = Shared { current: ArcSwap::from_pointee(inner), replaced: watch::Sender::new(0) };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Reads what [`Identity::save`] wrote; `None` if `dir` holds no identity. Finishes a save that a
    /// crash cut off.
    ///
    /// # Errors
    /// [`IdentityError::Damaged`] names the file that is missing or damaged.
    pub fn load(dir: &Path) -> Result<Option<Self>, IdentityError> {
        storage::finish(dir)?;
        let read = |name| storage::read(&dir.join(name));
        let (cert, key, root) = (read(CERT_FILE)?, read(KEY_FILE)?, read(ROOT_FILE)?);
        if cert.is_none() && key.is_none() && root.is_none() {
            return Ok(None);
        }
        let present = |text: Option<String>, name| {
            text.ok_or_else(|| IdentityError::Damaged {
                path: dir.join(name),
                reason: "the file is missing".to_owned(),
            })
        };
        let (cert, key, root) =
            (present(cert, CERT_FILE)?, present(key, KEY_FILE)?, present(root, ROOT_FILE)?);
        Self::new(cert, key, root).map(Some).map_err(|error| error.in_dir(dir))
    }

    /// Writes `cert.pem`, `key.pem` (mode 0600) and `ca.pem` into `dir`, made if need be. A crash leaves
    /// the old three or the new three.
    ///
    /// # Errors
    /// [`IdentityError::Io`] names the path.
    pub fn save(&self, dir: &Path) -> Result<(), IdentityError> {
        let inner = self.inner();
        let files = [
            (ROOT_FILE, 0o644, inner.root_pem.as_str()),
            (KEY_FILE, 0o600, inner.key_pem.as_str()),
            (CERT_FILE, 0o644, inner.cert_pem.as_str()),
        ];
        Ok(storage::save(dir, &files)?)
    }

    /// The node's id, as its certificate says it.
    #[must_use]
    pub fn node_id(&self) -> String {
        self.inner().subject.node_id.clone()
    }

    /// The cluster's id, as the certificate says it.
    #[must_use]
    pub fn cluster_id(&self) -> String {
        self.inner().subject.cluster_id.clone()
    }

    /// The role in the certificate; what the node may do is in the store.
    #[must_use]
    pub fn role(&self) -> Role {
        self.inner().subject.role
    }

    /// The cluster's root certificate.
    #[must_use]
    pub fn root_pem(&self) -> String {
        self.inner().root_pem.clone()
    }

    /// From when to when the certificate is valid, in Unix seconds.
    #[must_use]
    pub fn validity(&self) -> (i64, i64) {
        let inner = self.inner();
        (inner.subject.not_before, inner.subject.not_after)
    }

    /// Issuer of the certificate, and the root that this node trusts.
    #[must_use]
    pub fn tls(&self) -> NodeTls {
        self.inner().tls.clone()
    }

    /// What tells this certificate from the one before.
    #[must_use]
    pub fn fingerprint(&self) -> RootDigest {
        self.shared.current.load().fingerprint
    }

    /// The same certificate under another root, apart from this identity.
    ///
    /// # Errors
    /// [`IdentityError::NotSigned`]: the certificate says nothing under that root, a new one is needed first.
    pub fn under(&self, root_pem: &str) -> Result<Self, IdentityError> {
        let inner = self.inner();
        Self::new(inner.cert_pem.as_str(), inner.key_pem.as_str(), root_pem)
    }

    /// Takes over another identity, in all clones of this one, for all new connections.
    pub fn replace(&self, other: &Self) {
        self.shared.current.store(other.shared.current.load_full());
        self.shared.replaced.send_modify(|n| *n += 1);
    }

    /// Follows how often this identity was replaced: who keeps connections makes them anew then.
    #[must_use]
    pub fn replaced(&self) -> watch::Receiver<u64> {
        self.shared.replaced.subscribe()
    }

    fn inner(&self) -> Arc<Inner> {
        self.shared.current.load_full()
    }

    /// Whether a caller with these certificates gets in now.
    pub(crate) fn admits(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> bool {
        let Some((leaf, rest)) = chain.split_first() else { return true };
        self.inner().callers.verify_client_cert(leaf, rest, now).is_ok()
    }

    pub(crate) fn server_config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.inner().server)
    }

    pub(crate) fn client_config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.inner().client)
    }

    /// For dialling what is no node: an external CA, under these roots.
    pub(crate) fn config_for_external(&self, roots: RootCertStore) -> ClientConfig {
        tls::external_config(roots, Arc::clone(&self.inner().key))
    }

    /// For dialling any node, not managers alone.
    pub(crate) fn client_config_of_nodes(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.inner().client_of_nodes)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Identity").field(&self.inner().subject).finish()
    }
}

impl Inner {
    fn new(cert_pem: String, key_pem: String, root_pem: String) -> Result<Self, IdentityError> {
        let chain = read_certificates(&cert_pem).map_err(IdentityError::Certificate)?;
        let subject =
            Subject::of_der(&chain[0]).map_err(|error| IdentityError::Certificate(error.to_string()))?;
        let root_chain = read_certificates(&root_pem).map_err(IdentityError::Root)?;
        let mut roots = RootCertStore::empty();
        for root in &root_chain {
            roots.add(root.clone()).map_err(|error| IdentityError::Root(error.to_string()))?;
        }
        let roots = Arc::new(roots);
        check_signed(&roots, &chain, &subject)?;

        let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes())
            .map_err(|error| IdentityError::Key(error.to_string()))?;
        let key = tls::provider()
            .key_provider
            .load_private_key(key)
            .map_err(|error| IdentityError::Key(error.to_string()))?;
        let client_key = Arc::new(CertifiedKey::new(chain.clone(), Arc::clone(&key)));
        client_key.keys_match().map_err(|_| IdentityError::KeyMismatch)?;
        // A server shows its root too: a joiner knows the root's digest and nothing else.
        let server_key = Arc::new(CertifiedKey::new([chain.as_slice(), root_chain.as_slice()].concat(), key));

        let unusable_root =
            |error: rustls::server::VerifierBuilderError| IdentityError::Root(error.to_string());
        let callers = tls::callers(Arc::clone(&roots)).map_err(unusable_root)?;
        let server = tls::server_config(Arc::clone(&callers), server_key);
        let fingerprint = RootDigest::of_der(&chain[0]);
        let tls = tls_of(&chain, &root_chain).map_err(IdentityError::Certificate)?;
        let client_of = |roles| {
            tls::client_config(Arc::clone(&roots), Arc::clone(&client_key), &subject.cluster_id, roles)
                .map(Arc::new)
                .map_err(unusable_root)
        };
        let client = client_of(&[Role::Manager])?;
        let client_of_nodes = client_of(&[Role::Manager, Role::Worker])?;
        let server = Arc::new(server);
        Ok(Self {
            cert_pem,
            key_pem,
            root_pem,
            subject,
            tls,
            fingerprint,
            callers,
            key: client_key,
            server,
            client,
            client_of_nodes,
        })
    }
}

/// Whom a certificate names, if it is valid under the root. Its dates are not looked at.
pub(crate) fn check_chain(chain_pem: &str, root_pem: &str) -> Result<Subject, IdentityError> {
    let chain = read_certificates(chain_pem).map_err(IdentityError::Certificate)?;
    let subject =
        Subject::of_der(&chain[0]).map_err(|error| IdentityError::Certificate(error.to_string()))?;
    let mut roots = RootCertStore::empty();
    for root in read_certificates(root_pem).map_err(IdentityError::Root)? {
        roots.add(root).map_err(|error| IdentityError::Root(error.to_string()))?;
    }
    check_signed(&Arc::new(roots), &chain, &subject)?;
    Ok(subject)
}

fn read_certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let all = tls::certificates(pem).map_err(|error| error.to_string())?;
    if all.is_empty() { Err("no certificate in it".to_owned()) } else { Ok(all) }
}

/// Whom the certificate and its root name. Two roots may have one name: the signature tells.
fn tls_of(chain: &[CertificateDer<'static>], roots: &[CertificateDer<'static>]) -> Result<NodeTls, String> {
    let read = |der| X509Certificate::from_der(der).map(|(_, read)| read).map_err(|error| error.to_string());
    let leaf = read(&chain[0])?;
    for above in chain[1..].iter().chain(roots) {
        let above = read(above)?;
        let is_issuer = above.subject().as_raw() == leaf.issuer().as_raw();
        if is_issuer && leaf.verify_signature(Some(above.public_key())).is_ok() {
            return Ok(NodeTls {
                issuer_subject: above.subject().as_raw().to_vec(),
                issuer_public_key: above.public_key().raw.to_vec(),
                root_digest: RootDigest::of_der(&roots[0]).0.to_vec(),
            });
        }
    }
    Err("none of the certificates beside it has signed it".to_owned())
}

fn check_signed(
    roots: &Arc<RootCertStore>,
    chain: &[CertificateDer<'static>],
    subject: &Subject,
) -> Result<(), IdentityError> {
    let not_signed = |error: &dyn fmt::Display| IdentityError::NotSigned(error.to_string());
    // Checked as of the certificate's first second, so that its age does not matter here.
    let then = Duration::from_secs(u64::try_from(subject.not_before).unwrap_or_default());
    WebPkiServerVerifier::builder_with_provider(Arc::clone(roots), tls::provider())
        .build()
        .map_err(|error| not_signed(&error))?
        .verify_server_cert(
            &chain[0],
            &chain[1..],
            &tls::server_name(subject.role),
            &[],
            UnixTime::since_unix_epoch(then),
        )
        .map(|_| ())
        .map_err(|error| not_signed(&error))
}

impl IdentityError {
    /// The same error as damage of the file that it is about.
    fn in_dir(self, dir: &Path) -> Self {
        let name = match &self {
            Self::Certificate(_) | Self::NotSigned(_) => CERT_FILE,
            Self::Key(_) | Self::KeyMismatch => KEY_FILE,
            Self::Root(_) => ROOT_FILE,
            Self::Damaged { .. } | Self::Io { .. } => return self,
        };
        Self::Damaged { path: dir.join(name), reason: self.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;
    use crate::{Authority, new_csr};

    const NOW: i64 = 1_780_000_000;

    fn identity(authority: &Authority, node_id: &str) -> Identity {
        let (csr, key) = new_csr().unwrap();
        let cert = authority.sign_node(&csr, node_id, Role::Worker, "cluster1", NOW).unwrap();
        Identity::new(cert, key, authority.cert_pem()).unwrap()
    }

    fn damage(dir: &Path) -> String {
        let error = Identity::load(dir).unwrap_err();
        let IdentityError::Damaged { path, .. } = error else { panic!("{error}") };
        path.file_name().unwrap().to_str().unwrap().to_owned()
    }

    #[test]
    fn an_identity_is_saved_and_loaded() {
        let authority = Authority::generate(NOW).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("certificates");
        assert!(Identity::load(&dir).unwrap().is_none());
        for name in ["node1", "node2"] {
            identity(&authority, name).save(&dir).unwrap();
            let loaded = Identity::load(&dir).unwrap().unwrap();
            assert_eq!(loaded.node_id(), name);
            assert_eq!(loaded.cluster_id(), "cluster1");
            assert_eq!(loaded.role(), Role::Worker);
            assert_eq!(loaded.root_pem(), authority.cert_pem());
            assert_eq!(loaded.validity().0, NOW - 3600);
        }
        assert_eq!(fs::metadata(dir.join(KEY_FILE)).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 3);
    }

    #[test]
    fn a_save_cut_off_by_a_crash_leaves_one_whole_identity() {
        let authority = Authority::generate(NOW).unwrap();
        let temp = tempfile::tempdir().unwrap();
        let (dir, other) = (temp.path().join("a"), temp.path().join("b"));
        identity(&authority, "old").save(&dir).unwrap();
        identity(&authority, "new").save(&other).unwrap();

        // Before the set counts: half written, and ignored.
        fs::create_dir(dir.join("next.tmp")).unwrap();
        fs::copy(other.join(KEY_FILE), dir.join("next.tmp").join(KEY_FILE)).unwrap();
        assert_eq!(Identity::load(&dir).unwrap().unwrap().node_id(), "old");

        // After: one file was moved, the rest follow.
        fs::create_dir(dir.join("next")).unwrap();
        fs::copy(other.join(KEY_FILE), dir.join(KEY_FILE)).unwrap();
        fs::copy(other.join(CERT_FILE), dir.join("next").join(CERT_FILE)).unwrap();
        fs::copy(other.join(ROOT_FILE), dir.join("next").join(ROOT_FILE)).unwrap();
        assert_eq!(Identity::load(&dir).unwrap().unwrap().node_id(), "new");
        identity(&authority, "newer").save(&dir).unwrap();
        assert_eq!(Identity::load(&dir).unwrap().unwrap().node_id(), "newer");
    }

    #[test]
    fn damage_names_the_file() {
        let authority = Authority::generate(NOW).unwrap();
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path();
        for name in [CERT_FILE, KEY_FILE, ROOT_FILE] {
            identity(&authority, "node1").save(dir).unwrap();
            let text = fs::read_to_string(dir.join(name)).unwrap();
            fs::write(dir.join(name), &text[..text.len() / 2]).unwrap();
            assert_eq!(damage(dir), name, "cut");
            fs::write(dir.join(name), [0xff; 100]).unwrap();
            assert_eq!(damage(dir), name, "no text");
            fs::remove_file(dir.join(name)).unwrap();
            assert_eq!(damage(dir), name, "missing");
        }
    }

    #[test]
    fn what_does_not_fit_together_is_refused() {
        let (authority, foreign) = (Authority::generate(NOW).unwrap(), Authority::generate(NOW).unwrap());
        let (csr, key) = new_csr().unwrap();
        let (_, other_key) = new_csr().unwrap();
        let cert = authority.sign_node(&csr, "node1", Role::Worker, "cluster1", NOW).unwrap();
        let check = |key: &str, root: &str| Identity::new(cert.as_str(), key, root).unwrap_err();
        assert!(matches!(check(&other_key, authority.cert_pem()), IdentityError::KeyMismatch));
        assert!(matches!(check(&key, foreign.cert_pem()), IdentityError::NotSigned(_)));
        assert!(matches!(
            Identity::new(authority.cert_pem(), authority.key_pem(), authority.cert_pem()).unwrap_err(),
            IdentityError::Certificate(_)
        ));
    }

    #[test]
    fn replacing_reaches_clones_and_nothing_leaks() {
        let authority = Authority::generate(NOW).unwrap();
        let first = identity(&authority, "node1");
        let clone = first.clone();
        first.replace(&identity(&authority, "node2"));
        assert_eq!(clone.node_id(), "node2");
        assert!(!format!("{clone:?}").contains("PRIVATE"));
    }
}
