//! Gives tasks and nodes their addresses on the ingress network.
//!
//! Tasks and nodes have ranges of their own. A task's search starts at a place that its id names, so that
//! an address just given back is not the next one given out, while others may still talk to it.

use std::{collections::BTreeSet, net::Ipv4Addr, sync::Arc};

use skep_api::{
    NodeId,
    object::{Node, Task, ingress},
};
use skep_store::{Change, Draft, View};

use crate::context::push;

/// Gives an address to each of these nodes.
pub fn assign_addresses(draft: &mut Draft, nodes: &BTreeSet<NodeId>) {
    // Those before have just been found taken.
    let mut start = 0;
    for id in nodes {
        let Some(node) = draft.node(*id).filter(|node| node.ingress_addr.is_none()).cloned() else {
            continue;
        };
        let Some(address) = free(draft, ingress::NODES_FIRST, ingress::NODES_LAST, start) else { return };
        start = u128::from(u32::from(address) - u32::from(ingress::NODES_FIRST)) + 1;
        let node = Node { ingress_addr: Some(address), ..(*node).clone() };
        push(draft, Change::PutNode(Arc::new(node)));
    }
}

/// Gives an address to a task that publishes through the mesh. None free: it stays without, and can have no node.
pub fn assign_address(draft: &mut Draft, task: &Task) -> Option<Arc<Task>> {
    let address = free(draft, ingress::TASKS_FIRST, ingress::TASKS_LAST, task.id.0.0)?;
    push(draft, Change::PutTask(Arc::new(Task { ingress_addr: Some(address), ..task.clone() })));
    draft.task(task.id).cloned()
}

/// The first free address of a range, searched from the `start`th one on and around.
fn free(view: &View, first: Ipv4Addr, last: Ipv4Addr, start: u128) -> Option<Ipv4Addr> {
    let (first, last) = (u32::from(first), u32::from(last));
    let n = last - first + 1;
    let start = u32::try_from(start % u128::from(n)).expect("less than a 32-bit count");
    (0..n)
        .map(|offset| Ipv4Addr::from(first + (start + offset) % n))
        .find(|address| !view.is_address_taken(*address))
}
