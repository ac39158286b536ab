//! A store from its records: objects first, then the indexes of all tasks at once, which is several times
//! quicker than one task after the other, and can be done by two. What the indexes are made of is noted when a
//! task comes: later each look at one would be a look at cold memory.

use std::{collections::BTreeSet, fmt, net::Ipv4Addr, sync::Arc};

use imbl::{OrdMap, OrdSet};
use skep_api::{
    Id, NodeId, RequestId, ServiceId, TaskId, Timestamp,
    object::{Cluster, Network, Node, Service, Task, Ticket},
    spec::ServiceSpec,
    wire,
};

use crate::{
    NodeLoad, Record, Refusal, RefusalKind, Store, View,
    apply::resource_taken,
    level,
    snapshot::{FORMAT, SnapshotError},
};

/// So many tasks are put into the map at once.
const WINDOW: usize = 4096;

/// A store as far as its records have come. [`Store::restore`] does it all; this is for who reads elsewhere.
#[derive(Debug, Default)]
pub struct Restoring {
    has_format: bool,
    /// Of the last record.
    place: u8,
    revision: u64,
    store: Store,
    tasks: Vec<Arc<Task>>,
    /// How many of the tasks are in the map.
    n_put: usize,
    noted: Noted,
}

/// Of each task, what its indexes hold.
#[derive(Debug, Default)]
struct Noted {
    /// Host ports that runnable tasks have.
    owned_ports: BTreeSet<(String, u16, NodeId)>,
    by_service: Vec<(ServiceId, u64, TaskId)>,
    /// With the task's place.
    by_node: Vec<(NodeId, TaskId, usize)>,
    addresses: Vec<(Ipv4Addr, Id)>,
}

/// What of the end of a restoration may run on a thread of its own.
pub type Job<'a> = &'a mut (dyn FnMut() + Send);

impl Restoring {
    /// Takes the next record over.
    ///
    /// # Errors
    /// It does not fit to those before.
    pub fn take(&mut self, record: Record) -> Result<(), SnapshotError> {
        let place = std::mem::replace(&mut self.place, record.place());
        if self.place < place {
            return Err(SnapshotError("its records stand out of order".to_owned()));
        }
        match record {
            Record::Format(format) if format == u64::from(FORMAT) => self.has_format = true,
            Record::Format(format) => {
                return Err(SnapshotError(format!("it has format {format}, and this build reads {FORMAT}")));
            }
            Record::Revision(revision) => self.revision = revision,
            Record::Cluster(cluster) => {
                let cluster: Cluster = (*cluster).try_into().map_err(Refusal::from)?;
                // What follows may be what only a newer build reads.
                level::check(cluster.feature_level).map_err(|error| SnapshotError(error.to_string()))?;
                once(self.store.view.cluster.is_none(), format_args!("the swarm"))?;
                self.store.view.cluster = Some(Arc::new(cluster));
            }
            Record::Node(node) => self.store.view.restore_node((*node).try_into().map_err(Refusal::from)?)?,
            Record::Network(network) => {
                self.store.view.restore_network((*network).try_into().map_err(Refusal::from)?)?;
            }
            Record::Service(service) => {
                self.store.view.restore_service((*service).try_into().map_err(Refusal::from)?)?;
            }
            Record::Spec(spec) => self.store.view.restore_spec(&spec)?,
            Record::Task(task) => self.take_task(task)?,
            Record::Ticket(ticket) => {
                let ticket: Ticket = (*ticket).try_into().map_err(Refusal::from)?;
                once(
                    !self.store.view.tickets.contains_key(&ticket.id),
                    format_args!("ticket {}", ticket.id),
                )?;
                self.store.view.restore_ticket(ticket);
            }
            Record::Request(request) => {
                let id = RequestId::from_bytes(&request.id).ok_or_else(|| without("a request", "an id"))?;
                // Twice in the order and once in the map, it would never be forgotten whole.
                once(!self.store.requests.contains_key(&id), format_args!("request {id}"))?;
                self.store.remember(id, request.answer);
            }
        }
        Ok(())
    }

