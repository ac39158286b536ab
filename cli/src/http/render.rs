//! Objects as the Engine API's JSON: pure, names and order as Docker writes them.

mod engine;
mod network;
mod node;
mod placement;
mod service;
mod swarm;
mod task;

use serde_json::{Map, Value, json};
use skep_api::{
    object::{GenericResource, Meta},
    spec::{PortConfig, TaskSpec},
};

pub(crate) use engine::{container, container_details, image, image_details};
pub(crate) use network::{ingress, local_network, network};
pub(crate) use node::node;
pub(crate) use placement::{plan, waiting};
pub(crate) use service::{service, service_status, spec};
pub(crate) use swarm::{Roots, cluster};
pub(crate) use task::task;

/// `Version`, `CreatedAt`, `UpdatedAt`.
fn put_meta(out: &mut Map<String, Value>, meta: &Meta) {
    out.insert("Version".into(), json!({ "Index": meta.version }));
    out.insert("CreatedAt".into(), meta.created_at.to_string().into());
    out.insert("UpdatedAt".into(), meta.updated_at.to_string().into());
}

/// A version as Go writes one: without its number while that is 0.
fn version(index: u64) -> Value {
    if index == 0 { json!({}) } else { json!({ "Index": index }) }
}

/// A port with its defaults, as Docker shows allocated ones.
fn port(port: &PortConfig) -> Value {
    let mut out = Map::new();
    if !port.name.is_empty() {
        out.insert("Name".into(), port.name.clone().into());
    }
    out.insert("Protocol".into(), port.protocol().into());
    if port.target_port != 0 {
        out.insert("TargetPort".into(), port.target_port.into());
    }
    if port.published_port != 0 {
        out.insert("PublishedPort".into(), port.published_port.into());
    }
    out.insert("PublishMode".into(), if port.is_ingress() { "ingress" } else { "host" }.into());
    Value::Object(out)
}

/// A task's template with what Docker's conversion always writes in the sections that are there
/// (`MB:daemon/cluster/convert`): an update that sends it back asks for the same.
fn template(spec: &TaskSpec) -> Map<String, Value> {
    let mut out = object(to_json(spec));
    out.entry("ForceUpdate").or_insert_with(|| json!(0));
    always(&mut out, "ContainerSpec", &json!({ "Isolation": "default" }));
    always(&mut out, "RestartPolicy", &json!({ "Condition": "any", "MaxAttempts": 0 }));
    out
}

/// Adds to the section `out[key]`, if it is there, what it lacks or leaves empty.
fn always(out: &mut Map<String, Value>, key: &str, values: &Value) {
    let Some(Value::Object(section)) = out.get_mut(key) else { return };
    for (name, value) in values.as_object().into_iter().flatten() {
        let given = section.get(name).is_some_and(|given| given.as_str() != Some(""));
        if !given {
            section.insert(name.clone(), value.clone());
        }
    }
}

/// The object inside a value that is one by construction; empty for any other.
pub(crate) fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => Map::new(),
    }
}

/// A span as the API writes it.
fn nanos(span: std::time::Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

/// A spec as JSON. Specs are plain data, so writing one cannot fail; it would show as `null`.
fn to_json(value: &impl serde::Serialize) -> Value {
    serde_json::to_value(value).unwrap_or_default()
}

/// Generic resources of a node or a task; null for none.
pub(crate) fn generic(all: &[GenericResource]) -> Value {
    let one = |resource: &GenericResource| match resource {
        GenericResource::Named { kind, value } => {
            json!({ "NamedResourceSpec": { "Kind": kind, "Value": value } })
        }
        GenericResource::Discrete { kind, amount } => {
            json!({ "DiscreteResourceSpec": { "Kind": kind, "Value": amount } })
        }
    };
    if all.is_empty() { Value::Null } else { all.iter().map(one).collect() }
}
