//! Adapts the store to the scheduler: shows it the nodes, asks for each group of like tasks, writes the answers.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use skep_api::{
    NodeId, ServiceId, TaskState, Timestamp,
    constraint::Constraint,
    object::{Node, Task, TaskStatus},
};
use skep_orchestrator::{Scope, assign_ports};
use skep_scheduler::{NodeInfo, Picture, Refusal, TaskGroup};
use skep_store::{Assigned, Change, Draft, View};

/// How long a failure counts against its node (`SK:manager/scheduler/nodeinfo.go`).
const FAILURES_WINDOW: Duration = Duration::from_secs(5 * 60);

/// Nodes named in a pending task's message at most: a message is for a person, and is stored in each task.
const DETAILS_MAX: usize = 10;

/// What a task says while it has no node.
const PENDING: &str = "pending task scheduling";

/// Gives nodes to tasks that have none: those of the scope, or all when room was freed.
pub(super) fn place(draft: &mut Draft, scope: &Scope, is_room_freed: bool) {
    let mut groups: BTreeMap<(ServiceId, u64), Vec<Arc<Task>>> = BTreeMap::new();
    for task in draft.unplaced_tasks() {
        if is_room_freed || scope.services.contains_key(&task.service_id) {
            groups.entry((task.service_id, task.spec_version)).or_default().push(Arc::clone(task));
        }
    }
    if groups.is_empty() {
        return;
    }
    let has_host_ports = groups.values().flatten().any(|task| host_ports(task).next().is_some());
    let mut picture = Picture::new(draft.nodes().map(|node| node_info(draft, node, has_host_ports)));
    for mut tasks in groups.into_values() {
        tasks.sort_by_key(|task| (task.seat(), task.id));
        place_group(draft, &mut picture, tasks);
    }
}

fn place_group(draft: &mut Draft, picture: &mut Picture, tasks: Vec<Arc<Task>>) {
    let (mut ready, mut waiting) = (Vec::with_capacity(tasks.len()), Vec::new());
    for task in tasks {
        match lacks(draft, &task) {
            None => ready.push(task),
            Some(err) => waiting.push((task, err)),
        }
    }
    for (task, err) in waiting {
        explain(draft, &task, PENDING.to_owned(), err);
    }
    let Some(first) = ready.first() else { return };
    let group = match group_of(draft, first) {
        Ok(group) => group,
        Err(err) => {
            for task in ready {
                explain(draft, &task, PENDING.to_owned(), err.clone());
            }
            return;
        }
    };
    let (preassigned, ready): (Vec<_>, Vec<_>) =
        ready.into_iter().partition(|task| task.for_node().is_some());
    for (task, node) in preassigned.iter().filter_map(|task| Some((task, task.for_node()?))) {
        match picture.confirm(&group, node) {
            Ok(()) => assign(draft, task, node, "scheduler confirmed task can run on preassigned node"),
            Err(filter) => explain(draft, task, PENDING.to_owned(), filter.explain(1)),
        }
    }
    if ready.is_empty() {
        return;
    }
    let placement = picture.place(&group, ready.len());
    let n_placed = placement.nodes.len();
    for (task, node) in ready.iter().zip(placement.nodes) {
        assign(draft, task, node, "scheduler assigned task to node");
    }
    if let Some(refusal) = placement.refusal {
        let (message, err) = (detailed(draft, &refusal), refusal.explain());
        for task in &ready[n_placed..] {
            explain(draft, task, message.clone(), err.clone());
        }
    }
}

/// What a task still waits for before it can have a node.
fn lacks(view: &View, task: &Task) -> Option<String> {
    if task.uses_ingress() && task.ingress_addr.is_none() {
        return Some("no free address in the ingress network".to_owned());
    }
    let service = view.service(task.service_id)?;
    assign_ports(view, service.id, &service.spec, &service.ports).err().map(|error| error.to_string())
}

fn node_info(view: &View, node: &Arc<Node>, has_host_ports: bool) -> NodeInfo {
    let load = view.node_load(node.id);
    let mut ports = BTreeSet::new();
    if has_host_ports {
        for task in view.tasks_of_node(node.id).filter(|task| task.is_live()) {
            ports.extend(host_ports(task));
        }
    }
    NodeInfo {
        node: Arc::clone(node),
        n_tasks: load.n_tasks,
        nano_cpus: node.description.nano_cpus.saturating_sub(load.nano_cpus),
        memory_bytes: node.description.memory_bytes.saturating_sub(load.memory_bytes),
        host_ports: ports,
    }
}

