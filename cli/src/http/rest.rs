//! What Docker's clients ask and this build does not have: empty lists where there is nothing to list,
//! a refusal by name where something would be made.

use axum::{
    Router,
    extract::{Path, State},
    http::Uri,
    routing::{any, get, post},
};
use serde_json::json;
use skep_api::ApiError;

use super::{
    Api,
    answer::{Answer, Params, ok, unserved},
};

pub(super) fn routes() -> Router<Api> {
    Router::new()
        .route("/secrets", get(no_swarm_objects))
        .route("/configs", get(no_swarm_objects))
        .route("/secrets/{id}", get(no_secret).delete(no_secret))
        .route("/configs/{id}", get(no_config).delete(no_config))
        .route("/secrets/create", post(|| async { refused("secrets") }))
        .route("/configs/create", post(|| async { refused("configs") }))
        .route("/volumes", get(volumes))
        .route("/volumes/{name}", get(volume).delete(|| async { refused("removing volumes") }))
        .route(
            "/volumes/create",
            post(|| async { refused("volumes made by hand (a service's mount makes its own)") }),
        )
        .route("/plugins", get(|| async { ok(&json!([])) }))
        .route("/events", get(|| async { refused("the stream of events") }))
        .route("/system/df", get(|| async { refused("the engine's disk usage") }))
        .route("/build", post(|| async { refused("building images") }))
        .route("/session", post(|| async { refused("building images") }))
        .route("/grpc", post(|| async { refused("building images") }))
        .route("/exec/{*rest}", any(|| async { refused("exec") }))
        .route("/containers/create", post(|| async { refused("containers outside services") }))
        .route("/containers/{id}", any(|| async { refused("changing single containers (their tasks do)") }))
        .route("/containers/{id}/{verb}", any(of_container))
}

fn refused(what: &str) -> Answer {
    Err(unserved(what))
}

/// `docker exec`, `stop`, `stats`...: named, so that the user knows what is missing.
async fn of_container(Path((_, verb)): Path<(String, String)>) -> Answer {
    refused(&format!("'{verb}' of a container"))
}

async fn no_swarm_objects(State(api): State<Api>, uri: Uri) -> Answer {
    api.manager()?;
    Params::of(&uri)?;
    ok(&json!([]))
}

async fn no_secret(State(api): State<Api>, Path(word): Path<String>) -> Answer {
    api.manager()?;
    Err(ApiError::not_found(format!("secret {word} not found")).into())
}

async fn no_config(State(api): State<Api>, Path(word): Path<String>) -> Answer {
    api.manager()?;
    Err(ApiError::not_found(format!("config {word} not found")).into())
}

/// The named volumes that tasks of this node have, or had, mounted.
async fn volumes(State(api): State<Api>) -> Answer {
    let dir = api.backend.facts().state_dir.join("engine/volumes");
    let mut names = Vec::new();
    if let Ok(mut entries) = tokio::fs::read_dir(&dir).await {
        while let Ok(Some(entry)) = entries.next_entry().await {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort();
    let all: Vec<_> = names.iter().map(|name| volume_json(&dir, name)).collect();
    ok(&json!({ "Volumes": all, "Warnings": null }))
}

async fn volume(State(api): State<Api>, Path(word): Path<String>) -> Answer {
    let dir = api.backend.facts().state_dir.join("engine/volumes");
    let is_name = !word.is_empty() && !word.starts_with('.') && !word.contains('/');
    if is_name && tokio::fs::try_exists(dir.join(&word)).await.unwrap_or(false) {
        return ok(&volume_json(&dir, &word));
    }
    Err(ApiError::not_found(format!("get {word}: no such volume")).into())
}

fn volume_json(dir: &std::path::Path, name: &str) -> serde_json::Value {
    json!({
        "Name": name,
        "Driver": "local",
        "Mountpoint": dir.join(name).join("_data"),
        "Labels": null,
        "Options": null,
        "Scope": "local",
    })
}
