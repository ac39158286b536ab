//! Places like tasks together, and says of those that fit nowhere why not; as much of it as one pass may.
//!
//! Nodes are given first, words are written last: a task that can run is not held up by those that cannot. Tasks that
//! the same pass has written already cost nothing more.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use skep_api::{NodeId, ServiceId, object::Task};
use skep_orchestrator::{Context, assign_address};
use skep_scheduler::{Ask, Picture};
use skep_store::{Draft, View};

use super::{
    Kept, NO_ADDRESS, ask, lacks_address, lacks_ports,
    promises::{self, Promises, Ranks},
    write::{CONFIRMED, PLACED, assign, explain, says},
};

/// Of what a pass may write, words have this part at least, however much there is to place.
const WORDS_PART: usize = 8;

pub(super) struct Placer<'a, 'b> {
    pub(super) draft: &'a mut Draft,
    pub(super) cx: &'a mut Context<'b>,
    pub(super) picture: &'a mut Picture,
    /// See [`Kept`].
    pub(super) barren: &'a mut BTreeMap<(ServiceId, u64), View>,
    /// Services that have a priority.
    pub(super) ranks: Ranks,
    /// Rooms that are kept.
    pub(super) promises: Promises,
    /// Services whose tasks had to make room.
    pub(super) evicted: BTreeSet<ServiceId>,
    /// How many services and stored tasks it may still come to.
    pub(super) left: usize,
    /// How many tasks may get other words, however little is left.
    words_min: usize,
    /// What is to be said of tasks that say something else.
    pub(super) words: Vec<(Arc<Task>, Arc<str>)>,
    /// Services that it did not finish.
    pub(super) rest: BTreeSet<ServiceId>,
    /// The last one had more that would have got a node.
    is_cut: bool,
    /// The ingress network has no address left.
    is_out_of_addresses: bool,
}

impl<'a, 'b> Placer<'a, 'b> {
    pub(super) fn new(
        draft: &'a mut Draft,
        cx: &'a mut Context<'b>,
        kept: &'a mut Kept,
        budget: usize,
    ) -> Self {
        kept.show(draft);
        let Kept { picture, barren, at: _ } = kept;
        let ranks = promises::ranks(draft);
        let waits = |id, version| draft.unplaced_of_service(id).any(|task| task.spec_version == version);
        barren.retain(|(id, version), _| ranks.contains_key(id) && waits(*id, *version));
        let words_min = (budget / WORDS_PART).max(1);
        Self {
            draft,
            cx,
            picture,
            barren,
            ranks,
            promises: Promises::default(),
            evicted: BTreeSet::new(),
            left: budget.max(1),
            words_min,
            words: Vec::new(),
            rest: BTreeSet::new(),
            is_cut: false,
            is_out_of_addresses: false,
        }
    }

    pub(super) fn may_go_on(&self) -> bool {
        self.left > self.words.len()
    }

    /// Places a service's tasks; to look at it counts, too.
    pub(super) fn look_at(&mut self, id: ServiceId) {
        // Afterwards: however little is left, one task of it comes further.
        self.place(id);
        self.left = self.left.saturating_sub(1);
    }

    /// Places a service's tasks.
    pub(super) fn place(&mut self, id: ServiceId) {
        let mut tasks: Vec<Arc<Task>> = self.draft.unplaced_of_service(id).cloned().collect();
        if !self.promises.is_empty() {
            tasks.retain(|task| !self.promises.has(task.id));
        }
        if tasks.len() > 1 {
            // To look at a task is most of the work, so at each once.
            tasks.sort_by_cached_key(|task| (task.spec_version, task.seat(), task.id));
        }
        for alike in tasks.chunk_by(|a, b| a.spec_version == b.spec_version) {
            self.place_alike(id, alike);
        }
    }

    fn place_alike(&mut self, id: ServiceId, tasks: &[Arc<Task>]) {
        let Some((ask, ready)) = self.ready(id, tasks) else { return };
        // A service has tasks of one kind.
        if ready.first().is_none_or(|first| first.for_node().is_none()) {
            self.place_anywhere(id, &ask, &ready);
            return;
        }
        for task in ready.iter() {
            if let Some(node) = task.for_node() {
                self.place_on(id, &ask, task, node);
            }
        }
    }

