//! Images of this node. Archives are streamed into the engine, never held in memory.

use std::time::Duration;

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Path, State},
    http::{HeaderMap, StatusCode, Uri, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use futures::StreamExt as _;
use serde_json::{Value, json};
use skep_api::ApiError;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::io::StreamReader;

use super::{
    Api,
    answer::{Answer, Failure, Params, empty, ok, registry_auth, unserved},
    backend::{BodyReader, Image},
    filter::Filters,
    registry, render,
};

const FILTERS: &[&str] = &["before", "dangling", "label", "reference", "since", "until"];

pub(super) fn routes() -> Router<Api> {
    Router::new()
        .route("/images/json", get(list))
        .route("/images/load", post(load))
        .route("/images/create", post(create))
        .route("/images/{*name}", get(inspect).delete(remove).post(change))
}

/// Pieces of a body that wait for the engine.
const PIECES_WAITING_MAX: usize = 16;

/// How long the rest of a refused archive is read: a client that still sends would not see the answer.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(30);

/// Gives `take` the body to read, and sees to it that all of it is read.
async fn stream<T, F: Future<Output = Result<T, ApiError>>>(
    body: Body,
    take: impl FnOnce(BodyReader) -> F,
) -> Result<T, ApiError> {
    let (pieces, receiver) = mpsc::channel(PIECES_WAITING_MAX);
    let mut body = body.into_data_stream();
    let pump = async move {
        let mut wanted = true;
        while let Some(piece) = body.next().await {
            let broken = piece.is_err();
            wanted = wanted && pieces.send(piece.map_err(std::io::Error::other)).await.is_ok();
            if broken {
                return;
            }
        }
    };
    let reader: BodyReader = Box::pin(StreamReader::new(ReceiverStream::new(receiver)));
    let mut pump = std::pin::pin!(pump);
    let mut taking = std::pin::pin!(take(reader));
    let result = tokio::select! {
        result = &mut taking => result,
        () = &mut pump => return taking.await,
    };
    // Whatever comes of it, the answer is the engine's.
    let _ = tokio::time::timeout(DRAIN_TIME_MAX, pump).await;
    result
}

/// Docker's stream of JSON messages, one a line.
fn messages(all: &[Value]) -> Response {
    let mut text = String::new();
    for message in all {
        text.push_str(&message.to_string());
        text.push_str("\r\n");
    }
    (StatusCode::OK, [(header::CONTENT_TYPE, "application/json")], Bytes::from(text)).into_response()
}

/// Refuses what would change the image and is not honoured.
fn check_plain(params: &Params, keys: &[&str]) -> Result<(), Failure> {
    match keys.iter().find(|key| !params.text(key).is_empty()) {
        Some(key) => Err(unserved(&format!("the parameter '{key}' for images"))),
        None => Ok(()),
    }
}

async fn load(State(api): State<Api>, uri: Uri, body: Body) -> Answer {
    check_plain(&Params::of(&uri)?, &["platform"])?;
    let engine = api.backend.engine();
    let loaded = stream(body, |reader| engine.load(reader)).await?;
    let lines: Vec<Value> = loaded
        .iter()
        .map(|image| match &image.reference {
            Some(reference) => json!({ "stream": format!("Loaded image: {reference}\n") }),
            None => json!({ "stream": format!("Loaded image ID: {}\n", image.id) }),
        })
        .collect();
    Ok(messages(&lines))
}

async fn create(State(api): State<Api>, uri: Uri, headers: HeaderMap, body: Body) -> Answer {
    let params = Params::of(&uri)?;
    if !params.text("fromImage").is_empty() {
        return registry::pull(&api, &params, registry_auth(&headers)).await;
    }
    if params.text("fromSrc") != "-" {
        return Err(unserved(
            "importing from an address (send the archive as the request's body, fromSrc=-)",
        ));
    }
    check_plain(&params, &["changes", "message", "platform"])?;
    let (repo, tag) = (params.text("repo"), params.text("tag"));
    let reference = match (repo, tag) {
        ("", _) => String::new(),
        (repo, "") if has_tag(repo) => repo.to_owned(),
        (repo, "") => format!("{repo}:latest"),
        (repo, tag) => format!("{repo}:{tag}"),
    };
    let engine = api.backend.engine();
    let id = stream(body, |reader| engine.import(reader, reference)).await?;
    Ok(messages(&[json!({ "status": id })]))
}

fn has_tag(repo: &str) -> bool {
    repo.rsplit('/').next().is_some_and(|last| last.contains(':'))
}

async fn list(State(api): State<Api>, uri: Uri) -> Answer {
    let filters = Filters::parse(Params::of(&uri)?.text("filters"), FILTERS)?;
    for key in ["before", "since", "until"] {
        if !filters.values(key).is_empty() {
            return Err(unserved(&format!("the image filter '{key}'")));
        }
    }
    let dangling = filters.flag("dangling")?;
    let mut images = api.backend.engine().images().await?;
    images.retain(|image| {
        dangling.is_none_or(|wanted| wanted == (image.references.is_empty() && image.repo_digests.is_empty()))
            && filters.any("reference", |pattern| image.references.iter().any(|name| matches(name, pattern)))
            && filters.labels("label", labels(image).as_ref())
    });
    images.sort_by_key(|image| std::cmp::Reverse(image.created));
    ok(&images.iter().map(render::image).collect::<Vec<Value>>())
}

/// A reference with or without its tag; `*` stands for any text without a slash.
fn matches(reference: &str, pattern: &str) -> bool {
    let name = reference.rsplit_once(':').map_or(reference, |(name, _)| name);
    glob(reference.as_bytes(), pattern.as_bytes()) || glob(name.as_bytes(), pattern.as_bytes())
}

fn glob(text: &[u8], pattern: &[u8]) -> bool {
    match (text.split_first(), pattern.split_first()) {
        (None, None) => true,
        (_, Some((b'*', rest))) => {
            glob(text, rest) || text.split_first().is_some_and(|(c, text)| *c != b'/' && glob(text, pattern))
        }
        (Some((_, text)), Some((b'?', rest))) => glob(text, rest),
        (Some((c, text)), Some((p, rest))) => c == p && glob(text, rest),
        (None, Some(_)) | (Some(_), None) => false,
    }
}

fn labels(image: &Image) -> Option<skep_api::spec::Labels> {
    serde_json::from_value(image.config.get("Labels")?.clone()).ok()
}

async fn inspect(State(api): State<Api>, Path(path): Path<String>) -> Answer {
    let engine = api.backend.engine();
    if let Some(name) = path.strip_suffix("/json") {
        return match engine.find_image(name).await? {
            Some(image) => ok(&render::image_details(&image)),
            None => Err(ApiError::not_found(format!("No such image: {name}")).into()),
        };
    }
    if path == "search" || path == "get" || path.ends_with("/get") || path.ends_with("/history") {
        return Err(unserved("saving, searching and the history of images"));
    }
    Err(ApiError::not_found("page not found").into())
}

async fn change(State(api): State<Api>, Path(path): Path<String>, uri: Uri) -> Answer {
    match path.rsplit_once('/') {
        Some((_, "push")) => Err(unserved("pushing to a registry")),
        Some((name, "tag")) => {
            let params = Params::of(&uri)?;
            let target = match (params.text("repo"), params.text("tag")) {
                ("", _) => return Err(ApiError::invalid("invalid reference format: repo is empty").into()),
                (repo, "") => repo.to_owned(),
                (repo, tag) => format!("{repo}:{tag}"),
            };
            api.backend.engine().tag_image(name, &target).await?;
            empty(StatusCode::CREATED)
        }
        None if path == "prune" => Err(unserved("pruning images")),
        Some(_) | None => Err(ApiError::not_found("page not found").into()),
    }
}

async fn remove(State(api): State<Api>, Path(name): Path<String>, uri: Uri) -> Answer {
    let force = Params::of(&uri)?.flag("force");
    let removed = api.backend.engine().remove_image(&name, force).await?;
    let mut out: Vec<Value> = removed.untagged.iter().map(|name| json!({ "Untagged": name })).collect();
    out.extend(removed.deleted.iter().map(|id| json!({ "Deleted": id })));
    ok(&out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_match_patterns() {
        for (reference, pattern, expect) in [
            ("skep/whoami:latest", "skep/whoami", true),
            ("skep/whoami:latest", "skep/*", true),
            ("skep/whoami:latest", "whoami", false),
            ("a:1", "a:?", true),
            ("a:12", "a:?", false),
        ] {
            assert_eq!(matches(reference, pattern), expect, "{reference} {pattern}");
        }
        assert!(has_tag("host:5000/a:1") && !has_tag("host:5000/a"));
    }
}
