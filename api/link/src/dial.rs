//! Dials managers: with the node's certificate, or for joining with a token.
//!
//! The other end must prove that it is a manager of our cluster; by which address it was reached does not
//! matter, so managers can move. Connecting is bounded in time here; each RPC has its own deadline.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use hyper_util::rt::TokioIo;
use rustls::{AlertDescription, CertificateError, ClientConfig};
use skep_api::{ClusterId, NodeId, wire};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};

use crate::{
    CONNECT_TIMEOUT, CaError, DEFAULT_PORT, Identity, IdentityError, JoinToken, MESSAGE_MAX_BYTES, Peer,
    RPC_DEADLINE, Role, RootDigest,
    greeted::Greeted,
    new_csr, sim,
    stubs::{dispatcher_client::DispatcherClient, join_client::JoinClient},
    subject::Subject,
    tls,
};

/// A manager whose host is gone is noticed after the sum of the two. Any frame from it counts as an answer.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(1);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(2);
/// To a joiner it is not gone so soon: where thousands join at once their managers are late, a join that was broken off
/// leaves a node that nobody is, and its next attempt costs as much again. The caller's time bounds it.
const JOIN_KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// HTTP/2 wants an authority; TLS has checked who is there.
const AUTHORITY: &str = "http://swarm-manager";

/// A manager could not be connected to.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// Not an address.
    #[error("invalid address '{addr}': host:port expected, as in 10.0.0.1:2377")]
    Address {
        /// What was given.
        addr: String,
    },
    /// Nobody answers there.
    #[error("cannot reach a manager at {addr}: {source}")]
    Unreachable {
        /// Where it was tried.
        addr: String,
        /// What the system said.
        source: io::Error,
    },
    /// No answer, or no complete handshake, in time.
    #[error("cannot reach a manager at {addr}: no answer within {limit:?}")]
    Timeout {
        /// Where it was tried.
        addr: String,
        /// How long.
        limit: Duration,
    },
    /// The other end is not a manager of our cluster, or it refuses us.
    #[error("{addr} is not a manager of this swarm, or refuses this node: {reason}")]
    Refused {
        /// Where it was tried.
        addr: String,
        /// What TLS said.
        reason: String,
    },
    /// The other end does not take our certificate: it has expired, or its root is none of the swarm any more.
    #[error("{addr} refuses this node's certificate: {reason}")]
    NotTaken {
        /// Where it was tried.
        addr: String,
        /// What TLS said.
        reason: String,
    },
    /// The root of the other end is not the one that the join token names.
    #[error("remote CA does not match fingerprint. Expected: {expected}")]
    Digest {
        /// From the token.
        expected: RootDigest,
    },
    /// TLS stands, HTTP/2 does not.
    #[error("the connection to {addr} broke")]
    Broken {
        /// Where it was tried.
        addr: String,
        /// What the transport said.
        source: tonic::transport::Error,
    },
}

