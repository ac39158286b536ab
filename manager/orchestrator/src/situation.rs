//! One service as a pass sees it: read once, and kept true by its own writes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use skep_api::{
    NodeId, ServiceId, TaskId, TaskState, Timestamp,
    object::{SeatKey, Service, Task, TaskExtra},
    spec::Mode,
};
use skep_store::{Change, Draft, View};

use crate::{
    Context, Look, Seat, WakeKey,
    context::push,
    seats::{PENDING_MESSAGE, is_stopped, said},
};

/// A service with its tasks by seat. All writes of the service's parts go through it.
#[derive(Clone, PartialEq, Debug)]
pub struct Situation {
    service: Arc<Service>,
    mode: Mode,
    seats: BTreeMap<SeatKey, Seat>,
    look: Look,
    /// The spec was changed: what version it has is known once that is applied.
    is_over: bool,
}

/// How a new task comes in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NewTask {
    /// It does not run before.
    pub not_before: Timestamp,
    /// The task of its seat that it runs beside until it takes over.
    pub beside: Option<TaskId>,
    /// The update that makes it; 0 for none.
    pub update: u64,
    /// Ends of its seat that led to it; see [`TaskExtra::restarts`].
    pub restarts: u32,
    /// The node that it is moved away from.
    pub moved_from: Option<NodeId>,
}

impl NewTask {
    /// One that nothing is special about, to run from `not_before` on.
    #[must_use]
    pub fn from(not_before: Timestamp) -> Self {
        Self { not_before, beside: None, update: 0, restarts: 0, moved_from: None }
    }

    /// One at once for a task that we stop: what that was to do is still to be done.
    #[must_use]
    pub fn instead_of(task: &Task, seat: Option<&Seat>, now: Timestamp) -> Self {
        let still = seat.and_then(Seat::counted).map(|old| old.id);
        let beside = task.beside().filter(|old| Some(*old) == still);
        Self { beside, update: task.update, ..Self::from(now) }
    }
}

/// What a task that we stop says of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Why<'a> {
    /// Nothing: a person sees by what follows it.
    Quiet,
    /// These words, as its error.
    Words(&'a str),
}

impl Situation {
    /// The situation of a service; `None` when it is gone.
    #[must_use]
    pub fn read(view: &View, id: ServiceId, look: &Look) -> Option<Self> {
        let service = Arc::clone(view.service(id)?);
        let mut tasks: Vec<&Arc<Task>> = match look {
            Look::Whole => view.tasks_of_service(id).collect(),
            Look::Seats(keys) => keys.iter().flat_map(|key| view.tasks_of_seat(id, *key)).collect(),
        };
        // By slots they are sorted already; and a map is made faster of what is sorted.
        tasks.sort_by_key(|task| task.seat());
        let seats = tasks.chunk_by(|a, b| a.seat() == b.seat());
        let seats = seats.map(|tasks| (tasks[0].seat(), Seat::of(tasks))).collect();
        let mut at = Self { mode: service.spec.mode(), service, seats, look: look.clone(), is_over: false };
        at.part();
        Some(at)
    }

    /// The service.
    #[must_use]
    pub fn service(&self) -> &Arc<Service> {
        &self.service
    }

