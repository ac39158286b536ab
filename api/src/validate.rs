//! Validation of specs: what is wrong is named by its field, and so is what this build does not honour yet.
//!
//! Numbers and words are Swarm's (`SK:manager/controlapi/{common,service}.go`, `SK:api/validation`).

mod container;
mod network;
mod swarm;

pub use container::signal_number;
pub use network::{INGRESS_REFUSED, network};
pub use swarm::swarm;

use std::collections::BTreeSet;

use serde_json::Value;

use crate::{
    ApiError, ErrorKind,
    constraint::Constraint,
    json::is_zero,
    object::ingress::DATA_PATH_PORT,
    spec::{Extra, InitRequest, NodeSpec, PortConfig, Resources, ServiceSpec, TaskSpec, UpdateConfig},
};

/// Longest name of a service.
pub const NAME_CHARS_MAX: usize = 63;
/// Most replicas of one service: a limit so that a typo does not fill the store.
pub const REPLICAS_MAX: u64 = 100_000;
/// Swarm's least CPU limit: 0.001.
const NANO_CPUS_MIN: i64 = 1_000_000;
/// Swarm's least memory limit: 4 MiB.
const MEMORY_MIN: i64 = 4 * 1024 * 1024;

/// Checks a service's spec for creation or update.
///
/// # Errors
/// Names the first field that is wrong, or that asks for what is not honoured yet.
pub fn service(spec: &ServiceSpec) -> Result<(), ApiError> {
    service_name(&spec.name)?;
    mode(spec)?;
    task(&spec.task_template)?;
    network::attachments(spec)?;
    update(spec.update_config.as_ref(), "UpdateConfig", &["pause", "continue"], "rollback")?;
    update(spec.rollback_config.as_ref(), "RollbackConfig", &["pause", "continue"], "")?;
    endpoint(spec)
}

/// Refuses the keys of `known` that ask for something.
fn unhonoured(extra: &Extra, path: &str, known: &[&str]) -> Result<(), ApiError> {
    for (key, value) in extra {
        if known.contains(&key.as_str()) && !is_zero(value) {
            return Err(not_honoured(&field(path, key), ""));
        }
    }
    Ok(())
}

fn field(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

fn not_honoured(field: &str, value: &str) -> ApiError {
    let value = if value.is_empty() { String::new() } else { format!(" '{value}'") };
    ApiError::new(ErrorKind::InvalidArgument, format!("{field}{value} is not supported yet; leave it out"))
}

fn service_name(name: &str) -> Result<(), ApiError> {
    if name.is_empty() {
        return Err(ApiError::invalid("Name: meta: name must be provided"));
    }
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    let valid = edge(name.chars().next())
        && edge(name.chars().next_back())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
    if !valid {
        return Err(ApiError::invalid(format!("Name '{name}': name must be valid as a DNS name component")));
    }
    if name.len() > NAME_CHARS_MAX {
        return Err(ApiError::invalid(format!("Name: name must be {NAME_CHARS_MAX} characters or fewer")));
    }
    Ok(())
}

fn mode(spec: &ServiceSpec) -> Result<(), ApiError> {
    let Some(mode) = &spec.mode else { return Ok(()) };
    // An empty object asks for the mode, so these are not looked at as zero values.
    for key in ["Global", "ReplicatedJob", "GlobalJob"] {
        if mode.extra.contains_key(key) {
            return Err(not_honoured(&field("Mode", key), ""));
        }
    }
    if spec.replicas() > REPLICAS_MAX {
        return Err(ApiError::invalid(format!("Mode.Replicated.Replicas: at most {REPLICAS_MAX}")));
    }
    Ok(())
}

fn task(spec: &TaskSpec) -> Result<(), ApiError> {
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
        unhonoured(&resources.extra, "TaskTemplate.Resources", &["SwapBytes", "MemorySwappiness"])?;
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
        unhonoured(&placement.extra, "TaskTemplate.Placement", &["Preferences", "MaxReplicas"])?;
    }
    Constraint::parse_all(spec.constraints())
        .map_err(|e| ApiError::invalid(format!("TaskTemplate.Placement.Constraints: {e}")))?;
    log_driver(spec)
}

