//! What a reconciler is, and all that it may use besides the draft.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use skep_api::{NodeId, ServiceId, Timestamp, id::IdSource};
use skep_store::{Change, Draft};

/// One part of the orchestration.
pub trait Reconciler {
    /// For logs and tests.
    fn name(&self) -> &'static str;
    /// Reads the draft, adds changes to it. Same draft, same context, same result.
    fn reconcile(&mut self, draft: &mut Draft, cx: &mut Context<'_>);
}

/// What a pass looks at; within one service it decides from that service's whole state.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Scope {
    /// Services that changed, lost something, or whose time has come.
    pub services: BTreeSet<ServiceId>,
    /// Nodes that changed.
    pub nodes: BTreeSet<NodeId>,
}

/// The only chance there is, what to look at, and the wake-ups asked for.
pub struct Context<'a> {
    /// Fresh ids.
    pub ids: &'a mut dyn IdSource,
    /// What to look at.
    pub scope: Scope,
    /// When to look at a service again even if nothing changes.
    pub wakes: BTreeMap<ServiceId, Timestamp>,
}

impl fmt::Debug for Context<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("scope", &self.scope)
            .field("wakes", &self.wakes)
            .finish_non_exhaustive()
    }
}

impl<'a> Context<'a> {
    /// A context for one pass.
    #[must_use]
    pub fn new(ids: &'a mut dyn IdSource, scope: Scope) -> Self {
        Self { ids, scope, wakes: BTreeMap::new() }
    }

    /// Asks to look at a service again at `at`, if it does not already want to earlier.
    pub fn wake(&mut self, service: ServiceId, at: Timestamp) {
        self.wakes.entry(service).and_modify(|earlier| *earlier = (*earlier).min(at)).or_insert(at);
    }
}

/// Adds a change that the draft's own state always allows.
pub(crate) fn push(draft: &mut Draft, change: Change) {
    // A refusal is a bug that the draft keeps for its owner to tell; the next pass meets the same state,
    // which is safer than a dead leader.
    draft.push(change).ok();
}
