//! Desired x applied -> ordered operations, and what is applied after them.
//!
//! Order: the way to an address is made before the rules send anything there, and unmade after them; within
//! the rules' transaction removals come first. What is not known of the kernel (after a start, or after a
//! failure) is written anew in the same transaction that clears it, so there is no moment without it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use crate::desired::{Desired, Endpoint, Ingress, PortKey, Protocol, PublishedPort};
use crate::slots::{Class, Slots, fill};

/// A hardware address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Mac(pub(crate) [u8; 6]);

impl Mac {
    /// Computed from the address that it belongs to, so that every node knows it without asking.
    pub(crate) fn of(addr: Ipv4Addr) -> Mac {
        let [a, b, c, d] = addr.octets();
        Mac([0x02, 0x42, a, b, c, d])
    }

    /// The address that it was computed from; none if it is not one of ours.
    pub(crate) fn addr(self) -> Option<Ipv4Addr> {
        match self.0 {
            [0x02, 0x42, a, b, c, d] => Some(Ipv4Addr::new(a, b, c, d)),
            _ => None,
        }
    }
}

/// What one port leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Served {
    pub(crate) target: u16,
    endpoints: Vec<Endpoint>,
    /// None while the port has no endpoint.
    pub(crate) slots: Option<Arc<Slots>>,
}

impl Served {
    /// Most ports are as they were: those share their slots with the state before.
    fn new(port: &PublishedPort, previous: Option<&Served>) -> Served {
        let before = previous.and_then(|p| p.slots.as_ref());
        let slots = match previous {
            Some(p) if p.endpoints == port.endpoints => p.slots.clone(),
            Some(_) | None => fill(&port.endpoints, before.map(Arc::as_ref)).map(Arc::new),
        };
        Served { target: port.target, endpoints: port.endpoints.clone(), slots }
    }
}

/// What the kernel has of the desired state.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Applied {
    /// False until a whole desired state was applied without failure: the sets are cleared and written anew.
    pub(crate) is_known: bool,
    pub(crate) ingress: Option<Ingress>,
    /// Ingress address -> the member that carries it.
    pub(crate) carried: BTreeMap<Ipv4Addr, Ipv4Addr>,
    pub(crate) members: BTreeSet<Ipv4Addr>,
    pub(crate) ports: BTreeMap<PortKey, Served>,
}

/// A set or map of the mesh's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Where {
    Members,
    Published,
    Host,
    Slots(Class),
}

/// A key in one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Key {
    Member(Ipv4Addr),
    Port(PortKey),
    Slot(PortKey, u16),
}

/// A value in a map: where a connection goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seat {
    pub(crate) addr: Ipv4Addr,
    pub(crate) port: u16,
}

pub(crate) type Elements = BTreeMap<Where, Vec<(Key, Option<Seat>)>>;

/// Elements that change together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) flush: Vec<Where>,
    pub(crate) remove: Elements,
    pub(crate) add: Elements,
}

impl Change {
    pub(crate) fn is_empty(&self) -> bool {
        self.flush.is_empty() && self.remove.is_empty() && self.add.is_empty()
    }

    pub(crate) fn add(&mut self, at: Where, key: Key, seat: Option<Seat>) {
        self.add.entry(at).or_default().push((key, seat));
    }

    pub(crate) fn remove(&mut self, at: Where, key: Key, seat: Option<Seat>) {
        self.remove.entry(at).or_default().push((key, seat));
    }
}

/// One step towards the desired state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Op {
    /// The ingress bridge and its tunnel stand, with this address.
    SetIngress(Ingress),
    /// An ingress address is reached by way of this member.
    Carry(Ipv4Addr, Ipv4Addr),
    Change(Change),
    /// Connectionless flows of this port that go to none of these addresses are forgotten; those of a
    /// connection stay until it ends.
    ForgetFlows(PortKey, BTreeSet<Ipv4Addr>),
    Uncarry(Ipv4Addr),
    DropIngress,
}

/// What is to be done, and what holds afterwards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) ops: Vec<Op>,
    pub(crate) next: Applied,
}

/// Plans the way from what is applied to what is desired. `own` is this node's data path address.
pub(crate) fn plan(desired: &Desired, applied: &Applied, own: Ipv4Addr) -> Plan {
    let next = wanted(desired, applied, own);
    let mut ops = Vec::new();
    if let Some(ingress) = next.ingress.filter(|_| !applied.is_known || next.ingress != applied.ingress) {
        ops.push(Op::SetIngress(ingress));
    }
    for (addr, via) in &next.carried {
        if !applied.is_known || applied.carried.get(addr) != Some(via) {
            ops.push(Op::Carry(*addr, *via));
        }
    }
    let change = change(&next, applied);
    if !change.is_empty() {
        ops.push(Op::Change(change));
    }
    ops.extend(forgotten_flows(&next, applied));
    if next.ingress.is_some() {
        let gone = applied.carried.keys().filter(|addr| !next.carried.contains_key(addr));
        ops.extend(gone.map(|addr| Op::Uncarry(*addr)));
    } else if applied.ingress.is_some() || !applied.is_known {
        // The tunnel takes its entries with it.
        ops.push(Op::DropIngress);
    }
    Plan { ops, next }
}

