//! The task template, but for its container and networks.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{container, not_honoured, unhonoured};
use crate::{
    ApiError,
    constraint::Constraint,
    object::{GENERIC_MAX, check_kind},
    spec::{Placement, Resources, TaskSpec},
};

/// Swarm's least CPU limit: 0.001.
const NANO_CPUS_MIN: i64 = 1_000_000;

/// Swarm's least memory limit: 4 MiB.
const MEMORY_MIN: i64 = 4 * 1024 * 1024;

pub(super) fn task(spec: &TaskSpec) -> Result<(), ApiError> {
    unhonoured(&spec.extra, "TaskTemplate", &["PluginSpec", "NetworkAttachmentSpec"])?;
    if let Some(runtime) = spec.extra.get("Runtime").and_then(Value::as_str)
        && !matches!(runtime, "" | "container")
    {
        return Err(not_honoured("TaskTemplate.Runtime", runtime));
    }
    let Some(container) = &spec.container_spec else {
        return Err(ApiError::invalid("TaskTemplate.ContainerSpec: a task needs a container"));
    };
    container::check(container)?;
    if let Some(resources) = &spec.resources {
        // Zero asks for something: no swap at all.
        for key in ["SwapBytes", "MemorySwappiness"] {
            if resources.extra.get(key).is_some_and(|value| !value.is_null()) {
                return Err(not_honoured(&format!("TaskTemplate.Resources.{key}"), ""));
            }
        }
        amounts(resources.limits.as_ref(), "TaskTemplate.Resources.Limits")?;
        amounts(resources.reservations.as_ref(), "TaskTemplate.Resources.Reservations")?;
        if resources.reservations.as_ref().is_some_and(|r| r.pids.unwrap_or(0) != 0) {
            return Err(ApiError::invalid(
                "TaskTemplate.Resources.Reservations.Pids: processes have limits only",
            ));
        }
    }
    restart(spec)?;
    if let Some(placement) = &spec.placement {
        preferences(placement)?;
    }
    Constraint::parse_all(spec.constraints())
        .map_err(|e| ApiError::invalid(format!("TaskTemplate.Placement.Constraints: {e}")))?;
    log_driver(spec)
}

