//! Promise 2: version conflicts are detected linearizably; names, slots, addresses and ports are never given twice.

use std::collections::BTreeSet;

use crate::consensus::history::is_linearizable;
use crate::consensus::world::State;

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
