//! Method by method, over a real listener: who is let in, by certificates of every kind.

use std::{fmt, net::SocketAddr, sync::Arc, time::Duration};

use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _};
use skep_api::{
    ErrorKind, Id, NodeId,
    object::{Node, NodeTls},
    spec::{NodeSpec, Role},
    wire,
};
use skep_link::{
    Answerer, Authority, Identity, issuer_of, new_csr,
    stubs::{
        dispatcher_client::DispatcherClient, join_client::JoinClient, members_client::MembersClient,
        node_ca_client::NodeCaClient, prober_client::ProberClient, prober_server::ProberServer,
    },
};
use skep_store::{Change, FEATURE_LEVEL, View};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
};
use tonic::{
    Code, Request, Status,
    transport::{Channel, Endpoint},
};

use crate::{
    Manager, Rotation,
    rig::{clock, first_manager},
};

const MANAGER: NodeId = NodeId(Id(11));
const WORKER: NodeId = NodeId(Id(12));
const DEMOTED: NodeId = NodeId(Id(13));
const REMOVED: NodeId = NodeId(Id(14));
const DROPPED: NodeId = NodeId(Id(15));

/// What became of a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    /// The method itself answered, with whatever.
    In,
    Denied,
    Anonymous,
    /// There was no connection.
    Out,
}

fn fate(outcome: Result<(), Status>) -> Fate {
    let Err(status) = outcome else { return Fate::In };
    // What the server says has no source; what the connection says has one.
    if std::error::Error::source(&status).is_some() {
        return Fate::Out;
    }
    if status.code() == Code::PermissionDenied {
        Fate::Denied
    } else if status.code() == Code::Unauthenticated {
        Fate::Anonymous
    } else {
        Fate::In
    }
}

struct Swarm {
    manager: Manager,
    identity: Identity,
    addr: SocketAddr,
    root: String,
    authority: Authority,
    cluster: String,
    _closing: watch::Sender<bool>,
    _dir: tempfile::TempDir,
}

impl Swarm {
    async fn start() -> Self {
        let (manager, identity, dir) = first_manager().await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (closing, open) = watch::channel(false);
        // As the daemon serves it beside the manager's own.
        let prober = Answerer::new(&identity.node_id(), open, manager.knows());
        let routes = manager.routes().add_service(ProberServer::new(prober));
        let serving = skep_link::serve(listener, identity.clone(), routes, std::future::pending());
        tokio::spawn(async move { serving.await.unwrap() });
        let shared = manager.control().shared;
        let node = |id, role, raft_id| {
            let spec = NodeSpec { role, ..NodeSpec::default() };
            let advertise_addr = if raft_id == 0 { String::new() } else { "127.0.0.1:2".to_owned() };
            Change::PutNode(Arc::new(Node {
                id,
                spec,
                raft_id,
                advertise_addr,
                feature_level: FEATURE_LEVEL,
                ..Node::default()
            }))
        };
        let nodes = vec![
            node(MANAGER, Role::Manager, 77),
            node(WORKER, Role::Worker, 0),
            node(DEMOTED, Role::Worker, 0),
            Change::PutNode(Arc::new(Node {
                id: DROPPED,
                spec: NodeSpec { role: Role::Manager, ..NodeSpec::default() },
                dropped: true,
                ..Node::default()
            })),
        ];
        shared.write(Vec::new(), nodes).await.unwrap();
        let view = shared.machine.view();
        let cluster = view.cluster().unwrap();
        let authority = Authority::from_pem(&cluster.ca_cert_pem, &cluster.ca_key_pem).unwrap();
        Self {
            manager,
            identity,
            addr,
            root: cluster.ca_cert_pem.clone(),
            authority,
            cluster: cluster.id.to_string(),
            _closing: closing,
            _dir: dir,
        }
    }

