//! Promise 2: version conflicts are detected linearizably; names, slots, addresses and ports are never given twice.

use std::collections::BTreeSet;

use skep_manager::View;

use crate::consensus::history::is_linearizable;
use crate::consensus::world::State;
use crate::swarm;

/// All that clients were told of a name fits one order of operations.
pub(crate) fn history(state: &mut State) {
    let history = std::mem::take(&mut state.history);
    for key in history.iter().map(|operation| operation.key).collect::<BTreeSet<_>>() {
        let of_key: Vec<_> = history.iter().filter(|operation| operation.key == key).copied().collect();
        if !is_linearizable(&of_key) {
            state.trace.fail(format!("what was told of s{key} fits no order"));
        }
    }
}

/// In no state two services have a name or a published port, or two tasks an address.
pub(crate) fn view(state: &mut swarm::world::State, view: &View) {
    let (mut names, mut ports, mut addresses) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for service in view.services() {
        if !names.insert(service.spec.name.clone()) {
            state.trace.fail(format!("two services are called {}", service.spec.name));
        }
        for port in service.ports.iter().filter(|port| port.is_ingress()) {
            if !ports.insert((port.protocol().to_owned(), port.published_port)) {
                state.trace.fail(format!("port {} is given twice", port.published_port));
            }
        }
    }
    let mut of_nodes = BTreeSet::new();
    for task in view.tasks() {
        for port in task.ports.iter().filter(|port| !port.is_ingress() && task.is_runnable()) {
            if let Some(node) = task.node_id
                && !of_nodes.insert((node, port.protocol().to_owned(), port.published_port))
            {
                state.trace.fail(format!("port {} of {node} is given twice", port.published_port));
            }
        }
        if let Some(address) = task.ingress_addr.filter(|_| !task.status.state.is_terminal())
            && !addresses.insert(address)
        {
            state.trace.fail(format!("address {address} is given twice"));
        }
    }
}
