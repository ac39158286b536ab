//! Accepts the connections of other nodes: TLS, then gRPC, with the peer's identity in each request.
//!
//! Anybody may connect: handshakes are bounded in number and time, and a connection without a
//! certificate is closed after the time that a join may take. One bad client costs itself alone.

use std::{
    convert::Infallible, fmt, future::Future, io, net::SocketAddr, pin::pin, sync::Arc, time::Duration,
};

use arc_swap::ArcSwap;
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::{CertificateDer, UnixTime};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tonic::service::Routes;
use tower::Service;
use tracing::{debug, warn};

use crate::{Identity, Role, subject::Subject};

/// Handshakes at a time: more than two cores can do in the time that one may take.
const HANDSHAKES_MAX: usize = 256;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection without a certificate may last: a join is one RPC, its client gives up after 20 s.
const ANONYMOUS_MAX: Duration = Duration::from_secs(30);
/// A session, and a stream for each `service logs` that it feeds.
const STREAMS_MAX: u32 = 1024;
/// Ends connections whose other end is gone without a word. Sessions notice sooner, by their beats.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection's certificates are looked at this often, and sooner when one is about to lapse: the clock may
/// have jumped.
const CERTIFICATES_EACH: Duration = Duration::from_secs(30);
/// Connections that were made under a certificate of ours that has been replaced end in its last tenth, each at
/// its own time, so that they do not all come again at once.
const SPREAD_PART: u64 = 10;
/// Within this time connections are looked at anew when our certificate or root was replaced.
const LOOK_SPREAD: Duration = Duration::from_secs(2);
/// How long open RPCs may take to end when the listener stops, or certificates lapse.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(2);
/// Between attempts when accepting fails, as it does when file descriptors run out.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Who is at the other end, by its certificate. Authorisation is by the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// The node's id.
    pub node_id: String,
    /// The role in the certificate, which may be older than the role in the store.
    pub role: Role,
    /// Always the listener's own cluster.
    pub cluster_id: String,
}

/// Where a request came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RemoteAddr(pub SocketAddr);

/// The listener cannot accept any more.
#[derive(Debug, thiserror::Error)]
#[error("cannot accept connections")]
pub struct ServeError(#[source] io::Error);

/// Who sent this request; `None` if it came without a certificate.
#[must_use]
pub fn peer<T>(request: &tonic::Request<T>) -> Option<Peer> {
    request.extensions().get::<Peer>().cloned()
}

/// The address this request came from.
#[must_use]
pub fn remote_addr<T>(request: &tonic::Request<T>) -> Option<SocketAddr> {
    request.extensions().get::<RemoteAddr>().map(|addr| addr.0)
}

/// What a listener serves. Clones share it, and it may change while connections are open: a node changes
/// its role without a break.
#[derive(Clone, Debug)]
pub struct SharedRoutes(Arc<ArcSwap<Routes>>);

impl SharedRoutes {
    /// Serves these from the next request on; requests under way end as they began.
    pub fn set(&self, routes: Routes) {
        // Built once, not at each request.
        self.0.store(Arc::new(routes.prepare()));
    }

    fn current(&self) -> Routes {
        Routes::clone(&self.0.load())
    }
}

impl From<Routes> for SharedRoutes {
    fn from(routes: Routes) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(routes.prepare())))
    }
}