/// A node could not join.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The manager could not be connected to.
    #[error(transparent)]
    Dial(DialError),
    /// The root of the other end is not the one that the token names.
    #[error("remote CA does not match fingerprint. Expected: {expected}")]
    Digest {
        /// From the token.
        expected: RootDigest,
    },
    /// The manager said no (a wrong secret: `PermissionDenied`), or broke off.
    #[error("{message}")]
    Refused {
        /// The gRPC code.
        code: tonic::Code,
        /// The manager's words.
        message: String,
    },
    /// No answer in the caller's time.
    #[error("{addr} did not answer the request to join within {limit:?}")]
    Timeout {
        /// Where it was tried.
        addr: String,
        /// The caller's time.
        limit: Duration,
    },
    /// The answer does not hold a usable identity.
    #[error("{addr} answered the request to join with an unusable {what}")]
    Answer {
        /// Who answered.
        addr: String,
        /// Which part of the answer.
        what: &'static str,
    },
    /// The certificate that was answered does not fit our key or the root.
    #[error("unusable certificate from the manager")]
    Identity(#[source] IdentityError),
    /// No request could be made.
    #[error("cannot make a certificate signing request")]
    Csr(#[source] CaError),
}

impl JoinError {
    /// Whether the node may be in, and not know it.
    fn is_lost(&self) -> bool {
        let Self::Refused { code, .. } = self else { return false };
        matches!(code, tonic::Code::Unavailable | tonic::Code::Unknown | tonic::Code::Cancelled)
    }
}

impl From<DialError> for JoinError {
    fn from(error: DialError) -> Self {
        if let DialError::Digest { expected } = error { Self::Digest { expected } } else { Self::Dial(error) }
    }
}

/// What a joiner says of itself.
#[derive(Debug, Clone, Default)]
pub struct JoinParams {
    /// Host name, platform and resources.
    pub description: wire::NodeDescription,
    /// Where other nodes send its tasks' traffic; empty: the manager takes the address it sees.
    pub data_path_addr: String,
    /// `active`, `pause`, `drain`, or empty for active.
    pub availability: String,
    /// The highest that its build can, should it become a manager.
    pub feature_level: u32,
}

/// Connects to the manager at `addr` (host:port; port 2377 if none) and checks that it is a manager of
/// our cluster. The channel reconnects by itself when used after a break, with the identity of that
/// time. RPCs have no deadline of their own: see [`unary`].
///
/// A manager that refuses *our* certificate says so here.
///
/// # Errors
/// [`DialError`] with the address, after [`CONNECT_TIMEOUT`] at most.
pub async fn connect(addr: &str, identity: &Identity) -> Result<Channel, DialError> {
    let identity = identity.clone();
    if let Some(dialler) = sim::dialler() {
        return sim::channel(dialler, addr, Some(identity)).await;
    }
    channel(addr, endpoint(), move || identity.client_config()).await
}

/// Whom a dial may find at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whom {
    /// A manager, by its certificate.
    Manager,
    /// Any node.
    Node,
}

/// One connection to the node of our cluster at `addr`, and who it is by its certificate. The channel does
/// not connect again: once it is broken, every RPC on it fails at once.
///
/// # Errors
/// [`DialError`] with the address, after `limit` at most.
pub async fn connect_once(
    addr: &str,
    identity: &Identity,
    whom: Whom,
    limit: Duration,
) -> Result<(Channel, Peer), DialError> {
    if let Some(dialler) = sim::dialler() {
        return sim::connect_once(dialler, addr, identity, whom, limit).await;
    }
    let addr = with_port(addr)?;
    let config = match whom {
        Whom::Manager => identity.client_config(),
        Whom::Node => identity.client_config_of_nodes(),
    };
    let connecting = async {
        let stream = tls_connect(&addr, config, limit).await?;
        let leaf = stream.tls().get_ref().1.peer_certificates().and_then(<[_]>::first);
        let subject = leaf.and_then(|leaf| Subject::of_der(leaf).ok()).ok_or_else(|| DialError::Refused {
            addr: addr.clone(),
            reason: "it showed no certificate".to_owned(),
        })?;
        let peer = Peer { node_id: subject.node_id, role: subject.role, cluster_id: subject.cluster_id };
        let first = Mutex::new(Some(stream));
        let connector = tower::service_fn(move |_| {
            let ready = first.lock().unwrap_or_else(PoisonError::into_inner).take();
            let stream = ready.ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected));
            std::future::ready(stream.map(TokioIo::new))
        });
        let channel = endpoint().connect_with_connector(connector).await;
        channel
            .map(|channel| (channel, peer))
            .map_err(|source| DialError::Broken { addr: addr.clone(), source })
    };
    match timeout(limit, connecting).await {
        Ok(result) => result,
        Err(_) => Err(DialError::Timeout { addr: addr.clone(), limit }),
    }
}

/// The dispatcher's client on a channel of [`connect`], with its message limit set.
#[must_use]
pub fn dispatcher(channel: Channel) -> DispatcherClient<Channel> {
    DispatcherClient::new(channel).max_decoding_message_size(MESSAGE_MAX_BYTES)
}

/// A request with the deadline of a unary RPC.
pub fn unary<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(RPC_DEADLINE);
    request
}

