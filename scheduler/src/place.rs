//! The placement of like tasks: one after the other on the node that ranks first of those which take one more.
//!
//! Nodes without a task of the service come out of the orders of their classes as they are needed; those that have
//! some, or get some, are in a heap. Where tasks are spread, each branch has both of its own.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
};

use skep_api::{NodeId, object::GenericResource};

use crate::{
    Ask, Crowd, Filter, Picture,
    classes::at,
    order::{Handle, Walk},
    rank::Rank,
    spread::Branch,
};

/// Where like tasks go.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Placement {
    /// A node for each task that fits, in the order in which they were given.
    pub nodes: Vec<Given>,
    /// Why the rest does not fit.
    pub refused: Option<Refused>,
}

/// What a task gets.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Given {
    /// The node.
    pub node: NodeId,
    /// Of its generic resources.
    pub generic: Vec<GenericResource>,
}

/// How many nodes each rule refused; each counts for the first one.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Refused(pub BTreeMap<Filter, usize>);

impl Refused {
    /// Swarm's words: each rule with its number of nodes, the most frequent first.
    #[must_use]
    pub fn explain(&self) -> String {
        match self.counts().as_str() {
            "" => "no suitable node".to_owned(),
            counts => format!("no suitable node ({counts})"),
        }
    }

    /// The same of tasks that are for one node each: nobody looked for another one.
    #[must_use]
    pub fn counts(&self) -> String {
        let mut counts: Vec<(Filter, usize)> = self.0.iter().map(|(filter, n)| (*filter, *n)).collect();
        counts.sort_by_key(|(filter, n)| (Reverse(*n), *filter));
        let parts: Vec<String> = counts.into_iter().map(|(filter, n)| filter.explain(n)).collect();
        parts.join("; ")
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Candidate {
    rank: Rank,
    handle: Handle,
    /// Tasks that it gets in this placement.
    n_more: u64,
}

/// What is the same for all branches.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms<'a> {
    pub(crate) picture: &'a Picture,
    pub(crate) ask: &'a Ask,
    pub(crate) crowd: &'a Crowd,
}

impl Terms<'_> {
    /// Whether a node of a class that will do takes one more task.
    fn has_room(&self, handle: Handle, n_more: u64) -> bool {
        let info = self.picture.info(handle);
        [Filter::Resources, Filter::HostPorts, Filter::MaxReplicas]
            .into_iter()
            .all(|filter| filter.check(self.ask, self.crowd, info, n_more))
    }

    /// Nodes that do not come as their order says: they have tasks of the service, or fail.
    fn is_special(&self, id: NodeId) -> bool {
        self.crowd.n_own(id) > 0 || self.crowd.n_failing(id) > 0
    }
}

/// Nodes that take tasks, the best one first.
#[derive(Debug, Default)]
pub(crate) struct Source<'a> {
    walks: Vec<Walk<'a>>,
    /// The first one of each walk.
    fresh: BinaryHeap<Reverse<(u64, NodeId, Handle, usize)>>,
    known: BinaryHeap<Reverse<Candidate>>,
}

impl<'a> Source<'a> {
    /// Adds the nodes of a class, but for special ones.
    pub(crate) fn add_class(&mut self, terms: &Terms<'a>, class: u32) {
        let amounts = &terms.ask.amounts;
        let order = &terms.picture.classes.all[at(class)].order;
        self.walks.push(order.walk(amounts.nano_cpus, amounts.memory_bytes));
        self.step(terms, self.walks.len() - 1);
    }

    /// Adds one node.
    pub(crate) fn add_node(&mut self, terms: &Terms<'_>, handle: Handle) {
        self.push(terms, handle, 0);
    }

    fn push(&mut self, terms: &Terms<'_>, handle: Handle, n_more: u64) {
        if terms.has_room(handle, n_more) {
            let rank = Rank::of(terms.ask, terms.crowd, terms.picture.info(handle), n_more);
            self.known.push(Reverse(Candidate { rank, handle, n_more }));
        }
    }

