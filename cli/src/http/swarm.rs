//! Making, joining, leaving and looking at the swarm.

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{StatusCode, Uri},
    routing::{get, post},
};
use serde_json::json;
use skep_api::{
    ApiError, ErrorKind,
    spec::{InitRequest, JoinBody, SwarmSpec, UnlockRequest},
};
use skep_link::JoinToken;
use skep_manager::{Rotation, parse_unlock_key};

use super::{
    Api, SwarmState,
    answer::{Answer, Failure, Params, body, empty, ok},
    render,
};

pub(super) fn routes() -> Router<Api> {
    Router::new()
        .route("/swarm", get(inspect))
        .route("/swarm/init", post(init))
        .route("/swarm/join", post(join))
        .route("/swarm/leave", post(leave))
        .route("/swarm/update", post(update))
        .route("/swarm/unlockkey", get(unlock_key))
        .route("/swarm/unlock", post(unlock))
}

async fn inspect(State(api): State<Api>) -> Answer {
    let view = api.manager()?.view().await?;
    let cluster = view.cluster().ok_or_else(|| ApiError::not_found("the swarm has no object yet"))?;
    let token = |secret: &str| JoinToken::new(&cluster.ca_cert_pem, secret).to_string();
    let mut out = render::cluster(cluster);
    out.insert(
        "JoinTokens".into(),
        json!({ "Worker": token(&cluster.worker_token_secret), "Manager": token(&cluster.manager_token_secret) }),
    );
    ok(&out)
}

/// Docker's words for a node that has a swarm already.
fn check_is_free(api: &Api) -> Result<(), Failure> {
    match api.backend.swarm() {
        SwarmState::Inactive | SwarmState::Error(_) => Ok(()),
        SwarmState::Locked
        | SwarmState::Pending
        | SwarmState::Full(_)
        | SwarmState::Worker { .. }
        | SwarmState::Manager(_) => Err(Failure(ApiError::new(
            ErrorKind::Unavailable,
            "This node is already part of a swarm. Use \"docker swarm leave\" to leave this swarm and join another one.",
        ))),
    }
}

async fn init(State(api): State<Api>, request: Bytes) -> Answer {
    let request: InitRequest = body(&request)?;
    if !request.force_new_cluster {
        check_is_free(&api)?;
    }
    ok(&api.backend.init(request).await?)
}

async fn join(State(api): State<Api>, request: Bytes) -> Answer {
    let request: JoinBody = body(&request)?;
    check_is_free(&api)?;
    api.backend.join(request).await?;
    empty(StatusCode::OK)
}

async fn leave(State(api): State<Api>, uri: Uri) -> Answer {
    let force = Params::of(&uri)?.flag("force");
    if matches!(api.backend.swarm(), SwarmState::Inactive) {
        return Err(Failure(ApiError::new(ErrorKind::Unavailable, "This node is not part of a swarm")));
    }
    api.backend.leave(force).await?;
    empty(StatusCode::OK)
}

async fn update(State(api): State<Api>, uri: Uri, request: Bytes) -> Answer {
    let params = Params::of(&uri)?;
    let version = params.version("swarm")?;
    let spec: SwarmSpec = body(&request)?;
    let rotation = Rotation {
        worker: params.rotate("rotateWorkerToken")?,
        manager: params.rotate("rotateManagerToken")?,
        unlock_key: params.rotate("rotateManagerUnlockKey")?,
    };
    let control = api.manager()?;
    control.update_cluster(version, spec, rotation).await?;
    empty(StatusCode::OK)
}

async fn unlock_key(State(api): State<Api>) -> Answer {
    let key = api.manager()?.unlock_key().await?;
    ok(&json!({ "UnlockKey": key }))
}

/// As Docker: who is not locked is told before the key is looked at.
async fn unlock(State(api): State<Api>, request: Bytes) -> Answer {
    if !matches!(api.backend.swarm(), SwarmState::Locked) {
        api.manager()?;
        return Err(Failure(ApiError::new(ErrorKind::AlreadyExists, "swarm is not locked")));
    }
    let request: UnlockRequest = body(&request)?;
    api.backend.unlock(parse_unlock_key(&request.unlock_key)?).await?;
    empty(StatusCode::OK)
}
