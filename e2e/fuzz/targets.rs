//! What is fuzzed: all that a bad disk, another machine or a person may hand to the control plane as bytes.
//! Shared by the fuzzer and by the test that runs the kept corpus.

use std::sync::{Arc, LazyLock};

use prost::Message;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use skep_api::{
    Id, NetworkId, NodeId, ServiceId, TaskId, Timestamp, json,
    object::{Cluster, Network, Node, Service, Task, TaskStatus},
    spec::{InitRequest, JoinBody, NetworkSpec, NodeSpec, ServiceSpec, SwarmSpec, TaskSpec},
    validate, wire,
};
use skep_link::{Authority, Identity, JoinToken, Role, RootDigest};
use skep_store::{Change, FEATURE_LEVEL, Proposal, Store, decode_result};

/// A target's name, which is also that of its corpus, and what it does with any bytes.
pub(crate) type Target = (&'static str, fn(&[u8]));

/// All of them.
pub(crate) const TARGETS: &[Target] = &[
    ("segment", skep_raft::fuzz::segment),
    ("batches", skep_raft::fuzz::batches),
    ("snapshot", skep_raft::fuzz::snapshot),
    ("pieces", skep_raft::fuzz::pieces),
    ("keys", skep_raft::fuzz::key_file),
    ("secret", skep_raft::fuzz::secret),
    ("message", skep_raft::fuzz::message),
    ("backup", backup),
    ("unlock", skep_manager::fuzz::unlock_key),
    ("level", skep_manager::fuzz::level_file),
    ("proposal", proposal),
    ("state", state),
    ("token", token),
    ("pem", pem),
    ("der", der),
    ("csr", csr),
    ("stream", stream),
    ("spec", spec),
];

const NOW: i64 = 1_780_000_000;

/// The pieces of an input, each with its length (two bytes) before it.
fn split(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (&len, rest) = bytes.split_first_chunk::<2>()?;
        let (part, rest) = rest.split_at(usize::from(u16::from_le_bytes(len)).min(rest.len()));
        bytes = rest;
        Some(part)
    })
}

