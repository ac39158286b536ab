//! A job runs as many tasks at the same time as it says and no more, and a seat that has completed is done with.

use std::collections::{BTreeMap, BTreeSet};

use skep_api::TaskState;
use skep_api::object::{SeatKey, Service, Task};
use skep_api::spec::Mode;
use skep_manager::View;

use crate::swarm::world::State;

/// What is wrong with the jobs of a state.
pub(crate) fn view(state: &mut State, view: &View) {
    let mut wrong = Vec::new();
    for service in view.services().filter(|service| service.spec.mode().is_job()) {
        let name = &service.spec.name;
        let mut done = BTreeSet::new();
        let mut runnable: BTreeMap<SeatKey, u64> = BTreeMap::new();
        for task in of_iteration(view, service) {
            if is_done(task) {
                done.insert(task.seat());
            }
            if task.is_runnable() {
                *runnable.entry(task.seat()).or_default() += 1;
            }
            if !state.tasks.contains_key(&task.id) && was_done(&state.newest, service, task) {
                wrong.push(format!(
                    "{:?} of {name} had completed, and is run again: {}",
                    task.seat(),
                    task.id
                ));
            }
        }
        if let Mode::ReplicatedJob { concurrent, total } = service.spec.mode() {
            let n_runnable: u64 = runnable.values().sum();
            if n_runnable > concurrent {
                wrong.push(format!("{n_runnable} tasks of {name} are to run, not {concurrent}"));
            }
            let n_seats = done.iter().chain(runnable.keys()).collect::<BTreeSet<_>>().len();
            if u64::try_from(n_seats).unwrap() > total {
                wrong.push(format!("{name} has {n_seats} seats, not {total}"));
            }
        }
    }
    let at = view.revision();
    wrong.into_iter().for_each(|line| state.trace.fail(format!("{line}, at {at}")));
}

fn of_iteration<'a>(view: &'a View, service: &Service) -> impl Iterator<Item = &'a Task> {
    let iteration = service.job_iteration;
    let tasks = view.tasks_of_service(service.id).map(|task| &**task);
    tasks.filter(move |task| task.job_iteration() == iteration && task.desired_state < TaskState::Remove)
}

/// What completed after it had been given up, on a node that was lost, does not count: another one took its place.
fn is_done(task: &Task) -> bool {
    task.status.state == TaskState::Complete && task.is_wanted()
}

/// Whether the seat of a new task had completed before it was made.
fn was_done(before: &View, service: &Service, task: &Task) -> bool {
    let is_same_run =
        before.service(service.id).is_some_and(|old| old.job_iteration == service.job_iteration);
    is_same_run && of_iteration(before, service).any(|old| old.seat() == task.seat() && is_done(old))
}
