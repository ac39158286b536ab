//! A service, its counts, and Docker's defaults.

use std::sync::Arc;

use serde_json::{Map, Value, json};
use skep_api::{
    TaskState,
    object::{NodeState, Service, Task},
    spec::{
        Mode, RESTART_DELAY_DEFAULT, STOP_GRACE_DEFAULT, ServiceMode, ServiceSpec, UPDATE_MONITOR_DEFAULT,
    },
};
use skep_manager::View;

use super::{always, nanos, object, port, put_meta, template, to_json, version};

/// A service as `GET /services/{id}` shows it.
pub(crate) fn service(service: &Service, insert_defaults: bool) -> Value {
    let render = |spec: &ServiceSpec| if insert_defaults { with_defaults(spec) } else { self::spec(spec) };
    let mut out = Map::new();
    out.insert("ID".into(), service.id.to_string().into());
    put_meta(&mut out, &service.meta);
    out.insert("Spec".into(), render(&service.spec));
    if let Some(previous) = &service.previous_spec {
        out.insert("PreviousSpec".into(), render(previous));
    }
    out.insert("Endpoint".into(), endpoint(service));
    if let Some(update) = &service.update_status {
        let mut status = Map::new();
        status.insert("State".into(), update.state.as_str().into());
        status.insert("StartedAt".into(), update.started_at.to_string().into());
        if let Some(at) = update.completed_at {
            status.insert("CompletedAt".into(), at.to_string().into());
        }
        status.insert("Message".into(), update.message.clone().into());
        out.insert("UpdateStatus".into(), status.into());
    }
    if service.spec.mode().is_job() {
        let mut status = Map::new();
        status.insert("JobIteration".into(), version(service.job_iteration));
        if !service.last_execution.is_zero() {
            status.insert("LastExecution".into(), service.last_execution.to_string().into());
        }
        out.insert("JobStatus".into(), status.into());
    }
    Value::Object(out)
}

/// The spec with what Docker always shows: labels, the mode, and what its sections never lack.
pub(crate) fn spec(spec: &ServiceSpec) -> Value {
    let mut out = object(to_json(spec));
    out.entry("Labels").or_insert_with(|| json!({}));
    let asks = |mode: &ServiceMode| *mode != ServiceMode::default();
    if !spec.mode.as_ref().is_some_and(asks) {
        out.insert("Mode".into(), json!({ "Replicated": { "Replicas": spec.replicas() } }));
    }
    let mut template = template(&spec.task_template);
    template.entry("Runtime").or_insert_with(|| json!("container"));
    out.insert("TaskTemplate".into(), template.into());
    let update =
        json!({ "Parallelism": 1, "FailureAction": "pause", "MaxFailureRatio": 0, "Order": "stop-first" });
    always(&mut out, "UpdateConfig", &update);
    always(&mut out, "RollbackConfig", &update);
    always(&mut out, "EndpointSpec", &json!({ "Mode": "vip" }));
    if let Some(Value::Array(ports)) =
        out.get_mut("EndpointSpec").and_then(|section| section.get_mut("Ports"))
    {
        for (shown, given) in ports.iter_mut().zip(spec.ports()) {
            // Keys that are unknown to us stay.
            let all = object(shown.take()).into_iter().chain(object(port(given)));
            *shown = Value::Object(all.collect());
        }
    }
    Value::Object(out)
}

/// The spec with every default written out (`insertDefaults`).
fn with_defaults(spec: &ServiceSpec) -> Value {
    let mut out = object(self::spec(spec));
    let update = json!({
        "Parallelism": 1,
        "Delay": 0,
        "FailureAction": "pause",
        "Monitor": nanos(UPDATE_MONITOR_DEFAULT),
        "MaxFailureRatio": 0,
        "Order": "stop-first",
    });
    if !spec.mode().is_job() {
        // What a job may not have is not shown either: a client may send back what it got.
        fill(&mut out, "UpdateConfig", &update);
    }
    fill(&mut out, "RollbackConfig", &update);
    fill(&mut out, "EndpointSpec", &json!({ "Mode": "vip" }));
    let mut template = out.remove("TaskTemplate").map(object).unwrap_or_default();
    fill(
        &mut template,
        "ContainerSpec",
        &json!({ "StopGracePeriod": nanos(STOP_GRACE_DEFAULT), "DNSConfig": {} }),
    );
    fill(&mut template, "Resources", &json!({ "Limits": {}, "Reservations": {} }));
    let restart = json!({ "Condition": "any", "Delay": nanos(RESTART_DELAY_DEFAULT), "MaxAttempts": 0 });
    fill(&mut template, "RestartPolicy", &restart);
    fill(&mut template, "Placement", &json!({}));
    out.insert("TaskTemplate".into(), template.into());
    Value::Object(out)
}

