//! Services as they are applied: a name and a port have one owner each, and a spec lives as long as a task has it.

use std::sync::Arc;

use skep_api::{ServiceId, Timestamp, object::Service, spec::PortConfig};

use crate::{ObjectRef, Refusal, RefusalKind, View};

impl View {
    pub(crate) fn put_service(
        &mut self,
        service: &Arc<Service>,
        now: Timestamp,
    ) -> Result<ObjectRef, Refusal> {
        let id = service.id;
        let old = self.services.get(&id).cloned();
        let name = &service.spec.name;
        if self.service_names.get(name).is_some_and(|owner| *owner != id) {
            let words = format!("name conflicts with an existing object: service {name} already exists");
            return Err(Refusal::new(RefusalKind::NameTaken, words));
        }
        #[cfg(feature = "next-level")]
        self.check_names_of_next_level(service)?;
        let mut new = Service { meta: self.meta(old.as_ref().map(|o| o.meta), now), ..(**service).clone() };
        new.spec_version = self.revision;
        if let Some(old) = old.as_ref().filter(|old| old.spec == new.spec) {
            new.spec_version = old.spec_version;
            // One allocation for the service and its tasks.
            new.spec = Arc::clone(&old.spec);
        }
        if let Some(old) = &old {
            self.service_names.remove(&old.spec.name);
            for port in old.ports.iter().filter(|port| port.is_ingress()) {
                self.ports.remove(&port_key(port));
            }
        }
        for port in new.ports.iter().filter(|port| port.is_ingress() && port.published_port != 0) {
            if let Some(owner) = self.ports.get(&port_key(port)) {
                return Err(Refusal::new(RefusalKind::PortTaken, self.port_taken(port, *owner)));
            }
            self.ports.insert(port_key(port), id);
        }
        self.service_names.insert(name.clone(), id);
        self.use_networks(old.as_deref(), &new)?;
        let count = self.specs.get(&(id, new.spec_version)).map_or(0, |(_, n)| *n);
        self.specs.insert((id, new.spec_version), (Arc::clone(&new.spec), count));
        let old_version = old.map(|old| old.spec_version).filter(|version| *version != new.spec_version);
        self.services.insert(id, Arc::new(new));
        if let Some(version) = old_version {
            self.forget_spec(id, version);
        }
        Ok(ObjectRef::Service(id))
    }

    /// Swarm's words for a port that another service has, in that one's mode (`SK:manager/controlapi/service.go`).
    #[must_use]
    pub fn port_taken(&self, port: &PortConfig, owner: ServiceId) -> String {
        let name = self.services.get(&owner).map_or("?", |service| service.spec.name.as_str());
        let kind = if port.is_ingress() { "an ingress port" } else { "a host-published port" };
        format!("port '{}' is already in use by service '{name}' ({owner}) as {kind}", port.published_port)
    }

    pub(super) fn delete_service(&mut self, id: ServiceId) -> Option<ObjectRef> {
        let old = self.services.remove(&id)?;
        self.service_names.remove(&old.spec.name);
        for port in old.ports.iter().filter(|port| port.is_ingress()) {
            self.ports.remove(&port_key(port));
        }
        self.unuse_networks(&old);
        self.forget_spec(id, old.spec_version);
        Some(ObjectRef::Service(id))
    }

    /// Drops a spec version that neither the service nor a task refers to.
    pub(super) fn forget_spec(&mut self, service: ServiceId, version: u64) {
        let is_current = self.services.get(&service).is_some_and(|s| s.spec_version == version);
        let unused = self.specs.get(&(service, version)).is_some_and(|(_, count)| *count == 0);
        if unused && !is_current {
            self.specs.remove(&(service, version));
        }
    }
}

fn port_key(port: &PortConfig) -> (String, u16) {
    (port.protocol().to_owned(), port.published_port)
}
