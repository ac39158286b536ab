//! Addresses of the node's bridge: who has which, and which is next.
//!
//! The lowest free one, but not one that was freed lately: a client's open connection to a task that ended
//! must not find another task. Invariant: never gives an address that is held.

use std::collections::{BTreeSet, VecDeque};
use std::net::Ipv4Addr;

/// How many of the freed addresses rest. They are given again, the oldest first, when nothing else is free.
const RESTING_MAX: usize = 64;

/// The addresses of one subnet.
#[derive(Debug, Clone)]
pub(crate) struct Pool {
    first: u32,
    last: u32,
    held: BTreeSet<Ipv4Addr>,
    resting: VecDeque<Ipv4Addr>,
}

impl Pool {
    /// All of the subnet but its own address, its gateway (the first one) and its broadcast address.
    pub(crate) fn new(
        subnet: (Ipv4Addr, u8),
        held: impl IntoIterator<Item = Ipv4Addr>,
        resting: impl IntoIterator<Item = Ipv4Addr>,
    ) -> Pool {
        let mask = netmask(subnet.1);
        let network = u32::from(subnet.0) & mask;
        Pool {
            first: network.saturating_add(2),
            last: (network | !mask).saturating_sub(1),
            held: held.into_iter().collect(),
            resting: resting.into_iter().collect(),
        }
    }

    /// Gives an address; none if all are held.
    pub(crate) fn take(&mut self) -> Option<Ipv4Addr> {
        let fresh = (self.first..=self.last)
            .map(Ipv4Addr::from)
            .find(|addr| !self.held.contains(addr) && !self.resting.contains(addr));
        let addr = fresh.or_else(|| self.rested())?;
        self.held.insert(addr);
        Some(addr)
    }

    /// Takes an address back. One that is not held changes nothing.
    pub(crate) fn free(&mut self, addr: Ipv4Addr) {
        if self.held.remove(&addr) {
            self.resting.push_back(addr);
            if self.resting.len() > RESTING_MAX {
                self.resting.pop_front();
            }
        }
    }

    pub(crate) fn resting(&self) -> impl Iterator<Item = Ipv4Addr> + '_ {
        self.resting.iter().copied()
    }

    fn rested(&mut self) -> Option<Ipv4Addr> {
        let usable =
            |a: &Ipv4Addr| (self.first..=self.last).contains(&u32::from(*a)) && !self.held.contains(a);
        let at = self.resting.iter().position(usable)?;
        self.resting.remove(at)
    }
}

/// The mask of a prefix, in host order.
pub(crate) fn netmask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32_u32.saturating_sub(u32::from(prefix))).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SUBNET: (Ipv4Addr, u8) = (Ipv4Addr::new(172, 30, 0, 0), 29);

    fn addr(last: u8) -> Ipv4Addr {
        Ipv4Addr::new(172, 30, 0, last)
    }

    #[test]
    fn gives_the_lowest_and_rests_the_freed() {
        let mut pool = Pool::new(SUBNET, [addr(2)], []);
        assert_eq!(pool.take(), Some(addr(3)));
        pool.free(addr(3));
        assert_eq!(pool.take(), Some(addr(4)));
        assert_eq!(pool.take(), Some(addr(5)));
        assert_eq!(pool.take(), Some(addr(6)));
        assert_eq!(pool.take(), Some(addr(3)), "the freed one, when nothing else is left");
        assert_eq!(pool.take(), None, "neither the gateway nor the broadcast address");
    }

    #[test]
    fn masks() {
        let masks = [(0, 0), (16, 0xffff_0000), (24, 0xffff_ff00), (32, u32::MAX)];
        for (prefix, mask) in masks {
            assert_eq!(netmask(prefix), mask);
        }
    }

    proptest! {
        #[test]
        fn never_gives_an_address_twice(steps in prop::collection::vec(prop::option::of(0_usize..6), 0..200)) {
            let mut pool = Pool::new(SUBNET, [], []);
            let mut held: Vec<Ipv4Addr> = Vec::new();
            for step in steps {
                match step {
                    Some(n) if n < held.len() => pool.free(held.remove(n)),
                    Some(_) => {
                        // A restart remembers what is held and what rests.
                        pool = Pool::new(SUBNET, held.clone(), pool.resting().collect::<Vec<_>>());
                    }
                    None => match pool.take() {
                        Some(addr) => {
                            prop_assert!(!held.contains(&addr));
                            held.push(addr);
                        }
                        None => prop_assert_eq!(held.len(), 5),
                    },
                }
            }
        }
    }
}
