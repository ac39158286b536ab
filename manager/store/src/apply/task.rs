//! Tasks as they are applied: what is said of one is merged, and what it holds has one owner.

use std::sync::Arc;

use skep_api::{
    ServiceId, TaskId, Timestamp,
    object::{SeatKey, Task, TaskStatus},
    spec::PortConfig,
};

use crate::{Assigned, NodeLoad, ObjectRef, Refusal, RefusalKind, View};

impl View {
    pub(super) fn put_task(&mut self, task: &Arc<Task>, now: Timestamp) -> Result<ObjectRef, Refusal> {
        let old = self.tasks.get(&task.id).cloned();
        let mut new = Task { meta: self.meta(old.as_ref().map(|o| o.meta), now), ..(**task).clone() };
        if let Some(old) = &old {
            new.status = merged(&old.status, &new.status, false).unwrap_or_else(|| old.status.clone());
            new.desired_state = new.desired_state.max(old.desired_state);
            // Decisions are guarded by the task's version, so this is a bug of the proposer; a panic here
            // would stop every replica, and again at each replay.
            let moves = old.node_id.is_some() && old.node_id != new.node_id;
            let made_as = |task: &Task| {
                (task.service_id, task.spec_version, task.slot, task.seat(), task.update, task.beside())
            };
            if moves || made_as(old) != made_as(&new) || old.job_iteration() != new.job_iteration() {
                let words = format!("task {} would change its node, seat or spec: it never does", task.id);
                return Err(Refusal::new(RefusalKind::Stale, words));
            }
        } else {
            let key = (new.service_id, new.spec_version);
            let Some((spec, count)) = self.specs.get(&key).cloned() else {
                let words = format!("service {} has no spec version {}", new.service_id, new.spec_version);
                return Err(Refusal::new(RefusalKind::Missing, words));
            };
            self.check_task(None, &new)?;
            self.specs.insert(key, (spec, count + 1));
        }
        self.replace_task(old.as_ref(), new)
    }

    /// Gives a task its node; what is not there any more, or has another one, is refused.
    pub(super) fn assign_task(
        &mut self,
        id: TaskId,
        assigned: &Assigned,
        now: Timestamp,
    ) -> Result<ObjectRef, Refusal> {
        let Some(old) = self.tasks.get(&id).cloned() else {
            return Err(Refusal::new(RefusalKind::Missing, format!("task {id} not found")));
        };
        if old.node_id.is_some_and(|node| node != assigned.node) {
            let words = format!("task {id} would change its node: it never does");
            return Err(Refusal::new(RefusalKind::Stale, words));
        }
        let mut new = assigned.to(&old);
        new.meta = self.meta(Some(old.meta), now);
        if let Some(status) = merged(&old.status, &assigned.status, false) {
            new.status = status;
        }
        self.replace_task(Some(&old), new)
    }

    /// A report of a task: it does not raise the version.
    pub(super) fn report_task(
        &mut self,
        id: TaskId,
        report: &TaskStatus,
    ) -> Result<Option<ObjectRef>, Refusal> {
        let Some(old) = self.tasks.get(&id).cloned() else { return Ok(None) };
        // Of a task that is to stop, its agent knows only that it did; why stands there already.
        let keeps_words = self.feature_level() >= 2 && !old.is_wanted();
        let Some(status) = merged(&old.status, report, keeps_words) else { return Ok(None) };
        let new = Task { status, ..(*old).clone() };
        self.replace_task(Some(&old), new).map(Some)
    }

    /// A seat has one runnable task, or two while the newer takes over from the one that it names.
    pub(super) fn check_seat(&self, service: ServiceId, seat: SeatKey) -> Result<(), Refusal> {
        let mut counted = self.tasks_of_seat(service, seat);
        counted.retain(|task| task.is_runnable());
        let is_allowed = match counted.as_slice() {
            [] | [_] => true,
            [one, other] => one.beside() == Some(other.id) || other.beside() == Some(one.id),
            _ => false,
        };
        if is_allowed {
            return Ok(());
        }
        let seat = match seat {
            SeatKey::Slot(slot) => format!("slot {slot}"),
            SeatKey::Node(node) => format!("node {node}"),
        };
        let words = format!("{seat} of service {service} would have {} tasks", counted.len());
        Err(Refusal::new(RefusalKind::SlotTaken, words))
    }

    /// Whether a task may be as it is to be, beside all others: what is refused is refused before anything is
    /// written.
    fn check_task(&self, old: Option<&Arc<Task>>, new: &Task) -> Result<(), Refusal> {
        for (protocol, port, node, _) in Self::host_port_keys(new).filter(|_| new.is_runnable()) {
            let owner = self.host_port_owner(node, &protocol, port).filter(|owner| *owner != new.id);
            if let Some(owner) = owner {
                let words = format!("port '{port}' of node {node} is in use by task {owner}");
                return Err(Refusal::new(RefusalKind::PortTaken, words));
            }
        }
        if let Some(address) = new.ingress_addr.filter(|_| new.is_live())
            && self.addresses.get(&address).is_some_and(|owner| *owner != new.id.0)
        {
            let words = format!("address {address} is given to somebody else");
            return Err(Refusal::new(RefusalKind::AddressTaken, words));
        }
        if let Some(node) = new.node_id.filter(|_| !new.given().is_empty()) {
            let mut load = self.node_load(node);
            if let Some(old) = old.filter(|old| old.node_id == Some(node)) {
                load.subtract(old);
            }
            if !load.add(new) {
                return Err(resource_taken(new));
            }
        }
        Ok(())
    }

