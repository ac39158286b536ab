//! A node.

use serde_json::{Map, Value, json};
use skep_api::object::{Node, NodeDescription, Plugin};
use skep_manager::ManagerStatus;

use super::{Roots, generic, put_meta, to_json};

/// Docker's clients print them. A node of an older build tells of none.
fn engine_plugins(about: &NodeDescription) -> Value {
    let embedded = Plugin::embedded();
    let plugins = if about.plugins.is_empty() { &embedded } else { &about.plugins };
    plugins.iter().map(|plugin| json!({ "Type": plugin.kind, "Name": plugin.name })).collect()
}

fn resources(about: &NodeDescription) -> Value {
    let mut out = json!({ "NanoCPUs": about.nano_cpus, "MemoryBytes": about.memory_bytes });
    if !about.generic.is_empty() {
        out["GenericResources"] = generic(&about.generic);
    }
    out
}

/// A node as `GET /nodes/{id}` shows it. `manager` is `None` for a worker.
pub(crate) fn node(node: &Node, manager: Option<&ManagerStatus>, roots: &Roots) -> Value {
    let mut out = Map::new();
    out.insert("ID".into(), node.id.to_string().into());
    put_meta(&mut out, &node.meta);
    out.insert("Spec".into(), to_json(&node.spec));
    let about = &node.description;
    let mut engine = Map::new();
    engine.insert("EngineVersion".into(), about.engine_version.clone().into());
    if !about.engine_labels.is_empty() {
        engine.insert("Labels".into(), to_json(&about.engine_labels));
    }
    engine.insert("Plugins".into(), engine_plugins(about));
    out.insert(
        "Description".into(),
        json!({
            "Hostname": about.hostname,
            "Platform": { "Architecture": about.arch, "OS": about.os },
            "Resources": resources(about),
            "Engine": engine,
            "TLSInfo": roots.tls_info(node),
        }),
    );
    let mut status = Map::new();
    status.insert("State".into(), node.status.state.as_str().into());
    if !node.status.message.is_empty() {
        status.insert("Message".into(), node.status.message.clone().into());
    }
    status.insert("Addr".into(), node.status.addr.clone().into());
    out.insert("Status".into(), status.into());
    if let Some(manager) = manager {
        let mut status = Map::new();
        if manager.leader {
            status.insert("Leader".into(), true.into());
        }
        status.insert(
            "Reachability".into(),
            if manager.reachable { "reachable" } else { "unreachable" }.into(),
        );
        status.insert("Addr".into(), manager.addr.clone().into());
        out.insert("ManagerStatus".into(), status.into());
    }
    Value::Object(out)
}