/// Adds to `out[key]` what it lacks.
fn fill(out: &mut Map<String, Value>, key: &str, defaults: &Value) {
    let mut section = out.remove(key).map(object).unwrap_or_default();
    for (name, value) in defaults.as_object().into_iter().flatten() {
        section.entry(name.as_str()).or_insert_with(|| value.clone());
    }
    out.insert(key.to_owned(), section.into());
}

/// Where it is reached: as asked for, and as given.
fn endpoint(service: &Service) -> Value {
    let mut out = Map::new();
    let asked = service.spec.endpoint_spec.as_ref();
    let mut spec = Map::new();
    if !service.ports.is_empty() || asked.is_some_and(|asked| asked.mode.is_some()) {
        let mode = asked.and_then(|asked| asked.mode.as_deref()).filter(|mode| !mode.is_empty());
        spec.insert("Mode".into(), mode.unwrap_or("vip").into());
    }
    if !service.spec.ports().is_empty() {
        spec.insert("Ports".into(), service.spec.ports().iter().map(port).collect());
    }
    out.insert("Spec".into(), spec.into());
    if !service.ports.is_empty() {
        out.insert("Ports".into(), service.ports.iter().map(port).collect());
    }
    Value::Object(out)
}

/// How many tasks run, are wanted, and have completed; of a job, in its current iteration
/// (`SK:manager/controlapi/service.go:ListServiceStatuses`).
pub(crate) fn service_status(service: &Service, view: &View) -> Value {
    let mode = service.spec.mode();
    let (mut running, mut completed, mut wanted) = (0_u64, 0_u64, 0_u64);
    let is_current = |task: &&Arc<Task>| !mode.is_job() || task.job_iteration() == service.job_iteration;
    for task in view.tasks_of_service(service.id).filter(is_current) {
        let is_there = task
            .node_id
            .and_then(|id| view.node(id))
            .is_some_and(|node| node.status.state != NodeState::Down);
        let is_complete = task.status.state == TaskState::Complete;
        running += u64::from(task.status.state == TaskState::Running && is_there);
        completed += u64::from(mode.is_job() && is_complete);
        wanted += u64::from(task.is_wanted() && !(mode.is_job() && is_complete));
    }
    let desired = match mode {
        Mode::Replicated { replicas } => replicas,
        Mode::ReplicatedJob { concurrent, .. } => concurrent,
        Mode::Global | Mode::GlobalJob => wanted,
    };
    json!({ "RunningTasks": running, "DesiredTasks": desired, "CompletedTasks": completed })
}

#[cfg(test)]
mod tests {
    use skep_api::{
        Id, NodeId, ServiceId, TaskId, Timestamp,
        object::{Node, TaskExtra},
        spec::{EndpointSpec, PortConfig},
    };
    use skep_store::{Change, Draft};

    use super::*;

    fn parse(body: &str) -> ServiceSpec {
        skep_api::json::parse(body.as_bytes()).unwrap()
    }

