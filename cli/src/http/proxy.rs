//! Passes requests on to the Docker Engine that runs this node's tasks: all that is no swarm's.
//!
//! The path's version is lowered to what that engine speaks; headers and bodies go through untouched, both
//! ways, as they come. A connection that both sides turn into a raw stream is copied byte by byte.

use axum::{
    body::Body,
    extract::Request,
    http::{HeaderName, Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use skep_api::{ApiError, ErrorKind};
use tokio::net::UnixStream;

use super::{
    DockerSocket,
    answer::{BODY_BYTES_MAX, Failure},
    version,
};

/// Whose business a path is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// Swarm objects, and what tells who we are.
    Ours,
    /// The engine's.
    Docker,
    /// The list of the engine's containers, some of which are ours alone.
    Containers,
    /// A container by what may be a task's host name.
    Container,
    /// What the engine's things take of the disk.
    Usage,
    /// What a registry says of an image: the engine asks, if the image can be of one.
    Distribution,
    /// Both have some: the list of networks.
    Networks,
    /// One network, ours if we know it.
    Network,
    /// A new network: the body says whose it is.
    NewNetwork,
    /// `info`: the engine's, with our swarm.
    Info,
    /// `version`: ours, with the engine's parts.
    Version,
}

/// Docker calls a container's host by so much of its id.
const HOST_NAME_CHARS: usize = 12;

/// Whose business a request is; the path has no version.
pub(super) fn owner(method: &Method, path: &str) -> Owner {
    let mut parts = path.trim_start_matches('/').split('/');
    let (first, second) = (parts.next().unwrap_or_default(), parts.next());
    if let ("containers", Some(word), Some("json")) = (first, second, parts.next()) {
        let is_host_name = word.len() == HOST_NAME_CHARS && word.bytes().all(|b| b.is_ascii_hexdigit());
        return if is_host_name && method == Method::GET { Owner::Container } else { Owner::Docker };
    }
    match (first, second) {
        ("_ping" | "swarm" | "nodes" | "services" | "tasks" | "secrets" | "configs" | "skep", _) => {
            Owner::Ours
        }
        ("containers", Some("json")) if method == Method::GET => Owner::Containers,
        ("distribution", Some(_)) if method == Method::GET => Owner::Distribution,
        ("system", Some("df")) => Owner::Usage,
        ("info", None) => Owner::Info,
        ("version", None) => Owner::Version,
        ("networks", None) if method == Method::GET || method == Method::HEAD => Owner::Networks,
        ("networks", Some("create")) => Owner::NewNetwork,
        ("networks", Some("prune")) => Owner::Docker,
        ("networks", Some(_)) => Owner::Network,
        _ => Owner::Docker,
    }
}

/// Headers that belong to one connection and are made anew on the other.
const OF_THE_CONNECTION: [HeaderName; 3] = [header::TRANSFER_ENCODING, header::EXPECT, header::HOST];

/// Asks the Docker Engine in the request's place.
pub(super) async fn pass(docker: &DockerSocket, asked: (u32, u32), request: Request) -> Response {
    match Box::pin(try_pass(docker, asked, request)).await {
        Ok(response) => response,
        Err(error) => Failure(error).into_response(),
    }
}

async fn try_pass(
    docker: &DockerSocket,
    asked: (u32, u32),
    mut request: Request,
) -> Result<Response, ApiError> {
    let wants_raw = request.headers().contains_key(header::UPGRADE);
    let ours = wants_raw.then(|| hyper::upgrade::on(&mut request));
    let (head, body) = request.into_parts();
    let mut passed = hyper::Request::new(body);
    *passed.method_mut() = head.method;
    *passed.uri_mut() = lowered(&head.uri, asked, docker.api)?;
    *passed.headers_mut() = head.headers;
    for name in OF_THE_CONNECTION {
        passed.headers_mut().remove(name);
    }
    passed.headers_mut().insert(header::HOST, header::HeaderValue::from_static("docker"));
    let mut answer = ask(docker, passed).await?;
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS
        && let Some(ours) = ours
    {
        let theirs = hyper::upgrade::on(&mut answer);
        tokio::spawn(copy(ours, theirs));
        let (head, _) = answer.into_parts();
        return Ok(Response::from_parts(head, Body::empty()));
    }
    let (mut head, body) = answer.into_parts();
    head.headers.remove(header::TRANSFER_ENCODING);
    head.headers.remove(header::CONNECTION);
    Ok(Response::from_parts(head, Body::new(body)))
}

/// One connection a request: what turns raw keeps its own.
async fn ask(
    docker: &DockerSocket,
    request: hyper::Request<Body>,
) -> Result<Response<hyper::body::Incoming>, ApiError> {
    let away = |error: &dyn std::error::Error| {
        let words = format!("the Docker Engine at {} does not answer: {error}", docker.path.display());
        ApiError::new(ErrorKind::Unavailable, words)
    };
    let stream = UnixStream::connect(&docker.path).await.map_err(|e| away(&e))?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| away(&e))?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(err = %error, "a connection to the Docker Engine broke");
        }
    });
    sender.send_request(request).await.map_err(|e| away(&e))
}

