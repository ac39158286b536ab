//! One registry, as a pull, a look-up or a login talks to it: the protocol is oci-client's, the trust and
//! the words are ours.
//!
//! Every wait has a limit, and every error names the registry and what was asked of it.

use std::error::Error as StdError;
use std::sync::OnceLock;
use std::time::Duration;

use futures::StreamExt as _;
use oci_client::client::{Certificate, CertificateEncoding, ClientConfig, ClientProtocol};
use oci_client::errors::{OciDistributionError, OciErrorCode};
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, RegistryOperation};
use tokio::io::{AsyncWrite, AsyncWriteExt as _};

use crate::credentials::Credentials;
use crate::hosts::Registries;
use crate::manifest::{DOCUMENT_BYTES_MAX, Descriptor, is_index};
use crate::pull::PullError;
use crate::reference::{Reference, digest_hex};
use crate::stream::sha256_hex;

/// A registry that is there takes a connection much sooner.
pub(crate) const CONNECT_MAX: Duration = Duration::from_secs(10);
/// A download of which nothing comes for so long is dead.
const STALL_MAX: Duration = Duration::from_secs(60);
/// What a registry says of an error goes into a task's status.
const REASON_CHARS_MAX: usize = 300;
/// Manifests in the order of preference.
const MANIFESTS: [&str; 4] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];

/// A registry that was reached, for one image.
pub(crate) struct Registry {
    client: Client,
    auth: RegistryAuth,
    /// Its name as people write it.
    host: String,
    repository: String,
    /// As people write it, for errors.
    image: String,
}

/// A manifest or an index as it came.
#[derive(Debug)]
pub(crate) struct Document {
    pub(crate) bytes: Vec<u8>,
    /// `sha256:<hex>` of the bytes.
    pub(crate) digest: String,
    pub(crate) media_type: String,
}

impl Document {
    pub(crate) fn is_index(&self) -> bool {
        is_index(&self.media_type)
    }
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Kind {
    #[serde(default)]
    media_type: String,
    manifests: Option<serde::de::IgnoredAny>,
}

impl Registry {
    /// Connects and proves who we are, as far as the registry asks before anything else.
    pub(crate) async fn open(
        registries: &Registries,
        reference: &Reference,
        credentials: &Credentials,
        connect_max: Duration,
    ) -> Result<Registry, PullError> {
        let host = reference.registry().to_owned();
        let is_insecure = registries.is_insecure(&host).await;
        let client = new_client(registries, &host, is_insecure, ClientProtocol::Https, connect_max)?;
        let mut registry = Registry {
            client,
            auth: credentials.for_registry(),
            repository: reference.repository(),
            image: reference.to_string(),
            host,
        };
        match registry.authenticate().await {
            Err(OciDistributionError::RequestError(e))
                if is_insecure && e.is_connect() && !e.is_timeout() =>
            {
                registry.client =
                    new_client(registries, &registry.host, true, ClientProtocol::Http, connect_max)?;
                registry.authenticate().await
            }
            other => other,
        }
        .map_err(|e| registry.error(e))?;
        Ok(registry)
    }

    /// Whether the registry gave a token for what we said of ourselves.
    async fn authenticate(&self) -> Result<bool, OciDistributionError> {
        let reference = self.reference_to("latest");
        let token = self.client.auth(&reference, &self.auth, RegistryOperation::Pull).await?;
        Ok(token.is_some())
    }

    /// Whether the registry knows the credentials.
    pub(crate) async fn check_login(&self) -> Result<(), PullError> {
        if self.authenticate().await.map_err(|e| self.error(e))? {
            return Ok(());
        }
        // Without a token the first real question tells; there is no such image, and that is an answer.
        match self.manifest("latest").await {
            Ok(_) | Err(PullError::NotFound { .. }) => Ok(()),
            Err(e) => Err(e),
        }
    }

    fn reference_to(&self, which: &str) -> oci_client::Reference {
        let (host, repository) = (self.host.clone(), self.repository.clone());
        if which.contains(':') {
            oci_client::Reference::with_digest(host, repository, which.to_owned())
        } else {
            oci_client::Reference::with_tag(host, repository, which.to_owned())
        }
    }

