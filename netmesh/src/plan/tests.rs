//! Tables and properties of the plan.

use proptest::prelude::*;

use super::*;
use crate::desired::{Endpoint, Peer, PublishedPort, Remote};

const OWN: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);

fn task(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 255, 0, n)
}

fn node(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, n)
}

fn desired(peers: &[u8], remotes: &[(u8, u8)], ports: &[(u16, &[u8])]) -> Desired {
    Desired {
        revision: 1,
        ingress: Some(Ingress { addr: Ipv4Addr::new(10, 255, 128, 1), prefix: 16 }),
        peers: peers
            .iter()
            .map(|n| Peer {
                node: format!("n{n}"),
                data_path_addr: node(*n),
                ingress_addr: Ipv4Addr::new(10, 255, 128, *n),
            })
            .collect(),
        remotes: remotes.iter().map(|(t, n)| Remote { addr: task(*t), data_path_addr: node(*n) }).collect(),
        ports: ports
            .iter()
            .map(|(published, endpoints)| PublishedPort {
                protocol: Protocol::Tcp,
                published: *published,
                target: 80,
                endpoints: endpoints.iter().map(|t| Endpoint { addr: task(*t), weight: 1 }).collect(),
            })
            .collect(),
    }
}

/// The operations in a line each, elements counted.
fn script(plan: &Plan) -> Vec<String> {
    let count = |elements: &Elements| -> String {
        elements.iter().map(|(at, keys)| format!(" {at:?}={}", keys.len())).collect()
    };
    plan.ops
        .iter()
        .map(|op| match op {
            Op::SetIngress(ingress) => format!("ingress {}/{}", ingress.addr, ingress.prefix),
            Op::Carry(addr, via) => format!("carry {addr} via {via}"),
            Op::Change(c) => {
                format!("change flush={} del{} add{}", c.flush.len(), count(&c.remove), count(&c.add))
            }
            Op::ForgetFlows(port, keep) => format!("forget {} keep {}", port.published, keep.len()),
            Op::Uncarry(addr) => format!("uncarry {addr}"),
            Op::DropIngress => "drop ingress".to_owned(),
        })
        .collect()
}

fn check(from: &Desired, to: &Desired, expect: &[&str]) {
    let before = plan(from, &Applied::default(), OWN).next;
    assert_eq!(script(&plan(to, &before, OWN)), expect);
}

#[test]
fn first_state_is_written_whole() {
    let plan = plan(&desired(&[1, 2], &[(7, 2)], &[(8080, &[3, 7])]), &Applied::default(), OWN);
    assert_eq!(
        script(&plan),
        [
            "ingress 10.255.128.1/16",
            "carry 10.255.0.7 via 10.0.0.2",
            "carry 10.255.128.2 via 10.0.0.2",
            "change flush=5 del add Members=1 Published=1 Slots(Small)=64",
        ]
    );
}

#[test]
fn the_same_state_again_is_nothing() {
    let state = desired(&[2], &[(7, 2)], &[(8080, &[7]), (9090, &[])]);
    check(&state, &Desired { revision: 2, ..state.clone() }, &[]);
}

#[test]
fn a_lost_endpoint_leaves_the_rules_before_its_way_goes() {
    check(
        &desired(&[2], &[(7, 2)], &[(8080, &[3, 7])]),
        &desired(&[2], &[], &[(8080, &[3])]),
        &["change flush=0 del Slots(Small)=32 add Slots(Small)=32", "uncarry 10.255.0.7"],
    );
}

#[test]
fn a_new_endpoint_gets_its_way_first() {
    check(
        &desired(&[2], &[], &[(8080, &[3])]),
        &desired(&[2], &[(7, 2)], &[(8080, &[3, 7])]),
        &["carry 10.255.0.7 via 10.0.0.2", "change flush=0 del Slots(Small)=32 add Slots(Small)=32"],
    );
}

#[test]
fn the_last_endpoint_leaves_the_port_published() {
    check(
        &desired(&[], &[], &[(8080, &[3])]),
        &desired(&[], &[], &[(8080, &[])]),
        &["change flush=0 del Slots(Small)=64 add"],
    );
}

