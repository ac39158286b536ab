//! This node's certificate, key and root: kept on disk, replaced while running.
//!
//! Clones share one value: after [`Identity::replace`] every new connection, in and out, uses the new
//! certificate; old connections live on with theirs. A value is complete and consistent or is not made.

mod sealed;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
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

pub use sealed::{Held, KeyBox};
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
    /// Of the key on disk.
    held: Mutex<Option<Held>>,
}

struct Inner {
    cert_pem: String,
    key_pem: String,
    /// Whether the key was ever kept unsealed.
    was_open: AtomicBool,
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
    /// The key is sealed, and nothing was given that opens it.
    #[error("the key in {path} is sealed, and the manager's key file that opens it is missing or locked", path = path.display())]
    Sealed {
        /// The file.
        path: PathBuf,
    },
    /// The key could not be sealed.
    #[error("cannot seal the node key: {0}")]
    Unsealed(String),
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
        let (current, replaced) = (ArcSwap::from_pointee(inner), watch::Sender::new(0));
        Ok(Self { shared: Arc::new(Shared { current, replaced, held: Mutex::new(None) }) })
    }

    /// Reads what [`Identity::save`] wrote; `None` if `dir` holds no identity. Finishes a save that a
    /// crash cut off.
    ///
    /// # Errors
    /// [`IdentityError::Damaged`] names the file that is missing or damaged.
    pub fn load(dir: &Path) -> Result<Option<Self>, IdentityError> {
        Self::load_with(dir, None)
    }

    /// The same; a key that is sealed is opened by `key_box`.
    ///
    /// # Errors
    /// [`IdentityError::Sealed`] without one; else as [`Identity::load`].
    pub fn load_with(dir: &Path, key_box: Option<&dyn KeyBox>) -> Result<Option<Self>, IdentityError> {
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
        Self::of_texts(dir, (cert, key, root), key_box).map(Some)
    }

    /// Of what the files in `dir` hold: certificate, key and root.
    ///
    /// # Errors
    /// As [`Identity::load_with`].
    pub fn of_texts(
        dir: &Path,
        (cert, key, root): (String, String, String),
        key_box: Option<&dyn KeyBox>,
    ) -> Result<Self, IdentityError> {
        let was_open = sealed::was_open(&key);
        let (key, held) = sealed::open(key, &dir.join(KEY_FILE), key_box)?;
        let identity = Self::new(cert, key, root).map_err(|error| error.in_dir(dir))?;
        identity.inner().was_open.store(was_open, Ordering::Relaxed);
        identity.hold(held);
        Ok(identity)
    }

    /// Whom the certificate in `dir` names, whatever becomes of the key; `None` if there is none.
    ///
    /// # Errors
    /// As [`Identity::load`].
    pub fn node_id_in(dir: &Path) -> Result<Option<String>, IdentityError> {
        storage::finish(dir)?;
        let Some(cert) = storage::read(&dir.join(CERT_FILE))? else { return Ok(None) };
        let chain = read_certificates(&cert).map_err(|e| IdentityError::Certificate(e).in_dir(dir))?;
        let subject = Subject::of_der(&chain[0]);
        let subject = subject.map_err(|e| IdentityError::Certificate(e.to_string()).in_dir(dir))?;
        Ok(Some(subject.node_id))
    }

    /// Whether the key in `dir` is sealed.
    ///
    /// # Errors
    /// The files cannot be read.
    pub fn is_sealed(dir: &Path) -> Result<bool, IdentityError> {
        storage::finish(dir)?;
        Ok(storage::read(&dir.join(KEY_FILE))?.is_some_and(|key| sealed::is_sealed(&key)))
    }

    fn hold(&self, held: Option<Held>) {
        *self.shared.held.lock().unwrap_or_else(PoisonError::into_inner) = held;
    }

    /// Writes `cert.pem`, `key.pem` (mode 0600) and `ca.pem` into `dir`, made if need be. A crash leaves
    /// the old three or the new three.
    ///
    /// # Errors
    /// [`IdentityError::Io`] names the path.
    pub fn save(&self, dir: &Path) -> Result<(), IdentityError> {
        self.save_with(dir, None)
    }

    /// The same, with the key as `key_box` keeps it.
    ///
    /// # Errors
    /// As [`Identity::save`]; the key cannot be sealed.
    pub fn save_with(&self, dir: &Path, key_box: Option<&dyn KeyBox>) -> Result<(), IdentityError> {
        let inner = self.inner();
        let sealed = match key_box {
            Some(key_box) => key_box.seal(inner.key_pem.as_bytes()).map_err(IdentityError::Unsealed)?,
            None => None,
        };
        let (key, held) = match sealed {
            Some((bytes, held)) => (sealed::text(&bytes, self.key_was_open()), Some(held)),
            None => {
                inner.was_open.store(true, Ordering::Relaxed);
                (inner.key_pem.clone(), None)
            }
        };
        let files = [
            (ROOT_FILE, 0o644, inner.root_pem.as_str()),
            (KEY_FILE, 0o600, key.as_str()),
            (CERT_FILE, 0o644, inner.cert_pem.as_str()),
        ];
        if let Err(error) = storage::save(dir, &files) {
            // Either may be on disk.
            let mut now = self.shared.held.lock().unwrap_or_else(PoisonError::into_inner);
            let both: Held = Arc::new((now.take(), held));
            *now = Some(both);
            return Err(error.into());
        }
        // What opens the key that was there before is of no more use from here on.
        self.hold(held);
        Ok(())
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

    /// Whether the key was ever kept unsealed, in this life or an earlier one: who read the disk then has it.
    #[must_use]
    pub fn key_was_open(&self) -> bool {
        self.inner().was_open.load(Ordering::Relaxed)
    }

    /// The same certificate under another root, apart from this identity.
    ///
    /// # Errors
    /// [`IdentityError::NotSigned`]: the certificate says nothing under that root, a new one is needed first.
    pub fn under(&self, root_pem: &str) -> Result<Self, IdentityError> {
        let inner = self.inner();
        let same = Self::new(inner.cert_pem.as_str(), inner.key_pem.as_str(), root_pem)?;
        same.inner().was_open.store(self.key_was_open(), Ordering::Relaxed);
        Ok(same)
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
            was_open: AtomicBool::new(false),
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
            Self::Damaged { .. } | Self::Io { .. } | Self::Sealed { .. } | Self::Unsealed(_) => return self,
        };
        Self::Damaged { path: dir.join(name), reason: self.to_string() }
    }
}
