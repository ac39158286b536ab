//! One daemon's API: a connection a request, the version agreed on by a ping.

use anyhow::{Context as _, anyhow, bail};
use bytes::Bytes;
use futures::Stream;
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::BoxBody};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Frame, Incoming},
    header,
};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use skep_api::Secret;
use tokio::net::{TcpStream, UnixStream};

use super::registry_auth;

/// The newest API that the client speaks; the daemon may speak an older one.
const API_NEWEST: (u32, u32) = (1, 50);

/// What the daemon said against a request.
#[derive(Debug, thiserror::Error)]
#[error("Error response from daemon: {message}")]
pub(crate) struct Refused {
    pub(crate) status: StatusCode,
    pub(crate) message: String,
}

/// Where a daemon is.
#[derive(Debug, Clone)]
enum Host {
    Unix(String),
    Tcp(String),
}

/// A daemon and the version spoken with it.
#[derive(Debug, Clone)]
pub(crate) struct Connection {
    host: Host,
    /// As given, for messages.
    url: String,
    pub(crate) version: (u32, u32),
    /// Sent along with each request.
    registry_auth: Option<Secret>,
}

type Body = BoxBody<Bytes, std::io::Error>;

impl Connection {
    /// Asks the daemon which version it speaks.
    ///
    /// # Errors
    /// There is no daemon there, or the address is none.
    pub(crate) async fn negotiate(url: &str) -> anyhow::Result<Self> {
        let host = if let Some(path) = url.strip_prefix("unix://") {
            Host::Unix(path.to_owned())
        } else if let Some(address) = url.strip_prefix("tcp://") {
            if std::env::var("DOCKER_TLS_VERIFY").is_ok_and(|value| !value.is_empty()) {
                bail!(
                    "TLS to a daemon is not supported yet: unset DOCKER_TLS_VERIFY or use a unix:// socket"
                );
            }
            Host::Tcp(address.trim_end_matches('/').to_owned())
        } else {
            bail!("unable to parse docker host `{url}`: unix:///path or tcp://host:port expected");
        };
        let mut connection = Self { host, url: url.to_owned(), version: API_NEWEST, registry_auth: None };
        let response =
            connection.send(Method::GET, "/_ping".to_owned(), "text/plain", full(Bytes::new())).await?;
        let theirs = response.headers().get("api-version").and_then(|value| value.to_str().ok());
        let theirs = theirs.and_then(|text| text.split_once('.'));
        if let Some((Ok(major), Ok(minor))) = theirs.map(|(major, minor)| (major.parse(), minor.parse())) {
            connection.version = API_NEWEST.min((major, minor));
        }
        Ok(connection)
    }

    /// The same daemon; requests carry who we are to `image`'s registry.
    ///
    /// # Errors
    /// Docker's config file cannot be used.
    pub(crate) fn logged_in_for(&self, image: &str) -> anyhow::Result<Self> {
        Ok(Self { registry_auth: registry_auth::header(image)?, ..self.clone() })
    }

    /// Sends a request on a connection of its own, which ends with the answer's body.
    async fn send(
        &self,
        method: Method,
        target: String,
        kind: &str,
        body: Body,
    ) -> anyhow::Result<Response<Incoming>> {
        let absent = || format!("Cannot connect to the daemon at {}. Is the daemon running?", self.url);
        let mut request = Request::builder()
            .method(method)
            .uri(target)
            .header(header::HOST, "skep")
            .header(header::USER_AGENT, concat!("skep/", env!("CARGO_PKG_VERSION")))
            .header(header::CONTENT_TYPE, kind);
        if let Some(auth) = &self.registry_auth {
            request = request.header("X-Registry-Auth", auth.reveal());
        }
        let request = request.body(body)?;
        match &self.host {
            Host::Unix(path) => {
                let stream = UnixStream::connect(path).await.with_context(absent)?;
                exchange(stream, request).await
            }
            Host::Tcp(address) => {
                let stream = TcpStream::connect(address).await.with_context(absent)?;
                exchange(stream, request).await
            }
        }
        .with_context(|| format!("error during connect to {}", self.url))
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        kind: &str,
        body: Body,
    ) -> anyhow::Result<Response<Incoming>> {
        let target = format!("/v{}.{}{path}", self.version.0, self.version.1);
        let response = self.send(method, target, kind, body).await?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let bytes = response.into_body().collect().await.context("read the daemon's answer")?.to_bytes();
        let message = serde_json::from_slice::<Value>(&bytes)
            .ok()
            .and_then(|value| value.get("message")?.as_str().map(str::to_owned))
            .unwrap_or_else(|| String::from_utf8_lossy(&bytes).trim().to_owned());
        Err(anyhow!(Refused { status, message }))
    }