#[test]
fn a_class_change_is_one_transaction() {
    check(
        &desired(&[], &[], &[(8080, &[1, 2, 3, 4, 5, 6, 7, 8])]),
        &desired(&[], &[], &[(8080, &[1, 2, 3, 4, 5, 6, 7, 8, 9])]),
        &["change flush=0 del Slots(Small)=64 add Slots(Medium)=512"],
    );
}

#[test]
fn a_moved_member_is_carried_anew() {
    let mut moved = desired(&[2], &[], &[]);
    moved.peers[0].data_path_addr = node(9);
    check(
        &desired(&[2], &[], &[]),
        &moved,
        &["carry 10.255.128.2 via 10.0.0.9", "change flush=0 del Members=1 add Members=1"],
    );
}

#[test]
fn leaving_the_ingress_network_drops_it_last() {
    let gone = Desired { ingress: None, ..desired(&[2], &[], &[]) };
    check(
        &desired(&[2], &[(7, 2)], &[(8080, &[7])]),
        &gone,
        &["change flush=0 del Published=1 Slots(Small)=64 add", "drop ingress"],
    );
}

#[test]
fn connectionless_flows_leave_a_lost_endpoint() {
    let udp = |tasks: &[u8]| {
        let mut state = desired(&[], &[], &[(53, tasks)]);
        state.ports[0].protocol = Protocol::Udp;
        state
    };
    check(
        &udp(&[3, 4]),
        &udp(&[3]),
        &["change flush=0 del Slots(Small)=32 add Slots(Small)=32", "forget 53 keep 1"],
    );
    check(&udp(&[3]), &udp(&[3, 4]), &["change flush=0 del Slots(Small)=32 add Slots(Small)=32"]);
}

/// A kernel of maps: applies a change as the real one does, refusing what cannot be.
#[derive(Default)]
struct Kernel(BTreeMap<(Where, Key), Option<Seat>>);

impl Kernel {
    fn apply(&mut self, change: &Change) -> Result<(), String> {
        self.0.retain(|(at, _), _| !change.flush.contains(at));
        for (at, keys) in &change.remove {
            for (key, _) in keys {
                self.0.remove(&(*at, *key)).ok_or(format!("no {key:?} in {at:?}"))?;
            }
        }
        for (at, keys) in &change.add {
            for (key, seat) in keys {
                if self.0.insert((*at, *key), *seat).is_some() {
                    return Err(format!("{key:?} twice in {at:?}"));
                }
            }
        }
        Ok(())
    }
}

type PortTable = BTreeMap<u16, Vec<u8>>;

fn states() -> impl Strategy<Value = Vec<PortTable>> {
    let endpoints = prop::collection::vec(1_u8..100, 0..80);
    prop::collection::vec(prop::collection::btree_map(8000_u16..8004, endpoints, 0..4), 1..6)
}

proptest! {
    /// Whatever states come one after the other, the kernel ends with what the last one alone gives it.
    #[test]
    fn increments_equal_the_whole(states in states()) {
        let of = |table: &PortTable| {
            let ports: Vec<(u16, &[u8])> = table.iter().map(|(p, e)| (*p, e.as_slice())).collect();
            desired(&[2], &[], &ports)
        };
        let mut kernel = Kernel::default();
        let mut applied = Applied::default();
        for state in &states {
            let plan = plan(&of(state), &applied, OWN);
            for op in &plan.ops {
                if let Op::Change(change) = op {
                    kernel.apply(change).map_err(TestCaseError::fail)?;
                }
            }
            applied = plan.next;
        }
        let mut fresh = Kernel::default();
        for op in &plan(&of(&states[states.len() - 1]), &Applied { is_known: false, ..applied }, OWN).ops {
            if let Op::Change(change) = op {
                fresh.apply(change).map_err(TestCaseError::fail)?;
            }
        }
        prop_assert_eq!(kernel.0, fresh.0);
    }
}
