//! Cases, one by one.

use std::collections::BTreeSet;

use skep_api::{object::Plugin, spec::Availability};

use super::*;
use crate::{Amounts, Descriptor, Filter, Soft, Strategy};

#[test]
fn ranking() {
    let busy = |n, n_tasks| NodeInfo { n_tasks, ..node(n) };
    let check = |nodes: Vec<NodeInfo>, crowd: Crowd, expect: &[u64]| {
        assert_eq!(placed(nodes, &Ask::default(), &crowd, expect.len()), expect);
    };
    // All alike: in turn, the lowest id first.
    check(vec![node(2), node(1), node(3)], Crowd::default(), &[1, 2, 3, 1, 2]);
    // Fewest tasks of the service, whatever else runs there.
    let own = Crowd { tasks: [(id(1), 1)].into(), ..Crowd::default() };
    check(vec![node(1), busy(2, 50)], own, &[2, 1, 2]);
    // Then fewest tasks at all.
    check(vec![busy(1, 3), busy(2, 1)], Crowd::default(), &[2, 1]);
    // A node that failed the service often comes last.
    let failing = |n| Crowd { failures: [(id(1), n)].into(), ..Crowd::default() };
    check(vec![node(1), busy(2, 9)], failing(5), &[2, 2, 2]);
    check(vec![node(1), busy(2, 9)], failing(4), &[1, 2]);
    check(vec![node(1)], failing(5), &[1]);
}

#[test]
fn what_does_not_fit_is_explained() {
    let paused = edit(node(4), |node| node.spec.availability = Availability::Pause);
    let down = edit(node(5), |node| node.status.state = NodeState::Down);
    let unknown = edit(node(6), |node| node.status.state = NodeState::Unknown);
    let overlay = Plugin { kind: "Network".into(), name: "overlay".into() };
    let plugged = |n| edit(node(n), |node| node.description.plugins.push(overlay.clone()));
    let nodes = || vec![plugged(1), plugged(2), plugged(3), paused.clone(), down.clone(), unknown.clone()];
    let crowded = || Crowd { tasks: (1..=3).map(|n| (id(n), 2)).collect(), ..Crowd::default() };
    let holders = || Crowd { port_holders: (1..=3).map(id).collect(), ..Crowd::default() };
    let check = |ask: Ask, crowd: Crowd, explanation: &str| {
        let placement = Picture::new(nodes()).place(&ask, &crowd, 1);
        assert_eq!(placement.nodes, []);
        let expect = format!("no suitable node (3 nodes not available for new tasks; {explanation})");
        assert_eq!(placement.refused.unwrap().explain(), expect);
    };
    let amounts = |amounts| Ask { amounts, ..Ask::default() };
    let none = Crowd::default;
    let cpus = Amounts { nano_cpus: 5 * CPU, ..Amounts::default() };
    check(amounts(cpus), none(), "insufficient resources on 3 nodes");
    let memory = Amounts { memory_bytes: 9 * GIB, ..Amounts::default() };
    check(amounts(memory), none(), "insufficient resources on 3 nodes");
    let gpus = Amounts { generic: [("gpu".to_owned(), 1)].into(), ..Amounts::default() };
    check(amounts(gpus), none(), "insufficient resources on 3 nodes");
    let weave = vec![Plugin { kind: "Network".into(), name: "weave".into() }];
    check(Ask { plugins: weave, ..Ask::default() }, none(), "missing plugin on 3 nodes");
    let unmet = "scheduling constraints not satisfied on 3 nodes";
    check(constrained("node.labels.zone==west"), none(), unmet);
    check(constrained("node.hostname==n9"), none(), unmet);
    let s390x = vec![("linux".into(), "s390x".into())];
    check(Ask { platforms: s390x, ..Ask::default() }, none(), "unsupported platform on 3 nodes");
    let port = Ask { host_ports: vec![("tcp".into(), 80)], ..Ask::default() };
    check(port, holders(), "host-mode port already in use on 3 nodes");
    let two = Ask { max_replicas: 2, ..Ask::default() };
    check(two, crowded(), "max replicas per node limit exceed");
    let none = Picture::default().place(&Ask::default(), &Crowd::default(), 1).refused.unwrap();
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
        let ask = Ask { platforms: platforms.iter().map(own).collect(), ..Ask::default() };
        assert_eq!(placed([arm.clone(), node(2)], &ask, &Crowd::default(), 2), expect, "{platforms:?}");
    }
}

