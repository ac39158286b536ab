//! The node's own part: bridges, tunnel, table. Carries out the operations of a plan.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use super::conntrack::{self, Flow};
use super::netlink::{Netlink, NetlinkError};
use super::nft::{Batch, Nft};
use super::route::{Link, LinkAddr, Route, Vxlan};
use super::ruleset::{self, INGRESS_BRIDGE, INGRESS_VXLAN, Shape, TABLE, TASK_BRIDGE};
use super::wire;
use crate::config::{Config, HostPort};
use crate::desired::{Ingress, PortKey};
use crate::error::{Doing, MeshError};
use crate::plan::{Applied, Change, Key, Mac, Op, Plan, Seat, Where};

/// What the tunnel's own headers take of a packet.
const TUNNEL_OVERHEAD: u32 = 50;
const MTU_DEFAULT: u32 = 1500;

/// The sockets of the node's network namespace, and what was applied through them.
#[derive(Debug)]
pub(crate) struct Node {
    route: Route,
    nft: Nft,
    conntrack: Netlink,
    shape: Shape,
    tunnel: Vxlan,
    gateway: LinkAddr,
    pub(crate) applied: Applied,
    /// Host ports that the kernel translates.
    host_ports: BTreeMap<PortKey, Seat>,
}

impl Node {
    /// Opens the sockets in the network namespace of the calling thread, and makes or adopts what stands
    /// for the life of the node. True if the table was adopted.
    pub(crate) fn start(config: &Config) -> Result<Node, MeshError> {
        let opening = || "open netlink".to_owned();
        let mut node = Node {
            route: Route::open().doing(opening)?,
            nft: Nft::open().doing(opening)?,
            conntrack: Netlink::netfilter().doing(opening)?,
            shape: Shape { bridge_subnet: config.bridge_subnet, vxlan_port: config.vxlan_port },
            tunnel: Vxlan { vni: config.vni, local: config.data_path_addr, port: config.vxlan_port },
            gateway: LinkAddr { index: 0, addr: config.gateway(), prefix: config.bridge_subnet.1 },
            applied: Applied::default(),
            host_ports: BTreeMap::new(),
        };
        let forward = "/proc/sys/net/ipv4/ip_forward";
        std::fs::write(forward, "1").doing(|| format!("turn on {forward}"))?;
        node.stand_task_bridge().doing(|| format!("make the bridge {TASK_BRIDGE}"))?;
        node.stand_table()?;
        node.observe()?;
        Ok(node)
    }

    fn stand_table(&mut self) -> Result<(), MeshError> {
        let is_adopted = ruleset::ensure(&mut self.nft, self.shape)
            .doing(|| format!("make the nf_tables table {TABLE}"))?;
        tracing::debug!(is_adopted, "the mesh's table stands");
        if !is_adopted {
            self.host_ports.clear();
        }
        Ok(())
    }

    fn stand_task_bridge(&mut self) -> Result<(), NetlinkError> {
        let mtu = self.underlay_mtu()?;
        let bridge = self.bridge(TASK_BRIDGE, Mac::of(self.gateway.addr), mtu)?;
        self.only_address(LinkAddr { index: bridge.index, ..self.gateway })?;
        Ok(())
    }

    /// A bridge that is up with this hardware address.
    fn bridge(&mut self, name: &str, mac: Mac, mtu: u32) -> Result<Link, NetlinkError> {
        self.route.add_bridge(name, mac, mtu)?;
        let link = self.route.link(name)?.ok_or(NetlinkError::Malformed)?;
        self.route.set_up(link.index)?;
        Ok(link)
    }

    /// The link has this address and no other.
    fn only_address(&mut self, of: LinkAddr) -> Result<(), NetlinkError> {
        let found = self.route.addresses()?;
        for other in found.iter().filter(|a| a.index == of.index && **a != of) {
            self.route.del_address(*other)?;
        }
        if found.contains(&of) { Ok(()) } else { self.route.add_address(of) }
    }

    fn underlay_mtu(&mut self) -> Result<u32, NetlinkError> {
        let local = self.tunnel.local;
        let index = self.route.addresses()?.iter().find(|a| a.addr == local).map(|a| a.index);
        let links = self.route.links()?;
        let link = links.iter().find(|l| Some(l.index) == index && l.index != 1);
        Ok(link.map_or(MTU_DEFAULT, |l| l.mtu.min(MTU_DEFAULT)))
    }

