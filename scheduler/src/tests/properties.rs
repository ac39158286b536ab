//! What holds of every placement.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use skep_api::{
    object::{NodeState, Plugin},
    spec::Availability,
};

use super::{naive::Naive, *};
use crate::{Amounts, Descriptor, Filter, Soft};

const N_NODES: u64 = 9;

fn any_node(n: u64) -> impl Strategy<Value = NodeInfo> {
    let facts = (0..4_u64, -1..5_i64, 0..5_i64, 0..6_u8, 0..6_u8);
    let more = (0..4_u8, 0..4_u8, 0..3_u8, 0..4_u8, 0..6_u8);
    (facts, more).prop_map(
        move |((n_tasks, cpus, memory, availability, state), (zone, rack, plugin, generic, weight))| {
            let info = NodeInfo { n_tasks, nano_cpus: cpus * CPU, memory_bytes: memory * GIB, ..node(n) };
            let info = edit(info, |node| {
                node.spec.availability =
                    if availability == 0 { Availability::Drain } else { Availability::Active };
                node.status.state = if state == 0 { NodeState::Down } else { NodeState::Ready };
                node.spec.labels.clear();
                for (key, value) in [("zone", zone), ("rack", rack)] {
                    if value > 0 {
                        node.spec.labels.insert(key.into(), format!("{key}{value}"));
                    }
                }
                if weight < 5 {
                    node.spec.labels.insert("weight".into(), format!("{weight}"));
                }
                if weight != 1 {
                    (node.description.nano_cpus, node.description.memory_bytes) = (8 * CPU, 5 * GIB);
                }
                if plugin > 0 {
                    let name = if plugin == 1 { "overlay" } else { "other:latest" };
                    node.description.plugins.push(Plugin { kind: "Network".into(), name: name.into() });
                }
                if n.is_multiple_of(4) {
                    node.description.arch = "aarch64".into();
                }
            });
            match generic {
                0 => with_generic(info, &[named("gpu", "a"), named("gpu", "b"), named("gpu", "c")]),
                1 => with_generic(info, &[discrete("gpu", 2), discrete("ssd", 1)]),
                _ => info,
            }
        },
    )
}

fn any_nodes() -> impl Strategy<Value = Vec<NodeInfo>> {
    (1..=N_NODES).map(any_node).collect::<Vec<_>>()
}

/// What skep's own labels ask for.
fn any_wishes() -> impl Strategy<Value = (crate::Strategy, Option<Descriptor>, Vec<Soft>)> {
    let soft = |text: &str, weight: u32| Soft {
        constraint: Constraint::parse(text).unwrap(),
        text: text.to_owned(),
        weight,
    };
    (0..6_u8, 0..4_u8, 0..5_u8).prop_map(move |(strategy, weight, wish)| {
        let strategy = if strategy == 0 { crate::Strategy::Binpack } else { crate::Strategy::Spread };
        let weight = (weight == 0).then(|| Descriptor::NodeLabel("weight".to_owned()));
        let soft = match wish {
            0 => vec![soft("node.labels.zone==zone1", 3), soft("node.hostname!=n4", 2)],
            1 => vec![soft("node.labels.rack!=rack1", 1)],
            _ => vec![],
        };
        (strategy, weight, soft)
    })
}

fn any_ask() -> impl Strategy<Value = Ask> {
    (any_hard_ask(), any_wishes()).prop_map(|(ask, (strategy, weight, soft))| Ask {
        strategy,
        weight,
        soft,
        ..ask
    })
}

