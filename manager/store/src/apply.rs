//! Applies proposals: the only writer of the replicated state.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
};

use imbl::OrdMap;
use prost::Message;
use skep_api::{
    NetworkId, RequestId, ServiceId, TaskId, Timestamp,
    convert::task_in,
    object::{Cluster, Meta, Node, Service, Task, TaskStatus},
    spec::PortConfig,
    wire,
};

use crate::{Change, Guard, ObjectRef, Refusal, RefusalKind, View, proposal::FORMAT, view::NodeLoad};

/// The replicated state of one manager.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Store {
    pub(crate) view: View,
    pub(crate) requests: OrdMap<RequestId, Vec<u8>>,
    pub(crate) request_order: VecDeque<RequestId>,
    /// Of all remembered answers.
    pub(crate) answer_bytes: usize,
}

/// How far a state that is made anew jumps: more changes than any swarm makes.
pub const JUMP: u64 = 1 << 32;

/// What came of one log entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Applied {
    /// For the proposer; read by [`crate::decode_result`].
    pub answer: Vec<u8>,
    /// What it changed.
    pub changed: Vec<ObjectRef>,
}

impl Store {
    /// The current state; O(1).
    #[must_use]
    pub fn view(&self) -> View {
        self.view.clone()
    }

    /// Goes on with revisions that no state before this one can have had: a swarm that is made anew from what one
    /// manager or a backup holds gives no version out again that the lost one may have given.
    pub fn jump(&mut self) {
        self.view.revision = self.view.revision.saturating_add(JUMP);
    }

    /// Applies one entry of the log. A refused one changes nothing; a repeated request gets its first answer.
    pub fn apply(&mut self, entry: &[u8]) -> Applied {
        let proposal = match wire::Proposal::decode(entry) {
            Ok(proposal) => proposal,
            Err(error) => {
                return refused(&Refusal::new(RefusalKind::Format, format!("malformed proposal: {error}")));
            }
        };
        let request = RequestId::from_bytes(&proposal.request_id);
        if let Some(answer) = request.and_then(|id| self.requests.get(&id)) {
            return Applied { answer: answer.clone(), changed: Vec::new() };
        }
        let mut view = self.view.clone();
        let follows = self.check_follows(&proposal.follows);
        let applied = match follows.and_then(|()| view.apply_proposal(proposal)) {
            Ok(changed) => {
                self.view = view;
                let answer = wire::ProposalResult { revision: self.view.revision, refusal: None };
                Applied { answer: answer.encode_to_vec(), changed }
            }
            Err(refusal) => refused(&refusal),
        };
        if let Some(id) = request {
            self.remember(id, applied.answer.clone());
        }
        applied
    }
}

fn refused(refusal: &Refusal) -> Applied {
    let answer = wire::ProposalResult { revision: 0, refusal: Some(refusal.into()) };
    Applied { answer: answer.encode_to_vec(), changed: Vec::new() }
}

impl View {
    fn apply_proposal(&mut self, proposal: wire::Proposal) -> Result<Vec<ObjectRef>, Refusal> {
        if proposal.format != FORMAT {
            let words = format!("proposal of format {}, this build reads {FORMAT}", proposal.format);
            return Err(Refusal::new(RefusalKind::Format, words));
        }
        for guard in &proposal.guards {
            Guard::try_from(guard)?.check(self)?;
        }
        let now = Timestamp(proposal.now);
        let mut changed = Vec::with_capacity(proposal.changes.len());
        let mut slots = BTreeSet::new();
        for change in proposal.changes {
            let change = self.read_change(change)?;
            if let Change::PutTask(task) = &change {
                slots.insert((task.service_id, task.slot));
            }
            changed.extend(self.apply_change(&change, now)?);
        }
        for key in slots {
            self.check_slot(key)?;
        }
        Ok(changed)
    }

    fn check_slot(&self, key: (ServiceId, u64)) -> Result<(), Refusal> {
        let n_counted = self.tasks_of_slot(key.0, key.1).filter(|task| task.is_runnable()).count();
        if n_counted <= 1 {
            return Ok(());
        }
        let words = format!("slot {} of service {} would have {n_counted} tasks", key.1, key.0);
        Err(Refusal::new(RefusalKind::SlotTaken, words))
    }

