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
    spec::{UpdateOrder, UpdateSettings},
};
use skep_store::Draft;

use self::{
    finish::{complete, fail, set_status},
    progress::Progress,
    replace::take_up,
};
use crate::{Context, ServicePart, Situation};

pub(crate) use progress::{is_of_update, judged};
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
        let is_running = at.service().is_updating();
        if at.mode().is_job() {
            // It is run anew, whatever it was changed to: a rollback is done with that. Swarm's goes on for ever.
            if is_running {
                let now = draft.now();
                complete(at, draft, now);
            }
            return;
        }
        // What is paused goes on with the user's next change only.
        if at.service().is_update_paused() {
            return;
        }
        let progress = Progress::read(draft, cx, at, settings(at.service()));
        if progress.is_all_taken() && !is_running {
            return;
        }
        if !is_running && at.mode().is_global() && is_over(at.service()) {
            // Its node was away or paused when the others were updated: no matter of an update any more
            // (`SK:manager/orchestrator/global/global.go`).
            for key in progress.left() {
                take_up(at, draft, cx, key, UpdateOrder::StopFirst);
            }
            return;
        }
        if !is_running {
            begin(at, draft);
        }
        // By the serial that it has now.
        let settings = settings(at.service());
        let progress = Progress::read(draft, cx, at, settings);
        let n_slots = count_slots(at, draft, &progress);
        let n_before = at.service().update_status.as_ref().map_or(0, |status| status.failed);
        if let Some(failure) = progress.failure(n_slots, n_before) {
            fail(at, draft, settings.failure_action, &failure);
            return;
        }
        let service = at.service().id;
        let n_in_flight = progress.n_in_flight(cx, service);
        for key in progress.next(n_in_flight) {
            take_up(at, draft, cx, key, settings.order);
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

/// Whether the last change of the service was rolled out, or back.
fn is_over(service: &Service) -> bool {
    service.update_status.is_some() && !service.is_updating() && !service.is_update_paused()
}

/// Begins an update. A serial that an update had which is over is not used again.
fn begin(at: &mut Situation, draft: &mut Draft) {
    let old = Arc::clone(at.service());
    let is_used = old.update_status.is_some() || old.updates == 0;
    let updates = old.updates + u64::from(is_used && draft.feature_level() >= 2);
    let status = UpdateStatus::new(UpdateState::Updating, draft.now(), "update in progress");
    at.put_service(draft, Service { updates, update_status: Some(status), ..(*old).clone() });
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