fn any_hard_ask() -> impl Strategy<Value = Ask> {
    let amounts = (0..3_i64, 0..3_i64, 0..6_i64);
    let rules = (0..8_usize, 0..4_u64, 0..5_u8, 0..5_u8, 0..5_u8, 0..5_usize);
    (amounts, rules).prop_map(
        |((cpus, memory, gpus), (constraint, max_replicas, port, platform, plugin, spread))| {
            let base = match constraint {
                0 => constrained("node.labels.zone==zone1"),
                1 => constrained("node.labels.zone!=zone1"),
                2 => constrained("node.hostname!=n2"),
                3 => constrained(&format!("node.id=={}", id(3))),
                _ => Ask::default(),
            };
            let label = |key: &str| Descriptor::NodeLabel(key.to_owned());
            let spread = match spread {
                0 => vec![label("zone")],
                1 => vec![label("zone"), label("rack")],
                2 => vec![label("rack"), label("none")],
                _ => vec![],
            };
            let generic =
                if gpus > 3 { BTreeMap::from([("gpu".to_owned(), gpus - 3)]) } else { BTreeMap::new() };
            Ask {
                amounts: Amounts { nano_cpus: cpus * CPU, memory_bytes: memory * GIB, generic },
                max_replicas,
                host_ports: if port == 0 { vec![("tcp".into(), 80)] } else { vec![] },
                platforms: if platform == 0 { vec![("linux".into(), "amd64".into())] } else { vec![] },
                plugins: if plugin == 0 {
                    vec![Plugin { kind: "Network".into(), name: "overlay".into() }]
                } else {
                    vec![]
                },
                spread,
                ..base
            }
        },
    )
}

fn any_crowd() -> impl Strategy<Value = Crowd> {
    let ids = || (1..=N_NODES + 1).prop_map(id);
    let tasks = prop::collection::btree_map(ids(), 0..4_u64, 0..5);
    let failures = prop::collection::btree_map(ids(), 3..7_u64, 0..4);
    let port_holders = prop::collection::btree_set(ids(), 0..3);
    (tasks, failures, port_holders).prop_map(|(tasks, failures, port_holders)| Crowd {
        tasks,
        failures,
        port_holders,
    })
}

type Step = (Ask, Crowd, usize, Option<NodeInfo>, Option<u64>);

