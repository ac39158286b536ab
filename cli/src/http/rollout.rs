//! Updates by hand, and past specs: routes of our own, since Docker has none.

use axum::{
    Router,
    extract::{Path, State},
    http::{StatusCode, Uri},
    routing::{get, post},
};
use serde_json::{Value, json};
use skep_api::ApiError;
use skep_manager::RollOut;

use super::{
    Api,
    answer::{Answer, Params, empty, ok},
    lookup, render,
};

pub(super) fn routes() -> Router<Api> {
    Router::new()
        .route("/skep/services/{id}/rollout", post(roll_out))
        .route("/skep/services/{id}/history", get(history))
}

async fn roll_out(State(api): State<Api>, Path(word): Path<String>, uri: Uri) -> Answer {
    let control = api.manager()?;
    let params = Params::of(&uri)?;
    let version = params.version("service")?;
    let what = match params.text("do") {
        "pause" => RollOut::Pause,
        "resume" => RollOut::Resume,
        "abort" => RollOut::Abort,
        "rollback" => RollOut::BackTo(number(params.text("to"))?),
        other => {
            let words = format!("do '{other}': pause, resume, abort or rollback expected");
            return Err(ApiError::invalid(words).into());
        }
    };
    let service = lookup::service(&control.view().await?, &word)?;
    control.roll_out(service.id, version, what).await?;
    empty(StatusCode::OK)
}

fn number(text: &str) -> Result<usize, ApiError> {
    let number = text.parse().ok().filter(|number| *number > 0);
    number
        .ok_or_else(|| ApiError::invalid(format!("to '{text}': the number of a past spec expected, from 1")))
}

/// The specs that a service had, the newest first, numbered as a rollback names them.
async fn history(State(api): State<Api>, Path(word): Path<String>) -> Answer {
    let control = api.manager()?;
    let service = lookup::service(&control.view().await?, &word)?;
    let past: Vec<Value> = service
        .history
        .iter()
        .zip(1_u64..)
        .map(|(past, number)| {
            let version = json!({ "Index": past.spec_version });
            json!({
                "Number": number,
                "Version": version,
                "ReplacedAt": past.at.to_string(),
                "Spec": render::spec(&past.spec),
            })
        })
        .collect();
    ok(&past)
}
