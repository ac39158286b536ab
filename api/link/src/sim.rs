//! For simulations only: nodes' connections over streams that the simulation makes, without TLS.
//!
//! Each end's first line says who it is, as its certificate would; from there on all is as on a real
//! connection. A simulation has one thread, and what is set here is that thread's alone.

use std::{
    cell::RefCell,
    fmt,
    future::{Future, pending},
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    sync::watch,
    task::JoinSet,
    time::timeout,
};
use tonic::transport::Channel;

use crate::{
    CONNECT_TIMEOUT, DialError, Identity, Peer, Role, SharedRoutes, Whom,
    accept::serve_http2,
    dial::{endpoint, with_port},
};

/// A first line is no longer.
const LINE_MAX_BYTES: usize = 256;

/// A simulated connection.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> Stream for S {}

/// A connection that is being made.
pub type Dialling = Pin<Box<dyn Future<Output = io::Result<Box<dyn Stream>>> + Send>>;

/// Connects to `host:port`.
pub type Dialler = Arc<dyn Fn(String) -> Dialling + Send + Sync>;

thread_local! {
    static DIALLER: RefCell<Option<Dialler>> = const { RefCell::new(None) };
}

/// From now on this thread's connections are made by `dialler`.
pub fn dial_on_this_thread(dialler: Dialler) {
    DIALLER.set(Some(dialler));
}

/// Whether this thread's connections are simulated.
#[must_use]
pub fn is_simulated() -> bool {
    dialler().is_some()
}

pub(crate) fn dialler() -> Option<Dialler> {
    DIALLER.with_borrow(Clone::clone)
}

/// Who says so: nobody without an identity.
fn line(peer: Option<&Peer>) -> String {
    peer.map_or_else(
        || "-\n".to_owned(),
        |peer| format!("{} {} {}\n", peer.node_id, peer.role == Role::Manager, peer.cluster_id),
    )
}

fn own(identity: &Identity) -> Peer {
    Peer { node_id: identity.node_id(), role: identity.role(), cluster_id: identity.cluster_id() }
}

