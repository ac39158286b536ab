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
