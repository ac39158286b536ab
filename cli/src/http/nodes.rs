//! Nodes.

use axum::{
    Router,
    body::Bytes,
    extract::{Path, State},
    http::{StatusCode, Uri},
    routing::{get, post},
};
use serde_json::Value;
use skep_api::{ApiError, object::Node, spec::NodeSpec};
use skep_manager::View;

use super::{
    Api, ControlPlane,
    answer::{Answer, Params, body, empty, ok},
    filter::Filters,
    lookup, render,
};

const ROLES: &[&str] = &["worker", "manager"];
const AVAILABILITIES: &[&str] = &["active", "pause", "drain"];
const FILTERS: &[&str] = &["id", "label", "membership", "name", "node.label", "role"];

pub(super) fn routes() -> Router<Api> {
    Router::new()
        .route("/nodes", get(list))
        .route("/nodes/{id}", get(inspect).delete(remove))
        .route("/nodes/{id}/update", post(update))
}

fn show(control: &dyn ControlPlane, roots: &render::Roots, node: &Node) -> Value {
    render::node(node, control.manager_status(node).as_ref(), roots)
}

fn roots(view: &View) -> render::Roots {
    render::Roots::of(view.cluster().map(AsRef::as_ref))
}

async fn list(State(api): State<Api>, uri: Uri) -> Answer {
    let control = api.manager()?;
    let filters = Filters::parse(Params::of(&uri)?.text("filters"), FILTERS)?;
    filters.check_word("role", ROLES)?;
    filters.check_word("membership", &["accepted", "pending"])?;
    let view = control.view().await?;
    let roots = roots(&view);
    let nodes: Vec<Value> = view
        .nodes()
        .filter(|node| passes(node, &filters))
        .map(|node| show(&*control, &roots, node))
        .collect();
    ok(&nodes)
}

fn passes(node: &Node, filters: &Filters) -> bool {
    filters.prefix("id", &node.id.to_string())
        && filters.prefix("name", &node.description.hostname)
        && filters.word("role", node.role().as_str())
        && filters.word("membership", "accepted")
        && filters.labels("label", Some(&node.description.engine_labels))
        && filters.labels("node.label", Some(&node.spec.labels))
}

async fn inspect(State(api): State<Api>, Path(word): Path<String>) -> Answer {
    let control = api.manager()?;
    let view = control.view().await?;
    let node = lookup::node(&view, &word, control.node_id())?;
    ok(&show(&*control, &roots(&view), &node))
}

async fn update(State(api): State<Api>, Path(word): Path<String>, uri: Uri, request: Bytes) -> Answer {
    let control = api.manager()?;
    let version = Params::of(&uri)?.version("node")?;
    let spec = spec_of(&request)?;
    let node = lookup::node(&control.view().await?, &word, control.node_id())?;
    control.update_node(node.id, version, spec).await?;
    empty(StatusCode::OK)
}

/// Reads a node's spec. Role and availability have to be there, in any case, and are refused in Docker's words
/// (`MB:daemon/cluster/convert/node.go`): a spec without a role is no wish for a worker.
fn spec_of(request: &[u8]) -> Result<NodeSpec, ApiError> {
    let mut given: Value = body(request)?;
    for (key, words) in [("Role", ROLES), ("Availability", AVAILABILITIES)] {
        let word = given.get(key).and_then(Value::as_str).unwrap_or_default();
        let known = words.iter().find(|known| known.eq_ignore_ascii_case(word));
        let known = known.ok_or_else(|| ApiError::invalid(format!("invalid {key}: {word:?}")))?;
        given[key] = Value::from(*known);
    }
    body(given.to_string().as_bytes())
}

async fn remove(State(api): State<Api>, Path(word): Path<String>, uri: Uri) -> Answer {
    let control = api.manager()?;
    let force = Params::of(&uri)?.flag("force");
    let node = lookup::node(&control.view().await?, &word, control.node_id())?;
    control.remove_node(node.id, force).await?;
    empty(StatusCode::OK)
}