    /// Reads a change in the light of this view: a stored task names its spec by version.
    fn read_change(&self, change: wire::Change) -> Result<Change, Refusal> {
        use wire::change::Change as In;
        let format = |what: &str| Refusal::new(RefusalKind::Format, format!("change without {what}"));
        Ok(match change.change.ok_or_else(|| format("content"))? {
            In::PutService(service) => Change::PutService(Arc::new(service.try_into()?)),
            In::DeleteService(id) => {
                Change::DeleteService(ServiceId::from_bytes(&id).ok_or_else(|| format("id"))?)
            }
            In::PutTask(task) => {
                let service = ServiceId::from_bytes(&task.service_id).ok_or_else(|| format("service id"))?;
                let (spec, _) = self.specs.get(&(service, task.spec_version)).ok_or_else(|| {
                    let words = format!("service {service} has no spec version {}", task.spec_version);
                    Refusal::new(RefusalKind::Missing, words)
                })?;
                Change::PutTask(Arc::new(task_in(task, Arc::clone(spec))?))
            }
            In::DeleteTask(id) => Change::DeleteTask(TaskId::from_bytes(&id).ok_or_else(|| format("id"))?),
            In::PutNode(node) => Change::PutNode(Arc::new(node.try_into()?)),
            In::DeleteNode(id) => {
                Change::DeleteNode(skep_api::NodeId::from_bytes(&id).ok_or_else(|| format("id"))?)
            }
            In::PutNetwork(network) => Change::PutNetwork(Arc::new(network.try_into()?)),
            In::DeleteNetwork(id) => {
                Change::DeleteNetwork(NetworkId::from_bytes(&id).ok_or_else(|| format("id"))?)
            }
            In::PutCluster(cluster) => Change::PutCluster(Arc::new(cluster.try_into()?)),
            In::TaskStatus(report) => Change::TaskStatus(
                TaskId::from_bytes(&report.task_id).ok_or_else(|| format("id"))?,
                report.status.unwrap_or_default().try_into()?,
            ),
            In::NodeStatus(report) => Change::NodeStatus(
                skep_api::NodeId::from_bytes(&report.node_id).ok_or_else(|| format("id"))?,
                report.status.unwrap_or_default().try_into()?,
            ),
        })
    }

    /// Applies one change; the same on a replica and in a draft.
    pub(crate) fn apply_change(
        &mut self,
        change: &Change,
        now: Timestamp,
    ) -> Result<Option<ObjectRef>, Refusal> {
        self.revision += 1;
        match change {
            Change::PutService(service) => self.put_service(service, now).map(Some),
            Change::DeleteService(id) => Ok(self.delete_service(*id)),
            Change::PutTask(task) => self.put_task(task, now).map(Some),
            Change::DeleteTask(id) => Ok(self.delete_task(*id)),
            Change::PutNode(node) => self.put_node(node, now).map(Some),
            Change::DeleteNode(id) => {
                let old = self.nodes.remove(id);
                if let Some(address) = old.as_ref().and_then(|node| node.ingress_addr) {
                    self.addresses.remove(&address);
                }
                Ok(old.map(|_| ObjectRef::Node(*id)))
            }
            Change::PutCluster(cluster) => {
                let feature_level = self.level_with(cluster)?;
                let old = self.cluster.as_ref().map(|c| c.meta);
                let meta = self.meta(old, now);
                self.cluster = Some(Arc::new(Cluster { meta, feature_level, ..(**cluster).clone() }));
                Ok(Some(ObjectRef::Cluster))
            }
            Change::PutNetwork(network) => self.put_network(network, now).map(Some),
            Change::DeleteNetwork(id) => self.delete_network(*id),
            Change::TaskStatus(id, status) => {
                let Some(old) = self.tasks.get(id).cloned() else { return Ok(None) };
                let Some(status) = merged(&old.status, status) else { return Ok(None) };
                let new = Task { status, ..(*old).clone() };
                Ok(Some(self.replace_task(Some(&old), new)?))
            }
            Change::NodeStatus(id, status) => {
                let Some(old) = self.nodes.get(id).filter(|node| node.status != *status) else {
                    return Ok(None);
                };
                let new = Node { status: status.clone(), ..(**old).clone() };
                self.nodes.insert(*id, Arc::new(new));
                Ok(Some(ObjectRef::Node(*id)))
            }
        }
    }

