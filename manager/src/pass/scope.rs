//! What a pass looks at: what changed, and what that concerns.

use std::{collections::BTreeMap, sync::Arc};

use skep_api::{
    NodeId, ServiceId, TaskId, TaskState,
    object::{SeatKey, Service, Task},
    spec::{Mode, PortConfig},
};
use skep_orchestrator::{Differences, Scope, may_get_ports};
use skep_store::{Dirty, View};

/// What changed, the services that have tasks on nodes that changed, and those that may get a port by it.
pub(super) fn scope(view: &View, dirty: &Dirty) -> Scope {
    let mut scope = Scope { nodes: dirty.nodes.clone(), ..Scope::default() };
    if dirty.all {
        scope.nodes = view.nodes().map(|node| node.id).collect();
        view.services()
            .map(|service| service.id)
            .chain(view.services_with_tasks())
            .for_each(|id| scope.add(id));
        return scope;
    }
    dirty.services.iter().for_each(|id| scope.add(*id));
    for (task, service) in &dirty.tasks {
        // One that is deleted was history, or had stopped: nothing more follows from that.
        let Some(task) = view.task(*task) else { continue };
        if concerns_all(view, task) {
            scope.add(*service);
        } else {
            scope.add_seat(*service, task.seat());
        }
    }
    let mut differences: BTreeMap<ServiceId, Differences> = BTreeMap::new();
    for node in &dirty.nodes {
        let seat = SeatKey::Node(*node);
        for task in view.tasks_of_node(*node).filter(|task| task.is_live()) {
            if task.seat() == seat && !goes_together(view, task.service_id) {
                scope.add_seat(task.service_id, seat);
            } else {
                scope.add(task.service_id);
            }
        }
        for service in view.global_services() {
            // What came later than the node's task is rolled out to it, and only a look at all seats does that.
            let tasks = view.tasks_of_seat(service.id, seat).into_iter();
            let newest = tasks.max_by_key(|task| (task.meta.created_at, task.id));
            let mut is_outdated =
                |task: &Arc<Task>| differences.entry(service.id).or_default().is_dirty(view, task, service);
            if newest.is_some_and(&mut is_outdated) || goes_together(view, service.id) {
                scope.add(service.id);
            } else {
                scope.add_seat(service.id, seat);
            }
        }
    }
    if !dirty.services.is_empty() {
        // One of them may have given a port up that another one waits for, or does so in this pass.
        let may = |service: &&Arc<Service>| may_get_ports(view, service, &dirty.services);
        let waiting = view.services_with_unplaced().filter_map(|id| view.service(id));
        waiting.filter(may).for_each(|service| scope.add(service.id));
        if dirty.services.iter().any(|id| gives_ports_up(view, *id)) {
            let lacking = view.services().filter(|service| lacks_ports(service));
            lacking.filter(may).for_each(|service| scope.add(service.id));
        }
    }
    scope
}

/// Whether a service is gone, or has ports that it does not ask for any more.
fn gives_ports_up(view: &View, id: ServiceId) -> bool {
    let Some(service) = view.service(id) else { return true };
    let asks = |had: &PortConfig| service.spec.ports().iter().any(|port| is_given(port, had));
    !service.ports.iter().all(asks)
}

/// Whether a service has not all the ports that it asks for.
fn lacks_ports(service: &Service) -> bool {
    let has = |port: &PortConfig| service.ports.iter().any(|had| is_given(port, had));
    !service.spec.ports().iter().all(has)
}

fn is_given(port: &PortConfig, had: &PortConfig) -> bool {
    port.target_port == had.target_port
        && port.protocol() == had.protocol()
        && port.is_ingress() == had.is_ingress()
        && (port.published_port == 0 || port.published_port == had.published_port)
}

/// How far an update came, and what of a replicated job may run, is told by all seats together.
fn goes_together(view: &View, service: ServiceId) -> bool {
    let Some(service) = view.service(service) else { return false };
    service.is_updating() || is_replicated_job(service)
}

fn is_replicated_job(service: &Service) -> bool {
    matches!(service.spec.mode(), Mode::ReplicatedJob { .. })
}

/// Whether a change of a task may change what becomes of other seats: where they go together, unless it has its node and
/// is only on its way to run.
fn concerns_all(view: &View, task: &Task) -> bool {
    let Some(service) = view.service(task.service_id) else { return false };
    let is_placed = task.node_id.is_some();
    let is_on_its_way = is_placed && task.is_wanted() && task.status.state < TaskState::Running;
    (service.is_updating() && !is_on_its_way) || (is_replicated_job(service) && !task.is_runnable())
}

/// Whether a task that found no node may find one now. What is deleted had ended before, and the pass that deleted it was
/// told of that; and as long as some room is kept for tasks of higher priority, these may have given it up.
pub(super) fn is_room_freed(view: &View, dirty: &Dirty) -> bool {
    let has_ended = |id: &TaskId| view.task(*id).is_some_and(|task: &Arc<Task>| !task.is_live());
    let is_freed = !dirty.freed.is_empty() || view.n_rooms() > 0;
    dirty.all || !dirty.nodes.is_empty() || is_freed || dirty.tasks.keys().any(has_ended)
}

/// What nodes may take now that they did not take before.
#[derive(PartialEq, Debug)]
pub(super) enum Fresh {
    /// Whatever it is: nodes changed themselves, or what was kept for others is not any more.
    Any,
    /// What tasks had that ended there: none but those that had too little room before.
    Ended(BTreeMap<NodeId, Vec<Arc<Task>>>),
}

