//! Requests and answers over one TCP connection, many at once: a length, a number, a kind, the bytes.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use anyhow::Context as _;
use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};

const HEADER_BYTES: usize = 13;

type Pending = Arc<Mutex<BTreeMap<u64, oneshot::Sender<(u8, Bytes)>>>>;

/// The asking end.
#[derive(Debug)]
pub(crate) struct Line {
    send: mpsc::UnboundedSender<(u64, u8, Bytes)>,
    pending: Pending,
    next: std::sync::atomic::AtomicU64,
}

impl Line {
    pub(crate) async fn open(to: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(to).await?;
        stream.set_nodelay(true)?;
        let (read, write) = stream.into_split();
        let (send, queue) = mpsc::unbounded_channel();
        let pending = Pending::default();
        tokio::spawn(write_all(write, queue));
        let waiting = pending.clone();
        tokio::spawn(async move {
            let mut read = BufReader::new(read);
            while let Ok((number, kind, body)) = next(&mut read).await {
                let waits = waiting.lock().ok().and_then(|mut waiting| waiting.remove(&number));
                waits.into_iter().for_each(|waits| drop(waits.send((kind, body.clone()))));
            }
            // Those who wait learn that nothing will come.
            waiting.lock().into_iter().for_each(|mut waiting| waiting.clear());
        });
        Ok(Self { send, pending, next: 0.into() })
    }

    pub(crate) async fn ask(&self, kind: u8, body: Bytes) -> anyhow::Result<(u8, Bytes)> {
        let number = self.next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        self.pending.lock().ok().context("nobody panics with it")?.insert(number, answer);
        self.send.send((number, kind, body)).ok().context("the connection is closed")?;
        answered.await.context("the connection broke")
    }
}

/// The answering end: runs until its process ends.
pub(crate) async fn serve<F>(listener: TcpListener, answer: impl Fn(u8, Bytes) -> F + Clone + Send + 'static)
where
    F: Future<Output = (u8, Bytes)> + Send + 'static,
{
    while let Ok((stream, _)) = listener.accept().await {
        drop(stream.set_nodelay(true));
        let (read, write) = stream.into_split();
        let (send, queue) = mpsc::unbounded_channel();
        tokio::spawn(write_all(write, queue));
        let answer = answer.clone();
        tokio::spawn(async move {
            let mut read = BufReader::new(read);
            while let Ok((number, kind, body)) = next(&mut read).await {
                let (answering, send) = (answer(kind, body), send.clone());
                tokio::spawn(async move {
                    let (kind, body) = answering.await;
                    drop(send.send((number, kind, body)));
                });
            }
        });
    }
}

async fn write_all(mut write: OwnedWriteHalf, mut queue: mpsc::UnboundedReceiver<(u64, u8, Bytes)>) {
    let mut bytes = Vec::new();
    while let Some(first) = queue.recv().await {
        let mut frame = Some(first);
        while let Some((number, kind, body)) = frame {
            let len = u32::try_from(body.len()).unwrap_or_default();
            bytes.extend_from_slice(&len.to_le_bytes());
            bytes.extend_from_slice(&number.to_le_bytes());
            bytes.push(kind);
            bytes.extend_from_slice(&body);
            frame = queue.try_recv().ok();
        }
        if write.write_all(&bytes).await.is_err() {
            return;
        }
        bytes.clear();
    }
}

async fn next(read: &mut BufReader<OwnedReadHalf>) -> std::io::Result<(u64, u8, Bytes)> {
    let mut header = [0; HEADER_BYTES];
    read.read_exact(&mut header).await?;
    let (len, rest) = header.split_at(4);
    let (number, kind) = rest.split_at(8);
    let len = u32::from_le_bytes(len.try_into().map_err(std::io::Error::other)?);
    let number = u64::from_le_bytes(number.try_into().map_err(std::io::Error::other)?);
    let mut body = vec![0; usize::try_from(len).map_err(std::io::Error::other)?];
    read.read_exact(&mut body).await?;
    Ok((number, kind[0], body.into()))
}
