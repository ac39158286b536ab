//! The whole store as bytes, and back: what a new or a restarted manager begins with.
//!
//! Objects only, each once; indexes are made anew by the same code that apply uses. One repeated field
//! a table.

use std::{collections::VecDeque, sync::Arc};

use imbl::OrdMap;
use prost::Message;
use skep_api::{
    RequestId, ServiceId, Timestamp,
    convert::task_in,
    object::{Network, Node, Service},
    spec::ServiceSpec,
    wire,
};

use crate::{ObjectRef, Refusal, RefusalKind, Store, View};

/// The form that this build writes and reads.
const FORMAT: u32 = 1;

/// Why a snapshot was not taken over. Nothing was changed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the snapshot of the swarm's state is not usable: {0}")]
pub struct SnapshotError(String);

impl From<Refusal> for SnapshotError {
    fn from(refusal: Refusal) -> Self {
        Self(refusal.message)
    }
}

impl Store {
    /// All of it as bytes: equal stores give equal bytes. Takes as long as the state is large; a clone of
    /// the store is O(1), so that this can be done elsewhere.
    #[must_use]
    pub fn snapshot(&self) -> Vec<u8> {
        let view = &self.view;
        let is_current = |(id, version): &(ServiceId, u64)| {
            view.services.get(id).is_some_and(|s| s.spec_version == *version)
        };
        let request = |id: &RequestId| wire::RememberedRequest {
            id: id.to_bytes(),
            answer: self.requests.get(id).cloned().unwrap_or_default(),
        };
        let spec = |((service, version), (spec, _)): (&(ServiceId, u64), &(Arc<ServiceSpec>, u64))| {
            wire::StoredSpec {
                service_id: service.to_bytes(),
                version: *version,
                spec: serde_json::to_vec(&**spec)
                    .expect("specs hold only strings as keys and finite numbers"),
            }
        };
        wire::StoreSnapshot {
            format: FORMAT,
            revision: view.revision,
            cluster: view.cluster.as_deref().map(Into::into),
            nodes: view.nodes.values().map(|node| (&**node).into()).collect(),
            services: view.services.values().map(|service| (&**service).into()).collect(),
            specs: view.specs.iter().filter(|(key, _)| !is_current(key)).map(spec).collect(),
            tasks: view.tasks.values().map(|task| (&**task).into()).collect(),
            requests: self.request_order.iter().map(request).collect(),
            networks: view.networks.values().map(|network| (&**network).into()).collect(),
        }
        .encode_to_vec()
    }

    /// The store that `bytes` were made of.
    ///
    /// # Errors
    /// They were made by a newer build, or are no snapshot.
    pub fn restore(bytes: &[u8]) -> Result<Self, SnapshotError> {
        let snapshot = wire::StoreSnapshot::decode(bytes).map_err(|e| SnapshotError(e.to_string()))?;
        if snapshot.format != FORMAT {
            let words = format!("it has format {}, and this build reads {FORMAT}", snapshot.format);
            return Err(SnapshotError(words));
        }
        let cluster = snapshot.cluster.map(TryInto::try_into).transpose().map_err(Refusal::from)?;
        let mut view = View { cluster: cluster.map(Arc::new), ..View::default() };
        for node in snapshot.nodes {
            view.restore_node(node.try_into().map_err(Refusal::from)?)?;
        }
        // Before the services that name them.
        for network in snapshot.networks {
            view.restore_network(network.try_into().map_err(Refusal::from)?)?;
        }
        for service in snapshot.services {
            view.restore_service(service.try_into().map_err(Refusal::from)?)?;
        }
        for spec in &snapshot.specs {
            view.restore_spec(spec)?;
        }
        for task in snapshot.tasks {
            view.restore_task(task)?;
        }
        view.revision = snapshot.revision;
        let (mut requests, mut request_order) = (OrdMap::new(), VecDeque::new());
        for request in snapshot.requests {
            let id = RequestId::from_bytes(&request.id).ok_or_else(|| without("a request", "an id"))?;
            requests.insert(id, request.answer);
            request_order.push_back(id);
        }
        Ok(Self { view, requests, request_order })
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
