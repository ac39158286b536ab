//! What one look at a service shows, mode by mode, in the words of the docker CLI
//! (`CLI:cli/command/service/progress`).

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use skep_api::TaskState;

use crate::client::output::{short, text};

/// Tasks that get a line of their own.
const LINES_MAX: u64 = 20;
/// Docker cuts an error so.
const ERROR_CHARS: usize = 75;
/// A bar's length, and the stages of a task on its way to run, or of a job to its end.
const BAR_CHARS: usize = 50;
const STAGES: [&str; 11] = [
    "",
    "new",
    "allocated",
    "pending",
    "assigned",
    "accepted",
    "preparing",
    "ready",
    "starting",
    "running",
    "complete",
];
/// The last stage of what is to run.
const RUNNING_STAGE: usize = 9;

/// What one look at the daemon showed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Look {
    /// All is as it is to be.
    pub(super) converged: bool,
    /// How far it came as a whole, and task by task where these are not too many.
    pub(super) lines: Vec<String>,
}

/// `tasks` are those that are up to date, `active` the nodes that are not down.
pub(super) fn summarise(
    service: &Value,
    tasks: &[Value],
    active: &BTreeSet<&str>,
    rolling_back: bool,
) -> Look {
    let mode = &service["Spec"]["Mode"];
    if mode.get("Global").is_some() {
        global(tasks, active, rolling_back)
    } else if let Some(job) = mode.get("ReplicatedJob") {
        replicated_job(job, &of_iteration(service, tasks))
    } else if mode.get("GlobalJob").is_some() {
        global_job(&of_iteration(service, tasks))
    } else {
        let wanted = mode["Replicated"]["Replicas"].as_u64().unwrap_or(1);
        replicated(tasks, active, wanted, rolling_back)
    }
}

fn overall(n: u64, wanted: u64, rolling_back: bool) -> String {
    let back = if rolling_back { "rolling back update: " } else { "" };
    format!("overall progress: {back}{n} out of {wanted} tasks")
}

fn replicated(tasks: &[Value], active: &BTreeSet<&str>, wanted: u64, rolling_back: bool) -> Look {
    let is_there = |task: &&Value| {
        let node = text(task, "/NodeID");
        node.is_empty() || active.contains(node)
    };
    let slots = leading(tasks.iter().filter(is_there), slot);
    let running = count(slots.values().filter(|task| is_running(task)));
    let mut lines = vec![overall(running, wanted, rolling_back)];
    if wanted <= LINES_MAX {
        let width = wanted.to_string().len();
        lines.extend((1..=wanted).map(|slot| {
            format!("{slot:>width$}/{wanted}: {}", line(slots.get(&slot).copied(), RUNNING_STAGE))
        }));
    }
    Look { converged: running == wanted, lines }
}

/// Nobody knows how many nodes will do, but the tasks of all of them come at the same time.
fn global(tasks: &[Value], active: &BTreeSet<&str>, rolling_back: bool) -> Look {
    let nodes = leading(tasks.iter(), |task| text(task, "/NodeID"));
    if nodes.is_empty() {
        return Look { converged: false, lines: vec!["overall progress: waiting for new tasks".to_owned()] };
    }
    let there = || nodes.iter().filter(|(node, _)| active.contains(**node));
    let (running, wanted) = (count(there().filter(|(_, task)| is_running(task))), count(nodes.iter()));
    let mut lines = vec![overall(running, wanted, rolling_back)];
    if wanted <= LINES_MAX {
        lines.extend(
            there().map(|(node, task)| format!("{}: {}", short(node), line(Some(task), RUNNING_STAGE))),
        );
    }
    Look { converged: running == wanted, lines }
}

