//! The named volumes of this node.

use axum::{
    Router,
    body::Bytes,
    extract::{Path, State},
    http::{StatusCode, Uri},
    routing::{get, post},
};
use serde::Deserialize;
use serde_json::{Value, json};
use skep_api::{ApiError, id::IdSource as _, spec::Labels};
use skep_manager::SystemIds;

use super::{
    Api, Volume,
    answer::{Answer, Params, body, empty, ok, unserved, with_json},
    filter::Filters,
};

const FILTERS: &[&str] = &["dangling", "driver", "label", "name"];
const PRUNE_FILTERS: &[&str] = &["all", "label"];

pub(super) fn routes() -> Router<Api> {
    Router::new()
        .route("/volumes", get(list))
        .route("/volumes/{name}", get(inspect).delete(remove).put(|| async { cluster_volumes() }))
        .route("/volumes/create", post(create))
        .route("/volumes/prune", post(prune))
}

fn cluster_volumes() -> Answer {
    Err(unserved("changing cluster volumes"))
}

/// Body of `POST /volumes/create`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct VolumeSpec {
    name: String,
    driver: String,
    driver_opts: Labels,
    labels: Labels,
    cluster_volume_spec: Option<Value>,
}

fn shown(volume: &Volume) -> Value {
    json!({
        "CreatedAt": volume.created.to_string(),
        "Name": volume.name,
        "Driver": "local",
        "Mountpoint": volume.mountpoint,
        "Labels": if volume.labels.is_empty() { Value::Null } else { json!(volume.labels) },
        "Options": null,
        "Scope": "local",
    })
}

async fn find(api: &Api, name: &str) -> Result<Volume, ApiError> {
    let found = api.backend.engine().volumes().await?.into_iter().find(|volume| volume.name == name);
    found.ok_or_else(|| ApiError::not_found(format!("get {name}: no such volume")))
}

async fn list(State(api): State<Api>, uri: Uri) -> Answer {
    let filters = Filters::parse(Params::of(&uri)?.text("filters"), FILTERS)?;
    let dangling = filters.flag("dangling")?;
    let mut volumes = api.backend.engine().volumes().await?;
    volumes.retain(|volume| {
        filters.any("name", |word| volume.name.contains(word))
            && filters.any("driver", |word| word == "local")
            && filters.labels("label", Some(&volume.labels))
            && dangling.is_none_or(|wanted| wanted != volume.is_used)
    });
    ok(&json!({ "Volumes": volumes.iter().map(shown).collect::<Vec<_>>(), "Warnings": null }))
}

async fn inspect(State(api): State<Api>, Path(name): Path<String>) -> Answer {
    ok(&shown(&find(&api, &name).await?))
}

async fn create(State(api): State<Api>, request: Bytes) -> Answer {
    let mut spec: VolumeSpec = body(&request)?;
    if !matches!(spec.driver.as_str(), "" | "local") {
        return Err(ApiError::not_found(format!(
            "Driver: plugin \"{}\" not found; only 'local' is supported yet",
            spec.driver
        ))
        .into());
    }
    if let Some((key, value)) = spec.driver_opts.iter().next() {
        return Err(ApiError::invalid(format!(
            "DriverOpts.{key} '{value}' is not supported yet; leave it out"
        ))
        .into());
    }
    if spec.cluster_volume_spec.is_some() {
        return Err(unserved("making cluster volumes"));
    }
    if spec.name.is_empty() {
        let mut ids = SystemIds::default();
        spec.name = format!("{:032x}{:032x}", { ids.next_id().0 }, { ids.next_id().0 });
    }
    let volume = api.backend.engine().create_volume(&spec.name, spec.labels).await?;
    Ok(with_json(StatusCode::CREATED, &shown(&volume)))
}

async fn remove(State(api): State<Api>, Path(name): Path<String>, uri: Uri) -> Answer {
    let is_forced = Params::of(&uri)?.flag("force");
    match find(&api, &name).await {
        Err(_) if is_forced => {}
        Err(error) => return Err(error.into()),
        Ok(_) => api.backend.engine().remove_volume(&name).await?,
    }
    empty(StatusCode::NO_CONTENT)
}

/// Docker prunes volumes without a name unless asked for all; those go with their containers here.
async fn prune(State(api): State<Api>, uri: Uri) -> Answer {
    let filters = Filters::parse(Params::of(&uri)?.text("filters"), PRUNE_FILTERS)?;
    let is_all = filters.flag("all")?.unwrap_or(false);
    let engine = api.backend.engine();
    let mut deleted = Vec::new();
    for volume in engine.volumes().await?.into_iter().filter(|volume| is_all && !volume.is_used) {
        // One that a task took meanwhile stays.
        if filters.labels("label", Some(&volume.labels)) && engine.remove_volume(&volume.name).await.is_ok() {
            deleted.push(volume.name);
        }
    }
    ok(&json!({ "VolumesDeleted": deleted, "SpaceReclaimed": 0 }))
}
