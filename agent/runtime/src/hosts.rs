//! Which registries are trusted how: insecure ones, and the certificates that an administrator put there.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

/// Where Docker's administrators put certificates, and where ours do.
const CERTS_DIRS: [&str; 2] = ["/etc/docker/certs.d", "/etc/skep/certs.d"];

/// What is known of registries beyond their names.
#[derive(Debug, Clone)]
pub struct Registries {
    /// `host[:port]`: their certificates are not checked, and plain HTTP will do.
    hosts: Vec<String>,
    nets: Vec<(IpAddr, u8)>,
    /// Directories with one directory a registry, named `host[:port]`, of its CA's `*.crt`.
    pub certs_dirs: Vec<PathBuf>,
}

impl Default for Registries {
    fn default() -> Self {
        Self { hosts: Vec::new(), nets: Vec::new(), certs_dirs: CERTS_DIRS.map(PathBuf::from).to_vec() }
    }
}

impl Registries {
    /// Adds an insecure registry: `host`, `host:port`, or a network as `10.0.0.0/8`.
    ///
    /// # Errors
    /// The text that is neither.
    pub fn add_insecure(&mut self, text: &str) -> Result<(), String> {
        let bad = || format!("'{text}': expected HOST, HOST:PORT or a network as 10.0.0.0/8");
        if let Some((addr, bits)) = text.split_once('/') {
            let addr: IpAddr = addr.parse().map_err(|_| bad())?;
            let width = if addr.is_ipv4() { 32 } else { 128 };
            let bits = bits.parse().ok().filter(|bits| *bits <= width).ok_or_else(bad)?;
            self.nets.push((addr, bits));
            return Ok(());
        }
        let host_char = |c: char| c.is_ascii_alphanumeric() || ".:-[]".contains(c);
        if text.is_empty() || !text.chars().all(host_char) {
            return Err(bad());
        }
        self.hosts.push(text.to_owned());
        Ok(())
    }

    /// Whether the registry needs neither a certificate nor TLS. This machine itself never does, as with
    /// Docker (`MB:registry/config.go`: 127.0.0.0/8 and what resolves to it).
    pub(crate) async fn is_insecure(&self, registry: &str) -> bool {
        let (host, port) = host_and_port(registry);
        if host == "localhost" || self.hosts.iter().any(|known| known == registry || known == host) {
            return true;
        }
        let is_ours = |addr: IpAddr| {
            addr.to_canonical().is_loopback() || self.nets.iter().any(|net| contains(*net, addr))
        };
        match host.trim_matches(['[', ']']).parse::<IpAddr>() {
            Ok(addr) => is_ours(addr),
            Err(_) if self.nets.is_empty() => false,
            Err(_) => {
                let found = tokio::net::lookup_host((host, port)).await;
                found.is_ok_and(|mut addrs| addrs.any(|addr| is_ours(addr.ip())))
            }
        }
    }

    /// The CA certificates (PEM) that were put there for a registry.
    pub(crate) fn certificates(&self, registry: &str) -> io::Result<Vec<Vec<u8>>> {
        let mut found = Vec::new();
        for dir in self.certs_dirs.iter().map(|dir| dir.join(registry)) {
            let entries = match fs::read_dir(&dir) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                entries => entries?,
            };
            let mut paths = entries.map(|e| e.map(|e| e.path())).collect::<io::Result<Vec<_>>>()?;
            paths.sort();
            for path in paths {
                match path.extension().and_then(|e| e.to_str()) {
                    Some("crt") => found.push(fs::read(&path)?),
                    Some("cert" | "key") => tracing::warn!(file = %path.display(),
                        "client certificates for registries are not supported yet: left out"),
                    Some(_) | None => {}
                }
            }
        }
        Ok(found)
    }
}

fn host_and_port(registry: &str) -> (&str, u16) {
    match registry.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port.parse().unwrap_or(443)),
        Some(_) | None => (registry, 443),
    }
}

fn contains((net, bits): (IpAddr, u8), addr: IpAddr) -> bool {
    let same = |a: u128, b: u128, width: u8| (a ^ b).checked_shr(u32::from(width - bits)).unwrap_or(0) == 0;
    match (net, addr.to_canonical()) {
        (IpAddr::V4(net), IpAddr::V4(addr)) => same(net.to_bits().into(), addr.to_bits().into(), 32),
        (IpAddr::V6(net), IpAddr::V6(addr)) => same(net.to_bits(), addr.to_bits(), 128),
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn insecure_registries_are_those_named_and_this_machine() {
        let mut registries = Registries::default();
        for text in ["reg.lan", "other.lan:5000", "10.1.0.0/16", "fd00::/8", "0.0.0.0/32"] {
            registries.add_insecure(text).unwrap();
        }
        for (registry, expect) in [
            ("localhost", true),
            ("localhost:5000", true),
            ("127.3.2.1:80", true),
            ("[::1]:5000", true),
            ("reg.lan", true),
            ("reg.lan:5000", true),
            ("other.lan:5000", true),
            ("other.lan:5001", false),
            ("10.1.255.1", true),
            ("10.2.0.1:5000", false),
            ("[fd12::1]:5000", true),
            ("[fe80::1]", false),
        ] {
            assert_eq!(registries.is_insecure(registry).await, expect, "{registry}");
        }
        for wrong in ["", "http://x", "10.0.0.0/33", "x/8", "a b"] {
            assert!(registries.add_insecure(wrong).unwrap_err().starts_with(&format!("'{wrong}': ")));
        }
        let mut all = Registries::default();
        all.add_insecure("0.0.0.0/0").unwrap();
        assert!(all.is_insecure("9.9.9.9").await && !all.is_insecure("[fe80::1]").await);
    }

    #[test]
    fn certificates_are_found_by_the_registrys_name() {
        let dir = tempfile::tempdir().unwrap();
        let certs_dirs = vec![dir.path().to_owned(), dir.path().join("none")];
        let registries = Registries { certs_dirs, ..Registries::default() };
        fs::create_dir(dir.path().join("h:5000")).unwrap();
        for name in ["b.crt", "a.crt", "client.cert", "client.key", "readme"] {
            fs::write(dir.path().join("h:5000").join(name), name).unwrap();
        }
        assert_eq!(registries.certificates("h:5000").unwrap(), [b"a.crt", b"b.crt"]);
        assert!(registries.certificates("h").unwrap().is_empty());
    }
}