    #[test]
    fn defaults_are_shown_only_when_asked_for() {
        let spec =
            parse(r#"{"Name":"web","TaskTemplate":{"ContainerSpec":{"Image":"a","Init":false}},"Zebra":1}"#);
        let plain = super::spec(&spec);
        assert_eq!(plain["Mode"]["Replicated"]["Replicas"], 1);
        assert_eq!((&plain["Labels"], &plain["Zebra"]), (&json!({}), &json!(1)));
        assert!(plain.get("UpdateConfig").is_none());
        let full = with_defaults(&spec);
        assert_eq!(full["UpdateConfig"]["Monitor"], 5_000_000_000_u64);
        assert_eq!(full["TaskTemplate"]["ContainerSpec"]["StopGracePeriod"], 10_000_000_000_u64);
        assert_eq!(full["TaskTemplate"]["ContainerSpec"]["Init"], false);
        assert_eq!(full["TaskTemplate"]["RestartPolicy"]["Condition"], "any");
    }

    #[test]
    fn sections_that_are_there_show_what_docker_always_shows() {
        let bare = spec(&parse(r#"{"Name":"web","TaskTemplate":{"ContainerSpec":{"Image":"a"}}}"#));
        let template = json!({
            "ContainerSpec": { "Image": "a", "Isolation": "default" }, "ForceUpdate": 0, "Runtime": "container",
        });
        assert_eq!(bare["TaskTemplate"], template);
        for key in ["UpdateConfig", "RollbackConfig", "EndpointSpec"] {
            assert!(bare.get(key).is_none(), "{key}");
        }
        let spec = parse(
            r#"{"Name":"web","TaskTemplate":{"ContainerSpec":{"Image":"a"},"RestartPolicy":{"Delay":1}},
            "UpdateConfig":{"Order":"start-first","FailureAction":""},"RollbackConfig":{},
            "EndpointSpec":{"Mode":"","Ports":[{"TargetPort":80},{"Protocol":"udp","TargetPort":53,"X":1}]}}"#,
        );
        let full = super::spec(&spec);
        let update = |order: &str| json!({ "Parallelism": 1, "FailureAction": "pause", "MaxFailureRatio": 0, "Order": order });
        assert_eq!(
            (&full["UpdateConfig"], &full["RollbackConfig"]),
            (&update("start-first"), &update("stop-first"))
        );
        assert_eq!(
            full["TaskTemplate"]["RestartPolicy"],
            json!({ "Condition": "any", "Delay": 1, "MaxAttempts": 0 })
        );
        let ports = json!([
            { "Protocol": "tcp", "TargetPort": 80, "PublishMode": "ingress" },
            { "Protocol": "udp", "TargetPort": 53, "PublishMode": "ingress", "X": 1 },
        ]);
        assert_eq!(full["EndpointSpec"], json!({ "Mode": "vip", "Ports": ports }));
        // Who sends it back asks for the same tasks.
        let back: ServiceSpec = serde_json::from_value(full).unwrap();
        assert!(spec.task_template.asks_the_same(&back.task_template));
        assert!(EndpointSpec::ask_the_same(spec.endpoint_spec.as_deref(), back.endpoint_spec.as_deref()));
        assert_eq!((spec.update(), spec.rollback()), (back.update(), back.rollback()));
        assert_eq!(skep_api::validate::service(&back), Ok(()));
    }

    /// A job in its second iteration with tasks in these states, of an iteration each.
    fn counts(mode: &str, tasks: &[(TaskState, u64)]) -> Value {
        let spec = parse(&format!(r#"{{"Name":"job","Mode":{mode}}}"#));
        let id = ServiceId(Id(1));
        let object = Service { id, spec: Arc::new(spec), job_iteration: 1, ..Service::default() };
        let mut draft = Draft::new(View::default(), Timestamp(1));
        draft.push(Change::PutService(Arc::new(object))).unwrap();
        let node = Node { id: NodeId(Id(9)), ..Node::default() };
        draft.push(Change::PutNode(Arc::new(node))).unwrap();
        let object = draft.service(id).cloned().unwrap();
        for (n, (state, job_iteration)) in (1..).zip(tasks) {
            let mut task = Task::new(TaskId(Id(n)), &object, u64::try_from(n).unwrap());
            task.node_id = Some(NodeId(Id(9)));
            task.desired_state = object.spec.mode().goal();
            task.status.state = *state;
            task.extra = Some(Box::new(TaskExtra { job_iteration: *job_iteration, ..TaskExtra::default() }));
            draft.push(Change::PutTask(Arc::new(task))).unwrap();
        }
        service_status(&object, &draft)
    }

    #[test]
    fn each_mode_counts_what_it_wants() {
        let tasks = [
            (TaskState::Running, 1),
            (TaskState::Complete, 1),
            (TaskState::Complete, 0),
            (TaskState::Ready, 1),
        ];
        let status = |running: u64, desired: u64, completed: u64| json!({ "RunningTasks": running, "DesiredTasks": desired, "CompletedTasks": completed });
        let job = r#"{"ReplicatedJob":{"MaxConcurrent":3,"TotalCompletions":9}}"#;
        assert_eq!(counts(job, &tasks), status(1, 3, 1));
        assert_eq!(counts(r#"{"GlobalJob":{}}"#, &tasks), status(1, 2, 1));
        assert_eq!(counts(r#"{"Global":{}}"#, &tasks[..1]), status(1, 1, 0));
        assert_eq!(counts(r#"{"Replicated":{"Replicas":7}}"#, &tasks[..1]), status(1, 7, 0));
    }

    #[test]
    fn a_job_shows_its_runs_and_has_no_update_config() {
        let spec = parse(r#"{"Name":"job","Mode":{"GlobalJob":{}}}"#);
        assert!(with_defaults(&spec).get("UpdateConfig").is_none());
        let mut object = Service { spec: Arc::new(spec), last_execution: Timestamp(1), ..Service::default() };
        assert_eq!(service(&object, false)["JobStatus"]["JobIteration"], json!({}));
        object.job_iteration = 2;
        assert_eq!(service(&object, false)["JobStatus"]["JobIteration"]["Index"], 2);
        assert_eq!(service(&object, false)["Spec"]["Mode"], json!({ "GlobalJob": {} }));
    }

    #[test]
    fn given_ports_stand_beside_the_asked_ones() {
        let spec = parse(r#"{"Name":"web","EndpointSpec":{"Ports":[{"TargetPort":80}]}}"#);
        let given = PortConfig { target_port: 80, published_port: 30_000, ..PortConfig::default() };
        let object = Service { spec: Arc::new(spec), ports: vec![given].into(), ..Service::default() };
        let out = service(&object, false);
        assert_eq!(out["Endpoint"]["Spec"]["Mode"], "vip");
        assert_eq!(out["Endpoint"]["Ports"][0]["PublishedPort"], 30_000);
        assert_eq!(out["Endpoint"]["Ports"][0]["Protocol"], "tcp");
        assert!(out["Endpoint"]["Spec"]["Ports"][0].get("PublishedPort").is_none());
    }
}
