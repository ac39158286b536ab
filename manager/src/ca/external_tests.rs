//! An external CA that speaks cfssl's protocol, over real TLS in which both sides show certificates.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use rcgen::{BasicConstraints, CertificateSigningRequestParams, IsCa, Issuer, KeyPair};
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
};
use serde_json::{Value, json};
use skep_api::{ApiError, object::NodeTls, spec::SwarmSpec};
use skep_link::{Authority, Role, issuer_of, new_csr};
use skep_store::{Change, View};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

use crate::{
    Control, Rotation,
    rig::{clock, first_manager},
};

fn now() -> i64 {
    clock() / 1_000_000_000
}

/// A CA that is reached at `https://localhost`, and how often it signed.
struct Cfssl {
    url: String,
    n_signed: Arc<AtomicUsize>,
}

impl Cfssl {
    /// With the key of this root; its own callers are under `callers` (PEM).
    async fn start(authority: &Authority, callers: &[&str]) -> Self {
        let mut roots = RootCertStore::empty();
        for pem in callers {
            roots.add(CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()).unwrap();
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
        let (csr, key) = new_csr().unwrap();
        let own = authority.sign_node(&csr, "localhost", Role::Worker, "ca", now()).unwrap();
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier.build().unwrap())
            .with_single_cert(
                vec![CertificateDer::from_pem_slice(own.as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
            )
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://localhost:{}/api/v1/cfssl/sign", listener.local_addr().unwrap().port());
        let n_signed = Arc::new(AtomicUsize::new(0));
        let signing = Arc::new((
            Authority::from_pem(authority.cert_pem(), authority.key_pem())
                .unwrap()
                .valid_for(Duration::from_secs(7 * 3600)),
            authority.cert_pem().to_owned(),
            authority.key_pem().to_owned(),
        ));
        let counter = n_signed.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, signing, counter) = (acceptor.clone(), signing.clone(), counter.clone());
                tokio::spawn(async move {
                    let Ok(mut stream) = acceptor.accept(stream).await else { return };
                    let Some(request) = read_request(&mut stream).await else { return };
                    let answer = match answer(&request, &signing.0, &signing.1, &signing.2) {
                        Some(certificate) => {
                            counter.fetch_add(1, Ordering::Relaxed);
                            json!({ "success": true, "result": { "certificate": certificate }, "errors": [] })
                        }
                        None => {
                            json!({ "success": false, "errors": [{ "code": 9002, "message": "bad request" }] })
                        }
                    }
                    .to_string();
                    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", answer.len());
                    stream.write_all(format!("{head}{answer}").as_bytes()).await.unwrap_or_default();
                    stream.shutdown().await.unwrap_or_default();
                });
            }
        });
        Self { url, n_signed }
    }

    fn n_signed(&self) -> usize {
        self.n_signed.load(Ordering::Relaxed)
    }
}

async fn read_request(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> Option<Value> {
    let mut bytes = Vec::new();
    loop {
        let n = stream.read_buf(&mut bytes).await.ok().filter(|n| *n > 0)?;
        assert!(n > 0);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| {
            let (key, value) = line.split_once(": ")?;
            key.eq_ignore_ascii_case("content-length").then(|| value.parse::<usize>().ok())?
        });
        if body.len() >= length? {
            return serde_json::from_str(body).ok();
        }
    }
}

/// As cfssl: names from the request's fields, and a CA's certificate under the profile for that.
fn answer(request: &Value, authority: &Authority, cert: &str, key: &str) -> Option<String> {
    let csr = request["certificate_request"].as_str()?;
    if request["profile"] == "CA" {
        let mut params = CertificateSigningRequestParams::from_pem(csr).ok()?;
        params.params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
        params.params.not_after = params.params.not_before + Duration::from_secs(20 * 365 * 86_400 * 3);
        assert_eq!(request["extensions"][0]["id"], "2.5.29.19");
        let issuer = Issuer::from_ca_cert_pem(cert, KeyPair::from_pem(key).ok()?).ok()?;
        return Some(params.signed_by(&issuer).ok()?.pem());
    }
    let name = &request["subject"]["names"][0];
    let role = match name["OU"].as_str()? {
        "swarm-manager" => Role::Manager,
        _ => Role::Worker,
    };
    assert_eq!(request["hosts"], json!([role.unit(), request["subject"]["CN"]]));
    authority.sign_node(csr, request["subject"]["CN"].as_str()?, role, name["O"].as_str()?, now()).ok()
}

async fn update(control: &Control, ca_config: Value) -> Result<(), ApiError> {
    let version = control.view().await.unwrap().cluster().unwrap().meta.version;
    let spec: SwarmSpec = serde_json::from_value(json!({ "CAConfig": ca_config })).unwrap();
    control.update_cluster(version, spec, Rotation::default()).await
}

