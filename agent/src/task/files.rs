//! The files that a container finds in `/etc`: hosts and resolv.conf.

use std::net::{IpAddr, Ipv4Addr};

const RESOLV_CONF: &str = "/etc/resolv.conf";
/// Where systemd-resolved names the real servers behind its loopback address.
const RESOLVED_CONF: &str = "/run/systemd/resolve/resolv.conf";
/// Says to whoever looks why names may not resolve.
const NO_SERVER_COMMENT: &str =
    "# skep: the host has loopback name servers only, which a container cannot reach.\n";

/// `/etc/hosts`: localhost, the container itself, then the service's own lines in their order.
pub(crate) fn hosts(hostname: &str, addr: Ipv4Addr, own: &[String]) -> String {
    let mut text = String::from("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    text.push_str(&format!("{addr}\t{hostname}\n"));
    for line in own {
        text.push_str(line);
        text.push('\n');
    }
    text
}

/// `/etc/resolv.conf` as of the host now.
pub(crate) async fn host_resolv_conf() -> String {
    let text = tokio::fs::read_to_string(RESOLV_CONF).await.unwrap_or_default();
    if let Some(reachable) = without_loopback(&text) {
        return reachable;
    }
    let resolved = tokio::fs::read_to_string(RESOLVED_CONF).await.unwrap_or_default();
    without_loopback(&resolved).unwrap_or_else(|| format!("{NO_SERVER_COMMENT}{text}"))
}

/// The text without name servers that only the host reaches; `None` if no other is left.
fn without_loopback(text: &str) -> Option<String> {
    let server = |line: &str| line.trim().strip_prefix("nameserver").map(|rest| rest.trim().to_owned());
    let is_loopback = |addr: &str| addr.parse::<IpAddr>().is_ok_and(|addr| addr.is_loopback());
    let kept: Vec<&str> =
        text.lines().filter(|line| !server(line).is_some_and(|addr| is_loopback(&addr))).collect();
    kept.iter().any(|line| server(line).is_some()).then(|| kept.join("\n") + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_names_the_container_first_and_keeps_the_order_of_others() {
        let own = ["10.0.0.1 db main".to_owned(), "10.0.0.2 cache".to_owned()];
        let text = hosts("web", Ipv4Addr::new(172, 18, 0, 2), &own);
        assert!(text.starts_with("127.0.0.1\tlocalhost\n"));
        assert!(text.ends_with("172.18.0.2\tweb\n10.0.0.1 db main\n10.0.0.2 cache\n"));
    }

    #[test]
    fn loopback_name_servers_are_dropped() {
        for (text, expect) in [
            ("nameserver 127.0.0.53\nnameserver 9.9.9.9\nsearch a\n", Some("nameserver 9.9.9.9\nsearch a\n")),
            ("nameserver 127.0.0.53\noptions edns0\n", None),
            ("nameserver ::1\nnameserver fd00::1", Some("nameserver fd00::1\n")),
            ("", None),
        ] {
            assert_eq!(without_loopback(text).as_deref(), expect, "{text}");
        }
    }
}
