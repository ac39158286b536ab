//! Rolls a changed service out, seat by seat, and back.
//!
//! In: the seats, the settings, the update's status, now. A seat is in flight from when it was taken up until its task
//! has reached RUNNING or an end and the delay has passed; at most `parallelism` are. A task of the update that ends
//! before RUNNING, or within the monitor after it, is a failure.

mod finish;
mod progress;
mod replace;

use std::sync::Arc;

use skep_api::{
    object::{Service, UpdateState, UpdateStatus},
    spec::UpdateSettings,
};
use skep_store::Draft;

use self::{
    finish::{complete, fail, set_status},
    progress::Progress,
    replace::take_up,
};
use crate::{Context, ServicePart, Situation};

pub(crate) use progress::judged;
pub(crate) use replace::share_volumes;

/// Replaces tasks that are not what their service asks for any more.
#[derive(Clone, Copy, Debug)]
pub struct Update;

impl ServicePart for Update {
    fn name(&self) -> &'static str {
        "update"
    }

    fn is_by_seat(&self) -> bool {
        false
    }

    fn reconcile(&self, at: &mut Situation, draft: &mut Draft, cx: &mut Context<'_>) {
        // A job is run anew. What is paused goes on with the user's next change only.
        if at.mode().is_job() || at.service().is_update_paused() {
            return;
        }
        let is_running = at.service().is_updating();
        let progress = Progress::read(draft, at, settings(at.service()));
        if progress.is_all_taken() && !is_running {
            return;
        }
        if !is_running || has_no_serial(draft, at.service()) {
            begin(at, draft, is_running);
        }
        // By the serial that it has now.
        let settings = settings(at.service());
        let progress = Progress::read(draft, at, settings);
        let n_slots = count_slots(at, draft, &progress);
        let n_before = at.service().update_status.as_ref().map_or(0, |status| status.failed);
        if let Some(failure) = progress.failure(n_slots, n_before) {
            fail(at, draft, settings.failure_action, &failure);
            return;
        }
        let service = at.service().id;
        let (n_coming, n_in_flight) = (progress.n_coming(), progress.n_in_flight(cx, service));
        let free = |n: u64| usize::try_from(settings.parallelism.saturating_sub(n)).unwrap_or(usize::MAX);
        // Nothing is lost where nothing runs: such a seat waits for others to run, but for no delay.
        let empty = progress.empty.iter().take(free(n_coming));
        let n_taken = u64::try_from(empty.len()).unwrap_or(u64::MAX);
        let filled = progress.filled.iter().take(free(n_in_flight.saturating_add(n_taken)));
        for key in empty.chain(filled) {
            take_up(at, draft, cx, *key, settings.order);
        }
        if progress.is_all_taken() && n_in_flight == 0 && progress.is_watched(cx, service) {
            let now = draft.now();
            complete(at, draft, now);
        }
    }
}

fn settings(service: &Service) -> UpdateSettings {
    let is_rollback = service.is_updating()
        && service.update_status.as_ref().is_some_and(|status| status.state.is_rollback());
    if is_rollback { service.spec.rollback() } else { service.spec.update() }
}

/// An update that began before there were serials.
fn has_no_serial(draft: &Draft, service: &Service) -> bool {
    draft.feature_level() >= 2 && service.updates == 0
}

/// Begins an update, or gives a serial to one that has none. A serial that an update had which is over is not used
/// again.
fn begin(at: &mut Situation, draft: &mut Draft, is_running: bool) {
    let old = Arc::clone(at.service());
    let is_used = old.update_status.is_some() || old.updates == 0;
    let updates = old.updates + u64::from(is_used && draft.feature_level() >= 2);
    let update_status = if is_running {
        old.update_status.clone()
    } else {
        Some(UpdateStatus::new(UpdateState::Updating, draft.now(), "update in progress"))
    };
    at.put_service(draft, Service { updates, update_status, ..(*old).clone() });
}

/// How many seats the update is about: counted once.
fn count_slots(at: &mut Situation, draft: &mut Draft, progress: &Progress) -> u32 {
    let counted = at.service().update_status.as_ref().map_or(0, |status| status.slots);
    if counted != 0 {
        return counted;
    }
    let slots = progress.n_slots();
    if slots != 0 && draft.feature_level() >= 2 {
        set_status(at, draft, |status| UpdateStatus { slots, ..status });
    }
    slots
}