    /// A connection with a certificate of this authority, or without one.
    async fn channel(&self, authority: &Authority, who: Option<(NodeId, skep_link::Role, &str)>) -> Channel {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.root.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match who {
            None => builder.with_no_client_auth(),
            Some((node, role, cluster)) => {
                let (csr, key) = new_csr().unwrap();
                let now = clock() / 1_000_000_000;
                let cert = authority.sign_node(&csr, &node.to_string(), role, cluster, now).unwrap();
                let chain = CertificateDer::pem_slice_iter(cert.as_bytes()).collect::<Result<Vec<_>, _>>();
                let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
                builder.with_client_auth_cert(chain.unwrap(), key).unwrap()
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        let (config, addr) = (Arc::new(config), self.addr);
        let connector = tower::service_fn(move |_| {
            let config = config.clone();
            async move {
                let stream = TcpStream::connect(addr).await?;
                let name = ServerName::try_from("swarm-manager").unwrap();
                let tls = tokio_rustls::TlsConnector::from(config).connect(name, stream).await?;
                Ok::<_, std::io::Error>(TokioIo::new(tls))
            }
        });
        Endpoint::from_static("http://swarm-manager").connect_with_connector_lazy(connector)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Method {
    Join,
    Renew,
    Raft,
    Enter,
    Lock,
    Tell,
    Relay,
    Session,
    PublishLogs,
    Stopping,
    Leave,
    Depart,
    Dismiss,
    Probe,
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

async fn call(method: Method, channel: Channel) -> Result<(), Status> {
    let mut dispatcher = DispatcherClient::new(channel.clone());
    let mut members = MembersClient::new(channel.clone());
    match method {
        Method::Join => JoinClient::new(channel).join(wire::JoinRequest::default()).await.map(drop),
        Method::Renew => NodeCaClient::new(channel).renew(wire::RenewRequest::default()).await.map(drop),
        Method::Raft => members.raft(Request::new(tokio_stream::empty())).await.map(drop),
        Method::Enter => {
            let advertise_addr = "127.0.0.1:2".to_owned();
            members
                .enter(wire::EnterRequest { raft_id: 78, advertise_addr, feature_level: FEATURE_LEVEL })
                .await
                .map(drop)
        }
        Method::Lock => members.lock(wire::LockRequest {}).await.map(drop),
        Method::Tell => members.tell(wire::Told::default()).await.map(drop),
        Method::Relay => members.relay(wire::RelayRequest::default()).await.map(drop),
        Method::Session => dispatcher.session(Request::new(tokio_stream::empty())).await.map(drop),
        Method::PublishLogs => dispatcher.publish_logs(Request::new(tokio_stream::empty())).await.map(drop),
        Method::Stopping => dispatcher.stopping(wire::StoppingRequest::default()).await.map(drop),
        Method::Leave => dispatcher.leave(wire::LeaveRequest {}).await.map(drop),
        Method::Probe => ProberClient::new(channel).probe(wire::ProbeRequest::default()).await.map(drop),
        Method::Depart => members.depart(wire::DepartRequest {}).await.map(drop),
        Method::Dismiss => members.dismiss(wire::DismissRequest::default()).await.map(drop),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_is_let_go_hears_no_more_on_a_stream_that_stands() {
    let swarm = Swarm::start().await;
    let who = Some((MANAGER, skep_link::Role::Manager, swarm.cluster.as_str()));
    let (asks, queue) = tokio::sync::mpsc::channel(1);
    let stream = tokio_stream::wrappers::ReceiverStream::new(queue);
    let channel = swarm.channel(&swarm.authority, who).await;
    let mut answers = MembersClient::new(channel).raft(stream).await.unwrap().into_inner();
    let mut codes = Vec::new();
    for number in 1..=2 {
        // Of no member: who may ask hears that.
        asks.send(wire::RaftAsk { number, to: 1, body: Vec::new() }).await.unwrap();
        let answer = answers.message().await.unwrap().unwrap();
        codes.push((answer.number, Code::from_i32(answer.code)));
        let shared = swarm.manager.control().shared;
        shared.write(Vec::new(), vec![Change::DeleteNode(MANAGER)]).await.unwrap();
    }
    assert_eq!(codes, [(1, Code::FailedPrecondition), (2, Code::PermissionDenied)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_method_lets_in_whom_the_store_says() {
    use Fate::{Anonymous, Denied, In, Out};
    let swarm = Swarm::start().await;
    let foreign = Authority::generate(clock() / 1_000_000_000).unwrap();
    let (manager, worker) = (skep_link::Role::Manager, skep_link::Role::Worker);
    let ours = swarm.cluster.as_str();
    let callers = [
        ("a manager", swarm.channel(&swarm.authority, Some((MANAGER, manager, ours))).await),
        ("a worker", swarm.channel(&swarm.authority, Some((WORKER, worker, ours))).await),
        // Their certificates still say manager.
        ("a demoted manager", swarm.channel(&swarm.authority, Some((DEMOTED, manager, ours))).await),
        ("a removed manager", swarm.channel(&swarm.authority, Some((REMOVED, manager, ours))).await),
        ("a dropped manager", swarm.channel(&swarm.authority, Some((DROPPED, manager, ours))).await),
        ("a removed worker", swarm.channel(&swarm.authority, Some((REMOVED, worker, ours))).await),
        ("another root", swarm.channel(&foreign, Some((MANAGER, manager, ours))).await),
        ("another cluster", swarm.channel(&swarm.authority, Some((MANAGER, manager, "other"))).await),
        ("nobody", swarm.channel(&swarm.authority, None).await),
    ];
    let any_node = [In, In, In, Denied, Denied, Denied, Out, Out, Anonymous];
    let managers = [In, Denied, Denied, Denied, Denied, Denied, Out, Out, Anonymous];
    for (method, expected) in [
        (Method::Join, [In, In, In, In, In, In, Out, Out, In]),
        (Method::Renew, any_node),
        (Method::Raft, managers),
        (Method::Enter, managers),
        (Method::Lock, managers),
        (Method::Tell, managers),
        (Method::Relay, managers),
        (Method::Session, any_node),
        (Method::PublishLogs, any_node),
        (Method::Stopping, any_node),
        (Method::Leave, any_node),
        (Method::Dismiss, managers),
        (Method::Depart, any_node),
        (Method::Probe, any_node),
    ] {
        for ((who, channel), expected) in callers.iter().zip(expected) {
            let outcome = call(method, channel.clone()).await;
            assert_eq!(fate(outcome.clone()), expected, "{method} by {who}: {outcome:?}");
        }
    }
    swarm.manager.stop().await;
}

const METHODS: [Method; 14] = [
    Method::Join,
    Method::Renew,
    Method::Raft,
    Method::Enter,
    Method::Lock,
    Method::Tell,
    Method::Relay,
    Method::Session,
    Method::PublishLogs,
    Method::Stopping,
    Method::Leave,
    Method::Depart,
    Method::Dismiss,
    Method::Probe,
];

impl Swarm {
    /// Calls every method with such a certificate; joining is for anybody whom TLS lets in.
    async fn check_all(&self, what: &str, authority: &Authority, node: NodeId, expected: Fate) {
        for role in [skep_link::Role::Manager, skep_link::Role::Worker] {
            for method in
                METHODS.into_iter().filter(|method| *method != Method::Join || expected == Fate::Out)
            {
                let channel = self.channel(authority, Some((node, role, self.cluster.as_str()))).await;
                let outcome = call(method, channel).await;
                assert_eq!(fate(outcome.clone()), expected, "{method} by {what} ({role:?}): {outcome:?}");
            }
        }
    }

    fn view(&self) -> View {
        self.manager.control().stale_view()
    }

    /// All nodes say that their certificates are by this root, and the rotation ends.
    async fn finish_rotation(&mut self, next_root: &str) {
        let control = self.manager.control();
        let (issuer_subject, issuer_public_key) = issuer_of(next_root).unwrap();
        let tls = NodeTls { issuer_subject, issuer_public_key, root_digest: Vec::new() };
        let told = |node: &Arc<Node>| {
            let mut node = Node::clone(node);
            node.description.tls = Some(tls.clone());
            Change::PutNode(Arc::new(node))
        };
        let changes = self.view().nodes().map(told).collect();
        control.shared.write(Vec::new(), changes).await.unwrap();
        let mut changed = control.shared.machine.nodes_changed();
        let ended = async {
            while self.view().cluster().unwrap().ca_rotation.is_some() {
                changed.changed().await.unwrap();
            }
        };
        tokio::time::timeout(Duration::from_secs(20), ended).await.expect("the rotation does not end");
        self.identity.replace(&control.renew_own().await.unwrap());
        self.root = next_root.to_owned();
    }
}

/// Removed by force while it was away: it is not let in again, before, in and after a rotation of the root, by
/// whatever certificate it has come to. Nor is anybody with a certificate of a root that is gone.
#[tokio::test(flavor = "multi_thread")]
async fn who_was_removed_stays_out_across_a_rotation_and_so_does_the_old_root() {
    let mut swarm = Swarm::start().await;
    let control = swarm.manager.control();
    let old = Authority::from_pem(swarm.authority.cert_pem(), swarm.authority.key_pem()).unwrap();
    // The leader gives it addresses meanwhile.
    while let Err(error) = control.remove_node(WORKER, true).await {
        assert_eq!(error.kind, ErrorKind::Aborted, "{error}");
    }
    swarm.check_all("one that was removed", &old, WORKER, Fate::Denied).await;

    let tokens = |view: &View| {
        let cluster = view.cluster().unwrap();
        (cluster.worker_token_secret.clone(), cluster.manager_token_secret.clone())
    };
    let before = tokens(&swarm.view());
    let version = control.view().await.unwrap().cluster().unwrap().meta.version;
    let spec = serde_json::from_value(serde_json::json!({ "CAConfig": { "ForceRotate": 1 } })).unwrap();
    control.update_cluster(version, spec, Rotation::default()).await.unwrap();
    let rotation = swarm.view().cluster().unwrap().ca_rotation.clone().unwrap();
    assert_eq!(tokens(&swarm.view()), before, "tokens name the root that is trusted until the end");
    let next = Authority::from_pem(&rotation.cert_pem, &rotation.key_pem).unwrap();
    swarm.check_all("one that was removed, amid a rotation", &old, WORKER, Fate::Denied).await;
    swarm.check_all("one under the next root alone", &next, MANAGER, Fate::Out).await;
    // One that had renewed before it was removed.
    let renewed = Authority::from_pem(&rotation.cert_pem, &rotation.key_pem).unwrap();
    let renewed = renewed.through(rotation.cross_pem.as_str());
    swarm.check_all("one that was removed, of the next root", &renewed, WORKER, Fate::Denied).await;

    swarm.finish_rotation(&rotation.cert_pem).await;
    let after = tokens(&swarm.view());
    assert!(before.0 != after.0 && before.1 != after.1, "both tokens are new");
    assert_eq!(swarm.view().cluster().unwrap().ca_cert_pem, rotation.cert_pem);
    swarm.check_all("one that was removed, after the rotation", &renewed, WORKER, Fate::Denied).await;
    swarm.check_all("one of the root that is gone", &old, WORKER, Fate::Out).await;
    swarm.check_all("a manager of the root that is gone", &old, MANAGER, Fate::Out).await;
    swarm.manager.stop().await;
}
