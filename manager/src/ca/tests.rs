//! What a change means, and how a rotation goes on: tables and virtual time.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use skep_api::{
    Id, NodeId,
    object::{CaRotation, Cluster, Node, NodeDescription, NodeState, NodeStatus, NodeTls},
    spec::SwarmSpec,
};
use skep_link::{Authority, Given, issuer_of};
use skep_store::{Change, Proposal, Store, View};
use tokio::time::Instant;

use super::{
    change::{Plan, Step, Wish, plan},
    converge::finished,
    reconcile::{AT_ONCE, Next, next},
    signing::external_cas,
};

const NOW: i64 = 1_800_000_000;

fn root() -> Given {
    let made = Authority::generate(NOW).unwrap();
    Given { cert_pem: made.cert_pem().to_owned(), key_pem: made.key_pem().to_owned() }
}

fn cluster(root: &Given) -> Cluster {
    Cluster { ca_cert_pem: root.cert_pem.clone(), ca_key_pem: root.key_pem.clone(), ..Cluster::default() }
}

fn rotating(from: &Given, to: &Given) -> Cluster {
    let rotation = CaRotation {
        cert_pem: to.cert_pem.clone(),
        key_pem: to.key_pem.clone(),
        cross_pem: "cross".to_owned(),
    };
    Cluster { ca_rotation: Some(rotation), ca_forced: 1, ..cluster(from) }
}

fn without_key(root: &Given) -> Given {
    Given { key_pem: String::new(), ..root.clone() }
}

fn outcome(old: &Cluster, cert: &str, key: &str, force: u64) -> Result<(Step, Vec<&'static str>), String> {
    let Plan { needed, step } = plan(old, &Wish { cert, key, force }, NOW).map_err(|error| error.message)?;
    Ok((step, needed.into_iter().map(|needed| needed.what).collect()))
}

#[test]
fn an_update_means_for_the_root_what_swarm_says() {
    let (old, new, other) = (root(), root(), root());
    let (quiet, busy) = (cluster(&old), rotating(&old, &new));
    let external = cluster(&without_key(&old));
    let to_external = rotating(&old, &without_key(&new));
    let rotate = |to: &Given| Step::Rotate(Some(to.clone()));
    let (c, k) = (other.cert_pem.as_str(), other.key_pem.as_str());
    for (what, old_state, cert, key, force, expect) in [
        ("nothing asked", &quiet, "", "", 0, (Step::Keep, vec![])),
        ("forced", &quiet, "", "", 1, (Step::Rotate(None), vec![])),
        ("forced again while one is under way", &busy, "", "", 2, (Step::Rotate(None), vec![])),
        ("the same force again", &busy, "", "", 1, (Step::Keep, vec![])),
        ("a root of one's own", &quiet, c, k, 0, (rotate(&other), vec![])),
        ("in the place of another", &busy, c, k, 1, (rotate(&other), vec![])),
        ("an external one", &quiet, c, "", 0, (rotate(&without_key(&other)), vec!["desired"])),
        (
            "back to the current root",
            &busy,
            &old.cert_pem,
            &old.key_pem,
            1,
            (Step::Stay(old.key_pem.clone()), vec![]),
        ),
        (
            "the current root's key goes to an external CA",
            &quiet,
            &old.cert_pem,
            "",
            0,
            (Step::Stay(String::new()), vec!["desired"]),
        ),
        (
            "the next root's key as well",
            &to_external,
            &new.cert_pem,
            &new.key_pem,
            1,
            (Step::NextKey(new.key_pem.clone()), vec![]),
        ),
        ("any update while the next root is external", &to_external, "", "", 1, (Step::Keep, vec!["next"])),
        ("any update under an external root", &external, "", "", 0, (Step::Keep, vec!["current"])),
        (
            "an external root's key comes in",
            &external,
            &old.cert_pem,
            &old.key_pem,
            0,
            (Step::Stay(old.key_pem.clone()), vec![]),
        ),
        ("from an external root to one of one's own", &external, c, k, 0, (rotate(&other), vec!["current"])),
    ] {
        assert_eq!(outcome(old_state, cert, key, force), Ok(expect), "{what}");
    }
    for (what, old_state, cert, key, expect) in [
        ("a key alone", &quiet, "", k, "if a signing CA key is provided, the signing CA cert must also be"),
        ("a key that does not fit", &quiet, c, old.key_pem.as_str(), "certificate key mismatch"),
        ("no certificate", &quiet, "junk", k, "could not parse the desired CA certificate"),
        (
            "from external to external",
            &external,
            c,
            "",
            "rotating from one external CA to a different external",
        ),
    ] {
        let error = outcome(old_state, cert, key, 0).unwrap_err();
        assert!(error.contains(expect) && error.contains("code = InvalidArgument"), "{what}: {error}");
    }
}

#[test]
fn external_cas_belong_to_a_root() {
    let (old, new) = (root(), root());
    let spec: SwarmSpec = serde_json::from_value(serde_json::json!({ "CAConfig": { "ExternalCAs": [
        { "Protocol": "cfssl", "URL": "https://a/" },
        { "Protocol": "cfssl", "URL": "https://b/", "CACert": format!("text\n{}", new.cert_pem) },
    ] } }))
    .unwrap();
    let cluster = Cluster { spec, ..rotating(&old, &new) };
    let urls = |root: &Given| -> Vec<String> {
        external_cas(&cluster, &root.cert_pem).into_iter().map(|ca| ca.url).collect()
    };
    assert_eq!((urls(&old), urls(&new)), (vec!["https://a/".to_owned()], vec!["https://b/".to_owned()]));
}