/// A store with one of each.
pub(crate) fn store() -> Store {
    let mut store = Store::default();
    let service = Service {
        id: ServiceId(Id(1)),
        spec: Arc::new(serde_json::from_str(r#"{"Name":"web","Networks":[]}"#).expect("a spec")),
        ..Service::default()
    };
    let network = Network { id: NetworkId(Id(2)), vni: 4097, ..Network::default() };
    let first = vec![
        Change::PutCluster(Arc::new(Cluster::default())),
        Change::PutNode(Arc::new(Node { id: NodeId(Id(3)), ..Node::default() })),
        Change::PutNetwork(Arc::new(network)),
        Change::PutService(Arc::new(service)),
    ];
    let apply = |store: &mut Store, changes| {
        let proposal = Proposal { changes, now: Timestamp(1), ..Proposal::default() };
        decode_result(&store.apply(&proposal.encode()).answer).expect("the first objects are taken");
    };
    apply(&mut store, first);
    let view = store.view();
    let service = view.service(ServiceId(Id(1))).expect("it was put");
    apply(&mut store, vec![Change::PutTask(Arc::new(Task::new(TaskId(Id(4)), service, 1)))]);
    store
}

static STORE: LazyLock<Store> = LazyLock::new(store);

pub(crate) fn written(store: &Store) -> Vec<u8> {
    let mut bytes = Vec::new();
    store.write(&mut bytes).expect("a vector takes all");
    bytes
}

/// That a manager that starts with it holds what this one holds, indexes and all; or that none of this build
/// does, as it is too old.
fn comes_back(store: &Store) {
    let state = written(store);
    let again = Store::restore(&mut &*state);
    if store.view().feature_level() > FEATURE_LEVEL {
        assert!(again.is_err(), "the state of a newer build is refused");
        return;
    }
    let again = again.expect("what was written is read");
    assert!(written(&again) == state, "a restored state is written as it was");
    assert!(again == *store, "a restored store is the same");
}

/// Entries of the log: a panic would stop every replica, and again at each start.
fn proposal(bytes: &[u8]) {
    let mut store = STORE.clone();
    for entry in split(bytes).take(16) {
        let before = store.view();
        let applied = store.apply(entry);
        let after = store.view();
        assert!(after.revision() >= before.revision(), "the revision never goes back");
        assert!(after.feature_level() >= before.feature_level(), "the feature level never falls");
        if decode_result(&applied.answer).is_err() {
            assert!(applied.changed.is_empty(), "a refused proposal changes nothing");
            assert!(
                after.revision() == before.revision() && after.diff(&before).is_empty(),
                "nothing at all"
            );
        }
        if after.check_feature_level().is_err() {
            // The process would end here.
            break;
        }
    }
    comes_back(&store);
}

/// A state from a snapshot.
fn state(bytes: &[u8]) {
    if let Ok(store) = Store::restore(&mut &*bytes) {
        comes_back(&store);
    }
}

fn backup(bytes: &[u8]) {
    skep_manager::fuzz::backup(&STORE, bytes);
}

fn token(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(token) = JoinToken::parse(&text) {
        assert!(token.to_string() == text.trim(), "one text is one token");
    }
}

/// Signs for longer than this test will be run.
static AUTHORITY: LazyLock<Authority> = LazyLock::new(|| {
    let root = Authority::generate(NOW).expect("the system gives randomness");
    root.valid_for(std::time::Duration::from_secs(15 * 365 * 86_400))
});

/// A certificate, a key and a root, each any text.
fn pem(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let mut parts = text.splitn(3, '\0');
    let mut part = || parts.next().unwrap_or_default();
    let (cert, key, root) = (part(), part(), part());
    drop(Identity::new(cert, key, root));
    drop(Authority::from_pem(cert, key));
    roots(cert, key);
}

/// A certificate as a root that a user brings.
fn roots(cert: &str, key: &str) {
    let _ = RootDigest::of_pem(cert);
    let normal = skep_link::normal_pem(cert);
    assert!(skep_link::normal_pem(&normal) == normal, "the normal form has itself as its normal form");
    assert!(skep_link::issuer_of(&normal) == skep_link::issuer_of(cert), "and is of the same root");
    if let Ok(given) = skep_link::check_root(cert, key, NOW) {
        let again = skep_link::check_root(&given.cert_pem, &given.key_pem, NOW);
        assert!(again.is_ok_and(|again| again == given), "what was checked once is good");
        if !given.key_pem.is_empty() {
            let authority = Authority::from_pem(&given.cert_pem, &given.key_pem);
            assert!(authority.is_ok(), "a root that was taken signs");
        }
    }
    if let Ok(crossed) = AUTHORITY.cross_sign(cert) {
        let same = skep_link::issuer_of(&crossed) == skep_link::issuer_of(cert);
        assert!(same, "a root that another one signed has its name and key");
    }
}

/// Of a kind of PEM text.
fn armoured(label: &str, der: &[u8]) -> String {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(der))
}

/// A certificate, a key and a root by their insides.
fn der(bytes: &[u8]) {
    let mut parts = split(bytes);
    let mut part = |label| armoured(label, parts.next().unwrap_or_default());
    let (cert, key, root) = (part("CERTIFICATE"), part("PRIVATE KEY"), part("CERTIFICATE"));
    drop(Identity::new(&*cert, &*key, &*root));
    drop(Identity::new(&*cert, &*key, AUTHORITY.cert_pem()));
    drop(skep_link::check_issued(&cert, AUTHORITY.cert_pem(), "node", Role::Worker, "cluster"));
    roots(&cert, &key);
    roots(&cert, "");
}

/// A request for a certificate: as text, and by its insides.
fn csr(bytes: &[u8]) {
    for text in [String::from_utf8_lossy(bytes).into_owned(), armoured("CERTIFICATE REQUEST", bytes)] {
        if let Ok(cert) = AUTHORITY.sign_node(&text, "node", Role::Worker, "cluster", NOW) {
            let issued =
                skep_link::check_issued(&cert, AUTHORITY.cert_pem(), "node", Role::Worker, "cluster");
            assert!(issued.is_ok(), "what is signed says what the authority says: {issued:?}");
        }
    }
}

/// What is read is written so that it is read as the same.
fn same<M: Message + Default + PartialEq>(bytes: &[u8]) -> Option<M> {
    let message = M::decode(bytes).ok()?;
    let again = M::decode(&*message.encode_to_vec());
    assert!(again.is_ok_and(|again| again == message), "it is read as it is written");
    Some(message)
}

/// What agents and managers say to each other; the first byte says what it is.
fn stream(bytes: &[u8]) {
    use wire::{agent_message, manager_message};
    let Some((&what, bytes)) = bytes.split_first() else { return };
    match what % 8 {
        0 => {
            let Some(message) = same::<wire::AgentMessage>(bytes) else { return };
            if let Some(agent_message::Message::Statuses(batch)) = message.message {
                batch.reports.into_iter().filter_map(|report| report.status).for_each(status);
            }
        }
        1 => {
            let Some(message) = same::<wire::ManagerMessage>(bytes) else { return };
            if let Some(manager_message::Message::Assignments(set)) = message.message {
                set.put.iter().for_each(|assignment| {
                    drop(serde_json::from_slice::<TaskSpec>(&assignment.spec));
                });
            }
        }
        2 => drop(same::<wire::Told>(bytes)),
        3 => drop(same::<wire::JoinRequest>(bytes)),
        4 => drop(same::<wire::EnterRequest>(bytes)),
        5 => drop(same::<wire::RaftAsk>(bytes)),
        6 => drop(same::<wire::LogBatch>(bytes)),
        _ => drop(same::<wire::RelayRequest>(bytes)),
    }
}

fn status(status: wire::TaskStatus) {
    if let Ok(status) = TaskStatus::try_from(status) {
        let again = TaskStatus::try_from(wire::TaskStatus::from(&status));
        assert!(again.is_ok_and(|again| again == status), "a status is the same there");
    }
}

/// What a user's client sends: what was said is kept, but for what asks for nothing.
fn spec(bytes: &[u8]) {
    if let Some(mut spec) = kept::<ServiceSpec>(bytes) {
        drop(validate::service(&spec));
        spec.fill_in();
        stored(spec);
    }
    if let Some(spec) = kept::<NodeSpec>(bytes) {
        drop(validate::node(&spec));
    }
    if let Some(spec) = kept::<SwarmSpec>(bytes) {
        drop(validate::swarm(&spec));
        let merged = spec.merged(&spec);
        assert!(merged == spec, "settings over themselves are the same");
        drop((spec.heartbeat(), spec.task_history_max(), spec.node_cert_expiry(), spec.external_cas()));
        drop((spec.with_autolock(), merged.clone().take_signing()));
    }
    if let Some(spec) = kept::<NetworkSpec>(bytes) {
        drop(validate::network(&spec));
    }
    if let Some(request) = kept::<InitRequest>(bytes) {
        drop(validate::init(&request));
    }
    drop(kept::<JoinBody>(bytes));
}

fn kept<T: Serialize + DeserializeOwned + PartialEq>(bytes: &[u8]) -> Option<T> {
    let spec: T = json::parse(bytes).ok()?;
    let text = serde_json::to_vec(&spec).expect("a spec is JSON");
    let again: T = json::parse(&text).expect("what was written is read");
    assert!(again == spec, "a spec goes in and comes out the same");
    let said: Value = json::parse(bytes).expect("it is JSON");
    let out: Value = serde_json::from_slice(&text).expect("it is JSON");
    if let Err(path) = survives(&said, &out) {
        panic!("{path} was said, and is not kept: {out}");
    }
    Some(spec)
}

/// That `out` has all that `said` has, but for what asks for nothing; else what it lacks.
fn survives(said: &Value, out: &Value) -> Result<(), String> {
    let below = |key: &dyn std::fmt::Display, path: String| format!("{key}.{path}");
    match (said, out) {
        (Value::Object(said), Value::Object(out)) => said.iter().try_for_each(|(key, value)| {
            survives(value, out.get(key).unwrap_or(&Value::Null)).map_err(|path| below(key, path))
        }),
        (Value::Array(said), Value::Array(out)) if said.len() == out.len() => {
            let mut pairs = said.iter().zip(out).enumerate();
            pairs.try_for_each(|(n, (said, out))| survives(said, out).map_err(|path| below(&n, path)))
        }
        (Value::Number(one), Value::Number(other)) if one.as_f64() == other.as_f64() => Ok(()),
        (said, out) if said == out || json::is_zero(said) => Ok(()),
        (said, _) => Err(said.to_string()),
    }
}

/// A service of that spec is the same after it went through the log and a snapshot.
fn stored(spec: ServiceSpec) {
    let mut store = Store::default();
    let id = ServiceId(Id(1));
    let service = Service { id, spec: Arc::new(spec), ..Service::default() };
    let changes = vec![Change::PutService(Arc::new(service.clone()))];
    let proposal = Proposal { changes, now: Timestamp(1), ..Proposal::default() };
    if decode_result(&store.apply(&proposal.encode()).answer).is_ok() {
        let view = store.view();
        assert!(view.service(id).is_some_and(|stored| stored.spec == service.spec), "it is stored as it is");
        comes_back(&store);
    }
}
