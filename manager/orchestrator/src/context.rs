//! What one part of the orchestration is, and all that it may use besides the draft.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

use skep_api::{NodeId, ServiceId, TaskId, Timestamp, id::IdSource, object::SeatKey};
use skep_store::{Change, Draft};

use crate::{Differences, Situation};

/// One part of what is decided of a service.
pub trait ServicePart {
    /// For logs and tests.
    fn name(&self) -> &'static str;
    /// Whether it decides seat by seat, so that it may look at some of them alone.
    fn is_by_seat(&self) -> bool;
    /// Reads the situation, and writes through it. Same situation, same context, same result.
    fn reconcile(&self, at: &mut Situation, draft: &mut Draft, cx: &mut Context<'_>);
}

/// How much of a service a pass looks at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Look {
    /// All of it.
    Whole,
    /// These seats alone: tasks of them changed, and nothing else.
    Seats(BTreeSet<SeatKey>),
}

/// What a pass looks at.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Scope {
    /// Services that changed, lost something, or whose time has come.
    pub services: BTreeMap<ServiceId, Look>,
    /// Nodes that changed.
    pub nodes: BTreeSet<NodeId>,
}

impl Scope {
    /// Looks at all of a service.
    pub fn add(&mut self, service: ServiceId) {
        self.services.insert(service, Look::Whole);
    }

    /// Looks at a seat at least.
    pub fn add_seat(&mut self, service: ServiceId, seat: SeatKey) {
        match self.services.entry(service).or_insert_with(|| Look::Seats(BTreeSet::new())) {
            Look::Whole => {}
            Look::Seats(seats) => {
                seats.insert(seat);
            }
        }
    }
}

/// What waits for a time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum WakeKey {
    /// A service, to be looked at whole.
    Service(ServiceId),
    /// A node.
    Node(NodeId),
    /// Tickets.
    Tickets,
}

/// The only chance there is, and what was asked for besides changes.
pub struct Context<'a> {
    /// Fresh ids.
    pub ids: &'a mut dyn IdSource,
    /// How far the pass's time is ahead of the clock: it never goes back, and a clock may.
    pub ahead: Duration,
    /// When to look again even if nothing changes.
    pub wakes: BTreeMap<WakeKey, Timestamp>,
    /// How the tasks of the service that is looked at differ from what it asks for.
    pub(crate) differences: Differences,
    /// The service that was looked at last, if that was whole: placement asks for all its tasks next, and to find each
    /// again is most of its work. With how much was drafted by then.
    pub(crate) last: Option<(Situation, usize)>,
    /// History that is no longer worth keeping: to be deleted once placement has seen on which nodes it failed.
    pub reaped: Vec<TaskId>,
}

impl fmt::Debug for Context<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("wakes", &self.wakes)
            .field("reaped", &self.reaped)
            .field("ahead", &self.ahead)
            .finish_non_exhaustive()
    }
}

impl<'a> Context<'a> {
    /// A context for one pass.
    #[must_use]
    pub fn new(ids: &'a mut dyn IdSource) -> Self {
        Self {
            ids,
            ahead: Duration::ZERO,
            wakes: BTreeMap::new(),
            differences: Differences::default(),
            last: None,
            reaped: Vec::new(),
        }
    }

    /// What the clock shows at the pass's time.
    pub(crate) fn clock(&self, now: Timestamp) -> Timestamp {
        let ahead = i64::try_from(self.ahead.as_nanos()).unwrap_or(i64::MAX);
        Timestamp(now.0.saturating_sub(ahead))
    }

    /// The situation of a service, if it is still at hand and true.
    #[must_use]
    pub fn situation(&self, draft: &Draft, id: ServiceId) -> Option<&Situation> {
        let (at, n_changes) = self.last.as_ref()?;
        let is_it = at.service().id == id && draft.changes().len() == *n_changes;
        debug_assert!(!is_it || at.is_true(draft), "nothing was written since");
        is_it.then_some(at)
    }

    /// Asks to look again at `at`, if that is not asked for earlier already.
    pub fn wake(&mut self, key: WakeKey, at: Timestamp) {
        self.wakes.entry(key).and_modify(|earlier| *earlier = (*earlier).min(at)).or_insert(at);
    }
}

/// Adds a change that the draft's own state always allows.
pub(crate) fn push(draft: &mut Draft, change: Change) {
    // A refusal is a bug that the draft keeps for its owner to tell; the next pass meets the same state,
    // which is safer than a dead leader.
    draft.push(change).ok();
}
