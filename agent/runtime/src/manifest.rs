//! The documents that describe an image, in archives and registries alike, and which of them is for us.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::images::{ImageConfig, ImageError};

/// Manifests and configurations are some kilobytes; more is not one.
pub(crate) const DOCUMENT_BYTES_MAX: u64 = 16 * 1024 * 1024;

#[derive(Debug, Deserialize)]
pub(crate) struct OciIndex {
    pub(crate) manifests: Vec<Descriptor>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    #[serde(default)]
    pub(crate) media_type: String,
    pub(crate) digest: String,
    /// Bytes; zero where an archive does not say.
    #[serde(default)]
    pub(crate) size: u64,
    pub(crate) platform: Option<Platform>,
    #[serde(default)]
    pub(crate) annotations: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct OciManifest {
    pub(crate) config: Descriptor,
    pub(crate) layers: Vec<Descriptor>,
}

/// An image's configuration, as far as it concerns us. Docker writes `null` for what is empty.
#[derive(Debug, Deserialize)]
pub(crate) struct ConfigFile {
    #[serde(default)]
    pub(crate) architecture: String,
    #[serde(default)]
    pub(crate) os: String,
    #[serde(default)]
    pub(crate) created: Option<String>,
    pub(crate) config: Option<RunConfig>,
    pub(crate) rootfs: RootFs,
}

#[derive(Debug, Deserialize)]
pub(crate) struct RootFs {
    pub(crate) diff_ids: Option<Vec<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct RunConfig {
    pub(crate) entrypoint: Option<Vec<String>>,
    pub(crate) cmd: Option<Vec<String>>,
    pub(crate) env: Option<Vec<String>>,
    pub(crate) user: Option<String>,
    pub(crate) working_dir: Option<String>,
    pub(crate) exposed_ports: Option<BTreeMap<String, serde_json::Value>>,
    pub(crate) volumes: Option<BTreeMap<String, serde_json::Value>>,
    pub(crate) stop_signal: Option<String>,
    pub(crate) labels: Option<BTreeMap<String, String>>,
}

impl Descriptor {
    /// Whether it names other manifests, one a platform.
    pub(crate) fn is_index(&self) -> bool {
        is_index(&self.media_type)
    }
}

/// Whether a document of this type names other manifests.
pub(crate) fn is_index(media_type: &str) -> bool {
    media_type.contains("index") || media_type.contains("manifest.list")
}

/// What machine an image is for, in the words of image manifests (those of Go).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// `amd64`, `arm64`.
    pub architecture: String,
    /// `linux`.
    pub os: String,
    /// `v8`; empty where the architecture has none or any will do.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub variant: String,
}

impl Platform {
    /// This machine.
    pub fn host() -> Platform {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", ""),
            "aarch64" => ("arm64", "v8"),
            "arm" => ("arm", "v7"),
            "x86" => ("386", ""),
            "powerpc64" => ("ppc64le", ""),
            other => (other, ""),
        };
        Platform {
            architecture: architecture.to_owned(),
            os: std::env::consts::OS.to_owned(),
            variant: variant.to_owned(),
        }
    }

    /// Reads `os`, `os/architecture` or `os/architecture/variant`; what is missing is this machine's.
    pub fn parse(text: &str) -> Option<Platform> {
        let mut parts = text.split('/').map(str::to_ascii_lowercase);
        let host = Platform::host();
        let os = parts.next().filter(|os| !os.is_empty())?;
        let Some(architecture) = parts.next() else { return Some(Platform { os, ..host }) };
        let architecture = match architecture.as_str() {
            "" => return None,
            "x86_64" | "x86-64" => "amd64".to_owned(),
            "aarch64" => "arm64".to_owned(),
            _ => architecture,
        };
        let variant = parts.next().unwrap_or_default();
        parts.next().is_none().then_some(Platform { architecture, os, variant })
    }

