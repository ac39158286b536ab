//! A client of one daemon's socket: one connection a request, JSON in and out, each with a limit.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;

/// The longest that a daemon may take to answer an ordinary request; a join may wait for a manager.
pub(crate) const ANSWER_WAIT_MAX: Duration = Duration::from_secs(30);

/// Sends JSON (`Null` for none) and returns the answered JSON (`Null` for an empty or other body).
pub(crate) async fn call(socket: &Path, method: Method, path: &str, body: &Value) -> anyhow::Result<Value> {
    let bytes = if body.is_null() { Vec::new() } else { serde_json::to_vec(body)? };
    send(socket, method, path, "application/json", bytes.into()).await
}

/// Sends any body.
pub(crate) async fn send(
    socket: &Path,
    method: Method,
    path: &str,
    kind: &str,
    body: Bytes,
) -> anyhow::Result<Value> {
    let what = format!("{method} {path}");
    let exchange = exchange(socket, method, path, kind, body);
    let (status, body) = tokio::time::timeout(ANSWER_WAIT_MAX, exchange)
        .await
        .map_err(|_| anyhow!("no answer within {} s", ANSWER_WAIT_MAX.as_secs()))
        .and_then(|result| result)
        .with_context(|| format!("{what} on {}", socket.display()))?;
    if status.is_success() {
        return Ok(serde_json::from_slice(&body).unwrap_or(Value::Null));
    }
    let message = serde_json::from_slice::<Value>(&body)
        .ok()
        .and_then(|v| v.get("message")?.as_str().map(str::to_owned))
        .unwrap_or_else(|| String::from_utf8_lossy(&body).into_owned());
    bail!("{what}: {status}: {}", message.trim())
}

async fn exchange(
    socket: &Path,
    method: Method,
    path: &str,
    kind: &str,
    body: Bytes,
) -> anyhow::Result<(hyper::StatusCode, Bytes)> {
    let stream = UnixStream::connect(socket).await.context("connect")?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(hyper::header::HOST, "skep")
        .header(hyper::header::CONTENT_TYPE, kind)
        .body(Full::new(body))?;
    let ask = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        Ok::<_, hyper::Error>((status, response.into_body().collect().await?.to_bytes()))
    };
    // The connection is driven here and ends with the exchange, so nothing of it is left behind.
    tokio::pin!(ask);
    tokio::select! {
        answer = &mut ask => Ok(answer?),
        end = connection => { end?; Ok(ask.await?) }
    }
}
