//! Two ends in one process over real sockets: who gets in, as whom, and in which words others are refused.

#![expect(clippy::unwrap_used, reason = "a test: what goes wrong in its helpers fails it too")]

use std::{net::SocketAddr, pin::Pin, sync::Arc, time::Duration};

use rustls::pki_types::UnixTime;
use skep_api::{ClusterId, Id, NodeId, wire};
use skep_link::{
    Authority, DialError, Identity, JoinError, JoinParams, JoinToken, Joined, MESSAGE_MAX_BYTES, Peer, Role,
    SharedRoutes, Whom, connect, connect_once, dispatcher, join, new_csr, peer, remote_addr, serve,
    stubs::{
        dispatcher_server::{Dispatcher, DispatcherServer},
        join_client::JoinClient,
        join_server::{Join, JoinServer},
    },
    unary,
};
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle, time::timeout};
use tokio_stream::{Stream, StreamExt, wrappers::ReceiverStream};
use tonic::{Code, Request, Response, Status, Streaming, service::Routes};

const LIMIT: Duration = Duration::from_secs(5);
const NODE: NodeId = NodeId(Id(7));
const CLUSTER: ClusterId = ClusterId(Id(42));
const NO_TOKEN: &str = "A valid join token is necessary to join this cluster";

fn now() -> i64 {
    i64::try_from(UnixTime::now().as_secs()).unwrap()
}

fn identity_of(authority: &Authority, node_id: NodeId, role: Role, cluster_id: ClusterId) -> Identity {
    let (csr, key) = new_csr().unwrap();
    let names = (node_id.to_string(), cluster_id.to_string());
    let cert = authority.sign_node(&csr, &names.0, role, &names.1, now()).unwrap();
    Identity::new(cert, key, authority.cert_pem()).unwrap()
}

/// A manager that knows one token, and answers who it thinks calls.
struct Manager {
    authority: Arc<Authority>,
    token: JoinToken,
}

#[derive(Clone)]
struct Service(Arc<Manager>);

#[tonic::async_trait]
impl Join for Service {
    async fn join(
        &self,
        request: Request<wire::JoinRequest>,
    ) -> Result<Response<wire::JoinResponse>, Status> {
        assert_eq!(peer(&request), None, "a joiner has no certificate");
        assert!(remote_addr(&request).unwrap().ip().is_loopback());
        let request = request.into_inner();
        if !JoinToken::parse(&request.token).is_ok_and(|token| token.has_secret(self.0.token.secret())) {
            return Err(Status::permission_denied(NO_TOKEN));
        }
        assert_eq!(request.description.unwrap().hostname, "joiner");
        let (node, cluster) = (NODE.to_string(), CLUSTER.to_string());
        let certificate_pem = self
            .0
            .authority
            .sign_node(&request.csr_pem, &node, Role::Worker, &cluster, now())
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        Ok(Response::new(wire::JoinResponse {
            node_id: NODE.to_bytes(),
            certificate_pem,
            ca_cert_pem: self.0.authority.cert_pem().to_owned(),
            cluster_id: CLUSTER.to_bytes(),
            ..wire::JoinResponse::default()
        }))
    }
}

#[tonic::async_trait]
impl Dispatcher for Service {
    type SessionStream = Pin<Box<dyn Stream<Item = Result<wire::ManagerMessage, Status>> + Send>>;

