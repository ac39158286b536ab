//! The mesh of one node: the shell around plan, kernel, records and proxies.
//!
//! Kernel work blocks for microseconds to milliseconds and runs on the runtime's blocking threads; `apply`
//! calls go one after the other, tasks side by side.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::config::Config;
use crate::desired::{Desired, PortKey};
use crate::error::{Doing, MeshError};
use crate::linux::netns;
use crate::linux::node::Node;
use crate::plan::{Applied, Seat, Served, plan};
use crate::proxy::{Proxy, Targets};
use crate::record::Book;

/// Tasks whose ids share a lock wait for each other; enough that they rarely do.
const N_TASK_LOCKS: usize = 64;

/// The mesh of one node. Clones are the same mesh.
#[derive(Debug, Clone)]
pub struct Mesh {
    pub(crate) shared: Arc<Shared>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) node: Mutex<Node>,
    pub(crate) book: Mutex<Book>,
    pub(crate) holds: Mutex<BTreeMap<PortKey, Proxy>>,
    local: Mutex<LocalPorts>,
    gate: Arc<tokio::sync::Mutex<()>>,
    pub(crate) task_locks: Vec<Arc<tokio::sync::Mutex<()>>>,
}

/// The published ports as 127.0.0.1 has them.
#[derive(Debug, Default)]
struct LocalPorts {
    served: BTreeMap<PortKey, Proxy>,
    /// Ports that a process of the node holds there; tried again with each apply, said once.
    refused: BTreeSet<PortKey>,
}

/// What the mutex guards is whole between any two calls, also when one of them panicked.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Mesh {
    /// Makes the node's part of the mesh in the network namespace of the calling thread, or adopts what is
    /// there of an earlier life: its tasks keep their networks, their connections go on.
    ///
    /// # Errors
    /// When the kernel refuses, or the state file is damaged.
    pub async fn start(config: Config) -> Result<Mesh, MeshError> {
        let shared = blocking((), move || Shared::start(config)).await?;
        Ok(Mesh { shared: Arc::new(shared) })
    }

    /// Brings the kernel to the desired state, whole; returns when it has it. What it has already is not
    /// touched. A failure leaves what was applied before, or part of the way; the next call mends it.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn apply(&self, desired: Desired) -> Result<(), MeshError> {
        let one_at_a_time = Arc::clone(&self.shared.gate).lock_owned().await;
        let shared = Arc::clone(&self.shared);
        blocking(one_at_a_time, move || shared.apply(&desired)).await
    }

    /// Removes everything of ours: tasks' networks, bridges, rules, records.
    ///
    /// # Errors
    /// When the kernel refuses; what is left can be removed by calling again.
    pub async fn teardown(&self) -> Result<(), MeshError> {
        let one_at_a_time = Arc::clone(&self.shared.gate).lock_owned().await;
        for task in self.attached() {
            self.detach(&task).await?;
        }
        let shared = Arc::clone(&self.shared);
        blocking(one_at_a_time, move || shared.teardown()).await
    }

    /// The tasks that have a network here.
    pub fn attached(&self) -> Vec<String> {
        lock(&self.shared.book).tasks().keys().cloned().collect()
    }
}

/// Runs kernel work where it may block. It runs to its end, and holds the lock until then, also when the
/// caller gives up waiting.
pub(crate) async fn blocking<T: Send + 'static>(
    lock: impl Send + 'static,
    work: impl FnOnce() -> Result<T, MeshError> + Send + 'static,
) -> Result<T, MeshError> {
    let work = move || {
        let _held = lock;
        work()
    };
    tokio::task::spawn_blocking(work).await.map_err(|_| MeshError::Interrupted)?
}

impl Shared {
    fn start(config: Config) -> Result<Shared, MeshError> {
        let dir = &config.netns_dir;
        std::fs::create_dir_all(dir).doing(|| format!("make {}", dir.display()))?;
        if let Some(parent) = config.state_file.parent() {
            std::fs::create_dir_all(parent).doing(|| format!("make {}", parent.display()))?;
        }
        let book = Book::open(&config)?;
        let mut node = Node::start(&config)?;
        node.sweep_links(book.tasks().keys().map(String::as_str))?;
        let shared = Shared {
            node: Mutex::new(node),
            book: Mutex::new(book),
            holds: Mutex::default(),
            local: Mutex::default(),
            gate: Arc::default(),
            task_locks: (0..N_TASK_LOCKS).map(|_| Arc::default()).collect(),
            config,
        };
        shared.sweep_pins()?;
        shared.adopt_host_ports()?;
        Ok(shared)
    }

