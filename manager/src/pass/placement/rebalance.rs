//! Which task of a service goes where, so that nodes are even: counted as placement counts, branch by branch.
//!
//! From the fullest to the emptiest that takes one more, as long as that makes it more even (by two or more), first
//! between the branches that tasks are spread over, then within them. Each move lessens the sum of squares of the
//! level that it is for and leaves those above it alone, so no move is ever undone by the next.

use std::{collections::BTreeMap, sync::Arc};

use skep_api::{
    NodeId, ServiceId, Timestamp,
    object::{Service, Task},
};
use skep_orchestrator::{
    Context, FAILURES_WINDOW, Hold, Scope, WakeKey, assign_address, begin_move, end_moves, may_move,
};
use skep_scheduler::{Amounts, Ask, Crowd, Picture};
use skep_store::{Draft, View};

use super::{
    super::scope::Fresh,
    Kept,
    ask::{self, completed_lately, failed_lately},
    lacks_address, picture,
    write::{PLACED, assign},
};

/// A plan for people tells no more moves,
const PLANNED_MAX: usize = 1_000;
/// and looks at all nodes for each: so often at one at most, which takes about a second.
const LOOKS_MAX: usize = 2_000_000;

/// Of a service that is not to be even.
const NOT_EVEN: &str = "its labels ask for certain nodes, and not for even ones: skep.strategy, skep.spread.weight, \
                        skep.soft";

/// While rooms are kept for tasks of services with a priority.
const KEPT: &str = "nodes make room for tasks of a higher priority";

/// A task that would go to another node.
#[derive(Clone, PartialEq, Debug)]
pub struct Move {
    /// The task as it runs now.
    pub task: Arc<Task>,
    /// Its node.
    pub from: NodeId,
    /// Where its successor would run.
    pub to: NodeId,
}

/// What would make a service's nodes even.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Rebalance {
    /// In order; the first 1,000, or fewer where there are very many nodes.
    pub moves: Vec<Move>,
    /// How many a minute.
    pub a_minute: u64,
    /// Why none is made now; empty if one is.
    pub held: String,
}

/// Moves a task of each service that asks for it and is uneven: of those of the scope, and of those that a node takes
/// now which it did not before.
pub(in crate::pass) fn rebalance(
    draft: &mut Draft,
    cx: &mut Context<'_>,
    scope: &Scope,
    fresh: &Fresh,
    kept: &mut Kept,
) {
    if draft.n_rooms() > 0 {
        // They are kept for others, and whatever ends that is a task that stops.
        return;
    }
    let mut services: Vec<ServiceId> = Vec::new();
    for service in draft.balanced_services() {
        let mut is_new = || match fresh {
            Fresh::Any => true,
            Fresh::Ended(ended) => !ended.is_empty() && is_taken_anew(draft, kept, service, ended),
        };
        if scope.services.contains_key(&service.id) || is_new() {
            services.push(service.id);
        }
    }
    for id in services {
        let Some(service) = draft.service(id).cloned() else { continue };
        match may_move(draft, &service, service.moves_a_minute(), draft.now()) {
            Ok(()) => even_out(draft, cx, &service, kept),
            Err(Hold::Busy(_)) => {}
            Err(Hold::Until(at)) => cx.wake(WakeKey::Service(id), at),
            Err(Hold::Never(_)) => end_moves(draft, id),
        }
    }
}

/// Whether a node takes one more task of a service since these ended there: it has the room, and had it not before. That
/// others of the service run there is not asked: what becomes of them is a change of it.
fn is_taken_anew(
    draft: &Draft,
    kept: &mut Kept,
    service: &Service,
    ended: &BTreeMap<NodeId, Vec<Arc<Task>>>,
) -> bool {
    let Ok(ask) = ask::of_spec(draft, &service.spec, &service.ports) else { return false };
    if ask.amounts == Amounts::default() && ask.host_ports.is_empty() {
        // It finds room wherever it may be.
        return false;
    }
    kept.show(draft);
    kept.at = Some(draft.nodes_only());
    let crowd = Crowd::default();
    ended.iter().any(|(node, ended)| {
        let had = ended.iter().fold(Amounts::default(), |sum, task| sum.and(&ask::amounts(&task.spec)));
        let had_port = || {
            let mut ports = ended.iter().flat_map(|task| ask::host_ports(&task.ports));
            ports.any(|port| ask.host_ports.contains(&port))
        };
        let before = Ask { amounts: ask.amounts.clone().and(&had), ..ask.clone() };
        kept.picture.fits(&ask, &crowd, *node).is_ok()
            && (had_port() || kept.picture.fits(&before, &crowd, *node).is_err())
    })
}

