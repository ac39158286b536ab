//! Whose room is taken: cases, one by one, and that no more is taken than is needed.

use proptest::prelude::*;
use skep_api::{TaskId, Timestamp, spec::Availability};

use super::*;
use crate::{Amounts, Offer, Tenant, offer};

fn task(n: u64) -> TaskId {
    TaskId(Id(u128::from(n)))
}

/// Task `n` of a priority, made at `n`, with so many CPUs.
fn tenant(n: u64, priority: u64, cpus: i64) -> Tenant {
    Tenant {
        task: task(n),
        priority,
        since: Timestamp(i64::try_from(n).unwrap()),
        nano_cpus: cpus * CPU,
        memory_bytes: 0,
        given: Vec::new(),
        has_port: false,
        is_leaving: false,
    }
}

fn leaving(tenant: Tenant) -> Tenant {
    Tenant { is_leaving: true, ..tenant }
}

/// A node of 4 CPUs with these tasks.
fn full(n: u64, tenants: &[Tenant]) -> NodeInfo {
    let mut info = edit(node(n), |node| node.description.nano_cpus = 4 * CPU);
    info.nano_cpus -= tenants.iter().map(|tenant| tenant.nano_cpus).sum::<i64>();
    info
}

fn cpus(n: i64) -> Ask {
    Ask { amounts: Amounts { nano_cpus: n * CPU, ..Amounts::default() }, ..Ask::default() }
}

fn offered(ask: &Ask, n: u64, tenants: &[Tenant]) -> Option<Offer> {
    let none = Amounts::default();
    offer(ask, &Crowd::default(), &full(n, tenants), &none, 5, || tenants.to_vec())
}

fn numbers(tasks: &[TaskId]) -> Vec<u128> {
    tasks.iter().map(|task| task.0.0).collect()
}

/// Who goes, and who is waited for.
#[track_caller]
fn check(ask: &Ask, tenants: &[Tenant], expect: Option<(&[u128], &[u128])>) {
    let found = offered(ask, 1, tenants).map(|offer| (numbers(&offer.victims), numbers(&offer.leaving)));
    assert_eq!(found, expect.map(|(victims, leaving)| (victims.to_vec(), leaving.to_vec())));
}

#[test]
fn as_little_goes_as_does() {
    // The newest of equals, and of different ones the lowest.
    check(&cpus(1), &[tenant(1, 0, 2), tenant(2, 0, 2)], Some((&[2], &[])));
    check(&cpus(1), &[tenant(1, 0, 2), tenant(2, 1, 2)], Some((&[1], &[])));
    check(&cpus(3), &[tenant(1, 0, 2), tenant(2, 1, 2)], Some((&[2, 1], &[])));
    // What is too small to help stays.
    check(&cpus(2), &[tenant(1, 3, 3), tenant(2, 0, 1)], Some((&[1], &[])));
    // Never who is not lower, however much it would help.
    check(&cpus(1), &[tenant(1, 5, 2), tenant(2, 6, 2)], None);
    check(&cpus(3), &[tenant(1, 5, 2), tenant(2, 0, 2)], None);
    // What is free counts as well.
    check(&cpus(3), &[tenant(1, 0, 2)], Some((&[1], &[])));
    // More than the node has.
    check(&cpus(5), &[tenant(1, 0, 4)], None);
}

#[test]
fn what_stops_already_is_waited_for() {
    check(&cpus(2), &[leaving(tenant(1, 9, 2)), tenant(2, 0, 2)], Some((&[], &[1])));
    check(&cpus(4), &[leaving(tenant(1, 9, 2)), tenant(2, 0, 2)], Some((&[2], &[1])));
    // Only for as much as is needed.
    check(&cpus(1), &[leaving(tenant(1, 0, 1)), leaving(tenant(2, 0, 3))], Some((&[], &[2])));
    let four = [leaving(tenant(1, 0, 2)), leaving(tenant(2, 0, 2))];
    check(&cpus(4), &four, Some((&[], &[1, 2])));
}

#[test]
fn what_is_promised_to_others_is_not_offered_again() {
    let tenants = [leaving(tenant(1, 0, 2)), tenant(2, 0, 2)];
    let info = full(1, &tenants);
    let promised = |n| Amounts { nano_cpus: n * CPU, ..Amounts::default() };
    let find = |n| offer(&cpus(2), &Crowd::default(), &info, &promised(n), 5, || tenants.to_vec());
    assert_eq!(find(0).unwrap().victims, []);
    assert_eq!(find(1).unwrap().victims, [task(2)]);
    assert_eq!(find(3), None);
    let taken = Crowd { port_holders: [id(1)].into(), ..Crowd::default() };
    let ask = Ask { host_ports: vec![("tcp".into(), 80)], ..cpus(2) };
    assert_eq!(offer(&ask, &taken, &info, &promised(0), 5, || tenants.to_vec()), None);
}

