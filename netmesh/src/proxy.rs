//! The user-space way to a published port: for 127/8 (UDP: 127.0.0.1 alone), which the kernel does not translate.
//!
//! A proxy also holds its port, so that no process of the node can take it: the socket of a host port is
//! bound to all addresses, and serves loopback clients alone (the others were translated before).
//! Invariant: a connection goes on after its endpoint left the list; only new ones follow the list.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};
use tokio::sync::{oneshot, watch};
use tokio::task::{AbortHandle, JoinSet};

use crate::desired::{PortKey, Protocol};

/// Connections (or flows) of one port at a time; further ones wait (or are dropped). Each costs two
/// descriptors, and the way through the kernel has no such limit.
const CONNECTIONS_MAX: usize = 1024;
/// How long an endpoint may take to accept.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// A flow without an answer for this long is forgotten.
const FLOW_IDLE_MAX: Duration = Duration::from_secs(60);
/// What to wait when descriptors ran out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
const DATAGRAM_MAX: usize = 65_535;
/// Connections that wait to be accepted; the kernel's own limit is mostly lower.
const BACKLOG: u32 = 1024;

/// Where new connections go: one of these at random.
pub(crate) type Targets = Arc<[SocketAddrV4]>;

/// A port that is held and served; dropped or stopped, it takes no new connection.
#[derive(Debug)]
pub(crate) struct Proxy {
    targets: watch::Sender<Targets>,
    closed: oneshot::Receiver<()>,
}

impl Proxy {
    /// Binds the port on this address. Must be called in a runtime's context.
    pub(crate) fn start(on: Ipv4Addr, port: PortKey, targets: Targets) -> io::Result<Proxy> {
        let (sender, receiver) = watch::channel(targets);
        let (close, closed) = oneshot::channel();
        let addr = SocketAddrV4::new(on, port.published);
        match port.protocol {
            Protocol::Tcp => {
                let listener = if on == Ipv4Addr::LOCALHOST {
                    listen_on_loopback(port.published)?
                } else {
                    listen(addr)?
                };
                tokio::spawn(serve_tcp(listener, receiver, close));
            }
            Protocol::Udp => {
                let socket = std::net::UdpSocket::bind(addr)?;
                socket.set_nonblocking(true)?;
                tokio::spawn(serve_udp(UdpSocket::from_std(socket)?, receiver, close));
            }
        }
        Ok(Proxy { targets: sender, closed })
    }

    pub(crate) fn set_targets(&self, targets: Targets) {
        self.targets.send_if_modified(|now| {
            let is_new = *now != targets;
            *now = targets;
            is_new
        });
    }

    /// Returns when the port is free again. Blocks: not for a thread that runs tasks.
    pub(crate) fn stop(self) {
        drop(self.targets);
        // An error means that the serving task is gone, and its socket with it.
        let _ = self.closed.blocking_recv();
    }
}

fn draw(targets: &watch::Receiver<Targets>) -> Option<SocketAddrV4> {
    let targets = targets.borrow();
    let n = u64::try_from(targets.len()).ok().filter(|n| *n > 0)?;
    // Each state has keys of its own: enough of chance to spread connections.
    let at = RandomState::new().hash_one(n) % n;
    targets.get(usize::try_from(at).ok()?).copied()
}

/// All of 127/8: what comes in by `lo`. Where a process has the port on one of the node's addresses, that is
/// refused, and 127.0.0.1 has to do.
fn listen_on_loopback(port: u16) -> io::Result<TcpListener> {
    let whole = TcpSocket::new_v4()?;
    whole.set_reuseaddr(true)?;
    whole.bind_device(Some(b"lo"))?;
    match whole.bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))).and_then(|()| whole.listen(BACKLOG)) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            listen(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))
        }
        other => other,
    }
}

fn listen(addr: SocketAddrV4) -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(addr.into())?;
    socket.listen(BACKLOG)
}