    /// How well an image for `other` suits this one, the lower the better; `None` if it does not run.
    pub(crate) fn rank(&self, other: &Platform) -> Option<usize> {
        if (&self.architecture, &self.os) != (&other.architecture, &other.os) {
            return None;
        }
        // The oldest variants run everywhere; an older one of arm runs on a newer.
        let runs: &[&str] = match (self.architecture.as_str(), self.variant.as_str()) {
            ("amd64", "") => &["", "v1"],
            ("arm64", "" | "v8") => &["v8", ""],
            ("arm", "" | "v7") => &["v7", "v6", "v5", ""],
            ("arm", "v6") => &["v6", "v5", ""],
            (_, variant) => return [variant, ""].iter().position(|v| *v == other.variant),
        };
        runs.iter().position(|variant| *variant == other.variant)
    }

    /// The entry of an index that suits best, of equals the first.
    pub(crate) fn choose<'a>(&self, manifests: &'a [Descriptor]) -> Option<&'a Descriptor> {
        let ranked = manifests.iter().filter_map(|m| Some((self.rank(m.platform.as_ref()?)?, m)));
        ranked.min_by_key(|(rank, _)| *rank).map(|(_, manifest)| manifest)
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if self.variant.is_empty() { Ok(()) } else { write!(f, "/{}", self.variant) }
    }
}

pub(crate) fn run_config(file: ConfigFile) -> ImageConfig {
    let run = file.config.unwrap_or_default();
    let keys = |m: Option<BTreeMap<String, serde_json::Value>>| m.unwrap_or_default().into_keys().collect();
    ImageConfig {
        entrypoint: run.entrypoint.unwrap_or_default(),
        cmd: run.cmd.unwrap_or_default(),
        env: run.env.unwrap_or_default(),
        user: run.user.unwrap_or_default(),
        workdir: run.working_dir.unwrap_or_default(),
        exposed_ports: keys(run.exposed_ports),
        volumes: keys(run.volumes),
        stop_signal: run.stop_signal.filter(|s| !s.is_empty()),
        labels: run.labels.unwrap_or_default(),
        architecture: file.architecture,
        os: file.os,
    }
}

pub(crate) fn parse<T: DeserializeOwned>(name: &str, bytes: &[u8]) -> Result<T, ImageError> {
    serde_json::from_slice(bytes).map_err(|e| ImageError::Invalid(format!("failed to read {name}: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(platforms: &[&str]) -> Vec<Descriptor> {
        let entry = |text: &&str| Descriptor {
            media_type: String::new(),
            digest: (*text).to_owned(),
            size: 1,
            platform: Some(Platform {
                variant: text.split('/').nth(2).unwrap_or_default().to_owned(),
                ..Platform::parse(text).unwrap()
            }),
            annotations: BTreeMap::new(),
        };
        platforms.iter().map(entry).collect()
    }

    #[test]
    fn the_platform_that_suits_best_is_chosen() {
        let all = [
            "windows/amd64",
            "linux/amd64/v3",
            "linux/amd64",
            "linux/arm/v5",
            "linux/arm/v7",
            "linux/arm64/v8",
            "unknown/unknown",
        ];
        for (host, offered, expect) in [
            ("linux/amd64", &all[..], Some("linux/amd64")),
            ("linux/amd64", &["linux/amd64/v3"], None),
            ("linux/amd64/v3", &all, Some("linux/amd64/v3")),
            ("linux/arm64/v8", &all, Some("linux/arm64/v8")),
            ("linux/arm64", &["linux/arm64"], Some("linux/arm64")),
            ("linux/arm64/v8", &["linux/arm/v7"], None),
            ("linux/arm/v7", &all, Some("linux/arm/v7")),
            ("linux/arm/v6", &all, Some("linux/arm/v5")),
            ("linux/s390x", &all, None),
            ("windows/x86_64", &all, Some("windows/amd64")),
        ] {
            let index = index(offered);
            let host = Platform::parse(host).unwrap();
            assert_eq!(host.choose(&index).map(|d| d.digest.as_str()), expect, "{host} of {offered:?}");
        }
        assert_eq!(Platform::parse("linux"), Some(Platform { os: "linux".into(), ..Platform::host() }));
        for wrong in ["", "linux/", "a/b/c/d"] {
            assert_eq!(Platform::parse(wrong), None, "{wrong}");
        }
    }
}
