//! What a node is assigned, and the difference to what it was sent. Pure.

use std::collections::BTreeMap;

use skep_api::{
    NodeId, TaskId, TaskState,
    convert::{generic_out, ports_out},
    object::{Task, ingress},
    wire,
};
use skep_store::View;

/// What of a task its agent acts on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Facts {
    desired: TaskState,
    drained: bool,
}

/// What a session has sent so far.
#[derive(Debug, Default)]
pub(super) struct Sent {
    tasks: Option<BTreeMap<TaskId, Facts>>,
    revision: u64,
}

impl Sent {
    /// The next message of the session, if there is news: the whole set first, then increments.
    pub(super) fn next(
        &mut self,
        view: &View,
        node: NodeId,
        is_drained: impl Fn(&Task) -> bool,
    ) -> Option<wire::AssignmentSet> {
        let mut now = BTreeMap::new();
        let mut put = Vec::new();
        let before = self.tasks.as_ref();
        for task in view.tasks_of_node(node) {
            let stopping = !task.is_wanted() && task.is_live();
            let facts = Facts { desired: task.desired_state, drained: stopping && is_drained(task) };
            now.insert(task.id, facts);
            if before.and_then(|sent| sent.get(&task.id)) != Some(&facts) {
                put.push(assignment(view, task, facts.drained));
            }
        }
        let remove: Vec<Vec<u8>> = before
            .into_iter()
            .flat_map(BTreeMap::keys)
            .filter(|id| !now.contains_key(id))
            .map(|id| id.to_bytes())
            .collect();
        let complete = before.is_none();
        if !complete && put.is_empty() && remove.is_empty() {
            return None;
        }
        let applies_to = self.revision;
        // A drain moves without a new store revision: then the number stays.
        self.revision = view.revision().max(self.revision);
        self.tasks = Some(now);
        Some(wire::AssignmentSet { complete, applies_to, results_in: self.revision, put, remove })
    }
}

fn assignment(view: &View, task: &Task, drained: bool) -> wire::Assignment {
    let service = view.service(task.service_id);
    wire::Assignment {
        task_id: task.id.to_bytes(),
        service_id: task.service_id.to_bytes(),
        service_name: task.spec.name.clone(),
        slot: task.slot,
        spec: serde_json::to_vec(&task.spec.task_template)
            .expect("specs hold only strings as keys and finite numbers"),
        desired_state: task.desired_state.number(),
        ports: ports_out(&task.ports),
        ingress_addr: task.ingress_addr.map_or(0, u32::from),
        ingress_prefix: u32::from(ingress::PREFIX),
        drained,
        state: task.status.state.number(),
        registry_auth: service.map(|s| s.registry_auth.reveal().to_vec()).unwrap_or_default(),
        service_labels: task.spec.labels.clone().unwrap_or_default(),
        given: generic_out(task.given()),
        is_global: task.for_node().is_some(),
        job_iteration: task.job_iteration(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use skep_api::{
        Id, ServiceId, Timestamp,
        object::{Service, TaskStatus},
    };
    use skep_store::{Change, Draft};

    use super::*;

    fn push(view: View, change: Change) -> View {
        let mut draft = Draft::new(view, Timestamp(1));
        draft.push(change).unwrap();
        View::clone(&draft)
    }

    fn with_task() -> (View, Task) {
        let service = Service { id: ServiceId(Id(1)), ..Service::default() };
        let view = push(View::default(), Change::PutService(Arc::new(service)));
        let service = view.service(ServiceId(Id(1))).unwrap();
        let mut task = Task::new(TaskId(Id(2)), service, 1);
        task.node_id = Some(NodeId(Id(3)));
        (push(view.clone(), Change::PutTask(Arc::new(task.clone()))), task)
    }

    #[test]
    fn the_whole_set_then_differences_only() {
        let (view, mut task) = with_task();
        let node = NodeId(Id(3));
        let mut sent = Sent::default();
        let first = sent.next(&view, node, |_| false).unwrap();
        assert!(first.complete && first.put.len() == 1);
        assert_eq!(sent.next(&view, node, |_| false), None);

        // A status is no news to the agent that reported it.
        let status = TaskStatus { state: TaskState::Running, ..TaskStatus::default() };
        let view = push(view, Change::TaskStatus(task.id, status));
        assert_eq!(sent.next(&view, node, |_| false), None);

        task.desired_state = TaskState::Shutdown;
        let view = push(view, Change::PutTask(Arc::new(task.clone())));
        let second = sent.next(&view, node, |_| false).unwrap();
        assert_eq!((second.complete, second.applies_to), (false, first.results_in));
        let third = sent.next(&view, node, |_| true).unwrap();
        assert!(third.put[0].drained && third.results_in == second.results_in);

        let view = push(view, Change::DeleteTask(task.id));
        assert_eq!(sent.next(&view, node, |_| true).unwrap().remove, [task.id.to_bytes()]);
    }

    #[test]
    fn a_node_without_tasks_gets_one_empty_set() {
        let mut sent = Sent::default();
        let view = View::default();
        assert!(sent.next(&view, NodeId(Id(9)), |_| false).unwrap().complete);
        assert_eq!(sent.next(&view, NodeId(Id(9)), |_| false), None);
    }
}
