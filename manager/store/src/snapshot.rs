//! The whole store as a stream of bytes, and back: what a new or a restarted manager begins with.
//!
//! Objects only, each once; indexes are made anew by the same code that apply uses. The bytes are those of
//! one `StoreSnapshot`, written and read a field at a time: neither end holds more than an object.

use std::{
    collections::VecDeque,
    io::{self, Read, Write},
    sync::Arc,
};

use imbl::OrdMap;
use prost::{
    Message,
    encoding::{self, WireType},
};
use skep_api::{
    RequestId, ServiceId, Timestamp,
    convert::task_in,
    object::{Network, Node, Service},
    spec::ServiceSpec,
    wire,
};

use crate::{ObjectRef, Refusal, RefusalKind, Store, View, record::Record};

/// The form that this build writes and reads.
const FORMAT: u32 = 1;

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
        restoring.end()
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

/// A store as far as its records have come. [`Store::restore`] does it all; this is for who reads elsewhere.
#[derive(Debug, Default)]
pub struct Restoring {
    has_format: bool,
    revision: u64,
    view: View,
    requests: OrdMap<RequestId, Vec<u8>>,
    request_order: VecDeque<RequestId>,
}

impl Restoring {
    /// Takes the next record over.
    ///
    /// # Errors
    /// It does not fit to those before.
    pub fn take(&mut self, record: Record) -> Result<(), SnapshotError> {
        match record {
            Record::Format(format) if format == u64::from(FORMAT) => self.has_format = true,
            Record::Format(format) => {
                return Err(SnapshotError(format!("it has format {format}, and this build reads {FORMAT}")));
            }
            Record::Revision(revision) => self.revision = revision,
            Record::Cluster(cluster) => {
                self.view.cluster = Some(Arc::new((*cluster).try_into().map_err(Refusal::from)?));
            }
            Record::Node(node) => self.view.restore_node((*node).try_into().map_err(Refusal::from)?)?,
            Record::Network(network) => {
                self.view.restore_network((*network).try_into().map_err(Refusal::from)?)?;
            }
            Record::Service(service) => {
                self.view.restore_service((*service).try_into().map_err(Refusal::from)?)?;
            }
            Record::Spec(spec) => self.view.restore_spec(&spec)?,
            Record::Task(task) => self.view.restore_task(*task)?,
            Record::Request(request) => {
                let id = RequestId::from_bytes(&request.id).ok_or_else(|| without("a request", "an id"))?;
                self.requests.insert(id, request.answer);
                self.request_order.push_back(id);
            }
        }
        Ok(())
    }

    /// The store, after the last record.
    ///
    /// # Errors
    /// There was none that says the format.
    pub fn end(mut self) -> Result<Store, SnapshotError> {
        if !self.has_format {
            return Err(SnapshotError("it names no format".to_owned()));
        }
        self.view.revision = self.revision;
        Ok(Store { view: self.view, requests: self.requests, request_order: self.request_order })
    }
}

fn without(what: &str, field: &str) -> Refusal {
    Refusal::new(RefusalKind::Format, format!("{what} is without {field}"))
}

impl View {
    /// All objects that this view has, as changes name them.
    pub fn objects(&self) -> impl Iterator<Item = ObjectRef> + '_ {
        let cluster = self.cluster.iter().map(|_| ObjectRef::Cluster);
        let tasks = self.tasks.values().map(|task| ObjectRef::Task(task.id, task.service_id, task.node_id));
        let nodes = self.nodes.keys().map(|id| ObjectRef::Node(*id));
        let services = self.services.keys().map(|id| ObjectRef::Service(*id));
        let networks = self.networks.keys().map(|id| ObjectRef::Network(*id));
        cluster.chain(nodes).chain(networks).chain(services).chain(tasks)
    }

    // Each puts its object as if it were new, and gives it back the meta that it had.

    fn restore_node(&mut self, node: Node) -> Result<(), Refusal> {
        let (id, meta) = (node.id, node.meta);
        self.put_node(&Arc::new(node), Timestamp(0))?;
        if let Some(node) = self.nodes.get_mut(&id) {
            Arc::make_mut(node).meta = meta;
        }
        Ok(())
    }

    fn restore_network(&mut self, network: Network) -> Result<(), Refusal> {
        let (id, meta) = (network.id, network.meta);
        self.put_network(&Arc::new(network), Timestamp(0))?;
        if let Some(network) = self.networks.get_mut(&id) {
            Arc::make_mut(network).meta = meta;
        }
        Ok(())
    }

    fn restore_service(&mut self, service: Service) -> Result<(), Refusal> {
        let (id, meta) = (service.id, service.meta);
        // A service's spec version is the revision at which the spec was put.
        self.revision = service.spec_version;
        self.put_service(&Arc::new(service), Timestamp(0))?;
        if let Some(service) = self.services.get_mut(&id) {
            Arc::make_mut(service).meta = meta;
        }
        Ok(())
    }

    fn restore_spec(&mut self, spec: &wire::StoredSpec) -> Result<(), Refusal> {
        let service =
            ServiceId::from_bytes(&spec.service_id).ok_or_else(|| without("a spec", "a service"))?;
        let read: ServiceSpec = serde_json::from_slice(&spec.spec)
            .map_err(|e| Refusal::new(RefusalKind::Format, format!("a spec of service {service}: {e}")))?;
        self.specs.insert((service, spec.version), (Arc::new(read), 0));
        Ok(())
    }

    fn restore_task(&mut self, task: wire::Task) -> Result<(), Refusal> {
        let service =
            ServiceId::from_bytes(&task.service_id).ok_or_else(|| without("a task", "a service"))?;
        let Some((spec, n_tasks)) = self.specs.get_mut(&(service, task.spec_version)) else {
            let words = format!("service {service} has no spec version {}", task.spec_version);
            return Err(Refusal::new(RefusalKind::Missing, words));
        };
        *n_tasks += 1;
        let task = task_in(task, Arc::clone(spec))?;
        self.replace_task(None, task)?;
        Ok(())
    }
}
