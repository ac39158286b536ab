//! What is asked of registries: pulls with Docker's progress, look-ups for clients that pin digests, logins.

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Path, State},
    http::{HeaderMap, StatusCode, header},
    response::IntoResponse as _,
    routing::{get, post},
};
use futures::{StreamExt as _, stream};
use serde::Deserialize;
use serde_json::{Value, json};
use skep_agent::runtime::{LayerStep, PullNews};
use skep_api::{ApiError, ErrorKind, Secret};

use super::{
    Api,
    answer::{Answer, Params, ok, registry_auth},
    backend::{PullAsked, PullEvent},
};

pub(super) fn routes() -> Router<Api> {
    Router::new().route("/auth", post(login)).route("/distribution/{*name}", get(distribution))
}

/// `docker pull`: an error before there is any progress is an answer of its own, a later one a message.
pub(super) async fn pull(api: &Api, params: &Params, auth: Secret) -> Answer {
    let reference = reference(params.text("fromImage"), params.text("tag"));
    let asked =
        PullAsked { reference: reference.clone(), platform: params.text("platform").to_owned(), auth };
    let mut events = api.backend.engine().pull(asked)?;
    let Some(first) = events.next().await else {
        return Err(ApiError::new(ErrorKind::Unavailable, "the pull was given up").into());
    };
    if let PullEvent::Done(Err(error)) = first {
        return Err(error.into());
    }
    let lines = stream::iter([first]).chain(events).map(move |event| {
        let text =
            messages(&reference, &event).iter().fold(String::new(), |text, m| format!("{text}{m}\r\n"));
        Ok::<_, std::convert::Infallible>(Bytes::from(text))
    });
    let kind = [(header::CONTENT_TYPE, "application/json")];
    Ok((StatusCode::OK, kind, Body::from_stream(lines)).into_response())
}

fn reference(name: &str, tag: &str) -> String {
    match tag {
        "" => name.to_owned(),
        digest if digest.contains(':') => format!("{name}@{digest}"),
        tag => format!("{name}:{tag}"),
    }
}

fn messages(reference: &str, event: &PullEvent) -> Vec<Value> {
    match event {
        PullEvent::News(PullNews::Began { repository, which }) => {
            vec![json!({ "status": format!("Pulling from {repository}"), "id": which })]
        }
        PullEvent::News(PullNews::Layer { id, step }) => {
            let (status, detail) = match step {
                LayerStep::Waiting => ("Pulling fs layer", json!({})),
                LayerStep::AlreadyExists => ("Already exists", json!({})),
                LayerStep::Downloading { bytes, of } => {
                    ("Downloading", json!({ "current": bytes, "total": of }))
                }
                LayerStep::Extracting => ("Extracting", json!({})),
                LayerStep::Complete => ("Pull complete", json!({})),
            };
            vec![json!({ "status": status, "progressDetail": detail, "id": id })]
        }
        PullEvent::Done(Ok(pulled)) => {
            let outcome = if pulled.is_new { "Downloaded newer image" } else { "Image is up to date" };
            vec![
                json!({ "status": format!("Digest: {}", pulled.digest) }),
                json!({ "status": format!("Status: {outcome} for {}", familiar(reference)) }),
            ]
        }
        PullEvent::Done(Err(error)) => {
            vec![json!({ "errorDetail": { "message": error.message }, "error": error.message })]
        }
    }
}

/// As people write it: clients spell out what nobody writes.
fn familiar(reference: &str) -> &str {
    let short = reference.strip_prefix("docker.io/").unwrap_or(reference);
    short.strip_prefix("library/").filter(|name| !name.contains('/')).unwrap_or(short)
}

/// The docker CLI takes a failure here as a warning: the service is created with the tag as given.
async fn distribution(State(api): State<Api>, Path(name): Path<String>, headers: HeaderMap) -> Answer {
    let Some(name) = name.strip_suffix("/json") else {
        return Err(ApiError::not_found("page not found").into());
    };
    let found = api.backend.engine().distribution(name, &registry_auth(&headers)).await?;
    ok(&json!({
        "Descriptor": { "mediaType": found.media_type, "digest": found.digest, "size": found.size },
        "Platforms": found.platforms,
    }))
}

async fn login(State(api): State<Api>, request: Bytes) -> Answer {
    #[derive(Deserialize)]
    struct Login {
        #[serde(default)]
        serveraddress: String,
    }
    let login: Login = serde_json::from_slice(&request).map_err(|_| ApiError::invalid("invalid JSON"))?;
    api.backend.engine().check_login(&login.serveraddress, &request).await?;
    ok(&json!({ "Status": "Login Succeeded", "IdentityToken": "" }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pull_is_named_in_two_parts() {
        for (name, tag, expect) in [
            ("a", "", "a"),
            ("h:5000/a", "1", "h:5000/a:1"),
            ("a", "sha256:00", "a@sha256:00"),
            ("a@sha256:00", "", "a@sha256:00"),
        ] {
            assert_eq!(reference(name, tag), expect);
        }
        for (full, short) in [
            ("docker.io/library/a:1", "a:1"),
            ("docker.io/b/a:1", "b/a:1"),
            ("h:5000/library/a", "h:5000/library/a"),
        ] {
            assert_eq!(familiar(full), short);
        }
    }
}
