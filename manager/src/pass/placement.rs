//! Adapts the store to the scheduler: shows it the nodes, asks for each group of like tasks, writes the answers.

mod ask;
mod explain;
mod placer;
mod preempt;
mod promises;
mod rebalance;
mod round;
mod write;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use skep_api::{
    NodeId, ServiceId,
    object::{Node, NodeState, Service, Task},
    spec::{Availability, Role},
};
use skep_orchestrator::{Context, Scope, assign_ports};
use skep_scheduler::{Ask, GenericFree, NodeInfo, Picture};
use skep_store::{Draft, GenericLoad, NodeLoad, Placing, View};

pub use self::explain::{Plan, Waiting};
pub(super) use self::rebalance::rebalance;
pub use self::rebalance::{Move, Rebalance};
pub(crate) use self::{
    explain::{plan, waiting},
    rebalance::{never_even, plan_rebalance},
};
use self::{placer::Placer, round::Round};

/// Nodes that are fetched from memory together.
const AT_ONCE: usize = 32;

/// The nodes as the last pass left them: a pass looks at those again that have changed since.
#[derive(Clone, Debug, Default)]
pub(super) struct Kept {
    picture: Picture,
    /// What the picture shows; `None` for nothing yet.
    at: Option<View>,
    /// Whose tasks waited in vain for others' room, by service and spec version, and when no node had any.
    barren: BTreeMap<(ServiceId, u64), View>,
}

impl Kept {
    /// Brings the picture to a view.
    fn show(&mut self, view: &View) -> &mut Picture {
        match self.at.take() {
            None => self.picture = picture(view),
            Some(old) => {
                for id in view.nodes_touched_since(&old) {
                    match view.node(id) {
                        Some(node) => self.picture.put(node_info(node, &view.node_load(id))),
                        None => self.picture.remove(id),
                    }
                }
            }
        }
        &mut self.picture
    }
}

/// Gives nodes to tasks that have none: those of the scope, or all when room was freed; and goes on with what the last
/// pass did not come to. `budget` is how many tasks it may write that are stored already.
pub(super) fn place(
    draft: &mut Draft,
    cx: &mut Context<'_>,
    scope: &Scope,
    (dirty, is_room_freed): (&Placing, bool),
    kept: &mut Kept,
    budget: usize,
) -> Placing {
    if draft.services_with_unplaced().next().is_none() {
        return Placing::default();
    }
    let globals: BTreeSet<ServiceId> = draft.global_services().map(|service| service.id).collect();
    let mut round = Round::new(dirty, scope.services.keys().copied(), is_room_freed);
    let mut placer = Placer::new(draft, cx, kept, budget);
    if !placer.ranks.is_empty() {
        placer.place_ranked();
        // All of these had their turn, and the others have one at once.
        for id in placer.ranks.keys() {
            round.takes(*id);
        }
        round.add(placer.evicted.iter().copied());
    }
    // A task that can be on one node alone goes before those that have a choice.
    for id in &globals {
        if (!round.takes(*id) && !is_room_freed) || placer.ranks.contains_key(id) {
            continue;
        }
        if placer.may_go_on() || placer.ranks.is_empty() {
            placer.place(*id);
        } else {
            // It does not get ahead of those that were not come to.
            placer.rest.insert(*id);
        }
    }
    while placer.may_go_on() {
        let Some(id) = round.next(placer.draft) else { break };
        if !globals.contains(&id) && !placer.ranks.contains_key(&id) {
            placer.look_at(id);
        }
    }
    let (rest, is_cut) = placer.end();
    // With all that was placed, as the picture has it.
    kept.at = Some(draft.nodes_only());
    round.rest(rest, is_cut)
}

/// What a task says that gets no address.
const NO_ADDRESS: &str = "no free address in the ingress network";

/// Whether a task still waits for an address before it can have a node.
fn lacks_address(task: &Task) -> bool {
    task.uses_ingress() && task.ingress_addr.is_none()
}

/// The port that a service still waits for.
fn lacks_ports(view: &View, service: &Service) -> Option<Arc<str>> {
    let given = assign_ports(view, service.id, &service.spec, &service.ports);
    given.err().map(|error| error.to_string().into())
}

/// A picture of all nodes.
fn picture(view: &View) -> Picture {
    let mut nodes = view.nodes_with_load();
    let mut some = Vec::with_capacity(AT_ONCE);
    Picture::new(std::iter::from_fn(move || {
        if some.is_empty() {
            some.extend(nodes.by_ref().take(AT_ONCE));
            // They lie anywhere in memory, and one after the other each would be waited for: so they are fetched
            // together. It is half of the time of a picture of 100,000 nodes.
            std::hint::black_box(some.iter().map(|(node, _)| touched(node)).sum::<usize>());
            some.reverse();
        }
        some.pop().map(|(node, load)| node_info(node, load))
    }))
}

/// Reads what a picture needs of a node; of no use but that it is at hand then.
fn touched(node: &Arc<Node>) -> usize {
    let (about, spec) = (&node.description, &node.spec);
    let is_manager = usize::from(node.role() == Role::Manager);
    let is_special = usize::from(
        node.status.state == NodeState::Ready
            && spec.availability == Availability::Active
            && about.nano_cpus == about.memory_bytes,
    );
    Arc::strong_count(node)
        + is_manager
        + is_special
        + about.os.len()
        + about.arch.len()
        + about.generic.len()
}

fn node_info(node: &Arc<Node>, load: &NodeLoad) -> NodeInfo {
    let about = &node.description;
    let none = GenericLoad::default();
    let given = load.generic.as_deref().unwrap_or(&none);
    NodeInfo {
        node: Arc::clone(node),
        n_tasks: load.n_tasks,
        nano_cpus: about.nano_cpus.saturating_sub(load.nano_cpus),
        memory_bytes: about.memory_bytes.saturating_sub(load.memory_bytes),
        generic: GenericFree::new(&about.generic, &given.amounts, &given.named),
    }
}

/// Nodes on which a host port that is asked for is taken.
fn port_holders(view: &View, ask: &Ask) -> impl Iterator<Item = NodeId> {
    ask.host_ports.iter().flat_map(|(protocol, port)| view.nodes_with_host_port(protocol, *port))
}
