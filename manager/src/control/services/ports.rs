//! The ports that a service asks for.

use std::sync::Arc;

use skep_api::{
    ApiError, ServiceId,
    spec::{PortConfig, ServiceSpec},
};
use skep_orchestrator::assign_ports;
use skep_store::View;

use crate::control::invalid_argument;

/// A port that another service has is refused with its owner's name, before anything is written; the
/// store's guard catches what comes between. Two services may have the same host-mode port, on different
/// nodes (`SK:manager/controlapi/service.go`). The swarm's own ports are nobody's: a service on them would
/// cut nodes off.
pub(in crate::control) fn check_ports(
    view: &View,
    spec: &ServiceSpec,
    id: ServiceId,
) -> Result<(), ApiError> {
    let is_own = |port: &PortConfig| {
        view.port_owner(port.protocol(), port.published_port) == Some(id) && port.is_ingress()
    };
    let named = |(_, port): &(usize, &PortConfig)| port.published_port != 0 && !is_own(port);
    for (at, port) in spec.ports().iter().enumerate().filter(named) {
        let refused =
            |words: &str| ApiError::invalid(invalid_argument(&format!("EndpointSpec.Ports[{at}]: {words}")));
        if is_of_the_swarm(view, port) {
            let words = format!(
                "port '{}' is the swarm's own ({}); publish another one",
                port.published_port,
                port.protocol()
            );
            return Err(refused(&words));
        }
        let asking = view.services_asking_for(port.protocol(), port.published_port);
        let owner = view.port_owner(port.protocol(), port.published_port).and_then(|id| view.service(id));
        for other in asking.chain(owner).filter(|other| other.id != id) {
            // What is allocated, and what is asked for but not allocated yet.
            let theirs = other.ports.iter().chain(other.spec.ports());
            if let Some(theirs) = theirs.into_iter().find(|theirs| clashes(theirs, port)) {
                return Err(refused(&view.port_taken(theirs, other.id)));
            }
        }
    }
    Ok(())
}

/// The ports of a service that names them all: given with the spec that asks for them, so that of two that ask
/// for one at the same time the second is refused, and not left waiting. A number that is still to be chosen is the
/// leader's to choose.
pub(super) fn named_ports(view: &View, spec: &ServiceSpec, id: ServiceId) -> Option<Arc<[PortConfig]>> {
    let is_named = |port: &PortConfig| !port.is_ingress() || port.published_port != 0;
    let ports = spec.ports().iter().all(is_named).then(|| assign_ports(view, id, spec, &[]));
    Some(ports?.ok()?.into())
}

fn is_of_the_swarm(view: &View, port: &PortConfig) -> bool {
    match port.protocol() {
        "tcp" => view.nodes().any(|node| {
            let own = node.advertise_addr.rsplit_once(':').and_then(|(_, own)| own.parse::<u16>().ok());
            own == Some(port.published_port)
        }),
        _ => view.cluster().is_some_and(|cluster| cluster.data_path_port == u32::from(port.published_port)),
    }
}

fn clashes(theirs: &PortConfig, ours: &PortConfig) -> bool {
    (theirs.is_ingress() || ours.is_ingress())
        && theirs.protocol() == ours.protocol()
        && theirs.published_port == ours.published_port
}
