//! Why tasks wait for a node, and where those of a new service would go.

use serde_json::{Value, json};
use skep_api::{NodeId, object::Task};
use skep_manager::{Explanation, Filter, NodeAnswer, Plan, View, Waiting};

/// Tasks that wait, as `GET /skep/services/{id}/explain` shows them.
pub(crate) fn waiting(waiting: &Waiting) -> Value {
    let name = |task: &std::sync::Arc<Task>| json!({ "ID": task.id.to_string(), "Name": task.name() });
    let mut out = explanation(&waiting.explanation);
    out["Tasks"] = waiting.tasks.iter().map(name).collect();
    out["Err"] = waiting.err.as_str().into();
    if !waiting.note.is_empty() {
        out["Note"] = waiting.note.as_str().into();
    }
    out
}

/// A plan, as `POST /skep/services/plan` shows it.
pub(crate) fn plan(plan: &Plan, view: &View) -> Value {
    let hostname = |id: NodeId| view.node(id).map_or("", |node| node.description.hostname.as_str());
    let node =
        |(id, n): (&NodeId, &u64)| json!({ "ID": id.to_string(), "Hostname": hostname(*id), "Tasks": n });
    let mut out = explanation(&plan.explanation);
    out["Placed"] = plan.nodes.iter().map(node).collect();
    out["Waiting"] = plan.n_waiting.into();
    out["Err"] = plan.err.as_str().into();
    let preempted = plan.preempted.iter().map(|(name, n)| json!({ "Service": name, "Tasks": n }));
    if !plan.preempted.is_empty() {
        out["Preempted"] = preempted.collect();
    }
    out
}

fn explanation(explanation: &Explanation) -> Value {
    let one = |answer: &NodeAnswer| {
        let refusals = answer.refusals.iter();
        let refusals: Vec<Value> =
            refusals.map(|(filter, words)| json!({ "Filter": word(*filter), "Message": words })).collect();
        let mut out = json!({ "ID": answer.node.to_string(), "Hostname": answer.name, "Refusals": refusals });
        if !answer.missed.is_empty() {
            out["Missed"] = answer.missed.as_slice().into();
        }
        out
    };
    let nodes: Vec<Value> = explanation.nodes.iter().map(one).collect();
    json!({ "Nodes": nodes, "WouldFit": explanation.remedies })
}

fn word(filter: Filter) -> &'static str {
    match filter {
        Filter::Ready => "ready",
        Filter::Resources => "resources",
        Filter::Plugin => "plugin",
        Filter::Constraints => "constraints",
        Filter::Platform => "platform",
        Filter::HostPorts => "host-ports",
        Filter::MaxReplicas => "max-replicas",
    }
}
