//! Waits for a service to converge and shows how it goes, as the docker CLI does.

mod look;

use std::{collections::BTreeSet, io::IsTerminal as _, time::Duration};

use anyhow::bail;
use serde_json::Value;
use tokio::time::Instant;

use self::look::{Look, summarise};
use super::{
    connection::{Connection, escape},
    output::{print, text},
};

/// How often the daemon is asked.
const POLL_EVERY: Duration = Duration::from_millis(200);
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
        if service.pointer("/Spec/Labels/skep.cron").is_some() {
            return print(&format!("the job runs at its times: skep service runs {word}\n"));
        }
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
        lines.extend(look.lines.iter().cloned());
        if look.converged && service.get("JobStatus").is_some() {
            // What a job has done stays done.
            lines.push("job complete".to_owned());
            return screen.show(lines);
        }
        if look.converged && elapsed.is_some_and(|elapsed| elapsed >= monitor) {
            lines.push(format!("verify: Service {word} converged"));
            if text(&service, "/UpdateStatus/State") == "rollback_completed" {
                lines.push(format!("rollback: {}", text(&service, "/UpdateStatus/Message")));
            }
            return screen.show(lines);
        }
        if look.converged {
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
    Ok(summarise(service, &tasks, &active, rolling_back))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

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