async fn read_line(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Peer>> {
    let mut line = Vec::new();
    loop {
        match stream.read_u8().await? {
            b'\n' => break,
            byte if line.len() < LINE_MAX_BYTES => line.push(byte),
            _ => return Err(io::ErrorKind::InvalidData.into()),
        }
    }
    let line = String::from_utf8_lossy(&line).into_owned();
    let mut words = line.split(' ');
    let (Some(node_id), Some(manager), Some(cluster_id)) = (words.next(), words.next(), words.next()) else {
        return Ok(None);
    };
    let role = if manager == "true" { Role::Manager } else { Role::Worker };
    Ok(Some(Peer { node_id: node_id.to_owned(), role, cluster_id: cluster_id.to_owned() }))
}

/// One connection, both ends known to each other.
async fn connect(
    dialler: &Dialler,
    addr: &str,
    own: Option<Peer>,
    whom: Whom,
    limit: Duration,
) -> Result<(Box<dyn Stream>, Peer), DialError> {
    let connecting = async {
        let unreachable = |source| DialError::Unreachable { addr: addr.to_owned(), source };
        let refused = |reason: String| DialError::Refused { addr: addr.to_owned(), reason };
        let mut stream = dialler(addr.to_owned()).await.map_err(unreachable)?;
        stream.write_all(line(own.as_ref()).as_bytes()).await.map_err(|e| refused(e.to_string()))?;
        let theirs = read_line(&mut stream).await.map_err(|e| refused(e.to_string()))?;
        let theirs = theirs.ok_or_else(|| refused("it does not say who it is".to_owned()))?;
        let is_ours = own.is_none_or(|own| own.cluster_id == theirs.cluster_id);
        if !is_ours || (whom == Whom::Manager && theirs.role != Role::Manager) {
            return Err(refused("it is no manager of this swarm".to_owned()));
        }
        Ok((stream, theirs))
    };
    match timeout(limit, connecting).await {
        Ok(result) => result,
        Err(_) => Err(DialError::Timeout { addr: addr.to_owned(), limit }),
    }
}

/// As `dial::connect`, as nobody without an identity.
pub(crate) async fn channel(
    dialler: Dialler,
    addr: &str,
    identity: Option<Identity>,
) -> Result<Channel, DialError> {
    let addr = with_port(addr)?;
    let own = move || identity.as_ref().map(own);
    let (stream, _) = connect(&dialler, &addr, own(), Whom::Manager, CONNECT_TIMEOUT).await?;
    let shared = Arc::new((addr.clone(), Mutex::new(Some(stream)), own, dialler));
    let connector = tower::service_fn(move |_| {
        let shared = Arc::clone(&shared);
        async move {
            let (addr, first, own, dialler) = &*shared;
            let ready = first.lock().unwrap_or_else(PoisonError::into_inner).take();
            match ready {
                Some(stream) => Ok(TokioIo::new(stream)),
                None => connect(dialler, addr, own(), Whom::Manager, CONNECT_TIMEOUT)
                    .await
                    .map(|(stream, _)| TokioIo::new(stream)),
            }
        }
    });
    endpoint().connect_with_connector(connector).await.map_err(|source| DialError::Broken { addr, source })
}

/// As `dial::connect_once`.
pub(crate) async fn connect_once(
    dialler: Dialler,
    addr: &str,
    identity: &Identity,
    whom: Whom,
    limit: Duration,
) -> Result<(Channel, Peer), DialError> {
    let addr = with_port(addr)?;
    let (stream, peer) = connect(&dialler, &addr, Some(own(identity)), whom, limit).await?;
    let first = Mutex::new(Some(stream));
    let connector = tower::service_fn(move |_| {
        let ready = first.lock().unwrap_or_else(PoisonError::into_inner).take();
        let stream = ready.ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected));
        std::future::ready(stream.map(TokioIo::new))
    });
    match timeout(limit, endpoint().connect_with_connector(connector)).await {
        Ok(Ok(channel)) => Ok((channel, peer)),
        Ok(Err(source)) => Err(DialError::Broken { addr, source }),
        Err(_) => Err(DialError::Timeout { addr, limit }),
    }
}

/// Serves `routes` on the connections that `accept` gives, until it is dropped or `accept` fails.
///
/// # Errors
/// The failure of `accept`.
pub async fn serve<S, F>(
    mut accept: impl FnMut() -> F,
    identity: Identity,
    routes: impl Into<SharedRoutes>,
) -> io::Result<()>
where
    S: Stream,
    F: Future<Output = io::Result<(S, SocketAddr)>>,
{
    let routes = routes.into();
    let (_stop, stopped) = watch::channel(false);
    let mut connections = JoinSet::new();
    loop {
        let (stream, remote) = tokio::select! {
            biased;
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            accepted = accept() => accepted?,
        };
        connections.spawn(connection(stream, remote, identity.clone(), routes.clone(), stopped.clone()));
    }
}

async fn connection(
    mut stream: impl Stream,
    remote: SocketAddr,
    identity: Identity,
    routes: SharedRoutes,
    stopped: watch::Receiver<bool>,
) {
    let ours = own(&identity);
    let greeting = async {
        let theirs = read_line(&mut stream).await?;
        stream.write_all(line(Some(&ours)).as_bytes()).await?;
        Ok::<_, io::Error>(theirs)
    };
    let Ok(Ok(theirs)) = timeout(CONNECT_TIMEOUT, greeting).await else { return };
    if theirs.as_ref().is_some_and(|theirs| theirs.cluster_id != ours.cluster_id) {
        return;
    }
    serve_http2(stream, remote, theirs, routes, stopped, pending()).await;
}

impl fmt::Debug for dyn Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").finish_non_exhaustive()
    }
}