    /// Takes `old` out of every index and puts `new` into them.
    pub(super) fn replace_task(&mut self, old: Option<&Arc<Task>>, new: Task) -> Result<ObjectRef, Refusal> {
        let (id, node) = (new.id, new.node_id);
        let task = Arc::new(self.sharing(old.map(|old| &**old), new));
        // Most of what is said of a task moves it in no index.
        let stays = old.is_some_and(|old| is_indexed_alike(old, &task));
        if !stays {
            self.check_task(old, &task)?;
            match old {
                Some(old) => self.unindex(old),
                None => self.index_seat(&task),
            }
            self.index(&task);
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

    /// The indexes in which a task stays where it is as long as there is the task.
    fn index_seat(&mut self, task: &Task) {
        self.tasks_by_service.insert((task.service_id, task.slot, task.id));
        if let Some(node) = task.for_node() {
            self.tasks_by_seat_node.insert((task.service_id, node, task.id));
        }
    }

    /// All others. See [`View::check_task`].
    fn index(&mut self, task: &Task) {
        match task.node_id {
            Some(node) => {
                self.tasks_by_node.insert((node, task.id));
                let mut load = self.node_load(node);
                load.add(task);
                // None is kept for nothing, whatever was there before: a restored store is the same.
                if load != NodeLoad::default() {
                    self.loads.insert(node, load);
                }
            }
            None if task.is_runnable() => {
                self.unplaced.insert((task.service_id, task.id));
            }
            None => {}
        }
        self.host_ports.extend(Self::host_port_keys(task));
        self.room_for.extend(Self::room_key(task));
        if let Some(address) = task.ingress_addr.filter(|_| task.is_live()) {
            self.addresses.insert(address, task.id.0);
        }
    }

    fn unindex(&mut self, task: &Task) {
        if let Some(node) = task.node_id {
            self.tasks_by_node.remove(&(node, task.id));
            let mut load = self.node_load(node);
            load.subtract(task);
            if load == NodeLoad::default() {
                self.loads.remove(&node);
            } else {
                self.loads.insert(node, load);
            }
        }
        if task.node_id.is_none() {
            self.unplaced.remove(&(task.service_id, task.id));
        }
        for key in Self::host_port_keys(task) {
            self.host_ports.remove(&key);
        }
        if let Some(key) = Self::room_key(task) {
            self.room_for.remove(&key);
        }
        if let Some(address) = task.ingress_addr
            && self.addresses.get(&address) == Some(&task.id.0)
        {
            self.addresses.remove(&address);
        }
    }

    /// Makes a task that is there what it was before.
    pub(super) fn put_back(&mut self, old: Arc<Task>) {
        if let Some(now) = self.tasks.get(&old.id).cloned() {
            self.unindex(&now);
            self.index(&old);
            self.tasks.insert(old.id, old);
        }
    }

    pub(super) fn delete_task(&mut self, id: TaskId) -> Option<ObjectRef> {
        let old = self.tasks.remove(&id)?;
        self.tasks_by_service.remove(&(old.service_id, old.slot, old.id));
        if let Some(node) = old.for_node() {
            self.tasks_by_seat_node.remove(&(old.service_id, node, old.id));
        }
        self.unindex(&old);
        let key = (old.service_id, old.spec_version);
        if let Some((spec, count)) = self.specs.get(&key).cloned() {
            let left = count.checked_sub(1).expect("each task was counted when it was put");
            self.specs.insert(key, (spec, left));
            self.forget_spec(old.service_id, old.spec_version);
        }
        Some(ObjectRef::Task(id, old.service_id, old.node_id))
    }
}

/// Whether two states of a task have the same entries in all indexes.
fn is_indexed_alike(old: &Task, new: &Task) -> bool {
    let place =
        |task: &Task| (task.service_id, task.slot, task.node_id, task.ingress_addr, task.spec_version);
    let counts = |task: &Task| (task.is_runnable(), task.is_live());
    place(old) == place(new)
        && counts(old) == counts(new)
        && old.ports == new.ports
        && old.given() == new.given()
        && old.room_for() == new.room_for()
}

pub(crate) fn resource_taken(task: &Task) -> Refusal {
    let words = format!("task {} would have a generic resource that another one has", task.id);
    Refusal::new(RefusalKind::ResourceTaken, words)
}

/// The later of two statuses with what the other one knows; `None` when the report brings nothing new. A report
/// without an error keeps the words that stand there, if `keeps_words`.
pub(crate) fn merged(old: &TaskStatus, report: &TaskStatus, keeps_words: bool) -> Option<TaskStatus> {
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
    if keeps_words && new.err.is_empty() {
        new.err.clone_from(&old.err);
    }
    new.exit_code = new.exit_code.or(old.exit_code);
    if !old.running_at.is_zero() {
        new.running_at = old.running_at;
    }
    Some(new)
}