    async fn json(&self, method: Method, path: &str, body: Bytes) -> anyhow::Result<Value> {
        let response = self.ask(method, path, "application/json", full(body)).await?;
        let bytes = response.into_body().collect().await.context("read the daemon's answer")?.to_bytes();
        if bytes.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&bytes).with_context(|| format!("the daemon's answer to {path} is no JSON"))
    }

    pub(crate) async fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.json(Method::GET, path, Bytes::new()).await
    }

    pub(crate) async fn delete(&self, path: &str) -> anyhow::Result<Value> {
        self.json(Method::DELETE, path, Bytes::new()).await
    }

    pub(crate) async fn post(&self, path: &str, body: &impl serde::Serialize) -> anyhow::Result<Value> {
        self.json(Method::POST, path, serde_json::to_vec(body)?.into()).await
    }

    /// Gets a body that is read as it comes.
    pub(crate) async fn open(&self, path: &str) -> anyhow::Result<Incoming> {
        Ok(self.ask(Method::GET, path, "application/json", full(Bytes::new())).await?.into_body())
    }

    /// Posts, and gets a body that is read as it comes.
    pub(crate) async fn post_stream(
        &self,
        path: &str,
        body: &impl serde::Serialize,
    ) -> anyhow::Result<Incoming> {
        let body = full(serde_json::to_vec(body)?.into());
        Ok(self.ask(Method::POST, path, "application/json", body).await?.into_body())
    }

    /// Sends an archive as it is read; gives the answer's body.
    pub(crate) async fn upload(
        &self,
        path: &str,
        archive: impl Stream<Item = std::io::Result<Frame<Bytes>>> + Send + Sync + 'static,
    ) -> anyhow::Result<Incoming> {
        let body = BoxBody::new(StreamBody::new(archive));
        Ok(self.ask(Method::POST, path, "application/x-tar", body).await?.into_body())
    }

    /// A list, with filters as `(key, value)`.
    pub(crate) async fn list(&self, path: &str, filters: &[(String, String)]) -> anyhow::Result<Vec<Value>> {
        let mut grouped: std::collections::BTreeMap<&str, Vec<&str>> = std::collections::BTreeMap::new();
        for (key, value) in filters {
            grouped.entry(key).or_default().push(value);
        }
        let text = escape(&serde_json::to_string(&grouped)?);
        let mark = if path.contains('?') { '&' } else { '?' };
        let answer = self.get(&format!("{path}{mark}filters={text}")).await?;
        let list: Option<Vec<Value>> = serde_json::from_value(answer)
            .with_context(|| format!("the daemon's answer to {path} is no list"))?;
        Ok(list.unwrap_or_default())
    }
}

fn full(bytes: Bytes) -> Body {
    BoxBody::new(Full::new(bytes).map_err(|never| match never {}))
}

async fn exchange<S>(stream: S, request: Request<Body>) -> anyhow::Result<Response<Incoming>>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // Ends with the connection; its errors come out of the request and of the body.
    tokio::spawn(connection);
    Ok(sender.send_request(request).await?)
}

/// Percent-encodes what has a meaning in a path or query.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~:".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// Whether a call failed because there is no such object.
pub(crate) fn is_not_found(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Refused>().is_some_and(|refused| refused.status == StatusCode::NOT_FOUND)
}

/// Whether a write failed because the object changed since it was read (Swarm's words).
pub(crate) fn is_out_of_date(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Refused>().is_some_and(|refused| refused.message.ends_with("update out of sequence"))
}
