//! A service: its spec, the one before it, and how an update goes.

use std::sync::Arc;

use super::Meta;
use crate::{
    Secret, ServiceId, Timestamp,
    spec::{PortConfig, ServiceSpec, SkepLabel},
};

/// A service.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Service {
    /// Its id.
    pub id: ServiceId,
    /// Version and times.
    pub meta: Meta,
    /// What the user wants.
    pub spec: Arc<ServiceSpec>,
    /// What the user wanted before; one version is kept.
    pub previous_spec: Option<Arc<ServiceSpec>>,
    /// The revision at which `spec` was set, or what its image is pulled with: tasks refer to it.
    pub spec_version: u64,
    /// The same of `previous_spec`.
    pub previous_spec_version: u64,
    /// The ports as allocated.
    pub ports: Arc<[PortConfig]>,
    /// How the update goes, if there was one.
    pub update_status: Option<UpdateStatus>,
    /// For pulls of the spec's image: `X-Registry-Auth` as the client sent it. Never shown.
    pub registry_auth: Secret,
    /// The same for the previous spec.
    pub previous_registry_auth: Secret,
    /// The version from which on `registry_auth` is what it is: tasks of older ones had to pull with another one. Set when
    /// it is applied; zero: it was never another one.
    pub auth_version: u64,
    /// Counts updates and rollbacks; [`super::Task::update`] names one.
    pub updates: u64,
    /// Of a job: counts its runs.
    pub job_iteration: u64,
    /// Of a job: when this iteration began; zero for none.
    pub last_execution: Timestamp,
    /// Specs that it had, the newest first.
    pub history: Arc<[PastSpec]>,
    /// Of a job: earlier iterations, the newest first.
    pub runs: Arc<[JobRun]>,
    /// Of a scheduled job: the last planned time that is dealt with, or when the schedule was set; zero for neither.
    pub cron_last: Timestamp,
    /// When somebody asked for its tasks to be moved until they are even; zero for nobody, or done.
    pub balance_asked: Timestamp,
}

/// How many past runs of a scheduled job are shown, if no label says so.
const RUNS_DEFAULT: u64 = 10;

/// How many tasks a minute are moved where somebody asks for that once, and no label says how many.
const MOVES_DEFAULT: u64 = 10;

/// How many past specs are kept, if no label says so.
const HISTORY_DEFAULT: u64 = 10;
/// Past specs of a service are no larger together, as JSON: each write of the service carries them.
const HISTORY_BYTES_MAX: usize = 256 << 10;

impl Service {
    /// The specs that it had once `new` takes the place of the present one. Another number of tasks alone is
    /// nothing to go back to.
    #[must_use]
    pub fn history_before(&self, new: &ServiceSpec, now: Timestamp) -> Arc<[PastSpec]> {
        let n_max = new.label_number(SkepLabel::UpdateHistory).unwrap_or(HISTORY_DEFAULT);
        let n_max = usize::try_from(n_max).unwrap_or(usize::MAX);
        let scaled = ServiceSpec { mode: new.mode.clone(), ..(*self.spec).clone() };
        let present = (scaled != *new).then(|| PastSpec {
            spec: Arc::clone(&self.spec),
            spec_version: self.spec_version,
            registry_auth: self.registry_auth.clone(),
            at: now,
        });
        let mut bytes = 0_usize;
        let is_small = |past: &PastSpec| {
            let own = serde_json::to_vec(&*past.spec).map_or(usize::MAX, |text| text.len());
            bytes = bytes.saturating_add(own);
            bytes <= HISTORY_BYTES_MAX
        };
        present.into_iter().chain(self.history.iter().cloned()).take(n_max).take_while(is_small).collect()
    }

    /// How many of its tasks a minute may be moved to make nodes even; 0 for none.
    #[must_use]
    pub fn moves_a_minute(&self) -> u64 {
        let labelled = self.spec.label_number(SkepLabel::Rebalance).unwrap_or(0);
        if labelled == 0 && !self.balance_asked.is_zero() { MOVES_DEFAULT } else { labelled }
    }

    /// Whether it is a job between two runs, by its schedule or one that was taken off: nothing of it is to run.
    #[must_use]
    pub fn is_between_runs(&self) -> bool {
        let is_over = || self.runs.first().is_some_and(|run| run.iteration == self.job_iteration);
        self.spec.mode().is_job() && (self.last_execution.is_zero() || is_over())
    }

    /// How many past runs are shown.
    #[must_use]
    pub fn n_runs_max(&self) -> usize {
        let n = self.spec.label_number(SkepLabel::CronHistory).unwrap_or(RUNS_DEFAULT);
        usize::try_from(n).unwrap_or(usize::MAX)
    }

    /// Whether tasks of another one would be made anew: it asks for something else, or has its image pulled otherwise. A
    /// spec has another version from then on.
    #[must_use]
    pub fn is_changed_from(&self, old: &Self) -> bool {
        let is_same_spec = Arc::ptr_eq(&old.spec, &self.spec) || old.spec == self.spec;
        !is_same_spec || old.registry_auth != self.registry_auth
    }

