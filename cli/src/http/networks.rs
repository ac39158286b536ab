//! Networks: the swarm's own on managers, and those that every node has by itself.

use axum::{
    Router,
    body::Bytes,
    extract::{Path, State},
    http::{StatusCode, Uri},
    routing::{get, post},
};
use serde_json::{Value, json};
use skep_api::{ApiError, ErrorKind, NetworkId, spec::Labels, spec::NetworkSpec, validate};

use super::{
    Api, SwarmState,
    answer::{Answer, Params, body, empty, ok, unserved, with_json},
    filter::Filters,
    render,
};

const FILTERS: &[&str] = &["dangling", "driver", "id", "label", "name", "scope", "type"];
const PRUNE_FILTERS: &[&str] = &["label"];

pub(super) fn routes() -> Router<Api> {
    Router::new()
        .route("/networks", get(list))
        .route("/networks/{id}", get(inspect).delete(remove))
        .route("/networks/create", post(create))
        .route("/networks/prune", post(prune))
        .route("/networks/{id}/connect", post(|| async { refused("connecting a container to a network") }))
        .route("/networks/{id}/disconnect", post(|| async { refused("disconnecting a container") }))
}

fn refused(what: &str) -> Answer {
    Err(unserved(what))
}

/// A network as listed, with what is asked of it here.
struct Listed {
    json: Value,
    /// `None`: one that every node has, or the ingress network.
    own: Option<NetworkId>,
    is_predefined: bool,
    is_used: bool,
    labels: Labels,
}

impl Listed {
    fn text(&self, key: &str) -> &str {
        self.json[key].as_str().unwrap_or_default()
    }

    fn passes(&self, filters: &Filters) -> Result<bool, ApiError> {
        let dangling = filters.flag("dangling")?;
        let is_dangling = self.own.is_some() && !self.is_used;
        Ok(filters.any("id", |word| matches(self.text("Id"), word))
            && filters.any("name", |word| matches(self.text("Name"), word))
            && filters.any("driver", |word| self.text("Driver") == word)
            && filters.any("scope", |word| self.text("Scope") == word)
            && filters.labels("label", Some(&self.labels))
            && filters.any("type", |word| word == if self.is_predefined { "builtin" } else { "custom" })
            && dangling.is_none_or(|wanted| wanted == is_dangling))
    }
}

/// A part of the subject, or with `^` and `$` its beginning and end: what clients use of Docker's patterns.
fn matches(subject: &str, word: &str) -> bool {
    let (word, from_start) = word.strip_prefix('^').map_or((word, false), |rest| (rest, true));
    let (word, to_end) = word.strip_suffix('$').map_or((word, false), |rest| (rest, true));
    match (from_start, to_end) {
        (true, true) => subject == word,
        (true, false) => subject.starts_with(word),
        (false, true) => subject.ends_with(word),
        (false, false) => subject.contains(word),
    }
}

async fn all(api: &Api) -> Result<Vec<Listed>, ApiError> {
    let facts = api.backend.facts();
    let node = facts.node_id.map_or_else(|| facts.node_name.clone(), |id| id.to_string());
    let local = |(name, driver): (&str, &str)| Listed {
        json: render::local_network(name, driver, &node),
        own: None,
        is_predefined: true,
        is_used: false,
        labels: Labels::new(),
    };
    let mut networks: Vec<Listed> =
        [("bridge", "bridge"), ("host", "host"), ("none", "null")].map(local).into();
    let SwarmState::Manager(control) = api.backend.swarm() else { return Ok(networks) };
    let view = control.view().await?;
    if let Some(cluster) = view.cluster() {
        networks.push(Listed {
            json: render::ingress(cluster),
            own: None,
            is_predefined: false,
            is_used: true,
            labels: Labels::new(),
        });
    }
    networks.extend(view.networks().map(|network| Listed {
        json: render::network(network),
        own: Some(network.id),
        is_predefined: false,
        is_used: view.services_on_network(network.id).next().is_some(),
        labels: network.spec.labels.clone().unwrap_or_default(),
    }));
    Ok(networks)
}

/// The network meant by `word`: by its id, its name, or the beginning of its id.
async fn find(api: &Api, word: &str, scope: &str) -> Result<Listed, ApiError> {
    let mut networks = all(api).await?;
    networks.retain(|network| scope.is_empty() || network.text("Scope") == scope);
    let whole = |key: &str| networks.iter().position(|network| network.text(key) == word);
    if let Some(at) = whole("Id").or_else(|| whole("Name")) {
        return Ok(networks.swap_remove(at));
    }
    networks.retain(|network| !word.is_empty() && network.text("Id").starts_with(word));
    match networks.len() {
        0 => Err(ApiError::not_found(format!("network {word} not found"))),
        1 => Ok(networks.swap_remove(0)),
        n => Err(ApiError::invalid(format!("network {word} is ambiguous ({n} matches found on ID prefix)"))),
    }
}

async fn list(State(api): State<Api>, uri: Uri) -> Answer {
    let filters = Filters::parse(Params::of(&uri)?.text("filters"), FILTERS)?;
    filters.check("type", &["builtin", "custom"])?;
    filters.check("scope", &["local", "swarm", "global"])?;
    let mut passing = Vec::new();
    for network in all(&api).await? {
        if network.passes(&filters)? {
            passing.push(network.json);
        }
    }
    ok(&passing)
}

async fn inspect(State(api): State<Api>, Path(word): Path<String>, uri: Uri) -> Answer {
    let scope = Params::of(&uri)?.text("scope").to_owned();
    ok(&find(&api, &word, &scope).await?.json)
}

async fn create(State(api): State<Api>, request: Bytes) -> Answer {
    let spec: NetworkSpec = body(&request)?;
    // What is wrong with it on any node comes before where it is asked.
    validate::network(&spec)?;
    let created = api.manager()?.create_network(spec).await?;
    let answer = json!({ "Id": created.id.to_string(), "Warning": created.warning });
    Ok(with_json(StatusCode::CREATED, &answer))
}

async fn remove(State(api): State<Api>, Path(word): Path<String>) -> Answer {
    let network = find(&api, &word, "").await?;
    if network.is_predefined {
        let words = format!("{} is a pre-defined network and cannot be removed", network.text("Name"));
        return Err(ApiError::new(ErrorKind::PermissionDenied, words).into());
    }
    let Some(id) = network.own else { return refused("removing the ingress network") };
    api.manager()?.remove_network(id).await?;
    empty(StatusCode::NO_CONTENT)
}

async fn prune(State(api): State<Api>, uri: Uri) -> Answer {
    let filters = Filters::parse(Params::of(&uri)?.text("filters"), PRUNE_FILTERS)?;
    let mut deleted = Vec::new();
    for network in all(&api).await? {
        let Some(id) = network.own.filter(|_| !network.is_used) else { continue };
        if !filters.labels("label", Some(&network.labels)) {
            continue;
        }
        match api.manager()?.remove_network(id).await {
            Ok(()) => deleted.push(network.text("Name").to_owned()),
            // Somebody took it or removed it meanwhile.
            Err(error) if matches!(error.kind, ErrorKind::FailedPrecondition | ErrorKind::NotFound) => {}
            Err(error) => return Err(error.into()),
        }
    }
    ok(&json!({ "NetworksDeleted": deleted }))
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn names_match_as_docker_matches_them() {
        for (word, expect) in [
            ("web", true),
            ("^web_d", true),
            ("^web_default$", true),
            ("default$", true),
            ("^default", false),
        ] {
            assert_eq!(matches("web_default", word), expect, "{word}");
        }
    }
}