    /// A manifest or an index, by tag or digest; what has a digest is checked against it.
    pub(crate) async fn manifest(&self, which: &str) -> Result<Document, PullError> {
        let reference = self.reference_to(which);
        let pulled = self.client.pull_manifest_raw(&reference, &self.auth, &MANIFESTS).await;
        let (bytes, stated) = pulled.map_err(|e| self.error(e))?;
        let bytes = Vec::from(bytes);
        let digest = format!("sha256:{}", sha256_hex(&bytes));
        if digest != stated || (which.contains(':') && digest != which) {
            return Err(self.damaged(&format!("the manifest {which} has the digest {digest}")));
        }
        let kind: Kind = serde_json::from_slice(&bytes)
            .map_err(|e| self.damaged(&format!("the manifest {which} cannot be read: {e}")))?;
        let media_type = match (kind.media_type.as_str(), kind.manifests) {
            ("", Some(_)) => MANIFESTS[0].to_owned(),
            ("", None) => MANIFESTS[2].to_owned(),
            (known, _) => known.to_owned(),
        };
        if !MANIFESTS.contains(&media_type.as_str()) {
            return Err(self.damaged(&format!("manifests of type {media_type} are not supported")));
        }
        Ok(Document { bytes, digest, media_type })
    }

    /// A small document: a configuration.
    pub(crate) async fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>, PullError> {
        if descriptor.size > DOCUMENT_BYTES_MAX {
            return Err(self.damaged(&format!("{} has {} bytes", descriptor.digest, descriptor.size)));
        }
        let mut bytes = Vec::new();
        self.blob(descriptor, &mut bytes, |_| {}).await?;
        Ok(bytes)
    }

    /// Writes a blob of exactly the descriptor's size and digest; what was written of any other is waste.
    /// `so_far` hears of each piece.
    pub(crate) async fn blob(
        &self,
        descriptor: &Descriptor,
        out: &mut (impl AsyncWrite + Unpin),
        mut so_far: impl FnMut(u64),
    ) -> Result<(), PullError> {
        let digest = descriptor.digest.as_str();
        if digest_hex(digest).is_none() {
            return Err(self.damaged(&format!("{digest:?} is no SHA-256 digest")));
        }
        // By digest alone: the other addresses that a descriptor may name are none of ours.
        let reference = self.reference_to("latest");
        let opened = self.client.pull_blob_stream(&reference, digest).await;
        let mut stream = opened.map_err(|e| self.error(e))?.stream;
        let mut received = 0_u64;
        while let Some(piece) = stream.next().await {
            let piece = piece.map_err(|e| self.broken(digest, &e))?;
            received += u64::try_from(piece.len()).unwrap_or(u64::MAX);
            if received > descriptor.size {
                break;
            }
            out.write_all(&piece).await.map_err(|e| self.broken(digest, &e))?;
            so_far(received);
        }
        if received != descriptor.size {
            let words = format!("{digest} has not the {} bytes that its image says", descriptor.size);
            return Err(self.damaged(&words));
        }
        out.flush().await.map_err(|e| self.broken(digest, &e))
    }

    pub(crate) fn damaged(&self, reason: &str) -> PullError {
        PullError::Registry { registry: self.host.clone(), image: self.image.clone(), reason: reason.into() }
    }

    fn broken(&self, digest: &str, error: &dyn StdError) -> PullError {
        self.damaged(&format!("the download of {digest} broke off: {}", root_cause(error)))
    }

