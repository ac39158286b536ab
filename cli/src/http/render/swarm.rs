//! The swarm itself, and what certificates say.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Map, Value, json};
use skep_api::{
    object::Cluster,
    spec::{
        HEARTBEAT_DEFAULT, LOG_ENTRIES_KEPT_DEFAULT, NODE_CERT_EXPIRY_DEFAULT, SNAPSHOT_INTERVAL_DEFAULT,
        SwarmSpec, TASK_HISTORY_DEFAULT,
    },
};

use super::{nanos, object, put_meta, to_json};

/// The swarm without its tokens, as `info` shows it.
pub(crate) fn cluster(cluster: &Cluster) -> Map<String, Value> {
    let mut out = Map::new();
    out.insert("ID".into(), cluster.id.to_string().into());
    put_meta(&mut out, &cluster.meta);
    out.insert("Spec".into(), swarm_spec(&cluster.spec));
    out.insert("TLSInfo".into(), tls_info(&cluster.ca_cert_pem));
    out.insert("RootRotationInProgress".into(), false.into());
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

/// The root certificate, and whom it names as base64 of DER.
pub(crate) fn tls_info(ca_cert_pem: &str) -> Value {
    let mut out = Map::new();
    out.insert("TrustRoot".into(), ca_cert_pem.into());
    let parsed = x509_parser::pem::parse_x509_pem(ca_cert_pem.as_bytes());
    if let Ok((_, pem)) = parsed
        && let Ok(certificate) = pem.parse_x509()
    {
        out.insert("CertIssuerSubject".into(), STANDARD.encode(certificate.subject().as_raw()).into());
        out.insert("CertIssuerPublicKey".into(), STANDARD.encode(certificate.public_key().raw).into());
    }
    Value::Object(out)
}

#[cfg(test)]
mod tests {
    use super::*;

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