fn tls(root: &Given) -> NodeTls {
    let (issuer_subject, issuer_public_key) = issuer_of(&root.cert_pem).unwrap();
    NodeTls { issuer_subject, issuer_public_key, root_digest: Vec::new() }
}

fn node(id: u128, under: Option<&Given>, state: NodeState) -> Node {
    let description = NodeDescription { tls: under.map(tls), ..NodeDescription::default() };
    let status = NodeStatus { state, ..NodeStatus::default() };
    Node { id: NodeId(Id(id)), description, status, ..Node::default() }
}

fn apply(store: &mut Store, cluster: Option<&Cluster>, nodes: Vec<Node>) -> View {
    let mut changes: Vec<Change> = nodes.into_iter().map(|node| Change::PutNode(Arc::new(node))).collect();
    changes.extend(cluster.map(|cluster| Change::PutCluster(Arc::new(cluster.clone()))));
    store.apply(&Proposal { changes, ..Proposal::default() }.encode());
    store.view()
}

#[test]
fn a_rotation_waits_for_every_node_and_for_no_rotation_nothing_is_done() {
    let (old, new) = (root(), root());
    let now = Instant::now();
    let none = BTreeMap::new();
    let mut store = Store::default();
    let view = apply(&mut store, Some(&cluster(&old)), vec![node(1, Some(&old), NodeState::Ready)]);
    assert_eq!(next(&view, &none, now), Next::Quiet);
    let busy = rotating(&old, &new);
    let view = apply(
        &mut store,
        Some(&busy),
        vec![
            node(2, Some(&new), NodeState::Ready),
            node(3, None, NodeState::Ready),
            node(4, Some(&old), NodeState::Down),
        ],
    );
    let tell =
        |ids: &[u128], again| Next::Tell { nodes: ids.iter().map(|id| NodeId(Id(*id))).collect(), again };
    assert_eq!(next(&view, &none, now), tell(&[1, 3], None), "one that is down is waited for, not told");
    let later = now + Duration::from_secs(10);
    let told = BTreeMap::from([(NodeId(Id(1)), later)]);
    assert_eq!(next(&view, &told, now), tell(&[3], Some(later)));
    assert_eq!(next(&view, &told, later), tell(&[3, 1], None), "the one that was told before comes last");

    let all = [1, 3].map(|id| node(id, Some(&new), NodeState::Ready)).to_vec();
    let view = apply(&mut store, None, all);
    assert_eq!(next(&view, &none, now), tell(&[], None), "it is down, and was not forgotten");
    let view = apply(&mut store, None, vec![node(4, Some(&new), NodeState::Down)]);
    assert_eq!(next(&view, &none, now), Next::Finish);

    let done = finished(&busy, || "fresh".to_owned()).unwrap();
    assert_eq!(
        (done.ca_cert_pem.as_str(), done.ca_key_pem.as_str()),
        (new.cert_pem.as_str(), new.key_pem.as_str())
    );
    assert_eq!((done.ca_cross_pem.as_str(), &done.ca_rotation, done.ca_forced), ("cross", &None, 1));
    assert_eq!((done.worker_token_secret.as_str(), done.manager_token_secret.as_str()), ("fresh", "fresh"));
    assert_eq!(finished(&done, String::new), None);
}

/// 500 nodes, of which some fail for a while and the leader changes now and then: never more than 30 renew at a
/// time by our word, and all are through in the end.
#[test]
fn a_fleet_rotates_thirty_at_a_time() {
    let (old, new) = (root(), root());
    let mut store = Store::default();
    let fleet = (1..=500).map(|id| node(id, Some(&old), NodeState::Ready)).collect();
    let mut view = apply(&mut store, Some(&rotating(&old, &new)), fleet);
    let start = Instant::now();
    let mut now = start;
    let mut told: BTreeMap<NodeId, Instant> = BTreeMap::new();
    let mut asked: BTreeMap<NodeId, u32> = BTreeMap::new();
    loop {
        if now.duration_since(start).as_secs() % 97 == 96 {
            told.clear();
        }
        match next(&view, &told, now) {
            Next::Quiet => panic!("it was called off"),
            Next::Finish => break,
            Next::Tell { nodes, .. } => {
                for id in nodes {
                    told.insert(id, now + Duration::from_secs(10));
                    *asked.entry(id).or_default() += 1;
                }
            }
        }
        let under_way: Vec<NodeId> =
            told.iter().filter(|(_, until)| **until > now).map(|(id, _)| *id).collect();
        assert!(under_way.len() <= AT_ONCE, "{} at a time", under_way.len());
        // One in seven fails its first two times.
        let is_done = |id: &NodeId| !id.0.0.is_multiple_of(7) || asked.get(id).is_some_and(|n| *n > 2);
        let done: Vec<NodeId> = under_way.into_iter().filter(is_done).collect();
        done.iter().for_each(|id| {
            told.remove(id);
        });
        view = apply(
            &mut store,
            None,
            done.iter().map(|id| node(id.0.0, Some(&new), NodeState::Ready)).collect(),
        );
        now += Duration::from_secs(1);
        assert!(now.duration_since(start) < Duration::from_secs(600), "no end");
    }
}