/// Both directions until both have ended.
async fn copy(ours: OnUpgrade, theirs: OnUpgrade) {
    let copied = async {
        let (ours, theirs) = tokio::try_join!(ours, theirs).map_err(std::io::Error::other)?;
        let (mut ours, mut theirs) = (TokioIo::new(ours), TokioIo::new(theirs));
        tokio::io::copy_bidirectional(&mut ours, &mut theirs).await
    };
    if let Err(error) = copied.await {
        tracing::debug!(err = %error, "a raw stream to the Docker Engine broke");
    }
}

/// The path under the version that was asked for, or the newest that the engine speaks.
fn lowered(uri: &Uri, asked: (u32, u32), spoken: (u32, u32)) -> Result<Uri, ApiError> {
    let target = uri.path_and_query().map_or("/", |target| target.as_str());
    let path = format!("/v{}{target}", version::text(asked.min(spoken)));
    path.parse().map_err(|_| ApiError::invalid("malformed path"))
}

/// A JSON answer of the Docker Engine to a `GET`; its own refusal if it does not give one.
pub(super) async fn get(
    docker: &DockerSocket,
    asked: (u32, u32),
    uri: &Uri,
) -> Result<serde_json::Value, ApiError> {
    let mut request = hyper::Request::new(Body::empty());
    *request.uri_mut() = lowered(uri, asked, docker.api)?;
    request.headers_mut().insert(header::HOST, header::HeaderValue::from_static("docker"));
    let answer = ask(docker, request).await?;
    let status = answer.status();
    let value = json(Body::new(answer.into_body())).await?;
    if status.is_success() {
        return Ok(value);
    }
    let words = value["message"].as_str().unwrap_or("the Docker Engine refused").to_owned();
    let kind = match status {
        StatusCode::NOT_FOUND => ErrorKind::NotFound,
        StatusCode::BAD_REQUEST => ErrorKind::InvalidArgument,
        _ => ErrorKind::Internal,
    };
    Err(ApiError::new(kind, words))
}

/// A body as JSON.
pub(super) async fn json(body: Body) -> Result<serde_json::Value, ApiError> {
    let bytes = axum::body::to_bytes(body, BODY_BYTES_MAX)
        .await
        .map_err(|error| ApiError::new(ErrorKind::Internal, format!("cannot read an answer: {error}")))?;
    Ok(serde_json::from_slice(&bytes).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn swarm_objects_are_ours_and_the_rest_is_dockers() {
        for (method, path, expect) in [
            ("GET", "/_ping", Owner::Ours),
            ("HEAD", "/_ping", Owner::Ours),
            ("GET", "/info", Owner::Info),
            ("GET", "/version", Owner::Version),
            ("POST", "/swarm/init", Owner::Ours),
            ("GET", "/swarm", Owner::Ours),
            ("GET", "/nodes/abc", Owner::Ours),
            ("POST", "/services/create", Owner::Ours),
            ("GET", "/tasks/abc/logs", Owner::Ours),
            ("GET", "/secrets", Owner::Ours),
            ("GET", "/configs/abc", Owner::Ours),
            ("GET", "/networks", Owner::Networks),
            ("POST", "/networks/create", Owner::NewNetwork),
            ("POST", "/networks/prune", Owner::Docker),
            ("GET", "/networks/abc", Owner::Network),
            ("DELETE", "/networks/abc", Owner::Network),
            ("POST", "/networks/abc/connect", Owner::Network),
            ("GET", "/containers/json", Owner::Containers),
            ("GET", "/containers/abc/json", Owner::Docker),
            ("GET", "/containers/0123456789ab/json", Owner::Container),
            ("GET", "/containers/0123456789ab/logs", Owner::Docker),
            ("POST", "/containers/abc/attach", Owner::Docker),
            ("POST", "/exec/abc/start", Owner::Docker),
            ("POST", "/images/create", Owner::Docker),
            ("POST", "/build", Owner::Docker),
            ("GET", "/events", Owner::Docker),
            ("GET", "/system/df", Owner::Usage),
            ("GET", "/volumes", Owner::Docker),
            ("POST", "/auth", Owner::Docker),
            ("GET", "/distribution/a/b:1/json", Owner::Distribution),
            ("GET", "/plugins", Owner::Docker),
            ("POST", "/session", Owner::Docker),
            ("POST", "/grpc", Owner::Docker),
            ("POST", "/build/prune", Owner::Docker),
            ("POST", "/commit", Owner::Docker),
            ("GET", "//networks", Owner::Networks),
            ("GET", "/servicesx", Owner::Docker),
        ] {
            assert_eq!(owner(&method.parse().unwrap(), path), expect, "{method} {path}");
        }
    }

    #[test]
    fn versions_are_lowered_and_never_raised() {
        for (asked, spoken, expect) in [
            ((1, 55), (1, 41), "/v1.41/containers/json?all=1"),
            ((1, 30), (1, 41), "/v1.30/containers/json?all=1"),
            ((1, 41), (1, 55), "/v1.41/containers/json?all=1"),
        ] {
            let uri = "/containers/json?all=1".parse().unwrap();
            assert_eq!(lowered(&uri, asked, spoken).unwrap().to_string(), expect);
        }
    }
}