fn even_out(draft: &mut Draft, cx: &mut Context<'_>, service: &Arc<Service>, kept: &mut Kept) {
    let Some(eyes) = Eyes::of(draft, service) else { return };
    if eyes.ask.has_own_order() || eyes.is_even_at_a_glance() {
        end_moves(draft, service.id);
        return;
    }
    let choice = eyes.next(kept.show(draft));
    kept.at = Some(draft.nodes_only());
    match choice {
        Some((from, to)) => {
            if let Some(old) = newest_on(draft, service.id, from) {
                carry_out(draft, cx, &eyes, kept, &old, to);
            }
        }
        None => {
            if eyes.failed.is_empty() {
                end_moves(draft, service.id);
            }
            if let Some(at) = eyes.failed.values().min() {
                cx.wake(WakeKey::Service(service.id), at.after(FAILURES_WINDOW));
            }
        }
    }
}

fn carry_out(draft: &mut Draft, cx: &mut Context<'_>, eyes: &Eyes, kept: &mut Kept, old: &Task, to: NodeId) {
    let Some(new) = begin_move(draft, cx, old) else { return };
    let Some(mut new) = draft.task(new).cloned() else { return };
    if lacks_address(&new) {
        let Some(with_address) = assign_address(draft, &new) else { return };
        new = with_address;
    }
    // The old one may count no more where it was.
    if let Ok(given) = kept.show(draft).place_on(&eyes.ask, &eyes.crowd, to) {
        assign(draft, &new, given, PLACED);
    }
    kept.at = Some(draft.nodes_only());
}

/// The task that goes: the one that has done least so far.
fn newest_on(view: &View, service: ServiceId, node: NodeId) -> Option<Arc<Task>> {
    running(view, service)
        .filter(|task| task.node_id == Some(node))
        .max_by_key(|task| (task.meta.created_at, task.slot, task.id))
        .cloned()
}

fn running(view: &View, service: ServiceId) -> impl Iterator<Item = &Arc<Task>> {
    view.tasks_of_service(service).filter(|task| task.is_runnable())
}

/// Why nobody's wish makes a service's nodes even, where its labels are against it.
pub(crate) fn never_even(view: &View, service: &Service) -> Option<&'static str> {
    let ask = ask::of_spec(view, &service.spec, &service.ports).ok()?;
    ask.has_own_order().then_some(NOT_EVEN)
}

/// What would make a service's nodes even.
pub(crate) fn plan_rebalance(view: &View, service: &Service, now: Timestamp) -> Rebalance {
    let asked = Service { balance_asked: now, ..service.clone() };
    let mut plan = Rebalance { a_minute: asked.moves_a_minute(), ..Rebalance::default() };
    match may_move(view, service, plan.a_minute, now) {
        Ok(()) | Err(Hold::Until(_)) => {}
        Err(Hold::Never(words) | Hold::Busy(words)) => words.clone_into(&mut plan.held),
    }
    let Some(mut eyes) = Eyes::of_view(view, service, now).filter(|_| plan.held.is_empty()) else {
        return plan;
    };
    if eyes.ask.has_own_order() {
        NOT_EVEN.clone_into(&mut plan.held);
        return plan;
    }
    if view.n_rooms() > 0 {
        KEPT.clone_into(&mut plan.held);
        return plan;
    }
    let mut tasks: BTreeMap<NodeId, Vec<Arc<Task>>> = BTreeMap::new();
    for task in running(view, service.id) {
        if let Some(node) = task.node_id {
            tasks.entry(node).or_default().push(Arc::clone(task));
        }
    }
    tasks.values_mut().for_each(|own| own.sort_by_key(|task| (task.meta.created_at, task.slot, task.id)));
    let mut picture = picture(view);
    let n_max = planned_max(view.n_nodes());
    while plan.moves.len() < n_max
        && let Some((from, to)) = eyes.next(&picture)
        && let Some(task) = tasks.get_mut(&from).and_then(Vec::pop)
        && picture.place_on(&eyes.ask, &eyes.crowd, to).is_ok()
    {
        eyes.moved(from, to);
        plan.moves.push(Move { task, from, to });
    }
    plan
}

