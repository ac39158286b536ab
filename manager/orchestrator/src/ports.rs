//! Gives services the ports that they publish through the mesh.
//!
//! A port once given stays over updates of the service; the store guards that no port has two owners.

use std::{collections::BTreeSet, sync::Arc};

use skep_api::{
    ServiceId,
    object::{Service, Task},
    spec::{Extra, PortConfig, ServiceSpec},
};
use skep_store::{Draft, View};

use crate::{Context, ServicePart, Situation};

/// First port given to who asks for any (`SK:manager/allocator/portallocator.go`).
pub(crate) const DYNAMIC_FIRST: u16 = 30_000;
/// Last port given to who asks for any.
pub(crate) const DYNAMIC_LAST: u16 = 32_767;

/// A port cannot be given.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PortError {
    /// Another service has it.
    #[error("{words}")]
    Taken {
        /// Who has it.
        owner: ServiceId,
        /// Swarm's words, with the owner's name.
        words: String,
    },
    /// All of the dynamic range are given.
    #[error(
        "no free port for protocol {protocol} between {DYNAMIC_FIRST} and {DYNAMIC_LAST}; publish a fixed one"
    )]
    Exhausted {
        /// tcp, udp.
        protocol: String,
    },
}

/// Fills in the ports of services that have none yet or that changed what they publish.
#[derive(Clone, Copy, Debug)]
pub struct Ports;

/// The ports of a service as they are to be: as asked for, with a number where none was. `old` are the
/// ones it has: a number once given is kept for the same name, protocol and target.
///
/// # Errors
/// A port belongs to another service, or the dynamic range is used up.
pub fn assign_ports(
    view: &View,
    service: ServiceId,
    spec: &ServiceSpec,
    old: &[PortConfig],
) -> Result<Vec<PortConfig>, PortError> {
    let owner_of =
        |protocol: &str, port: u16| view.port_owner(protocol, port).filter(|owner| *owner != service);
    let mut own: BTreeSet<(String, u16)> = BTreeSet::new();
    for port in spec.ports().iter().filter(|port| port.is_ingress() && port.published_port != 0) {
        if let Some(owner) = owner_of(port.protocol(), port.published_port) {
            return Err(PortError::Taken { owner, words: view.port_taken(port, owner) });
        }
        own.insert((port.protocol().to_owned(), port.published_port));
    }
    let mut given = Vec::with_capacity(spec.ports().len());
    for port in spec.ports() {
        // With its defaults spelled out, as it is stored and shown.
        let mode = if port.is_ingress() { "ingress" } else { "host" };
        let mut port = PortConfig {
            protocol: port.protocol().to_owned(),
            publish_mode: mode.to_owned(),
            extra: Extra::default(),
            ..port.clone()
        };
        if port.is_ingress() && port.published_port == 0 {
            let protocol = port.protocol().to_owned();
            let sticky = old.iter().find(|had| {
                had.is_ingress()
                    && had.name == port.name
                    && had.protocol() == port.protocol()
                    && had.target_port == port.target_port
                    && (DYNAMIC_FIRST..=DYNAMIC_LAST).contains(&had.published_port)
                    && !own.contains(&(protocol.clone(), had.published_port))
                    && owner_of(&protocol, had.published_port).is_none()
            });
            let free = || {
                (DYNAMIC_FIRST..=DYNAMIC_LAST)
                    .find(|n| !own.contains(&(protocol.clone(), *n)) && owner_of(&protocol, *n).is_none())
            };
            let number = sticky.map(|had| had.published_port).or_else(free);
            port.published_port =
                number.ok_or_else(|| PortError::Exhausted { protocol: protocol.clone() })?;
            own.insert((protocol, port.published_port));
        }
        given.push(port);
    }
    Ok(given)
}

impl ServicePart for Ports {
    fn name(&self) -> &'static str {
        "ports"
    }

    fn is_by_seat(&self) -> bool {
        false
    }

    fn reconcile(&self, at: &mut Situation, draft: &mut Draft, _cx: &mut Context<'_>) {
        let service = Arc::clone(at.service());
        // A port that cannot be given is told by the tasks that wait for it.
        let Ok(ports) = assign_ports(draft, service.id, &service.spec, &service.ports) else { return };
        if *ports != *service.ports {
            at.put_service(draft, Service { ports: ports.into(), ..(*service).clone() });
        }
        refresh_unplaced(at, draft);
    }
}

