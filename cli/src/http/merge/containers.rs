//! The Docker Engine's containers without the sandboxes of tasks, which are none of the user's business.
//!
//! They are shown to who asks for them: by id, by their name or by their label.

use axum::{
    extract::Request,
    http::{StatusCode, Uri},
    response::Response,
};
use serde_json::Value;
use skep_agent::SANDBOX_LABEL;
use skep_api::ApiError;

use crate::http::{
    DockerSocket,
    answer::{Params, with_json},
    proxy::{get, pass},
};

/// How the names of sandboxes begin, those in use and those made ahead (`agent/src/docker/sandbox.rs`).
const NAME_PREFIXES: [&str; 2] = ["skep-sandbox", "skep-spare"];

/// `docker ps`.
pub(super) async fn list(
    docker: &DockerSocket,
    asked: (u32, u32),
    request: Request,
) -> Result<Response, ApiError> {
    let params = Params::of(request.uri())?;
    let filters: Value = serde_json::from_str(params.text("filters")).unwrap_or_default();
    if asks_for_sandboxes(&filters) {
        return Ok(pass(docker, asked, request).await);
    }
    // The last n are the last n of those that are shown.
    let limit = params.text("limit").parse::<usize>().ok().filter(|limit| *limit > 0);
    let mut all = get(docker, asked, &without_limit(request.uri(), limit.is_some())?).await?;
    if let Value::Array(all) = &mut all {
        all.retain(|one| !is_sandbox(one));
        all.truncate(limit.unwrap_or(usize::MAX));
    }
    Ok(with_json(StatusCode::OK, &all))
}

/// A container by a task's host name, which is its sandbox's: programs find themselves by it (Traefik, Portainer's
/// agent), so the answer is the task's container.
pub(super) async fn inspect(
    docker: &DockerSocket,
    asked: (u32, u32),
    request: Request,
) -> Result<Response, ApiError> {
    let found = get(docker, asked, request.uri()).await.unwrap_or_default();
    if found["Config"]["Labels"].get(SANDBOX_LABEL).is_none() {
        return Ok(pass(docker, asked, request).await);
    }
    let all = get(docker, asked, &Uri::from_static("/containers/json?all=1")).await?;
    let Some(id) = joined(&all, &found) else { return Ok(pass(docker, asked, request).await) };
    let query = request.uri().query().unwrap_or_default();
    let uri = format!("/containers/{id}/json?{query}").parse::<Uri>();
    let uri = uri.map_err(|_| ApiError::invalid("malformed query"))?;
    Ok(with_json(StatusCode::OK, &get(docker, asked, &uri).await?))
}

/// The id of the container that joined the sandbox, which it may name by id or by name.
fn joined<'a>(all: &'a Value, sandbox: &Value) -> Option<&'a str> {
    let is_it = |word: &str| sandbox["Id"] == word || sandbox["Name"] == format!("/{word}");
    let mode = |one: &'a Value| one["HostConfig"]["NetworkMode"].as_str()?.strip_prefix("container:");
    all.as_array()?.iter().find(|one| mode(one).is_some_and(is_it))?["Id"].as_str()
}

/// `docker system df`.
pub(super) async fn usage(
    docker: &DockerSocket,
    asked: (u32, u32),
    request: Request,
) -> Result<Response, ApiError> {
    let mut usage = get(docker, asked, request.uri()).await?;
    if let Some(all) = usage["Containers"].as_array_mut() {
        all.retain(|one| !is_sandbox(one));
    }
    Ok(with_json(StatusCode::OK, &usage))
}

/// Takes the sandboxes off the numbers of `docker info`; left as they are where they cannot be told.
pub(super) async fn without_sandboxes(docker: &DockerSocket, asked: (u32, u32), info: &mut Value) {
    // {"label":["skep.sandbox"]}
    let query = format!("/containers/json?all=1&filters=%7B%22label%22%3A%5B%22{SANDBOX_LABEL}%22%5D%7D");
    let Ok(uri) = query.parse::<Uri>() else { return };
    if let Ok(Value::Array(sandboxes)) = get(docker, asked, &uri).await {
        uncount(info, &sandboxes);
    }
}