    /// Welcomes the peer by the name in its certificate, then answers each report.
    async fn session(
        &self,
        request: Request<Streaming<wire::AgentMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let peer = peer(&request).ok_or_else(|| Status::unauthenticated("no certificate"))?;
        let welcome = wire::Welcome { managers: vec![peer.node_id], ..Default::default() };
        let answers = request.into_inner().map(move |message| {
            let answer = match message?.message {
                Some(wire::agent_message::Message::Hello(_)) => {
                    wire::manager_message::Message::Welcome(welcome.clone())
                }
                _ => return Err(Status::invalid_argument("hello expected")),
            };
            Ok(wire::ManagerMessage { message: Some(answer) })
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn publish_logs(
        &self,
        request: Request<Streaming<wire::LogBatch>>,
    ) -> Result<Response<wire::LogsDone>, Status> {
        let mut batches = request.into_inner();
        while batches.next().await.transpose()?.is_some() {}
        Ok(Response::new(wire::LogsDone {}))
    }

    async fn leave(
        &self,
        request: Request<wire::LeaveRequest>,
    ) -> Result<Response<wire::LeaveResponse>, Status> {
        let expect = Peer { node_id: NODE.to_string(), role: Role::Worker, cluster_id: CLUSTER.to_string() };
        match peer(&request) {
            Some(peer) if peer == expect => Ok(Response::new(wire::LeaveResponse {})),
            Some(peer) => Err(Status::permission_denied(format!("{peer:?}"))),
            None => Err(Status::unauthenticated("no certificate")),
        }
    }

    async fn stopping(
        &self,
        _: Request<wire::StoppingRequest>,
    ) -> Result<Response<wire::StoppingResponse>, Status> {
        Err(Status::unimplemented("not asked here"))
    }
}

struct Cluster {
    authority: Arc<Authority>,
    token: JoinToken,
    /// The serving manager's own, shared with it.
    manager: Identity,
    socket: SocketAddr,
    addr: String,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<()>,
}

impl Cluster {
    async fn start() -> Self {
        Self::start_as(Role::Manager, "127.0.0.1:0").await
    }

    async fn start_as(role: Role, listen: &str) -> Self {
        let authority = Arc::new(Authority::generate(now()).unwrap());
        let token = JoinToken::new(authority.cert_pem(), &JoinToken::generate_secret());
        let manager = identity_of(&authority, NodeId(Id(1)), role, CLUSTER);
        Self::start_with(authority, token, manager, listen).await
    }

    async fn start_with(
        authority: Arc<Authority>,
        token: JoinToken,
        manager: Identity,
        listen: &str,
    ) -> Self {
        let service = Service(Arc::new(Manager { authority: Arc::clone(&authority), token: token.clone() }));
        let routes = Routes::new(JoinServer::new(service.clone()))
            .add_service(DispatcherServer::new(service).max_decoding_message_size(MESSAGE_MAX_BYTES));
        let listener = TcpListener::bind(listen).await.unwrap();
        let socket = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let identity = manager.clone();
        let serving = tokio::spawn(async move {
            let stopped = async { stopped.await.unwrap_or(()) };
            serve(listener, identity, routes, stopped).await.unwrap();
        });
        let addr = socket.to_string();
        Self { authority, token, manager, socket, addr, stop, serving }
    }

    async fn join(&self, token: &JoinToken) -> Result<Joined, JoinError> {
        let description = wire::NodeDescription { hostname: "joiner".to_owned(), ..Default::default() };
        let params = JoinParams { description, ..Default::default() };
        join(&self.addr, token, params, LIMIT).await
    }

    async fn leave(&self, identity: &Identity) -> Result<(), Status> {
        let channel = connect(&self.addr, identity).await.unwrap();
        dispatcher(channel).leave(unary(wire::LeaveRequest {})).await.map(|_| ())
    }
}

#[tokio::test]
async fn a_joiner_becomes_a_worker_with_a_session() {
    let cluster = Cluster::start().await;
    let Joined { identity, node_id, cluster_id, .. } = cluster.join(&cluster.token).await.unwrap();
    assert_eq!((node_id, cluster_id), (NODE, CLUSTER));
    assert_eq!((identity.node_id(), identity.role()), (NODE.to_string(), Role::Worker));
    cluster.leave(&identity).await.unwrap();

    let (send, receive) = tokio::sync::mpsc::channel(1);
    let mut client = dispatcher(connect(&cluster.addr, &identity).await.unwrap());
    let mut session = client.session(ReceiverStream::new(receive)).await.unwrap().into_inner();
    let hello = wire::agent_message::Message::Hello(wire::Hello::default());
    send.send(wire::AgentMessage { message: Some(hello) }).await.unwrap();
    let answer = session.next().await.unwrap().unwrap().message.unwrap();
    let wire::manager_message::Message::Welcome(welcome) = answer else { panic!("{answer:?}") };
    assert_eq!(welcome.managers, [NODE.to_string()]);

    // A session does not hold up the end of the listener, and learns of it.
    cluster.stop.send(()).unwrap();
    timeout(LIMIT, cluster.serving).await.unwrap().unwrap();
    assert!(!matches!(timeout(LIMIT, session.next()).await.unwrap(), Some(Ok(_))));
}

#[tokio::test]
async fn a_wrong_secret_and_a_wrong_digest_are_refused_in_swarms_words() {
    let cluster = Cluster::start().await;
    let wrong_secret = JoinToken::new(cluster.authority.cert_pem(), &JoinToken::generate_secret());
    let error = cluster.join(&wrong_secret).await.unwrap_err();
    assert!(matches!(&error, JoinError::Refused { code: Code::PermissionDenied, .. }), "{error:?}");
    assert_eq!(error.to_string(), NO_TOKEN);

    let other = Authority::generate(now()).unwrap();
    let wrong_digest = JoinToken::new(other.cert_pem(), cluster.token.secret());
    let error = cluster.join(&wrong_digest).await.unwrap_err();
    assert!(matches!(error, JoinError::Digest { .. }), "{error:?}");
    assert_eq!(
        error.to_string(),
        format!("remote CA does not match fingerprint. Expected: {}", other.digest())
    );
}

#[tokio::test]
async fn a_worker_cannot_pose_as_a_manager() {
    let cluster = Cluster::start_as(Role::Worker, "127.0.0.1:0").await;
    let error = cluster.join(&cluster.token).await.unwrap_err();
    assert!(matches!(error, JoinError::Dial(DialError::Refused { .. })), "{error:?}");
    let worker = identity_of(&cluster.authority, NODE, Role::Worker, CLUSTER);
    let error = connect(&cluster.addr, &worker).await.unwrap_err();
    assert!(matches!(error, DialError::Refused { .. }), "{error:?}");
}

#[tokio::test]
async fn without_a_certificate_a_request_has_no_peer() {
    let cluster = Cluster::start().await;
    let stream = raw_tls(&cluster, None).await.unwrap();
    let channel = channel_over(stream).await;
    let status = dispatcher(channel.clone()).leave(unary(wire::LeaveRequest {})).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
    let status = JoinClient::new(channel).join(unary(wire::JoinRequest::default())).await.unwrap_err();
    assert_eq!(status.message(), NO_TOKEN);
}

#[tokio::test]
async fn certificates_of_others_are_refused_on_both_sides() {
    let cluster = Cluster::start().await;
    let foreign = Authority::generate(now()).unwrap();
    let stranger = identity_of(&foreign, NODE, Role::Worker, CLUSTER);
    let error = connect(&cluster.addr, &stranger).await.unwrap_err();
    assert!(matches!(error, DialError::Refused { .. }), "{error:?}");

    // A client that believes the server, but whose certificate is of another CA.
    let (csr, key) = new_csr().unwrap();
    let cert = foreign.sign_node(&csr, "x", Role::Manager, &CLUSTER.to_string(), now()).unwrap();
    let outcome = match raw_tls(&cluster, Some((&cert, &key))).await {
        // TLS 1.3 tells the client only when it first reads.
        Ok(stream) => dispatcher(channel_over(stream).await).leave(unary(wire::LeaveRequest {})).await,
        Err(error) => panic!("the handshake itself fails only in TLS 1.2: {error}"),
    };
    let status = outcome.unwrap_err();
    assert!(!matches!(status.code(), Code::PermissionDenied | Code::Unauthenticated), "{status:?}");

    // The same root, another cluster.
    let other = identity_of(&cluster.authority, NODE, Role::Worker, ClusterId(Id(1)));
    let error = connect(&cluster.addr, &other).await.unwrap_err();
    assert!(matches!(error, DialError::Refused { .. }), "{error:?}");
    // Its neighbours are served on.
    let worker = identity_of(&cluster.authority, NODE, Role::Worker, CLUSTER);
    cluster.leave(&worker).await.unwrap();
}

#[tokio::test]
async fn new_connections_use_replaced_identities() {
    let cluster = Cluster::start().await;
    let worker = identity_of(&cluster.authority, NODE, Role::Worker, CLUSTER);
    let held = worker.clone();
    worker.replace(&identity_of(&cluster.authority, NodeId(Id(8)), Role::Worker, CLUSTER));
    let status = cluster.leave(&held).await.unwrap_err();
    assert!(status.message().contains(&NodeId(Id(8)).to_string()), "{status:?}");

    // A demoted manager that was given a worker's certificate is no manager to new connections.
    cluster.manager.replace(&identity_of(&cluster.authority, NodeId(Id(1)), Role::Worker, CLUSTER));
    assert!(matches!(connect(&cluster.addr, &held).await, Err(DialError::Refused { .. })));
}

#[tokio::test]
async fn any_node_is_dialled_once_and_named() {
    let cluster = Cluster::start_as(Role::Worker, "127.0.0.1:0").await;
    let worker = identity_of(&cluster.authority, NODE, Role::Worker, CLUSTER);
    let (channel, peer) = connect_once(&cluster.addr, &worker, Whom::Node, LIMIT).await.unwrap();
    assert_eq!((peer.node_id, peer.role), (NodeId(Id(1)).to_string(), Role::Worker));
    dispatcher(channel.clone()).leave(unary(wire::LeaveRequest {})).await.unwrap();
    let refused = connect_once(&cluster.addr, &worker, Whom::Manager, LIMIT).await.unwrap_err();
    assert!(matches!(refused, DialError::Refused { .. }), "{refused:?}");

    // It does not come back by itself.
    let Cluster { authority, token, manager, addr, stop, serving, .. } = cluster;
    stop.send(()).unwrap();
    timeout(LIMIT, serving).await.unwrap().unwrap();
    let _again = Cluster::start_with(authority, token, manager, &addr).await;
    for _ in 0..2 {
        let mut client = dispatcher(channel.clone());
        let ended = timeout(LIMIT, client.leave(unary(wire::LeaveRequest {}))).await.unwrap();
        assert!(ended.is_err());
    }

    let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = mute.local_addr().unwrap().to_string();
    let limit = Duration::from_millis(200);
    let error = connect_once(&addr, &worker, Whom::Node, limit).await.unwrap_err();
    assert!(matches!(error, DialError::Timeout { .. }), "{error:?}");
}

#[tokio::test]
async fn routes_change_under_open_connections() {
    let cluster = Cluster::start().await;
    let worker = identity_of(&cluster.authority, NODE, Role::Worker, CLUSTER);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let service =
        Service(Arc::new(Manager { authority: cluster.authority.clone(), token: cluster.token.clone() }));
    let routes = SharedRoutes::from(Routes::new(JoinServer::new(service.clone())));
    let serving = serve(listener, cluster.manager.clone(), routes.clone(), std::future::pending());
    let serving = tokio::spawn(async move { serving.await.unwrap() });
    let mut client = dispatcher(connect(&addr, &worker).await.unwrap());
    let status = client.leave(unary(wire::LeaveRequest {})).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
    routes.set(Routes::new(DispatcherServer::new(service)));
    client.leave(unary(wire::LeaveRequest {})).await.unwrap();
    serving.abort();
}

#[tokio::test]
async fn a_channel_outlives_a_restart_of_its_manager() {
    let cluster = Cluster::start().await;
    let worker = identity_of(&cluster.authority, NODE, Role::Worker, CLUSTER);
    let mut client = dispatcher(connect(&cluster.addr, &worker).await.unwrap());
    client.leave(unary(wire::LeaveRequest {})).await.unwrap();
    let Cluster { authority, token, manager, addr, stop, serving, .. } = cluster;
    stop.send(()).unwrap();
    timeout(LIMIT, serving).await.unwrap().unwrap();
    let _again = Cluster::start_with(authority, token, manager, &addr).await;
    let reconnected = async { while client.leave(unary(wire::LeaveRequest {})).await.is_err() {} };
    timeout(LIMIT, reconnected).await.unwrap();
}

#[tokio::test]
async fn an_unreachable_manager_is_named() {
    let cluster = Cluster::start().await;
    let worker = identity_of(&cluster.authority, NODE, Role::Worker, CLUSTER);
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = free.local_addr().unwrap().to_string();
    drop(free);
    let error = connect(&addr, &worker).await.unwrap_err();
    assert!(error.to_string().starts_with(&format!("cannot reach a manager at {addr}: ")), "{error}");
    let error = join(&addr, &cluster.token, JoinParams::default(), LIMIT).await.unwrap_err();
    assert!(error.to_string().starts_with(&format!("cannot reach a manager at {addr}: ")), "{error}");

    // Listens and says nothing.
    let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = mute.local_addr().unwrap().to_string();
    let limit = Duration::from_millis(200);
    let error = join(&addr, &cluster.token, JoinParams::default(), limit).await.unwrap_err();
    assert!(matches!(error, JoinError::Timeout { .. }), "{error:?}");
}

#[tokio::test]
async fn a_mute_client_is_closed_and_others_are_served() {
    use tokio::io::AsyncReadExt;

    let cluster = Cluster::start().await;
    let mut mute = tokio::net::TcpStream::connect(cluster.socket).await.unwrap();
    let worker = identity_of(&cluster.authority, NODE, Role::Worker, CLUSTER);
    cluster.leave(&worker).await.unwrap();
    let closed = timeout(Duration::from_secs(8), mute.read(&mut [0; 1])).await.unwrap();
    assert!(matches!(closed, Ok(0) | Err(_)), "{closed:?}");
}

type ClientStream = tokio_rustls::client::TlsStream<tokio::net::TcpStream>;

/// A plain TLS client that believes the cluster's root, with the given certificate and key or none.
async fn raw_tls(cluster: &Cluster, own: Option<(&str, &str)>) -> std::io::Result<ClientStream> {
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};

    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(cluster.authority.cert_pem().as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match own {
        None => builder.with_no_client_auth(),
        Some((cert, key)) => {
            let cert = CertificateDer::from_pem_slice(cert.as_bytes()).unwrap();
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
            builder.with_client_auth_cert(vec![cert], key).unwrap()
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    let stream = tokio::net::TcpStream::connect(cluster.socket).await?;
    let name = ServerName::try_from("swarm-manager").unwrap();
    tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

async fn channel_over(stream: ClientStream) -> tonic::transport::Channel {
    let mut stream = Some(hyper_util::rt::TokioIo::new(stream));
    let connector = tower::service_fn(move |_| {
        let stream = stream.take().ok_or_else(|| std::io::Error::other("one connection only"));
        async move { stream }
    });
    tonic::transport::Endpoint::from_static("http://test").connect_with_connector(connector).await.unwrap()
}
