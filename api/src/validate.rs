//! Validation of specs: what is wrong is named by its field, and so is what this build does not honour yet.
//!
//! Numbers and words are Swarm's (`SK:manager/controlapi/{common,service}.go`, `SK:api/validation`).

mod container;
mod endpoint;
mod labels;
mod network;
mod service;
mod swarm;
mod task;
mod update;

pub use container::signal_number;
pub use network::{INGRESS_REFUSED, network};
use serde_json::{Map, Value};
pub use service::{NAME_CHARS_MAX, REPLICAS_MAX, service};
pub use swarm::swarm;
pub use task::size;

use crate::{
    ApiError, ErrorKind,
    json::is_zero,
    object::ingress::DATA_PATH_PORT,
    spec::{InitRequest, NodeSpec},
};

/// Refuses the keys of `known` that ask for something.
fn unhonoured(extra: &Map<String, Value>, path: &str, known: &[&str]) -> Result<(), ApiError> {
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