    fn take_task(&mut self, mut task: Arc<Task>) -> Result<(), Refusal> {
        let view = &mut self.store.view;
        let Some((spec, n_tasks)) = view.specs.get_mut(&(task.service_id, task.spec_version)) else {
            let words = format!("service {} has no spec version {}", task.service_id, task.spec_version);
            return Err(Refusal::new(RefusalKind::Missing, words));
        };
        *n_tasks += 1;
        if self.tasks.last().is_some_and(|last| last.id >= task.id) {
            return Err(Refusal::new(RefusalKind::Format, format!("task {} stands out of order", task.id)));
        }
        let new = Arc::make_mut(&mut task);
        new.spec = Arc::clone(spec);
        // One allocation for the ports of a service and its tasks.
        if let Some(service) = view.services.get(&new.service_id).filter(|service| service.ports == new.ports)
        {
            new.ports = Arc::clone(&service.ports);
        }
        self.noted.by_service.push((task.service_id, task.slot, task.id));
        if let Some(node) = task.node_id {
            self.noted.by_node.push((node, task.id, self.tasks.len()));
        }
        if let Some(address) = task.ingress_addr.filter(|_| task.is_live()) {
            self.noted.addresses.push((address, task.id.0));
        }
        view.put_wants(&task, &mut self.noted.owned_ports)?;
        self.tasks.push(task);
        if self.tasks.len() - self.n_put == WINDOW {
            self.put_read();
        }
        Ok(())
    }

    /// Puts the tasks that came into the map.
    fn put_read(&mut self) {
        let read = &self.tasks[self.n_put..];
        for at in in_two_passes(read.len()) {
            self.store.view.tasks.insert(read[at].id, Arc::clone(&read[at]));
        }
        self.n_put = self.tasks.len();
    }

    /// The store, after the last record. Two halves of what is left to do are given to `both`, which runs them,
    /// side by side if it can, and returns when both are done.
    ///
    /// # Errors
    /// There was no record that says the format, or two tasks have what only one may have.
    pub fn end(mut self, both: impl FnOnce(Job<'_>, Job<'_>)) -> Result<Store, SnapshotError> {
        if !self.has_format {
            return Err(SnapshotError("it names no format".to_owned()));
        }
        self.put_read();
        let Noted { by_service: services, by_node: nodes, addresses, owned_ports: _ } = &mut self.noted;
        let tasks = &self.tasks;
        let view = &mut self.store.view;
        let mut by_service = OrdSet::new();
        let mut held = std::mem::take(&mut view.addresses);
        let (mut are_free, mut given) = (Ok(()), Ok(()));
        both(
            &mut || {
                by_service = index_by_service(services);
                are_free = put_addresses(&mut held, addresses);
            },
            &mut || given = view.put_placed(nodes, tasks),
        );
        are_free.and(given)?;
        view.tasks_by_service = by_service;
        view.addresses = held;
        view.revision = self.revision;
        Ok(self.store)
    }
}

fn without(what: &str, field: &str) -> Refusal {
    Refusal::new(RefusalKind::Format, format!("{what} is without {field}"))
}

/// Refuses what stands in a snapshot for the second time: it would be in the indexes twice, and in the state once.
fn once(is_new: bool, what: fmt::Arguments<'_>) -> Result<(), Refusal> {
    if is_new { Ok(()) } else { Err(Refusal::new(RefusalKind::Format, format!("{what} stands there twice"))) }
}

/// The places of `n` sorted keys in the order in which they are put into a map: five of each eight, then the
/// rest, both from the first to the last. In one pass each leaf would be left half full.
fn in_two_passes(n: usize) -> impl Iterator<Item = usize> {
    (0..n).filter(|at| at % 8 < 5).chain((0..n).filter(|at| at % 8 >= 5))
}

fn index_by_service(noted: &mut [(ServiceId, u64, TaskId)]) -> OrdSet<(ServiceId, u64, TaskId)> {
    noted.sort_unstable();
    let mut index = OrdSet::new();
    for at in in_two_passes(noted.len()) {
        index.insert(noted[at]);
    }
    index
}

