//! How a change rolls out.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Extra, task::nanos};

/// Swarm's default monitor of an update (`SK:api/defaults/service.go`).
pub const UPDATE_MONITOR_DEFAULT: Duration = Duration::from_secs(5);

/// How a change rolls out, as written.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct UpdateConfig {
    /// Slots at once; 0: all of them. Always written by Go.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parallelism: Option<u64>,
    /// Nanoseconds after a slot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay: Option<i64>,
    /// pause, continue, rollback.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure_action: Option<String>,
    /// Nanoseconds after RUNNING in which an end counts as the update's failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub monitor: Option<i64>,
    /// 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_failure_ratio: Option<f64>,
    /// stop-first, start-first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order: Option<String>,
    /// Unknown keys.
    #[serde(flatten)]
    pub extra: Extra,
}

/// What happens when an update fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FailureAction {
    /// No further slots.
    Pause,
    /// No watch at all.
    Continue,
    /// Back to the previous spec.
    Rollback,
}

/// Which of two tasks of a seat goes first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UpdateOrder {
    /// The old one stops before the new one starts.
    StopFirst,
    /// The new one runs before the old one stops.
    StartFirst,
}

/// An update's settings with Swarm's defaults filled in (`SK:api/defaults/service.go`).
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct UpdateSettings {
    /// Slots at once; `u64::MAX` for all.
    pub parallelism: u64,
    /// After a slot.
    pub delay: Duration,
    /// On failure.
    pub failure_action: FailureAction,
    /// After RUNNING.
    pub monitor: Duration,
    /// Strictly more than this share of failed slots triggers the action.
    pub max_failure_ratio: f64,
    /// In a slot.
    pub order: UpdateOrder,
}

impl UpdateSettings {
    pub(super) fn of(config: Option<&UpdateConfig>) -> Self {
        let config =
            config.cloned().unwrap_or(UpdateConfig { parallelism: Some(1), ..UpdateConfig::default() });
        let monitor = nanos(config.monitor.unwrap_or(0));
        Self {
            parallelism: match config.parallelism {
                None => 1,
                Some(0) => u64::MAX,
                Some(n) => n,
            },
            delay: nanos(config.delay.unwrap_or(0)),
            failure_action: match config.failure_action.as_deref() {
                Some("continue") => FailureAction::Continue,
                Some("rollback") => FailureAction::Rollback,
                _ => FailureAction::Pause,
            },
            // The API's zero means the default (measured on Docker: `peers.md` 3c).
            monitor: if monitor.is_zero() { UPDATE_MONITOR_DEFAULT } else { monitor },
            max_failure_ratio: config.max_failure_ratio.unwrap_or(0.0),
            order: match config.order.as_deref() {
                Some("start-first") => UpdateOrder::StartFirst,
                _ => UpdateOrder::StopFirst,
            },
        }
    }
}
