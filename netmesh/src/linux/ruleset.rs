//! The table of the mesh: sets and maps that change, rules that never do.
//!
//! Invariant: all that changes is an element of a set, so no update makes the kernel look at a rule again.
//! A chain without rules carries the ruleset's fingerprint in its name: a restarted daemon adopts a table
//! of the same shape as it is, and replaces another in one transaction.

use std::net::Ipv4Addr;

use super::expr::{DESTINATION_PORT, Field, IP_SOURCE, Meta, Rule, TCP, UDP, r};
use super::netlink::NetlinkError;
use super::nft::{Batch, Element, Hook, Nft, Set, Type};
use crate::plan::{Change, Key, Seat, Where};
use crate::slots::Class;

pub(crate) const TABLE: &str = "skep";
/// The bridge that tasks reach the world through.
pub(crate) const TASK_BRIDGE: &str = "skep0";
/// The bridge of the ingress network, and the VXLAN port on it.
pub(crate) const INGRESS_BRIDGE: &str = "skep-ing";
pub(crate) const INGRESS_VXLAN: &str = "skep-vx";

const MEMBERS: Set = Set { name: "members", key: &[Type::Ipv4Addr], value: &[] };
const PUBLISHED: Set = Set { name: "published", key: PORT_KEY, value: &[] };
const HOST: Set = Set { name: "host", key: PORT_KEY, value: SEAT_VALUE };
const SLOTS: [(Class, Set); 3] = [
    (Class::Small, Set { name: "ingress64", key: SLOT_KEY, value: SEAT_VALUE }),
    (Class::Medium, Set { name: "ingress512", key: SLOT_KEY, value: SEAT_VALUE }),
    (Class::Large, Set { name: "ingress4096", key: SLOT_KEY, value: SEAT_VALUE }),
];
const PORT_KEY: &[Type] = &[Type::InetProto, Type::InetService];
const SLOT_KEY: &[Type] = &[Type::InetProto, Type::InetService, Type::Mark];
const SEAT_VALUE: &[Type] = &[Type::Ipv4Addr, Type::InetService];

/// What the rules are made from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) bridge_subnet: (Ipv4Addr, u8),
    pub(crate) vxlan_port: u16,
}

/// Makes the table stand; true if one of the same shape was there, with its elements.
pub(crate) fn ensure(nft: &mut Nft, shape: Shape) -> Result<bool, NetlinkError> {
    let mut batch = Batch::new(TABLE);
    // Adding first makes the deletion succeed whether or not there was a table.
    batch.add_table();
    batch.del_table();
    batch.add_table();
    sets(&mut batch);
    translation(&mut batch, shape);
    filters(&mut batch, shape);
    let mark = format!("shape-{:016x}", crate::plan::fingerprint(batch.bytes()));
    if nft.has_chain(TABLE, &mark)? {
        return Ok(true);
    }
    batch.add_chain(&mark, None);
    nft.commit(batch)?;
    Ok(false)
}

fn sets(batch: &mut Batch) {
    let maps = SLOTS.iter().map(|(_, set)| set);
    for (id, set) in (1..).zip([&MEMBERS, &PUBLISHED, &HOST].into_iter().chain(maps)) {
        batch.add_set(set, id);
    }
}

fn translation(batch: &mut Batch, shape: Shape) {
    const PREROUTING: u32 = 0;
    const OUTPUT: u32 = 3;
    const POSTROUTING: u32 = 4;
    for (name, hook) in [("prerouting", PREROUTING), ("output", OUTPUT)] {
        batch.add_chain(name, Some(Hook { kind: "nat", hook, priority: -100 }));
        batch.add_rule(name, |rule| {
            port_key(rule.is_local().is_not_loopback()).lookup(HOST.name, r(0), r(0)).translate(r(0), r(1));
        });
        for (class, set) in &SLOTS {
            batch.add_rule(name, |rule| {
                port_key(rule.is_local().is_not_loopback())
                    .random(u32::from(class.slots()), r(2))
                    .lookup(set.name, r(0), r(0))
                    .translate(r(0), r(1));
            });
        }
    }
    batch.add_chain("postrouting", Some(Hook { kind: "nat", hook: POSTROUTING, priority: 100 }));
    // Replies come back through the node that translated, whichever node the task is on.
    batch.add_rule("postrouting", |rule| {
        rule.is_translated().is_link(Meta::OutputName, INGRESS_BRIDGE).masquerade();
    });
    // A task that reaches another one of this node by a host port: the reply must not be bridged past us.
    batch.add_rule("postrouting", |rule| {
        within(rule.is_translated().is_link(Meta::OutputName, TASK_BRIDGE), IP_SOURCE, shape).masquerade();
    });
    // Tasks reach the world under the node's address.
    batch.add_rule("postrouting", |rule| {
        within(rule.is_not_link(Meta::OutputName, TASK_BRIDGE), IP_SOURCE, shape).masquerade();
    });
}