fn uncount(info: &mut Value, sandboxes: &[Value]) {
    let mut less = |key: &str, n: usize| {
        let shown = info[key].as_u64().unwrap_or(0).saturating_sub(u64::try_from(n).unwrap_or(0));
        info[key] = shown.into();
    };
    let in_state = |states: &[&str]| {
        let is_in = |one: &&Value| states.iter().any(|state| one["State"] == *state);
        sandboxes.iter().filter(is_in).count()
    };
    let (running, paused) = (in_state(&["running", "restarting"]), in_state(&["paused"]));
    less("Containers", sandboxes.len());
    less("ContainersRunning", running);
    less("ContainersPaused", paused);
    less("ContainersStopped", sandboxes.len() - running - paused);
}

fn is_sandbox(container: &Value) -> bool {
    container["Labels"].get(SANDBOX_LABEL).is_some()
}

fn asks_for_sandboxes(filters: &Value) -> bool {
    let any = |key: &str, is_meant: fn(&str) -> bool| match &filters[key] {
        Value::Array(words) => words.iter().filter_map(Value::as_str).any(is_meant),
        Value::Object(words) => words.keys().any(|word| is_meant(word)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    };
    let by_name = |word: &str| {
        let word = word.trim_start_matches(['^', '/']);
        NAME_PREFIXES.iter().any(|prefix| word.starts_with(prefix))
    };
    any("id", |_| true) || any("name", by_name) || any("label", |word| word.starts_with(SANDBOX_LABEL))
}

/// The same list, whole. With a limit Docker counts stopped ones too.
fn without_limit(uri: &Uri, has_limit: bool) -> Result<Uri, ApiError> {
    let kept = uri.query().unwrap_or_default().split('&').filter(|pair| !pair.starts_with("limit="));
    let mut query: Vec<&str> = kept.filter(|pair| !pair.is_empty()).collect();
    if has_limit {
        query.retain(|pair| !pair.starts_with("all="));
        query.push("all=1");
    }
    let path = format!("{}?{}", uri.path(), query.join("&"));
    path.parse().map_err(|_| ApiError::invalid("malformed query"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn sandboxes_are_shown_to_who_asks_for_them() {
        for (filters, expect) in [
            (json!(null), false),
            (json!({ "status": ["running"] }), false),
            (json!({ "name": ["web"] }), false),
            (json!({ "name": { "^/skep-sandbox": true } }), true),
            (json!({ "name": ["skep-spare-0"] }), true),
            (json!({ "id": ["abc"] }), true),
            (json!({ "label": ["com.docker.swarm.node.id=x"] }), false),
            (json!({ "label": { "skep.sandbox": true } }), true),
        ] {
            assert_eq!(asks_for_sandboxes(&filters), expect, "{filters}");
        }
        assert!(is_sandbox(&json!({ "Labels": { "skep.sandbox": "" } })));
        assert!(!is_sandbox(&json!({ "Labels": {} })) && !is_sandbox(&json!({ "Labels": null })));
    }

    #[test]
    fn a_sandbox_is_its_tasks() {
        let of = |id: &str, mode: &str| json!({ "Id": id, "HostConfig": { "NetworkMode": mode } });
        let all = json!([of("a", "bridge"), of("b", "container:skep-sandbox-1"), of("c", "container:2f")]);
        let sandbox = |id: &str, name: &str| json!({ "Id": id, "Name": name });
        assert_eq!(joined(&all, &sandbox("1f", "/skep-sandbox-1")), Some("b"));
        assert_eq!(joined(&all, &sandbox("2f", "/skep-sandbox-2")), Some("c"));
        assert_eq!(joined(&all, &sandbox("3f", "/skep-sandbox-3")), None);
    }

    #[test]
    fn a_limit_counts_what_is_shown() {
        for (given, has_limit, expect) in [
            ("/containers/json", false, "/containers/json?"),
            ("/containers/json?limit=-1&size=1", false, "/containers/json?size=1"),
            ("/containers/json?all=0&limit=3&size=1", true, "/containers/json?size=1&all=1"),
        ] {
            let got = without_limit(&given.parse().unwrap(), has_limit).unwrap();
            assert_eq!(got.to_string(), expect);
        }
    }

    #[test]
    fn the_numbers_of_info_are_of_what_is_shown() {
        let mut info =
            json!({ "Containers": 7, "ContainersRunning": 4, "ContainersPaused": 1, "ContainersStopped": 2 });
        let of = |state: &str| json!({ "State": state });
        uncount(&mut info, &[of("running"), of("running"), of("exited"), of("created")]);
        let expect =
            json!({ "Containers": 3, "ContainersRunning": 2, "ContainersPaused": 1, "ContainersStopped": 0 });
        assert_eq!(info, expect);
    }
}
