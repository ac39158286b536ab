//! A service: its spec, the one before it, and how an update goes.

use std::sync::Arc;

use super::Meta;
use crate::{
    Secret, ServiceId, Timestamp,
    spec::{PortConfig, ServiceSpec},
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
    /// The revision at which `spec` was set: tasks refer to it.
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
