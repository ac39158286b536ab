//! Reads request bodies as Go's decoder does: keys without regard to case, `null` as absent.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::ApiError;

/// Objects whose keys are the user's own and are left alone.
const USER_MAPS: &[&str] =
    &["Labels", "Options", "DriverOpts", "Sysctls", "DriverConfig", "AuxiliaryAddresses"];

/// Every key of the request bodies that we read, as the API spells it.
const KEYS: &[&str] = &[
    "Name",
    "Labels",
    "TaskTemplate",
    "Mode",
    "UpdateConfig",
    "RollbackConfig",
    "Networks",
    "EndpointSpec",
    "Replicated",
    "Global",
    "ReplicatedJob",
    "GlobalJob",
    "Replicas",
    "MaxConcurrent",
    "TotalCompletions",
    "ContainerSpec",
    "PluginSpec",
    "NetworkAttachmentSpec",
    "Resources",
    "Limits",
    "Reservations",
    "NanoCPUs",
    "MemoryBytes",
    "Pids",
    "GenericResources",
    "SwapBytes",
    "MemorySwappiness",
    "RestartPolicy",
    "Condition",
    "Delay",
    "MaxAttempts",
    "Window",
    "Placement",
    "Constraints",
    "Preferences",
    "Spread",
    "SpreadDescriptor",
    "MaxReplicas",
    "Platforms",
    "Architecture",
    "OS",
    "ForceUpdate",
    "Runtime",
    "LogDriver",
    "Options",
    "Parallelism",
    "FailureAction",
    "Monitor",
    "MaxFailureRatio",
    "Order",
    "Ports",
    "Protocol",
    "TargetPort",
    "PublishedPort",
    "PublishMode",
    "Image",
    "Command",
    "Args",
    "Hostname",
    "Env",
    "Dir",
    "User",
    "Groups",
    "TTY",
    "OpenStdin",
    "ReadOnly",
    "Init",
    "StopSignal",
    "StopGracePeriod",
    "Mounts",
    "Type",
    "Source",
    "Target",
    "Consistency",
    "BindOptions",
    "Propagation",
    "NonRecursive",
    "CreateMountpoint",
    "VolumeOptions",
    "NoCopy",
    "DriverConfig",
    "Subpath",
    "TmpfsOptions",
    "SizeBytes",
    "ClusterOptions",
    "ImageOptions",
    "Healthcheck",
    "Test",
    "Interval",
    "Timeout",
    "Retries",
    "StartPeriod",
    "StartInterval",
    "Hosts",
    "DNSConfig",
    "Nameservers",
    "Search",
    "Secrets",
    "Configs",
    "File",
    "UID",
    "GID",
    "SecretID",
    "SecretName",
    "ConfigID",
    "ConfigName",
    "Privileges",
    "CredentialSpec",
    "SELinuxContext",
    "Seccomp",
    "AppArmor",
    "NoNewPrivileges",
    "Isolation",
    "Sysctls",
    "CapabilityAdd",
    "CapabilityDrop",
    "Ulimits",
    "Hard",
    "Soft",
    "OomScoreAdj",
    "PullOptions",
    "Aliases",
    "DriverOpts",
    "Role",
    "Availability",
    "ListenAddr",
    "AdvertiseAddr",
    "DataPathAddr",
    "DataPathPort",
    "ForceNewCluster",
    "Spec",
    "AutoLockManagers",
    "UnlockKey",
    "DefaultAddrPool",
    "SubnetSize",
    "RemoteAddrs",
    "JoinToken",
    "Orchestration",
    "TaskHistoryRetentionLimit",
    "Raft",
    "SnapshotInterval",
    "KeepOldSnapshots",
    "LogEntriesForSlowFollowers",
    "ElectionTick",
    "HeartbeatTick",
    "Dispatcher",
    "HeartbeatPeriod",
    "CAConfig",
    "NodeCertExpiry",
    "ExternalCAs",
    "URL",
    "CACert",
    "SigningCACert",
    "SigningCAKey",
    "ForceRotate",
    "TaskDefaults",
    "EncryptionConfig",
    "Driver",
    "Scope",
    "EnableIPv4",
    "EnableIPv6",
    "Internal",
    "Attachable",
    "Ingress",
    "IPAM",
    "Config",
    "Subnet",
    "IPRange",
    "Gateway",
    "AuxiliaryAddresses",
    "ConfigOnly",
    "ConfigFrom",
    "Network",
    "CheckDuplicate",
];

/// Reads a body into `T`. An empty body reads as `{}`.
///
/// # Errors
/// Malformed JSON or a value of the wrong type, with the words of the decoder.
pub fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    let value: Value = if body.is_empty() {
        Value::Object(Map::new())
    } else {
        serde_json::from_slice(body).map_err(|e| ApiError::invalid(format!("invalid JSON: {e}")))?
    };
    serde_json::from_value(canonical(value)).map_err(|e| ApiError::invalid(format!("invalid JSON: {e}")))
}

/// Spells known keys as the API does and drops nulls, which Go reads as absent.
fn canonical(value: Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(
            map.into_iter()
                .filter(|(_, value)| !value.is_null())
                .map(|(key, value)| {
                    let key = KEYS
                        .iter()
                        .find(|known| known.eq_ignore_ascii_case(&key))
                        .map_or(key, |known| (*known).to_owned());
                    let value = if USER_MAPS.contains(&key.as_str()) { value } else { canonical(value) };
                    (key, value)
                })
                .collect(),
        ),
        Value::Array(items) => Value::Array(items.into_iter().map(canonical).collect()),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value,
    }
}

/// Whether a value asks for nothing: Go's zero of its type, or only such inside.
#[must_use]
pub fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(b) => !b,
        Value::Number(n) => n.as_f64() == Some(0.0),
        Value::String(s) => s.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.values().all(is_zero),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::ServiceSpec;

    #[test]
    fn keys_match_without_case_and_unknown_ones_survive() {
        let body = br#"{"name":"a","taskTemplate":{"containerspec":{"image":"x","healthCheck":{"test":["CMD"]},"Zebra":1}},
            "Labels":{"name":"kept"},"Mode":null}"#;
        let spec: ServiceSpec = parse(body).unwrap();
        let out = serde_json::to_value(&spec).unwrap();
        assert_eq!(out["Name"], "a");
        assert_eq!(out["Labels"]["name"], "kept");
        assert_eq!(out["TaskTemplate"]["ContainerSpec"]["Healthcheck"]["Test"][0], "CMD");
        assert_eq!(out["TaskTemplate"]["ContainerSpec"]["Zebra"], 1);
        assert!(out.get("Mode").is_none());
    }

    #[test]
    fn a_wrong_type_is_named() {
        let error = parse::<ServiceSpec>(br#"{"Name":3}"#).unwrap_err();
        assert!(error.message.contains("invalid type: integer `3`"), "{error}");
    }
}
