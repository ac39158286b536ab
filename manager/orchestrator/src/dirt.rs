//! Whether a task still is what its service asks for.

use std::{collections::BTreeMap, sync::Arc};

use skep_api::{
    TaskState,
    constraint::Constraint,
    object::{Node, Service, Task},
    spec::{EndpointSpec, ServiceSpec, TaskSpec},
};
use skep_store::View;

/// Whether an update has to replace the task: its template or its endpoint differs from the service's, or it had to pull
/// its image with other credentials and has not come further (Swarm's rule, `SK:manager/orchestrator/task.go`). Other
/// placement alone is no reason while the task's node satisfies it.
#[must_use]
pub fn is_dirty(view: &View, task: &Task, service: &Service) -> bool {
    Differences::default().is_dirty(view, task, service)
}

/// Compares the tasks of one service, and reads what they ask of nodes: each spec version once.
#[derive(Debug, Default)]
pub struct Differences {
    found: BTreeMap<u64, Difference>,
    constraints: BTreeMap<u64, Constraints>,
}

/// What a spec asks of nodes; `None` for what cannot be read.
pub(crate) type Constraints = Option<Arc<[Constraint]>>;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Difference {
    None,
    Placement,
    Other,
}

impl Differences {
    /// [`is_dirty`], of tasks of one service.
    #[must_use]
    pub fn is_dirty(&mut self, view: &View, task: &Task, service: &Service) -> bool {
        if task.spec_version == service.spec_version {
            return false;
        }
        if lacks_auth(task, service) {
            return true;
        }
        match *self.found.entry(task.spec_version).or_insert_with(|| compare(&task.spec, &service.spec)) {
            Difference::None => false,
            Difference::Other => true,
            Difference::Placement => {
                let node = task.node_id.and_then(|id| view.node(id));
                !node.is_some_and(|node| self.is_met(node, service.spec_version, &service.spec))
            }
        }
    }

    /// What a spec of the service asks of nodes.
    pub(crate) fn constraints(&mut self, version: u64, spec: &ServiceSpec) -> Constraints {
        let parse = || Constraint::parse_all(spec.task_template.constraints()).ok().map(Arc::from);
        self.constraints.entry(version).or_insert_with(parse).clone()
    }

    /// Whether a node is what a spec of the service asks for; what cannot be read never holds.
    pub(crate) fn is_met(&mut self, node: &Node, version: u64, spec: &ServiceSpec) -> bool {
        meets(node, &self.constraints(version, spec))
    }
}

/// Whether a task had to pull its image with other credentials than those that the service has now, and they may have
/// been what it lacked: it has no image yet, or was given up before they came. One that ended since and is not given up
/// is followed by one that has them.
fn lacks_auth(task: &Task, service: &Service) -> bool {
    let is_given_up = !task.is_live() && !task.is_wanted() && task.meta.version < service.auth_version;
    let is_before_the_pull = task.is_runnable() && task.status.state < TaskState::Ready;
    task.spec_version < service.auth_version && (is_given_up || is_before_the_pull)
}

fn compare(old: &Arc<ServiceSpec>, new: &Arc<ServiceSpec>) -> Difference {
    if Arc::ptr_eq(old, new) {
        return Difference::None;
    }
    if !same_endpoint(old.endpoint_spec.as_deref(), new.endpoint_spec.as_deref()) {
        return Difference::Other;
    }
    if old.task_template.asks_the_same(&new.task_template) {
        return Difference::None;
    }
    let placed = TaskSpec { placement: new.task_template.placement.clone(), ..old.task_template.clone() };
    if placed.asks_the_same(&new.task_template) { Difference::Placement } else { Difference::Other }
}

/// Whether two endpoint specs ask for the same; what is absent reads as its default.
#[must_use]
pub fn same_endpoint(a: Option<&EndpointSpec>, b: Option<&EndpointSpec>) -> bool {
    EndpointSpec::ask_the_same(a, b)
}

/// Whether a node meets all of these.
pub(crate) fn meets(node: &Node, constraints: &Constraints) -> bool {
    constraints.as_ref().is_some_and(|all| all.iter().all(|constraint| constraint.matches(node)))
}

#[cfg(test)]
mod tests {
    use skep_api::{
        Id, NodeId, ServiceId, TaskId, Timestamp,
        object::{Node, NodeState},
    };
    use skep_store::{Change, Draft};

    use super::*;

    fn spec(json: &str) -> Arc<ServiceSpec> {
        Arc::new(serde_json::from_str(json).unwrap())
    }

    /// Whether a task of the one spec on node `n1` is to be replaced under the other.
    fn check(old: &str, new: &str, expect: bool) {
        let mut node = Node { id: NodeId(Id(1)), ..Node::default() };
        node.status.state = NodeState::Ready;
        node.description.hostname = "n1".into();
        let mut draft = Draft::new(View::default(), Timestamp(1));
        draft.push(Change::PutNode(Arc::new(node))).unwrap();
        let id = ServiceId(Id(1));
        let old_service = Service { id, spec: spec(old), spec_version: 1, ..Service::default() };
        let mut task = Task::new(TaskId(Id(1)), &old_service, 1);
        task.node_id = Some(NodeId(Id(1)));
        let service = Service { id, spec: spec(new), spec_version: 2, ..Service::default() };
        assert_eq!(is_dirty(&draft, &task, &service), expect, "{old} -> {new}");
    }

    #[test]
    fn what_replaces_tasks() {
        let base = r#"{"Name":"a","TaskTemplate":{"ContainerSpec":{"Image":"x"}}}"#;
        let template = |more: &str| {
            format!(r#"{{"Name":"a","TaskTemplate":{{"ContainerSpec":{{"Image":"x"}},{more}}}}}"#)
        };
        let service = |more: &str| {
            format!(r#"{{"Name":"a","TaskTemplate":{{"ContainerSpec":{{"Image":"x"}}}},{more}}}"#)
        };
        check(base, base, false);
        check(base, r#"{"Name":"a","TaskTemplate":{"ContainerSpec":{"Image":"y"}}}"#, true);
        check(base, &template(r#""ForceUpdate":1"#), true);
        // What a client spells out that was absent.
        check(base, &template(r#""ForceUpdate":0,"Resources":{"Limits":{}},"Placement":{}"#), false);
        check(base, &template(r#""SomethingNew":1"#), true);
        check(base, &service(r#""Labels":{"a":"b"}"#), false);
        check(base, &service(r#""Mode":{"Replicated":{"Replicas":7}}"#), false);
        check(base, &service(r#""UpdateConfig":{"Parallelism":3}"#), false);
        check(base, &template(r#""Placement":{"Constraints":["node.hostname==n1"]}"#), false);
        check(base, &template(r#""Placement":{"Constraints":["node.hostname==n2"]}"#), true);
        check(base, &template(r#""Placement":{"Constraints":["node.hostname==n1"]},"ForceUpdate":1"#), true);
        check(base, &service(r#""EndpointSpec":{"Mode":"vip"}"#), false);
        check(base, &service(r#""EndpointSpec":{"Mode":"dnsrr"}"#), true);
        check(base, &service(r#""EndpointSpec":{"Ports":[{"TargetPort":80}]}"#), true);
    }
}