/// What a joiner got.
#[derive(Debug, Clone)]
pub struct Joined {
    /// Its new identity, not saved yet.
    pub identity: Identity,
    /// The id in it.
    pub node_id: NodeId,
    /// The cluster's.
    pub cluster_id: ClusterId,
    /// `host:port` of every manager.
    pub managers: Vec<String>,
}

/// Joins the swarm of the manager at `addr`. What the token granted is the role in the new identity. The
/// token's secret is sent only to a manager under the root that the token names.
///
/// # Errors
/// [`JoinError`]; nothing was changed on this node.
pub async fn join(
    addr: &str,
    token: &JoinToken,
    params: JoinParams,
    limit: Duration,
) -> Result<Joined, JoinError> {
    match timeout(limit, Box::pin(join_unbounded(addr, token, params, limit))).await {
        Ok(result) => result,
        Err(_) => Err(JoinError::Timeout { addr: addr.to_owned(), limit }),
    }
}

async fn join_unbounded(
    addr: &str,
    token: &JoinToken,
    params: JoinParams,
    limit: Duration,
) -> Result<Joined, JoinError> {
    let (csr_pem, key_pem) = new_csr().map_err(JoinError::Csr)?;
    let request = wire::JoinRequest {
        token: token.to_string(),
        csr_pem,
        description: Some(params.description),
        data_path_addr: params.data_path_addr,
        availability: params.availability,
        feature_level: params.feature_level,
    };
    let mut asked = ask(addr, token, request.clone(), limit).await;
    // The swarm knows the same request to a ticket again; to its own tokens it would be another node.
    if token.ticket().is_some() && asked.as_ref().is_err_and(JoinError::is_lost) {
        asked = ask(addr, token, request, limit).await;
    }
    read_answer(addr, token, asked?, key_pem)
}

async fn ask(
    addr: &str,
    token: &JoinToken,
    request: wire::JoinRequest,
    limit: Duration,
) -> Result<wire::JoinResponse, JoinError> {
    let channel = match sim::dialler() {
        Some(dialler) => sim::channel(dialler, addr, None).await?,
        None => {
            let config = Arc::new(tls::join_config(token.digest()));
            let endpoint = endpoint().keep_alive_timeout(JOIN_KEEPALIVE_TIMEOUT);
            channel(addr, endpoint, move || Arc::clone(&config)).await?
        }
    };
    let mut request = tonic::Request::new(request);
    request.set_timeout(limit);
    let answer = JoinClient::new(channel).join(request).await;
    let refused = |status: tonic::Status| JoinError::Refused {
        code: status.code(),
        message: status.message().to_owned(),
    };
    Ok(answer.map_err(refused)?.into_inner())
}

fn read_answer(
    addr: &str,
    token: &JoinToken,
    answer: wire::JoinResponse,
    key_pem: String,
) -> Result<Joined, JoinError> {
    let unusable = |what| JoinError::Answer { addr: addr.to_owned(), what };
    if RootDigest::of_pem(&answer.ca_cert_pem) != token.digest() {
        return Err(JoinError::Digest { expected: token.digest() });
    }
    let node_id = NodeId::from_bytes(&answer.node_id).ok_or_else(|| unusable("node id"))?;
    let cluster_id = ClusterId::from_bytes(&answer.cluster_id).ok_or_else(|| unusable("cluster id"))?;
    let identity = Identity::new(answer.certificate_pem.as_str(), key_pem, answer.ca_cert_pem.as_str())
        .map_err(JoinError::Identity)?;
    if identity.node_id() != node_id.to_string() || identity.cluster_id() != cluster_id.to_string() {
        return Err(unusable("certificate: its names are not the ids of the answer"));
    }
    Ok(Joined { identity, node_id, cluster_id, managers: answer.managers })
}

