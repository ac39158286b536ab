//! The Docker Engine API on the daemon's socket: the only public API there is.
//!
//! A route reads the request, asks the backend, and renders; it decides nothing. Every path is served
//! with and without a version. What is not served yet is refused by name, never answered with nothing.

mod answer;
mod backend;
mod containers;
mod daemon;
mod filter;
mod images;
mod logs;
mod lookup;
mod merge;
mod networks;
mod nodes;
mod proxy;
mod rebalance;
mod recovery;
mod registry;
mod render;
mod rest;
mod rollout;
mod runs;
mod services;
mod swarm;
mod system;
mod tasks;
#[cfg(test)]
pub(crate) mod tests;
mod tickets;
mod version;
mod volumes;

use std::{future::Future, sync::Arc, time::Duration};

use axum::{
    Extension, Router,
    extract::{DefaultBodyLimit, Request},
    http::StatusCode,
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use skep_api::{ApiError, ErrorKind};
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

pub(crate) use backend::{
    Backend, BodyReader, Container, ContainerState, ControlPlane, DockerSocket, Facts, Image, Loaded,
    LocalEngine, PullAsked, PullEvent, RemovedImage, SwarmState, Volume,
};

pub(crate) use recovery::RestoreRequest;
pub(crate) use system::{LOCKED, VERSION};

use answer::{BODY_BYTES_MAX, Failure, failure};

/// An ordinary request is answered within this; streams have no limit. A join may wait 20 s by itself.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(60);

/// How long open requests may take to end once the daemon stops; streams are ended at once.
const SHUTDOWN_TIME_MAX: Duration = Duration::from_secs(2);

/// What every route has.
#[derive(Clone)]
struct Api {
    backend: Arc<dyn Backend>,
    /// Ends the streams.
    stop: CancellationToken,
}

/// The API version that the client speaks.
#[derive(Clone, Copy)]
struct ApiVersion((u32, u32));

impl Api {
    /// The control plane, if this node is a manager; else Docker's words.
    fn manager(&self) -> Result<Arc<dyn ControlPlane>, ApiError> {
        let unavailable = |words: &str| ApiError::new(ErrorKind::Unavailable, words);
        match self.backend.swarm() {
            SwarmState::Manager(control) => Ok(control),
            SwarmState::Worker { .. } => Err(unavailable(
                "This node is not a swarm manager. Worker nodes can't be used to view or modify cluster state. Please \
                 run this command on a manager node or promote the current node to a manager.",
            )),
            SwarmState::Inactive => Err(unavailable(
                "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect this \
                 node to swarm and try again.",
            )),
            SwarmState::Locked => Err(unavailable(LOCKED)),
            SwarmState::Pending => {
                Err(unavailable("This node is not a swarm manager: it is still joining the swarm."))
            }
            SwarmState::Full(why) => Err(unavailable(&why)),
            SwarmState::Error(why) => Err(unavailable(&format!(
                "This node is not a swarm manager: it could not become a member: {why}"
            ))),
        }
    }
}

/// Serves until `shutdown` is ready, then ends what is open.
///
/// # Errors
/// The listener broke.
pub(crate) async fn serve(
    listener: UnixListener,
    backend: Arc<dyn Backend>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let stop = CancellationToken::new();
    let router = router(Api { backend, stop: stop.clone() });
    let stopping = stop.clone();
    tokio::spawn(async move {
        shutdown.await;
        stopping.cancel();
    });
    let graceful = stop.clone().cancelled_owned();
    let serving = axum::serve(listener, router).with_graceful_shutdown(graceful).into_future();
    let limit = async {
        stop.cancelled().await;
        tokio::time::sleep(SHUTDOWN_TIME_MAX).await;
    };
    tokio::select! {
        result = serving => result,
        () = limit => Ok(()),
    }
}

fn router(api: Api) -> Router {
    let ordinary = Router::new()
        .merge(system::routes())
        .merge(swarm::routes())
        .merge(nodes::routes())
        .merge(services::routes())
        .merge(tasks::routes())
        .merge(containers::routes())
        .merge(networks::routes())
        .merge(volumes::routes())
        .merge(rest::routes())
        .merge(daemon::routes())
        .merge(recovery::routes())
        .merge(rollout::routes())
        .merge(rebalance::routes())
        .merge(tickets::routes())
        .merge(runs::routes())
        .layer(middleware::from_fn(limit_time));
    let streams = Router::new()
        .merge(logs::routes())
        .merge(images::routes())
        .merge(registry::routes())
        .merge(recovery::streams());
    let inner = ordinary
        .merge(streams)
        .fallback(|| async { failure(StatusCode::NOT_FOUND, "page not found") })
        .method_not_allowed_fallback(|| async { failure(StatusCode::NOT_FOUND, "page not found") })
        .layer(DefaultBodyLimit::disable())
        .with_state(api.clone());
    Router::new().fallback(move |request: Request| enter(inner.clone(), api.backend.docker(), request))
}

/// Takes the version off the path and goes on to the route.
async fn enter(inner: Router, docker: Option<DockerSocket>, mut request: Request) -> Response {
    match version::strip(request.uri()) {
        Err(error) => Failure(error).into_response(),
        Ok((uri, version)) => {
            *request.uri_mut() = uri;
            request.extensions_mut().insert(ApiVersion(version));
            let mut response = match docker {
                Some(docker) => Box::pin(merge::answer(inner, docker, version, request)).await,
                None => ours(inner, request).await,
            };
            system::put_headers(response.headers_mut());
            response
        }
    }
}

/// Our own answer.
async fn ours(inner: Router, request: Request) -> Response {
    match whole(request).await {
        Ok(request) => inner.oneshot(request).await.unwrap_or_else(|never| match never {}),
        Err(error) => Failure(error).into_response(),
    }
}

/// Reads the body before the route is asked: a client that still sends would not see a refusal.
/// Archives alone are left to be streamed.
async fn whole(request: Request) -> Result<Request, ApiError> {
    if matches!(request.uri().path(), "/images/load" | "/images/create") {
        return Ok(request);
    }
    let (head, body) = request.into_parts();
    let bytes = axum::body::to_bytes(body, BODY_BYTES_MAX).await.map_err(|error| {
        ApiError::invalid(format!("cannot read the request's body (at most {BODY_BYTES_MAX} bytes): {error}"))
    })?;
    Ok(Request::from_parts(head, bytes.into()))
}

async fn limit_time(request: Request, next: Next) -> Response {
    match tokio::time::timeout(REQUEST_TIME_MAX, next.run(request)).await {
        Ok(response) => response,
        Err(_) => {
            let words = format!("the request was not answered within {} s", REQUEST_TIME_MAX.as_secs());
            failure(StatusCode::SERVICE_UNAVAILABLE, &words)
        }
    }
}

/// The version as a route's argument.
type Version = Extension<ApiVersion>;