    /// Those of like tasks that could have a node, and what they ask for; the others say what they wait for.
    pub(super) fn ready<'t>(
        &mut self,
        id: ServiceId,
        tasks: &'t [Arc<Task>],
    ) -> Option<(Ask, Cow<'t, [Arc<Task>]>)> {
        let service = self.draft.service(id).cloned();
        if let Some(err) = service.as_ref().and_then(|service| lacks_ports(self.draft, service)) {
            tasks.iter().for_each(|task| self.say(task, &err));
            return None;
        }
        let mut ready = Cow::Borrowed(tasks);
        if tasks.iter().any(|task| lacks_address(task)) {
            ready = tasks.iter().filter_map(|task| self.with_address(id, task)).collect();
        }
        match ask::ask(self.draft, service.as_deref(), ready.first()?) {
            Ok(ask) => Some((ask, ready)),
            Err(err) => {
                let err = err.into();
                ready.iter().for_each(|task| self.say(task, &err));
                None
            }
        }
    }

    /// The task with an address in the ingress network.
    fn with_address(&mut self, id: ServiceId, task: &Arc<Task>) -> Option<Arc<Task>> {
        if !lacks_address(task) {
            return Some(Arc::clone(task));
        }
        if self.left == 0 && !self.is_written(task) {
            self.rest.insert(id);
            return None;
        }
        if !self.is_out_of_addresses
            && let Some(new) = assign_address(self.draft, task)
        {
            self.spend(task);
            return Some(new);
        }
        self.is_out_of_addresses = true;
        self.say(task, &NO_ADDRESS.into());
        None
    }

    fn place_anywhere(&mut self, id: ServiceId, ask: &Ask, tasks: &[Arc<Task>]) {
        let Some(first) = tasks.first() else { return };
        let mut left = self.left;
        let may = |task: &&Arc<Task>| {
            self.is_written(task) || left.checked_sub(1).map(|less| left = less).is_some()
        };
        let n_tasks = tasks.iter().take_while(may).count();
        let crowd = self.crowd(ask, first);
        let placement = self.picture.place(ask, &crowd, n_tasks.max(1).min(tasks.len()));
        let n_placed = placement.nodes.len();
        for (task, given) in tasks.iter().zip(placement.nodes) {
            self.spend(task);
            assign(self.draft, task, given, PLACED);
        }
        match placement.refused {
            Some(refused) => {
                let err = refused.explain().into();
                let waiting = &tasks[n_placed..];
                if self.ranks.contains_key(&id) {
                    self.make_room(ask, waiting, None).iter().for_each(|task| self.say(task, &err));
                } else {
                    waiting.iter().for_each(|task| self.say(task, &err));
                }
            }
            None if n_placed < tasks.len() => {
                self.rest.insert(id);
                self.is_cut = true;
            }
            None => {}
        }
    }

    fn place_on(&mut self, id: ServiceId, ask: &Ask, task: &Arc<Task>, node: NodeId) {
        let crowd = self.crowd(ask, task);
        if self.left == 0 && !self.is_written(task) {
            self.rest.insert(id);
            return;
        }
        match self.picture.place_on(ask, &crowd, node) {
            Ok(given) => {
                self.spend(task);
                assign(self.draft, task, given, CONFIRMED);
            }
            // Swarm does not say `no suitable node` of these (`SK:manager/scheduler/scheduler.go:taskFitNode`).
            Err(filter) => {
                let is_left = !self.ranks.contains_key(&id)
                    || !self.make_room(ask, std::slice::from_ref(task), Some(node)).is_empty();
                if is_left {
                    self.say(task, &filter.explain(1).into());
                }
            }
        }
    }

    /// Notes what a task is to say, unless it says so already.
    pub(super) fn say(&mut self, task: &Arc<Task>, err: &Arc<str>) {
        if !says(task, err) {
            self.words.push((Arc::clone(task), Arc::clone(err)));
        }
    }

    /// Whether this pass wrote the task already: it is written once, whatever comes upon that.
    pub(super) fn is_written(&self, task: &Task) -> bool {
        task.meta.version > self.draft.base().revision()
    }

    pub(super) fn spend(&mut self, task: &Task) {
        if !self.is_written(task) {
            self.left = self.left.saturating_sub(1);
        }
    }

    /// Writes the words, and says which services have something left to do, and whether the last one was cut short.
    pub(super) fn end(mut self) -> (BTreeSet<ServiceId>, bool) {
        // What is kept for others is so for this pass: the next one sees who still waits.
        let promises = std::mem::take(&mut self.promises);
        promises.nodes().for_each(|node| self.show(node));
        self.left = self.left.max(self.words_min);
        let mut words = std::mem::take(&mut self.words);
        if words.len() > self.left {
            // Who has waited longest for other words gets them first.
            words.sort_by_key(|(task, _)| (task.status.timestamp, task.id));
        }
        for (task, err) in words {
            if self.left == 0 && !self.is_written(&task) {
                self.rest.insert(task.service_id);
            } else {
                self.spend(&task);
                explain(self.draft, &task, &err);
            }
        }
        (self.rest, self.is_cut)
    }
}
