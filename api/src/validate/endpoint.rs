//! Published ports.

use std::collections::BTreeSet;

use super::not_honoured;
use crate::{
    ApiError,
    spec::{PortConfig, ServiceSpec},
};

pub(super) fn endpoint(spec: &ServiceSpec) -> Result<(), ApiError> {
    let Some(endpoint) = &spec.endpoint_spec else { return Ok(()) };
    match endpoint.mode.as_deref().unwrap_or("") {
        "" | "vip" => {}
        "dnsrr" if spec.ports().iter().any(PortConfig::is_ingress) => {
            return Err(ApiError::invalid(
                "EndpointSpec: port published with ingress mode can't be used with dnsrr mode",
            ));
        }
        "dnsrr" => return Err(not_honoured("EndpointSpec.Mode", "dnsrr")),
        mode => {
            return Err(ApiError::invalid(format!("EndpointSpec.Mode: invalid resolution mode: \"{mode}\"")));
        }
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
        // Whatever the modes (`SK:manager/controlapi/service.go:validateEndpointSpec`).
        let key = (port.protocol(), port.published_port);
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