fn wanted(desired: &Desired, applied: &Applied, own: Ipv4Addr) -> Applied {
    let peers = || desired.peers.iter().filter(|p| p.data_path_addr != own);
    let remotes = || desired.remotes.iter().filter(|r| r.data_path_addr != own);
    let mut carried = BTreeMap::new();
    if desired.ingress.is_some() {
        carried.extend(peers().map(|p| (p.ingress_addr, p.data_path_addr)));
        carried.extend(remotes().map(|r| (r.addr, r.data_path_addr)));
    }
    let ports = desired.ports.iter().map(|port| {
        let key = PortKey { protocol: port.protocol, published: port.published };
        (key, Served::new(port, applied.ports.get(&key)))
    });
    Applied {
        is_known: true,
        ingress: desired.ingress,
        carried,
        // Whoever is sent to answers, also where not all peers are told.
        members: peers().map(|p| p.data_path_addr).chain(remotes().map(|r| r.data_path_addr)).collect(),
        ports: ports.collect(),
    }
}

fn change(next: &Applied, applied: &Applied) -> Change {
    let mut change = Change::default();
    let nothing = Applied::default();
    let applied = if applied.is_known { applied } else { &nothing };
    if !applied.is_known {
        change.flush = vec![Where::Members, Where::Published];
        change.flush.extend([Class::Small, Class::Medium, Class::Large].map(Where::Slots));
    }
    for addr in applied.members.difference(&next.members) {
        change.remove(Where::Members, Key::Member(*addr), None);
    }
    for addr in next.members.difference(&applied.members) {
        change.add(Where::Members, Key::Member(*addr), None);
    }
    let ports: BTreeSet<&PortKey> = applied.ports.keys().chain(next.ports.keys()).collect();
    for port in ports {
        let (old, new) = (applied.ports.get(port), next.ports.get(port));
        match (old, new) {
            (Some(_), None) => change.remove(Where::Published, Key::Port(*port), None),
            (None, Some(_)) => change.add(Where::Published, Key::Port(*port), None),
            (Some(_), Some(_)) | (None, None) => {}
        }
        change_slots(&mut change, *port, old, new);
    }
    change
}

fn change_slots(change: &mut Change, port: PortKey, old: Option<&Served>, new: Option<&Served>) {
    if old == new {
        return;
    }
    let (old, new) = (seats(old), seats(new));
    for ((class, slot), seat) in &old {
        if new.get(&(*class, *slot)) != Some(seat) {
            change.remove(Where::Slots(*class), Key::Slot(port, *slot), Some(*seat));
        }
    }
    for ((class, slot), seat) in &new {
        if old.get(&(*class, *slot)) != Some(seat) {
            change.add(Where::Slots(*class), Key::Slot(port, *slot), Some(*seat));
        }
    }
}

fn seats(served: Option<&Served>) -> BTreeMap<(Class, u16), Seat> {
    let Some((target, slots)) = served.and_then(|s| Some((s.target, s.slots.as_ref()?))) else {
        return BTreeMap::new();
    };
    let seats = (0..).zip(&slots.seats);
    seats.map(|(n, addr)| ((slots.class, n), Seat { addr: *addr, port: target })).collect()
}

/// Ports without connections whose flows may stick to an endpoint that went, or to a process of the node.
fn forgotten_flows(next: &Applied, applied: &Applied) -> Vec<Op> {
    let addrs = |served: Option<&Served>| -> BTreeSet<Ipv4Addr> {
        served.and_then(|s| s.slots.as_ref()).map(|s| s.seats.iter().copied().collect()).unwrap_or_default()
    };
    let mut ops = Vec::new();
    let ports: BTreeSet<&PortKey> = applied.ports.keys().chain(next.ports.keys()).collect();
    for port in ports.into_iter().filter(|p| p.protocol == Protocol::Udp) {
        let (old, new) = (applied.ports.get(port), next.ports.get(port));
        let (had, has) = (addrs(old), addrs(new));
        let is_new = old.is_none() || !applied.is_known;
        if is_new || !had.is_subset(&has) || (had.is_empty() && !has.is_empty()) {
            ops.push(Op::ForgetFlows(*port, has));
        }
    }
    ops
}

/// FNV-1a: names that must stay the same from one release to the next.
pub(crate) fn fingerprint(bytes: impl IntoIterator<Item = u8>) -> u64 {
    bytes.into_iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests;
