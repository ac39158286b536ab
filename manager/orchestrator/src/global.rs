//! Keeps a task on each node that a global service may have one on; of a job, until it has ended there once.
//!
//! A node that is drained, down or no longer meets the constraints loses its task, and none comes for it elsewhere;
//! a paused one keeps what it has and gets nothing new (`SK:manager/orchestrator/global`, `.../jobs/global`).

use skep_api::{
    TaskState,
    object::{NodeState, SeatKey},
    spec::{Availability, Mode, ServiceSpec},
};
use skep_store::{Draft, View};

use crate::{
    Context, Differences, NewTask, Seat, ServicePart, Situation,
    dirt::{Constraints, meets},
};

/// Adds tasks to nodes without one, and clears away what nodes that are gone had.
#[derive(Clone, Copy, Debug)]
pub struct Global;

impl ServicePart for Global {
    fn name(&self) -> &'static str {
        "global"
    }

    fn is_by_seat(&self) -> bool {
        true
    }

    fn reconcile(&self, at: &mut Situation, draft: &mut Draft, cx: &mut Context<'_>) {
        if !at.mode().is_global() {
            return;
        }
        let fit = Fit::of(at, cx);
        for node in at.nodes(draft) {
            let key = SeatKey::Node(node);
            let is_occupied = at.seat(key).is_some_and(Seat::is_occupied);
            if draft.node(node).is_none() {
                clear(at, draft, key);
            } else if !is_occupied && fit.may_fill(draft, key) {
                at.create(draft, cx, key, NewTask::from(draft.now()));
            }
        }
    }
}

/// Which seats of a service may get a task.
#[derive(Debug)]
pub struct Fit {
    mode: Mode,
    /// It is a job that waits for its time.
    is_idle: bool,
    /// What the service asks of nodes by now.
    constraints: Constraints,
}

impl Fit {
    /// Of this service.
    #[must_use]
    pub fn of(at: &Situation, cx: &mut Context<'_>) -> Self {
        let service = at.service();
        let is_idle = service.is_between_runs();
        Self { is_idle, ..Self::new(service.spec_version, &service.spec, &mut cx.differences) }
    }

    /// Of a service with this spec.
    #[must_use]
    pub fn asked(spec: &ServiceSpec) -> Self {
        Self::new(0, spec, &mut Differences::default())
    }

    fn new(version: u64, spec: &ServiceSpec, differences: &mut Differences) -> Self {
        let mode = spec.mode();
        let asked = mode.is_global().then(|| differences.constraints(version, spec));
        Self { mode, is_idle: false, constraints: asked.flatten() }
    }

    /// Whether a new task may come into a seat. Slots get theirs whatever the nodes are: it waits for one.
    #[must_use]
    pub fn may_fill(&self, view: &View, key: SeatKey) -> bool {
        let SeatKey::Node(id) = key else { return !self.is_idle };
        let Some(node) = view.node(id) else { return false };
        let is_there = match self.mode {
            Mode::GlobalJob => node.status.state == NodeState::Ready,
            Mode::Global | Mode::Replicated { .. } | Mode::ReplicatedJob { .. } => {
                node.status.state != NodeState::Down
            }
        };
        is_there && node.spec.availability == Availability::Active && meets(node, &self.constraints)
    }
}

/// A node that is gone takes its seat with it, but for a job that has come to its end there.
fn clear(at: &mut Situation, draft: &mut Draft, key: SeatKey) {
    let is_job = at.mode().is_job();
    let tasks = at.seat(key).map(|seat| seat.tasks.clone()).unwrap_or_default();
    for task in tasks.iter().filter(|task| !is_job || task.status.state != TaskState::Complete) {
        at.remove(draft, task);
    }
}
