//! One state of the cluster: immutable, cheap to clone, ordered.

use std::{collections::BTreeSet, net::Ipv4Addr, ops::Bound, sync::Arc};

use imbl::{OrdMap, OrdSet, ordmap::DiffItem, ordset};
use skep_api::{
    Id, NetworkId, NodeId, ServiceId, TaskId, TicketId, Timestamp,
    cidr::Cidr,
    object::{Cluster, Network, Node, NodeState, SeatKey, Service, Task, Ticket},
    spec::{PortConfig, ServiceSpec},
};

use crate::{
    NodeLoad,
    names::{Named, ServiceName},
};

/// All objects at one revision, with their indexes. A clone is O(1) and shares everything.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct View {
    pub(crate) revision: u64,
    pub(crate) cluster: Option<Arc<Cluster>>,
    pub(crate) nodes: OrdMap<NodeId, Arc<Node>>,
    pub(crate) services: OrdMap<ServiceId, Arc<Service>>,
    pub(crate) tasks: OrdMap<TaskId, Arc<Task>>,
    pub(crate) service_names: OrdMap<ServiceName, ServiceId>,
    /// With the slot of each: those of a slot lie together. Flat, as a set for each slot would cost more
    /// than the tasks.
    pub(crate) tasks_by_service: OrdSet<(ServiceId, u64, TaskId)>,
    pub(crate) tasks_by_node: OrdSet<(NodeId, TaskId)>,
    /// Tasks whose seat is a node: those of a seat lie together.
    pub(crate) tasks_by_seat_node: OrdSet<(ServiceId, NodeId, TaskId)>,
    /// Tasks without a node that want one.
    pub(crate) unplaced: OrdSet<(ServiceId, TaskId)>,
    pub(crate) ports: OrdMap<(String, u16), ServiceId>,
    /// Services by the ports that they ask for under a number, in either mode.
    pub(crate) asked_ports: OrdSet<(String, u16, ServiceId)>,
    /// Ports that live tasks have open on their nodes: one that is wanted, and those being stopped.
    pub(crate) host_ports: OrdSet<(String, u16, NodeId, TaskId)>,
    /// Of the ingress network, with the node or task that has it.
    pub(crate) addresses: OrdMap<Ipv4Addr, Id>,
    /// What live tasks take of each node.
    pub(crate) loads: OrdMap<NodeId, NodeLoad>,
    /// Spec versions that a service or a task refers to, with the number of tasks.
    pub(crate) specs: OrdMap<(ServiceId, u64), (Arc<ServiceSpec>, u64)>,
    pub(crate) networks: OrdMap<NetworkId, Arc<Network>>,
    pub(crate) network_names: OrdMap<String, NetworkId>,
    /// By their first address. No two overlap, so the one before an address is the only one it may lie in.
    pub(crate) subnets: OrdMap<Ipv4Addr, (Cidr, NetworkId)>,
    pub(crate) vnis: OrdMap<u32, NetworkId>,
    /// Services by the networks that their current specs name.
    pub(crate) network_users: OrdMap<NetworkId, OrdSet<ServiceId>>,
    /// Services that have a task on each node.
    pub(crate) globals: OrdSet<ServiceId>,
    /// Services whose tasks may be moved so that nodes are even.
    pub(crate) balanced: OrdSet<ServiceId>,
    /// Services whose tasks come before others, by their priority.
    pub(crate) ranked: OrdSet<(u64, ServiceId)>,
    /// Live tasks whose room is for another one, behind that one.
    pub(crate) room_for: OrdSet<(TaskId, TaskId)>,
    /// Nodes that are down, by when they went.
    pub(crate) down: OrdSet<(Timestamp, NodeId)>,
    pub(crate) tickets: OrdMap<TicketId, Arc<Ticket>>,
}

static NO_LOAD: NodeLoad = NodeLoad { n_tasks: 0, nano_cpus: 0, memory_bytes: 0, generic: None };

/// Before and after all ids.
const ID_MIN: Id = Id(0);
const ID_MAX: Id = Id(u128::MAX);

impl View {
    /// How many changes led here.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The swarm; `None` before it was initialised.
    #[must_use]
    pub fn cluster(&self) -> Option<&Arc<Cluster>> {
        self.cluster.as_ref()
    }

    /// A node by id.
    #[must_use]
    pub fn node(&self, id: NodeId) -> Option<&Arc<Node>> {
        self.nodes.get(&id)
    }

    /// All nodes in the order of their ids.
    pub fn nodes(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.nodes.values()
    }

