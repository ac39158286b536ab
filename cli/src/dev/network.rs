//! The swarm's network: a bridge in a namespace of its own, a veth to each node and one to the caller.
//!
//! The caller's namespace gets one link and one address, nothing else: no forwarding, no firewall rule.

use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::os::fd::AsFd as _;

use anyhow::{Context as _, bail};

use super::namespaces;
use super::record::{NETNS_ROOT, Node, Record, SwarmName};
use super::rtnl::Rtnl;

const BRIDGE: &str = "br0";
/// The port of the caller's veth in the bridge's namespace.
const CALLER_PORT: &str = "caller";
/// A node's only link beside lo.
const NODE_LINK: &str = "eth0";
const PREFIX: u8 = 24;
/// An address that no link has: what is sent there is lost on the bridge, and nobody is told.
const NOWHERE: [u8; 6] = [2, 0, 0, 0, 0, 0];
/// Subnets come from 10.210.0.0 to 10.249.255.0: far from what Docker and we give to overlays by default.
const SECOND_BYTE: u16 = 210;
const N_SUBNETS: u16 = 40 * 256;

/// Picks a /24 that no route of the caller and no other development swarm uses.
pub(crate) fn pick_subnet(name: &SwarmName, taken: &[[u8; 3]]) -> anyhow::Result<[u8; 3]> {
    let routes = fs::read_to_string("/proc/net/route").context("read /proc/net/route")?;
    // The name decides where to start, so that a swarm tends to keep its addresses.
    let start = name.as_str().bytes().fold(0_u16, |h, b| h.wrapping_mul(31).wrapping_add(u16::from(b)));
    (0..N_SUBNETS)
        .map(|n| (start % N_SUBNETS + n) % N_SUBNETS)
        .map(|n| {
            let [high, low] = n.to_be_bytes();
            [10, u8::try_from(SECOND_BYTE).expect("210 is a byte") + high, low]
        })
        .find(|subnet| !taken.contains(subnet) && !overlaps(*subnet, &routes))
        .context("no free /24 between 10.210.0.0 and 10.249.255.0")
}

/// Whether a route of `/proc/net/route`, the default apart, meets the /24.
fn overlaps(subnet: [u8; 3], routes: &str) -> bool {
    let first = u32::from(Ipv4Addr::new(subnet[0], subnet[1], subnet[2], 0));
    let own_mask = u32::MAX << (32 - PREFIX);
    routes.lines().skip(1).any(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        // The kernel prints an address as one number in the byte order of this machine.
        let address =
            |at: usize| fields.get(at).and_then(|f| u32::from_str_radix(f, 16).ok()).map(u32::from_be);
        let (Some(destination), Some(mask)) = (address(1), address(7)) else { return false };
        let shared = mask & own_mask;
        mask != 0 && destination & shared == first & shared
    })
}

/// Makes the bridge, the nodes' namespaces and all links of `record`.
pub(crate) fn build(record: &Record) -> anyhow::Result<()> {
    fs::create_dir_all(NETNS_ROOT).with_context(|| format!("make {NETNS_ROOT}"))?;
    let bridge_ns = record.name.netns("br");
    namespaces::make_net(&bridge_ns)?;
    let caller_ns = File::open("/proc/thread-self/ns/net").context("open our network namespace")?;
    namespaces::in_net(&bridge_ns, || {
        let rtnl = Rtnl::open()?;
        rtnl.add_bridge(BRIDGE).context("make the bridge")?;
        let bridge = rtnl.index(BRIDGE)?;
        rtnl.add_veth(CALLER_PORT, bridge, &record.name.veth(), caller_ns.as_fd())
            .with_context(|| format!("make the link {}", record.name.veth()))
    })?;
    let rtnl = Rtnl::open()?;
    rtnl.add_address(&record.name.veth(), record.gateway(), PREFIX)
        .with_context(|| format!("give {} to {}", record.gateway(), record.name.veth()))?;
    rtnl.set_up(&record.name.veth())?;
    for node in &record.nodes {
        namespaces::make_net(&node.netns)?;
        let node_ns = File::open(&node.netns)?;
        namespaces::in_net(&bridge_ns, || {
            let rtnl = Rtnl::open()?;
            rtnl.add_veth(&node.name, rtnl.index(BRIDGE)?, NODE_LINK, node_ns.as_fd())
                .with_context(|| format!("make the link of {}", node.name))
        })?;
        namespaces::in_net(&node.netns, || {
            let rtnl = Rtnl::open()?;
            rtnl.add_address(NODE_LINK, node.address, PREFIX)?;
            rtnl.set_up(NODE_LINK)?;
            rtnl.add_default_route(NODE_LINK, record.gateway())
                .with_context(|| format!("route {} through {}", node.name, record.gateway()))
        })?;
    }
    Ok(())
}

/// Loses whatever `from` sends to `to`, established connections included; neither is told.
pub(crate) fn cut(from: &Node, to: &Node) -> anyhow::Result<()> {
    namespaces::in_net(&from.netns, || {
        Rtnl::open()?
            .pin_neighbour(NODE_LINK, to.address, NOWHERE)
            .with_context(|| format!("cut {} off from {}", from.name, to.name))
    })
}

/// Undoes [`cut`].
pub(crate) fn heal(from: &Node, to: &Node) -> anyhow::Result<()> {
    namespaces::in_net(&from.netns, || {
        Rtnl::open()?
            .forget_neighbour(NODE_LINK, to.address)
            .with_context(|| format!("heal the way from {} to {}", from.name, to.name))
    })
}

/// Removes what carries the swarm's name; what is not there is no error.
pub(crate) fn remove(name: &SwarmName) -> anyhow::Result<()> {
    let mut first_error = Rtnl::open()?.remove(&name.veth()).context("remove the caller's link").err();
    for path in name.all_netns() {
        if let Err(err) = namespaces::remove(&path) {
            first_error.get_or_insert(err);
        }
    }
    // Left alone when other namespaces are pinned there, or `ip netns` has made it a mount.
    drop(fs::remove_dir(NETNS_ROOT));
    match first_error {
        None => Ok(()),
        Some(err) => bail!(err),
    }
}

#[cfg(test)]
mod tests {
    use super::{overlaps, pick_subnet};

    const ROUTES: &str = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\n\
        eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\n\
        eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\n\
        wg0\t0000D20A\t00000000\t0001\t0\t0\t0\t0000FFFF\n";

    #[test]
    fn a_route_of_any_width_but_the_default_takes_its_subnets() {
        for (subnet, expect) in
            [([10, 210, 0], true), ([10, 210, 9], true), ([10, 211, 0], false), ([192, 0, 2], true)]
        {
            assert_eq!(overlaps(subnet, ROUTES), expect, "{subnet:?}");
        }
    }

    #[test]
    fn a_taken_subnet_is_passed_over() {
        let name = "dev".parse().unwrap();
        let first = pick_subnet(&name, &[]).unwrap();
        assert_ne!(pick_subnet(&name, &[first]).unwrap(), first);
    }
}