fn root(view: &View) -> Authority {
    let cluster = view.cluster().unwrap();
    Authority::from_pem(&cluster.ca_cert_pem, &cluster.ca_key_pem).unwrap()
}

/// The only node follows, as its daemon would.
async fn follow(control: &Control) {
    let identity = &control.shared.identity;
    let renewed = control.renew_own().await.unwrap();
    identity.replace(&renewed);
    let tls: NodeTls = identity.tls();
    let mut node = control.stale_view().node(control.node_id()).unwrap().as_ref().clone();
    node.description.tls = Some(tls);
    control.shared.write(Vec::new(), vec![Change::PutNode(Arc::new(node))]).await.unwrap();
    let mut changed = control.shared.machine.nodes_changed();
    let ended = async {
        while control.stale_view().cluster().unwrap().ca_rotation.is_some() {
            changed.changed().await.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(20), ended).await.expect("the rotation does not end");
    let root_pem = control.stale_view().cluster().unwrap().ca_cert_pem.clone();
    identity.replace(&identity.under(&root_pem).unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_external_ca_signs_for_the_root_whose_key_it_has() {
    let (manager, identity, _dir) = first_manager().await;
    let control = manager.control();
    let own = root(&control.stale_view());
    let cfssl = Cfssl::start(&own, &[own.cert_pem()]).await;
    let external = |url: &str| json!({ "ExternalCAs": [{ "Protocol": "cfssl", "URL": url }] });
    update(&control, external(&cfssl.url)).await.unwrap();
    let renewed = control.renew_own().await.unwrap();
    let (from, to) = renewed.validity();
    assert_eq!((cfssl.n_signed(), to - from), (1, 8 * 3600), "its figure, not the swarm's");
    assert_eq!(renewed.node_id(), identity.node_id());

    // One that cannot be reached, or is not under the root, signs nothing; nor do we in its place.
    let foreign = Authority::generate(now()).unwrap();
    let stranger = Cfssl::start(&foreign, &[own.cert_pem()]).await;
    for url in ["https://localhost:1/sign", stranger.url.as_str()] {
        update(&control, external(url)).await.unwrap();
        let error = control.renew_own().await.unwrap_err().to_string();
        assert!(error.contains("failed to sign CSR") && error.contains(url), "{error}");
    }
    // The next one in the list is asked.
    let two = json!({ "ExternalCAs": [
        { "Protocol": "cfssl", "URL": "https://localhost:1/sign" }, { "Protocol": "CFSSL", "URL": cfssl.url },
    ] });
    update(&control, two).await.unwrap();
    control.renew_own().await.unwrap();
    assert_eq!((cfssl.n_signed(), stranger.n_signed()), (2, 0));
    manager.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_root_goes_to_an_external_ca_and_comes_back() {
    let (manager, identity, _dir) = first_manager().await;
    let control = manager.control();
    let own = root(&control.stale_view());
    let theirs = Authority::generate(now()).unwrap();
    let cfssl = Cfssl::start(&theirs, &[own.cert_pem(), theirs.cert_pem()]).await;
    let rotate = |url: &str| {
        let external = [json!({ "Protocol": "cfssl", "URL": url, "CACert": theirs.cert_pem() })];
        json!({ "SigningCACert": theirs.cert_pem(), "ExternalCAs": external })
    };
    let error = update(&control, rotate("https://localhost:1/sign")).await.unwrap_err();
    assert!(error.message.contains("corresponding to the desired CA certificate"), "{error}");
    assert!(control.stale_view().cluster().unwrap().ca_rotation.is_none());

    update(&control, rotate(&cfssl.url)).await.unwrap();
    assert_eq!(identity.root_pem(), own.cert_pem());
    follow(&control).await;
    let cluster = control.stale_view().cluster().unwrap().clone();
    assert_eq!((cluster.ca_cert_pem.as_str(), cluster.ca_key_pem.as_str()), (theirs.cert_pem(), ""));
    assert_eq!(identity.tls().issuer_public_key, issuer_of(theirs.cert_pem()).unwrap().1);
    assert!(cfssl.n_signed() > 0);

    // Back to a root of its own: the external CA signs that one.
    update(&control, json!({ "ForceRotate": 1 })).await.unwrap();
    let rotation = control.stale_view().cluster().unwrap().ca_rotation.clone().unwrap();
    assert!(!rotation.key_pem.is_empty());
    let n_before = cfssl.n_signed();
    follow(&control).await;
    assert_eq!(cfssl.n_signed(), n_before, "the next root's key is in the state");
    let cluster = control.stale_view().cluster().unwrap().clone();
    assert_eq!((&cluster.ca_cert_pem, &cluster.ca_key_pem), (&rotation.cert_pem, &rotation.key_pem));
    manager.stop().await;
}
