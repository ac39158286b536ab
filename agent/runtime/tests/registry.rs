//! Pulls from a real registry: plain, with a password, with a CA of its own; and from one that lies.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[path = "support/lab.rs"]
mod lab;
#[path = "support/registry.rs"]
mod registry;

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use lab::{File, LIMIT, Lab, busybox_tar, gzip, image_config, lab, sha256, shell, tar};
use registry::{Answer, Guard, OCI_INDEX, OCI_MANIFEST, Registry, liar, own_address};
use serde_json::json;
use skep_runtime::{ContainerSpec, Credentials, Engine, LayerStep, PullError, PullNews, PullRequest, Pulled};

const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
const PLAIN: &str = "application/vnd.oci.image.layer.v1.tar";

type Packed = (Vec<u8>, &'static str, Vec<u8>);

fn text_layer(text: &'static str) -> Packed {
    let layer = tar(&[File::Text("said", text)]);
    (layer.clone(), PLAIN, layer)
}

/// Busybox gzipped, a zstd layer, and one that is not compressed.
fn layers(said: &'static str) -> Vec<Packed> {
    let (base, middle) = (busybox_tar(), tar(&[File::Dir("middle", 0o755)]));
    let (packed, squeezed) = (gzip(&base), zstd::encode_all(&middle[..], 1).unwrap());
    vec![(base, GZIP, packed), (middle, ZSTD, squeezed), text_layer(said)]
}

async fn pull(engine: &Engine, reference: &str) -> Result<Pulled, Arc<PullError>> {
    pull_as(engine, reference, Credentials::default()).await
}

async fn pull_as(engine: &Engine, reference: &str, who: Credentials) -> Result<Pulled, Arc<PullError>> {
    let request = PullRequest { reference: reference.to_owned(), credentials: who, platform: None };
    tokio::time::timeout(LIMIT, engine.pull(request).done).await.unwrap()
}

async fn say_of(lab: &Lab, id: &str, image: &str) -> String {
    let spec = ContainerSpec { image: image.to_owned(), ..shell(id, "cat /said; ls -d /middle") };
    lab.run(spec).await.1
}

fn is_clean(lab: &Lab) {
    assert_eq!(fs::read_dir(lab.config.state_dir.join("tmp")).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_pulled_by_tag_and_by_digest_and_runs() {
    let Some(lab) = lab().await else { return };
    let dir = tempfile::tempdir().unwrap();
    let Some(registry) = Registry::start(dir.path(), LOCAL, Guard::Open).await else { return };
    let first = registry.push("team/app:1", &layers("one\n")).await;
    let name = format!("{}/team/app", registry.host);
    let engine = &lab.engine;

    // Ten tasks of one image, and the news that one of them hears.
    let request = PullRequest { reference: format!("{name}:1"), ..PullRequest::default() };
    let mut heard = engine.pull(request.clone());
    let pulls: Vec<_> = (0..10).map(|_| engine.pull(request.clone()).done).collect();
    for pulled in pulls {
        let pulled = tokio::time::timeout(LIMIT, pulled).await.unwrap().unwrap();
        assert_eq!((pulled.digest.as_str(), pulled.is_new), (first.as_str(), true));
    }
    let mut steps = Vec::new();
    while let Ok(news) = heard.news.try_recv() {
        match news {
            PullNews::Began { repository, which } => assert_eq!((&*repository, &*which), ("team/app", "1")),
            PullNews::Layer { id, step } => {
                assert_eq!(id.len(), 12);
                steps.push(step);
            }
        }
    }
    let n = |wanted: fn(&LayerStep) -> bool| steps.iter().filter(|s| wanted(s)).count();
    // The lowest layer is the lab's own busybox.
    assert_eq!(
        (n(|s| *s == LayerStep::AlreadyExists), n(|s| *s == LayerStep::Complete)),
        (1, 2),
        "{steps:?}"
    );
    assert_eq!(n(|s| matches!(s, LayerStep::Downloading { bytes, of } if bytes == of)), 2, "{steps:?}");
    is_clean(&lab);

    assert_eq!(say_of(&lab, "a", &format!("{name}:1")).await, "one\n/middle\n");
    let info = engine.find_image(&format!("{name}@{first}")).unwrap();
    assert_eq!(info.references, [format!("{name}:1")]);
    assert_eq!(info.repo_digests, [format!("{name}@{first}")]);
    assert!(!pull(engine, &format!("{name}:1")).await.unwrap().is_new);

    // The tag moves: what it named before stays, without it.
    let second = registry.push("team/app:1", &layers("two\n")).await;
    assert!(pull(engine, &format!("{name}:1")).await.unwrap().is_new);
    assert_eq!(say_of(&lab, "b", &format!("{name}:1")).await, "two\n/middle\n");
    let before = engine.find_image(&format!("{name}@{first}")).unwrap();
    assert!(before.references.is_empty());
    engine.remove("a").await.unwrap();
    engine.remove_image(&before.id).await.unwrap();

    // By digest, the tag being a comment.
    let pinned = format!("{name}:1@{first}");
    assert_eq!(pull(engine, &pinned).await.unwrap().digest, first);
    let info = engine.find_image(&pinned).unwrap();
    assert!(info.references.is_empty() && info.digest.as_ref() == Some(&first), "{info:?}");
    assert_eq!(engine.find_image(&format!("{name}:1")).unwrap().digest, Some(second));
    assert!(!pull(engine, &pinned).await.unwrap().is_new);
    engine.tag_image(&pinned, "mine:2").await.unwrap();
    assert_eq!(say_of(&lab, "c", "mine:2").await, "one\n/middle\n");

    let error = pull(engine, &format!("{name}:9")).await.unwrap_err();
    assert_eq!(error.to_string(), format!("manifest for {name}:9 not found: manifest unknown"));
    let error = pull(engine, &format!("{name}@sha256:{}", "0".repeat(64))).await.unwrap_err();
    assert!(matches!(*error, PullError::NotFound { .. }), "{error}");
    assert!(matches!(*pull(engine, "Bad").await.unwrap_err(), PullError::Reference(_)));
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_gives_each_machine_its_own() {
    let Some(lab) = lab().await else { return };
    let dir = tempfile::tempdir().unwrap();
    let Some(registry) = Registry::start(dir.path(), LOCAL, Guard::Open).await else { return };
    let ours = registry.push("app:ours", &layers("ours\n")).await;
    let other = registry.push("app:other", &[text_layer("other")]).await;
    let here = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
    let sizes = (registry.size_of("app:ours").await, registry.size_of("app:other").await);
    let entry = |digest: &str, size, architecture| {
        json!({ "mediaType": OCI_MANIFEST, "digest": digest, "size": size,
            "platform": { "os": "linux", "architecture": architecture } })
    };
    let both = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX,
        "manifests": [entry(&other, sizes.1, "s390x"), entry(&ours, sizes.0, here)] });
    registry.push_document("app:1", &both.to_string(), OCI_INDEX).await;
    let none = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX,
        "manifests": [entry(&other, sizes.1, "s390x")] });
    registry.push_document("app:none", &none.to_string(), OCI_INDEX).await;

    let name = format!("{}/app", registry.host);
    let list = format!("sha256:{}", sha256(both.to_string().as_bytes()));
    let pulled = pull(&lab.engine, &format!("{name}:1")).await.unwrap();
    assert_eq!(pulled.digest, list);
    let info = lab.engine.find_image(&format!("{name}@{list}")).unwrap();
    assert_eq!((info.digest.as_ref(), &info.repo_digests), (Some(&ours), &vec![format!("{name}@{list}")]));
    assert_eq!(say_of(&lab, "a", &format!("{name}:1@{list}")).await, "ours\n/middle\n");
    let error = pull(&lab.engine, &format!("{name}:none")).await.unwrap_err();
    assert!(error.to_string().starts_with("no matching manifest for linux/"), "{error}");

    let nobody = Credentials::default();
    let found = lab.engine.distribution(&format!("{name}:1"), &nobody).await.unwrap();
    assert_eq!((found.digest, found.media_type.as_str()), (list, OCI_INDEX));
    let platforms: Vec<_> = found.platforms.iter().map(ToString::to_string).collect();
    assert_eq!(platforms, ["linux/s390x".to_owned(), format!("linux/{here}")]);
    let found = lab.engine.distribution(&format!("{name}:ours"), &nobody).await.unwrap();
    assert_eq!((found.digest, found.platforms.len()), (ours, 1));
    // What was loaded here is asked of nobody.
    let error = lab.engine.distribution("busybox", &nobody).await.unwrap_err();
    assert!(error.to_string().contains("comes from no registry"), "{error}");
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_with_a_password_wants_it() {
    let Some(lab) = lab().await else { return };
    let dir = tempfile::tempdir().unwrap();
    let Some(registry) = Registry::start(dir.path(), LOCAL, Guard::Password).await else { return };
    registry.push("app:1", &layers("hidden\n")).await;
    let image = format!("{}/app:1", registry.host);
    let (me, other) = (Credentials::basic("me", "secret"), Credentials::basic("me", "wrong"));
    let denied = format!(
        "pull access denied for {image}, repository does not exist or may require 'docker login': \
         unauthorized: authentication required (registry {})",
        registry.host
    );
    for who in [Credentials::default(), other.clone()] {
        assert_eq!(pull_as(&lab.engine, &image, who.clone()).await.unwrap_err().to_string(), denied);
        assert_eq!(lab.engine.distribution(&image, &who).await.unwrap_err().to_string(), denied);
    }
    pull_as(&lab.engine, &image, me.clone()).await.unwrap();
    lab.engine.distribution(&image, &me).await.unwrap();
    lab.engine.check_login(&registry.host, &me).await.unwrap();
    let error = lab.engine.check_login(&format!("http://{}/", registry.host), &other).await.unwrap_err();
    assert!(matches!(error, PullError::Denied { .. }), "{error}");
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_is_trusted_by_its_ca_or_by_name() {
    let Some(address) = own_address() else {
        lab::say("this machine has no address but loopback");
        return;
    };
    let Some(mut lab) = lab().await else { return };
    let dir = tempfile::tempdir().unwrap();
    let Some(registry) = Registry::start(dir.path(), address, Guard::Tls).await else { return };
    registry.push("app:1", &layers("sealed\n")).await;
    let image = format!("{}/app:1", registry.host);
    let error = pull(&lab.engine, &image).await.unwrap_err();
    assert!(error.to_string().contains("x509: certificate signed by unknown authority"), "{error}");

    let certs = dir.path().join("certs.d");
    fs::create_dir_all(certs.join(&registry.host)).unwrap();
    fs::copy(dir.path().join("ca.crt"), certs.join(&registry.host).join("ca.crt")).unwrap();
    lab.config.registries.certs_dirs = vec![certs];
    let trusting = Engine::open(lab.config.clone()).await.unwrap();
    pull(&trusting, &image).await.unwrap();
    trusting.remove_image(&image).await.unwrap();

    lab.config.registries = skep_runtime::Registries::default();
    lab.config.registries.add_insecure(&format!("{address}/32")).unwrap();
    let careless = Engine::open(lab.config.clone()).await.unwrap();
    pull(&careless, &image).await.unwrap();
    drop((trusting, careless));
    lab.finish().await;
}

/// A registry with one image of two layers, `answer` given for the second.
async fn with_layer(answer: impl FnOnce(Vec<u8>) -> Answer) -> String {
    let layers = [busybox_tar(), tar(&[File::Text("said", "x")])];
    let blobs: Vec<_> = layers.iter().map(|l| (format!("sha256:{}", sha256(l)), l.clone())).collect();
    let config = image_config(&layers, json!({}));
    let config_digest = format!("sha256:{}", sha256(config.as_bytes()));
    let described: Vec<_> = blobs
        .iter()
        .map(|(digest, bytes)| json!({ "mediaType": PLAIN, "digest": digest, "size": bytes.len() }))
        .collect();
    let manifest = json!({ "schemaVersion": 2, "mediaType": OCI_MANIFEST, "layers": described,
        "config": { "mediaType": "x", "digest": config_digest, "size": config.len() } });
    let body = |bytes: Vec<u8>, kind: &str| Answer::Body(200, kind.to_owned(), bytes);
    let mut answers = BTreeMap::from([
        ("/v2/".to_owned(), body(b"{}".to_vec(), "application/json")),
        ("/v2/app/manifests/1".to_owned(), body(manifest.to_string().into_bytes(), OCI_MANIFEST)),
        (format!("/v2/app/blobs/{config_digest}"), body(config.into_bytes(), "x")),
    ]);
    answers.insert(format!("/v2/app/blobs/{}", blobs[1].0), answer(blobs[1].1.clone()));
    liar(answers).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_as_promised_leaves_nothing_behind() {
    let Some(lab) = lab().await else { return };
    let before = lab.engine.images();
    let flip = |mut bytes: Vec<u8>| {
        bytes[0] ^= 1;
        bytes
    };
    let whole = |bytes| Answer::Body(200, "x".into(), bytes);
    type Make = Box<dyn FnOnce(Vec<u8>) -> Answer>;
    let cases: [(Make, &str); 5] = [
        (Box::new(move |b| whole(flip(b))), "broke off: "),
        (Box::new(move |b| whole(b[..b.len() - 1].to_vec())), "broke off: "),
        (Box::new(move |b| whole([b, vec![0]].concat())), "has not the 2048 bytes that its image says"),
        (Box::new(|_| Answer::Body(404, "x".into(), b"gone".to_vec())), "not found: manifest unknown"),
        (Box::new(|_| Answer::Body(500, "x".into(), b"on fire".to_vec())), "status 500: on fire"),
    ];
    for (make, words) in cases {
        let host = with_layer(make).await;
        let error = pull(&lab.engine, &format!("{host}/app:1")).await.unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
        is_clean(&lab);
    }
    assert_eq!(lab.engine.images(), before);
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_ends_with_the_last_who_waits() {
    let Some(lab) = lab().await else { return };
    let host = with_layer(Answer::Hang).await;
    let request = PullRequest { reference: format!("{host}/app:1"), ..PullRequest::default() };
    let downloads = || {
        let tmp = lab.config.state_dir.join("tmp");
        fs::read_dir(tmp).unwrap().flatten().map(|d| fs::read_dir(d.path()).unwrap().count()).sum::<usize>()
    };
    let mut pulls: Vec<_> = (0..2).map(|_| engine_pull(&lab, &request)).collect();
    let begun = async {
        while downloads() == 0 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LIMIT, begun).await.unwrap();
    pulls.pop().unwrap().abort();
    // The other still waits; images can be changed meanwhile.
    lab.engine.tag_image("busybox", "other:1").await.unwrap();
    lab.engine.remove_image("other:1").await.unwrap();
    assert_eq!(downloads(), 1);
    pulls.pop().unwrap().abort();
    let ended = async {
        while fs::read_dir(lab.config.state_dir.join("tmp")).unwrap().count() > 0 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LIMIT, ended).await.unwrap();
    assert!(lab.engine.find_image(&request.reference).is_none());
    lab.finish().await;
}

fn engine_pull(lab: &Lab, request: &PullRequest) -> tokio::task::JoinHandle<()> {
    let done = lab.engine.pull(request.clone()).done;
    tokio::spawn(async move { drop(done.await) })
}
