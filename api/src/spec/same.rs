//! When two specs ask for the same, though they are written differently.
//!
//! A client that reads a service and writes it back spells out zeros and defaults that were absent
//! (docker does on each update). In Go both become the same struct; so here what is absent, zero and
//! default compare equal.

use serde_json::{Map, Value};

use super::{EndpointSpec, TaskSpec};

/// Keys whose values are the user's own: an empty string in them is a value.
const USER_MAPS: [&str; 4] = ["Labels", "Options", "DriverOpts", "Sysctls"];

/// Defaults that may be spelled out. Zero is not the default of the durations here.
const DEFAULTS: [(&str, &str); 6] = [
    ("Isolation", "default"),
    ("Runtime", "container"),
    ("Condition", "any"),
    ("Mode", "vip"),
    ("Protocol", "tcp"),
    ("PublishMode", "ingress"),
];

/// Durations in nanoseconds: (key, default). Absent is the default, zero is zero.
const DURATIONS: [(&str, i64); 2] = [("StopGracePeriod", 10_000_000_000), ("Delay", 5_000_000_000)];

impl TaskSpec {
    /// Whether both ask for the same tasks.
    #[must_use]
    pub fn asks_the_same(&self, other: &Self) -> bool {
        self == other || form(self) == form(other)
    }
}

impl EndpointSpec {
    /// Whether both ask for the same endpoint; `None` is the default one.
    #[must_use]
    pub fn ask_the_same(a: Option<&Self>, b: Option<&Self>) -> bool {
        a == b || a.map_or_else(empty, form) == b.map_or_else(empty, form)
    }
}

fn empty() -> Value {
    Value::Object(Map::new())
}

fn form<T: serde::Serialize>(spec: &T) -> Value {
    let value = serde_json::to_value(spec).expect("specs hold only strings as keys and finite numbers");
    stripped(value)
}

/// Without what asks for nothing. Members of a list keep their places.
fn stripped(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            Value::Object(map.into_iter().filter_map(|(key, value)| member(key, value)).collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(stripped).collect()),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value,
    }
}

fn member(key: String, value: Value) -> Option<(String, Value)> {
    if let Some((_, default)) = DURATIONS.iter().find(|(name, _)| *name == key) {
        return (!value.is_null() && value.as_i64() != Some(*default)).then_some((key, value));
    }
    if DEFAULTS.iter().any(|(name, default)| *name == key && value.as_str() == Some(default)) {
        return None;
    }
    let value = if USER_MAPS.contains(&key.as_str()) { value } else { stripped(value) };
    let asks = match &value {
        Value::Null => false,
        Value::Bool(on) => *on,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(map) => !map.is_empty(),
    };
    asks.then_some((key, value))
}

#[cfg(test)]
mod tests {
    use crate::{json::parse, spec::TaskSpec};

    #[track_caller]
    fn check(a: &str, b: &str, same: bool) {
        let read = |text: &str| parse::<TaskSpec>(text.as_bytes()).unwrap();
        assert_eq!(read(a).asks_the_same(&read(b)), same, "{a} {b}");
    }

    #[test]
    fn zeros_and_defaults_ask_for_nothing() {
        let bare = r#"{"ContainerSpec":{"Image":"x"}}"#;
        check(
            bare,
            r#"{"ContainerSpec":{"Image":"x","Isolation":"default","DNSConfig":{},"Env":[],"StopGracePeriod":10000000000},
            "Resources":{"Limits":{},"Reservations":{}},"RestartPolicy":{"Condition":"any","Delay":5000000000,"MaxAttempts":0},
            "Placement":{},"ForceUpdate":0,"Runtime":"container"}"#,
            true,
        );
        check(bare, r#"{"ContainerSpec":{"Image":"x","StopGracePeriod":0}}"#, false);
        check(bare, r#"{"ContainerSpec":{"Image":"x"},"RestartPolicy":{"Delay":0}}"#, false);
        check(bare, r#"{"ContainerSpec":{"Image":"x","Labels":{"a":""}}}"#, false);
        check(bare, r#"{"ContainerSpec":{"Image":"x"},"ForceUpdate":1}"#, false);
    }
}