    pub(crate) fn meta(&self, old: Option<Meta>, now: Timestamp) -> Meta {
        Meta { version: self.revision, created_at: old.map_or(now, |m| m.created_at), updated_at: now }
    }

    pub(crate) fn put_service(
        &mut self,
        service: &Arc<Service>,
        now: Timestamp,
    ) -> Result<ObjectRef, Refusal> {
        let id = service.id;
        let old = self.services.get(&id).cloned();
        let name = &service.spec.name;
        if self.service_names.get(name).is_some_and(|owner| *owner != id) {
            let words = format!("name conflicts with an existing object: service {name} already exists");
            return Err(Refusal::new(RefusalKind::NameTaken, words));
        }
        #[cfg(feature = "next-level")]
        self.check_names_of_next_level(service)?;
        let mut new = Service { meta: self.meta(old.as_ref().map(|o| o.meta), now), ..(**service).clone() };
        new.spec_version = self.revision;
        if let Some(old) = old.as_ref().filter(|old| old.spec == new.spec) {
            new.spec_version = old.spec_version;
            // One allocation for the service and its tasks.
            new.spec = Arc::clone(&old.spec);
        }
        if let Some(old) = &old {
            self.service_names.remove(&old.spec.name);
            for port in old.ports.iter().filter(|port| port.is_ingress()) {
                self.ports.remove(&port_key(port));
            }
        }
        for port in new.ports.iter().filter(|port| port.is_ingress() && port.published_port != 0) {
            if let Some(owner) = self.ports.get(&port_key(port)) {
                return Err(Refusal::new(RefusalKind::PortTaken, self.port_taken(port, *owner)));
            }
            self.ports.insert(port_key(port), id);
        }
        self.service_names.insert(name.clone(), id);
        self.use_networks(old.as_deref(), &new)?;
        let count = self.specs.get(&(id, new.spec_version)).map_or(0, |(_, n)| *n);
        self.specs.insert((id, new.spec_version), (Arc::clone(&new.spec), count));
        let old_version = old.map(|old| old.spec_version).filter(|version| *version != new.spec_version);
        self.services.insert(id, Arc::new(new));
        if let Some(version) = old_version {
            self.forget_spec(id, version);
        }
        Ok(ObjectRef::Service(id))
    }

    /// Swarm's words for a port that another service has, in that one's mode (`SK:manager/controlapi/service.go`).
    #[must_use]
    pub fn port_taken(&self, port: &PortConfig, owner: ServiceId) -> String {
        let name = self.services.get(&owner).map_or("?", |service| service.spec.name.as_str());
        let kind = if port.is_ingress() { "an ingress port" } else { "a host-published port" };
        format!("port '{}' is already in use by service '{name}' ({owner}) as {kind}", port.published_port)
    }

    fn delete_service(&mut self, id: ServiceId) -> Option<ObjectRef> {
        let old = self.services.remove(&id)?;
        self.service_names.remove(&old.spec.name);
        for port in old.ports.iter().filter(|port| port.is_ingress()) {
            self.ports.remove(&port_key(port));
        }
        self.unuse_networks(&old);
        self.forget_spec(id, old.spec_version);
        Some(ObjectRef::Service(id))
    }

    /// Drops a spec version that neither the service nor a task refers to.
    fn forget_spec(&mut self, service: ServiceId, version: u64) {
        let is_current = self.services.get(&service).is_some_and(|s| s.spec_version == version);
        let unused = self.specs.get(&(service, version)).is_some_and(|(_, count)| *count == 0);
        if unused && !is_current {
            self.specs.remove(&(service, version));
        }
    }

