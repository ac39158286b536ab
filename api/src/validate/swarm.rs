//! The swarm's own settings: which can be changed, and within which bounds.

use std::time::Duration;

use serde_json::Value;

use super::unhonoured;
use crate::{
    ApiError,
    json::is_zero,
    span,
    spec::{DOWN_TTL_LABEL, HEARTBEAT_MIN, SKEP_LABEL_PREFIX, SwarmSpec},
};

/// Swarm's least life of a node's certificate (`SK:ca/certificates.go`).
const CERT_EXPIRY_MIN: Duration = Duration::from_secs(3600);
/// The root's own life: no certificate outlives it.
const CERT_EXPIRY_MAX: Duration = Duration::from_secs(20 * 365 * 86_400);

/// Checks the settings of `swarm init` and `swarm update`. Zero and absent ask for nothing.
///
/// # Errors
/// Names the field that is wrong or not honoured yet.
pub fn swarm(spec: &SwarmSpec) -> Result<(), ApiError> {
    if !matches!(spec.name.as_str(), "" | "default") {
        return Err(ApiError::invalid("Spec.Name: the swarm object must be named \"default\""));
    }
    if spec.labels.keys().any(String::is_empty) {
        return Err(ApiError::invalid("Spec.Labels: a label needs a key"));
    }
    labels(spec)?;
    numbers(spec)?;
    external_cas(spec)?;
    // Ticks are each daemon's own setting; Swarm's defaults may be spelled out.
    let ticks: [(&str, &[i64], &str); 2] =
        [("ElectionTick", &[3, 10], "raft-election"), ("HeartbeatTick", &[1], "raft-heartbeat")];
    for (key, allowed, setting) in ticks {
        let Some(value) = spec.setting("Raft", key).filter(|value| !is_zero(value)) else { continue };
        if !value.as_i64().is_some_and(|n| allowed.contains(&n)) {
            return Err(ApiError::invalid(format!(
                "Spec.Raft.{key}: ticks are not used here; set {setting} (milliseconds) in each manager's config file"
            )));
        }
    }
    if let Some(value) = spec.setting("EncryptionConfig", "AutoLockManagers")
        && !(value.is_boolean() || value.is_null())
    {
        return Err(ApiError::invalid(format!(
            "Spec.EncryptionConfig.AutoLockManagers: true or false is expected, not {value}"
        )));
    }
    if let Some(Value::Object(map)) = spec.extra.get("TaskDefaults") {
        unhonoured(map, "Spec.TaskDefaults", &["LogDriver"])?;
    }
    Ok(())
}

/// Those of ours are known and well-formed.
fn labels(spec: &SwarmSpec) -> Result<(), ApiError> {
    for (key, value) in spec.labels.iter().filter(|(key, _)| key.starts_with(SKEP_LABEL_PREFIX)) {
        if key != DOWN_TTL_LABEL {
            return Err(ApiError::invalid(format!(
                "Spec.Labels.{key}: skep has no such label of the swarm; it has {DOWN_TTL_LABEL}"
            )));
        }
        let refused =
            |words: &str| ApiError::invalid(format!("Spec.Labels.{key}: invalid value '{value}': {words}"));
        // An update cannot take the last label away: 0s turns it off.
        span::parse(value).map_err(|words| refused(&words))?;
    }
    Ok(())
}

/// A swarm begins with a root of its own.
pub(super) fn root_at_init(spec: &SwarmSpec) -> Result<(), ApiError> {
    for key in ["SigningCACert", "SigningCAKey"] {
        if spec.setting("CAConfig", key).is_some_and(|value| !is_zero(value)) {
            return Err(ApiError::invalid(format!(
                "Spec.CAConfig.{key}: not at init; give it to 'swarm ca --rotate' once the swarm is there"
            )));
        }
    }
    Ok(())
}

