//! The tree that tasks are spread over: a level for each preference, a branch for each value of its label.
//!
//! Each task goes to the branch that has the fewest of its service, for the weights of its nodes if they have such, as
//! long as there is room in it. Of equal ones, to
//! that whose best node ranks first, so that single tasks do not all go to the first value of a label. (Swarm shares
//! out whole numbers, and takes equal branches as its map has them: `SK:manager/scheduler/scheduler.go`.)

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
};

use crate::{
    order::Handle,
    place::{Source, Terms},
    rank::{Rank, Share},
};

/// A node of the tree.
#[derive(Debug, Default)]
pub(crate) struct Branch<'a> {
    /// Tasks of the service on all nodes of it, also on those that take none now.
    n_own: u64,
    /// Of all nodes of it that may take a task, if nodes have weights.
    weight: u64,
    is_weighed: bool,
    next: BTreeMap<String, Branch<'a>>,
    /// Of those that have room: the fewest tasks first.
    open: BinaryHeap<Reverse<(Share, Rank, String)>>,
    source: Source<'a>,
}

impl<'a> Branch<'a> {
    /// Counts tasks of the service.
    pub(crate) fn count<'v>(&mut self, values: impl Iterator<Item = &'v str>, n_own: u64) {
        let mut branch = self;
        branch.n_own += n_own;
        for value in values {
            branch = branch.child(value);
            branch.n_own += n_own;
        }
    }

    /// Adds the weight of a node to all branches that it is in.
    pub(crate) fn weigh<'v>(&mut self, values: impl Iterator<Item = &'v str>, weight: u64) {
        let mut branch = self;
        branch.weigh_in(weight);
        for value in values {
            branch = branch.child(value);
            branch.weigh_in(weight);
        }
    }

    fn weigh_in(&mut self, weight: u64) {
        self.weight = self.weight.saturating_add(weight);
        self.is_weighed = true;
    }

    fn share(&self) -> Share {
        Share { n: self.n_own, weight: if self.is_weighed { self.weight } else { 1 } }
    }

    /// The nodes at the end of a path.
    pub(crate) fn leaf<'v>(&mut self, values: impl Iterator<Item = &'v str>) -> &mut Source<'a> {
        let mut branch = self;
        for value in values {
            branch = branch.child(value);
        }
        &mut branch.source
    }

    fn child(&mut self, value: &str) -> &mut Self {
        if !self.next.contains_key(value) {
            self.next.insert(value.to_owned(), Branch::default());
        }
        self.next.get_mut(value).expect("it was put there if it was not")
    }

    /// To be called once it is filled, before the first task is taken.
    pub(crate) fn begin(&mut self) {
        for (value, branch) in &mut self.next {
            branch.begin();
            if let Some(rank) = branch.peek() {
                self.open.push(Reverse((branch.share(), rank, value.clone())));
            }
        }
    }

    fn peek(&self) -> Option<Rank> {
        match self.open.peek() {
            Some(Reverse((_, rank, _))) => Some(*rank),
            None => self.source.peek(),
        }
    }

    /// Gives a task to the best node of the branch that lacks most.
    pub(crate) fn take(&mut self, terms: &Terms<'_>) -> Option<Handle> {
        let taken = match self.open.pop() {
            None => self.source.take(terms)?,
            Some(Reverse((.., value))) => {
                let branch = self.next.get_mut(&value)?;
                let taken = branch.take(terms)?;
                if let Some(rank) = branch.peek() {
                    self.open.push(Reverse((branch.share(), rank, value)));
                }
                taken
            }
        };
        self.n_own += 1;
        Some(taken)
    }
}