#[test]
fn the_first_rule_that_fails_is_told_and_the_most_frequent_comes_first() {
    let full = |n| NodeInfo { nano_cpus: 0, ..node(n) };
    let amounts = Amounts { nano_cpus: CPU, ..Amounts::default() };
    let ask = Ask { amounts, ..constrained("node.labels.zone==west") };
    let refused =
        Picture::new([node(1), node(2), full(3)]).place(&ask, &Crowd::default(), 1).refused.unwrap();
    assert_eq!(
        refused.explain(),
        "no suitable node (scheduling constraints not satisfied on 2 nodes; insufficient resources on 1 node)"
    );
}

#[test]
fn what_is_placed_is_taken() {
    let mut picture = Picture::new([node(1), node(2)]);
    let ask = Ask { amounts: Amounts { nano_cpus: 3 * CPU, ..Amounts::default() }, ..Ask::default() };
    let placement = picture.place(&ask, &Crowd::default(), 3);
    assert_eq!(placement.nodes.len(), 2);
    assert_eq!(placement.refused.unwrap().explain(), "no suitable node (insufficient resources on 2 nodes)");
    assert_eq!(picture.node(id(1)).unwrap().nano_cpus, CPU);
    // The next group sees what is left.
    assert_eq!(picture.place(&ask, &Crowd::default(), 1).nodes, []);
}

#[test]
fn a_host_port_is_open_once_a_node() {
    let ask = Ask { host_ports: vec![("tcp".into(), 80)], ..Ask::default() };
    let mut picture = Picture::new([node(1), node(2)]);
    let placement = picture.place(&ask, &Crowd::default(), 3);
    assert_eq!(placement.nodes.len(), 2);
    let refused = placement.refused.unwrap();
    assert_eq!(refused.explain(), "no suitable node (host-mode port already in use on 2 nodes)");
}

#[test]
fn nine_tasks_over_three_values_are_three_each() {
    let nodes = || {
        [(1, "a"), (2, "a"), (3, "a"), (4, "a"), (5, "b"), (6, "c")]
            .map(|(n, zone)| labelled(node(n), "zone", zone))
    };
    let zones = Ask { spread: vec![Descriptor::NodeLabel("zone".into())], ..Ask::default() };
    let count = |ids: &[u64], of: &[u64]| ids.iter().filter(|id| of.contains(id)).count();
    let ids = placed(nodes(), &zones, &Crowd::default(), 9);
    assert_eq!([count(&ids, &[1, 2, 3, 4]), count(&ids, &[5]), count(&ids, &[6])], [3, 3, 3]);
    // What runs there already counts; nodes without the label are one more value.
    let crowd = Crowd { tasks: [(id(5), 3)].into(), ..Crowd::default() };
    let unlabelled = [node(7), node(8)].map(|info| edit(info, |node| node.spec.labels.clear()));
    let ids = placed(nodes().into_iter().chain(unlabelled), &zones, &crowd, 9);
    assert_eq!([count(&ids, &[1, 2, 3, 4]), count(&ids, &[5]), count(&ids, &[6])], [3, 0, 3]);
    assert_eq!(count(&ids, &[7, 8]), 3);
    // A value whose nodes are full leaves its share to the others.
    let port = Ask { host_ports: vec![("tcp".into(), 80)], ..zones };
    assert_eq!(placed(nodes(), &port, &Crowd::default(), 9).len(), 6);
}

#[test]
fn generic_resources_are_given_by_name_once() {
    // As the node tells them, not in the order of their names.
    let has = [named("gpu", "uuid2"), named("gpu", "uuid1"), discrete("ssd", 5)];
    let mut picture = Picture::new([with_generic(node(1), &has), node(2)]);
    let generic = [("gpu".to_owned(), 1), ("ssd".to_owned(), 2)].into();
    let ask = Ask { amounts: Amounts { generic, ..Amounts::default() }, ..Ask::default() };
    let placement = picture.place(&ask, &Crowd::default(), 3);
    let given: Vec<_> = placement.nodes.iter().map(|given| given.generic.clone()).collect();
    let expect =
        [vec![named("gpu", "uuid2"), discrete("ssd", 2)], vec![named("gpu", "uuid1"), discrete("ssd", 2)]];
    assert_eq!(given, expect);
    assert_eq!(placement.refused.unwrap().explain(), "no suitable node (insufficient resources on 2 nodes)");
}