fn planned_max(n_nodes: usize) -> usize {
    (LOOKS_MAX / n_nodes.max(1)).clamp(1, PLANNED_MAX)
}

/// What a choice is made from, besides the nodes.
struct Eyes {
    ask: Ask,
    crowd: Crowd,
    /// Nodes on which a task of the service failed lately, and when it last did.
    failed: BTreeMap<NodeId, Timestamp>,
}

impl Eyes {
    fn of(draft: &Draft, service: &Service) -> Option<Self> {
        Self::of_view(draft, service, draft.now())
    }

    fn of_view(view: &View, service: &Service, now: Timestamp) -> Option<Self> {
        let ask = ask::of_spec(view, &service.spec, &service.ports).ok()?;
        let crowd = ask::crowd(view, &ask, running(view, service.id).next()?, now);
        let mut failed = BTreeMap::new();
        let failures = view.tasks_of_service(service.id).flat_map(|task| failed_lately(task, now));
        // A move that ended before it took over would be made again at once.
        let runs_on = |task: &Task| {
            let old = task.beside().and_then(|id| view.task(id));
            task.moved_from().is_some() && old.is_some_and(|old| old.is_runnable())
        };
        let moves = view
            .tasks_of_service(service.id)
            .filter(|task| completed_lately(task, now) && runs_on(task))
            .filter_map(|task| Some((task.node_id?, task.status.timestamp)));
        for (node, at) in failures.chain(moves) {
            let last: &mut Timestamp = failed.entry(node).or_default();
            *last = (*last).max(at);
        }
        Some(Self { ask, crowd, failed })
    }

    /// Whether no node has two tasks of the service, and nothing but nodes counts.
    fn is_even_at_a_glance(&self) -> bool {
        self.ask.spread.is_empty() && self.crowd.tasks.values().all(|n| *n < 2)
    }

    /// From where to where the next task goes.
    fn next(&self, picture: &Picture) -> Option<(NodeId, NodeId)> {
        let mut root = Branch::default();
        for info in picture.nodes() {
            let id = info.node.id;
            let n_own = self.crowd.tasks.get(&id).copied().unwrap_or(0);
            let takes = !self.failed.contains_key(&id) && picture.fits(&self.ask, &self.crowd, id).is_ok();
            if !takes && n_own == 0 {
                continue;
            }
            let place = Place { rank: (n_own, info.n_tasks, id), takes };
            let values = self.ask.spread.iter().map(|descriptor| descriptor.value(&info.node));
            root.add(values, place);
        }
        root.best().map(|(_, from, to)| (from, to))
    }

    /// A task went.
    fn moved(&mut self, from: NodeId, to: NodeId) {
        *self.crowd.tasks.entry(to).or_default() += 1;
        if let Some(n) = self.crowd.tasks.get_mut(&from) {
            *n -= 1;
        }
        if !self.ask.host_ports.is_empty() {
            self.crowd.port_holders.remove(&from);
            self.crowd.port_holders.insert(to);
        }
    }
}

/// Tasks of the service, all tasks, the node: the least is the emptiest, as placement has it.
type Rank = (u64, u64, NodeId);

#[derive(Clone, Copy, Debug)]
struct Place {
    rank: Rank,
    takes: bool,
}

/// A value of what tasks are spread over, with the nodes that have it.
#[derive(Debug, Default)]
struct Branch<'a> {
    n_own: u64,
    next: BTreeMap<&'a str, Branch<'a>>,
    nodes: Vec<Place>,
}

impl<'a> Branch<'a> {
    fn add(&mut self, values: impl Iterator<Item = &'a str>, place: Place) {
        let mut branch = self;
        branch.n_own += place.rank.0;
        for value in values {
            branch = branch.next.entry(value).or_default();
            branch.n_own += place.rank.0;
        }
        branch.nodes.push(place);
    }

