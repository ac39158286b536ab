//! Nodes as they are applied: an address has one owner, and a manager can what the swarm asks for.

use std::sync::Arc;

use skep_api::{
    NodeId, Timestamp,
    object::{Node, NodeState, NodeStatus},
};

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
        self.replace_node(old.as_deref(), new);
        Ok(ObjectRef::Node(id))
    }

    pub(super) fn delete_node(&mut self, id: NodeId) -> Option<ObjectRef> {
        let old = self.nodes.remove(&id)?;
        if let Some(address) = old.ingress_addr {
            self.addresses.remove(&address);
        }
        self.down.remove(&(old.status.since, id));
        Some(ObjectRef::Node(id))
    }

    /// What was observed of a node: it does not raise the version.
    pub(super) fn report_node(
        &mut self,
        id: NodeId,
        status: &NodeStatus,
        now: Timestamp,
    ) -> Option<ObjectRef> {
        let old = self.nodes.get(&id)?.clone();
        let mut status = status.clone();
        // What was stored before there were dates counts from the first word since.
        let is_new = status.state != old.status.state || old.status.since.is_zero();
        status.since = if is_new && self.feature_level() >= 2 { now } else { old.status.since };
        if status == old.status {
            return None;
        }
        self.replace_node(Some(&old), Node { status, ..(*old).clone() });
        Some(ObjectRef::Node(id))
    }

    fn replace_node(&mut self, old: Option<&Node>, new: Node) {
        if let Some(old) = old {
            self.down.remove(&(old.status.since, old.id));
        }
        if new.status.state == NodeState::Down {
            self.down.insert((new.status.since, new.id));
        }
        self.nodes.insert(new.id, Arc::new(new));
    }
}