/// Ports that a task opens on its node under a number that the user chose.
fn host_ports(task: &Task) -> impl Iterator<Item = (String, u16)> {
    let held = task.ports.iter().filter(|port| !port.is_ingress() && port.published_port != 0);
    held.map(|port| (port.protocol().to_owned(), port.published_port))
}

/// What a task asks for, with what its service has on the nodes already.
fn group_of(draft: &Draft, task: &Task) -> Result<TaskGroup, String> {
    let template = &task.spec.task_template;
    let parse = |text: &String| {
        let parsed = Constraint::parse(text).map_err(|error| format!("no suitable node ({error})"))?;
        Ok::<_, String>((parsed, text.clone()))
    };
    let constraints = template.constraints().iter().map(parse).collect::<Result<Vec<_>, _>>()?;
    let (nano_cpus, memory_bytes) = template.reservations();
    let mut group = TaskGroup {
        constraints,
        nano_cpus,
        memory_bytes,
        platforms: task.spec.task_template.platforms(),
        host_ports: host_ports(task).collect(),
        ..TaskGroup::default()
    };
    for other in draft.tasks_of_service(task.service_id) {
        let Some(node) = other.node_id else { continue };
        if other.is_runnable() {
            *group.n_tasks.entry(node).or_default() += 1;
        }
        if other.spec_version == task.spec_version && failed_lately(other, draft.now()) {
            *group.n_failures.entry(node).or_default() += 1;
        }
    }
    Ok(group)
}

fn failed_lately(task: &Task, now: Timestamp) -> bool {
    matches!(task.status.state, TaskState::Failed | TaskState::Rejected)
        && now.since(task.status.timestamp) < FAILURES_WINDOW
}

fn assign(draft: &mut Draft, task: &Task, node: NodeId, message: &str) {
    let status = said(draft, task, TaskState::Assigned, message.to_owned(), String::new());
    if draft.feature_level() >= 2 {
        let assigned = Assigned { node, status, given: Vec::new() };
        push(draft, Change::AssignTask(task.id, assigned));
    } else {
        push(draft, Change::PutTask(Arc::new(Task { node_id: Some(node), status, ..task.clone() })));
    }
}

/// Says why a task has no node; written only when the words change, so that a quiet cluster drafts nothing.
fn explain(draft: &mut Draft, task: &Task, message: String, err: String) {
    let status = &task.status;
    if status.state == TaskState::Pending && status.message == message && status.err == err {
        return;
    }
    let status = said(draft, task, TaskState::Pending, message, err);
    push(draft, Change::PutTask(Arc::new(Task { status, ..task.clone() })));
}

fn said(draft: &Draft, task: &Task, state: TaskState, message: String, err: String) -> TaskStatus {
    let timestamp = draft.now().max(task.status.timestamp.after(Duration::from_nanos(1)));
    TaskStatus { state, timestamp, message: message.into(), err: err.into(), ..task.status.clone() }
}

fn push(draft: &mut Draft, change: Change) {
    // The picture shows what is taken: a refusal is a bug that the draft keeps for its owner to tell.
    draft.push(change).ok();
}

/// The pending message with a word for each node.
fn detailed(view: &View, refusal: &Refusal) -> String {
    let name = |id: &NodeId| match view.node(*id).map(|node| node.description.hostname.as_str()) {
        None | Some("") => id.to_string(),
        Some(hostname) => hostname.to_owned(),
    };
    let shown = refusal.by_node.iter().take(DETAILS_MAX);
    let mut parts: Vec<String> = shown.map(|(id, (_, words))| format!("{}: {words}", name(id))).collect();
    let n_left = refusal.by_node.len().saturating_sub(DETAILS_MAX);
    if n_left > 0 {
        parts.push(format!("and {n_left} more"));
    }
    if parts.is_empty() { PENDING.to_owned() } else { format!("{PENDING} ({})", parts.join("; ")) }
}
