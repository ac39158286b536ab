//! Whose room on a node a task of higher priority would take: as little as does.

use std::cmp::Reverse;

use skep_api::{NodeId, TaskId, Timestamp, object::GenericResource};

use crate::{Amounts, Ask, Crowd, Filter, NodeInfo, rank::Rank};

/// A task on a node, as one sees it that would have its room.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tenant {
    /// Which.
    pub task: TaskId,
    /// Its service's: it makes room for higher ones.
    pub priority: u64,
    /// When it was made: the newest has done least.
    pub since: Timestamp,
    /// What it reserves: 1e-9 CPUs.
    pub nano_cpus: i64,
    /// What it reserves: bytes.
    pub memory_bytes: i64,
    /// What it has of the node's generic resources.
    pub given: Vec<GenericResource>,
    /// It has a port open that is asked for.
    pub has_port: bool,
    /// It is being stopped already.
    pub is_leaving: bool,
}

/// What a node offers to a task that does not fit there now. The least is the best: no victims or those of the lowest
/// priority, the fewest, the newest, and then the node that comes first among others.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Offer {
    highest: Option<u64>,
    n_victims: usize,
    oldest: Reverse<Timestamp>,
    rank: Rank,
    /// The node.
    pub node: NodeId,
    /// Who would have to go.
    pub victims: Vec<TaskId>,
    /// Who goes already, and is waited for.
    pub leaving: Vec<TaskId>,
}

/// What a node offers to a task of a priority that does not fit there now; `None` for nothing that would do.
///
/// `crowd` tells of ports only where they are promised to others, as those that its tasks have open may be given up, and
/// `promised` is what others will have of the node. The tasks there are asked for only where it is for them to say.
#[must_use]
pub fn offer(
    ask: &Ask,
    crowd: &Crowd,
    info: &NodeInfo,
    promised: &Amounts,
    priority: u64,
    tenants: impl FnOnce() -> Vec<Tenant>,
) -> Option<Offer> {
    let no_task_matters = |filter: &Filter| *filter != Filter::Resources;
    if !Filter::ORDER.iter().filter(|f| no_task_matters(f)).all(|f| f.check(ask, crowd, info, 0)) {
        return None;
    }
    let about = &info.node.description;
    let needed = ask.amounts.clone().and(promised);
    if needed.nano_cpus > about.nano_cpus.max(0) || needed.memory_bytes > about.memory_bytes.max(0) {
        return None;
    }
    let tenants = tenants();
    let mut room = Room::new(ask, info, needed, &tenants);
    let (leaving, staying): (Vec<&Tenant>, Vec<&Tenant>) =
        tenants.iter().partition(|tenant| tenant.is_leaving);
    leaving.iter().for_each(|tenant| room.free(tenant));
    let mut victims = Vec::new();
    if !room.is_enough() {
        let mut lower: Vec<&Tenant> =
            staying.into_iter().filter(|tenant| tenant.priority < priority).collect();
        lower.iter().for_each(|tenant| room.free(tenant));
        if !room.is_enough() {
            return None;
        }
        // Who matters most may stay first, as long as the others' room is enough.
        lower.sort_by_key(|tenant| (Reverse(tenant.priority), tenant.since, tenant.task));
        victims = lower.into_iter().filter(|tenant| room.needs(tenant)).collect();
    }
    let leaving = leaving.into_iter().filter(|tenant| room.needs(tenant)).map(|tenant| tenant.task);
    Some(Offer {
        highest: victims.iter().map(|tenant| tenant.priority).max(),
        n_victims: victims.len(),
        oldest: Reverse(victims.iter().map(|tenant| tenant.since).min().unwrap_or_default()),
        rank: Rank::of(ask, crowd, info, 0),
        node: info.node.id,
        leaving: leaving.collect(),
        victims: victims.into_iter().map(|tenant| tenant.task).collect(),
    })
}

/// A node as it would be without some of its tasks.
struct Room {
    info: NodeInfo,
    needed: Amounts,
    /// How many of its tasks have a port open that is asked for.
    n_port_holders: usize,
}

impl Room {
    fn new(ask: &Ask, info: &NodeInfo, needed: Amounts, tenants: &[Tenant]) -> Self {
        let holds = |tenant: &&Tenant| tenant.has_port && !ask.host_ports.is_empty();
        Self { info: info.clone(), needed, n_port_holders: tenants.iter().filter(holds).count() }
    }

    fn is_enough(&self) -> bool {
        self.n_port_holders == 0 && self.info.has_room(&self.needed, 0)
    }

    fn free(&mut self, tenant: &Tenant) {
        self.info.add(tenant.nano_cpus, tenant.memory_bytes, &tenant.given);
        self.n_port_holders = self.n_port_holders.saturating_sub(tenant.has_port.into());
    }

    /// Whether a task's room is needed; else the task keeps it.
    fn needs(&mut self, tenant: &Tenant) -> bool {
        self.info.subtract(tenant.nano_cpus, tenant.memory_bytes, &tenant.given);
        self.n_port_holders += usize::from(tenant.has_port);
        let is_needed = !self.is_enough();
        if is_needed {
            self.free(tenant);
        }
        is_needed
    }
}
