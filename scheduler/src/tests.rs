//! Tables and properties of placement.

use std::{collections::BTreeMap, sync::Arc};

use proptest::prelude::*;
use skep_api::{
    Id, NodeId,
    constraint::Constraint,
    object::{Node, NodeState},
    spec::Availability,
};

use crate::{Filter, NodeInfo, Picture, TaskGroup};

const CPU: i64 = 1_000_000_000;
const GIB: i64 = 1 << 30;

fn id(n: u64) -> NodeId {
    NodeId(Id(u128::from(n)))
}

/// A ready node with 4 CPUs and 8 GiB free.
fn node(n: u64) -> NodeInfo {
    let mut node = Node { id: id(n), ..Node::default() };
    node.status.state = NodeState::Ready;
    node.description.hostname = format!("n{n}");
    (node.description.os, node.description.arch) = ("linux".into(), "x86_64".into());
    node.spec.labels.insert("zone".into(), if n.is_multiple_of(2) { "even" } else { "odd" }.into());
    NodeInfo {
        node: Arc::new(node),
        n_tasks: 0,
        nano_cpus: 4 * CPU,
        memory_bytes: 8 * GIB,
        host_ports: [].into(),
    }
}

fn edit(mut info: NodeInfo, edit: impl FnOnce(&mut Node)) -> NodeInfo {
    edit(Arc::make_mut(&mut info.node));
    info
}

fn constrained(text: &str) -> TaskGroup {
    TaskGroup {
        constraints: vec![(Constraint::parse(text).unwrap(), text.to_owned())],
        ..TaskGroup::default()
    }
}

fn placed(nodes: impl IntoIterator<Item = NodeInfo>, group: &TaskGroup, n_tasks: usize) -> Vec<u64> {
    let nodes = Picture::new(nodes).place(group, n_tasks).nodes;
    nodes.into_iter().map(|id| u64::try_from(id.0.0).unwrap()).collect()
}

#[test]
fn ranking() {
    let busy = |n, n_tasks| NodeInfo { n_tasks, ..node(n) };
    let check = |nodes: Vec<NodeInfo>, group: TaskGroup, expect: &[u64]| {
        assert_eq!(placed(nodes, &group, expect.len()), expect);
    };
    // All alike: in turn, the lowest id first.
    check(vec![node(2), node(1), node(3)], TaskGroup::default(), &[1, 2, 3, 1, 2]);
    // Fewest tasks of the service, whatever else runs there.
    let own = TaskGroup { n_tasks: BTreeMap::from([(id(1), 1)]), ..TaskGroup::default() };
    check(vec![node(1), busy(2, 50)], own, &[2, 1, 2]);
    // Then fewest tasks at all.
    check(vec![busy(1, 3), busy(2, 1)], TaskGroup::default(), &[2, 1]);
    // A node that failed the service often comes last.
    let failing = |n| TaskGroup { n_failures: BTreeMap::from([(id(1), n)]), ..TaskGroup::default() };
    check(vec![node(1), busy(2, 9)], failing(5), &[2, 2, 2]);
    check(vec![node(1), busy(2, 9)], failing(4), &[1, 2]);
    check(vec![node(1)], failing(5), &[1]);
}

