//! Answers that are put together of ours and the Docker Engine's, and who answers what where both are there.

mod containers;

use axum::{
    Router,
    body::Body,
    extract::Request,
    http::{Method, Uri},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};
use skep_api::ApiError;

use super::{
    ApiVersion, DockerSocket,
    answer::{BODY_BYTES_MAX, Failure, with_json},
    ours,
    proxy::{self, Owner, get, owner, pass},
};

/// Answers a request on a node whose tasks run on a Docker Engine.
pub(super) async fn answer(
    inner: Router,
    docker: DockerSocket,
    asked: (u32, u32),
    request: Request,
) -> Response {
    let done = match owner(request.method(), request.uri().path()) {
        Owner::Ours => Ok(ours(inner, request).await),
        Owner::Docker => Ok(pass(&docker, asked, request).await),
        Owner::Networks => both(inner, &docker, asked, request, networks).await,
        Owner::Containers => containers::list(&docker, asked, request).await,
        Owner::Container => containers::inspect(&docker, asked, request).await,
        Owner::Usage => containers::usage(&docker, asked, request).await,
        Owner::Distribution => distribution(&docker, asked, request).await,
        Owner::Info => both(inner, &docker, asked, request, info).await,
        Owner::Version => both(inner, &docker, asked, request, about).await,
        Owner::Network => network(inner, &docker, asked, request).await,
        Owner::NewNetwork => new_network(inner, &docker, asked, request).await,
    };
    done.unwrap_or_else(|error| Failure(error).into_response())
}

/// Asks both and puts the answers together; a refusal of ours is the answer.
async fn both(
    inner: Router,
    docker: &DockerSocket,
    asked: (u32, u32),
    request: Request,
    merge: fn(Value, Value) -> Value,
) -> Result<Response, ApiError> {
    let uri = request.uri().clone();
    let theirs = async {
        let mut theirs = get(docker, asked, &uri).await?;
        if owner(&Method::GET, uri.path()) == Owner::Info {
            containers::without_sandboxes(docker, asked, &mut theirs).await;
        }
        Ok::<_, ApiError>(theirs)
    };
    let (own, theirs) = tokio::join!(ours(inner, request), theirs);
    if !own.status().is_success() {
        return Ok(own);
    }
    let (status, body) = (own.status(), own.into_body());
    Ok(with_json(status, &merge(proxy::json(body).await?, theirs?)))
}

fn is_swarms(network: &Value) -> bool {
    network["Scope"] == "swarm"
}

/// Our networks that reach over nodes, and the engine's own.
fn networks(own: Value, theirs: Value) -> Value {
    let list = |value: Value, swarms: bool| match value {
        Value::Array(list) => list.into_iter().filter(|one| is_swarms(one) == swarms).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => Vec::new(),
    };
    let mut all: Vec<Value> = list(theirs, false);
    all.extend(list(own, true));
    all.into()
}

/// The engine's facts with our name, labels and swarm.
fn info(own: Value, mut theirs: Value) -> Value {
    for key in ["Name", "Labels", "Swarm"] {
        theirs[key] = own[key].clone();
    }
    theirs["Skep"] = json!({ "Engine": "docker", "Version": own["ServerVersion"] });
    theirs
}

/// Ours, with the engine's parts beside it.
fn about(mut own: Value, theirs: Value) -> Value {
    let parts = theirs["Components"].as_array().cloned().unwrap_or_default();
    if let Some(own) = own["Components"].as_array_mut() {
        own.extend(parts.into_iter().map(|mut part| {
            if part["Name"] == "Engine" {
                part["Name"] = "Docker Engine".into();
            }
            part
        }));
    }
    own
}

/// What a registry says of an image. `docker service create` asks this first; without a registry to be reached
/// Docker looks for one for 20 s, though an image that was loaded here comes from none.
async fn distribution(
    docker: &DockerSocket,
    asked: (u32, u32),
    request: Request,
) -> Result<Response, ApiError> {
    let path = request.uri().path();
    let name = path.strip_prefix("/distribution/").and_then(|rest| rest.strip_suffix("/json"));
    let name = name.unwrap_or_default();
    let uri =
        format!("/images/{name}/json").parse::<Uri>().map_err(|_| ApiError::invalid("malformed path"))?;
    let image = get(docker, asked, &uri).await.unwrap_or_default();
    if is_loaded(name, &image) {
        let words =
            format!("manifest for {name} not found: it was loaded on this node and comes from no registry");
        return Err(ApiError::not_found(words));
    }
    Ok(pass(docker, asked, request).await)
}