/// A channel over TLS with the configuration that `config` gives at each connection.
async fn channel(
    addr: &str,
    endpoint: Endpoint,
    config: impl Fn() -> Arc<ClientConfig> + Send + Sync + 'static,
) -> Result<Channel, DialError> {
    let addr = with_port(addr)?;
    // The first connection is made here, so that its failure has its own words; the channel takes it over.
    let first = Mutex::new(Some(tls_connect(&addr, config(), CONNECT_TIMEOUT).await?));
    let shared = Arc::new((addr.clone(), first, config));
    let connector = tower::service_fn(move |_| {
        let shared = Arc::clone(&shared);
        async move {
            let (addr, first, config) = &*shared;
            let ready = first.lock().unwrap_or_else(PoisonError::into_inner).take();
            match ready {
                Some(stream) => Ok(TokioIo::new(stream)),
                None => tls_connect(addr, config(), CONNECT_TIMEOUT).await.map(TokioIo::new),
            }
        }
    });
    endpoint.connect_with_connector(connector).await.map_err(|source| DialError::Broken { addr, source })
}

pub(crate) fn endpoint() -> Endpoint {
    Endpoint::from_static(AUTHORITY)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
}

async fn tls_connect(addr: &str, config: Arc<ClientConfig>, limit: Duration) -> Result<Greeted, DialError> {
    let connecting = async {
        let unreachable = |source| DialError::Unreachable { addr: addr.to_owned(), source };
        let stream = TcpStream::connect(addr).await.map_err(unreachable)?;
        stream.set_nodelay(true).map_err(unreachable)?;
        let stream = TlsConnector::from(config)
            .connect(tls::server_name(Role::Manager), stream)
            .await
            .map_err(|error| tls_error(addr, &error))?;
        Greeted::wait(stream).await.map_err(|error| tls_error(addr, &error))
    };
    match timeout(limit, connecting).await {
        Ok(result) => result,
        Err(_) => Err(DialError::Timeout { addr: addr.to_owned(), limit }),
    }
}

fn tls_error(addr: &str, error: &io::Error) -> DialError {
    let refused = |reason: String| DialError::Refused { addr: addr.to_owned(), reason };
    let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
        return refused(error.to_string());
    };
    // Our own verifiers' reasons come wrapped twice.
    if let rustls::Error::InvalidCertificate(CertificateError::Other(other)) = tls {
        return match other.0.downcast_ref::<tls::DigestMismatch>() {
            Some(mismatch) => DialError::Digest { expected: mismatch.expected },
            None => refused(other.0.to_string()),
        };
    }
    let is_not_taken = matches!(
        tls,
        rustls::Error::AlertReceived(
            AlertDescription::BadCertificate
                | AlertDescription::CertificateExpired
                | AlertDescription::CertificateUnknown
                | AlertDescription::DecryptError
                | AlertDescription::UnknownCA
        )
    );
    if is_not_taken {
        return DialError::NotTaken { addr: addr.to_owned(), reason: tls.to_string() };
    }
    refused(tls.to_string())
}

/// `addr` with a port: Swarm's own if it names none.
pub(crate) fn with_port(addr: &str) -> Result<String, DialError> {
    let invalid = || DialError::Address { addr: addr.to_owned() };
    if let Ok(ip) = addr.parse::<IpAddr>() {
        return Ok(SocketAddr::new(ip, DEFAULT_PORT).to_string());
    }
    let (host, port) = match addr.rsplit_once(':') {
        Some((host, port)) => (host, port.parse().map_err(|_| invalid())?),
        None => (addr, DEFAULT_PORT),
    };
    let bracketed = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let is_host = match bracketed {
        Some(ip) => ip.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv6()),
        None => {
            !host.is_empty()
                && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
        }
    };
    if port == 0 || !is_host {
        return Err(invalid());
    }
    Ok(format!("{host}:{port}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_get_a_port_or_are_refused() {
        for (addr, expect) in [
            ("10.0.0.1", "10.0.0.1:2377"),
            ("10.0.0.1:9", "10.0.0.1:9"),
            ("manager-1.example", "manager-1.example:2377"),
            ("fd00::1", "[fd00::1]:2377"),
            ("[fd00::1]:9", "[fd00::1]:9"),
        ] {
            assert_eq!(with_port(addr).unwrap(), expect);
        }
        for addr in ["", ":2377", "a:", "a:0", "a:65536", "a b:1", "http://a:1", "fd00::g:1", "[10.0.0.1]:1"]
        {
            assert!(matches!(with_port(addr), Err(DialError::Address { .. })), "{addr}");
        }
    }
}