#[test]
fn what_does_not_fit_is_explained() {
    let paused = edit(node(4), |node| node.spec.availability = Availability::Pause);
    let down = edit(node(5), |node| node.status.state = NodeState::Down);
    let unknown = edit(node(6), |node| node.status.state = NodeState::Unknown);
    let nodes = || vec![node(1), node(2), node(3), paused.clone(), down.clone(), unknown.clone()];
    let check = |group: TaskGroup, explanation: &str, details: &[&str]| {
        let placement = Picture::new(nodes()).place(&group, 1);
        assert_eq!(placement.nodes, []);
        let refusal = placement.refusal.unwrap();
        assert_eq!(refusal.explain(), explanation);
        let found: Vec<&str> = refusal.by_node.values().map(|(_, words)| words.as_str()).collect();
        assert_eq!(found, details);
    };
    let away = ["availability is pause", "down", "not heard of yet"];
    let with_away = |words: [&'static str; 3]| [words.as_slice(), away.as_slice()].concat();
    check(
        TaskGroup { nano_cpus: 5 * CPU, ..TaskGroup::default() },
        "no suitable node (3 nodes not available for new tasks; insufficient resources on 3 nodes)",
        &with_away(["not enough CPU"; 3]),
    );
    check(
        TaskGroup { memory_bytes: 9 * GIB, ..TaskGroup::default() },
        "no suitable node (3 nodes not available for new tasks; insufficient resources on 3 nodes)",
        &with_away(["not enough memory"; 3]),
    );
    let unmet = "does not satisfy node.labels.zone==west";
    check(
        constrained("node.labels.zone==west"),
        "no suitable node (3 nodes not available for new tasks; scheduling constraints not satisfied on 3 nodes)",
        &with_away([unmet; 3]),
    );
    check(
        TaskGroup { platforms: vec![("linux".into(), "s390x".into())], ..TaskGroup::default() },
        "no suitable node (3 nodes not available for new tasks; unsupported platform on 3 nodes)",
        &with_away(["the image is not made for linux/amd64"; 3]),
    );
    let none = Picture::default().place(&TaskGroup::default(), 1).refusal.unwrap();
    assert_eq!(none.explain(), "no suitable node");
}

#[test]
fn an_image_goes_where_it_runs() {
    let arm = edit(node(1), |node| node.description.arch = "aarch64".into());
    for (platforms, expect) in [
        (vec![], vec![1, 2]),
        (vec![("linux", "amd64")], vec![2, 2]),
        (vec![("linux", "arm64")], vec![1, 1]),
        (vec![("linux", "arm64"), ("linux", "x86_64")], vec![1, 2]),
        (vec![("linux", "")], vec![1, 2]),
        (vec![("", "aarch64")], vec![1, 1]),
        (vec![("windows", "amd64")], vec![]),
    ] {
        let own = |(os, arch): &(&str, &str)| ((*os).to_owned(), (*arch).to_owned());
        let group = TaskGroup { platforms: platforms.iter().map(own).collect(), ..TaskGroup::default() };
        assert_eq!(placed([arm.clone(), node(2)], &group, 2), expect, "{platforms:?}");
    }
}

#[test]
fn the_most_frequent_reason_comes_first() {
    let full = |n| NodeInfo { nano_cpus: 0, ..node(n) };
    let group = TaskGroup { nano_cpus: CPU, ..constrained("node.labels.zone==west") };
    let refusal = Picture::new([node(1), node(2), full(3)]).place(&group, 1).refusal.unwrap();
    assert_eq!(
        refusal.explain(),
        "no suitable node (scheduling constraints not satisfied on 2 nodes; insufficient resources on 1 node)"
    );
}

#[test]
fn what_is_placed_is_taken() {
    let mut picture = Picture::new([node(1), node(2)]);
    let group = TaskGroup { nano_cpus: 3 * CPU, ..TaskGroup::default() };
    let placement = picture.place(&group, 3);
    assert_eq!(placement.nodes.len(), 2);
    assert_eq!(placement.refusal.unwrap().explain(), "no suitable node (insufficient resources on 2 nodes)");
    assert_eq!(picture.node(id(1)).unwrap().nano_cpus, CPU);
    // The next group sees what is left.
    let next = picture.place(&group, 1);
    assert_eq!(next.nodes, []);
}

#[test]
fn a_host_port_is_open_once_a_node() {
    let group = TaskGroup { host_ports: vec![("tcp".into(), 80)], ..TaskGroup::default() };
    let mut picture = Picture::new([node(1), node(2)]);
    let placement = picture.place(&group, 3);
    assert_eq!(placement.nodes, [id(1), id(2)]);
    let refusal = placement.refusal.unwrap();
    assert_eq!(refusal.explain(), "no suitable node (host-mode port already in use on 2 nodes)");
    assert_eq!(refusal.by_node[&id(1)], (Filter::HostPorts, "port 80/tcp in use".to_owned()));
    let udp = TaskGroup { host_ports: vec![("udp".into(), 80)], ..TaskGroup::default() };
    assert_eq!(picture.place(&udp, 2).nodes.len(), 2);
}

fn any_node(n: u64) -> impl Strategy<Value = NodeInfo> {
    (0..6_u64, 0..5_i64, 0..5_i64, 0..3_u8, 0..4_u8).prop_map(
        move |(n_tasks, cpus, memory, availability, state)| {
            let info = NodeInfo { n_tasks, nano_cpus: cpus * CPU, memory_bytes: memory * GIB, ..node(n) };
            edit(info, |node| {
                node.spec.availability =
                    if availability == 0 { Availability::Drain } else { Availability::Active };
                node.status.state = if state == 0 { NodeState::Down } else { NodeState::Ready };
            })
        },
    )
}

fn any_nodes() -> impl Strategy<Value = Vec<NodeInfo>> {
    (any_node(1), any_node(2), any_node(3), any_node(4), any_node(5))
        .prop_map(|(a, b, c, d, e)| vec![a, b, c, d, e])
}

fn any_group() -> impl Strategy<Value = TaskGroup> {
    (0..3_i64, 0..3_i64, 0..3_usize, prop::collection::btree_map((1..6_u64).prop_map(id), 0..3_u64, 0..4))
        .prop_map(|(cpus, memory, constraint, n_tasks)| {
            let group = match constraint {
                0 => constrained("node.labels.zone==odd"),
                1 => constrained("node.labels.zone!=odd"),
                _ => TaskGroup::default(),
            };
            TaskGroup { nano_cpus: cpus * CPU, memory_bytes: memory * GIB, n_tasks, ..group }
        })
}

proptest! {
    #[test]
    fn the_order_of_nodes_does_not_matter(nodes in any_nodes(), group in any_group(), n in 0..20_usize) {
        let forward = Picture::new(nodes.clone()).place(&group, n);
        let backward = Picture::new(nodes.into_iter().rev()).place(&group, n);
        prop_assert_eq!(forward, backward);
    }

    #[test]
    fn placements_are_allowed_and_refusals_complete(nodes in any_nodes(), group in any_group(), n in 0..20_usize) {
        let mut picture = Picture::new(nodes.clone());
        let placement = picture.place(&group, n);
        for id in &placement.nodes {
            let info = nodes.iter().find(|info| info.node.id == *id).unwrap();
            prop_assert!(Filter::ORDER.iter().all(|filter| filter.check(&group, info)));
        }
        for info in &nodes {
            let left = picture.node(info.node.id).unwrap();
            prop_assert!(left.nano_cpus >= 0 && left.memory_bytes >= 0, "more is reserved than there is");
        }
        match placement.refusal {
            None => prop_assert_eq!(placement.nodes.len(), n),
            Some(refusal) => {
                prop_assert!(placement.nodes.len() < n);
                prop_assert_eq!(refusal.by_node.len(), nodes.len(), "every node says why");
            }
        }
    }

    #[test]
    fn equals_differ_by_one_at_most(n_nodes in 1..8_u64, n in 0..40_usize) {
        let nodes = placed((1..=n_nodes).map(node), &TaskGroup::default(), n);
        let counts: Vec<usize> = (1..=n_nodes).map(|id| nodes.iter().filter(|n| **n == id).count()).collect();
        prop_assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1);
    }
}