#[test]
fn ports_and_generic_resources_are_given_up_too() {
    let port = Ask { host_ports: vec![("tcp".into(), 80)], ..Ask::default() };
    let holder = |n, priority| Tenant { has_port: true, ..tenant(n, priority, 1) };
    check(&port, &[tenant(1, 0, 1), holder(2, 3)], Some((&[2], &[])));
    check(&port, &[tenant(1, 0, 1), holder(2, 5)], None);
    check(&port, &[tenant(1, 0, 1), leaving(holder(2, 5))], Some((&[], &[2])));

    let has = [named("gpu", "a"), named("gpu", "b"), discrete("ssd", 3)];
    let of = |n, given: &[GenericResource]| Tenant { given: given.to_vec(), ..tenant(n, 0, 1) };
    let tenants = [of(1, &[named("gpu", "a")]), of(2, &[discrete("ssd", 3)]), of(3, &[named("gpu", "b")])];
    let given = [("gpu".to_owned(), "a".to_owned()), ("gpu".to_owned(), "b".to_owned())].into();
    let mut info = edit(full(1, &tenants), |node| node.description.generic = has.to_vec());
    info.generic = GenericFree::new(&has, &[("ssd".to_owned(), 3)].into(), &given);
    let victims = |kind: &str, n: i64| {
        let amounts = Amounts { generic: [(kind.to_owned(), n)].into(), ..Amounts::default() };
        let ask = Ask { amounts, ..Ask::default() };
        let none = Amounts::default();
        offer(&ask, &Crowd::default(), &info, &none, 5, || tenants.to_vec()).map(|o| numbers(&o.victims))
    };
    assert_eq!(victims("gpu", 1), Some(vec![3]));
    assert_eq!(victims("gpu", 2), Some(vec![1, 3]));
    assert_eq!(victims("ssd", 1), Some(vec![2]));
    assert_eq!(victims("gpu", 3), None);
    assert_eq!(victims("fpga", 1), None);
}

#[test]
fn other_rules_are_not_for_victims_to_cure() {
    let tenants = [tenant(1, 0, 4)];
    let find = |info: NodeInfo, ask: &Ask, crowd: &Crowd| {
        offer(ask, crowd, &info, &Amounts::default(), 5, || tenants.to_vec()).is_some()
    };
    let (info, none) = (full(1, &tenants), Crowd::default());
    assert!(find(info.clone(), &cpus(1), &none));
    let paused = edit(info.clone(), |node| node.spec.availability = Availability::Pause);
    assert!(!find(paused, &cpus(1), &none));
    assert!(!find(info.clone(), &Ask { ..constrained("node.labels.zone==even") }, &none));
    let own = Crowd { tasks: [(id(1), 2)].into(), ..Crowd::default() };
    assert!(!find(info, &Ask { max_replicas: 2, ..cpus(1) }, &own));
}

#[test]
fn the_node_that_loses_least_comes_first() {
    let first = |nodes: &[(u64, &[Tenant])]| {
        let best = nodes.iter().filter_map(|(n, tenants)| offered(&cpus(2), *n, tenants)).min();
        best.map(|offer| offer.node.0.0)
    };
    let both: &[Tenant] = &[tenant(11, 0, 2), tenant(12, 0, 2)];
    let two: &[Tenant] = &[tenant(21, 0, 1), tenant(22, 0, 3)];
    let high: &[Tenant] = &[tenant(31, 1, 4)];
    // The lowest priority, before all else.
    assert_eq!(first(&[(1, high), (2, &[tenant(1, 0, 1), tenant(2, 0, 1), tenant(3, 2, 2)])]), Some(2));
    // The fewest.
    let three: &[Tenant] = &[tenant(41, 0, 1), tenant(42, 0, 1), tenant(43, 5, 2)];
    assert_eq!(first(&[(1, three), (2, both)]), Some(2));
    // The newest.
    assert_eq!(first(&[(1, both), (2, two)]), Some(2));
    // Who waits for what stops anyway takes nothing from anybody.
    assert_eq!(first(&[(1, two), (2, &[leaving(tenant(1, 9, 4))])]), Some(2));
    // Then as others are placed: by id, whatever comes first.
    assert_eq!(first(&[(1, both), (2, both)]), first(&[(2, both), (1, both)]));
    assert_eq!(first(&[(2, both), (1, both)]), Some(1));
}

proptest! {
    /// Whoever goes is lower and its room is needed, and without them the task fits.
    #[test]
    fn nobody_goes_for_nothing(
        tenants in prop::collection::vec((0..8_u64, 0..3_i64, any::<bool>()), 0..6),
        asked in 1..5_i64,
    ) {
        let all: Vec<Tenant> = tenants.iter().zip(1..).map(|((priority, cpus, is_leaving), n)| {
            Tenant { is_leaving: *is_leaving, ..tenant(n, *priority, *cpus) }
        }).collect();
        let (info, ask) = (full(1, &all), cpus(asked));
        let sum = |tenants: &[&Tenant]| tenants.iter().map(|tenant| tenant.nano_cpus).sum::<i64>();
        let coming: Vec<&Tenant> = all.iter().filter(|tenant| tenant.is_leaving).collect();
        let lower: Vec<&Tenant> = all.iter().filter(|t| !t.is_leaving && t.priority < 5).collect();
        let needed = asked * CPU;
        match offer(&ask, &Crowd::default(), &info, &Amounts::default(), 5, || all.clone()) {
            None => prop_assert!(info.nano_cpus + sum(&coming) + sum(&lower) < needed),
            Some(offer) => {
                let found = |tasks: &[TaskId]| -> Vec<&Tenant> {
                    all.iter().filter(|tenant| tasks.contains(&tenant.task)).collect()
                };
                let (victims, waited) = (found(&offer.victims), found(&offer.leaving));
                prop_assert!(victims.iter().all(|victim| lower.contains(victim)));
                prop_assert!(waited.iter().all(|one| one.is_leaving));
                let free = info.nano_cpus + sum(&victims) + sum(&waited);
                prop_assert!(free >= needed);
                for one in victims.iter().chain(&waited) {
                    prop_assert!(one.nano_cpus > 0 && free - one.nano_cpus < needed, "{one:?} could stay");
                }
            }
        }
    }
}
