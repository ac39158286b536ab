//! The runs of scheduled jobs: a route of our own, since Docker has none.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Router,
    extract::{Path, State},
    routing::get,
};
use serde_json::{Value, json};
use skep_api::{
    ApiError, TaskState, Timestamp,
    object::{JobRun, SeatKey, Service, Task},
    spec::Schedule,
};
use skep_manager::View;

use super::{
    Api,
    answer::{Answer, ok},
    lookup,
};

pub(super) fn routes() -> Router<Api> {
    Router::new().route("/skep/services/{id}/runs", get(runs))
}

/// The present run, those that are over, the newest first, and when the next one is due.
async fn runs(State(api): State<Api>, Path(word): Path<String>) -> Answer {
    let view = api.manager()?.view().await?;
    let service = lookup::service(&view, &word)?;
    let Some(schedule) = Schedule::of(&service.spec) else {
        let words =
            format!("service {} has no schedule: its label skep.cron gives it one", service.spec.name);
        return Err(ApiError::invalid(words).into());
    };
    let next = schedule.next(service.cron_last.max(api.backend.facts().now));
    let present = (!service.is_between_runs()).then(|| present(&view, &service));
    let past = service.runs.iter().take(service.n_runs_max()).map(rendered);
    let runs: Vec<Value> = present.into_iter().chain(past).collect();
    ok(&json!({ "Runs": runs, "Next": next.map(|at| at.to_string()) }))
}

fn present(view: &View, service: &Service) -> Value {
    rendered(&so_far(view.tasks_of_service(service.id), service))
}

/// What has come of the present run: a slot has failed when nothing is to follow the last task in it.
fn so_far<'a>(tasks: impl Iterator<Item = &'a Arc<Task>>, service: &Service) -> JobRun {
    let mut newest: BTreeMap<SeatKey, &Task> = BTreeMap::new();
    for task in tasks.filter(|task| task.job_iteration() == service.job_iteration) {
        let known = newest.entry(task.seat()).or_insert(task);
        if (task.meta.created_at, task.id) > (known.meta.created_at, known.id) {
            *known = task;
        }
    }
    let count = |is: fn(&Task) -> bool| {
        u64::try_from(newest.values().filter(|task| is(task)).count()).unwrap_or(u64::MAX)
    };
    JobRun {
        iteration: service.job_iteration,
        started: service.last_execution,
        completed: count(|task| task.status.state == TaskState::Complete),
        failed: count(|task| task.status.state != TaskState::Complete && !task.is_wanted()),
        ..JobRun::default()
    }
}

fn rendered(run: &JobRun) -> Value {
    let time = |at: Timestamp| (!at.is_zero()).then(|| at.to_string());
    json!({
        "Iteration": run.iteration,
        "Started": time(run.started),
        "Ended": time(run.ended),
        "Completed": run.completed,
        "Failed": run.failed,
    })
}