    /// How many nodes there are.
    #[must_use]
    pub fn n_nodes(&self) -> usize {
        self.nodes.len()
    }

    /// A service by id.
    #[must_use]
    pub fn service(&self, id: ServiceId) -> Option<&Arc<Service>> {
        self.services.get(&id)
    }

    /// A service by its whole name.
    #[must_use]
    pub fn service_by_name(&self, name: &str) -> Option<&Arc<Service>> {
        self.services.get(self.service_names.get(&name as &dyn Named)?)
    }

    /// A service whose name differs from this one by case alone, or not at all.
    #[must_use]
    pub fn service_named_alike(&self, name: &str) -> Option<&Arc<Service>> {
        let capitals = name.to_ascii_uppercase();
        let first: &dyn Named = &capitals.as_str();
        let alike = || {
            let mut from =
                self.service_names.range::<_, dyn Named>((Bound::Included(first), Bound::Unbounded));
            from.next().filter(|(own, _)| own.name().eq_ignore_ascii_case(name)).map(|(_, id)| id)
        };
        let id = self.service_names.get(&name as &dyn Named).or_else(alike)?;
        self.services.get(id)
    }

    /// All services in the order of their ids.
    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.values()
    }

    /// A task by id.
    #[must_use]
    pub fn task(&self, id: TaskId) -> Option<&Arc<Task>> {
        self.tasks.get(&id)
    }

    /// All tasks in the order of their ids.
    pub fn tasks(&self) -> impl Iterator<Item = &Arc<Task>> {
        self.tasks.values()
    }

    /// How many tasks there are.
    #[must_use]
    pub fn n_tasks(&self) -> usize {
        self.tasks.len()
    }

    /// The tasks of a service, by slot.
    pub fn tasks_of_service(&self, id: ServiceId) -> impl Iterator<Item = &Arc<Task>> {
        let range = (id, 0, TaskId(ID_MIN))..=(id, u64::MAX, TaskId(ID_MAX));
        self.tasks_by_service.range(range).filter_map(|(_, _, task)| self.tasks.get(task))
    }

    /// The tasks of one seat, in the order of their ids.
    #[must_use]
    pub fn tasks_of_seat(&self, id: ServiceId, seat: SeatKey) -> Vec<&Arc<Task>> {
        let (first, last) = (TaskId(ID_MIN), TaskId(ID_MAX));
        let ids: Vec<TaskId> = match seat {
            SeatKey::Slot(slot) => {
                let found = self.tasks_by_service.range((id, slot, first)..=(id, slot, last));
                found.map(|(.., task)| *task).collect()
            }
            SeatKey::Node(node) => {
                let found = self.tasks_by_seat_node.range((id, node, first)..=(id, node, last));
                found.map(|(.., task)| *task).collect()
            }
        };
        let tasks = ids.iter().filter_map(|task| self.tasks.get(task));
        // All tasks of nodes have slot 0.
        tasks.filter(|task| task.seat() == seat).collect()
    }

    /// The tasks on a node.
    pub fn tasks_of_node(&self, id: NodeId) -> impl Iterator<Item = &Arc<Task>> {
        let range = (id, TaskId(ID_MIN))..=(id, TaskId(ID_MAX));
        self.tasks_by_node.range(range).filter_map(|(_, task)| self.tasks.get(task))
    }

    /// Services that have tasks, also those already removed.
    pub fn services_with_tasks(&self) -> impl Iterator<Item = ServiceId> {
        let first = self.tasks_by_service.get_min().map(|(service, ..)| *service);
        std::iter::successors(first, |last| {
            let after = (*last, u64::MAX, TaskId(ID_MAX));
            self.tasks_by_service
                .range((Bound::Excluded(after), Bound::Unbounded))
                .next()
                .map(|(next, ..)| *next)
        })
    }

    /// Runnable tasks that have no node yet, by service.
    pub fn unplaced_tasks(&self) -> impl Iterator<Item = &Arc<Task>> {
        self.unplaced.iter().filter_map(|(_, task)| self.tasks.get(task))
    }

    /// Runnable tasks of a service that have no node yet.
    pub fn unplaced_of_service(&self, id: ServiceId) -> impl Iterator<Item = &Arc<Task>> {
        let range = (id, TaskId(ID_MIN))..=(id, TaskId(ID_MAX));
        self.unplaced.range(range).filter_map(|(_, task)| self.tasks.get(task))
    }

    /// The services of these.
    pub fn services_with_unplaced(&self) -> impl Iterator<Item = ServiceId> {
        let first = self.service_with_unplaced_after(None);
        std::iter::successors(first, |last| self.service_with_unplaced_after(Some(*last)))
    }

    /// The first of them behind a service, or of all.
    #[must_use]
    pub fn service_with_unplaced_after(&self, last: Option<ServiceId>) -> Option<ServiceId> {
        let from = last.map_or(Bound::Unbounded, |last| Bound::Excluded((last, TaskId(ID_MAX))));
        self.unplaced.range((from, Bound::Unbounded)).next().map(|(service, _)| *service)
    }

    /// What live tasks take of a node.
    #[must_use]
    pub fn node_load(&self, id: NodeId) -> NodeLoad {
        self.loads.get(&id).cloned().unwrap_or_default()
    }

    /// All nodes in the order of their ids, with what live tasks take of them.
    pub fn nodes_with_load(&self) -> impl Iterator<Item = (&Arc<Node>, &NodeLoad)> {
        let mut loads = self.loads.iter().peekable();
        self.nodes.iter().map(move |(id, node)| {
            while loads.next_if(|(other, _)| *other < id).is_some() {}
            (node, loads.next_if(|(other, _)| *other == id).map_or(&NO_LOAD, |(_, load)| load))
        })
    }

    /// A view of the nodes and their load alone: for who keeps it, and not all else with it.
    #[must_use]
    pub fn nodes_only(&self) -> Self {
        Self { nodes: self.nodes.clone(), loads: self.loads.clone(), ..Self::default() }
    }

    /// Services that have a task on each node, jobs too.
    pub fn global_services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.globals.iter().filter_map(|id| self.services.get(id))
    }

    /// Services whose tasks may be moved so that nodes are even.
    pub fn balanced_services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.balanced.iter().filter_map(|id| self.services.get(id))
    }

    /// Services whose tasks come before others, with their priorities: the lowest first.
    pub fn ranked_services(&self) -> impl DoubleEndedIterator<Item = (u64, ServiceId)> {
        self.ranked.iter().copied()
    }

    /// Live tasks whose room is for another one, behind that one; but for those on nodes that are down, of which nobody
    /// knows when they have stopped.
    pub fn rooms(&self) -> impl Iterator<Item = (TaskId, &Arc<Task>)> {
        let is_there = |task: &&Arc<Task>| {
            let node = task.node_id.and_then(|id| self.nodes.get(&id));
            node.is_some_and(|node| node.status.state != NodeState::Down)
        };
        let room =
            move |(other, task): &(TaskId, TaskId)| Some((*other, self.tasks.get(task).filter(is_there)?));
        self.room_for.iter().filter_map(room)
    }

    /// How many of these there are.
    #[must_use]
    pub fn n_rooms(&self) -> usize {
        self.rooms().count()
    }

    /// Nodes that are down, with since when; the longest first.
    pub fn down_nodes(&self) -> impl Iterator<Item = (Timestamp, NodeId)> {
        self.down.iter().copied()
    }

    /// The nodes that are new, gone or otherwise than in `old`, or whose load is. Costs as much as what is not shared.
    #[must_use]
    pub fn nodes_touched_since(&self, old: &Self) -> BTreeSet<NodeId> {
        let mut touched = BTreeSet::new();
        for item in old.nodes.diff(&self.nodes) {
            let (DiffItem::Add(id, _) | DiffItem::Remove(id, _) | DiffItem::Update { new: (id, _), .. }) =
                item;
            touched.insert(*id);
        }
        for item in old.loads.diff(&self.loads) {
            let (DiffItem::Add(id, _) | DiffItem::Remove(id, _) | DiffItem::Update { new: (id, _), .. }) =
                item;
            touched.insert(*id);
        }
        touched
    }

    /// A view of the nodes and of who is on them alone, and of whose tasks come before whose.
    #[must_use]
    pub fn tenants_only(&self) -> Self {
        let (tasks_by_node, ranked) = (self.tasks_by_node.clone(), self.ranked.clone());
        Self { tasks_by_node, ranked, ..self.nodes_only() }
    }

    /// The nodes that are otherwise than in `old`, or have other tasks, or tasks of which others are wanted; all where
    /// priorities of services are others.
    #[must_use]
    pub fn nodes_retenanted_since(&self, old: &Self) -> BTreeSet<NodeId> {
        if self.ranked != old.ranked {
            return self.nodes.keys().copied().collect();
        }
        let mut touched = self.nodes_touched_since(old);
        for item in old.tasks_by_node.diff(&self.tasks_by_node) {
            let (ordset::DiffItem::Add((node, _)) | ordset::DiffItem::Remove((node, _))) = item;
            touched.insert(*node);
        }
        touched
    }

    /// A network by id.
    #[must_use]
    pub fn network(&self, id: NetworkId) -> Option<&Arc<Network>> {
        self.networks.get(&id)
    }

    /// A network by its whole name.
    #[must_use]
    pub fn network_by_name(&self, name: &str) -> Option<&Arc<Network>> {
        self.networks.get(self.network_names.get(name)?)
    }

    /// All networks in the order of their ids; the ingress network is none of them.
    pub fn networks(&self) -> impl Iterator<Item = &Arc<Network>> {
        self.networks.values()
    }

    /// The services whose current specs name a network.
    pub fn services_on_network(&self, id: NetworkId) -> impl Iterator<Item = &Arc<Service>> {
        self.network_users.get(&id).into_iter().flatten().filter_map(|service| self.services.get(service))
    }

    /// The range of another network that overlaps with `subnet`, and whose it is.
    #[must_use]
    pub fn overlapping_subnet(&self, subnet: Cidr) -> Option<(Cidr, NetworkId)> {
        // The last one that begins within `subnet` or before it.
        let (_, (other, owner)) = self.subnets.range(..=subnet.last()).next_back()?;
        other.overlaps(subnet).then_some((*other, *owner))
    }

    /// Which network has a VXLAN id.
    #[must_use]
    pub fn vni_owner(&self, vni: u32) -> Option<NetworkId> {
        self.vnis.get(&vni).copied()
    }

    /// Which service holds a port of the ingress network.
    #[must_use]
    pub fn port_owner(&self, protocol: &str, published: u16) -> Option<ServiceId> {
        self.ports.get(&(protocol.to_owned(), published)).copied()
    }

    /// The services that ask for a port under this number, in either mode.
    pub fn services_asking_for(&self, protocol: &str, published: u16) -> impl Iterator<Item = &Arc<Service>> {
        let key = |id| (protocol.to_owned(), published, ServiceId(id));
        let found = self.asked_ports.range(key(ID_MIN)..=key(ID_MAX));
        found.filter_map(|(.., service)| self.services.get(service))
    }

    /// The runnable task that a port of a node is for.
    #[must_use]
    pub fn host_port_owner(&self, node: NodeId, protocol: &str, published: u16) -> Option<TaskId> {
        let holders = self.host_port_holders(node, protocol, published);
        holders.filter(|task| task.is_runnable()).map(|task| task.id).next()
    }

    /// The live tasks that have a port of a node open, also those being stopped.
    pub fn host_port_holders(
        &self,
        node: NodeId,
        protocol: &str,
        published: u16,
    ) -> impl Iterator<Item = &Arc<Task>> {
        let key = |id| (protocol.to_owned(), published, node, TaskId(id));
        let held = self.host_ports.range(key(ID_MIN)..=key(ID_MAX));
        held.filter_map(|(.., task)| self.tasks.get(task))
    }

    /// The nodes on which a live task has a port open, also one being stopped; a node may come twice.
    pub fn nodes_with_host_port(&self, protocol: &str, published: u16) -> impl Iterator<Item = NodeId> {
        let key = |id| (protocol.to_owned(), published, NodeId(id), TaskId(id));
        self.host_ports.range(key(ID_MIN)..=key(ID_MAX)).map(|(_, _, node, _)| *node)
    }

    /// Whether an address of the ingress network is given to somebody.
    #[must_use]
    pub fn is_address_taken(&self, address: Ipv4Addr) -> bool {
        self.addresses.contains_key(&address)
    }

    /// Live tasks that have an address of the ingress network, in the order of these.
    pub fn tasks_with_address(&self) -> impl Iterator<Item = &Arc<Task>> {
        // The other addresses are nodes'.
        self.addresses.values().filter_map(|id| self.task(TaskId(*id)))
    }

    /// The key of a live, placed task whose room is for another one.
    pub(crate) fn room_key(task: &Task) -> Option<(TaskId, TaskId)> {
        let other = task.room_for().filter(|_| task.is_live() && task.node_id.is_some())?;
        Some((other, task.id))
    }

    /// The host-mode ports that a live, placed task holds on its node, as keys.
    pub(crate) fn host_port_keys(task: &Task) -> impl Iterator<Item = (String, u16, NodeId, TaskId)> + '_ {
        let node = task.node_id.filter(|_| task.is_live());
        task.ports.iter().filter_map(move |port: &PortConfig| {
            let held = !port.is_ingress() && port.published_port != 0;
            held.then(|| node.map(|node| (port.protocol().to_owned(), port.published_port, node, task.id)))?
        })
    }
}
