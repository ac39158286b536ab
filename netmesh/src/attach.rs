//! Gives a task its network, and takes it back.
//!
//! Order: the address is recorded, then the kernel is changed; when a task leaves, the kernel is cleared and
//! then the record. So whatever is cut off in between is found again by the task's id.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use crate::config::{Attach, Attachment, HostPort};
use crate::desired::{PortKey, Protocol};
use crate::error::{Doing, MeshError};
use crate::linux::netns;
use crate::linux::route::Route;
use crate::linux::wire::{Wiring, host_ends, wire};
use crate::mesh::{Mesh, Shared, blocking, lock};
use crate::plan::fingerprint;
use crate::proxy::Proxy;
use crate::record::TaskRecord;

/// Where ports are picked from when none is asked for.
const PICKED_FIRST: u16 = 32_768;
const TASK_ID_MAX: usize = 128;

impl Mesh {
    /// A network namespace for a task: lo up, eth0 on the node's bridge with the default route, eth1 on the
    /// ingress network where that is asked for. A task that has it keeps it, with the ports it was given.
    ///
    /// # Errors
    /// When the kernel refuses, no address is free, a host port is in use, or this node is not on the
    /// ingress network. A new task then has nothing.
    pub async fn attach(&self, task: &str, want: Attach) -> Result<Attachment, MeshError> {
        check_id(task)?;
        let one_at_a_time = self.task_lock(task).lock_owned().await;
        let (shared, task) = (Arc::clone(&self.shared), task.to_owned());
        blocking(one_at_a_time, move || shared.attach(&task, &want)).await
    }

    /// Takes a task's network away: namespace, interfaces, address, host ports. One that has none is fine.
    ///
    /// # Errors
    /// When the kernel refuses; the task then is still attached, and can be detached again.
    pub async fn detach(&self, task: &str) -> Result<(), MeshError> {
        check_id(task)?;
        let one_at_a_time = self.task_lock(task).lock_owned().await;
        let (shared, task) = (Arc::clone(&self.shared), task.to_owned());
        blocking(one_at_a_time, move || shared.detach(&task)).await
    }

    fn task_lock(&self, task: &str) -> Arc<tokio::sync::Mutex<()>> {
        let n = u64::try_from(self.shared.task_locks.len()).expect("a few locks");
        let at = usize::try_from(fingerprint(task.bytes()) % n).expect("below the number of locks");
        Arc::clone(&self.shared.task_locks[at])
    }
}

/// It becomes a file's name.
fn check_id(task: &str) -> Result<(), MeshError> {
    let is_good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let is_id =
        (1..=TASK_ID_MAX).contains(&task.len()) && task.bytes().all(is_good) && !task.starts_with('.');
    if is_id { Ok(()) } else { Err(MeshError::BadTaskId { task: task.to_owned() }) }
}

fn key(port: &HostPort) -> PortKey {
    PortKey { protocol: port.protocol, published: port.published }
}

impl Shared {
    fn pin(&self, task: &str) -> PathBuf {
        self.config.netns_dir.join(task)
    }

    fn attach(&self, task: &str, want: &Attach) -> Result<Attachment, MeshError> {
        let prefix = lock(&self.book).ingress().map(|i| i.prefix);
        let ingress = match (want.ingress, prefix) {
            (Some(addr), Some(prefix)) => Some((addr, prefix)),
            (Some(_), None) => return Err(MeshError::NoIngress { task: task.to_owned() }),
            (None, _) => None,
        };
        let known = lock(&self.book).tasks().get(task).cloned();
        let is_new = known.is_none();
        let record = match known {
            Some(record) => self.adopt(task, record, want)?,
            None => self.admit(task, want)?,
        };
        let made = self.make(task, want, &record, ingress);
        if let Err(error) = made {
            if is_new && let Err(undo) = self.detach(task) {
                tracing::warn!(task.id = %task, err = ?undo, "cannot undo a half-made network");
            }
            return Err(error);
        }
        Ok(Attachment {
            netns: self.pin(task),
            bridge_addr: record.bridge_addr,
            host_ports: record.host_ports,
        })
    }

    fn make(
        &self,
        task: &str,
        want: &Attach,
        record: &TaskRecord,
        ingress: Option<(Ipv4Addr, u8)>,
    ) -> Result<(), MeshError> {
        let pin = self.pin(task);
        let wiring = Wiring {
            task,
            pin: &pin,
            bridge: (record.bridge_addr, self.config.bridge_subnet.1),
            gateway: self.config.gateway(),
            ingress,
            has_host_ports: !record.host_ports.is_empty(),
        };
        wire(self.find_netns(task, want.pid)?, &wiring)?;
        lock(&self.node).add_host_ports(&record.host_ports, record.bridge_addr)
    }