    /// Removes pinned namespaces that belong to no task.
    fn sweep_pins(&self) -> Result<(), MeshError> {
        let dir = &self.config.netns_dir;
        let sweeping = || format!("remove left-over namespaces from {}", dir.display());
        for entry in std::fs::read_dir(dir).doing(sweeping)? {
            let entry = entry.doing(sweeping)?;
            let is_known =
                entry.file_name().to_str().is_some_and(|name| lock(&self.book).tasks().contains_key(name));
            if !is_known {
                netns::unpin(&entry.path()).doing(sweeping)?;
            }
        }
        Ok(())
    }

    fn adopt_host_ports(&self) -> Result<(), MeshError> {
        let mut all = BTreeMap::new();
        for (task, record) in lock(&self.book).tasks() {
            for port in &record.host_ports {
                let key = PortKey { protocol: port.protocol, published: port.published };
                all.insert(key, Seat { addr: record.bridge_addr, port: port.target });
                if let Err(error) = self.hold(*port, record.bridge_addr) {
                    tracing::warn!(task.id = %task, err = %error, "a process of the node took a task's host port");
                }
            }
        }
        lock(&self.node).set_host_ports(&all)
    }

    fn apply(&self, desired: &Desired) -> Result<(), MeshError> {
        let tasks: Vec<String> = {
            let book = lock(&self.book);
            book.tasks().iter().filter(|(_, r)| r.ingress.is_some()).map(|(task, _)| task.clone()).collect()
        };
        let tasks: Vec<&str> = tasks.iter().map(String::as_str).collect();
        let own = self.config.data_path_addr;
        let ports = {
            let mut node = lock(&self.node);
            let first = plan(desired, &node.applied, own);
            if let Err(error) = node.run(&first, &tasks) {
                // The kernel had not what we thought; once more, from what it has.
                tracing::warn!(revision = desired.revision, err = ?error, "applying the mesh state from scratch");
                node.recover()?;
                let second = plan(desired, &node.applied, own);
                node.run(&second, &tasks)?;
            }
            node.applied.ports.clone()
        };
        lock(&self.book).set_ingress(desired.ingress)?;
        self.serve_local(&ports);
        tracing::debug!(revision = desired.revision, ports = ports.len(), "applied the mesh state");
        Ok(())
    }

    /// Brings the proxies on 127.0.0.1 to the published ports.
    fn serve_local(&self, ports: &BTreeMap<PortKey, Served>) {
        let mut local = lock(&self.local);
        let gone: Vec<PortKey> =
            local.served.keys().filter(|port| !ports.contains_key(port)).copied().collect();
        for port in gone {
            if let Some(proxy) = local.served.remove(&port) {
                proxy.stop();
            }
        }
        local.refused.retain(|port| ports.contains_key(port));
        for (port, served) in ports {
            if let Some(proxy) = local.served.get(port) {
                proxy.set_targets(targets(served));
                continue;
            }
            match Proxy::start(Ipv4Addr::LOCALHOST, *port, targets(served)) {
                Ok(proxy) => {
                    local.refused.remove(port);
                    local.served.insert(*port, proxy);
                }
                Err(error) if local.refused.insert(*port) => {
                    tracing::warn!(port = port.published, protocol = %port.protocol, err = %error,
                        "a process of the node holds a published port on 127.0.0.1");
                }
                Err(_) => {}
            }
        }
    }

    fn teardown(&self) -> Result<(), MeshError> {
        self.serve_local(&Applied::default().ports);
        lock(&self.node).teardown()?;
        lock(&self.book).erase()?;
        self.sweep_pins()
    }
}

/// As the slots have them, so that chance weighs them alike.
fn targets(served: &Served) -> Targets {
    let seats = served.slots.as_ref().map(|s| s.seats.as_slice()).unwrap_or_default();
    seats.iter().map(|addr| SocketAddrV4::new(*addr, served.target)).collect()
}
