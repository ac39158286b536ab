//! Tasks of services that have a priority come first, and take the room of tasks of lower ones where they fit nowhere.
//!
//! Priority by priority, the highest first: who waits for a room that is coming free keeps it or gets it, then all others
//! are placed as tasks are, and who then has no node waits for tasks that stop already, or has some stop. The room is
//! held in the picture for the rest of the pass, so that whoever comes later does not get it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use skep_api::{
    NodeId, ServiceId, TaskId, TaskState, Timestamp,
    object::{Service, Task},
};
use skep_orchestrator::{FAILURES_WINDOW, WakeKey, preempt};
use skep_scheduler::{Ask, Crowd, Offer, offer};
use skep_store::{Change, View};

use super::{
    ask::{self, failed_lately},
    node_info,
    placer::Placer,
    promises::{Promises, Ranks, WAITS, awaited, is_waiting, tenants, waits_on},
    write::{CONFIRMED, PLACED, assign, push},
};

/// So many tasks at most are on their way out for others at a time: a spec that asks for too much does not clear a whole
/// cluster at once. A node that needs more of them is let alone only while there are others.
const ROOMS_MAX: usize = 200;

impl Placer<'_, '_> {
    /// Places the tasks of all services that have a priority.
    pub(super) fn place_ranked(&mut self) {
        let ranked: Vec<(u64, ServiceId)> = self.draft.ranked_services().collect();
        let awaited = awaited(self.draft);
        for level in ranked.chunk_by(|a, b| a.0 == b.0).rev() {
            let waits = |id: &ServiceId| self.draft.unplaced_of_service(*id).next().is_some();
            let services: Vec<ServiceId> = level.iter().map(|(_, id)| *id).filter(waits).collect();
            services.iter().for_each(|id| self.keep_promises(*id, &awaited));
            if !self.promises.is_empty() {
                services.iter().for_each(|id| self.place_promised(*id));
            }
            for id in services {
                if self.may_go_on() {
                    self.place(id);
                } else {
                    self.rest.insert(id);
                }
            }
        }
    }

    /// Tasks of a service that wait for a room get it, or keep it. Once all have stopped there it is known by what the
    /// task says alone.
    fn keep_promises(&mut self, id: ServiceId, awaited: &BTreeMap<TaskId, BTreeSet<NodeId>>) {
        let mut tasks: Vec<Arc<Task>> = self.draft.unplaced_of_service(id).cloned().collect();
        tasks.retain(|task| awaited.contains_key(&task.id) || task.status.err.starts_with(WAITS));
        tasks.sort_by_cached_key(|task| (task.spec_version, task.seat(), task.id));
        for alike in tasks.chunk_by(|a, b| a.spec_version == b.spec_version) {
            let Some((ask, ready)) = self.ready(id, alike) else { continue };
            let ask = Arc::new(ask);
            let mut known: Option<Crowds> = None;
            for task in ready.iter() {
                // Each that is for a node of its own is asked about that one alone.
                let mut crowds = known
                    .take()
                    .filter(|_| task.for_node().is_none())
                    .unwrap_or_else(|| self.crowds(&ask, task));
                let nodes = awaited.get(&task.id).into_iter().flatten().copied();
                let nodes: Vec<NodeId> =
                    nodes.filter(|node| task.for_node().is_none_or(|own| own == *node)).collect();
                if let Some(node) = self.place_there(&ask, &crowds.now, task, &nodes) {
                    crowds.placed(&ask, node);
                } else if let Some(node) = self.keep_promise(&ask, &crowds.to_be, task, &nodes) {
                    crowds.promised(&ask, node);
                }
                known = Some(crowds);
            }
        }
    }

    /// Gives a task the room that it waits for, if it is free by now: on which node.
    fn place_there(
        &mut self,
        ask: &Ask,
        crowd: &Crowd,
        task: &Arc<Task>,
        nodes: &[NodeId],
    ) -> Option<NodeId> {
        if self.left == 0 && !self.is_written(task) {
            self.rest.insert(task.service_id);
            return None;
        }
        let own = task.for_node();
        let mut given =
            nodes.iter().chain(&own).find_map(|node| self.picture.place_on(ask, crowd, *node).ok());
        if given.is_none() && nodes.is_empty() && own.is_none() {
            given = self.picture.place(ask, crowd, 1).nodes.pop();
        }
        let given = given?;
        let node = given.node;
        self.spend(task);
        assign(self.draft, task, given, if own.is_some() { CONFIRMED } else { PLACED });
        Some(node)
    }

    /// Holds the room that a task waits for, if it will still be enough: on which node.
    fn keep_promise(
        &mut self,
        ask: &Arc<Ask>,
        crowd: &Crowd,
        task: &Arc<Task>,
        nodes: &[NodeId],
    ) -> Option<NodeId> {
        // Nobody else has to go for it any more.
        let offer = nodes.iter().find_map(|node| self.offer(ask, crowd, *node, 0))?;
        self.claim(task, &offer.leaving);
        self.hold(task, ask, offer.node);
        Some(offer.node)
    }

