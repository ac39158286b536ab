//! What Docker has no call for: an update paused, resumed and given up by hand, and the way back to any spec that is
//! kept.

use skep_api::{
    ApiError, ServiceId, Timestamp,
    object::{Service, UpdateState, UpdateStatus},
};

use super::{
    super::{Control, failed_precondition},
    update::{needs_level_2, rolled_back, rolled_back_to},
};

/// What somebody wants of an update that goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RollOut {
    /// No further slots; those in flight finish.
    Pause,
    /// On with what is paused. Failures that paused it are forgiven.
    Resume,
    /// Back to the previous spec, now.
    Abort,
    /// Back to a spec that is kept: 1 is the newest.
    BackTo(usize),
}

impl Control {
    /// Pauses, resumes or ends an update from the version of the service that the caller has seen.
    ///
    /// # Errors
    /// A stale version; there is no such update, or nothing to go back to; no leader.
    pub async fn roll_out(&self, id: ServiceId, version: u64, what: RollOut) -> Result<(), ApiError> {
        let now = Timestamp((self.shared.clock)());
        self.change_service(id, version, |view, old| {
            needs_level_2(view, "an update by hand")?;
            let level = view.feature_level();
            match what {
                RollOut::Pause => paused(old),
                RollOut::Resume => resumed(old),
                RollOut::Abort => aborted(old, level, now),
                RollOut::BackTo(back) => rolled_back_to(old, back, level, now),
            }
        })
        .await
        .map(drop)
    }
}

fn state(service: &Service) -> Option<(&UpdateStatus, UpdateState)> {
    service.update_status.as_ref().map(|status| (status, status.state))
}

fn with(old: &Service, status: UpdateStatus) -> Service {
    Service { update_status: Some(status), ..old.clone() }
}

pub(crate) fn paused(old: &Service) -> Result<Service, ApiError> {
    let (status, state, what) = match state(old) {
        Some((status, UpdateState::Updating)) => (status, UpdateState::Paused, "update"),
        Some((status, UpdateState::RollbackStarted)) => (status, UpdateState::RollbackPaused, "rollback"),
        Some(_) | None => return Err(no_update(old, "goes on")),
    };
    let message = format!("{what} paused by hand");
    Ok(with(old, UpdateStatus { state, message, paused_by_user: true, ..status.clone() }))
}

pub(crate) fn resumed(old: &Service) -> Result<Service, ApiError> {
    let (status, state, message) = match state(old) {
        Some((status, UpdateState::Paused)) => (status, UpdateState::Updating, "update in progress"),
        Some((status, UpdateState::RollbackPaused)) => {
            (status, UpdateState::RollbackStarted, "rollback in progress")
        }
        Some(_) | None => return Err(no_update(old, "is paused")),
    };
    let mut new =
        UpdateStatus { state, message: message.to_owned(), paused_by_user: false, ..status.clone() };
    let mut updates = old.updates;
    if !status.paused_by_user {
        // What failed so far would pause it at once.
        updates += 1;
        (new.slots, new.failed) = (0, 0);
    }
    Ok(Service { updates, ..with(old, new) })
}

pub(crate) fn aborted(old: &Service, level: u32, now: Timestamp) -> Result<Service, ApiError> {
    match state(old) {
        Some((_, UpdateState::Updating | UpdateState::Paused)) => rolled_back(old, level, now),
        Some(_) | None => Err(no_update(old, "goes on or is paused")),
    }
}

fn no_update(service: &Service, which: &str) -> ApiError {
    failed_precondition(&format!("service {} has no update that {which}", service.spec.name))
}
