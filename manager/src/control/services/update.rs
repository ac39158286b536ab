//! What an update or a rollback makes of a service.

use std::sync::Arc;

use skep_api::{
    ApiError, ErrorKind, Secret, Timestamp,
    object::{PastSpec, Service, UpdateState, UpdateStatus},
    spec::{EndpointSpec, FailureAction, Mode, ServiceSpec, SkepLabel, UpdateOrder},
};
use skep_store::View;

use super::RegistryAuth;
use crate::control::failed_precondition;

/// What somebody sees who rolls back, or stops an update to do so.
pub(super) const BY_HAND: &str = "manually requested rollback";

pub(super) fn no_previous_spec(service: &Service) -> ApiError {
    failed_precondition(&format!("service {} does not have a previous spec", service.spec.name))
}

/// Refuses what older managers would not do, or would drop.
pub(in crate::control) fn check_level(view: &View, spec: &ServiceSpec) -> Result<(), ApiError> {
    match spec.mode() {
        Mode::Replicated { .. } => {}
        // They would take it for a replicated service.
        mode @ (Mode::Global | Mode::ReplicatedJob { .. } | Mode::GlobalJob) => {
            needs_level_2(view, &format!("Mode '{}'", mode.as_str()))?;
        }
    }
    let (update, rollback) = (spec.update(), spec.rollback());
    let what = if update.failure_action == FailureAction::Rollback {
        "UpdateConfig.FailureAction 'rollback'"
    } else if update.order == UpdateOrder::StartFirst {
        "UpdateConfig.Order 'start-first'"
    } else if rollback.order == UpdateOrder::StartFirst {
        "RollbackConfig.Order 'start-first'"
    } else if spec.task_template.spread().next().is_some() {
        "TaskTemplate.Placement.Preferences"
    } else if spec.task_template.max_replicas() > 0 {
        "TaskTemplate.Placement.MaxReplicas"
    } else if spec.task_template.generic().next().is_some() {
        "TaskTemplate.Resources.Reservations.GenericResources"
    } else if spec.label_number(SkepLabel::Rebalance).is_some_and(|n| n > 0) {
        "Labels.skep.rebalance"
    } else if spec.label(SkepLabel::Strategy).is_some() {
        "Labels.skep.strategy"
    } else if spec.label(SkepLabel::SpreadWeight).is_some() {
        "Labels.skep.spread.weight"
    } else if spec.soft().next().is_some() {
        "Labels.skep.soft"
    } else {
        return Ok(());
    };
    needs_level_2(view, what)
}

pub(super) fn needs_level_2(view: &View, what: &str) -> Result<(), ApiError> {
    let level = view.feature_level();
    if level >= 2 {
        return Ok(());
    }
    let words = format!(
        "{what}: needs feature level 2, and the swarm is at feature level {level}; update all managers first"
    );
    Err(ApiError::new(ErrorKind::Unimplemented, words))
}

/// Whether two specs ask for the same tasks.
fn make_the_same(old: &ServiceSpec, new: &ServiceSpec) -> bool {
    EndpointSpec::ask_the_same(old.endpoint_spec.as_ref(), new.endpoint_spec.as_ref())
        && old.task_template.asks_the_same(&new.task_template)
}

/// `level` is the swarm's feature level.
pub(crate) fn updated(
    old: &Service,
    spec: ServiceSpec,
    auth: RegistryAuth,
    level: u32,
    now: Timestamp,
) -> Result<Service, ApiError> {
    if spec.name != old.spec.name {
        return Err(ApiError::new(ErrorKind::Unimplemented, "renaming services is not supported"));
    }
    if spec.mode().as_str() != old.spec.mode().as_str() {
        return Err(ApiError::new(ErrorKind::Unimplemented, "service mode change is not allowed"));
    }
    // An update goes on through changes that make no other tasks: what is in flight counts on.
    let goes_on = level >= 2 && old.is_updating() && make_the_same(&old.spec, &spec);
    let update_status = old.update_status.clone().filter(|status| goes_on && !status.state.is_rollback());
    Ok(run_anew(
        Service {
            previous_spec: Some(Arc::clone(&old.spec)),
            previous_spec_version: old.spec_version,
            registry_auth: auth.of(old)?,
            previous_registry_auth: old.registry_auth.clone(),
            update_status,
            updates: old.updates + u64::from(level >= 2 && !goes_on),
            history: history(old, &spec, level, now),
            spec: Arc::new(spec),
            ..old.clone()
        },
        now,
    ))
}

/// Whatever a change of a job changes, it is another run (`SK:manager/controlapi/service.go`).
fn run_anew(service: Service, now: Timestamp) -> Service {
    if !service.spec.mode().is_job() {
        return service;
    }
    Service { job_iteration: service.job_iteration + 1, last_execution: now, ..service }
}

fn history(old: &Service, spec: &ServiceSpec, level: u32, now: Timestamp) -> Arc<[PastSpec]> {
    if level >= 2 { old.history_before(spec, now) } else { Arc::clone(&old.history) }
}

/// Swaps the two specs, so that a second rollback undoes the first (`SK:manager/controlapi/service.go`).
pub(crate) fn rolled_back(old: &Service, level: u32, now: Timestamp) -> Result<Service, ApiError> {
    let Some(previous) = &old.previous_spec else {
        return Err(no_previous_spec(old));
    };
    Ok(back_to(old, Arc::clone(previous), old.previous_registry_auth.clone(), level, now))
}

/// To the `back`th spec before the present one, of those that are kept; 1 is the newest.
pub(crate) fn rolled_back_to(
    old: &Service,
    back: usize,
    level: u32,
    now: Timestamp,
) -> Result<Service, ApiError> {
    let Some(past) = back.checked_sub(1).and_then(|at| old.history.get(at)) else {
        let words = format!(
            "service {} keeps {} past specs, and none is number {back}: `skep service history` shows them",
            old.spec.name,
            old.history.len()
        );
        return Err(failed_precondition(&words));
    };
    // How many tasks there are is not what one goes back for.
    let mut spec = (*past.spec).clone();
    if matches!(spec.mode(), Mode::Replicated { .. }) {
        spec.mode.clone_from(&old.spec.mode);
    }
    Ok(back_to(old, Arc::new(spec), past.registry_auth.clone(), level, now))
}

fn back_to(old: &Service, spec: Arc<ServiceSpec>, auth: Secret, level: u32, now: Timestamp) -> Service {
    let new = Service {
        history: history(old, &spec, level, now),
        spec,
        previous_spec: Some(Arc::clone(&old.spec)),
        previous_spec_version: old.spec_version,
        registry_auth: auth,
        previous_registry_auth: old.registry_auth.clone(),
        update_status: Some(UpdateStatus::new(UpdateState::RollbackStarted, now, BY_HAND)),
        updates: old.updates + u64::from(level >= 2),
        ..old.clone()
    };
    run_anew(new, now)
}