    /// Takes from the kernel what may be there of an earlier life: the tunnel's entries.
    fn observe(&mut self) -> Result<(), MeshError> {
        self.applied.is_known = false;
        self.applied.carried.clear();
        let reading = || format!("read the entries of {INGRESS_VXLAN}");
        if let Some(vxlan) = self.route.link(INGRESS_VXLAN).doing(reading)? {
            let rows = self.route.forwarding(vxlan.index).doing(reading)?;
            self.applied.carried = rows.iter().filter_map(|(mac, via)| Some((mac.addr()?, *via))).collect();
        }
        Ok(())
    }

    /// Carries out a plan. After a failure, nothing is taken for known until a whole plan succeeds.
    pub(crate) fn run(&mut self, plan: &Plan, ingress_tasks: &[&str]) -> Result<(), MeshError> {
        self.applied.is_known = false;
        for op in &plan.ops {
            self.carry_out(op, plan, ingress_tasks)?;
        }
        self.applied = plan.next.clone();
        Ok(())
    }

    /// Prepares for a plan made from nothing: makes the table if someone removed it, reads what is there.
    pub(crate) fn recover(&mut self) -> Result<(), MeshError> {
        let host_ports = self.host_ports.clone();
        self.stand_table()?;
        if self.host_ports != host_ports {
            self.set_host_ports(&host_ports)?;
        }
        self.observe()
    }

    fn carry_out(&mut self, op: &Op, plan: &Plan, ingress_tasks: &[&str]) -> Result<(), MeshError> {
        match op {
            Op::SetIngress(ingress) => {
                let is_changed = self
                    .stand_ingress(*ingress, ingress_tasks)
                    .doing(|| format!("make the ingress network on {INGRESS_BRIDGE}"))?;
                // New links, and those with a new hardware address, have lost their entries.
                for (addr, via) in plan.next.carried.iter().filter(|_| is_changed) {
                    self.carry(*addr, *via)?;
                }
                Ok(())
            }
            Op::Carry(addr, via) => self.carry(*addr, *via),
            Op::Change(change) => self.change(change),
            Op::ForgetFlows(port, keep) => self.forget_flows(*port, keep),
            Op::Uncarry(addr) => self.uncarry(*addr).doing(|| format!("forget the way to {addr}")),
            Op::DropIngress => {
                self.drop_ingress().doing(|| format!("remove the ingress network from {INGRESS_BRIDGE}"))
            }
        }
    }

    /// True if the tunnel's entries are to be written anew.
    fn stand_ingress(&mut self, ingress: Ingress, tasks: &[&str]) -> Result<bool, NetlinkError> {
        let mtu = self.underlay_mtu()?.saturating_sub(TUNNEL_OVERHEAD);
        let mac = Mac::of(ingress.addr);
        let bridge = self.bridge(INGRESS_BRIDGE, mac, mtu)?;
        let mut is_changed = bridge.mac != Some(mac);
        if is_changed {
            self.route.set_mac(bridge.index, mac)?;
        }
        self.only_address(LinkAddr { index: bridge.index, addr: ingress.addr, prefix: ingress.prefix })?;
        let found = self.route.link(INGRESS_VXLAN)?;
        let is_good =
            found.as_ref().is_some_and(|l| l.vxlan == Some(self.tunnel) && l.master == Some(bridge.index));
        if !is_good {
            if found.is_some() {
                self.route.del_link(INGRESS_VXLAN)?;
            }
            self.route.add_vxlan(INGRESS_VXLAN, self.tunnel, mac, bridge.index, mtu)?;
            is_changed = true;
        }
        let vxlan = self.route.link(INGRESS_VXLAN)?.ok_or(NetlinkError::Malformed)?;
        self.route.set_static_port(vxlan.index)?;
        self.route.set_up(vxlan.index)?;
        for task in tasks {
            let [_, end] = wire::host_ends(task);
            if let Some(link) = self.route.link(&end)?.filter(|l| l.master != Some(bridge.index)) {
                self.route.set_master(link.index, bridge.index)?;
            }
        }
        Ok(is_changed)
    }

    fn ingress_links(&mut self) -> Result<Option<(u32, u32)>, NetlinkError> {
        let bridge = self.route.link(INGRESS_BRIDGE)?.map(|l| l.index);
        let vxlan = self.route.link(INGRESS_VXLAN)?.map(|l| l.index);
        Ok(bridge.zip(vxlan))
    }

    fn carry(&mut self, addr: Ipv4Addr, via: Ipv4Addr) -> Result<(), MeshError> {
        let mut go = || {
            let (bridge, vxlan) = self.ingress_links()?.ok_or(NetlinkError::Malformed)?;
            let mac = Mac::of(addr);
            self.route.set_forwarding(vxlan, mac, via)?;
            self.route.set_neighbour(bridge, addr, mac)
        };
        go().doing(|| format!("set the way to {addr} by {via}"))
    }