/// Tasks that were made while their service had to wait for a port get it now.
fn refresh_unplaced(at: &mut Situation, draft: &mut Draft) {
    let service = Arc::clone(at.service());
    let is_stale = |task: &&Arc<Task>| {
        task.is_runnable()
            && task.node_id.is_none()
            && task.spec_version == service.spec_version
            && task.ports != service.ports
    };
    let tasks = at.seats().flat_map(|(_, seat)| &seat.tasks);
    let stale: Vec<Arc<Task>> = tasks.filter(is_stale).cloned().collect();
    for task in stale {
        at.put(draft, Task { ports: Arc::clone(&service.ports), ..(*task).clone() });
    }
}

/// Whether a service could get ports that it has not: another one gave them up, or is among those that change and may.
#[must_use]
pub fn may_get_ports(view: &View, service: &Service, changing: &BTreeSet<ServiceId>) -> bool {
    match assign_ports(view, service.id, &service.spec, &service.ports) {
        Ok(ports) => *ports != *service.ports,
        Err(PortError::Taken { owner, .. }) => changing.contains(&owner),
        Err(PortError::Exhausted { .. }) => !changing.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use skep_api::{Id, Timestamp};
    use skep_store::Change;

    use super::*;

    fn port(target_port: u16, published_port: u16, protocol: &str) -> PortConfig {
        PortConfig {
            target_port,
            published_port,
            protocol: protocol.into(),
            publish_mode: "ingress".into(),
            ..PortConfig::default()
        }
    }

    fn spec(name: &str, ports: Vec<PortConfig>) -> ServiceSpec {
        let json = serde_json::json!({ "Name": name, "EndpointSpec": { "Ports": ports } });
        serde_json::from_value(json).unwrap()
    }

    /// A view in which another service, "taken", has these ports.
    fn with_taken(ports: Vec<PortConfig>) -> Draft {
        let mut draft = Draft::new(View::default(), Timestamp(1));
        let spec = Arc::new(spec("taken", vec![]));
        let service = Service { id: ServiceId(Id(9)), spec, ports: ports.into(), ..Service::default() };
        draft.push(Change::PutService(Arc::new(service))).unwrap();
        draft
    }

    fn check(asked: Vec<PortConfig>, had: &[PortConfig], expect: &[(u16, &str)]) {
        let view = with_taken(vec![port(1, 30_001, "tcp"), port(1, 8080, "tcp")]);
        let given = assign_ports(&view, ServiceId(Id(1)), &spec("a", asked), had).unwrap();
        let given: Vec<(u16, &str)> =
            given.iter().map(|port| (port.published_port, port.protocol())).collect();
        assert_eq!(given, expect);
    }

    #[test]
    fn numbers_are_given_from_the_range_and_kept() {
        check(vec![port(80, 0, ""), port(81, 0, "tcp")], &[], &[(30_000, "tcp"), (30_002, "tcp")]);
        check(vec![port(80, 0, ""), port(80, 0, "udp")], &[], &[(30_000, "tcp"), (30_000, "udp")]);
        check(vec![port(80, 0, ""), port(81, 30_000, "")], &[], &[(30_002, "tcp"), (30_000, "tcp")]);
        check(
            vec![port(70, 0, ""), port(80, 0, "")],
            &[port(80, 30_500, "tcp")],
            &[(30_000, "tcp"), (30_500, "tcp")],
        );
        check(vec![port(80, 0, "")], &[port(80, 30_001, "tcp")], &[(30_000, "tcp")]);
        check(vec![port(80, 0, "")], &[port(80, 8000, "tcp")], &[(30_000, "tcp")]);
        check(vec![port(80, 8080, "udp")], &[], &[(8080, "udp")]);
        let host = PortConfig { publish_mode: "host".into(), ..port(80, 8080, "") };
        check(vec![host], &[], &[(8080, "tcp")]);
    }

    #[test]
    fn what_another_service_has_is_refused_with_its_name() {
        let view = with_taken(vec![port(1, 8080, "tcp")]);
        let error =
            assign_ports(&view, ServiceId(Id(1)), &spec("a", vec![port(80, 8080, "")]), &[]).unwrap_err();
        let expect = format!(
            "port '8080' is already in use by service 'taken' ({}) as an ingress port",
            ServiceId(Id(9))
        );
        assert_eq!(error.to_string(), expect);
    }

    #[test]
    fn a_used_up_range_is_told() {
        let view = with_taken((DYNAMIC_FIRST..=DYNAMIC_LAST).map(|n| port(1, n, "tcp")).collect());
        let error =
            assign_ports(&view, ServiceId(Id(1)), &spec("a", vec![port(80, 0, "")]), &[]).unwrap_err();
        assert_eq!(error, PortError::Exhausted { protocol: "tcp".into() });
    }
}
