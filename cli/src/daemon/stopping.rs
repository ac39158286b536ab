//! Why this daemon stops: somebody said so, or systemd knows that the host stops too.

use std::time::Duration;

use skep_agent::StopReason;
use tokio::{process::Command, time::timeout};

use super::machine;

/// systemd answers at once, or there is none.
const ASK_MAX: Duration = Duration::from_millis(500);
/// Written by `shutdown`: `USEC=` is when the host goes down, in Unix microseconds.
const SCHEDULED: &str = "/run/systemd/shutdown/scheduled";
/// A shutdown planned for later than this is no reason yet: a daemon that restarts is back by then.
const SOON: Duration = Duration::from_secs(60);

/// What was asked for; `Shutdown` if the host stops.
pub(super) async fn or_of_host(asked: StopReason) -> StopReason {
    match asked {
        StopReason::Shutdown => StopReason::Shutdown,
        StopReason::Restart => of_host().await,
    }
}

async fn of_host() -> StopReason {
    let scheduled = tokio::fs::read_to_string(SCHEDULED).await.unwrap_or_default();
    let system = Command::new("systemctl").arg("is-system-running").kill_on_drop(true).output();
    let said = match timeout(ASK_MAX, system).await {
        Ok(Ok(output)) => output.stdout,
        Ok(Err(_)) | Err(_) => Vec::new(),
    };
    decide(&String::from_utf8_lossy(&said), &scheduled, machine::clock())
}

fn decide(system: &str, scheduled: &str, now_nanos: i64) -> StopReason {
    let at = scheduled.lines().find_map(|line| line.strip_prefix("USEC=")?.trim().parse::<i64>().ok());
    let soon = i64::try_from(SOON.as_micros()).unwrap_or(i64::MAX);
    let is_soon = at.is_some_and(|at| at <= (now_nanos / 1_000).saturating_add(soon));
    if system.trim() == "stopping" || is_soon { StopReason::Shutdown } else { StopReason::Restart }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_that_stops_is_told_from_a_daemon_that_restarts() {
        let now = 1_000_000_000_000;
        for (system, scheduled, expect) in [
            ("running\n", "", StopReason::Restart),
            ("degraded\n", "MODE=poweroff\n", StopReason::Restart),
            ("stopping\n", "", StopReason::Shutdown),
            ("running\n", "USEC=1010000000\nMODE=reboot\n", StopReason::Shutdown),
            ("running\n", "USEC=4600000000\nMODE=reboot\n", StopReason::Restart),
            ("", "", StopReason::Restart),
        ] {
            assert_eq!(decide(system, scheduled, now), expect, "{system:?} {scheduled:?}");
        }
    }
}