/// Serves `routes` until `shutdown` ends, then gives open RPCs two seconds. Each connection uses the
/// certificate that `identity` holds when it comes in. All its connections end with it, also when dropped.
///
/// # Errors
/// [`ServeError`] if the listener is broken; want of file descriptors and the like are waited out.
pub async fn serve(
    listener: TcpListener,
    identity: Identity,
    routes: impl Into<SharedRoutes>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let routes = routes.into();
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    let (stop, stopped) = watch::channel(false);
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    let result = loop {
        tokio::select! {
            biased;
            () = &mut shutdown => break Ok(()),
            Some(ended) = connections.join_next(), if !connections.is_empty() => log_panic(ended),
            accepted = accept(&listener, &handshakes) => match accepted {
                Ok((stream, remote, permit)) => {
                    let (identity, routes, stopped) = (identity.clone(), routes.clone(), stopped.clone());
                    connections.spawn(connection(stream, remote, permit, identity, routes, stopped));
                }
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => break Err(ServeError(error)),
                Err(error) => {
                    warn!(err = %error, "cannot accept a connection");
                    sleep(ACCEPT_RETRY).await;
                }
            },
        }
    };
    drop(listener);
    stop.send_replace(true);
    let all_ended = async { while connections.join_next().await.is_some() {} };
    if timeout(SHUTDOWN_GRACE, all_ended).await.is_err() {
        debug!("cut off connections that were still open");
    }
    connections.shutdown().await;
    result
}

/// The permit is taken first: what we cannot greet yet waits in the kernel's backlog, not in our memory.
async fn accept(
    listener: &TcpListener,
    handshakes: &Arc<Semaphore>,
) -> io::Result<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let permit =
        Arc::clone(handshakes).acquire_owned().await.expect("the semaphore lives as long as the listener");
    let (stream, remote) = listener.accept().await?;
    Ok((stream, remote, permit))
}

async fn connection(
    stream: TcpStream,
    remote: SocketAddr,
    permit: OwnedSemaphorePermit,
    identity: Identity,
    routes: SharedRoutes,
    stopped: watch::Receiver<bool>,
) {
    // Before the handshake: what is replaced meanwhile counts as replaced.
    let lasting = Lasting::begin(&identity, remote);
    let (stream, peer) = match timeout(HANDSHAKE_TIMEOUT, handshake(stream, &identity)).await {
        Ok(Ok(greeted)) => greeted,
        Ok(Err(error)) => return debug!(client.addr = %remote, err = %error, "refused a connection"),
        Err(_) => return debug!(client.addr = %remote, "a connection did not finish its handshake"),
    };
    drop(permit);
    let anonymous = peer.is_none();
    let chain = stream.get_ref().1.peer_certificates().unwrap_or_default().to_vec();
    let serving = serve_http2(stream, remote, peer, routes, stopped, lasting.until_lapsed(chain));
    if anonymous {
        if timeout(ANONYMOUS_MAX, serving).await.is_err() {
            debug!(client.addr = %remote, "closed a connection without a certificate");
        }
    } else {
        serving.await;
    }
}