    fn put_task(&mut self, task: &Arc<Task>, now: Timestamp) -> Result<ObjectRef, Refusal> {
        let old = self.tasks.get(&task.id).cloned();
        let mut new = Task { meta: self.meta(old.as_ref().map(|o| o.meta), now), ..(**task).clone() };
        if let Some(old) = &old {
            new.status = merged(&old.status, &new.status).unwrap_or_else(|| old.status.clone());
            new.desired_state = new.desired_state.max(old.desired_state);
            // Decisions are guarded by the task's version, so this is a bug of the proposer; a panic here
            // would stop every replica, and again at each replay.
            let moves = old.node_id.is_some() && old.node_id != new.node_id;
            let changes =
                (old.service_id, old.spec_version, old.slot) != (new.service_id, new.spec_version, new.slot);
            if moves || changes {
                let words = format!("task {} would change its node, slot or spec: it never does", task.id);
                return Err(Refusal::new(RefusalKind::Stale, words));
            }
        } else {
            let key = (new.service_id, new.spec_version);
            let Some((spec, count)) = self.specs.get(&key).cloned() else {
                let words = format!("service {} has no spec version {}", new.service_id, new.spec_version);
                return Err(Refusal::new(RefusalKind::Missing, words));
            };
            self.specs.insert(key, (spec, count + 1));
        }
        self.replace_task(old.as_ref(), new)
    }

    /// Takes `old` out of every index and puts `new` into them.
    pub(crate) fn replace_task(&mut self, old: Option<&Arc<Task>>, new: Task) -> Result<ObjectRef, Refusal> {
        let (id, node) = (new.id, new.node_id);
        let task = Arc::new(self.sharing(old.map(|old| &**old), new));
        // Most of what is said of a task moves it in no index.
        let stays = old.is_some_and(|old| is_indexed_alike(old, &task));
        if let Some(old) = old.filter(|_| !stays) {
            self.unindex(old);
        }
        if !stays {
            self.index(&task)?;
        }
        let reference = ObjectRef::Task(id, task.service_id, node);
        self.tasks.insert(id, task);
        Ok(reference)
    }

    /// The task with its ports in one allocation with those of its service, or of what it was before.
    fn sharing(&self, old: Option<&Task>, mut new: Task) -> Task {
        let service = || self.services.get(&new.service_id).map(|service| &service.ports);
        let equal = |ports: &&Arc<[PortConfig]>| **ports == new.ports;
        let shared = old.map(|old| &old.ports).filter(equal).or_else(|| service().filter(equal));
        if let Some(ports) = shared {
            new.ports = Arc::clone(ports);
        }
        new
    }

    fn index(&mut self, task: &Task) -> Result<(), Refusal> {
        self.tasks_by_service.insert((task.service_id, task.slot, task.id));
        match task.node_id {
            Some(node) => {
                self.tasks_by_node.insert((node, task.id));
                let load = self.node_load(node).plus(taken_by(task));
                // None is kept for nothing, whatever was there before: a restored store is the same.
                if load != NodeLoad::default() {
                    self.loads.insert(node, load);
                }
            }
            None if task.is_runnable() => {
                self.unplaced.insert(task.id);
            }
            None => {}
        }
        if task.is_runnable() {
            for key in Self::host_port_keys(task) {
                if let Some(owner) = self.host_ports.get(&key) {
                    let words = format!("port '{}' of node {} is in use by task {owner}", key.2, key.0);
                    return Err(Refusal::new(RefusalKind::PortTaken, words));
                }
                self.host_ports.insert(key, task.id);
            }
        }
        if let Some(address) = task.ingress_addr.filter(|_| task.is_live()) {
            if self.addresses.contains_key(&address) {
                let words = format!("address {address} is given to somebody else");
                return Err(Refusal::new(RefusalKind::AddressTaken, words));
            }
            self.addresses.insert(address, task.id.0);
        }
        Ok(())
    }