/// Of so many billionths, without needless digits.
fn in_cpus(nano_cpus: i64) -> String {
    let sign = if nano_cpus < 0 { "-" } else { "" };
    let (whole, rest) = (nano_cpus.unsigned_abs() / 1_000_000_000, nano_cpus.unsigned_abs() % 1_000_000_000);
    let digits = format!("{rest:09}");
    format!("{sign}{whole}.{digits}").trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn amounts(amounts: Option<&Resources>, path: &str) -> Result<(), ApiError> {
    let Some(amounts) = amounts else { return Ok(()) };
    unhonoured(&amounts.extra, path, &["SwapBytes", "MemorySwappiness"])?;
    generic(amounts, path)?;
    let (cpus, memory) = (amounts.nano_cpus.unwrap_or(0), amounts.memory_bytes.unwrap_or(0));
    if cpus != 0 && cpus < NANO_CPUS_MIN {
        return Err(ApiError::invalid(format!(
            "{path}.NanoCPUs: invalid cpu value {}: Must be at least 0.001",
            in_cpus(cpus)
        )));
    }
    if memory != 0 && memory < MEMORY_MIN {
        return Err(ApiError::invalid(format!(
            "{path}.MemoryBytes: invalid memory value {memory}: Must be at least 4MiB"
        )));
    }
    if amounts.pids.unwrap_or(0) < 0 {
        return Err(ApiError::invalid(format!("{path}.Pids: must not be negative")));
    }
    Ok(())
}

/// A task asks for a number of a kind; a name, nothing or less than that is refused (Swarm takes what it cannot read:
/// `SK:manager/controlapi/service.go`).
fn generic(amounts: &Resources, path: &str) -> Result<(), ApiError> {
    let mut kinds = BTreeSet::new();
    for (n, one) in amounts.generic_resources.iter().flatten().enumerate() {
        let path = format!("{path}.GenericResources[{n}]");
        if path.contains(".Limits.") {
            return Err(ApiError::invalid(format!("{path}: generic resources have reservations only")));
        }
        if one.extra.contains_key("NamedResourceSpec") {
            return Err(ApiError::invalid(format!(
                "{path}.NamedResourceSpec: invalid argument for resource: a task asks for a number of a kind"
            )));
        }
        let Some(amount) = &one.discrete_resource_spec else {
            return Err(ApiError::invalid(format!("{path}.DiscreteResourceSpec: how many of which kind?")));
        };
        check_kind(&amount.kind).map_err(|words| ApiError::invalid(format!("{path}.Kind: {words}")))?;
        if !(1..=GENERIC_MAX).contains(&amount.value) {
            return Err(ApiError::invalid(format!(
                "{path}.Value: invalid argument for resource {}: from 1 to {GENERIC_MAX}",
                amount.kind
            )));
        }
        if !kinds.insert(amount.kind.as_str()) {
            return Err(ApiError::invalid(format!("{path}.Kind: '{}' is asked for twice", amount.kind)));
        }
    }
    Ok(())
}

fn preferences(placement: &Placement) -> Result<(), ApiError> {
    for (n, one) in placement.preferences.iter().flatten().enumerate() {
        let path = format!("TaskTemplate.Placement.Preferences[{n}]");
        match &one.spread {
            None => return Err(ApiError::invalid(format!("{path}: only Spread is supported"))),
            Some(over) if over.spread_descriptor.is_empty() => {
                return Err(ApiError::invalid(format!("{path}.Spread.SpreadDescriptor: must not be empty")));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

fn restart(spec: &TaskSpec) -> Result<(), ApiError> {
    let Some(policy) = &spec.restart_policy else { return Ok(()) };
    let path = "TaskTemplate.RestartPolicy";
    if let Some(condition) = policy.condition.as_deref()
        && !matches!(condition, "" | "none" | "on-failure" | "any")
    {
        return Err(ApiError::invalid(format!(
            "{path}.Condition: invalid RestartCondition: \"{condition}\", expected none, on-failure or any"
        )));
    }
    let spans = [("Delay", "restart-delay", policy.delay), ("Window", "restart-window", policy.window)];
    for (name, word, value) in spans {
        if value.unwrap_or(0) < 0 {
            return Err(ApiError::invalid(format!("{path}.{name}: TaskSpec: {word} cannot be negative")));
        }
    }
    Ok(())
}

fn log_driver(spec: &TaskSpec) -> Result<(), ApiError> {
    let Some(driver) = &spec.log_driver else { return Ok(()) };
    let name = driver.name.as_deref().unwrap_or("");
    if !matches!(name, "" | "json-file") {
        return Err(not_honoured("TaskTemplate.LogDriver.Name", name));
    }
    for (key, value) in driver.options.iter().flatten() {
        match key.as_str() {
            "max-size" if size(value).is_some_and(|bytes| bytes > 0) => {}
            "max-file" if value.parse::<u32>().is_ok_and(|n| n > 0) => {}
            "max-size" | "max-file" => {
                return Err(ApiError::invalid(format!(
                    "TaskTemplate.LogDriver.Options.{key}: invalid value '{value}'"
                )));
            }
            _ => return Err(not_honoured(&format!("TaskTemplate.LogDriver.Options.{key}"), value)),
        }
    }
    Ok(())
}

/// Bytes of a size as Docker writes them: `10m`, `512k`, `1g`, `2048`.
#[must_use]
pub fn size(text: &str) -> Option<u64> {
    let text = text.trim().to_ascii_lowercase();
    let digits: String = text.chars().take_while(char::is_ascii_digit).collect();
    let unit = match text[digits.len()..].trim_start() {
        "" | "b" => 1,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(unit)
}