#[test]
fn what_was_given_counts_in_whatever_form_its_kind_is_now() {
    let names = |all: &[&str]| -> BTreeSet<(String, String)> {
        all.iter().map(|name| ("gpu".to_owned(), (*name).to_owned())).collect()
    };
    let left = |has: &[GenericResource], amount: i64, given: &[&str]| {
        let amounts = [("gpu".to_owned(), amount)].into_iter().filter(|(_, n)| *n > 0).collect();
        GenericFree::new(has, &amounts, &names(given)).map_or(0, |free| free.amount("gpu"))
    };
    let named = [named("gpu", "a"), named("gpu", "b"), named("gpu", "c")];
    assert_eq!(left(&named, 0, &["a"]), 2);
    // Names became an amount, or an amount names.
    assert_eq!(left(&[discrete("gpu", 3)], 0, &["a", "b"]), 1);
    assert_eq!(left(&[discrete("gpu", 3)], 1, &["a", "b"]), 0);
    assert_eq!(left(&named, 2, &[]), 1);
    assert_eq!(left(&named, 1, &["a"]), 1);
    assert_eq!(left(&named, 9, &["a"]), 0);
    // A name that is gone is nobody else's.
    assert_eq!(left(&named, 0, &["x"]), 3);
    assert_eq!(left(&[], 2, &["a"]), 0);
}

#[test]
fn a_task_with_a_node_of_its_own_is_told_whether_it_fits() {
    let down = edit(node(2), |node| node.status.state = NodeState::Down);
    let picture = Picture::new([node(1), down]);
    let fits = |ask: &Ask, n| picture.fits(ask, &Crowd::default(), id(n));
    assert_eq!(fits(&Ask::default(), 1), Ok(()));
    assert_eq!(fits(&Ask::default(), 2), Err(Filter::Ready));
    assert_eq!(fits(&Ask::default(), 3), Err(Filter::Ready));
    assert_eq!(fits(&constrained("node.labels.zone==even"), 1), Err(Filter::Constraints));
}

#[test]
fn only_labels_are_spread_over() {
    let label = |key: &str| Some(Descriptor::NodeLabel(key.to_owned()));
    assert_eq!(Descriptor::parse("node.labels.dc"), label("dc"));
    assert_eq!(Descriptor::parse("Node.Labels.DC"), label("DC"));
    assert_eq!(Descriptor::parse("engine.labels.x"), Some(Descriptor::EngineLabel("x".into())));
    for none in ["node.id", "node.labels.", "zone", ""] {
        assert_eq!(Descriptor::parse(none), None, "{none}");
    }
}

#[test]
fn who_asks_is_told_node_by_node_and_what_would_help() {
    let paused = edit(node(4), |node| node.spec.availability = Availability::Pause);
    let small = NodeInfo { nano_cpus: CPU / 2, ..labelled(node(1), "zone", "west") };
    let smaller = NodeInfo { nano_cpus: 0, ..labelled(node(2), "zone", "west") };
    let amounts = Amounts { nano_cpus: CPU, memory_bytes: GIB, ..Amounts::default() };
    let ask = Ask { amounts, ..constrained("node.labels.zone==west") };
    let explanation = Picture::new([small, smaller, node(3), paused]).explain(&ask, &Crowd::default());
    let said: Vec<String> = explanation
        .nodes
        .iter()
        .map(|answer| {
            let words: Vec<&str> = answer.refusals.iter().map(|(_, words)| words.as_str()).collect();
            format!("{}: {}", answer.name, words.join("; "))
        })
        .collect();
    assert_eq!(
        said,
        [
            "n1: lacks 0.5 CPUs",
            "n2: lacks 1 CPU",
            "n3: does not satisfy node.labels.zone==west",
            "n4: is paused; does not satisfy node.labels.zone==west",
        ]
    );
    assert_eq!(
        explanation.remedies,
        ["reserve less, or free 0.5 CPUs on n1", "leave node.labels.zone==west out, or make n3 satisfy it",]
    );
    assert_eq!(
        explanation.refused().explain(),
        "no suitable node (insufficient resources on 2 nodes; 1 node not available for new tasks; scheduling \
         constraints not satisfied on 1 node)"
    );
}