    /// Goes on to the next node of a walk that takes a task.
    fn step(&mut self, terms: &Terms<'_>, walk: usize) {
        let is_plain = terms.ask.host_ports.is_empty() && terms.ask.amounts.generic.is_empty();
        for entry in self.walks[walk].by_ref() {
            if !terms.is_special(entry.id) && (is_plain || terms.has_room(entry.handle, 0)) {
                self.fresh.push(Reverse((entry.n_tasks, entry.id, entry.handle, walk)));
                return;
            }
        }
    }

    fn first(&self) -> Option<Candidate> {
        let fresh = self.fresh.peek().map(|Reverse((n_all, id, handle, _))| Candidate {
            rank: Rank::plain(*n_all, *id),
            handle: *handle,
            n_more: 0,
        });
        let known = self.known.peek().map(|Reverse(candidate)| *candidate);
        match (fresh, known) {
            (Some(fresh), Some(known)) => Some(fresh.min(known)),
            (fresh, known) => fresh.or(known),
        }
    }

    fn has_fresh(&self) -> bool {
        !self.fresh.is_empty()
    }

    pub(crate) fn peek(&self) -> Option<Rank> {
        self.first().map(|candidate| candidate.rank)
    }

    /// Gives the best node a task.
    pub(crate) fn take(&mut self, terms: &Terms<'_>) -> Option<Handle> {
        let best = self.first()?;
        if self.known.peek() == Some(&Reverse(best)) {
            self.known.pop();
        } else if let Some(Reverse((.., walk))) = self.fresh.pop() {
            self.step(terms, walk);
        }
        self.push(terms, best.handle, best.n_more + 1);
        Some(best.handle)
    }
}

impl Picture {
    /// Places up to `n_tasks` alike, and takes what they need from the picture.
    pub fn place(&mut self, ask: &Ask, crowd: &Crowd, n_tasks: usize) -> Placement {
        if n_tasks == 0 {
            return Placement::default();
        }
        self.learn(ask);
        let handles = self.choose(ask, crowd, n_tasks);
        let nodes = self.take(ask, &handles);
        let refused = (nodes.len() < n_tasks).then(|| self.refused(ask, crowd, &nodes));
        Placement { nodes, refused }
    }

    /// Places a task on the one node that it is for.
    ///
    /// # Errors
    /// The first rule that refuses it.
    pub fn place_on(&mut self, ask: &Ask, crowd: &Crowd, node: NodeId) -> Result<Given, Filter> {
        self.fits(ask, crowd, node)?;
        let handle = self.handle(node).ok_or(Filter::Ready)?;
        self.take(ask, &[handle]).pop().ok_or(Filter::Ready)
    }

    fn choose(&self, ask: &Ask, crowd: &Crowd, n_tasks: usize) -> Vec<Handle> {
        let terms = Terms { picture: self, ask, crowd };
        let mut handles = Vec::with_capacity(n_tasks.min(self.n_nodes().max(64)));
        let classes = self.usable_classes(ask);
        if !ask.spread.is_empty() {
            let mut root = self.tree(&terms, &classes);
            handles.extend(std::iter::from_fn(|| root.take(&terms)).take(n_tasks));
            return handles;
        }
        let mut source = Source::default();
        if !ask.is_one_by_one() {
            classes.iter().for_each(|class| source.add_class(&terms, *class));
        }
        // Who has no task of the service comes before all others, so these may not even be looked at.
        while handles.len() < n_tasks && source.has_fresh() {
            handles.extend(source.take(&terms));
        }
        if handles.len() < n_tasks {
            self.usable_nodes(&terms, &classes).iter().for_each(|handle| source.add_node(&terms, *handle));
            handles.extend(std::iter::from_fn(|| source.take(&terms)).take(n_tasks - handles.len()));
        }
        handles
    }

