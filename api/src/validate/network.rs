//! Networks, and the networks of a service.

use std::{collections::BTreeSet, net::Ipv4Addr};

use super::{not_honoured, unhonoured};
use crate::{
    ApiError, ErrorKind,
    cidr::Cidr,
    object::ingress,
    spec::{Ipam, IpamConfig, NetworkSpec, ServiceSpec},
};

/// Longest prefix of a network's subnet (Swarm's, `MB:daemon/cluster/utils.go`).
const PREFIX_MAX: u8 = 29;
/// Swarm's words (`SK:manager/controlapi/service.go`).
pub const INGRESS_REFUSED: &str = "rpc error: code = InvalidArgument desc = Service cannot be explicitly attached to the ingress network \"ingress\"";
/// What every node has by itself (`MB:daemon/network`).
const PREDEFINED: [&str; 4] = ["bridge", "host", "none", "default"];

/// Checks a network for creation.
///
/// # Errors
/// Names the field that is wrong or not honoured yet.
pub fn network(spec: &NetworkSpec) -> Result<(), ApiError> {
    name(&spec.name)?;
    if PREDEFINED.contains(&spec.name.as_str()) {
        let words = format!("operation is not permitted on predefined {} network", spec.name);
        return Err(ApiError::new(ErrorKind::PermissionDenied, words));
    }
    match spec.driver.as_str() {
        "" | "overlay" => {}
        driver @ ("bridge" | "host" | "macvlan" | "ipvlan" | "none" | "null") => {
            return Err(ApiError::new(
                ErrorKind::Unimplemented,
                format!(
                    "Driver: a network of one node ('{driver}') is not supported by skep yet; ask for 'overlay'"
                ),
            ));
        }
        driver => return Err(ApiError::not_found(format!("plugin \"{driver}\" not found"))),
    }
    match spec.scope.as_str() {
        "" | "swarm" | "global" => {}
        scope => return Err(not_honoured("Scope", scope)),
    }
    if spec.ingress {
        return Err(not_honoured("Ingress", ""));
    }
    if spec.enable_ipv6 == Some(true) {
        return Err(not_honoured("EnableIPv6", ""));
    }
    if spec.enable_ipv4 == Some(false) {
        return Err(not_honoured("EnableIPv4", "false"));
    }
    // Its value is an object that names nothing when it asks for nothing.
    let from = spec.extra.get("ConfigFrom").and_then(|from| from.get("Network"));
    if from.is_some_and(|name| !crate::json::is_zero(name)) {
        return Err(not_honoured("ConfigFrom", ""));
    }
    unhonoured(&spec.extra, "", &["ConfigOnly"])?;
    if spec.labels.iter().flatten().any(|(key, _)| key.is_empty()) {
        return Err(ApiError::invalid("Labels: a label needs a key"));
    }
    spec.ipam.as_ref().map_or(Ok(()), ipam)
}

/// Docker's rule for the names of networks.
fn name(name: &str) -> Result<(), ApiError> {
    if name.trim().is_empty() {
        return Err(ApiError::invalid("Name: network name cannot be empty"));
    }
    let is_edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    let others = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    if !is_edge(name.chars().next()) || !name.chars().all(others) {
        return Err(ApiError::invalid(format!(
            "Name: invalid network name '{name}': letters, digits, '_', '.' and '-' expected"
        )));
    }
    Ok(())
}

fn ipam(ipam: &Ipam) -> Result<(), ApiError> {
    if !matches!(ipam.driver.as_str(), "" | "default") {
        return Err(not_honoured("IPAM.Driver", &ipam.driver));
    }
    if ipam.options.as_ref().is_some_and(|options| !options.is_empty()) {
        return Err(not_honoured("IPAM.Options", ""));
    }
    let mut seen: Vec<Cidr> = Vec::new();
    for (at, config) in ipam.config.iter().flatten().enumerate() {
        let path = format!("IPAM.Config[{at}]");
        unhonoured(&config.extra, &path, &["AuxiliaryAddresses"])?;
        if let Some(subnet) = ipam_config(config, &path)? {
            if let Some(other) = seen.iter().find(|other| other.overlaps(subnet)) {
                return Err(ApiError::invalid(format!("{path}.Subnet: {subnet} overlaps with {other}")));
            }
            seen.push(subnet);
        }
    }
    Ok(())
}

/// libnetwork's rules and words (`MB:api/types/network/ipam.go`).
fn ipam_config(config: &IpamConfig, path: &str) -> Result<Option<Cidr>, ApiError> {
    if config.subnet.is_empty() {
        if !config.gateway.is_empty() || !config.ip_range.is_empty() {
            return Err(ApiError::invalid(format!(
                "{path}.Subnet: a gateway or an IP range needs a subnet that it lies in"
            )));
        }
        return Ok(None);
    }
    let read = |key: &str, text: &str| {
        text.parse::<Cidr>().map_err(|error| ApiError::invalid(format!("{path}.{key}: {error}")))
    };
    let subnet = read("Subnet", &config.subnet)?;
    if !(1..=PREFIX_MAX).contains(&subnet.prefix()) {
        return Err(ApiError::invalid(format!(
            "{path}.Subnet: {subnet}: expected a prefix of 1 to {PREFIX_MAX} bits"
        )));
    }
    if !config.ip_range.is_empty() {
        let range = read("IPRange", &config.ip_range)?;
        if range.prefix() < subnet.prefix() {
            return Err(ApiError::invalid(format!(
                "{path}.IPRange: invalid ip-range {range}: CIDR block is bigger than its parent subnet {subnet}"
            )));
        }
        if !subnet.contains(range.base()) {
            return Err(ApiError::invalid(format!(
                "{path}.IPRange: invalid ip-range {range}: parent subnet {subnet} doesn't contain ip-range"
            )));
        }
    }
    if !config.gateway.is_empty() {
        let gateway: Ipv4Addr = config.gateway.parse().map_err(|_| {
            ApiError::invalid(format!("{path}.Gateway: invalid gateway {}: no IPv4 address", config.gateway))
        })?;
        if !subnet.contains(gateway) {
            return Err(ApiError::invalid(format!(
                "{path}.Gateway: invalid gateway {gateway}: parent subnet {subnet} doesn't contain this address"
            )));
        }
    }
    Ok(Some(subnet))
}

/// Checks how a service names its networks; that they are there is looked up later.
pub(super) fn attachments(spec: &ServiceSpec) -> Result<(), ApiError> {
    let mut seen = BTreeSet::new();
    for (at, attachment) in spec.networks().iter().enumerate() {
        let path = format!("TaskTemplate.Networks[{at}].Target");
        let target = attachment.target.as_str();
        match target {
            "" => return Err(ApiError::invalid(format!("{path}: a network's name or id is needed"))),
            ingress::NAME => return Err(ApiError::invalid(INGRESS_REFUSED)),
            predefined if PREDEFINED.contains(&predefined) => return Err(not_honoured(&path, target)),
            _ => {}
        }
        if !seen.insert(target) {
            return Err(ApiError::invalid(format!("{path}: network {target} is named twice")));
        }
    }
    Ok(())
}
