//! The embedded engine's own containers: to look at, not to make (tasks make them).

use axum::{
    Router,
    extract::{Path, State},
    http::Uri,
    routing::get,
};
use serde_json::Value;
use skep_api::ApiError;

use super::{
    Api,
    answer::{Answer, Params, ok},
    backend::ContainerState,
    filter::Filters,
    render,
};

const FILTERS: &[&str] = &["id", "is-task", "label", "name", "status"];

pub(super) fn routes() -> Router<Api> {
    Router::new().route("/containers/json", get(list)).route("/containers/{id}/json", get(inspect))
}

async fn list(State(api): State<Api>, uri: Uri) -> Answer {
    let params = Params::of(&uri)?;
    let filters = Filters::parse(params.text("filters"), FILTERS)?;
    let all = params.flag("all") || !filters.values("status").is_empty();
    // All of them are tasks.
    let is_asked_for = filters.flag("is-task")? != Some(false);
    let now = api.backend.facts().now;
    let containers: Vec<Value> = api
        .backend
        .engine()
        .containers()
        .await?
        .iter()
        .filter(|one| is_asked_for && (all || matches!(one.state, ContainerState::Running { .. })))
        .filter(|one| {
            let word = match one.state {
                ContainerState::Created => "created",
                ContainerState::Running { .. } => "running",
                ContainerState::Exited { .. } => "exited",
            };
            filters.prefix("id", &one.id)
                && filters.any("name", |name| one.name.contains(name.trim_start_matches('/')))
                && filters.labels("label", Some(&one.labels))
                && filters.any("status", |status| status == word)
        })
        .map(|one| render::container(one, now))
        .collect();
    ok(&containers)
}

async fn inspect(State(api): State<Api>, Path(word): Path<String>) -> Answer {
    let all = api.backend.engine().containers().await?;
    let name = word.trim_start_matches('/');
    let found = all.iter().find(|one| one.id == word || one.name == name).or_else(|| {
        let mut matches = all.iter().filter(|one| one.id.starts_with(&word));
        matches.next().filter(|_| matches.next().is_none())
    });
    match found {
        Some(one) => {
            let in_force = api.backend.engine().in_force(&one.id).await?;
            ok(&render::container_details(one, &in_force, api.backend.facts().now))
        }
        None => Err(ApiError::not_found(format!("No such container: {word}")).into()),
    }
}
