//! Frames over simulated TCP: a length, a byte that says what, the body. One connection a call, as a
//! simulated connection does not outlive a lost packet.

use std::fmt;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use skep_raft::{Transport, TransportError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout};
use turmoil::net::TcpStream;

pub(crate) const PORT: u16 = 2377;
/// Frames between members.
pub(crate) const RAFT: u8 = 0;
pub(crate) const PROPOSE: u8 = 1;
pub(crate) const READ: u8 = 2;
/// Answers.
pub(crate) const DONE: u8 = 0;
/// It was certainly not carried out.
pub(crate) const REFUSED: u8 = 1;
pub(crate) const UNKNOWN: u8 = 2;
/// It is being worked on: the pings of a real connection, by which one that has lost a packet here is given up.
pub(crate) const WAIT: u8 = 3;
pub(crate) const WAIT_EACH: Duration = Duration::from_secs(1);
/// The real connections' interval and timeout.
const SILENT_MAX: Duration = Duration::from_secs(3);

pub(crate) fn host(id: u64) -> String {
    format!("m{id}")
}

pub(crate) async fn send(stream: &mut TcpStream, what: u8, body: &[u8]) -> io::Result<()> {
    let mut frame = Vec::with_capacity(body.len() + 5);
    frame.extend_from_slice(&u32::try_from(body.len()).unwrap().to_le_bytes());
    frame.push(what);
    frame.extend_from_slice(body);
    stream.write_all(&frame).await
}

pub(crate) async fn receive(stream: &mut TcpStream) -> io::Result<(u8, Bytes)> {
    let len = stream.read_u32_le().await?;
    let what = stream.read_u8().await?;
    let mut body = vec![0; usize::try_from(len).unwrap()];
    stream.read_exact(&mut body).await?;
    Ok((what, body.into()))
}

/// One question and its answer.
pub(crate) async fn call(
    to: u64,
    what: u8,
    body: Bytes,
    limit: Duration,
) -> Result<(u8, Bytes), TransportError> {
    let deadline = Instant::now() + limit;
    let unreachable = |reason: &dyn fmt::Display| TransportError::Unreachable(reason.to_string());
    let connected = timeout(limit, TcpStream::connect((host(to), PORT))).await;
    let mut stream = connected.map_err(|e| unreachable(&e))?.map_err(|e| unreachable(&e))?;
    let exchange = async {
        send(&mut stream, what, &body).await?;
        loop {
            match timeout(SILENT_MAX, receive(&mut stream)).await?? {
                (WAIT, _) => {}
                answer => return io::Result::Ok(answer),
            }
        }
    };
    let left = deadline.saturating_duration_since(Instant::now());
    match timeout(left, exchange).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(TransportError::NoAnswer(error.to_string())),
        Err(late) => Err(TransportError::NoAnswer(late.to_string())),
    }
}

/// How simulated members talk.
#[derive(Debug)]
pub(crate) struct Wire;

impl Transport for Wire {
    fn call(
        &self,
        to: u64,
        body: Bytes,
        limit: Duration,
    ) -> BoxFuture<'static, Result<Bytes, TransportError>> {
        Box::pin(async move {
            match call(to, RAFT, body, limit).await? {
                (DONE, answer) => Ok(answer),
                (_, reason) => Err(TransportError::NoAnswer(String::from_utf8_lossy(&reason).into_owned())),
            }
        })
    }
}
