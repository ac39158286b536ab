//! Waits for a service to converge and shows how it goes, as the docker CLI does.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::IsTerminal as _,
    time::Duration,
};

use anyhow::bail;
use serde_json::Value;
use skep_api::TaskState;
use tokio::time::Instant;

use super::{
    connection::{Connection, escape},
    output::{print, text},
};

/// How often the daemon is asked.
const POLL_EVERY: Duration = Duration::from_millis(200);
/// Slots that get a line of their own.
const LINES_MAX: u64 = 20;
/// A bar's length, and the stages of a task on its way to run.
const BAR_CHARS: usize = 50;
const STAGES: [&str; 10] =
    ["", "new", "allocated", "pending", "assigned", "accepted", "preparing", "ready", "starting", "running"];

/// What one look at the daemon showed.
#[derive(Debug, Default, PartialEq, Eq)]
struct Look {
    running: u64,
    wanted: u64,
    rolling_back: bool,
    /// By slot, for a service that is not too large.
    lines: Vec<String>,
}

impl Look {
    fn overall(&self) -> String {
        let back = if self.rolling_back { "rolling back update: " } else { "" };
        format!("overall progress: {back}{} out of {} tasks", self.running, self.wanted)
    }

    fn converged(&self) -> bool {
        self.running == self.wanted
    }
}

/// Prints lines: over each other on a terminal, once each elsewhere.
pub(super) struct Screen {
    on_terminal: bool,
    quiet: bool,
    /// What stands there now.
    shown: Vec<String>,
}

impl Screen {
    pub(super) fn new(on_terminal: bool, quiet: bool) -> Self {
        Self { on_terminal, quiet, shown: Vec::new() }
    }

    pub(super) fn show(&mut self, lines: Vec<String>) -> anyhow::Result<()> {
        if self.quiet || lines == self.shown {
            return Ok(());
        }
        let text = if self.on_terminal {
            let up =
                if self.shown.is_empty() { String::new() } else { format!("\x1b[{}A", self.shown.len()) };
            let body: String = lines.iter().map(|line| format!("\x1b[2K{line}\r\n")).collect();
            // Lines that are no longer needed are cleared away.
            format!("{up}{body}\x1b[J")
        } else {
            let fresh = lines.iter().filter(|line| !self.shown.contains(line));
            fresh.map(|line| format!("{line}\n")).collect()
        };
        self.shown = lines;
        print(&text)
    }
}

/// Waits until all tasks run and stay for the monitor's time. `back`: a rollback is what was asked for.
///
/// # Errors
/// The update or rollback was paused, an update was rolled back, or the daemon failed.
pub(crate) async fn wait(daemon: &Connection, service: &str, quiet: bool, back: bool) -> anyhow::Result<()> {
    tokio::select! {
        result = watch(daemon, service, quiet, back) => result,
        _ = tokio::signal::ctrl_c() => print(&format!(
            "\nOperation continuing in background.\nUse `skep service ps {service}` to check progress.\n"
        )),
    }
}

async fn watch(daemon: &Connection, word: &str, quiet: bool, back: bool) -> anyhow::Result<()> {
    let mut screen = Screen::new(std::io::stdout().is_terminal(), quiet);
    let mut converged_at: Option<Instant> = None;
    let mut why_back = String::new();
    loop {
        let service = daemon.get(&format!("/services/{}", escape(word))).await?;
        let monitor =
            service.pointer("/Spec/UpdateConfig/Monitor").and_then(Value::as_u64).filter(|n| *n != 0);
        let monitor = monitor.map_or(Duration::from_secs(5), Duration::from_nanos);
        let rolling_back = check_update(&service, back, &mut why_back)?;
        let look = look(daemon, &service, rolling_back).await?;
        let elapsed = converged_at.map(|at| at.elapsed());
        let mut lines = Vec::new();
        if !why_back.is_empty() {
            lines.push(format!("rollback: {why_back}"));
        }
        lines.push(look.overall());
        lines.extend(look.lines.iter().cloned());
        if look.converged() && elapsed.is_some_and(|elapsed| elapsed >= monitor) {
            lines.push(format!("verify: Service {word} converged"));
            if text(&service, "/UpdateStatus/State") == "rollback_completed" {
                lines.push(format!("rollback: {}", text(&service, "/UpdateStatus/Message")));
            }
            return screen.show(lines);
        }
        if look.converged() {
            let at = *converged_at.get_or_insert_with(Instant::now);
            let seconds = monitor.saturating_sub(at.elapsed()).as_secs() + 1;
            lines.push(format!("verify: Waiting {seconds} seconds to verify that tasks are stable..."));
        } else {
            converged_at = None;
        }
        screen.show(lines)?;
        tokio::time::sleep(POLL_EVERY).await;
    }
}

/// Whether a rollback goes on; `why` it began is kept, as nobody says it afterwards.
fn check_update(service: &Value, back: bool, why: &mut String) -> anyhow::Result<bool> {
    let message = text(service, "/UpdateStatus/Message");
    match text(service, "/UpdateStatus/State") {
        "paused" => bail!("service update paused: {message}"),
        "rollback_paused" => bail!("service rollback paused: {message}"),
        "rollback_completed" if !back && why.is_empty() => bail!("service rolled back: {message}"),
        "rollback_completed" if !back => bail!("service rolled back: {why}"),
        "rollback_started" => {
            message.clone_into(why);
            Ok(true)
        }
        _ => Ok(false),
    }
}

