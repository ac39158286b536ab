//! Three processes with a raft member each, and the clients' way to their leader.

use std::collections::BTreeMap;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use futures::future::BoxFuture;
use skep_raft::{Compaction, Config, Raft, StateMachine, Transport, TransportError, WriteState};

use crate::frames::{Line, serve};
use crate::{CONNECTIONS, Members, fresh_dir};

const PORT: u16 = 24_800;
const IDS: [u64; 3] = [1, 2, 3];
const RAFT: u8 = 0;
const PROPOSE: u8 = 1;
const MAKE_SWARM: u8 = 2;
const FAILED: u8 = 9;
const LIMIT: Duration = Duration::from_secs(20);

fn address(id: u64) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, PORT + u16::try_from(id).unwrap_or_default()).into()
}

/// The last payload of each writer.
#[derive(Default)]
struct Table(Mutex<BTreeMap<Vec<u8>, Vec<u8>>>);

impl StateMachine for Table {
    fn apply(&self, _index: u64, entry: &[u8]) -> Vec<u8> {
        let (key, value) = entry.split_at(entry.len().min(8));
        self.0.lock().into_iter().for_each(|mut table| drop(table.insert(key.to_vec(), value.to_vec())));
        Vec::new()
    }

    fn snapshot(&self) -> WriteState {
        Box::new(|_| Ok(()))
    }

    fn restore(&self, _state: &mut (dyn Read + Send)) -> Result<(), String> {
        Ok(())
    }

    /// No snapshot within a run: etcd makes none either.
    fn compaction(&self) -> Compaction {
        Compaction { every: 10_000_000, ..Compaction::default() }
    }
}

#[derive(Debug)]
struct Lines(Arc<tokio::sync::Mutex<BTreeMap<u64, Arc<Line>>>>);

impl Transport for Lines {
    fn call(
        &self,
        to: u64,
        body: Bytes,
        _limit: Duration,
    ) -> BoxFuture<'static, Result<Bytes, TransportError>> {
        let lines = self.0.clone();
        Box::pin(async move {
            let line = {
                let mut lines = lines.lock().await;
                match lines.get(&to) {
                    Some(line) => line.clone(),
                    None => {
                        let line = Line::open(address(to)).await;
                        let line = line.map_err(|e| TransportError::Unreachable(e.to_string()))?;
                        lines.entry(to).or_insert(Arc::new(line)).clone()
                    }
                }
            };
            match line.ask(RAFT, body).await {
                Ok((RAFT, answer)) => Ok(answer),
                Ok((_, why)) => Err(TransportError::NoAnswer(String::from_utf8_lossy(&why).into_owned())),
                Err(error) => {
                    lines.lock().await.remove(&to);
                    Err(TransportError::NoAnswer(error.to_string()))
                }
            }
        })
    }
}

/// What a member's process does: `ID DIR`.
pub(crate) fn member(args: &[String]) -> anyhow::Result<()> {
    let [id, dir] = args else { bail!("member ID DIR") };
    let id: u64 = id.parse()?;
    let config = Config::new(PathBuf::from(dir), id);
    tokio::runtime::Runtime::new()?.block_on(async {
        let listener = tokio::net::TcpListener::bind(address(id)).await?;
        let lines = Arc::new(Lines(Arc::default()));
        let raft = Raft::open(config, Arc::new(Table::default()), lines).await?;
        let answer = move |kind, body| answer(raft.clone(), kind, body);
        serve(listener, answer).await;
        anyhow::Ok(())
    })
}

async fn answer(raft: Raft, kind: u8, body: Bytes) -> (u8, Bytes) {
    let outcome = match kind {
        RAFT => raft.handle(body).await.map_err(anyhow::Error::from),
        PROPOSE => raft.propose(body.to_vec()).await.map(Bytes::from).map_err(anyhow::Error::from),
        _ => make_swarm(&raft).await.map(|()| Bytes::new()),
    };
    match outcome {
        Ok(bytes) => (kind, bytes),
        Err(error) => (FAILED, Bytes::from(format!("{error:#}"))),
    }
}

async fn make_swarm(raft: &Raft) -> anyhow::Result<()> {
    raft.bootstrap().await?;
    for id in &IDS[1..] {
        retry(|| raft.add_learner(*id)).await?;
        retry(|| raft.add_voter(*id)).await?;
    }
    Ok(())
}

async fn retry<T, E: std::error::Error + Send + Sync + 'static, F: Future<Output = Result<T, E>>>(
    step: impl Fn() -> F,
) -> anyhow::Result<T> {
    let end = tokio::time::Instant::now() + LIMIT;
    loop {
        match step().await {
            Ok(done) => return Ok(done),
            Err(error) if tokio::time::Instant::now() > end => return Err(error.into()),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// The three, and connections to the first, which leads.
pub(crate) struct Ours {
    children: Vec<Child>,
    dir: PathBuf,
    lines: Vec<Line>,
}

impl Ours {
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let mut ours = Self { children: Vec::new(), dir: fresh_dir("skep")?, lines: Vec::new() };
        for id in IDS {
            let dir = ours.dir.join(id.to_string());
            let exe = std::env::current_exe()?;
            let child = Command::new(exe).arg("member").arg(id.to_string()).arg(dir).spawn();
            ours.children.push(child.context("start a member")?);
        }
        for id in IDS {
            retry(|| async { Line::open(address(id)).await.map(drop).map_err(std::io::Error::other) })
                .await?;
        }
        for _ in 0..CONNECTIONS {
            ours.lines.push(Line::open(address(IDS[0])).await?);
        }
        ours.ask(0, MAKE_SWARM, Bytes::new()).await?;
        Ok(ours)
    }

    async fn ask(&self, line: usize, kind: u8, body: Bytes) -> anyhow::Result<()> {
        let (kind, answer) = self.lines[line].ask(kind, body).await?;
        if kind == FAILED {
            bail!("a member says: {}", String::from_utf8_lossy(&answer));
        }
        Ok(())
    }
}

impl Members for Ours {
    async fn write(&self, connection: usize, writer: u64, payload: Vec<u8>) -> anyhow::Result<()> {
        self.ask(connection, PROPOSE, [&writer.to_be_bytes()[..], &payload].concat().into()).await
    }
}

impl Drop for Ours {
    fn drop(&mut self) {
        for child in &mut self.children {
            drop(child.kill());
            drop(child.wait());
        }
        drop(std::fs::remove_dir_all(&self.dir));
    }
}
