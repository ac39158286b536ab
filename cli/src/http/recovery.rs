//! Backups, restoring one, and what this manager has: routes of our own, since Docker has none.

use std::path::PathBuf;

use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    http::header,
    response::IntoResponse,
    routing::{get, post},
};
use serde::{Deserialize, Deserializer};
use skep_api::{ApiError, Secret};
use tokio_stream::wrappers::ReceiverStream;

use super::{
    Api,
    answer::{Answer, ok},
};

/// Body of `POST /skep/backup`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct BackupRequest {
    #[serde(deserialize_with = "secret")]
    key: Secret,
}

/// Body of `POST /skep/restore`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(crate) struct RestoreRequest {
    /// A file of the daemon's machine.
    pub(crate) path: PathBuf,
    /// The backup's.
    #[serde(deserialize_with = "secret")]
    pub(crate) key: Secret,
    /// As of `swarm init`.
    #[serde(default)]
    pub(crate) advertise_addr: String,
    /// As of `swarm init`.
    #[serde(default)]
    pub(crate) listen_addr: String,
}

fn secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Secret, D::Error> {
    String::deserialize(deserializer).map(|text| Secret::new(text.into_bytes()))
}

/// Those that are answered at once.
pub(super) fn routes() -> Router<Api> {
    Router::new().route("/skep/recover", get(preview))
}

/// Those that take as long as the state is large.
pub(super) fn streams() -> Router<Api> {
    Router::new().route("/skep/backup", post(backup)).route("/skep/restore", post(restore))
}

fn parse<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, ApiError> {
    // The error says no more than the place: the body holds a key.
    serde_json::from_slice(bytes).map_err(|error| {
        ApiError::invalid(format!("the request's body cannot be read at column {}", error.column()))
    })
}

async fn preview(State(api): State<Api>) -> Answer {
    ok(&api.manager()?.preview())
}

async fn backup(State(api): State<Api>, request: Bytes) -> Answer {
    let request: BackupRequest = parse(&request)?;
    let pieces = api.manager()?.backup(request.key).await?;
    let kind = [(header::CONTENT_TYPE, "application/octet-stream")];
    Ok((kind, Body::from_stream(ReceiverStream::new(pieces))).into_response())
}

async fn restore(State(api): State<Api>, request: Bytes) -> Answer {
    let request: RestoreRequest = parse(&request)?;
    ok(&api.backend.restore(request).await?)
}