    /// Whether an update or a rollback goes on: not one that is paused.
    #[must_use]
    pub fn is_updating(&self) -> bool {
        let state = self.update_status.as_ref().map(|status| status.state);
        matches!(state, Some(UpdateState::Updating | UpdateState::RollbackStarted))
    }

    /// Whether an update or a rollback is paused: only somebody's change goes on with it.
    #[must_use]
    pub fn is_update_paused(&self) -> bool {
        let state = self.update_status.as_ref().map(|status| status.state);
        matches!(state, Some(UpdateState::Paused | UpdateState::RollbackPaused))
    }
}

/// A spec that a service had.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct PastSpec {
    /// The spec.
    pub spec: Arc<ServiceSpec>,
    /// The revision at which it was set.
    pub spec_version: u64,
    /// For pulls of its image. Never shown.
    pub registry_auth: Secret,
    /// When another one took its place.
    pub at: Timestamp,
}

/// An iteration of a job that is over.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct JobRun {
    /// Which one.
    pub iteration: u64,
    /// When it began.
    pub started: Timestamp,
    /// When it ended.
    pub ended: Timestamp,
    /// How many tasks completed.
    pub completed: u64,
    /// How many failed.
    pub failed: u64,
}

/// How an update or rollback goes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UpdateStatus {
    /// In which state it is.
    pub state: UpdateState,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended.
    pub completed_at: Option<Timestamp>,
    /// Swarm's words.
    pub message: String,
    /// How many seats it replaces, counted when it began.
    pub slots: u32,
    /// How many of its tasks failed so far.
    pub failed: u32,
    /// A user stopped it, no failure.
    pub paused_by_user: bool,
}

impl UpdateStatus {
    /// One that begins.
    #[must_use]
    pub fn new(state: UpdateState, started_at: Timestamp, message: impl Into<String>) -> Self {
        Self {
            state,
            started_at,
            completed_at: None,
            message: message.into(),
            slots: 0,
            failed: 0,
            paused_by_user: false,
        }
    }
}

/// The states of an update (`SK:api/objects.proto`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UpdateState {
    /// Slots are being replaced.
    Updating,
    /// Stopped after a failure; a new update takes over.
    Paused,
    /// Done.
    Completed,
    /// Going back.
    RollbackStarted,
    /// Going back failed.
    RollbackPaused,
    /// Went back.
    RollbackCompleted,
}

impl UpdateState {
    /// All states.
    pub const ALL: [Self; 6] = [
        Self::Updating,
        Self::Paused,
        Self::Completed,
        Self::RollbackStarted,
        Self::RollbackPaused,
        Self::RollbackCompleted,
    ];

    /// The API's word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Updating => "updating",
            Self::Paused => "paused",
            Self::Completed => "completed",
            Self::RollbackStarted => "rollback_started",
            Self::RollbackPaused => "rollback_paused",
            Self::RollbackCompleted => "rollback_completed",
        }
    }

    /// Whether it goes back.
    #[must_use]
    pub fn is_rollback(self) -> bool {
        matches!(self, Self::RollbackStarted | Self::RollbackPaused | Self::RollbackCompleted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(json: &str) -> Arc<ServiceSpec> {
        Arc::new(serde_json::from_str(json).unwrap())
    }

    /// The images of the specs that are kept after each of these was the service's.
    fn kept(all: &[&str]) -> Vec<String> {
        let mut service = Service { spec: spec(all[0]), ..Service::default() };
        for json in &all[1..] {
            let new = spec(json);
            service.history = service.history_before(&new, Timestamp(1));
            service.spec = new;
        }
        let image = |past: &PastSpec| past.spec.container().map(|container| container.image.clone());
        service.history.iter().map(|past| image(past).unwrap_or_default()).collect()
    }

    #[test]
    fn past_specs_are_kept() {
        let of = |image: &str, more: &str| {
            format!(r#"{{"TaskTemplate":{{"ContainerSpec":{{"Image":"{image}"}}}}{more}}}"#)
        };
        let (a, b, c) = (of("a", ""), of("b", ""), of("c", ""));
        assert_eq!(kept(&[&a, &b, &c]), ["b", "a"]);
        assert_eq!(kept(&[&a, &a, &b]), ["a"], "nothing changed");
        let scaled = of("a", r#","Mode":{"Replicated":{"Replicas":9}}"#);
        assert_eq!(kept(&[&a, &scaled, &b]), ["a"], "another number of tasks is no other spec");
        let few = of("c", r#","Labels":{"skep.update.history":"1"}"#);
        assert_eq!(kept(&[&a, &b, &few]), ["b"]);
        let none = of("c", r#","Labels":{"skep.update.history":"0"}"#);
        assert_eq!(kept(&[&a, &b, &none]), Vec::<String>::new());
        let many: Vec<String> = (0..20).map(|n| of(&n.to_string(), "")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(kept(&many).len(), 10);
        let large = of("large", &format!(r#","Labels":{{"a":"{}"}}"#, "x".repeat(HISTORY_BYTES_MAX)));
        assert_eq!(kept(&[&a, &large, &b]), Vec::<String>::new(), "each write would carry it");
    }
}