async fn serve_tcp(listener: TcpListener, mut targets: watch::Receiver<Targets>, close: oneshot::Sender<()>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => match accepted {
                Ok((client, from)) => { connections.spawn(connect(client, from, draw(&targets))); }
                Err(error) => {
                    tracing::debug!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(_) = connections.join_next() => {}
            changed = targets.changed() => if changed.is_err() { break },
        }
    }
    drop(listener);
    // An error means that nobody waits for it.
    let _ = close.send(());
    while connections.join_next().await.is_some() {}
}

async fn connect(mut client: TcpStream, from: SocketAddr, target: Option<SocketAddrV4>) {
    let Some(target) = target.filter(|_| from.ip().is_loopback()) else { return refuse(&client) };
    match tokio::time::timeout(CONNECT_MAX, TcpStream::connect(target)).await {
        Ok(Ok(mut server)) => {
            // Requests are small and answered in turn: nothing is gained by waiting for more.
            let _ = client.set_nodelay(true);
            let _ = server.set_nodelay(true);
            // The ends of the connection see what went wrong; nobody else has use for it.
            let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
        }
        Ok(Err(_)) | Err(_) => {
            tracing::debug!(%target, "an endpoint did not accept");
            refuse(&client);
        }
    }
}

/// Closes with a reset, as a port does that nobody listens on.
fn refuse(client: &TcpStream) {
    // Where it cannot be set, the client sees an ordinary end.
    let _ = rustix::net::sockopt::set_socket_linger(client, Some(Duration::ZERO));
}

struct FlowTo {
    target: SocketAddrV4,
    socket: Arc<UdpSocket>,
    answers: AbortHandle,
}

async fn serve_udp(socket: UdpSocket, mut targets: watch::Receiver<Targets>, close: oneshot::Sender<()>) {
    let socket = Arc::new(socket);
    let mut flows: BTreeMap<SocketAddr, FlowTo> = BTreeMap::new();
    let mut answers = JoinSet::new();
    let mut datagram = vec![0; DATAGRAM_MAX];
    loop {
        tokio::select! {
            received = socket.recv_from(&mut datagram) => {
                let Ok((n, client)) = received else { continue };
                if !flows.contains_key(&client) && flows.len() < CONNECTIONS_MAX && client.ip().is_loopback()
                    && let Some((target, server)) = open_flow(&targets).await
                {
                    let answers = answers.spawn(answer(Arc::clone(&socket), client, Arc::clone(&server)));
                    flows.insert(client, FlowTo { target, socket: server, answers });
                }
                if let Some(flow) = flows.get(&client) {
                    // A datagram may be lost anywhere.
                    let _ = flow.socket.send(&datagram[..n]).await;
                }
            }
            Some(ended) = answers.join_next() => if let Ok(client) = ended { flows.remove(&client); },
            changed = targets.changed() => {
                if changed.is_err() { break }
                let now = targets.borrow_and_update().clone();
                flows.retain(|_, flow| {
                    let is_kept = now.contains(&flow.target);
                    if !is_kept {
                        flow.answers.abort();
                    }
                    is_kept
                });
            }
        }
    }
    answers.shutdown().await;
    drop(socket);
    // An error means that nobody waits for it.
    let _ = close.send(());
}

async fn open_flow(targets: &watch::Receiver<Targets>) -> Option<(SocketAddrV4, Arc<UdpSocket>)> {
    let target = draw(targets)?;
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await.ok()?;
    socket.connect(target).await.ok()?;
    Some((target, Arc::new(socket)))
}

/// Carries answers back until there are none for a while. Gives the client whose flow ended.
async fn answer(to: Arc<UdpSocket>, client: SocketAddr, from: Arc<UdpSocket>) -> SocketAddr {
    let mut datagram = vec![0; DATAGRAM_MAX];
    while let Ok(Ok(n)) = tokio::time::timeout(FLOW_IDLE_MAX, from.recv(&mut datagram)).await {
        // A datagram may be lost anywhere.
        let _ = to.send_to(&datagram[..n], client).await;
    }
    client
}