    fn tree<'a>(&'a self, terms: &Terms<'a>, classes: &[u32]) -> Branch<'a> {
        // Each class belongs to one branch, as the labels that tasks are spread over tell classes apart.
        let branch_of = |class: u32| {
            let like = &self.classes.all[at(class)].like.node;
            terms.ask.spread.iter().map(|descriptor| descriptor.value(like))
        };
        let mut root = Branch::default();
        for (id, n_own) in &terms.crowd.tasks {
            if let Some(handle) = self.handle(*id) {
                root.count(branch_of(self.class(handle)), *n_own);
            }
        }
        if !terms.ask.is_one_by_one() {
            for class in classes {
                root.leaf(branch_of(*class)).add_class(terms, *class);
            }
        }
        let nodes = self.usable_nodes(terms, classes);
        for handle in &nodes {
            root.leaf(branch_of(self.class(*handle))).add_node(terms, *handle);
        }
        if terms.ask.weight.is_some() {
            for handle in &nodes {
                root.weigh(branch_of(self.class(*handle)), terms.ask.weight_of(&self.info(*handle).node));
            }
        }
        root.begin();
        root
    }

    /// The classes whose nodes will do, as far as rules go that no placement changes; none where single nodes are named.
    fn usable_classes(&self, ask: &Ask) -> Vec<u32> {
        let will_do = |class: &u32| {
            let class = &self.classes.all[at(*class)];
            class.is_taking && class.order.len() > 0 && Filter::first_static(ask, &class.like).is_none()
        };
        if ask.is_pinned() { Vec::new() } else { (0..self.classes.n()).filter(will_do).collect() }
    }

    /// The nodes that will do and do not come as the orders of their classes say.
    fn usable_nodes(&self, terms: &Terms<'_>, classes: &[u32]) -> Vec<Handle> {
        let ask = terms.ask;
        if ask.is_pinned() {
            let crowd = Crowd::default();
            let fits = |handle: &Handle| {
                let info = self.info(*handle);
                let all = [Filter::Ready, Filter::Plugin, Filter::Constraints, Filter::Platform];
                all.into_iter().all(|filter| filter.check(ask, &crowd, info, 0))
            };
            return match ask.only_node() {
                Some(id) => self.handle(id).into_iter().filter(fits).collect(),
                None => self.handles().filter(fits).collect(),
            };
        }
        if ask.has_own_order() {
            return classes.iter().flat_map(|class| self.classes.all[at(*class)].order.handles()).collect();
        }
        let specials = terms.crowd.tasks.keys().chain(terms.crowd.failures.keys());
        let specials: BTreeSet<NodeId> = specials.copied().filter(|id| terms.is_special(*id)).collect();
        let handles = specials.into_iter().filter_map(|id| self.handle(id));
        handles.filter(|handle| classes.binary_search(&self.class(*handle)).is_ok()).collect()
    }

    /// Counts why no node takes another task, after these were given.
    fn refused(&self, ask: &Ask, crowd: &Crowd, given: &[Given]) -> Refused {
        let mut refused = Refused::default();
        let mut add = |filter: Filter, n: usize| {
            if n > 0 {
                *refused.0.entry(filter).or_default() += n;
            }
        };
        // What was given is taken from the picture already; not so ports and numbers of the service's tasks.
        let mut crowd = crowd.clone();
        for given in given {
            *crowd.tasks.entry(given.node).or_default() += 1;
            if !ask.host_ports.is_empty() {
                crowd.port_holders.insert(given.node);
            }
        }
        let amounts = &ask.amounts;
        let is_one_by_one = ask.is_pinned()
            || !amounts.generic.is_empty()
            || !ask.host_ports.is_empty()
            || ask.max_replicas > 0;
        for class in &self.classes.all {
            let n = class.order.len();
            if !class.is_taking {
                add(Filter::Ready, n);
            } else if is_one_by_one {
                for handle in class.order.handles() {
                    if let Some(filter) = Filter::first(ask, &crowd, self.info(handle), 0) {
                        add(filter, 1);
                    }
                }
            } else {
                let n_short = class.order.n_short(amounts.nano_cpus, amounts.memory_bytes);
                add(Filter::Resources, n_short);
                if let Some(filter) = Filter::first_static(ask, &class.like) {
                    add(filter, n - n_short);
                }
            }
        }
        refused
    }
}