/// Which can be asked for certificates.
fn external_cas(spec: &SwarmSpec) -> Result<(), ApiError> {
    let field = "Spec.CAConfig.ExternalCAs";
    match spec.setting("CAConfig", "ExternalCAs") {
        None | Some(Value::Null | Value::Array(_)) => {}
        Some(Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_)) => {
            return Err(ApiError::invalid(format!("{field}: a list is expected")));
        }
    }
    for ca in spec.external_cas() {
        if !ca.protocol.eq_ignore_ascii_case("cfssl") {
            return Err(ApiError::invalid(format!(
                "{field}: invalid protocol: \"{}\"; cfssl is the only one",
                ca.protocol
            )));
        }
        if !ca.url.starts_with("https://") {
            return Err(ApiError::invalid(format!(
                "{field}: invalid URL '{}': https://host[:port]/path is expected",
                ca.url
            )));
        }
    }
    Ok(())
}

/// Settings that are honoured: whole numbers within bounds.
fn numbers(spec: &SwarmSpec) -> Result<(), ApiError> {
    let number = |section: &str, key: &str| match spec.setting(section, key) {
        None => Ok(0),
        Some(value) => value.as_i64().ok_or_else(|| {
            ApiError::invalid(format!("Spec.{section}.{key}: a whole number is expected, not {value}"))
        }),
    };
    number("Orchestration", "TaskHistoryRetentionLimit")?;
    // Docker's own type for them has no sign; there are no bounds beyond it.
    for key in ["SnapshotInterval", "KeepOldSnapshots", "LogEntriesForSlowFollowers"] {
        if let Some(value) =
            spec.setting("Raft", key).filter(|value| !value.is_null() && value.as_u64().is_none())
        {
            return Err(ApiError::invalid(format!(
                "Spec.Raft.{key}: a whole number that is not negative is expected, not {value}"
            )));
        }
    }
    let beat = number("Dispatcher", "HeartbeatPeriod")?;
    if beat < 0 {
        return Err(ApiError::invalid(
            "Spec.Dispatcher.HeartbeatPeriod: heartbeat time period cannot be a negative duration",
        ));
    }
    if beat != 0 && beat < nanos(HEARTBEAT_MIN) {
        return Err(ApiError::invalid(format!(
            "Spec.Dispatcher.HeartbeatPeriod: minimum heartbeat period is: {}ms",
            HEARTBEAT_MIN.as_millis()
        )));
    }
    if number("CAConfig", "ForceRotate")? < 0 {
        return Err(ApiError::invalid("Spec.CAConfig.ForceRotate: a number from 0 is expected"));
    }
    let expiry = number("CAConfig", "NodeCertExpiry")?;
    if expiry != 0 && expiry < nanos(CERT_EXPIRY_MIN) {
        return Err(ApiError::invalid(
            "Spec.CAConfig.NodeCertExpiry: minimum certificate expiry time is: 1h0m0s",
        ));
    }
    if expiry > nanos(CERT_EXPIRY_MAX) {
        return Err(ApiError::invalid(
            "Spec.CAConfig.NodeCertExpiry: a certificate cannot outlive the root (20 years)",
        ));
    }
    Ok(())
}