/// Groups one after the other, and between them a node that changes, comes back or goes.
fn any_steps() -> impl Strategy<Value = Vec<Step>> {
    let change = prop::option::of((1..=N_NODES).prop_flat_map(any_node));
    let step = (any_ask(), any_crowd(), 0..20_usize, change, prop::option::of(1..=N_NODES));
    prop::collection::vec(step, 1..6)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn the_picture_decides_as_a_look_at_all_nodes_does(nodes in any_nodes(), steps in any_steps()) {
        let mut naive = Naive(nodes.iter().map(|info| (info.node.id, info.clone())).collect());
        // One that is kept, put together from the last node to the first, and one that is made anew each time.
        let mut kept = Picture::default();
        nodes.into_iter().rev().for_each(|info| kept.put(info));
        for (ask, crowd, n, changed, gone) in steps {
            let mut fresh = Picture::new(kept.nodes().cloned().collect::<Vec<_>>());
            let expect = naive.place(&ask, &crowd, n);
            prop_assert_eq!(&kept.place(&ask, &crowd, n), &expect);
            prop_assert_eq!(&fresh.place(&ask, &crowd, n), &expect);
            for picture in [&kept, &fresh] {
                let found: Vec<&NodeInfo> = picture.nodes().collect();
                prop_assert_eq!(found, naive.0.values().collect::<Vec<_>>());
            }
            if let Some(info) = changed {
                naive.0.insert(info.node.id, info.clone());
                kept.put(info);
            }
            if let Some(gone) = gone {
                naive.0.remove(&id(gone));
                kept.remove(id(gone));
            }
        }
    }

    #[test]
    fn placements_are_allowed_and_refusals_complete(
        nodes in any_nodes(), ask in any_ask(), crowd in any_crowd(), n in 0..20_usize,
    ) {
        let mut picture = Picture::new(nodes.clone());
        let placement = picture.place(&ask, &crowd, n);
        let mut names: BTreeSet<(NodeId, GenericResource)> = BTreeSet::new();
        for given in &placement.nodes {
            let info = nodes.iter().find(|info| info.node.id == given.node).unwrap();
            prop_assert_eq!(Filter::first(&ask, &crowd, info, 0), None);
            let n_given: i64 = given.generic.iter().map(|one| match one {
                GenericResource::Named { .. } => 1,
                GenericResource::Discrete { amount, .. } => *amount,
            }).sum();
            prop_assert_eq!(n_given, ask.amounts.generic.values().sum::<i64>());
            for one in given.generic.iter().filter(|one| matches!(one, GenericResource::Named { .. })) {
                prop_assert!(names.insert((given.node, one.clone())), "given twice: {:?}", one);
            }
        }
        for before in &nodes {
            let left = picture.node(before.node.id).unwrap();
            prop_assert!(left.nano_cpus >= before.nano_cpus.min(0), "more is reserved than there is");
            prop_assert!(left.memory_bytes >= before.memory_bytes.min(0));
            prop_assert!(left.generic.iter().flat_map(|free| free.amounts.values()).all(|left| *left >= 0));
            let n_here = placement.nodes.iter().filter(|given| given.node == before.node.id).count();
            let n_own = crowd.n_own(before.node.id) + u64::try_from(n_here).unwrap();
            prop_assert!(n_here == 0 || ask.max_replicas == 0 || n_own <= ask.max_replicas);
        }
        match placement.refused {
            None => prop_assert_eq!(placement.nodes.len(), n),
            Some(refused) => {
                prop_assert!(placement.nodes.len() < n);
                prop_assert_eq!(refused.0.values().sum::<usize>(), nodes.len(), "every node says why");
            }
        }
    }

    #[test]
    fn equals_differ_by_one_at_most(n_nodes in 1..300_u64, n in 0..900_usize) {
        let ids = placed((1..=n_nodes).map(node), &Ask::default(), &Crowd::default(), n);
        let counts: Vec<usize> = (1..=n_nodes).map(|id| ids.iter().filter(|n| **n == id).count()).collect();
        prop_assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1);
    }

    #[test]
    fn shares_are_as_the_weights(weights in prop::collection::vec(0..9_u64, 1..8), n in 0..200_u64) {
        let nodes = weights.iter().zip(1..).map(|(weight, n)| labelled(node(n), "weight", &weight.to_string()));
        let ask = Ask { weight: Some(Descriptor::NodeLabel("weight".into())), ..Ask::default() };
        let ids = placed(nodes, &ask, &Crowd::default(), usize::try_from(n).unwrap());
        let sum: u64 = weights.iter().sum();
        for (weight, number) in weights.iter().zip(1_u64..).filter(|_| sum > 0) {
            let has = u64::try_from(ids.iter().filter(|id| **id == number).count()).unwrap();
            let n_bound = u64::try_from(weights.len()).unwrap() + 1;
            // The method's own bound: half a task, and what the others' halves add up to.
            prop_assert!(2 * (has * sum).abs_diff(n * weight) <= sum * n_bound, "{has} of {n} for {weight}/{sum}");
            prop_assert!(*weight > 0 || has == 0);
        }
    }

    #[test]
    fn branches_differ_by_one_at_most_at_each_level(zones in prop::collection::vec(1..4_usize, 1..5), n in 0..60_usize) {
        // `zones` says how many racks each zone has; a rack has two nodes.
        let mut nodes = Vec::new();
        for (zone, n_racks) in zones.iter().enumerate() {
            for rack in (0..*n_racks).flat_map(|rack| [rack, rack]) {
                let info = labelled(node(u64::try_from(nodes.len()).unwrap() + 1), "zone", &format!("z{zone}"));
                nodes.push(labelled(info, "rack", &format!("r{rack}")));
            }
        }
        let label = |key: &str| Descriptor::NodeLabel(key.to_owned());
        let ask = Ask { spread: vec![label("zone"), label("rack")], ..Ask::default() };
        let ids = placed(nodes.clone(), &ask, &Crowd::default(), n);
        let mut by_zone: BTreeMap<&str, BTreeMap<&str, usize>> = BTreeMap::new();
        for info in &nodes {
            let labels = &info.node.spec.labels;
            let n_here = ids.iter().filter(|n| id(**n) == info.node.id).count();
            *by_zone.entry(&labels["zone"]).or_default().entry(&labels["rack"]).or_default() += n_here;
        }
        let differ = |counts: Vec<usize>| counts.iter().max().unwrap() - counts.iter().min().unwrap();
        prop_assert!(differ(by_zone.values().map(|racks| racks.values().sum()).collect()) <= 1);
        for racks in by_zone.values() {
            prop_assert!(differ(racks.values().copied().collect()) <= 1);
        }
    }
}