    fn unindex(&mut self, task: &Task) {
        self.tasks_by_service.remove(&(task.service_id, task.slot, task.id));
        if let Some(node) = task.node_id {
            self.tasks_by_node.remove(&(node, task.id));
            let taken = taken_by(task);
            let mut load = self.loads.get(&node).copied().unwrap_or_default();
            load.n_tasks =
                load.n_tasks.checked_sub(taken.n_tasks).expect("each task was counted when it was put");
            load.nano_cpus = load.nano_cpus.saturating_sub(taken.nano_cpus);
            load.memory_bytes = load.memory_bytes.saturating_sub(taken.memory_bytes);
            if load == NodeLoad::default() {
                self.loads.remove(&node);
            } else {
                self.loads.insert(node, load);
            }
        }
        self.unplaced.remove(&task.id);
        for key in Self::host_port_keys(task) {
            if self.host_ports.get(&key) == Some(&task.id) {
                self.host_ports.remove(&key);
            }
        }
        if let Some(address) = task.ingress_addr
            && self.addresses.get(&address) == Some(&task.id.0)
        {
            self.addresses.remove(&address);
        }
    }

    fn delete_task(&mut self, id: TaskId) -> Option<ObjectRef> {
        let old = self.tasks.remove(&id)?;
        self.unindex(&old);
        let key = (old.service_id, old.spec_version);
        if let Some((spec, count)) = self.specs.get(&key).cloned() {
            let left = count.checked_sub(1).expect("each task was counted when it was put");
            self.specs.insert(key, (spec, left));
            self.forget_spec(old.service_id, old.spec_version);
        }
        Some(ObjectRef::Task(id, old.service_id, old.node_id))
    }

    pub(crate) fn put_node(&mut self, node: &Arc<Node>, now: Timestamp) -> Result<ObjectRef, Refusal> {
        let id = node.id;
        self.check_level(node)?;
        let old = self.nodes.get(&id).cloned();
        let mut new = Node { meta: self.meta(old.as_ref().map(|o| o.meta), now), ..(**node).clone() };
        if let Some(old) = &old {
            new.status = old.status.clone();
            if let Some(address) = old.ingress_addr {
                self.addresses.remove(&address);
            }
        }
        if let Some(address) = new.ingress_addr {
            if self.addresses.contains_key(&address) {
                let words = format!("address {address} is given to somebody else");
                return Err(Refusal::new(RefusalKind::AddressTaken, words));
            }
            self.addresses.insert(address, id.0);
        }
        self.nodes.insert(id, Arc::new(new));
        Ok(ObjectRef::Node(id))
    }
}

/// Whether two states of a task have the same entries in all indexes.
fn is_indexed_alike(old: &Task, new: &Task) -> bool {
    let place =
        |task: &Task| (task.service_id, task.slot, task.node_id, task.ingress_addr, task.spec_version);
    let counts = |task: &Task| (task.is_runnable(), task.is_live());
    place(old) == place(new) && counts(old) == counts(new) && old.ports == new.ports
}

/// What a task on a node takes of it.
pub(crate) fn taken_by(task: &Task) -> NodeLoad {
    let (nano_cpus, memory_bytes) =
        if task.is_live() { task.spec.task_template.reservations() } else { (0, 0) };
    NodeLoad { n_tasks: u64::from(task.is_runnable()), nano_cpus, memory_bytes }
}

fn port_key(port: &PortConfig) -> (String, u16) {
    (port.protocol().to_owned(), port.published_port)
}

pub(crate) fn remove_member<K: Ord + Clone, M: Ord + Clone>(
    index: &mut OrdMap<K, imbl::OrdSet<M>>,
    key: &K,
    member: M,
) {
    if let Some(members) = index.get_mut(key) {
        members.remove(&member);
        if members.is_empty() {
            index.remove(key);
        }
    }
}

/// The later of two statuses with what the other one knows; `None` when the report brings nothing new.
fn merged(old: &TaskStatus, report: &TaskStatus) -> Option<TaskStatus> {
    let newer = report.state > old.state || (report.state == old.state && report.timestamp > old.timestamp);
    if !newer {
        return None;
    }
    let mut new = report.clone();
    if new.container_id.is_empty() {
        new.container_id.clone_from(&old.container_id);
    }
    if new.pid == 0 {
        new.pid = old.pid;
    }
    if new.host_ports.is_empty() {
        new.host_ports.clone_from(&old.host_ports);
    }
    new.exit_code = new.exit_code.or(old.exit_code);
    if !old.running_at.is_zero() {
        new.running_at = old.running_at;
    }
    Some(new)
}
