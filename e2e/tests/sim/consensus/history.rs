//! Whether what clients were told fits one order of operations (Wing and Gong's search, with memory).

use std::collections::BTreeSet;

/// What a client asked for, on one name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Read,
    Create(u64),
    Replace { seen: u64, value: u64 },
    Delete { seen: u64 },
}

/// What it was told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Outcome {
    Read(Option<u64>),
    Written(bool),
}

/// One operation of a client.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Operation {
    pub(crate) key: u64,
    pub(crate) kind: Kind,
    pub(crate) invoked: u64,
    /// None: it was never answered, and may be done at any time, or never.
    pub(crate) returned: Option<(u64, Outcome)>,
}

impl Operation {
    fn end(&self) -> u64 {
        self.returned.map_or(u64::MAX, |(at, _)| at)
    }

    /// The state after it, if it can be done in `state` with the outcome that was told.
    fn step(&self, state: Option<u64>) -> Option<Option<u64>> {
        let (outcome, next) = match self.kind {
            Kind::Read => (Outcome::Read(state), state),
            Kind::Create(value) if state.is_none() => (Outcome::Written(true), Some(value)),
            Kind::Replace { seen, value } if state == Some(seen) => (Outcome::Written(true), Some(value)),
            Kind::Delete { seen } if state == Some(seen) => (Outcome::Written(true), None),
            Kind::Create(_) | Kind::Replace { .. } | Kind::Delete { .. } => (Outcome::Written(false), state),
        };
        self.returned.is_none_or(|(_, told)| told == outcome).then_some(next)
    }
}

/// Whether some order explains the operations, all on one key.
pub(crate) fn is_linearizable(operations: &[Operation]) -> bool {
    let mut operations = operations.to_vec();
    operations.sort_by_key(Operation::end);
    let mut done = vec![false; operations.len()];
    search(&operations, &mut done, None, &mut BTreeSet::new())
}

fn search(
    operations: &[Operation],
    done: &mut [bool],
    state: Option<u64>,
    tried: &mut BTreeSet<(Vec<usize>, Option<u64>)>,
) -> bool {
    let Some(first_end) = left(operations, done).map(|(_, operation)| operation.end()).min() else {
        return true;
    };
    if first_end == u64::MAX {
        return true;
    }
    // Those before the first that is left are all done, so this is the whole of `done`, and short.
    let first = done.iter().position(|done| !done).unwrap_or(done.len());
    let ahead = (first..done.len()).filter(|at| done[*at]);
    if !tried.insert((std::iter::once(first).chain(ahead).collect(), state)) {
        return false;
    }
    let candidates: Vec<usize> = left(operations, done)
        .filter(|(_, operation)| operation.invoked < first_end)
        .map(|(at, _)| at)
        .collect();
    for at in candidates {
        let Some(next) = operations[at].step(state) else { continue };
        if operations[at].returned.is_none() && next == state {
            continue;
        }
        done[at] = true;
        if search(operations, done, next, tried) {
            return true;
        }
        done[at] = false;
    }
    false
}

fn left<'a>(operations: &'a [Operation], done: &'a [bool]) -> impl Iterator<Item = (usize, &'a Operation)> {
    operations.iter().enumerate().filter(|(at, _)| !done[*at])
}

#[test]
fn tells_right_from_wrong() {
    let op = |kind, invoked, returned| Operation { key: 0, kind, invoked, returned };
    let read = |value, invoked, at| op(Kind::Read, invoked, Some((at, Outcome::Read(value))));
    let create = |value, invoked, at| op(Kind::Create(value), invoked, Some((at, Outcome::Written(true))));
    assert!(is_linearizable(&[create(1, 1, 2), read(Some(1), 3, 4)]));
    assert!(!is_linearizable(&[create(1, 1, 2), read(None, 3, 4)]), "a stale read");
    assert!(is_linearizable(&[create(1, 1, 4), read(None, 2, 3)]), "while it is being written");
    assert!(
        !is_linearizable(&[create(1, 1, 6), read(Some(1), 2, 3), read(None, 4, 5)]),
        "it does not go back"
    );
    assert!(!is_linearizable(&[create(1, 1, 2), create(2, 3, 4)]), "a name given twice");
    let open = op(Kind::Create(1), 1, None);
    assert!(is_linearizable(&[open, read(None, 2, 3), read(Some(1), 4, 5)]), "it is done late");
    assert!(is_linearizable(&[open, read(None, 2, 3), read(None, 4, 5)]), "or never");
    let replace = op(Kind::Replace { seen: 1, value: 2 }, 3, Some((4, Outcome::Written(true))));
    assert!(!is_linearizable(&[create(1, 1, 2), replace, replace]), "done twice");
}
