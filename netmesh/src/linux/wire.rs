//! A task's network: its namespace, and the pairs of interfaces that tie it to the node's bridges.
//!
//! Everything here is made or found: a task that has all of it already keeps it untouched.

use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use super::netlink::NetlinkError;
use super::netns;
use super::route::{LinkAddr, Route, VethPair};
use super::ruleset::{INGRESS_BRIDGE, TASK_BRIDGE};
use crate::error::{Doing, MeshError};
use crate::plan::{Mac, fingerprint};

/// The loopback device has this index in every namespace.
const LOOPBACK: u32 = 1;

/// What the task is to have.
#[derive(Debug)]
pub(crate) struct Wiring<'a> {
    pub(crate) task: &'a str,
    pub(crate) pin: &'a Path,
    pub(crate) bridge: (Ipv4Addr, u8),
    pub(crate) gateway: Ipv4Addr,
    pub(crate) ingress: Option<(Ipv4Addr, u8)>,
    /// The task reaches its own host ports by the node's address too. Where bridges hand their frames to
    /// the rules, such a packet is translated on the bridge and has to leave by the port it came in by.
    pub(crate) has_host_ports: bool,
}

/// The ends of a task's pairs on the node: on the node's bridge, and on the ingress bridge.
pub(crate) fn host_ends(task: &str) -> [String; 2] {
    let hash = fingerprint(task.bytes()) & 0xffff_ffff_ffff;
    [format!("skb{hash:012x}"), format!("ski{hash:012x}")]
}

/// True if a link has a name that only we give.
pub(crate) fn is_host_end(name: &str) -> bool {
    let hash = name.strip_prefix("skb").or_else(|| name.strip_prefix("ski"));
    hash.is_some_and(|h| h.len() == 12 && h.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// Makes it so, in the given namespace or in a new one.
pub(crate) fn wire(found: Option<OwnedFd>, wiring: &Wiring<'_>) -> Result<(), MeshError> {
    netns::on_own_thread(|| wire_here(found, wiring))
        .doing(|| format!("run a thread for task {}", wiring.task))?
}

fn wire_here(found: Option<OwnedFd>, wiring: &Wiring<'_>) -> Result<(), MeshError> {
    let task = wiring.task;
    let mut node = Route::open().doing(|| "open rtnetlink".to_owned())?;
    let netns = match found {
        Some(netns) => {
            netns::enter(netns.as_fd()).doing(|| format!("enter the network namespace of task {task}"))?;
            netns
        }
        None => {
            netns::unshare().doing(|| format!("make a network namespace for task {task}"))?;
            loosen();
            netns::current().doing(|| format!("open the network namespace of task {task}"))?
        }
    };
    if !netns::is_pinned(wiring.pin) {
        netns::pin(&netns, wiring.pin)
            .doing(|| format!("pin a network namespace on {}", wiring.pin.display()))?;
    }
    let mut inner = Route::open().doing(|| "open rtnetlink".to_owned())?;
    inner.set_up(LOOPBACK).doing(|| format!("raise lo of task {task}"))?;
    let [on_bridge, on_ingress] = host_ends(task);
    let mut tie = |end: &str, bridge: &str, inside: &str, addr: (Ipv4Addr, u8)| {
        tie(&mut node, &mut inner, &netns, end, bridge, inside, addr)
            .doing(|| format!("give task {task} an interface on {bridge}"))
    };
    let eth0 = tie(&on_bridge, TASK_BRIDGE, "eth0", wiring.bridge)?.ok_or_else(|| missing(TASK_BRIDGE))?;
    if let Some(addr) = wiring.ingress {
        tie(&on_ingress, INGRESS_BRIDGE, "eth1", addr)?
            .ok_or_else(|| MeshError::NoIngress { task: task.to_owned() })?;
    }
    if wiring.has_host_ports
        && let Some(link) = node.link(&on_bridge).doing(|| format!("find {on_bridge}"))?
    {
        node.set_hairpin(link.index).doing(|| format!("let task {task} reach its own host ports"))?;
    }
    inner.set_default_route(wiring.gateway, eth0).doing(|| format!("give task {task} a default route"))
}

fn missing(bridge: &str) -> MeshError {
    MeshError::Io { what: format!("find the bridge {bridge}"), source: std::io::ErrorKind::NotFound.into() }
}

/// One pair of interfaces. Gives the index of the inner one; none if the bridge is not there.
fn tie(
    node: &mut Route,
    inner: &mut Route,
    netns: &OwnedFd,
    end: &str,
    bridge: &str,
    inside: &str,
    (addr, prefix): (Ipv4Addr, u8),
) -> Result<Option<u32>, NetlinkError> {
    let Some(bridge) = node.link(bridge)? else { return Ok(None) };
    let mac = Mac::of(addr);
    let outer = node.link(end)?;
    let found = inner.link(inside)?.filter(|link| link.mac == Some(mac));
    match (outer, found) {
        (Some(outer), Some(_)) if outer.master == Some(bridge.index) => {}
        (Some(outer), Some(_)) => node.set_master(outer.index, bridge.index)?,
        (outer, _) => {
            if outer.is_some() {
                node.del_link(end)?;
            }
            inner.del_link(inside)?;
            node.add_veth(&VethPair {
                name: end,
                master: bridge.index,
                mtu: bridge.mtu,
                peer_name: inside,
                peer_mac: mac,
                peer_netns: netns.as_fd(),
            })?;
        }
    }
    let Some(link) = inner.link(inside)? else { return Ok(None) };
    inner.set_up(link.index)?;
    inner.add_address(LinkAddr { index: link.index, addr, prefix })?;
    Ok(Some(link.index))
}

/// As in Docker's containers: any user may open low ports and ping. Where it cannot be set, it is not.
fn loosen() {
    for (name, value) in [("ip_unprivileged_port_start", "0"), ("ping_group_range", "0 2147483647")] {
        if let Err(error) = std::fs::write(format!("/proc/sys/net/ipv4/{name}"), value) {
            tracing::debug!(name, %error, "leaving a setting of a task's network namespace as it is");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_links_fit_and_are_known_again() {
        for end in host_ends("a-task-with-a-very-long-id-0123456789") {
            assert!(end.len() <= 15 && is_host_end(&end), "{end}");
        }
        assert_ne!(host_ends("a"), host_ends("b"));
        for other in ["skep0", "skep-ing", "skb", "skb12345678901", "eth0", "skbzzzzzzzzzzzz"] {
            assert!(!is_host_end(other), "{other}");
        }
    }
}