    /// Docker's words where it has some.
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "errors of another crate: those that are not told apart are all worded alike"
    )]
    fn error(&self, error: OciDistributionError) -> PullError {
        use OciDistributionError as E;
        let (registry, image) = (self.host.clone(), self.image.clone());
        match error {
            E::UnauthorizedError { .. } => {
                let reason = "unauthorized: authentication required".to_owned();
                PullError::Denied { image, registry, reason }
            }
            E::AuthenticationFailure(body) => {
                PullError::Denied { image, registry, reason: format!("unauthorized: {}", said(&body)) }
            }
            E::ServerError { code: 401 | 403, message, .. } => {
                PullError::Denied { image, registry, reason: format!("denied: {}", said(&message)) }
            }
            E::ServerError { code: 404, .. } => {
                PullError::NotFound { image, reason: "manifest unknown".to_owned() }
            }
            E::ServerError { code, message, .. } => {
                let reason = format!("it answered with status {code}: {}", short(&message));
                PullError::Registry { registry, image, reason }
            }
            E::RegistryError { envelope, .. } => {
                let first = envelope.errors.into_iter().next();
                let (code, words) = first.map_or((None, String::new()), |e| (Some(e.code), e.message));
                match code {
                    Some(OciErrorCode::ManifestUnknown | OciErrorCode::NotFound) => {
                        PullError::NotFound { image, reason: "manifest unknown".to_owned() }
                    }
                    Some(OciErrorCode::NameUnknown) => {
                        PullError::NotFound { image, reason: "name unknown".to_owned() }
                    }
                    Some(OciErrorCode::Unauthorized | OciErrorCode::Denied) => {
                        PullError::Denied { image, registry, reason: format!("denied: {}", short(&words)) }
                    }
                    Some(OciErrorCode::Toomanyrequests) => {
                        let reason = format!("toomanyrequests: {}", short(&words));
                        PullError::Registry { registry, image, reason }
                    }
                    _ => PullError::Registry { registry, image, reason: short(&words) },
                }
            }
            E::RequestError(e) if e.is_connect() || e.is_timeout() => {
                let reason = if e.is_timeout() { "no answer in time".to_owned() } else { root_cause(&e) };
                PullError::Unreachable { registry, reason }
            }
            other => PullError::Registry { registry, image, reason: root_cause(&other) },
        }
    }
}

fn new_client(
    registries: &Registries,
    host: &str,
    is_insecure: bool,
    protocol: ClientProtocol,
    connect_max: Duration,
) -> Result<Client, PullError> {
    let failed = |reason: String| PullError::Unreachable { registry: host.to_owned(), reason };
    // What oci-client makes on the way panics without either of these.
    let _another_is_as_good = rustls::crypto::ring::default_provider().install_default();
    if !has_roots() {
        return Err(failed(
            "this machine has no CA certificates: install the package ca-certificates".into(),
        ));
    }
    let found = registries.certificates(host).map_err(|e| failed(format!("its certificates: {e}")))?;
    let certificate = |data| Certificate { encoding: CertificateEncoding::Pem, data };
    let config = ClientConfig {
        protocol,
        accept_invalid_certificates: is_insecure,
        extra_root_certificates: found.into_iter().map(certificate).collect(),
        platform_resolver: None,
        read_timeout: Some(STALL_MAX),
        connect_timeout: Some(connect_max),
        user_agent: concat!("skep/", env!("CARGO_PKG_VERSION")),
        ..ClientConfig::default()
    };
    Client::try_from(config).map_err(|e| failed(root_cause(&e)))
}

/// Whether the system trusts anybody.
fn has_roots() -> bool {
    static FOUND: OnceLock<bool> = OnceLock::new();
    *FOUND.get_or_init(|| !rustls_native_certs::load_native_certs().certs.is_empty())
}

/// The registry's own words in an error's body, if it has the standard's form.
fn said(body: &str) -> String {
    #[derive(serde::Deserialize)]
    struct Body {
        errors: Option<Vec<Message>>,
        details: Option<String>,
    }
    #[derive(serde::Deserialize)]
    struct Message {
        message: String,
    }
    let read: Option<Body> = serde_json::from_str(body).ok();
    let first =
        |body: Body| body.errors.and_then(|all| all.into_iter().next()).map(|e| e.message).or(body.details);
    let words = read.and_then(first).unwrap_or_else(|| body.trim().to_owned());
    if words.is_empty() { "authentication required".to_owned() } else { short(&words) }
}

fn short(words: &str) -> String {
    words.chars().filter(|c| !c.is_control()).take(REASON_CHARS_MAX).collect()
}

/// What is at the bottom of an error: the layers above say only that a request failed.
fn root_cause(error: &dyn StdError) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    let words = short(&cause.to_string());
    if words.contains("UnknownIssuer") {
        // Docker's words; the way out is its own directory of certificates.
        return format!("x509: certificate signed by unknown authority ({words})");
    }
    words
}
