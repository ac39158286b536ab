//! Who answers: ping, version, info.

use axum::{
    Router,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::{Map, Value, json};
use skep_api::NodeId;
use skep_manager::FEATURE_LEVEL;

use super::{
    Api, SwarmState,
    answer::{Answer, ok},
    backend::{ContainerState, Facts},
    render, version,
};

/// What this build calls itself.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Docker's words (`MB:daemon/cluster/errors.go`).
pub(crate) const LOCKED: &str = "Swarm is encrypted and needs to be unlocked before it can be used. Please use \
                                 \"docker swarm unlock\" to unlock it.";

/// Docker's words (`MB:daemon/cluster/swarm.go`).
const TWO_MANAGERS: &str =
    "WARNING: Running Swarm in a two-manager configuration. This configuration provides
         no fault tolerance, and poses a high risk to lose control over the cluster.
         Refer to https://docs.docker.com/engine/swarm/admin_guide/ to configure the
         Swarm for fault-tolerance.";

pub(super) fn routes() -> Router<Api> {
    Router::new().route("/_ping", get(ping)).route("/version", get(about)).route("/info", get(info))
}

/// What every answer of Docker carries.
pub(super) fn put_headers(headers: &mut HeaderMap) {
    let api = HeaderValue::from_str(&version::text(version::API_MAX));
    headers.extend(api.map(|api| (header::HeaderName::from_static("api-version"), api)));
    headers.insert("ostype", HeaderValue::from_static("linux"));
    headers.insert("docker-experimental", HeaderValue::from_static("false"));
    headers.insert(
        header::SERVER,
        HeaderValue::from_static(concat!("skep/", env!("CARGO_PKG_VERSION"), " (linux)")),
    );
}

async fn ping(State(api): State<Api>) -> Response {
    let swarm = match api.backend.swarm() {
        SwarmState::Inactive => "inactive",
        SwarmState::Locked => "locked",
        SwarmState::Pending => "pending",
        SwarmState::Error(_) | SwarmState::Full(_) => "error",
        SwarmState::Worker { .. } => "active/worker",
        SwarmState::Manager(_) => "active/manager",
    };
    let headers = [
        ("cache-control", "no-cache, no-store, must-revalidate"),
        ("pragma", "no-cache"),
        ("builder-version", "1"),
        ("swarm", swarm),
        ("content-type", "text/plain; charset=utf-8"),
    ];
    (StatusCode::OK, headers, "OK").into_response()
}

async fn about(State(api): State<Api>) -> Answer {
    let facts = api.backend.facts();
    let (newest, oldest) = (version::text(version::API_MAX), version::text(version::API_MIN));
    ok(&json!({
        "Platform": { "Name": "skep" },
        "Components": [{
            "Name": "Engine",
            "Version": VERSION,
            "Details": {
                "ApiVersion": newest,
                "Arch": docker_arch(&facts.arch),
                "Experimental": "false",
                "KernelVersion": facts.kernel,
                "MinAPIVersion": oldest,
                "Os": "linux",
            },
        }],
        "Version": VERSION,
        "ApiVersion": newest,
        "MinAPIVersion": oldest,
        "GitCommit": "",
        "GoVersion": "",
        "Os": "linux",
        "Arch": docker_arch(&facts.arch),
        "KernelVersion": facts.kernel,
    }))
}

/// Go's word for an architecture.
pub(super) fn docker_arch(arch: &str) -> &str {
    match arch {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

async fn info(State(api): State<Api>) -> Answer {
    let facts = api.backend.facts();
    let engine = api.backend.engine();
    let (containers, images) = (engine.containers().await?, engine.images().await?);
    let count = |is: fn(ContainerState) -> bool| containers.iter().filter(|one| is(one.state)).count();
    let mut out = Map::new();
    for (key, value) in [
        ("Containers", containers.len()),
        ("ContainersRunning", count(|state| matches!(state, ContainerState::Running { .. }))),
        ("ContainersPaused", 0),
        ("ContainersStopped", count(|state| !matches!(state, ContainerState::Running { .. }))),
        ("Images", images.len()),
    ] {
        out.insert(key.into(), value.into());
    }
    let id = facts.node_id.map_or_else(|| facts.node_name.clone(), |id| id.to_string());
    out.insert("ID".into(), id.into());
    out.extend(engine_facts(&facts));
    let swarm = swarm(&api, &facts).await;
    // As Docker: the swarm's warnings are shown twice.
    if let Some(warnings) = swarm.get("Warnings") {
        out.insert("Warnings".into(), warnings.clone());
    }
    out.insert("Swarm".into(), swarm);
    ok(&Value::Object(out))
}

/// What the engine can and what it runs on.
fn engine_facts(facts: &Facts) -> Map<String, Value> {
    let able = json!({
        "Driver": "overlayfs",
        "DriverStatus": [],
        "Plugins": { "Volume": ["local"], "Network": ["bridge", "overlay"], "Authorization": null, "Log": ["json-file"] },
        "MemoryLimit": true,
        "SwapLimit": true,
        "CpuCfsPeriod": true,
        "CpuCfsQuota": true,
        "CPUShares": true,
        "CPUSet": true,
        "PidsLimit": true,
        "OomKillDisable": false,
        "IPv4Forwarding": true,
        "Debug": false,
        "LoggingDriver": "json-file",
        "CgroupDriver": "cgroupfs",
        "Runtimes": { "skep-shim": { "path": "skep-shim" } },
        "DefaultRuntime": "skep-shim",
        "LiveRestoreEnabled": true,
        "Isolation": "",
        "InitBinary": "",
        "ContainerdCommit": { "ID": "" },
        "RuncCommit": { "ID": "" },
        "InitCommit": { "ID": "" },
        // Seccomp is left out until it is real.
        "SecurityOptions": [],
    });
    let about = json!({
        "SystemTime": facts.now.to_string(),
        "KernelVersion": facts.kernel,
        "OperatingSystem": facts.os,
        "OSVersion": "",
        "OSType": "linux",
        "Architecture": facts.arch,
        "IndexServerAddress": "https://index.docker.io/v1/",
        "RegistryConfig": { "IndexConfigs": {}, "InsecureRegistryCIDRs": [], "Mirrors": [] },
        "NCPU": facts.n_cpus,
        "MemTotal": facts.memory_bytes,
        "GenericResources": render::generic(&facts.generic),
        "DockerRootDir": facts.state_dir.display().to_string(),
        "HttpProxy": "",
        "HttpsProxy": "",
        "NoProxy": "",
        "Name": facts.node_name,
        "Labels": facts.labels,
        "ExperimentalBuild": false,
        "ServerVersion": VERSION,
        "Warnings": null,
        "Skep": { "Engine": "embedded", "Version": VERSION, "FeatureLevel": FEATURE_LEVEL },
    });
    [able, about].into_iter().flat_map(render::object).collect()
}

/// A worker knows where managers are, not always who they are.
fn known(id: NodeId) -> String {
    if id == NodeId::default() { String::new() } else { id.to_string() }
}

/// The swarm block. It is answered from what this node has, so that `info` works without a leader.
async fn swarm(api: &Api, facts: &Facts) -> Value {
    let state = api.backend.swarm();
    let (word, error, control) = match &state {
        SwarmState::Inactive => ("inactive", "", None),
        SwarmState::Locked => ("locked", LOCKED, None),
        SwarmState::Pending => ("pending", "", None),
        SwarmState::Error(why) | SwarmState::Full(why) => ("error", why.as_str(), None),
        SwarmState::Worker { .. } => ("active", facts.trouble.as_str(), None),
        SwarmState::Manager(control) => ("active", "", Some(control)),
    };
    let mut out = Map::new();
    let own = match &state {
        SwarmState::Worker { node_id } => Some(*node_id),
        SwarmState::Manager(control) => Some(control.node_id()),
        SwarmState::Inactive
        | SwarmState::Locked
        | SwarmState::Pending
        | SwarmState::Error(_)
        | SwarmState::Full(_) => facts.node_id,
    };
    out.insert("NodeID".into(), own.map(|id| id.to_string()).unwrap_or_default().into());
    out.insert("NodeAddr".into(), facts.node_addr.clone().into());
    out.insert("LocalNodeState".into(), word.into());
    out.insert("ControlAvailable".into(), control.is_some().into());
    out.insert("Error".into(), error.into());
    let managers: Vec<Value> = facts
        .remote_managers
        .iter()
        .map(|(id, addr)| json!({ "NodeID": known(*id), "Addr": addr }))
        .collect();
    out.insert("RemoteManagers".into(), if managers.is_empty() { Value::Null } else { managers.into() });
    if let Some(control) = control {
        let view = match control.view().await {
            Ok(view) => view,
            Err(error) => {
                out.insert("Error".into(), error.message.into());
                control.stale_view()
            }
        };
        out.insert("Nodes".into(), view.n_nodes().into());
        let n_managers = view.nodes().filter(|node| control.manager_status(node).is_some()).count();
        out.insert("Managers".into(), n_managers.into());
        let two_managers = (n_managers == 2).then(|| TWO_MANAGERS.to_owned());
        let warnings: Vec<String> = two_managers.into_iter().chain(control.warnings()).collect();
        if !warnings.is_empty() {
            out.insert("Warnings".into(), warnings.into());
        }
        if let Some(cluster) = view.cluster() {
            out.insert("FeatureLevel".into(), cluster.feature_level.into());
            out.insert("Cluster".into(), render::cluster(cluster).into());
        }
    }
    Value::Object(out)
}