/// Whether an image of the engine's came from no registry.
fn is_loaded(name: &str, image: &Value) -> bool {
    let has_digests = image["RepoDigests"].as_array().is_none_or(|digests| !digests.is_empty());
    !has_digests && !name.contains('@')
}

/// One network: ours if it is one of those that reach over nodes.
async fn network(
    inner: Router,
    docker: &DockerSocket,
    asked: (u32, u32),
    request: Request,
) -> Result<Response, ApiError> {
    let word = request.uri().path().split('/').nth(2).unwrap_or_default();
    let uri = format!("/networks/{word}").parse::<Uri>().map_err(|_| ApiError::invalid("malformed path"))?;
    let mut look = Request::new(Body::empty());
    (*look.method_mut(), *look.uri_mut()) = (Method::GET, uri);
    look.extensions_mut().insert(ApiVersion(asked));
    let found = ours(inner.clone(), look).await;
    let is_ours = found.status().is_success() && is_swarms(&proxy::json(found.into_body()).await?);
    Ok(if is_ours { ours(inner, request).await } else { pass(docker, asked, request).await })
}

/// A new network: ours if it is to reach over nodes.
async fn new_network(
    inner: Router,
    docker: &DockerSocket,
    asked: (u32, u32),
    request: Request,
) -> Result<Response, ApiError> {
    let (head, body) = request.into_parts();
    let bytes = axum::body::to_bytes(body, BODY_BYTES_MAX)
        .await
        .map_err(|error| ApiError::invalid(format!("cannot read the request's body: {error}")))?;
    let is_ours = wants_swarm(&skep_api::json::parse(&bytes)?);
    let request = Request::from_parts(head, Body::from(bytes));
    Ok(if is_ours { ours(inner, request).await } else { pass(docker, asked, request).await })
}

/// What of a new network's request says whose it is.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct NewNetwork {
    driver: String,
    scope: String,
    ingress: bool,
}

fn wants_swarm(network: &NewNetwork) -> bool {
    network.driver == "overlay" || network.scope == "swarm" || network.ingress
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_put_together() {
        let own = json!([{ "Name": "bridge", "Scope": "local" }, { "Name": "ingress", "Scope": "swarm" }]);
        let theirs =
            json!([{ "Name": "bridge", "Scope": "local", "Id": "d" }, { "Name": "old", "Scope": "swarm" }]);
        let expect = json!([{ "Name": "bridge", "Scope": "local", "Id": "d" }, { "Name": "ingress", "Scope": "swarm" }]);
        assert_eq!(networks(own, theirs), expect);

        let own = json!({ "Name": "n1", "Labels": ["a=b"], "Swarm": { "NodeID": "x" }, "ServerVersion": "0.1", "Driver": "overlayfs" });
        let theirs = json!({ "Name": "host", "Swarm": {}, "ServerVersion": "20.10", "Driver": "overlay2" });
        let got = info(own, theirs);
        assert_eq!(
            (&got["Name"], &got["Driver"], &got["Swarm"]["NodeID"]),
            (&json!("n1"), &json!("overlay2"), &json!("x"))
        );
        assert_eq!((&got["ServerVersion"], &got["Skep"]["Version"]), (&json!("20.10"), &json!("0.1")));

        let own = json!({ "Version": "0.1", "Components": [{ "Name": "Engine" }] });
        let theirs = json!({ "Version": "20.10", "Components": [{ "Name": "Engine" }, { "Name": "runc" }] });
        let expect = json!({ "Version": "0.1", "Components": [{ "Name": "Engine" }, { "Name": "Docker Engine" }, { "Name": "runc" }] });
        assert_eq!(about(own, theirs), expect);
    }

    #[test]
    fn an_image_that_was_loaded_is_of_no_registry() {
        for (name, image, expect) in [
            ("a:1", json!({ "RepoDigests": [] }), true),
            ("a:1", json!({ "RepoDigests": ["a@sha256:0"] }), false),
            ("a@sha256:0", json!({ "RepoDigests": [] }), false),
            ("a:1", json!(null), false),
        ] {
            assert_eq!(is_loaded(name, &image), expect, "{name} {image}");
        }
    }

    #[test]
    fn a_new_network_says_whose_it_is() {
        for (body, expect) in [
            (r#"{"Name":"a"}"#, false),
            (r#"{"Name":"a","Driver":"bridge"}"#, false),
            (r#"{"Name":"a","driver":"overlay"}"#, true),
            (r#"{"Name":"a","Driver":"bridge","Scope":"swarm"}"#, true),
            (r#"{"Name":"a","Ingress":true}"#, true),
        ] {
            assert_eq!(wants_swarm(&skep_api::json::parse(body.as_bytes()).unwrap()), expect, "{body}");
        }
    }
}
