//! What an update or a rollback makes of a service.

use std::sync::Arc;

use skep_api::{
    ApiError, ErrorKind, Secret, Timestamp,
    object::{PastSpec, Service, UpdateState, UpdateStatus},
    spec::{EndpointSpec, FailureAction, Mode, ServiceSpec, SkepLabel, UpdateOrder},
};
use skep_store::View;

use super::RegistryAuth;
use crate::control::{failed_precondition, unimplemented};

/// What somebody sees who rolls back, or stops an update to do so.
pub(super) const BY_HAND: &str = "manually requested rollback";

pub(super) fn no_previous_spec(service: &Service) -> ApiError {
    failed_precondition(&format!("service {} does not have a previous spec", service.id))
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
    } else if let Some(label) = spec.labels.iter().flatten().find_map(|(key, _)| SkepLabel::find(key)) {
        return needs_level_2(view, &format!("label '{}'", label.key()));
    } else if let Some(key) = spec.ports().iter().find_map(|port| port.extra.keys().next()) {
        return needs_level_2(view, &format!("EndpointSpec.Ports: '{key}'"));
    } else {
        return Ok(());
    };
    needs_level_2(view, what)
}

pub(in crate::control) fn needs_level_2(view: &View, what: &str) -> Result<(), ApiError> {
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
    EndpointSpec::ask_the_same(old.endpoint_spec.as_deref(), new.endpoint_spec.as_deref())
        && old.task_template.asks_the_same(&new.task_template)
}

/// What is for life, in Swarm's order and words (`SK:manager/controlapi/service.go`).
pub(super) fn keeps_name_and_mode(old: &Service, spec: &ServiceSpec) -> Result<(), ApiError> {
    if spec.mode().as_str() != old.spec.mode().as_str() {
        return Err(unimplemented("service mode change is not allowed"));
    }
    if spec.name != old.spec.name {
        return Err(unimplemented("renaming services is not supported"));
    }
    Ok(())
}

/// `level` is the swarm's feature level.
pub(crate) fn updated(
    old: &Service,
    spec: ServiceSpec,
    auth: RegistryAuth,
    level: u32,
    now: Timestamp,
) -> Result<Service, ApiError> {
    keeps_name_and_mode(old, &spec)?;
    // An update goes on through changes that make no other tasks: what is in flight counts on.
    let auth = auth.of(old)?;
    let is_like = || make_the_same(&old.spec, &spec) && auth == old.registry_auth;
    let goes_on = level >= 2 && old.is_updating() && is_like();
    let update_status = old.update_status.clone().filter(|status| goes_on && !status.state.is_rollback());
    let mut new = Service {
        previous_spec: Some(Arc::clone(&old.spec)),
        previous_spec_version: old.spec_version,
        registry_auth: auth,
        previous_registry_auth: old.registry_auth.clone(),
        updates: old.updates + u64::from(level >= 2 && !goes_on),
        history: history(old, &spec, level, now),
        spec: Arc::new(spec),
        ..old.clone()
    };
    if let Some(previous) = old.previous_spec.as_ref().filter(|_| update_status.is_some()) {
        // What the update goes back to when it fails is still what was before it. Only how many tasks there are is not
        // what one goes back for.
        new.previous_spec = Some(scaled_as(previous, &new.spec));
        new.previous_spec_version = old.previous_spec_version;
        new.previous_registry_auth.clone_from(&old.previous_registry_auth);
    }
    Ok(run_anew(old, Service { update_status, ..new }, Way::On, now))
}

/// A spec with the number of tasks of another one.
fn scaled_as(spec: &Arc<ServiceSpec>, other: &ServiceSpec) -> Arc<ServiceSpec> {
    if !matches!(spec.mode(), Mode::Replicated { .. }) || spec.mode == other.mode {
        return Arc::clone(spec);
    }
    Arc::new(ServiceSpec { mode: other.mode.clone(), ..(**spec).clone() })
}

/// Where a change leads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    /// To a spec that somebody wrote.
    On,
    /// To one that the service had.
    Back,
}

/// Whatever a change of a job changes, it is another run (`SK:manager/controlapi/service.go`); of one that is
/// scheduled, or was until now, where that is asked for by `--force`.
fn run_anew(old: &Service, service: Service, way: Way, now: Timestamp) -> Service {
    if !service.spec.mode().is_job() {
        return service;
    }
    let is_scheduled = service.spec.is_scheduled();
    let is_same = old.spec.has_schedule_of(&service.spec);
    let cron_last = if is_scheduled && !is_same { now } else { service.cron_last };
    let forced = |of: &ServiceSpec| of.task_template.force_update.unwrap_or(0);
    // Between two specs that the service had the counter rises in one direction or the other: nobody asks for a run.
    let is_forced = way == Way::On && forced(&service.spec) > forced(&old.spec);
    if (is_scheduled || old.spec.is_scheduled()) && !is_forced {
        return Service { cron_last, ..service };
    }
    // The first run of all is iteration 0.
    let job_iteration = service.job_iteration + u64::from(!service.last_execution.is_zero());
    Service { job_iteration, last_execution: now, cron_last, ..service }
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
    let spec = scaled_as(&past.spec, &old.spec);
    Ok(back_to(old, spec, past.registry_auth.clone(), level, now))
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
    run_anew(old, new, Way::Back, now)
}

#[cfg(test)]
mod tests {
    use skep_api::object::Cluster;
    use skep_store::{Change, Draft};

    use super::*;

    #[track_caller]
    fn check(more: &str, expect: &str) {
        let spec: ServiceSpec = serde_json::from_str(&format!(r#"{{"Name":"a"{more}}}"#)).unwrap();
        for (feature_level, is_refused) in [(1, !expect.is_empty()), (2, false)] {
            let mut draft = Draft::new(View::default(), Timestamp(1));
            let cluster = Cluster { feature_level, ..Cluster::default() };
            draft.push(Change::PutCluster(Arc::new(cluster))).unwrap();
            let words = check_level(&draft, &spec).err().map_or(String::new(), |error| error.message);
            let is_told = words.starts_with(&format!("{expect}: needs feature level 2"));
            assert_eq!((!words.is_empty(), is_told), (is_refused, is_refused), "{more}: {words}");
        }
    }

    #[test]
    fn what_older_managers_would_drop_is_refused() {
        check("", "");
        check(r#","Labels":{"a":"b"},"EndpointSpec":{"Ports":[{"TargetPort":80}]}"#, "");
        check(r#","Mode":{"Global":{}}"#, "Mode 'global'");
        check(r#","UpdateConfig":{"Order":"start-first"}"#, "UpdateConfig.Order 'start-first'");
        check(r#","Labels":{"skep.restart.backoff-max":"1m"}"#, "label 'skep.restart.backoff-max'");
        check(r#","EndpointSpec":{"Ports":[{"TargetPort":80,"New":1}]}"#, "EndpointSpec.Ports: 'New'");
    }
}