fn amounts(amounts: Option<&Resources>, path: &str) -> Result<(), ApiError> {
    let Some(amounts) = amounts else { return Ok(()) };
    unhonoured(&amounts.extra, path, &["GenericResources", "SwapBytes", "MemorySwappiness"])?;
    let (cpus, memory) = (amounts.nano_cpus.unwrap_or(0), amounts.memory_bytes.unwrap_or(0));
    if cpus != 0 && cpus < NANO_CPUS_MIN {
        return Err(ApiError::invalid(format!(
            "{path}.NanoCPUs: invalid cpu value {cpus}: must be at least {NANO_CPUS_MIN} (0.001 CPU)"
        )));
    }
    if memory != 0 && memory < MEMORY_MIN {
        return Err(ApiError::invalid(format!(
            "{path}.MemoryBytes: invalid memory value {memory}: must be at least 4MiB"
        )));
    }
    if amounts.pids.unwrap_or(0) < 0 {
        return Err(ApiError::invalid(format!("{path}.Pids: must not be negative")));
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
    for (name, value) in [("Delay", policy.delay), ("Window", policy.window)] {
        if value.unwrap_or(0) < 0 {
            return Err(ApiError::invalid(format!("{path}.{name}: must not be negative")));
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

fn update(config: Option<&UpdateConfig>, path: &str, actions: &[&str], later: &str) -> Result<(), ApiError> {
    let Some(config) = config else { return Ok(()) };
    match config.failure_action.as_deref().unwrap_or("") {
        "" => {}
        action if actions.contains(&action) => {}
        action if action == later => return Err(not_honoured(&format!("{path}.FailureAction"), action)),
        action => {
            return Err(ApiError::invalid(format!("{path}.FailureAction: unrecognized action '{action}'")));
        }
    }
    match config.order.as_deref().unwrap_or("") {
        "" | "stop-first" => {}
        "start-first" => return Err(not_honoured(&format!("{path}.Order"), "start-first")),
        order => return Err(ApiError::invalid(format!("{path}.Order: unrecognized order '{order}'"))),
    }
    for (name, value) in [("Delay", config.delay), ("Monitor", config.monitor)] {
        if value.unwrap_or(0) < 0 {
            return Err(ApiError::invalid(format!("{path}.{name}: must not be negative")));
        }
    }
    let ratio = config.max_failure_ratio.unwrap_or(0.0);
    if !(0.0..=1.0).contains(&ratio) {
        return Err(ApiError::invalid(format!("{path}.MaxFailureRatio: must lie between 0 and 1")));
    }
    Ok(())
}

fn endpoint(spec: &ServiceSpec) -> Result<(), ApiError> {
    let Some(endpoint) = &spec.endpoint_spec else { return Ok(()) };
    match endpoint.mode.as_deref().unwrap_or("") {
        "" | "vip" => {}
        "dnsrr" if spec.ports().iter().any(PortConfig::is_ingress) => {
            return Err(ApiError::invalid(
                "EndpointSpec: port published with ingress mode can't be used with dnsrr mode",
            ));
        }
        "dnsrr" => return Err(not_honoured("EndpointSpec.Mode", "dnsrr")),
        mode => return Err(ApiError::invalid(format!("EndpointSpec.Mode: invalid mode '{mode}'"))),
    }
    let mut seen = BTreeSet::new();
    for (at, port) in spec.ports().iter().enumerate() {
        let path = format!("EndpointSpec.Ports[{at}]");
        match port.protocol() {
            "tcp" | "udp" => {}
            "sctp" => return Err(not_honoured(&format!("{path}.Protocol"), "sctp")),
            protocol => {
                return Err(ApiError::invalid(format!("{path}.Protocol: invalid protocol '{protocol}'")));
            }
        }
        if !matches!(port.publish_mode.as_str(), "" | "ingress" | "host") {
            return Err(ApiError::invalid(format!(
                "{path}.PublishMode: invalid mode '{}'",
                port.publish_mode
            )));
        }
        if port.target_port == 0 {
            return Err(ApiError::invalid(format!(
                "{path}.TargetPort: must be a port of the container, 1-65535"
            )));
        }
        let key = (port.protocol(), port.published_port, port.is_ingress());
        if port.published_port != 0 && !seen.insert(key) {
            return Err(ApiError::invalid(format!(
                "{path}: duplicate published ports provided: {}/{}",
                port.published_port,
                port.protocol()
            )));
        }
    }
    Ok(())
}

/// Checks a node's spec for an update.
///
/// # Errors
/// Names the field.
pub fn node(spec: &NodeSpec) -> Result<(), ApiError> {
    match spec.labels.keys().find(|key| key.is_empty()) {
        Some(_) => Err(ApiError::invalid("Labels: a label needs a key")),
        None => Ok(()),
    }
}

/// Checks the body of `swarm init`.
///
/// # Errors
/// Names the field that is wrong or not honoured yet.
pub fn init(request: &InitRequest) -> Result<(), ApiError> {
    for (name, asked) in [
        // The default pool may be spelled out; networks that would use another one come later.
        (
            "DefaultAddrPool",
            request.default_addr_pool.as_ref().is_some_and(|p| !p.is_empty() && *p != ["10.0.0.0/8"]),
        ),
        // The agents' VXLAN listens on 4789.
        ("DataPathPort", !matches!(request.data_path_port, 0 | DATA_PATH_PORT)),
        ("SubnetSize", !matches!(request.subnet_size, 0 | 24)),
    ] {
        if asked {
            return Err(not_honoured(name, ""));
        }
    }
    if !matches!(request.availability.as_str(), "" | "active" | "pause" | "drain") {
        return Err(ApiError::invalid(format!(
            "Availability: invalid availability \"{}\"",
            request.availability
        )));
    }
    swarm::root_at_init(&request.spec)?;
    swarm(&request.spec)
}

#[cfg(test)]
mod tests;