    /// The node that the next task would go to.
    fn emptiest(&self) -> Option<Rank> {
        if self.next.is_empty() {
            return self.nodes.iter().filter(|place| place.takes).map(|place| place.rank).min();
        }
        self.emptiest_branch().map(|(_, rank)| rank)
    }

    fn emptiest_branch(&self) -> Option<(u64, Rank)> {
        self.next.values().filter_map(|branch| Some((branch.n_own, branch.emptiest()?))).min()
    }

    /// The node that a task would go from.
    fn fullest(&self) -> Option<Rank> {
        if self.next.is_empty() {
            return self.nodes.iter().map(|place| place.rank).max();
        }
        self.fullest_branch().map(|(_, rank)| rank)
    }

    fn fullest_branch(&self) -> Option<(u64, Rank)> {
        self.next.values().filter_map(|branch| Some((branch.n_own, branch.fullest()?))).max()
    }

    /// The move that makes most even, and by how much both ends differ.
    fn best(&self) -> Option<(u64, NodeId, NodeId)> {
        let ends = if self.next.is_empty() {
            self.fullest().zip(self.emptiest()).map(|(from, to)| ((from.0, from), (to.0, to)))
        } else {
            self.fullest_branch().zip(self.emptiest_branch())
        };
        let ((n_from, from), (n_to, to)) = ends?;
        if n_from >= n_to + 2 {
            return Some((n_from - n_to, from.2, to.2));
        }
        // Of equal ones the first.
        self.next.values().rev().filter_map(Self::best).max_by_key(|(difference, ..)| *difference)
    }
}

#[cfg(test)]
mod tests {
    use skep_api::{
        Id, TaskId,
        object::{Node, NodeState},
        spec::ServiceSpec,
    };
    use skep_store::Change;

    use super::*;

    const NODE: NodeId = NodeId(Id(1));

    fn service(cpus: i64, port: u16) -> Service {
        let ports = match port {
            0 => String::new(),
            port => format!(r#"{{"TargetPort":80,"PublishedPort":{port},"PublishMode":"host"}}"#),
        };
        let cpus = cpus * 1_000_000_000;
        let text = format!(
            r#"{{"Name":"a","TaskTemplate":{{"Resources":{{"Reservations":{{"NanoCPUs":{cpus}}}}}}},
                "EndpointSpec":{{"Ports":[{ports}]}}}}"#
        );
        let spec: ServiceSpec = serde_json::from_str(&text).unwrap();
        let ports = spec.ports().into();
        Service { spec: Arc::new(spec), ports, ..Service::default() }
    }

    /// Of a service that asks for so much of a node that has so much left since something ended there that had so much.
    #[track_caller]
    fn check(asked: (i64, u16), free: i64, had: (i64, u16), expect: bool) {
        let mut draft = Draft::new(View::default(), Timestamp(1));
        let mut node = Node { id: NODE, ..Node::default() };
        node.status.state = NodeState::Ready;
        node.description.nano_cpus = free * 1_000_000_000;
        draft.push(Change::PutNode(Arc::new(node))).unwrap();
        let ended = Arc::new(Task::new(TaskId(Id(1)), &service(had.0, had.1), 1));
        let ended = [(NODE, vec![ended])].into();
        let asks = service(asked.0, asked.1);
        let found = is_taken_anew(&draft, &mut Kept::default(), &asks, &ended);
        assert_eq!(found, expect, "{asked:?} {free} {had:?}");
    }

    #[test]
    fn who_has_room_anyway_is_not_looked_at_when_a_task_ends() {
        check((0, 0), 4, (4, 8080), false);
        check((1, 0), 4, (1, 0), false);
        check((1, 0), 4, (0, 0), false);
        check((2, 0), 4, (3, 0), true);
        check((4, 0), 4, (1, 0), true);
        // There is still too little.
        check((5, 0), 4, (3, 0), false);
        check((0, 8080), 4, (1, 8081), false);
        check((0, 8080), 4, (0, 8080), true);
        check((5, 8080), 4, (0, 8080), false);
    }

    #[test]
    fn a_plan_is_shorter_where_nodes_are_very_many() {
        let n_moves = [0, 2_000, 10_000, 100_000, 3_000_000].map(planned_max);
        assert_eq!(n_moves, [1_000, 1_000, 200, 20, 1]);
    }
}
