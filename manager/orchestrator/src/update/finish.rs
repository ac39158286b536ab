//! What an update ends with: completed, paused, or on its way back.

use std::{sync::Arc, time::Duration};

use skep_api::{
    Secret, Timestamp,
    object::{Service, UpdateState, UpdateStatus},
    spec::{FailureAction, ServiceSpec},
};
use skep_store::{Draft, View};

use super::progress::Failure;
use crate::Situation;

/// Too many failed.
pub(super) fn fail(at: &mut Situation, draft: &mut Draft, action: FailureAction, failure: &Failure) {
    let is_rollback = is_rollback(at.service());
    let words = |done: &str| match failure.deadline {
        None => format!("update {done} due to failure or early termination of task {}", failure.task),
        Some(deadline) => {
            format!("update {done} as task {} did not run within {}", failure.task, seconds(deadline))
        }
    };
    match action {
        // A rollback is never rolled back.
        FailureAction::Rollback if !is_rollback => match way_back(draft, at.service()) {
            Ok(previous) => roll_back(at, draft, previous, words("rolled back")),
            Err(why) => pause(at, draft, format!("{}; {why}", words("paused")), failure.n),
        },
        FailureAction::Pause | FailureAction::Rollback | FailureAction::Continue => {
            pause(at, draft, words("paused"), failure.n);
        }
    }
}

/// What to go back to, if that may be.
fn way_back(view: &View, service: &Service) -> Result<Arc<ServiceSpec>, String> {
    let Some(previous) = &service.previous_spec else {
        return Err("there is no previous spec to go back to".to_owned());
    };
    match previous.network_ids().find(|id| view.network(*id).is_none()) {
        Some(id) => Err(format!("the previous spec asks for network {id}, which was removed")),
        None => Ok(Arc::clone(previous)),
    }
}

fn seconds(span: Duration) -> String {
    format!("{} s", span.as_secs_f64())
}

fn is_rollback(service: &Service) -> bool {
    service.update_status.as_ref().is_some_and(|status| status.state.is_rollback())
}

fn pause(at: &mut Situation, draft: &mut Draft, message: String, failed: u32) {
    let is_back = is_rollback(at.service());
    let state = if is_back { UpdateState::RollbackPaused } else { UpdateState::Paused };
    // Older managers would drop it.
    let failed = if draft.feature_level() >= 2 { failed } else { 0 };
    set_status(at, draft, |status| UpdateStatus { state, message, failed, ..status });
}

/// Swaps nothing: what failed is not worth going back to (`SK:manager/orchestrator/update/updater.go`). Its tasks come
/// with a later pass, as the spec gets its version when it is applied.
fn roll_back(at: &mut Situation, draft: &mut Draft, previous: Arc<ServiceSpec>, message: String) {
    let old = Arc::clone(at.service());
    let now = draft.now();
    let is_new_level = draft.feature_level() >= 2;
    let status = old.update_status.as_ref().map(|status| UpdateStatus {
        state: UpdateState::RollbackStarted,
        message,
        slots: 0,
        failed: 0,
        ..status.clone()
    });
    let history = if is_new_level { old.history_before(&previous, now) } else { Arc::clone(&old.history) };
    let new = Service {
        spec: previous,
        previous_spec: None,
        previous_spec_version: 0,
        registry_auth: old.previous_registry_auth.clone(),
        previous_registry_auth: Secret::default(),
        update_status: status,
        updates: if is_new_level { old.updates + 1 } else { 0 },
        history,
        ..(*old).clone()
    };
    at.put_service(draft, new);
}

pub(super) fn complete(at: &mut Situation, draft: &mut Draft, now: Timestamp) {
    let (state, message) = if is_rollback(at.service()) {
        (UpdateState::RollbackCompleted, "rollback completed")
    } else {
        (UpdateState::Completed, "update completed")
    };
    let message = message.to_owned();
    set_status(at, draft, |status| UpdateStatus { state, message, completed_at: Some(now), ..status });
}

/// Writes what becomes of the update that goes on.
pub(super) fn set_status(
    at: &mut Situation,
    draft: &mut Draft,
    change: impl FnOnce(UpdateStatus) -> UpdateStatus,
) {
    let Some(status) = at.service().update_status.clone() else { return };
    let new = Service { update_status: Some(change(status)), ..(**at.service()).clone() };
    at.put_service(draft, new);
}
