//! A task.

use serde_json::{Map, Value, json};
use skep_api::object::{Cluster, Task, ingress};

use super::{generic, port, put_meta, template, version};

/// A task as `GET /tasks/{id}` shows it. `note` is what it asks for and does not get yet.
pub(crate) fn task(task: &Task, cluster: Option<&Cluster>, note: Option<&str>) -> Value {
    let mut out = Map::new();
    out.insert("ID".into(), task.id.to_string().into());
    put_meta(&mut out, &task.meta);
    out.insert("Labels".into(), json!({}));
    out.insert("Spec".into(), template(&task.spec.task_template).into());
    out.insert("ServiceID".into(), task.service_id.to_string().into());
    if task.slot != 0 {
        out.insert("Slot".into(), task.slot.into());
    }
    // One whose seat is a node will run there or nowhere, and clients tell it by that.
    if let Some(node) = task.node_id.or(task.for_node()) {
        out.insert("NodeID".into(), node.to_string().into());
    }
    if !task.given().is_empty() {
        // The name in Docker's API reference, and the one that dockerd writes (`MB:api/types/swarm/task.go`).
        for key in ["AssignedGenericResources", "GenericResources"] {
            out.insert(key.into(), generic(task.given()));
        }
    }
    out.insert("Status".into(), status(task, note.filter(|_| task.is_runnable())));
    out.insert("DesiredState".into(), task.desired_state.as_str().into());
    if task.spec.mode().is_job() {
        out.insert("JobIteration".into(), version(task.job_iteration()));
    }
    if let (Some(address), Some(cluster)) = (task.ingress_addr, cluster) {
        out.insert(
            "NetworksAttachments".into(),
            json!([{
                "Network": {
                    "ID": cluster.ingress_id().to_string(),
                    "Version": { "Index": cluster.meta.version },
                    "CreatedAt": cluster.meta.created_at.to_string(),
                    "UpdatedAt": cluster.meta.created_at.to_string(),
                    "Spec": { "Name": "ingress", "Labels": {}, "DriverConfiguration": {}, "Ingress": true },
                    "DriverState": { "Name": "overlay" },
                },
                "Addresses": [format!("{address}/{}", ingress::PREFIX)],
            }]),
        );
    }
    out.insert("Volumes".into(), Value::Null);
    Value::Object(out)
}

/// The note goes on to the message. `docker stack ps` and `docker service ps` show nothing of that, but the
/// error of any task, so a task without one shows the note there too; what is stored has none, so nothing
/// that is decided takes it for a failure.
fn status(task: &Task, note: Option<&str>) -> Value {
    let status = &task.status;
    let mut out = Map::new();
    out.insert("Timestamp".into(), status.timestamp.to_string().into());
    out.insert("State".into(), status.state.as_str().into());
    let message = [status.message.as_str(), note.unwrap_or_default()];
    let message = message.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("; ");
    if !message.is_empty() {
        out.insert("Message".into(), message.into());
    }
    let err = if status.err.is_empty() { note.unwrap_or_default() } else { &status.err };
    if !err.is_empty() {
        out.insert("Err".into(), err.into());
    }
    if !status.container_id.is_empty() || status.exit_code.is_some() {
        out.insert(
            "ContainerStatus".into(),
            json!({
                "ContainerID": status.container_id.to_string(),
                "PID": status.pid,
                "ExitCode": status.exit_code.unwrap_or(0),
            }),
        );
    }
    let ports: Vec<Value> = status.host_ports.iter().map(port).collect();
    out.insert("PortStatus".into(), if ports.is_empty() { json!({}) } else { json!({ "Ports": ports }) });
    Value::Object(out)
}

#[cfg(test)]
mod tests {
    use skep_api::{
        TaskId, TaskState,
        object::{GenericResource, Service, TaskExtra},
    };

    use super::*;

    #[test]
    fn a_task_of_a_node_has_no_slot_and_names_it_before_it_runs_there() {
        let spec = serde_json::from_str(r#"{"Name":"a","Mode":{"GlobalJob":{}}}"#).unwrap();
        let service = Service { spec: std::sync::Arc::new(spec), ..Service::default() };
        let mut object = Task::new(TaskId::default(), &service, 0);
        let node = skep_api::NodeId(skep_api::Id(7));
        object.extra = Some(Box::new(TaskExtra { for_node: Some(node), ..TaskExtra::default() }));
        let out = task(&object, None, None);
        assert!(out.get("Slot").is_none());
        assert_eq!((&out["NodeID"], &out["JobIteration"]), (&json!(node.to_string()), &json!({})));
    }

    #[test]
    fn generic_resources_have_both_of_dockers_names() {
        let mut object = Task::new(TaskId::default(), &Service::default(), 1);
        let given = GenericResource::parse_all(["gpu=a"]).unwrap();
        object.extra = Some(Box::new(TaskExtra { given, ..TaskExtra::default() }));
        let out = task(&object, None, None);
        assert_eq!(
            out["GenericResources"],
            json!([{ "NamedResourceSpec": { "Kind": "gpu", "Value": "a" } }])
        );
        assert_eq!(out["GenericResources"], out["AssignedGenericResources"]);
    }

    #[test]
    fn a_task_shows_what_docker_shows() {
        let mut object = Task::new(TaskId::default(), &Service::default(), 3);
        object.status.state = TaskState::Failed;
        object.status.err = "task: non-zero exit (3)".into();
        object.status.container_id = "abc".into();
        object.status.exit_code = Some(3);
        object.ingress_addr = Some("10.255.0.5".parse().unwrap());
        let out = task(&object, Some(&Cluster::default()), Some("not shown: it has ended"));
        assert_eq!((&out["Slot"], &out["DesiredState"]), (&json!(3), &json!("running")));
        assert_eq!(out["Status"]["State"], "failed");
        assert_eq!(out["Status"]["Err"], "task: non-zero exit (3)");
        assert_eq!(out["Status"]["ContainerStatus"]["ExitCode"], 3);
        assert_eq!(out["NetworksAttachments"][0]["Addresses"][0], "10.255.0.5/16");
        assert_eq!(out["Spec"]["ForceUpdate"], 0);
        assert!(out.get("NodeID").is_none() && out.get("GenericResources").is_none());
        assert!(out["Status"].get("Message").is_none());
        object.status.state = TaskState::Running;
        object.status.message = "started".into();
        for (err, note, expect_message, expect_err) in [
            ("", None, "started", None),
            ("", Some("network a: none yet"), "started; network a: none yet", Some("network a: none yet")),
            ("oh", Some("network a: none yet"), "started; network a: none yet", Some("oh")),
        ] {
            object.status.err = err.into();
            let out = task(&object, None, note);
            assert_eq!(out["Status"]["Message"], expect_message);
            assert_eq!(out["Status"].get("Err").and_then(Value::as_str), expect_err);
        }
    }
}