    /// Its mode.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Whether all of its seats are here.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.look == Look::Whole
    }

    /// Whether nothing more is to be decided of the service in this pass.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.is_over
    }

    /// The nodes whose seats are looked at, of a service that has a task on each.
    #[must_use]
    pub fn nodes(&self, view: &View) -> BTreeSet<NodeId> {
        let node = |key: &SeatKey| match key {
            SeatKey::Node(id) => Some(*id),
            SeatKey::Slot(_) => None,
        };
        match &self.look {
            Look::Whole => {
                view.nodes().map(|node| node.id).chain(self.seats.keys().filter_map(node)).collect()
            }
            Look::Seats(keys) => keys.iter().filter_map(node).collect(),
        }
    }

    /// The seats that have tasks, in order.
    pub fn seats(&self) -> impl Iterator<Item = (SeatKey, &Seat)> {
        self.seats.iter().map(|(key, seat)| (*key, seat))
    }

    /// The keys of those that something may be to do about, for who writes while it goes through them.
    #[must_use]
    pub fn keys(&self, mut is_it: impl FnMut(&Seat) -> bool) -> Vec<SeatKey> {
        self.seats().filter(|(_, seat)| is_it(seat)).map(|(key, _)| key).collect()
    }

    /// All tasks of these.
    pub fn tasks(&self) -> impl Iterator<Item = &Arc<Task>> {
        self.seats.values().flat_map(|seat| seat.all().chain(&seat.past))
    }

    /// A seat; `None` when it has no task.
    #[must_use]
    pub fn seat(&self, key: SeatKey) -> Option<&Seat> {
        self.seats.get(&key)
    }

    /// Whether it still is what the draft shows: else somebody wrote past it.
    #[must_use]
    pub fn is_true(&self, view: &View) -> bool {
        self.is_over || Self::read(view, self.service.id, &self.look).as_ref() == Some(self)
    }

    /// Adds a task to a seat: to run once its time has come and what is in the seat has stopped.
    pub fn create(&mut self, draft: &mut Draft, cx: &mut Context<'_>, seat: SeatKey, new: NewTask) -> TaskId {
        let now = draft.now();
        let (slot, for_node) = match seat {
            SeatKey::Slot(slot) => (slot, None),
            SeatKey::Node(node) => (0, Some(node)),
        };
        let mut task = Task::new(TaskId(cx.ids.next_id()), &self.service, slot);
        let job_iteration = if self.mode.is_job() { self.service.job_iteration } else { 0 };
        let NewTask { beside, restarts, moved_from, .. } = new;
        // Older managers would drop them.
        let known = self.seats.get(&seat).filter(|_| draft.feature_level() >= 2);
        let failures = known.map(|seat| seat.failures(self.service.spec_version, now)).unwrap_or_default();
        let given = Vec::new();
        let room_for = None;
        let extra =
            TaskExtra { for_node, job_iteration, beside, given, restarts, moved_from, failures, room_for };
        task.extra = (extra != TaskExtra::default()).then(|| Box::new(extra));
        task.update = new.update;
        task.desired_state = self.mode.goal();
        task.not_before = new.not_before;
        let start = self.seats.get(&seat).map_or(new.not_before, |seat| seat.start_at(draft, &task, now));
        if start > now {
            task.desired_state = TaskState::Ready;
            cx.wake(WakeKey::Service(self.service.id), start);
        } else {
            task.not_before = Timestamp::ZERO;
        }
        task.status = said(&task.status, now, TaskState::Pending, PENDING_MESSAGE, "");
        let id = task.id;
        self.put(draft, task);
        id
    }

    /// Wants a task stopped; it stays as history.
    pub fn shut_down(&mut self, draft: &mut Draft, task: &Task, why: Why<'_>) {
        let words = match why {
            Why::Quiet => "",
            Why::Words(words) => words,
        };
        let mut new = task.clone();
        new.desired_state = new.desired_state.max(TaskState::Shutdown);
        if new.node_id.is_none() && new.is_live() {
            // No agent knows of it, so nobody else will say that it ended.
            new.status = said(&task.status, draft.now(), TaskState::Shutdown, "shutdown", words);
        } else if !words.is_empty() && new.is_live() {
            new.status = said(&task.status, draft.now(), task.status.state, &task.status.message, words);
        }
        self.put(draft, new);
    }

    /// Wants a task gone: at once when nothing of it runs.
    pub fn remove(&mut self, draft: &mut Draft, task: &Task) {
        if let Some(change) = removal(draft, task) {
            push(draft, change);
            self.refresh(draft, task);
        }
    }

    /// Writes a task of this service.
    pub fn put(&mut self, draft: &mut Draft, task: Task) {
        let task = Arc::new(task);
        push(draft, Change::PutTask(Arc::clone(&task)));
        self.refresh(draft, &task);
    }

    /// Writes the service. A changed spec ends what is decided of it in this pass: tasks name a spec by its version,
    /// and that is known once it is applied.
    pub fn put_service(&mut self, draft: &mut Draft, new: Service) {
        let id = new.id;
        push(draft, Change::PutService(Arc::new(new)));
        if let Some(service) = draft.service(id) {
            self.is_over |= service.is_changed_from(&self.service);
            self.service = Arc::clone(service);
            self.mode = service.spec.mode();
            self.part();
        }
    }

    /// Tells what ended in earlier iterations of a job from what it is judged by. Of a global one nothing of these is kept
    /// (`SK:manager/orchestrator/jobs/global`).
    fn part(&mut self) {
        if matches!(self.mode, Mode::ReplicatedJob { .. }) {
            self.seats.values_mut().for_each(|seat| seat.begin(self.service.job_iteration));
        }
    }

    /// Takes over what the draft has of a task now.
    fn refresh(&mut self, draft: &Draft, task: &Task) {
        let key = task.seat();
        let seat = self.seats.entry(key).or_default();
        seat.take_out(task.id);
        if let Some(now) = draft.task(task.id) {
            seat.add(now);
            seat.sort();
            if matches!(self.mode, Mode::ReplicatedJob { .. }) {
                seat.begin(self.service.job_iteration);
            }
        }
        if seat.is_empty() {
            self.seats.remove(&key);
        }
    }
}

/// The tasks of a service that is gone go, too: all of them, or those of the seats that are looked at.
pub fn clear_away(draft: &mut Draft, id: ServiceId, look: &Look) {
    let mut tasks: Vec<Arc<Task>> = match look {
        Look::Whole => draft.tasks_of_service(id).cloned().collect(),
        Look::Seats(keys) => keys.iter().flat_map(|key| draft.tasks_of_seat(id, *key)).cloned().collect(),
    };
    tasks.sort_by_key(|task| (task.seat(), task.id));
    for task in tasks {
        if let Some(change) = removal(draft, &task) {
            push(draft, change);
        }
    }
}

/// What takes a task away; `None` when that is wanted already.
fn removal(view: &View, task: &Task) -> Option<Change> {
    if is_stopped(view, task) {
        return Some(Change::DeleteTask(task.id));
    }
    let is_new = task.desired_state < TaskState::Remove;
    is_new.then(|| Change::PutTask(Arc::new(Task { desired_state: TaskState::Remove, ..task.clone() })))
}
