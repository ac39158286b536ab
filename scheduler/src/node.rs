//! A node as placement sees it: what is left of it, and what of its generic resources a task gets.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use skep_api::object::{GenericResource, Node};

use crate::Amounts;

/// A node and what is left of it.
#[derive(Clone, PartialEq, Debug)]
pub struct NodeInfo {
    /// The node.
    pub node: Arc<Node>,
    /// Tasks that run there or are to.
    pub n_tasks: u64,
    /// Not reserved yet: 1e-9 CPUs. Negative when the node shrank.
    pub nano_cpus: i64,
    /// Not reserved yet: bytes. Negative when the node shrank.
    pub memory_bytes: i64,
    /// Not given yet; `None` for nothing, as on most nodes.
    pub generic: Option<Box<GenericFree>>,
}

/// What is left of a node's generic resources, by kind.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct GenericFree {
    /// Of those that are amounts. Negative when the node shrank.
    pub amounts: BTreeMap<String, i64>,
    /// Of those that have names.
    pub named: BTreeMap<String, BTreeSet<String>>,
}

impl GenericFree {
    /// What a node has, less what was given of it; `None` for nothing.
    ///
    /// A kind may have changed its form since: a name that is gone counts against the amount, and an amount against
    /// the names. Which ones those tasks use nobody knows; it is only certain that not all are free.
    #[must_use]
    pub fn new(
        has: &[GenericResource],
        amounts_given: &BTreeMap<String, i64>,
        named_given: &BTreeSet<(String, String)>,
    ) -> Option<Box<Self>> {
        let mut free = Self::default();
        for resource in has {
            match resource {
                GenericResource::Named { kind, value } => {
                    free.named.entry(kind.clone()).or_default().insert(value.clone());
                }
                GenericResource::Discrete { kind, amount } => {
                    free.amounts.insert(kind.clone(), *amount);
                }
            }
        }
        for (kind, value) in named_given {
            let is_known = free.named.get_mut(kind).is_some_and(|names| names.remove(value));
            if let Some(left) = free.amounts.get_mut(kind).filter(|_| !is_known) {
                *left = left.saturating_sub(1);
            }
        }
        for (kind, given) in amounts_given {
            if let Some(left) = free.amounts.get_mut(kind) {
                *left = left.saturating_sub(*given);
            } else if let Some(names) = free.named.get_mut(kind) {
                (0..*given).map_while(|_| names.pop_last()).for_each(drop);
            }
        }
        (free != Self::default()).then(|| Box::new(free))
    }

    /// What a task gets that asks for so much: of names the first ones that are free, in the order in which the node
    /// tells them (`SK:api/genericresource/resource_management.go`; there, what was given back comes last, as long as the
    /// leader stays).
    fn chosen(&self, has: &[GenericResource], amounts: &Amounts) -> Vec<GenericResource> {
        let mut chosen = Vec::new();
        for (kind, asked) in amounts.generic.iter().filter(|(_, asked)| **asked > 0) {
            if self.amounts.contains_key(kind) {
                chosen.push(GenericResource::Discrete { kind: kind.clone(), amount: *asked });
            } else if let Some(names) = self.named.get(kind) {
                // A node that told one twice would still give it once.
                let mut left = names.clone();
                let is_free = |one: &&GenericResource| match one {
                    GenericResource::Named { kind: own, value } => own == kind && left.remove(value),
                    GenericResource::Discrete { .. } => false,
                };
                let n = usize::try_from(*asked).unwrap_or(usize::MAX);
                chosen.extend(has.iter().filter(is_free).take(n).cloned());
            }
        }
        chosen
    }

    /// How much there is of a kind.
    #[must_use]
    pub fn amount(&self, kind: &str) -> i64 {
        let named = || self.named.get(kind).map(|names| i64::try_from(names.len()).unwrap_or(i64::MAX));
        self.amounts.get(kind).copied().or_else(named).unwrap_or(0)
    }
}

impl NodeInfo {
    /// How much is left of a kind of generic resource.
    #[must_use]
    pub fn generic(&self, kind: &str) -> i64 {
        self.generic.as_ref().map_or(0, |free| free.amount(kind))
    }

    /// Whether the amounts are left after they were taken `n_more` times.
    pub(crate) fn has_room(&self, amounts: &Amounts, n_more: u64) -> bool {
        let n = i64::try_from(n_more).unwrap_or(i64::MAX).saturating_add(1);
        let has = |asked: i64, free: i64| asked <= 0 || asked.saturating_mul(n) <= free;
        has(amounts.nano_cpus, self.nano_cpus)
            && has(amounts.memory_bytes, self.memory_bytes)
            && amounts.generic.iter().all(|(kind, asked)| has(*asked, self.generic(kind)))
    }

    /// Takes what a task reserves. Of named resources it gets the first ones that are left.
    pub(crate) fn take(&mut self, amounts: &Amounts) -> Vec<GenericResource> {
        self.n_tasks += 1;
        let has = &self.node.description.generic;
        let given = self.generic.as_ref().map(|free| free.chosen(has, amounts)).unwrap_or_default();
        self.subtract(amounts.nano_cpus, amounts.memory_bytes, &given);
        given
    }

    /// Takes what one task has.
    pub(crate) fn subtract(&mut self, nano_cpus: i64, memory_bytes: i64, given: &[GenericResource]) {
        self.nano_cpus = self.nano_cpus.saturating_sub(nano_cpus.max(0));
        self.memory_bytes = self.memory_bytes.saturating_sub(memory_bytes.max(0));
        let Some(free) = self.generic.as_mut() else { return };
        for given in given {
            match given {
                GenericResource::Named { kind, value } => {
                    if let Some(names) = free.named.get_mut(kind) {
                        names.remove(value);
                    }
                }
                GenericResource::Discrete { kind, amount } => {
                    if let Some(left) = free.amounts.get_mut(kind) {
                        *left = left.saturating_sub(*amount);
                    }
                }
            }
        }
    }

    /// Gives that back.
    pub(crate) fn add(&mut self, nano_cpus: i64, memory_bytes: i64, given: &[GenericResource]) {
        self.nano_cpus = self.nano_cpus.saturating_add(nano_cpus.max(0));
        self.memory_bytes = self.memory_bytes.saturating_add(memory_bytes.max(0));
        let has = &self.node.description.generic;
        let Some(free) = self.generic.as_mut() else { return };
        for given in given {
            match given {
                // The node may have lost it since.
                GenericResource::Named { kind, value } if has.contains(given) => {
                    free.named.entry(kind.clone()).or_default().insert(value.clone());
                }
                GenericResource::Named { .. } => {}
                GenericResource::Discrete { kind, amount } => {
                    if let Some(left) = free.amounts.get_mut(kind) {
                        *left = left.saturating_add(*amount);
                    }
                }
            }
        }
    }
}