fn replicated_job(job: &Value, tasks: &[&Value]) -> Look {
    let concurrent = job["MaxConcurrent"].as_u64().unwrap_or(1);
    let total = job["TotalCompletions"].as_u64().unwrap_or(concurrent);
    let slots = leading(tasks.iter().copied(), slot);
    let complete = count(slots.values().filter(|task| is_complete(task)));
    let running = count(slots.values().filter(|task| observed(task) < TaskState::Complete));
    let mut lines = vec![done(complete, total)];
    let width = concurrent.to_string().len();
    let wanted = total.saturating_sub(complete).min(concurrent);
    lines.push(format!("active tasks: {running:>width$} out of {wanted:>width$} tasks"));
    if total <= LINES_MAX {
        let bar = |slot: u64| line(slots.get(&slot).copied(), STAGES.len() - 1);
        lines.extend((0..total).map(|slot| format!("{}/{total}: {}", slot + 1, bar(slot))));
    }
    Look { converged: complete == total, lines }
}

fn global_job(tasks: &[&Value]) -> Look {
    let nodes = leading(tasks.iter().copied(), |task| text(task, "/NodeID"));
    if nodes.is_empty() {
        return Look { converged: false, lines: vec!["job progress: waiting for tasks".to_owned()] };
    }
    let (complete, total) = (count(nodes.values().filter(|task| is_complete(task))), count(nodes.iter()));
    let mut lines = vec![done(complete, total)];
    if total <= LINES_MAX {
        let bars = nodes.iter().map(|(node, task)| (node, line(Some(task), STAGES.len() - 1)));
        lines.extend(bars.map(|(node, bar)| format!("{}: {bar}", short(node))));
    }
    Look { converged: complete == total, lines }
}

fn done(complete: u64, total: u64) -> String {
    let width = total.to_string().len();
    format!("job progress: {complete:>width$} out of {total} complete")
}

/// The tasks of the run that goes on.
fn of_iteration<'a>(service: &Value, tasks: &'a [Value]) -> Vec<&'a Value> {
    let index = |version: &Value| version["Index"].as_u64().unwrap_or(0);
    let iteration = index(&service["JobStatus"]["JobIteration"]);
    tasks.iter().filter(|task| index(&task["JobIteration"]) == iteration).collect()
}

/// The task that stands for its seat: the one that is wanted and got furthest, or the last to fail.
fn leading<'a, K: Ord>(
    tasks: impl Iterator<Item = &'a Value>,
    seat: impl Fn(&'a Value) -> K,
) -> BTreeMap<K, &'a Value> {
    let mut seats: BTreeMap<K, &Value> = BTreeMap::new();
    let rank = |task: &Value| {
        let is_wanted = state(task, "/DesiredState") <= TaskState::Complete;
        (is_wanted, observed(task) <= TaskState::Complete, observed(task))
    };
    for task in tasks {
        let key = seat(task);
        if seats.get(&key).is_none_or(|other| rank(task) > rank(other)) {
            seats.insert(key, task);
        }
    }
    seats
}

fn slot(task: &Value) -> u64 {
    task["Slot"].as_u64().unwrap_or(0)
}

fn count<T>(all: impl Iterator<Item = T>) -> u64 {
    u64::try_from(all.count()).unwrap_or(u64::MAX)
}

fn is_running(task: &Value) -> bool {
    observed(task) == TaskState::Running && state(task, "/DesiredState") <= TaskState::Complete
}

fn is_complete(task: &Value) -> bool {
    observed(task) == TaskState::Complete
}

fn observed(task: &Value) -> TaskState {
    state(task, "/Status/State")
}

fn state(task: &Value, pointer: &str) -> TaskState {
    let word = text(task, pointer);
    TaskState::ALL.into_iter().find(|state| state.as_str() == word).unwrap_or(TaskState::New)
}

/// As docker shows an error, so that no line of progress wraps (`CLI:cli/command/service/progress/progress.go`).
fn on_one_line(error: &str) -> String {
    let error = error.replace('\n', " ");
    match error.char_indices().nth(ERROR_CHARS) {
        Some((end, _)) => format!("{}…", &error[..end]),
        None => error,
    }
}

