//! The swarm itself, and what certificates say.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Map, Value, json};
use skep_api::{
    object::{Cluster, Node},
    spec::{
        HEARTBEAT_DEFAULT, LOG_ENTRIES_KEPT_DEFAULT, NODE_CERT_EXPIRY_DEFAULT, SNAPSHOT_INTERVAL_DEFAULT,
        SwarmSpec, TASK_HISTORY_DEFAULT,
    },
};
use skep_link::RootDigest;

use super::{nanos, object, put_meta, to_json};

/// The swarm without its tokens, as `info` shows it.
pub(crate) fn cluster(cluster: &Cluster) -> Map<String, Value> {
    let mut out = Map::new();
    out.insert("ID".into(), cluster.id.to_string().into());
    put_meta(&mut out, &cluster.meta);
    out.insert("Spec".into(), swarm_spec(&cluster.spec));
    out.insert("TLSInfo".into(), tls_info(cluster));
    out.insert("RootRotationInProgress".into(), cluster.ca_rotation.is_some().into());
    out.insert("DataPathPort".into(), cluster.data_path_port.into());
    out.insert("DefaultAddrPool".into(), to_json(&cluster.default_addr_pool));
    out.insert("SubnetSize".into(), cluster.subnet_size.into());
    out
}

/// The settings with what we do where the user gave none.
fn swarm_spec(spec: &SwarmSpec) -> Value {
    let defaults = json!({
        "Orchestration": { "TaskHistoryRetentionLimit": TASK_HISTORY_DEFAULT },
        "Raft": {
            "SnapshotInterval": SNAPSHOT_INTERVAL_DEFAULT,
            "KeepOldSnapshots": 0,
            "LogEntriesForSlowFollowers": LOG_ENTRIES_KEPT_DEFAULT,
            "ElectionTick": 10,
            "HeartbeatTick": 1,
        },
        "Dispatcher": { "HeartbeatPeriod": nanos(HEARTBEAT_DEFAULT) },
        "CAConfig": { "NodeCertExpiry": nanos(NODE_CERT_EXPIRY_DEFAULT) },
        "TaskDefaults": {},
        "EncryptionConfig": { "AutoLockManagers": false },
    });
    let mut out = object(to_json(spec));
    if spec.name.is_empty() {
        out.insert("Name".into(), "default".into());
    }
    for (section, values) in object(defaults) {
        let mut values = object(values);
        let given = out.remove(&section).map(object).unwrap_or_default();
        let says =
            |key: &str, value: &Value| key == "TaskHistoryRetentionLimit" || !skep_api::json::is_zero(value);
        values.extend(given.into_iter().filter(|(key, value)| says(key, value)));
        out.insert(section, values.into());
    }
    Value::Object(out)
}

/// The root that nodes are to trust, and the issuer that their certificates are to have: of the next root
/// during a rotation, as Docker says it (`MB:daemon/cluster/convert/swarm.go`).
fn tls_info(cluster: &Cluster) -> Value {
    let signing = cluster.ca_rotation.as_ref().map_or(&cluster.ca_cert_pem, |rotation| &rotation.cert_pem);
    let (subject, key) = skep_link::issuer_of(signing).unwrap_or_default();
    info(&cluster.ca_cert_pem, &subject, &key)
}

/// The roots of a swarm by their digests: a node says which one it trusts.
#[derive(Debug, Default)]
pub(crate) struct Roots(Vec<(RootDigest, String)>);

impl Roots {
    /// The current one, and the next one during a rotation.
    pub(crate) fn of(cluster: Option<&Cluster>) -> Self {
        let next =
            cluster.and_then(|cluster| cluster.ca_rotation.as_ref()).map(|rotation| &rotation.cert_pem);
        let roots = cluster.map(|cluster| &cluster.ca_cert_pem).into_iter().chain(next);
        Self(roots.map(|root| (RootDigest::of_pem(root), root.clone())).collect())
    }

    /// What a node trusts and by whom its certificate is; empty while that is not known.
    pub(super) fn tls_info(&self, node: &Node) -> Value {
        let Some(tls) = &node.description.tls else { return json!({}) };
        let its = self.0.iter().find(|(digest, _)| digest.0.as_slice() == tls.root_digest);
        // One that is neither is gone, and a node that still trusts it is behind.
        let root = its.map_or("", |(_, root)| root.as_str());
        info(root, &tls.issuer_subject, &tls.issuer_public_key)
    }
}

fn info(root_pem: &str, issuer_subject: &[u8], issuer_public_key: &[u8]) -> Value {
    let mut out = Map::new();
    if !root_pem.is_empty() {
        out.insert("TrustRoot".into(), root_pem.into());
    }
    // Base64 of DER.
    for (key, der) in [("CertIssuerSubject", issuer_subject), ("CertIssuerPublicKey", issuer_public_key)] {
        if !der.is_empty() {
            out.insert(key.into(), STANDARD.encode(der).into());
        }
    }
    Value::Object(out)
}

#[cfg(test)]
mod tests {
    use skep_api::object::{CaRotation, NodeTls};

    use super::*;

    /// What `docker node ls` makes of it (`CLI:cli/command/node/formatter.go`).
    fn tls_status(cluster: &Cluster, node: &Node) -> &'static str {
        let (asked, has) = (tls_info(cluster), Roots::of(Some(cluster)).tls_info(node));
        match has == json!({}) {
            true => "Unknown",
            false if has == asked => "Ready",
            false => "Needs Rotation",
        }
    }

    #[test]
    fn a_node_is_behind_until_it_has_issuer_and_root() {
        let [old, new] = [(); 2].map(|()| skep_link::Authority::generate(1_800_000_000).unwrap());
        let under = |issuer: &skep_link::Authority, root: &skep_link::Authority| {
            let (issuer_subject, issuer_public_key) = skep_link::issuer_of(issuer.cert_pem()).unwrap();
            let root_digest = root.digest().0.to_vec();
            let mut node = Node::default();
            node.description.tls = Some(NodeTls { issuer_subject, issuer_public_key, root_digest });
            node
        };
        let mut cluster = Cluster { ca_cert_pem: old.cert_pem().to_owned(), ..Cluster::default() };
        assert_eq!(tls_status(&cluster, &Node::default()), "Unknown");
        assert_eq!(tls_status(&cluster, &under(&old, &old)), "Ready");
        let rotation = CaRotation { cert_pem: new.cert_pem().to_owned(), ..CaRotation::default() };
        cluster.ca_rotation = Some(rotation);
        assert_eq!(tls_status(&cluster, &under(&old, &old)), "Needs Rotation");
        assert_eq!(tls_status(&cluster, &under(&new, &old)), "Ready");
        cluster.ca_rotation = None;
        cluster.ca_cert_pem = new.cert_pem().to_owned();
        assert_eq!(tls_status(&cluster, &under(&new, &old)), "Needs Rotation");
        assert_eq!(tls_status(&cluster, &under(&new, &new)), "Ready");
    }

    #[test]
    fn what_the_user_set_stays_and_the_rest_is_shown() {
        let spec: SwarmSpec = serde_json::from_value(json!({
            "Name": "default", "Labels": {},
            "Orchestration": { "TaskHistoryRetentionLimit": 3 }, "Raft": { "ElectionTick": 0 },
        }))
        .unwrap();
        let out = swarm_spec(&spec);
        assert_eq!(out["Orchestration"]["TaskHistoryRetentionLimit"], 3);
        assert_eq!(out["Raft"]["ElectionTick"], 10);
        assert_eq!(out["EncryptionConfig"]["AutoLockManagers"], false);
    }
}
