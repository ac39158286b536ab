//! The files that a container finds in `/etc`: hosts and resolv.conf.

use std::net::{IpAddr, Ipv4Addr};

use skep_api::spec::DnsConfig;

use crate::sim;

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

/// `/etc/resolv.conf` of a task: what the service asks for takes the place of the host's lines of its kind.
pub(crate) fn resolv_conf(host: String, asked: Option<&DnsConfig>) -> String {
    let Some(asked) = asked else { return host };
    let list = |words: &Option<Vec<String>>| words.clone().filter(|words| !words.is_empty());
    let (servers, search, options) = (list(&asked.nameservers), list(&asked.search), list(&asked.options));
    let is_replaced = |line: &&str| match line.split_whitespace().next() {
        Some("nameserver") => servers.is_some(),
        Some("search" | "domain") => search.is_some(),
        Some("options") => options.is_some(),
        // Comments of the host speak of its servers.
        Some(word) => word.starts_with('#') && servers.is_some(),
        None => false,
    };
    let mut lines: Vec<String> = host.lines().filter(|line| !is_replaced(line)).map(str::to_owned).collect();
    lines.extend(servers.iter().flatten().map(|server| format!("nameserver {server}")));
    lines.extend(search.map(|words| format!("search {}", words.join(" "))));
    lines.extend(options.map(|words| format!("options {}", words.join(" "))));
    lines.join("\n") + "\n"
}

/// `/etc/resolv.conf` as of the host now.
pub(crate) async fn host_resolv_conf() -> String {
    if sim::is_simulated() {
        return String::new();
    }
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
    fn what_is_asked_for_replaces_the_hosts_lines_of_its_kind() {
        let host = "nameserver 9.9.9.9\nsearch home\noptions edns0\n";
        let dns = |json: &str| serde_json::from_str::<DnsConfig>(json).unwrap();
        for (asked, expect) in [
            ("{}", host),
            (
                r#"{"Nameservers":["1.1.1.1","8.8.8.8"]}"#,
                "search home\noptions edns0\nnameserver 1.1.1.1\nnameserver 8.8.8.8\n",
            ),
            (r#"{"Search":["a","b"]}"#, "nameserver 9.9.9.9\noptions edns0\nsearch a b\n"),
            (r#"{"Options":["ndots:1"]}"#, "nameserver 9.9.9.9\nsearch home\noptions ndots:1\n"),
        ] {
            assert_eq!(resolv_conf(host.to_owned(), Some(&dns(asked))), expect, "{asked}");
        }
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
