//! Services.

use axum::{
    Router,
    body::Bytes,
    extract::{Path, State},
    http::{HeaderMap, StatusCode, Uri},
    routing::{get, post},
};
use serde_json::{Map, Value};
use skep_api::{ApiError, Secret, object::Service, spec::ServiceSpec};
use skep_manager::RegistryAuth;

use super::{
    Api,
    answer::{Answer, Params, body, empty, ok, registry_auth, with_json},
    filter::Filters,
    lookup, render,
};

const FILTERS: &[&str] = &["id", "label", "mode", "name", "runtime"];

pub(super) fn routes() -> Router<Api> {
    Router::new()
        .route("/services", get(list))
        .route("/services/create", post(create))
        .route("/services/{id}", get(inspect).delete(remove))
        .route("/services/{id}/update", post(update))
        .route("/skep/services/plan", post(plan))
        .route("/skep/services/{id}/explain", get(explain))
}

/// Why its tasks wait: a list, of one member for tasks that are alike.
async fn explain(State(api): State<Api>, Path(word): Path<String>) -> Answer {
    let control = api.manager()?;
    let service = lookup::service(&control.view().await?, &word)?;
    let waiting = control.explain_service(service.id).await?;
    ok(&waiting.iter().map(render::waiting).collect::<Vec<_>>())
}

/// Where the tasks of a spec would go.
async fn plan(State(api): State<Api>, request: Bytes) -> Answer {
    let control = api.manager()?;
    let spec: ServiceSpec = body(&request)?;
    let plan = control.plan_service(spec).await?;
    ok(&render::plan(&plan, &control.stale_view()))
}

async fn list(State(api): State<Api>, uri: Uri) -> Answer {
    let control = api.manager()?;
    let params = Params::of(&uri)?;
    let filters = Filters::parse(params.text("filters"), FILTERS)?;
    let view = control.view().await?;
    let with_status = params.flag("status");
    let services: Vec<Value> = view
        .services()
        .filter(|service| passes(service, &filters))
        .map(|service| {
            let mut out = render::service(service, false);
            if with_status && let Some(map) = out.as_object_mut() {
                map.insert("ServiceStatus".into(), render::service_status(service, &view));
            }
            out
        })
        .collect();
    ok(&services)
}

fn passes(service: &Service, filters: &Filters) -> bool {
    filters.prefix("id", &service.id.to_string())
        && filters.prefix("name", &service.spec.name)
        && filters.labels("label", service.spec.labels.as_ref())
        && filters.any("mode", |mode| mode == service.spec.mode().as_str())
        && filters.any("runtime", |runtime| runtime == "container")
}

async fn create(State(api): State<Api>, headers: HeaderMap, request: Bytes) -> Answer {
    let control = api.manager()?;
    let spec: ServiceSpec = body(&request)?;
    let created = control.create_service(spec, registry_auth(&headers)).await?;
    let mut out = Map::new();
    out.insert("ID".into(), created.id.to_string().into());
    if !created.warnings.is_empty() {
        out.insert("Warnings".into(), created.warnings.into());
    }
    Ok(with_json(StatusCode::CREATED, &out))
}

async fn inspect(State(api): State<Api>, Path(word): Path<String>, uri: Uri) -> Answer {
    let control = api.manager()?;
    let insert_defaults = Params::of(&uri)?.flag("insertDefaults");
    let service = lookup::service(&control.view().await?, &word)?;
    ok(&render::service(&service, insert_defaults))
}

async fn update(
    State(api): State<Api>,
    Path(word): Path<String>,
    uri: Uri,
    headers: HeaderMap,
    request: Bytes,
) -> Answer {
    let control = api.manager()?;
    let params = Params::of(&uri)?;
    let version = params.version("service")?;
    let auth = auth_source(params.text("registryAuthFrom"), registry_auth(&headers))?;
    let spec: ServiceSpec = body(&request)?;
    let spec = match params.text("rollback") {
        "" | "none" => Some(spec),
        "previous" => None,
        other => return Err(ApiError::invalid(format!("unrecognized rollback option {other}")).into()),
    };
    // An older state will do where it knows the service: the version is judged again.
    let known = lookup::service(&control.stale_view(), &word);
    let service = match known {
        Ok(service) => service,
        Err(_) => lookup::service(&control.view().await?, &word)?,
    };
    let warnings = control.update_service(service.id, version, spec, auth).await?;
    let mut out = Map::new();
    out.insert("Warnings".into(), if warnings.is_empty() { Value::Null } else { warnings.into() });
    ok(&out)
}

/// New credentials win over any that are there (`MB:daemon/cluster/services.go`).
fn auth_source(source: &str, new: Secret) -> Result<RegistryAuth, ApiError> {
    match source {
        "" | "spec" | "previous-spec" if !new.is_empty() => Ok(RegistryAuth::New(new)),
        "" | "spec" => Ok(RegistryAuth::OfSpec),
        "previous-spec" => Ok(RegistryAuth::OfPreviousSpec),
        other => Err(ApiError::invalid(format!("unsupported registryAuthFrom {other}"))),
    }
}

async fn remove(State(api): State<Api>, Path(word): Path<String>) -> Answer {
    let control = api.manager()?;
    let service = lookup::service(&control.view().await?, &word)?;
    control.remove_service(service.id).await?;
    empty(StatusCode::OK)
}
