//! The nodes as placement sees them. It is soft state: kept from pass to pass it is as one made anew.

use std::collections::BTreeMap;

use skep_api::NodeId;

use crate::{
    Ask, Crowd, Filter, NodeInfo,
    classes::{Classes, at},
    order::{Entry, Handle, Order},
    place::Given,
};

/// Adds a node to those of its class.
fn note(entries: &mut Vec<Vec<Entry>>, class: u32, handle: Handle, info: &NodeInfo) {
    if entries.len() <= at(class) {
        entries.resize_with(at(class) + 1, Vec::new);
    }
    entries[at(class)].push(Entry::new(handle, info));
}

/// All nodes; each placement takes from them.
#[derive(Clone, Debug, Default)]
pub struct Picture {
    nodes: Vec<Option<Held>>,
    by_id: BTreeMap<NodeId, Handle>,
    free: Vec<Handle>,
    pub(crate) classes: Classes,
}

#[derive(Clone, Debug)]
struct Held {
    info: NodeInfo,
    class: u32,
}

impl Picture {
    /// A picture of these nodes.
    #[must_use]
    pub fn new(nodes: impl IntoIterator<Item = NodeInfo>) -> Self {
        let mut picture = Self::default();
        let mut entries = Vec::new();
        let mut ids = Vec::new();
        for (info, handle) in nodes.into_iter().zip(0..) {
            // At once, while the node is at hand: there may be more of them than a cache holds.
            let class = picture.classes.find(&info);
            note(&mut entries, class, handle, &info);
            ids.push((info.node.id, handle));
            picture.nodes.push(Some(Held { info, class }));
        }
        picture.by_id = ids.into_iter().collect();
        picture.classes.put_in_order(entries);
        picture
    }

    /// A node of the picture.
    #[must_use]
    pub fn node(&self, id: NodeId) -> Option<&NodeInfo> {
        self.by_id.get(&id).map(|handle| self.info(*handle))
    }

    /// All nodes, in the order of their ids.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeInfo> {
        self.by_id.values().map(|handle| self.info(*handle))
    }

    /// Adds a node, or says what has become of it.
    pub fn put(&mut self, info: NodeInfo) {
        self.remove(info.node.id);
        if self.classes.is_stale(self.by_id.len()) {
            self.classify(self.classes.clone().learnt(&Ask::default()));
        }
        let handle = self.free.pop().unwrap_or_else(|| {
            self.nodes.push(None);
            Handle::try_from(self.nodes.len() - 1).expect("there are fewer nodes than that")
        });
        let class = self.classes.find(&info);
        self.classes.all[at(class)].order.insert(Entry::new(handle, &info));
        self.by_id.insert(info.node.id, handle);
        self.nodes[at(handle)] = Some(Held { info, class });
    }

    /// Takes a node out.
    pub fn remove(&mut self, id: NodeId) {
        let Some(handle) = self.by_id.remove(&id) else { return };
        if let Some(held) = self.nodes[at(handle)].take() {
            self.classes.all[at(held.class)].order.remove(held.info.n_tasks, id);
        }
        self.free.push(handle);
    }

    /// Whether a node takes a task: for tasks that run on a node of their own, or nowhere.
    ///
    /// # Errors
    /// The first rule that refuses it.
    pub fn fits(&self, ask: &Ask, crowd: &Crowd, node: NodeId) -> Result<(), Filter> {
        let info = self.node(node).ok_or(Filter::Ready)?;
        Filter::first(ask, crowd, info, 0).map_or(Ok(()), Err)
    }

    /// Takes from a node what a task will need there, whether it is there or not: until the node is put again.
    pub fn hold(&mut self, ask: &Ask, node: NodeId) {
        if let Some(handle) = self.handle(node) {
            self.take(ask, &[handle]);
        }
    }

    pub(crate) fn n_nodes(&self) -> usize {
        self.by_id.len()
    }

    pub(crate) fn handles(&self) -> impl Iterator<Item = Handle> {
        self.by_id.values().copied()
    }

    pub(crate) fn handle(&self, id: NodeId) -> Option<Handle> {
        self.by_id.get(&id).copied()
    }

    pub(crate) fn info(&self, handle: Handle) -> &NodeInfo {
        &self.held(handle).info
    }

    pub(crate) fn class(&self, handle: Handle) -> u32 {
        self.held(handle).class
    }

    fn held(&self, handle: Handle) -> &Held {
        self.nodes[at(handle)].as_ref().expect("a handle is given out with its node")
    }

    /// Sees to it that classes tell apart what the ask names.
    pub(crate) fn learn(&mut self, ask: &Ask) {
        if !self.classes.knows(ask) {
            let classes = std::mem::take(&mut self.classes);
            self.classify(classes.learnt(ask));
        }
    }

    /// Puts each node into its class anew.
    fn classify(&mut self, mut classes: Classes) {
        let mut entries: Vec<Vec<Entry>> = Vec::new();
        for (slot, handle) in self.nodes.iter_mut().zip(0..) {
            let Some(held) = slot else { continue };
            held.class = classes.find(&held.info);
            note(&mut entries, held.class, handle, &held.info);
        }
        classes.put_in_order(entries);
        self.classes = classes;
    }

    /// Takes from the nodes what tasks reserve that go there, in order.
    pub(crate) fn take(&mut self, ask: &Ask, handles: &[Handle]) -> Vec<Given> {
        let before: BTreeMap<Handle, u64> =
            handles.iter().map(|handle| (*handle, self.info(*handle).n_tasks)).collect();
        let mut given = Vec::with_capacity(handles.len());
        for handle in handles {
            let held = self.nodes[at(*handle)].as_mut().expect("a handle is given out with its node");
            let generic = held.info.take(&ask.amounts);
            given.push(Given { node: held.info.node.id, generic });
        }
        // One by one, or all of a class that most of it changed of.
        if before.len() * 4 > self.by_id.len() {
            let mut touched: Vec<u32> = before.keys().map(|handle| self.class(*handle)).collect();
            touched.sort_unstable();
            touched.dedup();
            for class in touched {
                let handles = self.classes.all[at(class)].order.handles();
                let entries = handles.map(|handle| Entry::new(handle, self.info(handle))).collect();
                self.classes.all[at(class)].order = Order::of(entries);
            }
            return given;
        }
        for (handle, n_tasks) in before {
            let held = self.nodes[at(handle)].as_ref().expect("a handle is given out with its node");
            let order = &mut self.classes.all[at(held.class)].order;
            order.remove(n_tasks, held.info.node.id);
            order.insert(Entry::new(handle, &held.info));
        }
        given
    }
}