fn filters(batch: &mut Batch, shape: Shape) {
    const PREROUTING: u32 = 0;
    const INPUT: u32 = 1;
    const FORWARD: u32 = 2;
    const OUTPUT: u32 = 3;
    let vxlan = shape.vxlan_port.to_be_bytes();
    batch.add_chain("input", Some(Hook { kind: "filter", hook: INPUT, priority: 0 }));
    batch.add_rule("input", |rule| {
        rule.is_protocol(UDP).field(DESTINATION_PORT, r(0)).equal(r(0), &vxlan);
        rule.field(IP_SOURCE, r(0)).is_not_in(MEMBERS.name, r(0)).drop();
    });
    // A published port without an endpoint: never to a process of the node that listens there too.
    batch.add_rule("input", |rule| {
        rule.is_new().is_not_loopback().is_protocol(TCP);
        port_key(rule).is_in(PUBLISHED.name, r(0)).reset();
    });
    batch.add_rule("input", |rule| {
        port_key(rule.is_new().is_not_loopback()).is_in(PUBLISHED.name, r(0)).port_unreachable();
    });
    // Nobody outside reaches a task past its published ports by using this node as a router.
    batch.add_chain("forward", Some(Hook { kind: "filter", hook: FORWARD, priority: 0 }));
    for bridge in [TASK_BRIDGE, INGRESS_BRIDGE] {
        batch.add_rule("forward", |rule| {
            rule.is_link(Meta::OutputName, bridge).is_not_link(Meta::InputName, bridge);
            rule.is_new().is_not_translated().drop();
        });
    }
    // Tunnelled packets are tracked inside the tunnel; their outer flows would only fill the table.
    for (name, hook) in [("raw-in", PREROUTING), ("raw-out", OUTPUT)] {
        batch.add_chain(name, Some(Hook { kind: "filter", hook, priority: -300 }));
        batch.add_rule(name, |rule| {
            rule.is_protocol(UDP).field(DESTINATION_PORT, r(0)).equal(r(0), &vxlan).untracked();
        });
    }
}

/// Loads protocol and destination port into r(0) and r(1).
fn port_key<'r, 'm>(rule: &'r mut Rule<'m>) -> &'r mut Rule<'m> {
    rule.meta(Meta::TransportProtocol, r(0)).field(DESTINATION_PORT, r(1))
}

/// The address is one of the task bridge's subnet.
fn within<'r, 'm>(rule: &'r mut Rule<'m>, field: Field, shape: Shape) -> &'r mut Rule<'m> {
    let (network, prefix) = shape.bridge_subnet;
    let mask = crate::pool::netmask(prefix);
    let network = u32::from(network) & mask;
    rule.field(field, r(0)).mask(r(0), mask.to_be_bytes()).equal(r(0), &network.to_be_bytes())
}

/// Adds a change of elements to a transaction: removals first.
pub(crate) fn encode(batch: &mut Batch, change: &Change) {
    for at in &change.flush {
        batch.flush(set_name(*at));
    }
    for (keys, remove) in [(&change.remove, true), (&change.add, false)] {
        for (at, keys) in keys {
            let elements: Vec<Element> = keys.iter().map(|(key, seat)| element(*key, *seat)).collect();
            if remove {
                batch.del_elements(set_name(*at), &elements);
            } else {
                batch.add_elements(set_name(*at), &elements);
            }
        }
    }
}

fn set_name(at: Where) -> &'static str {
    match at {
        Where::Members => MEMBERS.name,
        Where::Published => PUBLISHED.name,
        Where::Host => HOST.name,
        Where::Slots(class) => {
            SLOTS.iter().find(|(c, _)| *c == class).map(|(_, set)| set.name).expect("each class has a map")
        }
    }
}

fn element(key: Key, seat: Option<Seat>) -> Element {
    let mut bytes = Vec::with_capacity(12);
    match key {
        Key::Member(addr) => bytes.extend(addr.octets()),
        Key::Port(port) => push_port(&mut bytes, port),
        Key::Slot(port, slot) => {
            push_port(&mut bytes, port);
            bytes.extend(u32::from(slot).to_ne_bytes());
        }
    }
    let value = seat.map(|seat| {
        let mut value = [0; 8];
        value[..4].copy_from_slice(&seat.addr.octets());
        value[4..6].copy_from_slice(&seat.port.to_be_bytes());
        value
    });
    Element { key: bytes, value }
}

fn push_port(bytes: &mut Vec<u8>, port: crate::desired::PortKey) {
    bytes.extend([port.protocol.number(), 0, 0, 0]);
    bytes.extend(port.published.to_be_bytes());
    bytes.extend([0, 0]);
}
