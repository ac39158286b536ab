//! Image names as people write them, brought to the one form in which Docker shows them.

/// Docker's default registry and the folder of its official images, which nobody writes.
const REGISTRIES: [&str; 2] = ["docker.io/", "index.docker.io/"];
const OFFICIAL: &str = "library/";

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
        format!("{}:{}", self.name, self.tag.as_deref().unwrap_or("latest"))
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
    let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c);
    let valid_path = path.split('/').all(|p| !p.is_empty() && p.chars().all(word));
    let valid_host = host.chars().all(|c| c.is_ascii_alphanumeric() || ".:-[]".contains(c));
    let tag_char = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let valid_tag = tag.as_deref().is_none_or(|t| !t.is_empty() && t.len() <= 128 && t.chars().all(tag_char));
    (valid_path && valid_host && valid_tag).then(|| Reference { name: name.to_owned(), tag, digest })
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
        ] {
            assert_eq!(parse(text).map(|r| r.tagged()).as_deref(), shown, "{text}");
        }
        let digest = format!("sha256:{}", "ab".repeat(32));
        let parsed = parse(&format!("x/y:t@{digest}")).unwrap();
        assert_eq!((parsed.tagged().as_str(), parsed.digest), ("x/y:t", Some(digest)));
    }
}