    fn uncarry(&mut self, addr: Ipv4Addr) -> Result<(), NetlinkError> {
        let Some((bridge, vxlan)) = self.ingress_links()? else { return Ok(()) };
        self.route.del_neighbour(bridge, addr)?;
        self.route.del_forwarding(vxlan, Mac::of(addr))
    }

    fn drop_ingress(&mut self) -> Result<(), NetlinkError> {
        self.route.del_link(INGRESS_VXLAN)?;
        self.route.del_link(INGRESS_BRIDGE)
    }

    fn change(&mut self, change: &Change) -> Result<(), MeshError> {
        let mut batch = Batch::new(TABLE);
        ruleset::encode(&mut batch, change);
        self.nft.commit(batch).doing(|| format!("change the nf_tables table {TABLE}"))
    }

    fn forget_flows(&mut self, port: PortKey, keep: &BTreeSet<Ipv4Addr>) -> Result<(), MeshError> {
        let is_meant = |flow: &Flow| {
            flow.protocol == port.protocol.number()
                && flow.port == port.published
                && !keep.contains(&flow.server)
        };
        conntrack::forget(&mut self.conntrack, is_meant)
            .doing(|| format!("forget the flows of {}/{}", port.published, port.protocol))
    }

    /// Forgets the connections that this address answers.
    pub(crate) fn forget_server(&mut self, addr: Ipv4Addr) -> Result<(), MeshError> {
        conntrack::forget(&mut self.conntrack, |flow| flow.server == addr)
            .doing(|| format!("forget the connections of {addr}"))
    }

    /// Replaces all host ports, in one transaction.
    pub(crate) fn set_host_ports(&mut self, all: &BTreeMap<PortKey, Seat>) -> Result<(), MeshError> {
        let mut change = Change { flush: vec![Where::Host], ..Change::default() };
        for (port, seat) in all {
            change.add(Where::Host, Key::Port(*port), Some(*seat));
        }
        self.change(&change)?;
        self.host_ports = all.clone();
        Ok(())
    }

    pub(crate) fn add_host_ports(&mut self, ports: &[HostPort], addr: Ipv4Addr) -> Result<(), MeshError> {
        let mut all = self.host_ports.clone();
        let mut change = Change::default();
        for port in ports {
            let key = PortKey { protocol: port.protocol, published: port.published };
            let seat = Seat { addr, port: port.target };
            match all.insert(key, seat) {
                Some(old) if old == seat => continue,
                Some(old) => change.remove(Where::Host, Key::Port(key), Some(old)),
                None => {}
            }
            change.add(Where::Host, Key::Port(key), Some(seat));
        }
        self.change(&change)?;
        self.host_ports = all;
        Ok(())
    }

    pub(crate) fn del_host_ports(&mut self, ports: &[HostPort]) -> Result<(), MeshError> {
        let mut all = self.host_ports.clone();
        let mut change = Change::default();
        for port in ports {
            let key = PortKey { protocol: port.protocol, published: port.published };
            if let Some(seat) = all.remove(&key) {
                change.remove(Where::Host, Key::Port(key), Some(seat));
            }
        }
        self.change(&change)?;
        self.host_ports = all;
        Ok(())
    }

    /// Removes the pairs of interfaces that belong to none of the tasks.
    pub(crate) fn sweep_links<'t>(&mut self, tasks: impl Iterator<Item = &'t str>) -> Result<(), MeshError> {
        let known: BTreeSet<String> = tasks.flat_map(wire::host_ends).collect();
        let sweeping = || "remove left-over interfaces".to_owned();
        for link in self.route.links().doing(sweeping)? {
            let is_ours = link.kind.as_deref() == Some("veth") && wire::is_host_end(&link.name);
            if is_ours && !known.contains(&link.name) {
                tracing::warn!(link = link.name, "removing an interface that no task of ours has");
                self.route.del_link(&link.name).doing(sweeping)?;
            }
        }
        Ok(())
    }

    /// Everything that is not a task's goes.
    pub(crate) fn teardown(&mut self) -> Result<(), MeshError> {
        self.nft.drop_table(TABLE).doing(|| format!("remove the nf_tables table {TABLE}"))?;
        self.drop_ingress().doing(|| format!("remove {INGRESS_BRIDGE}"))?;
        self.route.del_link(TASK_BRIDGE).doing(|| format!("remove {TASK_BRIDGE}"))?;
        self.applied = Applied::default();
        self.host_ports.clear();
        Ok(())
    }
}