fn line(task: Option<&Value>, last_stage: usize) -> String {
    let Some(task) = task else { return String::new() };
    let (error, observed) = (text(task, "/Status/Err"), observed(task));
    if !error.is_empty() && (observed > TaskState::Running || observed == TaskState::Pending) {
        return on_one_line(error);
    }
    let stage = STAGES.iter().position(|stage| *stage == observed.as_str()).unwrap_or(last_stage);
    let filled = stage.min(last_stage) * BAR_CHARS / last_stage;
    format!("{:<9} [{}>{}] ", observed.as_str(), "=".repeat(filled), " ".repeat(BAR_CHARS - filled))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn task(slot: u64, state: &str, desired: &str, node: &str, err: &str) -> Value {
        json!({ "Slot": slot, "DesiredState": desired, "NodeID": node, "Status": { "State": state, "Err": err } })
    }

    fn service(mode: &Value) -> Value {
        json!({ "Spec": { "Mode": mode }, "JobStatus": { "JobIteration": { "Index": 2 } } })
    }

    #[test]
    fn slots_are_counted_once() {
        let active = BTreeSet::from(["a"]);
        let tasks = [
            task(1, "failed", "shutdown", "a", "task: non-zero exit (1)"),
            task(1, "running", "running", "a", ""),
            task(2, "rejected", "shutdown", "a", "No such image: x"),
            task(3, "running", "running", "gone", ""),
            task(4, "starting", "running", "a", ""),
        ];
        let four = service(&json!({ "Replicated": { "Replicas": 4 } }));
        let look = summarise(&four, &tasks, &active, false);
        assert_eq!(look.lines[0], "overall progress: 1 out of 4 tasks");
        assert!(look.lines[1].starts_with("1/4: running   [====="), "{:?}", look.lines);
        assert_eq!(look.lines[2], "2/4: No such image: x");
        assert_eq!(look.lines[3], "3/4: ");
        assert!(look.lines[4].starts_with("4/4: starting  ["));
        assert!(!look.converged);
        let many = service(&json!({ "Replicated": { "Replicas": 21 } }));
        assert_eq!(summarise(&many, &tasks, &active, true).lines.len(), 1);
    }

    #[test]
    fn a_global_service_has_as_many_as_there_are_nodes() {
        let active = BTreeSet::from(["a", "b"]);
        let global = service(&json!({ "Global": {} }));
        let look = summarise(&global, &[], &active, false);
        assert_eq!(
            (look.converged, look.lines[0].as_str()),
            (false, "overall progress: waiting for new tasks")
        );
        let tasks = [task(0, "running", "running", "a", ""), task(0, "ready", "running", "b", "")];
        let look = summarise(&global, &tasks, &active, false);
        assert_eq!((look.converged, look.lines[0].as_str()), (false, "overall progress: 1 out of 2 tasks"));
        assert!(look.lines[2].starts_with("b: ready     ["), "{:?}", look.lines);
        assert!(summarise(&global, &tasks[..1], &active, false).converged);
    }

    #[test]
    fn jobs_count_what_completed_in_their_iteration() {
        let of = |iteration: u64, mut task: Value| {
            task["JobIteration"] = json!({ "Index": iteration });
            task
        };
        let tasks = [
            of(2, task(0, "complete", "complete", "a", "")),
            of(2, task(1, "failed", "shutdown", "a", "task: non-zero exit (1)")),
            of(2, task(1, "running", "complete", "b", "")),
            of(1, task(2, "complete", "complete", "a", "")),
        ];
        let active = BTreeSet::new();
        let job = service(&json!({ "ReplicatedJob": { "MaxConcurrent": 2, "TotalCompletions": 12 } }));
        let look = summarise(&job, &tasks, &active, false);
        assert_eq!(
            look.lines[..2],
            ["job progress:  1 out of 12 complete", "active tasks: 1 out of 2 tasks"]
        );
        assert!(look.lines[2].starts_with("1/12: complete  [="), "{:?}", look.lines);
        assert!(look.lines[3].starts_with("2/12: running "), "{:?}", look.lines);
        assert!(!look.converged);
        let job = service(&json!({ "GlobalJob": {} }));
        let look = summarise(&job, &tasks[..1], &active, false);
        assert_eq!((look.converged, look.lines[0].as_str()), (true, "job progress: 1 out of 1 complete"));
    }
}
