//! Services as they are applied: a name and a port have one owner each, and a spec lives as long as a task has it.

use std::sync::Arc;

use skep_api::{
    ServiceId, Timestamp,
    object::Service,
    spec::{PortConfig, ServiceSpec},
};

use crate::{ObjectRef, Refusal, RefusalKind, View, names::ServiceName};

impl View {
    /// A new service's name differs from others' by more than case (`SK:manager/state/store/services.go`). Those that
    /// are there keep theirs, so what restores a state does not ask.
    pub(super) fn check_name(&self, service: &Service) -> Result<(), Refusal> {
        if self.services.contains_key(&service.id) {
            return Ok(());
        }
        let name = &service.spec.name;
        if self.feature_level() >= 2 && self.service_named_alike(name).is_some() {
            return Err(name_taken(name));
        }
        #[cfg(feature = "next-level")]
        self.check_names_of_next_level(service)?;
        Ok(())
    }

    pub(crate) fn put_service(
        &mut self,
        service: &Arc<Service>,
        now: Timestamp,
    ) -> Result<ObjectRef, Refusal> {
        let id = service.id;
        let old = self.services.get(&id).cloned();
        let name = &service.spec.name;
        if self.service_names.get(&ServiceName::of(&service.spec)).is_some_and(|owner| *owner != id) {
            return Err(name_taken(name));
        }
        let mut new = Service { meta: self.meta(old.as_ref().map(|o| o.meta), now), ..(**service).clone() };
        self.set_versions(old.as_deref(), &mut new);
        if let Some(old) = &old {
            share_past(old, &mut new);
            self.unindex_service(old);
        }
        for port in new.ports.iter().filter(|port| port.is_ingress() && port.published_port != 0) {
            if let Some(owner) = self.ports.get(&port_key(port)) {
                return Err(Refusal::new(RefusalKind::PortTaken, self.port_taken(port, *owner)));
            }
            self.ports.insert(port_key(port), id);
        }
        for port in asked(&new) {
            let (protocol, number) = port_key(port);
            self.asked_ports.insert((protocol, number, id));
        }
        if new.spec.mode().is_global() {
            self.globals.insert(id);
        }
        if new.moves_a_minute() > 0 {
            self.balanced.insert(id);
        }
        if new.spec.priority() > 0 {
            self.ranked.insert((new.spec.priority(), id));
        }
        self.service_names.insert(ServiceName::of(&new.spec), id);
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

    /// Says since when the spec is what it is, and what its image is pulled with.
    fn set_versions(&self, old: Option<&Service>, new: &mut Service) {
        (new.spec_version, new.auth_version) = (self.revision, 0);
        let Some(old) = old else { return };
        // Older managers know of no versions of that.
        let is_same_auth = self.feature_level() < 2 || old.registry_auth == new.registry_auth;
        new.auth_version = if is_same_auth { old.auth_version } else { self.revision };
        if Arc::ptr_eq(&old.spec, &new.spec) || old.spec == new.spec {
            // One allocation for the service and its tasks.
            new.spec = Arc::clone(&old.spec);
            if is_same_auth {
                new.spec_version = old.spec_version;
            }
        }
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
        self.unindex_service(&old);
        self.unuse_networks(&old);
        self.forget_spec(id, old.spec_version);
        Some(ObjectRef::Service(id))
    }

    fn unindex_service(&mut self, old: &Service) {
        self.service_names.remove(&ServiceName::of(&old.spec));
        for port in old.ports.iter().filter(|port| port.is_ingress()) {
            self.ports.remove(&port_key(port));
        }
        for port in asked(old) {
            let (protocol, number) = port_key(port);
            self.asked_ports.remove(&(protocol, number, old.id));
        }
        self.globals.remove(&old.id);
        self.balanced.remove(&old.id);
        self.ranked.remove(&(old.spec.priority(), old.id));
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

fn name_taken(name: &str) -> Refusal {
    let words = format!("name conflicts with an existing object: service {name} already exists");
    Refusal::new(RefusalKind::NameTaken, words)
}

/// The ports that a service asks for under a number.
fn asked(service: &Service) -> impl Iterator<Item = &PortConfig> {
    service.spec.ports().iter().filter(|port| port.published_port != 0)
}

/// Past specs that were stored before, in the allocation that they have.
fn share_past(old: &Service, new: &mut Service) {
    let had = || {
        let before = old.previous_spec.iter();
        before.chain(old.history.iter().map(|past| &past.spec)).chain([&old.spec])
    };
    let share = |spec: &mut Arc<ServiceSpec>| {
        if let Some(own) = had().find(|own| **own == *spec) {
            *spec = Arc::clone(own);
        }
    };
    if let Some(previous) = &mut new.previous_spec {
        share(previous);
    }
    if old.history == new.history {
        new.history = Arc::clone(&old.history);
    } else {
        let mut history = new.history.to_vec();
        history.iter_mut().for_each(|past| share(&mut past.spec));
        new.history = history.into();
    }
}

fn port_key(port: &PortConfig) -> (String, u16) {
    (port.protocol().to_owned(), port.published_port)
}