fn soft(text: &str, weight: u32) -> Soft {
    Soft { constraint: Constraint::parse(text).unwrap(), text: text.to_owned(), weight }
}

#[test]
fn what_should_hold_comes_before_how_many_there_are_and_behind_failures() {
    let nodes = || [node(1), labelled(node(2), "disk", "ssd"), labelled(node(3), "net", "fast")];
    let ask = Ask {
        soft: vec![soft("node.labels.disk==ssd", 10), soft("node.labels.net==fast", 1)],
        ..Ask::default()
    };
    assert_eq!(placed(nodes(), &ask, &Crowd::default(), 3), [2, 2, 2]);
    let failing = Crowd { failures: [(id(2), 5)].into(), ..Crowd::default() };
    assert_eq!(placed(nodes(), &ask, &failing, 2), [3, 3]);
    // What fits nowhere better goes where more is missed.
    let one_each = Ask { max_replicas: 1, ..ask.clone() };
    assert_eq!(placed(nodes(), &one_each, &Crowd::default(), 4), [2, 3, 1]);
    let told = Picture::new(nodes()).explain(&ask, &Crowd::default());
    let missed: Vec<_> = told.nodes.iter().map(|answer| answer.missed.len()).collect();
    assert_eq!(missed, [2, 1, 1]);
    assert_eq!(told.nodes[1].missed, ["node.labels.net==fast"]);
}

#[test]
fn nodes_are_filled_one_after_the_other() {
    let sized = |n, free: i64| {
        let info = NodeInfo { nano_cpus: free * CPU, ..node(n) };
        edit(info, |node| (node.description.nano_cpus, node.description.memory_bytes) = (4 * CPU, 8 * GIB))
    };
    let amounts = Amounts { nano_cpus: CPU, ..Amounts::default() };
    let ask = Ask { strategy: Strategy::Binpack, amounts, ..Ask::default() };
    let nodes = || [sized(1, 4), sized(2, 2), sized(3, 4)];
    assert_eq!(placed(nodes(), &ask, &Crowd::default(), 7), [2, 2, 1, 1, 1, 1, 3]);
    // Where nothing is reserved, who has most tasks is fullest.
    let nothing = Ask { strategy: Strategy::Binpack, ..Ask::default() };
    let busy = [node(1), NodeInfo { n_tasks: 3, ..node(2) }];
    assert_eq!(placed(busy, &nothing, &Crowd::default(), 3), [2, 2, 2]);
}

#[test]
fn shares_follow_the_weights_of_nodes_and_of_what_they_are_spread_over() {
    let weighed = |n, zone: &str, weight: &str| labelled(labelled(node(n), "zone", zone), "weight", weight);
    let nodes = || [weighed(1, "a", "1"), weighed(2, "a", "1"), weighed(3, "b", "4"), weighed(4, "b", "x")];
    let by_weight = Ask { weight: Some(Descriptor::NodeLabel("weight".into())), ..Ask::default() };
    let count = |ids: &[u64]| [1, 2, 3, 4].map(|n| ids.iter().filter(|id| **id == n).count());
    // A weight that is no number counts as one.
    assert_eq!(count(&placed(nodes(), &by_weight, &Crowd::default(), 14)), [2, 2, 8, 2]);
    let zones = Ask { spread: vec![Descriptor::NodeLabel("zone".into())], ..by_weight };
    assert_eq!(count(&placed(nodes(), &zones, &Crowd::default(), 14)), [2, 2, 8, 2]);
    // What is there already counts.
    let crowd = Crowd { tasks: [(id(3), 8)].into(), ..Crowd::default() };
    assert_eq!(count(&placed(nodes(), &zones, &crowd, 6)), [2, 2, 0, 2]);
    // Who has no weight takes what nobody else takes.
    let last = [weighed(1, "a", "0"), weighed(2, "a", "1")];
    let two_each = Ask { max_replicas: 2, spread: vec![], ..zones };
    assert_eq!(placed(last, &two_each, &Crowd::default(), 4), [2, 2, 1, 1]);
}
