//! Networks as they are applied: names, address ranges and VXLAN ids have one owner each, and a network
//! that a service names is there.

use std::sync::Arc;

use skep_api::{
    NetworkId, Timestamp,
    object::{Network, Service, ingress},
};

use crate::{ObjectRef, Refusal, RefusalKind, View, apply::remove_member};

impl View {
    pub(crate) fn put_network(
        &mut self,
        network: &Arc<Network>,
        now: Timestamp,
    ) -> Result<ObjectRef, Refusal> {
        let id = network.id;
        let old = self.networks.get(&id).cloned();
        let new = Network { meta: self.meta(old.as_ref().map(|o| o.meta), now), ..(**network).clone() };
        if let Some(old) = &old {
            self.unindex_network(old);
        }
        let name = &new.spec.name;
        if name == ingress::NAME || self.network_names.contains_key(name) {
            let words = format!("network with name {name} already exists");
            return Err(Refusal::new(RefusalKind::NameTaken, words));
        }
        for subnet in new.subnets.iter().map(|own| own.subnet) {
            let taken = self.overlapping_subnet(subnet).map(|(other, _)| other);
            let taken = taken.or_else(|| ingress::SUBNET.overlaps(subnet).then_some(ingress::SUBNET));
            if let Some(other) = taken {
                let words =
                    format!("Pool overlaps with other one on this address space: {subnet} and {other}");
                return Err(Refusal::new(RefusalKind::SubnetTaken, words));
            }
            self.subnets.insert(subnet.base(), (subnet, id));
        }
        if new.vni != 0 {
            if new.vni == ingress::VNI || self.vnis.contains_key(&new.vni) {
                let words = format!("VXLAN id {} belongs to another network", new.vni);
                return Err(Refusal::new(RefusalKind::VniTaken, words));
            }
            self.vnis.insert(new.vni, id);
        }
        self.network_names.insert(name.clone(), id);
        self.networks.insert(id, Arc::new(new));
        Ok(ObjectRef::Network(id))
    }

    pub(crate) fn delete_network(&mut self, id: NetworkId) -> Result<Option<ObjectRef>, Refusal> {
        if let Some(user) = self.services_on_network(id).next() {
            return Err(Refusal::new(
                RefusalKind::InUse,
                format!("network {id} is in use by service {}", user.id),
            ));
        }
        let Some(old) = self.networks.remove(&id) else { return Ok(None) };
        self.unindex_network(&old);
        Ok(Some(ObjectRef::Network(id)))
    }

    fn unindex_network(&mut self, old: &Network) {
        self.network_names.remove(&old.spec.name);
        for subnet in &old.subnets {
            self.subnets.remove(&subnet.subnet.base());
        }
        if old.vni != 0 {
            self.vnis.remove(&old.vni);
        }
    }

    /// Moves a service's entries from its old networks to its new ones, which must be there.
    pub(crate) fn use_networks(&mut self, old: Option<&Service>, new: &Service) -> Result<(), Refusal> {
        if let Some(old) = old {
            self.unuse_networks(old);
        }
        for id in new.spec.network_ids() {
            if !self.networks.contains_key(&id) {
                return Err(Refusal::new(RefusalKind::Missing, format!("network {id} not found")));
            }
            self.network_users.entry(id).or_default().insert(new.id);
        }
        Ok(())
    }

    pub(crate) fn unuse_networks(&mut self, old: &Service) {
        for id in old.spec.network_ids() {
            remove_member(&mut self.network_users, &id, old.id);
        }
    }
}