/// Why a connection was not taken; for the log only.
#[derive(Debug, thiserror::Error)]
enum HandshakeError {
    #[error("TLS: {0}")]
    Tls(#[from] io::Error),
    #[error("client certificate: {0}")]
    Certificate(#[from] crate::subject::SubjectError),
    #[error("the certificate of node {node_id} has expired")]
    Lapsed { node_id: String },
    #[error("node {node_id} is of cluster {cluster_id}")]
    OtherCluster { node_id: String, cluster_id: String },
}

async fn handshake(
    stream: TcpStream,
    identity: &Identity,
) -> Result<(TlsStream<TcpStream>, Option<Peer>), HandshakeError> {
    stream.set_nodelay(true)?;
    let stream = TlsAcceptor::from(identity.server_config()).accept(stream).await?;
    let Some(leaf) = stream.get_ref().1.peer_certificates().and_then(<[_]>::first) else {
        return Ok((stream, None));
    };
    let Subject { node_id, role, cluster_id, not_after, .. } = Subject::of_der(leaf)?;
    // TLS takes a session up again without another look at its certificates.
    if i64::try_from(UnixTime::now().as_secs()).is_ok_and(|now| now > not_after) {
        return Err(HandshakeError::Lapsed { node_id });
    }
    if cluster_id != identity.cluster_id() {
        return Err(HandshakeError::OtherCluster { node_id, cluster_id });
    }
    Ok((stream, Some(Peer { node_id, role, cluster_id })))
}

/// How long a connection may last: as long as both ends' certificates would be taken if it were made now.
struct Lasting {
    identity: Identity,
    replaced: watch::Receiver<u64>,
    /// Of our own certificate: from when to when, in Unix seconds.
    own: (u64, u64),
    /// This connection's share of the spread, in thousandths.
    share: u64,
}

impl Lasting {
    fn begin(identity: &Identity, remote: SocketAddr) -> Self {
        let secs = |at: i64| u64::try_from(at).unwrap_or_default();
        let (from, to) = identity.validity();
        Self {
            replaced: identity.replaced(),
            identity: identity.clone(),
            own: (secs(from), secs(to)),
            share: u64::from(remote.port()) % 1000,
        }
    }

    /// Returns once one of them has lapsed. TLS's own clock judges, as at the handshake.
    async fn until_lapsed(mut self, chain: Vec<CertificateDer<'static>>) {
        let not_after = |der: &CertificateDer<'_>| Subject::of_der(der).map(|subject| subject.not_after);
        let peers = chain.first().and_then(|leaf| not_after(leaf).ok()).and_then(|at| u64::try_from(at).ok());
        let first = *self.replaced.borrow();
        let mut seen = first;
        loop {
            let now = UnixTime::now();
            let n_replaced = *self.replaced.borrow_and_update();
            if n_replaced != seen {
                // A signature to check for each of thousands.
                sleep(LOOK_SPREAD / 1000 * u32::try_from(self.share).unwrap_or_default()).await;
                if !self.identity.admits(&chain, now) {
                    return;
                }
            }
            seen = n_replaced;
            let own = if n_replaced == first { self.own.1 } else { self.end_of_replaced() };
            let end = peers.unwrap_or(u64::MAX).min(own);
            // In its last second it is still good.
            if now.as_secs() > end {
                return;
            }
            let rest = Duration::from_secs(end - now.as_secs() + 1);
            tokio::select! {
                () = sleep(rest.min(CERTIFICATES_EACH)) => {}
                changed = self.replaced.changed() => if changed.is_err() { return },
            }
        }
    }

    fn end_of_replaced(&self) -> u64 {
        let (from, to) = self.own;
        to - to.saturating_sub(from) / SPREAD_PART * self.share / 1000
    }
}

pub(crate) async fn serve_http2(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    remote: SocketAddr,
    peer: Option<Peer>,
    routes: SharedRoutes,
    mut stopped: watch::Receiver<bool>,
    lapsed: impl Future<Output = ()>,
) {
    let service = service_fn(|mut request: hyper::Request<Incoming>| {
        let extensions = request.extensions_mut();
        extensions.insert(RemoteAddr(remote));
        if let Some(peer) = &peer {
            extensions.insert(peer.clone());
        }
        let answer = routes.current().call(request);
        async move { Ok::<_, Infallible>(answer.await.unwrap_or_else(|never| match never {})) }
    });
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .max_concurrent_streams(STREAMS_MAX);
    let mut serving = pin!(builder.serve_connection(TokioIo::new(stream), service));
    // An error means that the sender is gone, and so is the listener.
    let stop = async { stopped.wait_for(|stop| *stop).await.map_or((), |_| ()) };
    let result = tokio::select! {
        result = &mut serving => result,
        () = stop => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
        () = lapsed => {
            debug!(client.addr = %remote, "a certificate lapsed: its connection ends");
            serving.as_mut().graceful_shutdown();
            match timeout(SHUTDOWN_GRACE, serving).await {
                Ok(result) => result,
                Err(_) => return,
            }
        }
    };
    if let Err(error) = result {
        debug!(client.addr = %remote, err = %Chain(&error), "a connection broke");
    }
}

fn log_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(err = %error, "a connection's task failed");
    }
}

/// An error with its sources: hyper's own words leave the reason out.
struct Chain<'a>(&'a dyn std::error::Error);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self.0, f)?;
        let mut source = self.0.source();
        while let Some(error) = source {
            write!(f, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}
