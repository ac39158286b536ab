//! Nodes as they are applied: an address has one owner, and a manager can what the swarm asks for.

use std::sync::Arc;

use skep_api::{Timestamp, object::Node};

use crate::{ObjectRef, Refusal, RefusalKind, View};

impl View {
    pub(crate) fn put_node(&mut self, node: &Arc<Node>, now: Timestamp) -> Result<ObjectRef, Refusal> {
        let id = node.id;
        self.check_level(node)?;
        let old = self.nodes.get(&id).cloned();
        let mut new = Node { meta: self.meta(old.as_ref().map(|o| o.meta), now), ..(**node).clone() };
        if let Some(old) = &old {
            new.status = old.status.clone();
            if let Some(address) = old.ingress_addr {
                self.addresses.remove(&address);
            }
        }
        if let Some(address) = new.ingress_addr {
            if self.addresses.contains_key(&address) {
                let words = format!("address {address} is given to somebody else");
                return Err(Refusal::new(RefusalKind::AddressTaken, words));
            }
            self.addresses.insert(address, id.0);
        }
        self.nodes.insert(id, Arc::new(new));
        Ok(ObjectRef::Node(id))
    }
}
