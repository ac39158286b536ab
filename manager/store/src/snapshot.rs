//! The whole store as a stream of bytes, and back: what a new or a restarted manager begins with.
//!
//! Objects only, each once; indexes are made anew (`restore`). The bytes are those of one `StoreSnapshot`, written and read a field at a time: neither end holds more than an object.

use std::{
    io::{self, Read, Write},
    sync::Arc,
};

use imbl::{OrdMap, ordmap::DiffItem};
use prost::{
    Message,
    encoding::{self, WireType},
};
use skep_api::wire;

use crate::{ObjectRef, Record, Refusal, Restoring, Store, View};

/// The form that this build writes and reads.
pub(crate) const FORMAT: u32 = 1;

/// Why a snapshot was not taken over. Nothing was changed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the snapshot of the swarm's state is not usable: {0}")]
pub struct SnapshotError(pub(crate) String);

impl From<Refusal> for SnapshotError {
    fn from(refusal: Refusal) -> Self {
        Self(refusal.message)
    }
}

impl Store {
    /// Writes all of it: equal stores give equal bytes. Takes as long as the state is large; a clone of the
    /// store is O(1), so that this can be done elsewhere.
    ///
    /// # Errors
    /// What `out` says.
    pub fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let view = &self.view;
        let mut out = Records { out, buffer: Vec::new() };
        out.number(1, u64::from(FORMAT))?;
        out.number(2, view.revision)?;
        if let Some(cluster) = &view.cluster {
            out.message(3, &wire::Cluster::from(&**cluster))?;
        }
        for node in view.nodes.values() {
            out.message(4, &wire::Node::from(&**node))?;
        }
        // Before the services that name them.
        for network in view.networks.values() {
            out.message(9, &wire::Network::from(&**network))?;
        }
        for service in view.services.values() {
            out.message(5, &wire::Service::from(&**service))?;
        }
        for ((service, version), (spec, _)) in &view.specs {
            if view.services.get(service).is_some_and(|s| s.spec_version == *version) {
                continue;
            }
            let spec = serde_json::to_vec(&**spec).map_err(io::Error::other)?;
            out.message(6, &wire::StoredSpec { service_id: service.to_bytes(), version: *version, spec })?;
        }
        for task in view.tasks.values() {
            out.message(7, &wire::Task::from(&**task))?;
        }
        for ticket in view.tickets.values() {
            out.message(10, &wire::Ticket::from(&**ticket))?;
        }
        for id in &self.request_order {
            let answer = self.requests.get(id).cloned().unwrap_or_default();
            out.message(8, &wire::RememberedRequest { id: id.to_bytes(), answer })?;
        }
        Ok(())
    }

    /// The store that was written.
    ///
    /// # Errors
    /// It was written by a newer build, or is no snapshot, or reading failed.
    pub fn restore(input: &mut dyn Read) -> Result<Self, SnapshotError> {
        let mut input = io::BufReader::new(input);
        let mut restoring = Restoring::default();
        while let Some(record) = Record::read(&mut input)? {
            restoring.take(record)?;
        }
        restoring.end(|one, other| {
            one();
            other();
        })
    }
}

/// Writes the fields of one message, one after the other.
struct Records<'a> {
    out: &'a mut dyn Write,
    buffer: Vec<u8>,
}

impl Records<'_> {
    fn number(&mut self, tag: u32, number: u64) -> io::Result<()> {
        self.buffer.clear();
        encoding::encode_key(tag, WireType::Varint, &mut self.buffer);
        encoding::encode_varint(number, &mut self.buffer);
        self.out.write_all(&self.buffer)
    }

    fn message(&mut self, tag: u32, message: &impl Message) -> io::Result<()> {
        self.buffer.clear();
        encoding::encode_key(tag, WireType::LengthDelimited, &mut self.buffer);
        message.encode_length_delimited(&mut self.buffer).map_err(io::Error::other)?;
        self.out.write_all(&self.buffer)
    }
}

/// Tells of each value that differs, as it is in `new` if it is there.
fn differing<K: Ord, V: PartialEq>(
    old: &OrdMap<K, Arc<V>>,
    new: &OrdMap<K, Arc<V>>,
    mut tell: impl FnMut(&V),
) {
    for item in old.diff(new) {
        match item {
            DiffItem::Add(_, value) | DiffItem::Remove(_, value) => tell(value),
            DiffItem::Update { new: (_, value), .. } => tell(value),
        }
    }
}

impl View {
    /// All objects that this view has, as changes name them.
    pub fn objects(&self) -> impl Iterator<Item = ObjectRef> + '_ {
        let cluster = self.cluster.iter().map(|_| ObjectRef::Cluster);
        let tasks = self.tasks.values().map(|task| ObjectRef::Task(task.id, task.service_id, task.node_id));
        let nodes = self.nodes.keys().map(|id| ObjectRef::Node(*id));
        let services = self.services.keys().map(|id| ObjectRef::Service(*id));
        let networks = self.networks.keys().map(|id| ObjectRef::Network(*id));
        let tickets = self.tickets.keys().map(|id| ObjectRef::Ticket(*id));
        cluster.chain(nodes).chain(networks).chain(services).chain(tasks).chain(tickets)
    }

    /// The objects that differ in another view, or are in one of the two alone. Costs as much as what is not
    /// shared.
    #[must_use]
    pub fn diff(&self, other: &Self) -> Vec<ObjectRef> {
        let mut found = Vec::new();
        if self.cluster != other.cluster {
            found.push(ObjectRef::Cluster);
        }
        differing(&self.nodes, &other.nodes, |node| found.push(ObjectRef::Node(node.id)));
        differing(&self.networks, &other.networks, |network| found.push(ObjectRef::Network(network.id)));
        differing(&self.services, &other.services, |service| found.push(ObjectRef::Service(service.id)));
        differing(&self.tasks, &other.tasks, |task| {
            found.push(ObjectRef::Task(task.id, task.service_id, task.node_id));
        });
        differing(&self.tickets, &other.tickets, |ticket| found.push(ObjectRef::Ticket(ticket.id)));
        found
    }
}