fn nanos(span: Duration) -> i64 {
    i64::try_from(span.as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(spec: &str, expect: Result<(), &str>) {
        let spec: SwarmSpec = crate::json::parse(spec.as_bytes()).unwrap();
        let got = swarm(&spec).map_err(|error| error.message);
        match (got, expect) {
            (Ok(()), Ok(())) => {}
            (Err(words), Err(part)) => assert!(words.contains(part), "{words}"),
            (got, expect) => panic!("{spec:?}: {got:?} instead of {expect:?}"),
        }
    }

    #[test]
    fn a_root_of_ones_own_comes_after_init() {
        let init = |config: &str| {
            let body = format!(r#"{{"Spec":{{"CAConfig":{config}}}}}"#);
            crate::validate::init(&crate::json::parse(body.as_bytes()).unwrap())
                .map_err(|error| error.message)
        };
        assert_eq!(init(r#"{"SigningCACert":"","SigningCAKey":"","NodeCertExpiry":0}"#), Ok(()));
        let external = r#"{"ExternalCAs":[{"Protocol":"cfssl","URL":"https://ca/sign"}]}"#;
        assert_eq!(init(external), Ok(()));
        let error = init(r#"{"signingcakey":"x"}"#).unwrap_err();
        assert!(error.starts_with("Spec.CAConfig.SigningCAKey: not at init"), "{error}");
    }

    #[test]
    fn what_a_label_asks_for_can_be_turned_off() {
        let down_ttl = |value: &str| format!(r#"{{"Labels":{{"skep.node.down-ttl":"{value}"}}}}"#);
        let read = |value: &str| -> SwarmSpec { crate::json::parse(down_ttl(value).as_bytes()).unwrap() };
        assert_eq!(read("1h").down_ttl(), Some(Duration::from_secs(3600)));
        assert_eq!(read("1h").merged(&read("0s")).down_ttl(), None);
        check(&down_ttl("0s"), Ok(()));
        check(&down_ttl("-1s"), Err("Spec.Labels.skep.node.down-ttl: invalid value '-1s'"));
        check(&down_ttl("soon"), Err("Spec.Labels.skep.node.down-ttl: invalid value 'soon'"));
    }

    #[test]
    fn settings_have_bounds() {
        check("{}", Ok(()));
        check(
            r#"{"name":"default","Orchestration":{"TaskHistoryRetentionLimit":-1},"Raft":{"SnapshotInterval":7,
            "KeepOldSnapshots":3,"LogEntriesForSlowFollowers":20,"ElectionTick":10,"HeartbeatTick":1},
            "Dispatcher":{"HeartbeatPeriod":5000000000},"CAConfig":{"NodeCertExpiry":3600000000000},
            "EncryptionConfig":{"AutoLockManagers":false},"TaskDefaults":{}}"#,
            Ok(()),
        );
        for (spec, expect) in [
            (r#"{"Name":"mine"}"#, "the swarm object must be named \"default\""),
            (
                r#"{"CAConfig":{"NodeCertExpiry":3599999999999}}"#,
                "minimum certificate expiry time is: 1h0m0s",
            ),
            (r#"{"CAConfig":{"NodeCertExpiry":900000000000000000}}"#, "cannot outlive the root"),
            (
                r#"{"Dispatcher":{"HeartbeatPeriod":-1}}"#,
                "heartbeat time period cannot be a negative duration",
            ),
            (r#"{"Dispatcher":{"HeartbeatPeriod":1}}"#, "minimum heartbeat period is: 500ms"),
            (r#"{"Dispatcher":{"HeartbeatPeriod":"5s"}}"#, "Spec.Dispatcher.HeartbeatPeriod: a whole number"),
            (
                r#"{"Raft":{"SnapshotInterval":-5}}"#,
                "Spec.Raft.SnapshotInterval: a whole number that is not negative",
            ),
            (r#"{"Raft":{"KeepOldSnapshots":"2"}}"#, "Spec.Raft.KeepOldSnapshots: a whole number"),
            (
                r#"{"Raft":{"ElectionTick":7}}"#,
                "Spec.Raft.ElectionTick: ticks are not used here; set raft-election",
            ),
            (
                r#"{"EncryptionConfig":{"AutoLockManagers":"yes"}}"#,
                "Spec.EncryptionConfig.AutoLockManagers: true or false is expected",
            ),
            (
                r#"{"CAConfig":{"ExternalCAs":[{"Protocol":"acme","URL":"https://x"}]}}"#,
                "Spec.CAConfig.ExternalCAs: invalid protocol: \"acme\"",
            ),
            (
                r#"{"CAConfig":{"ExternalCAs":[{"Protocol":"cfssl","URL":"http://x"}]}}"#,
                "Spec.CAConfig.ExternalCAs: invalid URL 'http://x'",
            ),
            (r#"{"CAConfig":{"ForceRotate":-1}}"#, "Spec.CAConfig.ForceRotate"),
        ] {
            check(spec, Err(expect));
        }
    }
}
