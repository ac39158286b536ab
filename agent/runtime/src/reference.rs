//! Image names as people write them, brought to the one form in which Docker shows them.

use std::fmt;

/// Docker's default registry, as errors and certificates' directories name it.
const HUB: &str = "docker.io";
/// Docker's default registry and the folder of its official images, which nobody writes.
const REGISTRIES: [&str; 2] = ["docker.io/", "index.docker.io/"];
const OFFICIAL: &str = "library/";
/// As in Docker's grammar (`distribution/reference`).
const NAME_BYTES_MAX: usize = 255;

/// A name with tag, a digest, or both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reference {
    /// `busybox`, `example.com:5000/team/app`.
    pub(crate) name: String,
    pub(crate) tag: Option<String>,
    /// `sha256:<64 hex digits>`.
    pub(crate) digest: Option<String>,
}

impl Reference {
    /// `busybox:latest`: the tag defaults to `latest`.
    pub(crate) fn tagged(&self) -> String {
        format!("{}:{}", self.name, self.tag())
    }

    pub(crate) fn tag(&self) -> &str {
        self.tag.as_deref().unwrap_or("latest")
    }

    /// `docker.io`, `example.com:5000`.
    pub(crate) fn registry(&self) -> &str {
        match self.name.split_once('/') {
            Some((host, _)) if is_host(host) => host,
            Some(_) | None => HUB,
        }
    }

    /// The name within its registry: `library/busybox`, `team/app`.
    pub(crate) fn repository(&self) -> String {
        match self.name.split_once('/') {
            Some((host, path)) if is_host(host) => path.to_owned(),
            Some(_) => self.name.clone(),
            None => format!("{OFFICIAL}{}", self.name),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.tag, &self.digest) {
            (None, Some(digest)) => write!(f, "{}@{digest}", self.name),
            (_, None) => f.write_str(&self.tagged()),
            (Some(_), Some(digest)) => write!(f, "{}@{digest}", self.tagged()),
        }
    }
}

/// Reads a reference; `None` if it is not one.
pub(crate) fn parse(text: &str) -> Option<Reference> {
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest.to_owned())),
        None => (text, None),
    };
    if digest.as_deref().is_some_and(|d| digest_hex(d).is_none()) {
        return None;
    }
    // A colon before a slash is a registry's port.
    let (name, tag) = match rest.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag.to_owned())),
        Some(_) | None => (rest, None),
    };
    let name = REGISTRIES.iter().find_map(|r| name.strip_prefix(r)).unwrap_or(name);
    let name = name.strip_prefix(OFFICIAL).filter(|n| !n.contains('/')).unwrap_or(name);
    let (host, path) = match name.split_once('/') {
        Some((host, path)) if is_host(host) => (host, path),
        Some(_) | None => ("", name),
    };
    let valid_path = path.split('/').all(is_component) && name.len() <= NAME_BYTES_MAX;
    let valid_tag = tag.as_deref().is_none_or(is_tag);
    (valid_path && (host.is_empty() || is_address(host)) && valid_tag).then(|| Reference {
        name: name.to_owned(),
        tag,
        digest,
    })
}

/// Words of lower-case letters and digits, joined by `.`, `_`, `__` or dashes.
fn is_component(part: &str) -> bool {
    let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let joint = |j: &str| matches!(j, "" | "." | "_" | "__") || j.chars().all(|c| c == '-');
    part.starts_with(word) && part.ends_with(word) && part.split(word).all(joint)
}

fn is_tag(tag: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    tag.len() <= 128
        && tag.chars().all(inner)
        && tag.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
}

/// `host`, `host:port`, `[address]:port`.
fn is_address(host: &str) -> bool {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => (name, port),
        Some(_) | None => (host, "1"),
    };
    let bracketed = name.strip_prefix('[').and_then(|n| n.strip_suffix(']'));
    let valid = match bracketed {
        Some(addr) => addr.parse::<std::net::Ipv6Addr>().is_ok(),
        None => name.split('.').all(|label| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
        }),
    };
    valid && port.parse::<u16>().is_ok()
}

fn is_host(part: &str) -> bool {
    part == "localhost" || part.contains(['.', ':']) || part.chars().any(|c| c.is_ascii_uppercase())
}

/// The 64 digits of `sha256:<hex>`.
pub(crate) fn digest_hex(digest: &str) -> Option<&str> {
    let hex = digest.strip_prefix("sha256:")?;
    let digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    (hex.len() == 64 && hex.bytes().all(digit)).then_some(hex)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_out_as_docker_shows_them() {
        for (text, shown) in [
            ("busybox", Some("busybox:latest")),
            ("busybox:1.36", Some("busybox:1.36")),
            ("docker.io/library/busybox:1", Some("busybox:1")),
            ("index.docker.io/team/app", Some("team/app:latest")),
            ("library/nginx", Some("nginx:latest")),
            ("localhost:5000/a/b", Some("localhost:5000/a/b:latest")),
            ("ghcr.io/a/b:v1", Some("ghcr.io/a/b:v1")),
            ("Upper", None),
            ("a//b", None),
            ("a:", None),
            ("", None),
            ("a@sha256:12", None),
            ("a/../b", None),
            ("a..b", None),
            ("a__b/c-_d", None),
            ("a__b/c--d.e", Some("a__b/c--d.e:latest")),
            ("-a", None),
            ("a:-b", None),
            ("a:_b", Some("a:_b")),
            ("host:x/a", None),
            ("host..x/a", None),
            ("[::1]:5000/a", Some("[::1]:5000/a:latest")),
            ("[::1/a", None),
        ] {
            assert_eq!(parse(text).map(|r| r.tagged()).as_deref(), shown, "{text}");
        }
        let digest = format!("sha256:{}", "ab".repeat(32));
        let parsed = parse(&format!("x/y:t@{digest}")).unwrap();
        assert_eq!((parsed.tagged().as_str(), parsed.digest), ("x/y:t", Some(digest)));
    }

    #[test]
    fn names_lead_to_their_registry() {
        let digest = format!("sha256:{}", "ab".repeat(32));
        for (text, registry, repository, shown) in [
            ("busybox", "docker.io", "library/busybox", "busybox:latest".to_owned()),
            ("docker.io/team/app:1", "docker.io", "team/app", "team/app:1".to_owned()),
            ("localhost/a", "localhost", "a", "localhost/a:latest".to_owned()),
            ("h:5000/a/b", "h:5000", "a/b", "h:5000/a/b:latest".to_owned()),
            (&format!("h.x/a:1@{digest}"), "h.x", "a", format!("h.x/a:1@{digest}")),
            (&format!("a@{digest}"), "docker.io", "library/a", format!("a@{digest}")),
        ] {
            let parsed = parse(text).unwrap();
            assert_eq!((parsed.registry(), parsed.repository().as_str()), (registry, repository), "{text}");
            assert_eq!(parsed.to_string(), shown);
            assert_eq!(
                parse(&shown),
                Some(Reference { tag: parsed.tag.clone().or(parse(&shown).unwrap().tag), ..parsed })
            );
        }
    }
}