async fn look(daemon: &Connection, service: &Value, rolling_back: bool) -> anyhow::Result<Look> {
    let filters = [
        ("service".to_owned(), text(service, "/ID").to_owned()),
        ("_up-to-date".to_owned(), "true".to_owned()),
    ];
    let tasks = daemon.list("/tasks", &filters).await?;
    let nodes = daemon.list("/nodes", &[]).await?;
    let active: BTreeSet<&str> = nodes
        .iter()
        .filter(|node| text(node, "/Status/State") != "down")
        .map(|node| text(node, "/ID"))
        .collect();
    let wanted = service.pointer("/Spec/Mode/Replicated/Replicas").and_then(Value::as_u64).unwrap_or(1);
    Ok(summarise(&tasks, &active, wanted, rolling_back))
}

fn state(task: &Value, pointer: &str) -> TaskState {
    let word = text(task, pointer);
    TaskState::ALL.into_iter().find(|state| state.as_str() == word).unwrap_or(TaskState::New)
}

fn summarise(tasks: &[Value], active: &BTreeSet<&str>, wanted: u64, rolling_back: bool) -> Look {
    // The task that stands for its slot: the one wanted to run that got furthest, or the last to fail.
    let mut slots: BTreeMap<u64, &Value> = BTreeMap::new();
    for task in tasks {
        let node = text(task, "/NodeID");
        if !node.is_empty() && !active.contains(node) {
            continue;
        }
        let slot = task["Slot"].as_u64().unwrap_or(0);
        let rank = |task: &Value| {
            let (desired, observed) = (state(task, "/DesiredState"), state(task, "/Status/State"));
            (desired <= TaskState::Complete, observed <= TaskState::Running, observed)
        };
        if slots.get(&slot).is_none_or(|other| rank(task) > rank(other)) {
            slots.insert(slot, task);
        }
    }
    let is_running = |task: &&&Value| {
        state(task, "/Status/State") == TaskState::Running
            && state(task, "/DesiredState") <= TaskState::Complete
    };
    let running = u64::try_from(slots.values().filter(is_running).count()).unwrap_or(u64::MAX);
    let lines = if wanted > LINES_MAX {
        Vec::new()
    } else {
        let width = wanted.to_string().len();
        (1..=wanted)
            .map(|slot| format!("{slot:>width$}/{wanted}: {}", line(slots.get(&slot).copied())))
            .collect()
    };
    Look { running, wanted, rolling_back, lines }
}

fn line(task: Option<&Value>) -> String {
    let Some(task) = task else { return String::new() };
    let (error, observed) = (text(task, "/Status/Err"), state(task, "/Status/State"));
    if !error.is_empty() && (observed > TaskState::Running || observed == TaskState::Pending) {
        return error.to_owned();
    }
    let stage = STAGES.iter().position(|stage| *stage == observed.as_str()).unwrap_or(STAGES.len() - 1);
    let filled = stage * BAR_CHARS / (STAGES.len() - 1);
    format!("{:<9} [{}>{}] ", observed.as_str(), "=".repeat(filled), " ".repeat(BAR_CHARS - filled))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn task(slot: u64, state: &str, desired: &str, node: &str, err: &str) -> Value {
        json!({ "Slot": slot, "DesiredState": desired, "NodeID": node, "Status": { "State": state, "Err": err } })
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
        let look = summarise(&tasks, &active, 4, false);
        assert_eq!(look.overall(), "overall progress: 1 out of 4 tasks");
        assert!(look.lines[0].starts_with("1/4: running   [====="), "{:?}", look.lines);
        assert_eq!(look.lines[1], "2/4: No such image: x");
        assert_eq!(look.lines[2], "3/4: ");
        assert!(look.lines[3].starts_with("4/4: starting  ["));
        assert!(!look.converged());
        assert!(summarise(&tasks, &active, 21, true).lines.is_empty());
    }

    #[test]
    fn a_paused_update_is_an_error() {
        let service = json!({ "UpdateStatus": { "State": "paused", "Message": "why" } });
        let check = |service: &Value, back: bool| check_update(service, back, &mut String::new());
        assert_eq!(check(&service, false).unwrap_err().to_string(), "service update paused: why");
        assert!(!check(&json!({}), false).unwrap());
        let back = json!({ "UpdateStatus": { "State": "rollback_completed", "Message": "why" } });
        assert_eq!(check(&back, false).unwrap_err().to_string(), "service rolled back: why");
        assert!(!check(&back, true).unwrap());
        let mut why = String::new();
        let begun = json!({ "UpdateStatus": { "State": "rollback_started", "Message": "it failed" } });
        assert!(check_update(&begun, false, &mut why).unwrap());
        let error = check_update(&back, false, &mut why).unwrap_err().to_string();
        assert_eq!(error, "service rolled back: it failed");
    }
}
