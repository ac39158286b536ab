//! Nodes that are alike in all that asks name: a rule that looks at nothing else is checked once for all of them.

use std::{cmp::Ordering, collections::BTreeSet, sync::Arc};

use skep_api::{
    object::{Node, Plugin},
    spec::Role,
};

use crate::{
    Ask, Descriptor, NodeInfo,
    filter::{has_plugin, is_taking},
    order::{Entry, Order},
};

/// Facts that tell classes apart at most: beyond, those that no ask has named for a while are forgotten.
pub(crate) const FACTS_MAX: usize = 64;

/// What an ask may name of a node besides its role and platform, which always tell classes apart.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Fact {
    Label(Descriptor),
    Plugin(Plugin),
}

impl Fact {
    fn of<'a>(&self, node: &'a Node) -> &'a str {
        match self {
            Self::Label(descriptor) => descriptor.value(node),
            Self::Plugin(plugin) => {
                if has_plugin(node, plugin) {
                    "there"
                } else {
                    ""
                }
            }
        }
    }

    /// What an ask names.
    pub(crate) fn all(ask: &Ask) -> impl Iterator<Item = Self> {
        let constraints = ask.constraints.iter().filter_map(|(one, _)| Descriptor::of(one.subject()));
        let labels = constraints.chain(ask.spread.iter().cloned()).map(Self::Label);
        labels.chain(ask.plugins.iter().cloned().map(Self::Plugin))
    }
}

/// Nodes that are alike.
#[derive(Clone, Debug)]
pub(crate) struct Class {
    /// One that is as they are, or was.
    pub(crate) like: NodeInfo,
    pub(crate) is_taking: bool,
    pub(crate) order: Order,
}

/// All of them, and what tells them apart.
#[derive(Clone, Debug, Default)]
pub(crate) struct Classes {
    pub(crate) all: Vec<Class>,
    /// By their facts.
    sorted: Vec<u32>,
    facts: BTreeSet<Fact>,
}

impl Classes {
    pub(crate) fn knows(&self, ask: &Ask) -> bool {
        Fact::all(ask).all(|fact| self.facts.contains(&fact))
    }

    /// What tells classes apart once an ask is known; there are no classes then.
    pub(crate) fn learnt(mut self, ask: &Ask) -> Self {
        let new: BTreeSet<Fact> = Fact::all(ask).collect();
        if self.facts.len() + new.len() > FACTS_MAX {
            self.facts.clear();
        }
        self.facts.extend(new);
        Self { facts: self.facts, ..Self::default() }
    }

    pub(crate) fn n(&self) -> u32 {
        u32::try_from(self.all.len()).expect("there are no more classes than nodes")
    }

    /// The class of a node; a new one, if need be.
    pub(crate) fn find(&mut self, info: &NodeInfo) -> u32 {
        let found = self
            .sorted
            .binary_search_by(|class| compare(&self.facts, &self.all[at(*class)].like.node, &info.node));
        match found {
            Ok(place) => self.sorted[place],
            Err(place) => {
                let class = self.n();
                self.sorted.insert(place, class);
                let is_taking = is_taking(&info.node);
                self.all.push(Class { like: info.clone(), is_taking, order: Order::default() });
                class
            }
        }
    }

    /// Gives each class its nodes.
    pub(crate) fn put_in_order(&mut self, entries: Vec<Vec<Entry>>) {
        for (class, entries) in self.all.iter_mut().zip(entries) {
            class.order = Order::of(entries);
        }
    }

    /// Whether so many classes are empty that it is worth making them anew.
    pub(crate) fn is_stale(&self, n_nodes: usize) -> bool {
        self.all.len() > 2 * n_nodes + FACTS_MAX
    }
}

pub(crate) fn at(index: u32) -> usize {
    usize::try_from(index).expect("an index is a usize")
}

fn compare(facts: &BTreeSet<Fact>, a: &Arc<Node>, b: &Arc<Node>) -> Ordering {
    let plain = |node: &Node| (is_taking(node), node.role() == Role::Manager);
    let platform = |a: &Node, b: &Node| {
        let (a, b) = (&a.description, &b.description);
        a.os.cmp(&b.os).then_with(|| a.arch.cmp(&b.arch))
    };
    let labels = || facts.iter().map(|fact| fact.of(a)).cmp(facts.iter().map(|fact| fact.of(b)));
    plain(a).cmp(&plain(b)).then_with(|| platform(a, b)).then_with(labels)
}