fn put_addresses(held: &mut OrdMap<Ipv4Addr, Id>, noted: &mut [(Ipv4Addr, Id)]) -> Result<(), Refusal> {
    noted.sort_unstable();
    for at in in_two_passes(noted.len()) {
        let (address, owner) = noted[at];
        if held.insert(address, owner).is_some() {
            let words = format!("address {address} is given to two");
            return Err(Refusal::new(RefusalKind::AddressTaken, words));
        }
    }
    Ok(())
}

impl View {
    /// A seat that is a node, and what a live task wants or holds. `owned` are the ports that tasks before it are to
    /// keep open.
    fn put_wants(&mut self, task: &Task, owned: &mut BTreeSet<(String, u16, NodeId)>) -> Result<(), Refusal> {
        if let Some(node) = task.for_node() {
            self.tasks_by_seat_node.insert((task.service_id, node, task.id));
        }
        if task.node_id.is_none() && task.is_runnable() {
            self.unplaced.insert((task.service_id, task.id));
        }
        self.room_for.extend(Self::room_key(task));
        for key in Self::host_port_keys(task) {
            let (port, node) = (key.1, key.2);
            if task.is_runnable() && !owned.insert((key.0.clone(), port, node)) {
                let words = format!("port '{port}' of node {node} is in use by two tasks");
                return Err(Refusal::new(RefusalKind::PortTaken, words));
            }
            self.host_ports.insert(key);
        }
        Ok(())
    }

    /// The indexes by node.
    fn put_placed(
        &mut self,
        noted: &mut [(NodeId, TaskId, usize)],
        tasks: &[Arc<Task>],
    ) -> Result<(), Refusal> {
        noted.sort_unstable();
        for at in in_two_passes(noted.len()) {
            let (node, task, _) = noted[at];
            self.tasks_by_node.insert((node, task));
        }
        for of_node in noted.chunk_by(|one, other| one.0 == other.0) {
            let mut load = NodeLoad::default();
            for (_, _, at) in of_node {
                if !load.add(&tasks[*at]) {
                    return Err(resource_taken(&tasks[*at]));
                }
            }
            if load != NodeLoad::default() {
                self.loads.insert(of_node[0].0, load);
            }
        }
        Ok(())
    }

    // Each puts its object as if it were new, and gives it back the meta that it had.

    fn restore_node(&mut self, node: Node) -> Result<(), Refusal> {
        let (id, meta) = (node.id, node.meta);
        once(!self.nodes.contains_key(&id), format_args!("node {id}"))?;
        self.put_node(&Arc::new(node), Timestamp(0))?;
        if let Some(node) = self.nodes.get_mut(&id) {
            Arc::make_mut(node).meta = meta;
        }
        Ok(())
    }

    fn restore_network(&mut self, network: Network) -> Result<(), Refusal> {
        let (id, meta) = (network.id, network.meta);
        once(!self.networks.contains_key(&id), format_args!("network {id}"))?;
        self.put_network(&Arc::new(network), Timestamp(0))?;
        if let Some(network) = self.networks.get_mut(&id) {
            Arc::make_mut(network).meta = meta;
        }
        Ok(())
    }

    fn restore_service(&mut self, service: Service) -> Result<(), Refusal> {
        let (id, meta, auth_version) = (service.id, service.meta, service.auth_version);
        once(!self.services.contains_key(&id), format_args!("service {id}"))?;
        // A service's spec version is the revision at which the spec was put.
        self.revision = service.spec_version;
        self.put_service(&Arc::new(service), Timestamp(0))?;
        if let Some(service) = self.services.get_mut(&id) {
            let service = Arc::make_mut(service);
            (service.meta, service.auth_version) = (meta, auth_version);
        }
        Ok(())
    }

    fn restore_spec(&mut self, spec: &wire::StoredSpec) -> Result<(), Refusal> {
        let service =
            ServiceId::from_bytes(&spec.service_id).ok_or_else(|| without("a spec", "a service"))?;
        let read: ServiceSpec = serde_json::from_slice(&spec.spec)
            .map_err(|e| Refusal::new(RefusalKind::Format, format!("a spec of service {service}: {e}")))?;
        let is_new = self.specs.insert((service, spec.version), (Arc::new(read), 0)).is_none();
        once(is_new, format_args!("spec {} of service {service}", spec.version))
    }
}
