//! Three processes of the etcd that is installed, and clients of their leader.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::time::Instant;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;

use crate::{CONNECTIONS, Members, fresh_dir};

const PORT: u16 = 24_900;
const LIMIT: Duration = Duration::from_secs(20);

/// As much of etcd's messages as is needed.
#[derive(Clone, PartialEq, prost::Message)]
struct Put {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Empty {}

#[derive(Clone, PartialEq, prost::Message)]
struct Header {
    #[prost(uint64, tag = "2")]
    member_id: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Status {
    #[prost(message, optional, tag = "1")]
    header: Option<Header>,
    #[prost(uint64, tag = "4")]
    leader: u64,
}

async fn call<In, Out>(channel: &Channel, path: &'static str, request: In) -> anyhow::Result<Out>
where
    In: prost::Message + 'static,
    Out: prost::Message + Default + 'static,
{
    let mut grpc = Grpc::new(channel.clone());
    grpc.ready().await?;
    let path = PathAndQuery::from_static(path);
    Ok(grpc.unary(tonic::Request::new(request), path, ProstCodec::<In, Out>::default()).await?.into_inner())
}

async fn connect(url: &str) -> anyhow::Result<Channel> {
    Ok(Endpoint::from_shared(url.to_owned())?.tcp_nodelay(true).connect().await?)
}

pub(crate) struct Etcd {
    children: Vec<Child>,
    dir: PathBuf,
    clients: Vec<Channel>,
}

impl Etcd {
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let mut etcd = Self { children: Vec::new(), dir: fresh_dir("etcd")?, clients: Vec::new() };
        let client = |n: u16| format!("http://127.0.0.1:{}", PORT + n);
        let peer = |n: u16| format!("http://127.0.0.1:{}", PORT + 10 + n);
        let all: Vec<String> = (1..=3).map(|n| format!("e{n}={}", peer(n))).collect();
        for n in 1..=3 {
            let child = Command::new("etcd")
                .args(["--name", &format!("e{n}"), "--data-dir"])
                .arg(etcd.dir.join(n.to_string()))
                .args(["--listen-client-urls", &client(n), "--advertise-client-urls", &client(n)])
                .args(["--listen-peer-urls", &peer(n), "--initial-advertise-peer-urls", &peer(n)])
                .args(["--initial-cluster", &all.join(","), "--initial-cluster-state", "new"])
                .args(["--log-level", "error"])
                .stderr(Stdio::null())
                .stdout(Stdio::null())
                .spawn()
                .context("start etcd; it is in the package etcd-server")?;
            etcd.children.push(child);
        }
        let leader = leader(&(1..=3).map(client).collect::<Vec<_>>()).await?;
        for _ in 0..CONNECTIONS {
            etcd.clients.push(connect(&leader).await?);
        }
        Ok(etcd)
    }
}

async fn leader(urls: &[String]) -> anyhow::Result<String> {
    let end = Instant::now() + LIMIT;
    while Instant::now() < end {
        for url in urls {
            let Ok(channel) = connect(url).await else { continue };
            let status = call::<_, Status>(&channel, "/etcdserverpb.Maintenance/Status", Empty {}).await;
            let Ok(Status { header: Some(own), leader }) = status else { continue };
            if leader != 0 && own.member_id == leader {
                return Ok(url.clone());
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    bail!("etcd has no leader within {LIMIT:?}")
}

impl Members for Etcd {
    async fn write(&self, connection: usize, writer: u64, payload: Vec<u8>) -> anyhow::Result<()> {
        let put = Put { key: writer.to_be_bytes().to_vec(), value: payload };
        call::<_, Empty>(&self.clients[connection], "/etcdserverpb.KV/Put", put).await.map(drop)
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        for child in &mut self.children {
            drop(child.kill());
            drop(child.wait());
        }
        drop(std::fs::remove_dir_all(&self.dir));
    }
}