/// See [`Fresh`].
pub(super) fn fresh(view: &View, dirty: &Dirty) -> Fresh {
    let ended = dirty.tasks.keys().filter_map(|id| view.task(*id)).filter(|task| !task.is_live());
    let ended: Vec<&Arc<Task>> = ended.collect();
    let is_any = dirty.all || !dirty.nodes.is_empty() || !dirty.freed.is_empty();
    if is_any || ended.iter().any(|task| task.room_for().is_some()) {
        return Fresh::Any;
    }
    let mut by_node: BTreeMap<NodeId, Vec<Arc<Task>>> = BTreeMap::new();
    for task in ended {
        if let Some(node) = task.node_id {
            by_node.entry(node).or_default().push(Arc::clone(task));
        }
    }
    Fresh::Ended(by_node)
}

#[cfg(test)]
mod tests {
    use skep_api::{
        Id, NodeId, Timestamp,
        object::{TaskExtra, UpdateState, UpdateStatus},
        spec::ServiceSpec,
    };
    use skep_orchestrator::Look;
    use skep_store::{Change, Draft, ObjectRef};

    use super::*;

    const A: ServiceId = ServiceId(Id(1));
    const B: ServiceId = ServiceId(Id(2));
    const NODE: NodeId = NodeId(Id(7));

    fn service(id: ServiceId, spec: &str) -> Change {
        let spec: ServiceSpec = serde_json::from_str(spec).unwrap();
        Change::PutService(Arc::new(Service { id, spec: Arc::new(spec), ..Service::default() }))
    }

    /// `a` has slots 1 and 2, the second on the node; `b` has a task of the node.
    fn draft() -> Draft {
        let mut draft = Draft::new(View::default(), Timestamp(1));
        draft.push(service(A, r#"{"Name":"a"}"#)).unwrap();
        draft.push(service(B, r#"{"Name":"b","Mode":{"Global":{}}}"#)).unwrap();
        for (id, service, slot) in [(1, A, 1), (2, A, 2), (3, B, 0)] {
            let service = draft.service(service).cloned().unwrap();
            let mut task = Task::new(TaskId(Id(id)), &service, slot);
            task.node_id = (slot != 1).then_some(NODE);
            if slot == 0 {
                task.extra = Some(Box::new(TaskExtra { for_node: Some(NODE), ..TaskExtra::default() }));
            }
            draft.push(Change::PutTask(Arc::new(task))).unwrap();
        }
        draft
    }

    #[track_caller]
    fn check(view: &View, changed: &[ObjectRef], expect: &[(ServiceId, Look)]) {
        let mut dirty = Dirty::default();
        changed.iter().for_each(|object| dirty.mark(*object));
        let found: Vec<(ServiceId, Look)> = scope(view, &dirty).services.into_iter().collect();
        assert_eq!(found, expect, "{changed:?}");
    }

    #[test]
    fn what_changed_is_looked_at_and_no_more() {
        let mut draft = draft();
        let slot = |n| Look::Seats([SeatKey::Slot(n)].into());
        let seat = || Look::Seats([SeatKey::Node(NODE)].into());
        let task = |id, service| ObjectRef::Task(TaskId(Id(id)), service, None);
        check(&draft, &[task(1, A)], &[(A, slot(1))]);
        check(&draft, &[task(3, B), task(2, A)], &[(A, slot(2)), (B, seat())]);
        check(&draft, &[task(1, A), ObjectRef::Service(A)], &[(A, Look::Whole)]);
        // It is gone, and was of no use before.
        check(&draft, &[task(9, A)], &[]);
        check(&draft, &[ObjectRef::Node(NODE)], &[(A, Look::Whole), (B, seat())]);
        // A node that is new to all concerns those that have a task on each.
        let other = NodeId(Id(8));
        check(&draft, &[ObjectRef::Node(other)], &[(B, Look::Seats([SeatKey::Node(other)].into()))]);
        check(&draft, &[ObjectRef::Cluster], &[(A, Look::Whole), (B, Look::Whole)]);

        let updating = UpdateStatus::new(UpdateState::Updating, Timestamp(1), "");
        let new = Service { update_status: Some(updating), ..(**draft.service(A).unwrap()).clone() };
        draft.push(Change::PutService(Arc::new(new))).unwrap();
        // What is on its way to run changes nothing for the others; that it waits for a node does, or runs.
        check(&draft, &[task(2, A)], &[(A, slot(2))]);
        check(&draft, &[task(1, A)], &[(A, Look::Whole)]);
        let mut runs = (**draft.task(TaskId(Id(2))).unwrap()).clone();
        runs.status.state = TaskState::Running;
        draft.push(Change::PutTask(Arc::new(runs))).unwrap();
        check(&draft, &[task(2, A)], &[(A, Look::Whole)]);
    }

    #[test]
    fn room_that_was_not_taken_is_room() {
        let dirty = Dirty { freed: [NODE].into(), ..Dirty::default() };
        assert!(!dirty.is_empty() && is_room_freed(&View::default(), &dirty));
        assert_eq!(fresh(&View::default(), &dirty), Fresh::Any);
        assert!(scope(&draft(), &dirty).services.is_empty());
    }

    #[test]
    fn who_waits_for_a_port_is_looked_at_when_one_is_given_up() {
        let mut draft = draft();
        let asks = r#"{"Name":"c","Mode":{"Replicated":{"Replicas":0}},
            "EndpointSpec":{"Ports":[{"TargetPort":80,"PublishedPort":8080}]}}"#;
        let c = ServiceId(Id(3));
        draft.push(service(c, asks)).unwrap();
        check(&draft, &[ObjectRef::Service(A)], &[(A, Look::Whole)]);
        let gone = ServiceId(Id(4));
        check(&draft, &[ObjectRef::Service(gone)], &[(c, Look::Whole), (gone, Look::Whole)]);
    }
}