    /// The task's namespace if it has one: that of its process before the pinned one, which may be a
    /// left-over.
    fn find_netns(&self, task: &str, pid: Option<u32>) -> Result<Option<OwnedFd>, MeshError> {
        let path = self.pin(task);
        let opening = || format!("open the network namespace of task {task}");
        let pinned = if netns::is_pinned(&path) { Some(netns::open(&path).doing(opening)?) } else { None };
        let Some(pid) = pid else { return Ok(pinned) };
        let live = netns::of_process(pid).doing(opening)?;
        let own = netns::current().doing(opening)?;
        if netns::is_same(&live, &own).doing(opening)? {
            return Err(MeshError::ForeignNamespace { task: task.to_owned(), pid });
        }
        if let Some(pinned) = pinned
            && !netns::is_same(&live, &pinned).doing(opening)?
        {
            netns::unpin(&path).doing(|| format!("remove a left-over of task {task}"))?;
        }
        Ok(Some(live))
    }

    /// A task from an earlier life: what it was given holds.
    fn adopt(&self, task: &str, record: TaskRecord, want: &Attach) -> Result<TaskRecord, MeshError> {
        for port in &record.host_ports {
            self.hold(*port, record.bridge_addr)?;
        }
        lock(&self.book).set_task_ingress(task, want.ingress)?;
        Ok(TaskRecord { ingress: want.ingress, ..record })
    }

    fn admit(&self, task: &str, want: &Attach) -> Result<TaskRecord, MeshError> {
        let mut held: BTreeMap<PortKey, HostPort> = BTreeMap::new();
        let mut taking = || {
            for port in &want.host_ports {
                let port = self.hold_new(*port)?;
                held.insert(key(&port), port);
            }
            let record = lock(&self.book).admit(task, want.ingress, held.values().copied().collect())?;
            // Only now is it known where loopback clients go.
            for port in &record.host_ports {
                self.hold(*port, record.bridge_addr)?;
            }
            Ok(record)
        };
        let taken = taking();
        if taken.is_err() {
            for port in held.keys() {
                self.release(*port);
            }
        }
        taken
    }

    /// Binds the port as asked for, or the first free one.
    fn hold_new(&self, port: HostPort) -> Result<HostPort, MeshError> {
        if port.published != 0 {
            self.bind(key(&port)).map_err(|source| MeshError::PortTaken {
                protocol: port.protocol,
                published: port.published,
                source,
            })?;
            return Ok(port);
        }
        let is_published = |published: &u16| {
            lock(&self.node)
                .applied
                .ports
                .contains_key(&PortKey { protocol: port.protocol, published: *published })
        };
        (PICKED_FIRST..=u16::MAX)
            .filter(|published| !is_published(published))
            .map(|published| HostPort { published, ..port })
            .find(|port| self.bind(key(port)).is_ok())
            .ok_or(MeshError::NoFreePort { protocol: port.protocol })
    }

    fn bind(&self, port: PortKey) -> std::io::Result<()> {
        let mut holds = lock(&self.holds);
        if holds.contains_key(&port) {
            return Err(std::io::ErrorKind::AddrInUse.into());
        }
        holds.insert(port, Proxy::start(Ipv4Addr::UNSPECIFIED, port, [].into())?);
        Ok(())
    }

    /// Holds a port of a task that has an address, bound already or not.
    pub(crate) fn hold(&self, port: HostPort, addr: Ipv4Addr) -> Result<(), MeshError> {
        let taken =
            |source| MeshError::PortTaken { protocol: port.protocol, published: port.published, source };
        if !lock(&self.holds).contains_key(&key(&port)) {
            self.bind(key(&port)).map_err(taken)?;
        }
        if let Some(proxy) = lock(&self.holds).get(&key(&port)) {
            proxy.set_targets([SocketAddrV4::new(addr, port.target)].into());
        }
        Ok(())
    }

    fn release(&self, port: PortKey) {
        let proxy = lock(&self.holds).remove(&port);
        if let Some(proxy) = proxy {
            proxy.stop();
        }
    }

    pub(crate) fn detach(&self, task: &str) -> Result<(), MeshError> {
        let record = lock(&self.book).tasks().get(task).cloned();
        let host_ports = record.as_ref().map(|r| r.host_ports.as_slice()).unwrap_or_default();
        if !host_ports.is_empty() {
            lock(&self.node).del_host_ports(host_ports)?;
        }
        let removing = || format!("remove the interfaces of task {task}");
        let mut route = Route::open().doing(removing)?;
        for end in host_ends(task) {
            route.del_link(&end).doing(removing)?;
        }
        let path = self.pin(task);
        netns::unpin(&path).doing(|| format!("remove {}", path.display()))?;
        for port in host_ports {
            self.release(key(port));
        }
        // Flows without a connection would go on to whoever has the address next.
        if let Some(record) =
            record.as_ref().filter(|r| r.host_ports.iter().any(|p| p.protocol == Protocol::Udp))
        {
            lock(&self.node).forget_server(record.bridge_addr)?;
        }
        lock(&self.book).dismiss(task)
    }
}
