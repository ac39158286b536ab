//! The networks that there are; more come with overlay networks.

use axum::{
    Router,
    extract::{Path, State},
    http::Uri,
    routing::{get, post},
};
use serde_json::Value;
use skep_api::ApiError;

use super::{
    Api, SwarmState,
    answer::{Answer, Params, ok, unserved},
    filter::Filters,
    render,
};

const FILTERS: &[&str] = &["dangling", "driver", "id", "label", "name", "scope", "type"];

pub(super) fn routes() -> Router<Api> {
    Router::new()
        .route("/networks", get(list))
        .route("/networks/{id}", get(inspect).delete(remove))
        .route("/networks/create", post(create))
        .route("/networks/prune", post(create))
}

fn all(api: &Api) -> Vec<Value> {
    let facts = api.backend.facts();
    let name = facts.node_id.map_or_else(|| facts.node_name.clone(), |id| id.to_string());
    // Docker's local networks have 64 hexadecimal digits; ours come from the node's name, so they stay.
    let mut id: String = name.bytes().map(|byte| format!("{byte:02x}")).collect();
    id = format!("{id:0<64}");
    id.truncate(64);
    let mut networks = vec![render::bridge(&id)];
    if let SwarmState::Manager(control) = api.backend.swarm()
        && let Some(cluster) = control.stale_view().cluster()
    {
        networks.push(render::ingress(cluster));
    }
    networks
}

async fn list(State(api): State<Api>, uri: Uri) -> Answer {
    let filters = Filters::parse(Params::of(&uri)?.text("filters"), FILTERS)?;
    let mut networks = all(&api);
    networks.retain(|network| {
        let text = |key: &str| network[key].as_str().unwrap_or_default();
        filters.prefix("id", text("Id"))
            && filters.any("name", |name| text("Name").contains(name))
            && filters.any("driver", |driver| text("Driver") == driver)
            && filters.any("scope", |scope| text("Scope") == scope)
            && filters.labels("label", None)
            && filters.any("type", |kind| kind == "builtin")
    });
    ok(&networks)
}

async fn inspect(State(api): State<Api>, Path(word): Path<String>) -> Answer {
    let found = all(&api).into_iter().find(|network| {
        network["Name"] == word.as_str() || network["Id"].as_str().is_some_and(|id| id.starts_with(&word))
    });
    match found {
        Some(network) => ok(&network),
        None => Err(ApiError::not_found(format!("network {word} not found")).into()),
    }
}

async fn remove(State(api): State<Api>, Path(word): Path<String>) -> Answer {
    inspect(State(api), Path(word)).await?;
    Err(unserved("removing the predefined networks"))
}

async fn create() -> Answer {
    Err(unserved("networks of one's own"))
}