    /// Tasks of a service that wait for a room are not kept waiting where there is another one.
    fn place_promised(&mut self, id: ServiceId) {
        let mut tasks: Vec<Arc<Task>> = self.draft.unplaced_of_service(id).cloned().collect();
        tasks.retain(|task| self.promises.has(task.id) && task.for_node().is_none());
        tasks.sort_by_cached_key(|task| (task.spec_version, task.seat(), task.id));
        for alike in tasks.chunk_by(|a, b| a.spec_version == b.spec_version) {
            let Some((ask, ready)) = self.ready(id, alike) else { continue };
            for task in ready.iter() {
                let may = self.left > 0 || self.is_written(task);
                let crowd = self.crowd(&ask, task);
                let Some(given) = may.then(|| self.picture.place(&ask, &crowd, 1).nodes.pop()).flatten()
                else {
                    break;
                };
                self.spend(task);
                assign(self.draft, task, given, PLACED);
                self.words.retain(|(other, _)| other.id != task.id);
                if let Some(node) = self.promises.remove(task.id) {
                    self.show(node);
                }
            }
        }
    }

    /// Finds rooms for tasks that fit nowhere; who gets none is to say why.
    pub(super) fn make_room(
        &mut self,
        ask: &Ask,
        tasks: &[Arc<Task>],
        only: Option<NodeId>,
    ) -> Vec<Arc<Task>> {
        let Some((first, priority)) = tasks.first().and_then(|task| Some((task, self.priority(task)?)))
        else {
            return tasks.to_vec();
        };
        let ask = Arc::new(ask.clone());
        let mut crowd = self.crowd_to_be(&ask, first);
        let mut offers: BTreeSet<Offer> = BTreeSet::new();
        tasks.iter().for_each(|task| self.wake_after_failures(task));
        let now = self.draft.now();
        if tasks.iter().any(|task| may_have_room(task, now)) {
            let nodes = match only {
                Some(node) => [node].into(),
                None => self.hopeful(first),
            };
            offers.extend(nodes.into_iter().filter_map(|node| self.offer(&ask, &crowd, node, priority)));
            if offers.is_empty() && only.is_none() {
                self.give_up_hope(first);
            }
        }
        let mut left = Vec::new();
        for task in tasks {
            if self.left == 0 {
                self.rest.insert(task.service_id);
                break;
            }
            let best = offers.first().filter(|best| may_have_room(task, now) && may_go(self.draft, best));
            let Some(best) = best.cloned() else {
                left.push(Arc::clone(task));
                continue;
            };
            offers.remove(&best);
            self.evict(task, &best, priority);
            self.claim(task, &best.leaving);
            self.hold(task, &ask, best.node);
            *crowd.tasks.entry(best.node).or_default() += 1;
            if !ask.host_ports.is_empty() {
                crowd.port_holders.insert(best.node);
            }
            offers.extend(self.offer(&ask, &crowd, best.node, priority));
        }
        left
    }

    /// The nodes that may have room for a task, once others have left it: of those that had none when all were asked, the
    /// ones that have changed since. It is what is kept from pass to pass, and decides nothing.
    fn hopeful(&self, task: &Task) -> BTreeSet<NodeId> {
        match self.barren.get(&(task.service_id, task.spec_version)) {
            // Promises would have to be the same ones.
            Some(old) if self.is_all_to_have() => self.draft.nodes_retenanted_since(old),
            Some(_) | None => self.draft.nodes().map(|node| node.id).collect(),
        }
    }

    fn give_up_hope(&mut self, task: &Task) {
        if self.is_all_to_have() {
            self.barren.insert((task.service_id, task.spec_version), self.draft.tenants_only());
        }
    }

    /// Whether nothing is promised to anybody.
    fn is_all_to_have(&self) -> bool {
        self.promises.is_empty() && self.draft.n_rooms() == 0
    }

    /// The priority of a task that may take others' room.
    fn priority(&self, task: &Task) -> Option<u64> {
        let service = self.draft.service(task.service_id)?;
        self.ranks.get(&task.service_id).copied().filter(|_| may_preempt(self.draft, service))
    }

    /// Who has failed gets another chance to have others stopped.
    fn wake_after_failures(&mut self, task: &Task) {
        let last = failed_lately(task, self.draft.now()).map(|(_, at)| at).max();
        if let Some(last) = last {
            self.cx.wake(WakeKey::Service(task.service_id), last.after(FAILURES_WINDOW));
        }
    }

    fn offer(&self, ask: &Ask, crowd: &Crowd, node: NodeId, priority: u64) -> Option<Offer> {
        offer_of(self.draft, &self.ranks, &self.promises, (ask, crowd), node, priority)
    }

    fn evict(&mut self, task: &Task, offer: &Offer, priority: u64) {
        let words = format!("preempted by service {} (priority {priority})", task.spec.name);
        for victim in &offer.victims {
            let Some(victim) = self.draft.task(*victim).cloned() else { continue };
            self.spend(&victim);
            self.evicted.insert(victim.service_id);
            preempt(self.draft, self.cx, &victim, task.id, &words);
        }
    }

