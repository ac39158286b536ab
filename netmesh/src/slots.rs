//! Shares a port's slots out among its endpoints.
//!
//! The kernel draws a slot for each new connection; so an endpoint's part of the slots is its part of the
//! connections. Invariants: every slot is filled when any endpoint has weight; each endpoint has its exact
//! share rounded up or down; an update moves as few slots as the new shares allow.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use crate::desired::Endpoint;

/// How many slots a port has, by its number of endpoints: at least 8 for each, until the last class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Class {
    Small,
    Medium,
    Large,
}

impl Class {
    fn of(n_endpoints: usize) -> Class {
        match n_endpoints {
            0..=8 => Class::Small,
            9..=64 => Class::Medium,
            65.. => Class::Large,
        }
    }

    pub(crate) fn slots(self) -> u16 {
        match self {
            Class::Small => 64,
            Class::Medium => 512,
            Class::Large => 4096,
        }
    }
}

/// Who answers for each slot of one port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Slots {
    pub(crate) class: Class,
    pub(crate) seats: Vec<Ipv4Addr>,
}

/// Fills the slots; none if no endpoint has weight.
pub(crate) fn fill(endpoints: &[Endpoint], previous: Option<&Slots>) -> Option<Slots> {
    let mut weights: BTreeMap<Ipv4Addr, u64> = BTreeMap::new();
    for endpoint in endpoints.iter().filter(|e| e.weight > 0) {
        *weights.entry(endpoint.addr).or_default() += u64::from(endpoint.weight);
    }
    if weights.is_empty() {
        return None;
    }
    let class = Class::of(weights.len());
    let mut left = shares(&weights, class.slots());
    let kept = previous.filter(|p| p.class == class).map(|p| p.seats.as_slice()).unwrap_or_default();
    let mut seats: Vec<Option<Ipv4Addr>> = vec![None; usize::from(class.slots())];
    for (seat, addr) in seats.iter_mut().zip(kept) {
        if let Some(n) = left.get_mut(addr).filter(|n| **n > 0) {
            *n -= 1;
            *seat = Some(*addr);
        }
    }
    let mut missing = left.iter().flat_map(|(addr, n)| std::iter::repeat_n(*addr, usize::from(*n)));
    let seats = seats
        .into_iter()
        .map(|seat| seat.or_else(|| missing.next()).expect("the shares add up to the number of slots"))
        .collect();
    Some(Slots { class, seats })
}

/// Whole shares of `n_slots` by largest remainder; at equal remainders the lower address comes first.
fn shares(weights: &BTreeMap<Ipv4Addr, u64>, n_slots: u16) -> BTreeMap<Ipv4Addr, u16> {
    let total: u64 = weights.values().sum();
    let n = u64::from(n_slots);
    let mut shares: BTreeMap<Ipv4Addr, u16> = BTreeMap::new();
    let mut remainders = Vec::with_capacity(weights.len());
    for (addr, weight) in weights {
        let exact = u128::from(*weight) * u128::from(n);
        let whole = exact / u128::from(total);
        shares.insert(*addr, u16::try_from(whole).expect("a share is at most the number of slots"));
        remainders.push((exact % u128::from(total), *addr));
    }
    let given: u16 = shares.values().sum();
    remainders.sort_by_key(|(remainder, addr)| (std::cmp::Reverse(*remainder), *addr));
    for (_, addr) in remainders.iter().take(usize::from(n_slots - given)) {
        *shares.entry(*addr).or_default() += 1;
    }
    shares
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn endpoint(n: u32, weight: u32) -> Endpoint {
        Endpoint { addr: Ipv4Addr::from(0x0aff_0000 + n), weight }
    }

    fn counts(slots: &Slots) -> BTreeMap<Ipv4Addr, u16> {
        let mut counts = BTreeMap::new();
        for seat in &slots.seats {
            *counts.entry(*seat).or_default() += 1;
        }
        counts
    }

    fn check(weights: &[u32], expect: &[u16]) {
        let endpoints: Vec<Endpoint> = (0..).zip(weights).map(|(n, w)| endpoint(n, *w)).collect();
        let counts = counts(&fill(&endpoints, None).unwrap());
        let got: Vec<u16> = endpoints.iter().map(|e| counts.get(&e.addr).copied().unwrap_or(0)).collect();
        assert_eq!(got, expect, "weights {weights:?}");
    }

    #[test]
    fn weights_become_slots() {
        check(&[1], &[64]);
        check(&[1, 1], &[32, 32]);
        check(&[1, 1, 1], &[22, 21, 21]);
        check(&[3, 1], &[48, 16]);
        check(&[1, 0], &[64, 0]);
        check(&[1; 9], &[57, 57, 57, 57, 57, 57, 57, 57, 56]);
        check(&[u32::MAX, u32::MAX], &[32, 32]);
    }

    #[test]
    fn nobody_with_weight_is_nobody() {
        assert_eq!(fill(&[], None), None);
        assert_eq!(fill(&[endpoint(1, 0)], None), None);
    }

    #[test]
    fn losing_one_of_four_moves_its_slots_alone() {
        let four: Vec<Endpoint> = (0..4).map(|n| endpoint(n, 1)).collect();
        let before = fill(&four, None).unwrap();
        let after = fill(&four[1..], Some(&before)).unwrap();
        let moved = before.seats.iter().zip(&after.seats).filter(|(b, a)| a != b).count();
        assert_eq!(moved, 16);
    }

    proptest! {
        #[test]
        fn each_has_its_share_within_one_slot(
            first in prop::collection::btree_map(0_u32..2000, 0_u32..1000, 1..200),
            second in prop::collection::btree_map(0_u32..2000, 1_u32..1000, 1..200),
        ) {
            let of = |map: &BTreeMap<u32, u32>| map.iter().map(|(n, w)| endpoint(*n, *w)).collect::<Vec<_>>();
            let before = fill(&of(&first), None);
            let endpoints = of(&second);
            let slots = fill(&endpoints, before.as_ref()).unwrap();
            prop_assert_eq!(slots.seats.len(), usize::from(slots.class.slots()));
            prop_assert!(slots.class == Class::Large || slots.seats.len() >= 8 * endpoints.len());
            let total: u32 = endpoints.iter().map(|e| e.weight).sum();
            let counts = counts(&slots);
            for e in &endpoints {
                let exact = f64::from(e.weight) * f64::from(slots.class.slots()) / f64::from(total);
                let got = f64::from(counts.get(&e.addr).copied().unwrap_or(0));
                prop_assert!((got - exact).abs() < 1.0, "{} has {got} of {exact}", e.addr);
            }
            // The same desired state again moves nothing.
            prop_assert_eq!(fill(&endpoints, Some(&slots)).unwrap(), slots);
        }
    }
}
