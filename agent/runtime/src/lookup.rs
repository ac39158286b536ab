//! What a registry says of an image without a pull, for a client that pins digests, and of a login.

use std::time::Duration;

use crate::credentials::Credentials;
use crate::engine::Engine;
use crate::images::ImageError;
use crate::manifest::{ConfigFile, OciIndex, OciManifest, Platform, parse};
use crate::pull::PullError;
use crate::reference;
use crate::registry::Registry;

/// A client waits for the look-up before it creates a service: a registry that nobody hears of fails it soon.
const CONNECT_MAX: Duration = Duration::from_secs(3);
/// And one that is slow, not much later.
pub const LOOKUP_MAX: Duration = Duration::from_secs(10);

/// What a name stands for at its registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Distribution {
    pub media_type: String,
    /// `sha256:<hex>` of the manifest or index.
    pub digest: String,
    /// Bytes of the manifest or index itself.
    pub size: u64,
    pub platforms: Vec<Platform>,
}

impl Engine {
    /// Asks the registry what an image's name stands for. An image that was loaded here under this tag and
    /// comes from no registry is not asked for: no other machine decides what it is, and the answer is soon.
    ///
    /// # Errors
    /// As a pull; an unreachable registry within 3 s.
    pub async fn distribution(&self, name: &str, auth: &Credentials) -> Result<Distribution, PullError> {
        let reference = reference::parse(name).ok_or_else(|| PullError::Reference(name.to_owned()))?;
        let is_loaded =
            |image: &crate::ImageInfo| image.repo_digests.is_empty() && reference.digest.is_none();
        if self.find_image(name).as_ref().is_some_and(is_loaded) {
            let reason = "it was loaded on this node and comes from no registry".to_owned();
            return Err(PullError::NotFound { image: reference.to_string(), reason });
        }
        let asked = async {
            let registries = &self.inner.config.registries;
            let registry = Registry::open(registries, &reference, auth, CONNECT_MAX).await?;
            let top =
                registry.manifest(reference.digest.as_deref().unwrap_or_else(|| reference.tag())).await?;
            let stored = |source: ImageError| PullError::Image { image: reference.to_string(), source };
            let platforms = if top.is_index() {
                let index: OciIndex = parse("the index", &top.bytes).map_err(stored)?;
                index.manifests.into_iter().filter_map(|m| m.platform).filter(is_known).collect()
            } else {
                let manifest: OciManifest = parse("the manifest", &top.bytes).map_err(stored)?;
                let config = registry.document(&manifest.config).await?;
                let config: ConfigFile = parse("the configuration", &config).map_err(stored)?;
                vec![Platform { architecture: config.architecture, os: config.os, variant: String::new() }]
            };
            let size = u64::try_from(top.bytes.len()).unwrap_or(u64::MAX);
            Ok(Distribution { media_type: top.media_type, digest: top.digest, size, platforms })
        };
        let registry = reference.registry().to_owned();
        let late = |_| PullError::Unreachable { registry, reason: "no answer in time".to_owned() };
        tokio::time::timeout(LOOKUP_MAX, asked).await.map_err(late)?
    }

    /// Asks a registry (`host[:port]`, or an address as `docker login` keeps it) whether it knows somebody.
    ///
    /// # Errors
    /// It does not, or cannot be asked.
    pub async fn check_login(&self, address: &str, auth: &Credentials) -> Result<(), PullError> {
        let host = host_of(address);
        // Only the registry counts; that it has no such image is an answer.
        let name = format!("{host}/skep-login");
        let reference = reference::parse(&name).ok_or_else(|| PullError::Reference(address.to_owned()))?;
        let asked = async {
            let registries = &self.inner.config.registries;
            Registry::open(registries, &reference, auth, CONNECT_MAX).await?.check_login().await
        };
        let registry = reference.registry().to_owned();
        let late = |_| PullError::Unreachable { registry, reason: "no answer in time".to_owned() };
        tokio::time::timeout(LOOKUP_MAX, asked).await.map_err(late)?
    }
}

/// What is no image but a proof of one's making has no platform.
fn is_known(platform: &Platform) -> bool {
    platform.os != "unknown" && platform.architecture != "unknown"
}

/// `https://index.docker.io/v1/`, `https://host:5000/`, `host:5000`.
fn host_of(address: &str) -> &str {
    let rest = address.trim().trim_start_matches("https://").trim_start_matches("http://");
    let host = rest.split('/').next().unwrap_or(rest);
    if host.is_empty() { "docker.io" } else { host }
}

#[cfg(test)]
mod tests {
    use super::host_of;

    #[test]
    fn logins_name_registries_in_several_ways() {
        for (address, host) in [
            ("https://index.docker.io/v1/", "index.docker.io"),
            ("http://h:5000", "h:5000"),
            ("h:5000/x", "h:5000"),
            ("", "docker.io"),
        ] {
            assert_eq!(host_of(address), host, "{address}");
        }
    }
}