    /// The room of tasks that stop anyway is for this one, but for what others wait for whose turn is not after its own.
    fn claim(&mut self, task: &Task, leaving: &[TaskId]) {
        let priority = |id: TaskId| {
            let other = self.draft.task(id).filter(|_| is_waiting(self.draft, id))?;
            self.ranks.get(&other.service_id).copied()
        };
        let own = self.ranks.get(&task.service_id).copied();
        let is_free = |other: &Arc<Task>| match other.room_for() {
            Some(id) if id == task.id => false,
            Some(id) => priority(id) < own,
            None => true,
        };
        let leaving = leaving.iter().filter_map(|id| self.draft.task(*id));
        let free: Vec<Arc<Task>> = leaving.filter(|other| is_free(other)).cloned().collect();
        for other in free {
            self.spend(&other);
            push(self.draft, Change::PutTask(Arc::new(other.with_room_for(task.id))));
        }
    }

    fn hold(&mut self, task: &Arc<Task>, ask: &Arc<Ask>, node: NodeId) {
        self.promises.add(task, ask, node);
        self.show(node);
        let words = waits_on(self.draft, node).into();
        self.say(task, &words);
    }

    /// Shows a node as it is, less what is promised there.
    pub(super) fn show(&mut self, node: NodeId) {
        if let Some(now) = self.draft.node(node) {
            self.picture.put(node_info(now, &self.draft.node_load(node)));
            self.promises.on(node).for_each(|ask| self.picture.hold(ask, node));
        }
    }

    /// What a task's service has on the nodes, with what it was promised.
    pub(super) fn crowd(&self, ask: &Ask, task: &Task) -> Crowd {
        self.promises.joined(task.service_id, ask, self.crowd_now(ask, task))
    }

    /// The same for who has others' ports given up.
    fn crowd_to_be(&self, ask: &Ask, task: &Task) -> Crowd {
        let crowd = Crowd { port_holders: BTreeSet::new(), ..self.crowd_now(ask, task) };
        self.promises.joined(task.service_id, ask, crowd)
    }

    fn crowds(&self, ask: &Ask, task: &Task) -> Crowds {
        let now = self.crowd_now(ask, task);
        let to_be = Crowd { port_holders: BTreeSet::new(), ..now.clone() };
        let joined = |crowd| self.promises.joined(task.service_id, ask, crowd);
        Crowds { now: joined(now), to_be: joined(to_be) }
    }

    fn crowd_now(&self, ask: &Ask, task: &Task) -> Crowd {
        let (draft, now) = (&*self.draft, self.draft.now());
        if let Some(node) = task.for_node() {
            return ask::crowd_of_node(draft, ask, task, node);
        }
        match self.cx.situation(draft, task.service_id) {
            Some(at) => ask::crowd_of(at.tasks(), draft, ask, task.spec_version, now),
            None => ask::crowd(draft, ask, task, now),
        }
    }
}

/// What a service has on the nodes, kept true while its tasks get theirs one after the other.
struct Crowds {
    now: Crowd,
    /// For who has others' ports given up.
    to_be: Crowd,
}

impl Crowds {
    fn placed(&mut self, ask: &Ask, node: NodeId) {
        for crowd in [&mut self.now, &mut self.to_be] {
            *crowd.tasks.entry(node).or_default() += 1;
        }
        self.now.port_holders.extend((!ask.host_ports.is_empty()).then_some(node));
    }

    fn promised(&mut self, ask: &Ask, node: NodeId) {
        self.placed(ask, node);
        self.to_be.port_holders.extend((!ask.host_ports.is_empty()).then_some(node));
    }
}

/// What a node offers, beside what is promised there.
pub(super) fn offer_of(
    view: &View,
    ranks: &Ranks,
    promises: &Promises,
    (ask, crowd): (&Ask, &Crowd),
    node: NodeId,
    priority: u64,
) -> Option<Offer> {
    let info = node_info(view.node(node)?, &view.node_load(node));
    let promised = promises.amounts(node);
    offer(ask, crowd, &info, &promised, priority, || tenants(view, ranks, ask, node))
}

/// Whether tasks of a service may take the room of others: not while nobody wants it rolled out further.
pub(super) fn may_preempt(view: &View, service: &Service) -> bool {
    view.feature_level() >= 2 && !service.is_update_paused()
}

/// Whether so many more may be on their way out as an offer takes. Those that nobody waits for any more hold up nobody.
pub(super) fn may_go(view: &View, offer: &Offer) -> bool {
    let n_rooms = view.rooms().filter(|(other, _)| is_waiting(view, *other)).count();
    n_rooms == 0 || n_rooms + offer.victims.len() + offer.leaving.len() <= ROOMS_MAX
}

/// Whether a task is waited for by others on their way out, or has them go: not while it waits itself for its delay or
/// for the one before it to stop, not for a move that makes nodes even, and not where its seat has just failed, or what
/// never runs would stop others for ever.
pub(super) fn may_have_room(task: &Task, now: Timestamp) -> bool {
    task.desired_state >= TaskState::Running
        && task.moved_from().is_none()
        && failed_lately(task, now).next().is_none()
}
