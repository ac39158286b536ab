//! Certificates that last for seconds, on a real listener: no connection outlives what it was let in by.

#![expect(clippy::unwrap_used, reason = "a test: what goes wrong in its helpers fails it too")]

use std::{pin::Pin, sync::Arc, time::Duration};

use rustls::pki_types::UnixTime;
use skep_api::{ClusterId, Id, NodeId, wire};
use skep_link::{
    Authority, Identity, Role, connect, dispatcher, new_csr, serve,
    stubs::dispatcher_server::{Dispatcher, DispatcherServer},
};
use tokio::{net::TcpListener, time::timeout};
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming, service::Routes};

/// The shortest lives here, with the 2 s that open calls are given, and a busy machine.
const LIMIT: Duration = Duration::from_secs(15);
const CLUSTER: ClusterId = ClusterId(Id(42));

fn now() -> i64 {
    i64::try_from(UnixTime::now().as_secs()).unwrap()
}

fn identity(authority: &Authority, node: u128, role: Role, root_pem: &str) -> Identity {
    let (csr, key) = new_csr().unwrap();
    let (node, cluster) = (NodeId(Id(node)).to_string(), CLUSTER.to_string());
    let cert = authority.sign_node(&csr, &node, role, &cluster, now()).unwrap();
    Identity::new(cert, key, root_pem).unwrap()
}

fn authority_of(authority: &Authority, life: Duration) -> Authority {
    Authority::from_pem(authority.cert_pem(), authority.key_pem()).unwrap().valid_for(life)
}

/// A session is open until its connection ends.
#[derive(Clone)]
struct Service;

#[tonic::async_trait]
impl Dispatcher for Service {
    type SessionStream = Pin<Box<dyn Stream<Item = Result<wire::ManagerMessage, Status>> + Send>>;

    async fn session(
        &self,
        _: Request<Streaming<wire::AgentMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let first = tokio_stream::once(Ok(wire::ManagerMessage::default()));
        Ok(Response::new(Box::pin(first.chain(tokio_stream::pending()))))
    }

    async fn publish_logs(
        &self,
        _: Request<Streaming<wire::LogBatch>>,
    ) -> Result<Response<wire::LogsDone>, Status> {
        Err(Status::unimplemented("not asked here"))
    }

    async fn leave(&self, _: Request<wire::LeaveRequest>) -> Result<Response<wire::LeaveResponse>, Status> {
        Err(Status::unimplemented("not asked here"))
    }

    async fn stopping(
        &self,
        _: Request<wire::StoppingRequest>,
    ) -> Result<Response<wire::StoppingResponse>, Status> {
        Err(Status::unimplemented("not asked here"))
    }
}

async fn listen(identity: &Identity) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let routes = Routes::new(DispatcherServer::new(Service));
    let identity = identity.clone();
    tokio::spawn(async move { serve(listener, identity, routes, std::future::pending()).await.unwrap() });
    addr
}

async fn session(addr: &str, identity: &Identity) -> Result<Streaming<wire::ManagerMessage>, String> {
    let channel = connect(addr, identity).await.map_err(|error| error.to_string())?;
    let opened = dispatcher(channel).session(tokio_stream::pending()).await;
    let mut session = opened.map_err(|status| status.to_string())?.into_inner();
    session.next().await.ok_or("no word")?.map_err(|status| status.to_string())?;
    Ok(session)
}

/// Waits until it ends.
async fn ended(mut session: Streaming<wire::ManagerMessage>) {
    while let Some(Ok(_)) = timeout(LIMIT, session.next()).await.expect("the session lives on") {}
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_ends_with_the_certificate_of_its_caller_and_begins_anew_with_the_next() {
    let authority = Authority::generate(now()).unwrap();
    let root = authority.cert_pem().to_owned();
    let brief = authority_of(&authority, Duration::from_secs(3));
    let addr = listen(&identity(&authority, 1, Role::Manager, &root)).await;
    let worker = identity(&brief, 7, Role::Worker, &root);
    let first = session(&addr, &worker).await.unwrap();
    let (_, not_after) = worker.validity();
    ended(first).await;
    assert!(now() >= not_after, "it was cut off before its time");
    session(&addr, &worker).await.unwrap_err();

    let mut replaced = worker.replaced();
    worker.replace(&identity(&authority, 7, Role::Worker, &root));
    assert!(replaced.has_changed().unwrap());
    replaced.borrow_and_update();
    session(&addr, &worker).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_ends_with_the_certificate_of_the_listener() {
    let authority = Authority::generate(now()).unwrap();
    let root = authority.cert_pem().to_owned();
    let manager = identity(&authority_of(&authority, Duration::from_secs(3)), 1, Role::Manager, &root);
    let addr = listen(&manager).await;
    let worker = identity(&authority, 7, Role::Worker, &root);
    let first = session(&addr, &worker).await.unwrap();
    // Renewed in time: sessions of before end all the same, and those from then on stay.
    manager.replace(&identity(&authority, 1, Role::Manager, &root));
    let mut second = session(&addr, &worker).await.unwrap();
    ended(first).await;
    let silent = timeout(Duration::from_secs(3), second.next()).await;
    assert!(silent.is_err(), "a session under the new certificate ended too: {silent:?}");
}

/// As the end of a rotation has it: who holds a certificate of the next root stays, who holds one of the old
/// root alone is cut off, and let in no more.
#[tokio::test(flavor = "multi_thread")]
async fn with_the_old_root_go_those_who_hold_nothing_else() {
    let (old, new) = (Authority::generate(now()).unwrap(), Authority::generate(now()).unwrap());
    let (old_root, new_root) = (old.cert_pem().to_owned(), new.cert_pem().to_owned());
    let cross = old.cross_sign(&new_root).unwrap();
    let during = Arc::new(Authority::from_pem(&new_root, new.key_pem()).unwrap().through(cross));
    let manager = identity(&during, 1, Role::Manager, &old_root);
    let addr = listen(&manager).await;
    let stale = identity(&old, 7, Role::Worker, &old_root);
    let followed = identity(&during, 8, Role::Worker, &old_root);
    let first = session(&addr, &stale).await.unwrap();
    let mut second = session(&addr, &followed).await.unwrap();

    manager.replace(&manager.under(&new_root).unwrap());
    ended(first).await;
    session(&addr, &stale).await.unwrap_err();
    let silent = timeout(Duration::from_secs(3), second.next()).await;
    assert!(silent.is_err(), "a node that has followed was cut off: {silent:?}");
    // It has not heard of the end yet, and knows the manager by the certificate between.
    session(&addr, &followed).await.unwrap();
    followed.replace(&followed.under(&new_root).unwrap());
    session(&addr, &followed).await.unwrap();
    assert!(stale.under(&new_root).is_err());
}
