//! What a new certificate and a new root do to a session.

use super::*;

#[tokio::test]
async fn a_new_certificate_is_a_new_session_before_the_old_one_ends_and_a_new_root_is_a_word() {
    let mut stage = Stage::new().await;
    let agent = stage.agent().await;
    let (first, hello) = stage.talk().await;
    let root = |description: Option<wire::NodeDescription>| description.unwrap().tls.unwrap().root_digest;
    let old_root = stage.worker.tls().root_digest;
    assert_eq!(root(hello.description), old_root);
    first.welcome(1000).await;
    let (mut trust, mut wanted) = (agent.trust(), agent.renewals_wanted());
    let told = wire::Trust { ca_cert_pem: "next".into(), cert_expiry_secs: 3600 };
    first.say(Message::Trust(told)).await;
    timeout(LIMIT, trust.changed()).await.unwrap().unwrap();
    let expect = Trust { root_pem: "next".into(), cert_expiry_secs: 3600 };
    assert_eq!(*trust.borrow_and_update(), Some(expect));
    first.say(Message::RenewWanted(wire::RenewWanted {})).await;
    timeout(LIMIT, wanted.changed()).await.unwrap().unwrap();

    // Of the next root, which nodes do not trust yet.
    let now = unix_now();
    let next = Authority::generate(now).unwrap();
    let cross = stage.authority.cross_sign(next.cert_pem()).unwrap();
    let next = next.through(cross);
    let (csr, key) = new_csr().unwrap();
    let (node, cluster) = (WORKER.to_string(), ClusterId(Id(42)).to_string());
    let chain = next.sign_node(&csr, &node, Role::Worker, &cluster, now).unwrap();
    stage.worker.replace(&Identity::new(chain, key, stage.authority.cert_pem()).unwrap());
    let (mut second, hello) = stage.talk().await;
    assert!(!first.outgoing.is_closed(), "the managers would see a gap");
    assert_eq!(root(hello.description), old_root);
    second.welcome(1000).await;
    first.ends_by_the_agent().await;

    stage.worker.replace(&stage.worker.under(next.cert_pem()).unwrap());
    let described = loop {
        match second.hear().await.unwrap() {
            Out::Description(description) => break description,
            Out::Hello(_) | Out::Beat(_) | Out::Statuses(_) | Out::ProbeAnswer(_) => {}
        }
    };
    assert_eq!(described.hostname, "n1");
    assert_eq!(root(Some(described)), next.digest().0);
    assert!(stage.talks.try_recv().is_err(), "all nodes get the root at once: none begins anew");
}
