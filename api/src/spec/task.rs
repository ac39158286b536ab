//! The task template, but for its container and placement: resources, restarts, output.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{ContainerSpec, Extra, Labels, NetworkAttachment, Placement};

/// Swarm's default restart delay (`SK:api/defaults/service.go`).
pub const RESTART_DELAY_DEFAULT: Duration = Duration::from_secs(5);

/// Swarm's default time between SIGTERM and SIGKILL (`SK:api/defaults/service.go`).
pub const STOP_GRACE_DEFAULT: Duration = Duration::from_secs(10);

/// What a task runs and needs.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct TaskSpec {
    /// The container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container_spec: Option<ContainerSpec>,
    /// Limits and reservations.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<Box<ResourceRequirements>>,
    /// When an ended task is replaced.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restart_policy: Option<Box<RestartPolicy>>,
    /// Where it may run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub placement: Option<Box<Placement>>,
    /// Raised by `--force`: a change replaces the tasks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub force_update: Option<u64>,
    /// Where output goes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_driver: Option<Box<LogDriver>>,
    /// Which networks its tasks are on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub networks: Option<Vec<NetworkAttachment>>,
    /// Everything else.
    #[serde(flatten)]
    pub extra: Extra,
}

impl TaskSpec {
    /// The restart policy with Swarm's defaults filled in.
    #[must_use]
    pub fn restart(&self) -> RestartSettings {
        let policy = self.restart_policy.as_deref();
        let condition = match policy.and_then(|policy| policy.condition.as_deref()) {
            Some("none") => RestartCondition::None,
            Some("on-failure") => RestartCondition::OnFailure,
            _ => RestartCondition::Any,
        };
        RestartSettings {
            condition,
            delay: policy.and_then(|policy| policy.delay).map_or(RESTART_DELAY_DEFAULT, nanos),
            max_attempts: policy.and_then(|policy| policy.max_attempts).unwrap_or(0),
            window: policy.and_then(|policy| policy.window).map_or(Duration::ZERO, nanos),
        }
    }

    /// Constraints as written.
    #[must_use]
    pub fn constraints(&self) -> &[String] {
        self.placement.as_ref().and_then(|p| p.constraints.as_deref()).unwrap_or(&[])
    }

    /// What the tasks are spread over, as written, the most important first.
    pub fn spread(&self) -> impl Iterator<Item = &str> {
        let all = self.placement.as_ref().and_then(|p| p.preferences.as_deref()).unwrap_or(&[]);
        all.iter().filter_map(|one| one.spread.as_ref()).map(|over| over.spread_descriptor.as_str())
    }

    /// Tasks of the service on a node at most; 0 for any number.
    #[must_use]
    pub fn max_replicas(&self) -> u64 {
        self.placement.as_ref().and_then(|p| p.max_replicas).unwrap_or(0)
    }

    /// Generic resources that are reserved: how many of which kind.
    pub fn generic(&self) -> impl Iterator<Item = (&str, i64)> {
        let reserved = self.resources.as_ref().and_then(|r| r.reservations.as_ref());
        let all = reserved.and_then(|r| r.generic_resources.as_deref()).unwrap_or(&[]);
        let amounts = all.iter().filter_map(|one| one.discrete_resource_spec.as_ref());
        amounts.map(|amount| (amount.kind.as_str(), amount.value))
    }

    /// The platforms that the image is made for, operating system and architecture, as a client that pinned
    /// its digest found them; empty text for any, no platform at all for no say.
    #[must_use]
    pub fn platforms(&self) -> Vec<(String, String)> {
        let listed = self.placement.as_ref().and_then(|p| p.extra.get("Platforms"));
        let text =
            |platform: &Value, key: &str| platform[key].as_str().unwrap_or_default().to_ascii_lowercase();
        let read = |platform: &Value| (text(platform, "OS"), text(platform, "Architecture"));
        listed.and_then(Value::as_array).into_iter().flatten().map(read).collect()
    }

    /// What is reserved: (nanoseconds of CPU a second, bytes of memory).
    #[must_use]
    pub fn reservations(&self) -> (i64, i64) {
        let reserved = self.resources.as_ref().and_then(|r| r.reservations.as_ref());
        reserved.map_or((0, 0), |r| (r.nano_cpus.unwrap_or(0), r.memory_bytes.unwrap_or(0)))
    }
}

/// Nanoseconds as the API carries them; negative ones are refused by `validate`, here they read as zero.
pub(super) fn nanos(value: i64) -> Duration {
    Duration::from_nanos(u64::try_from(value).unwrap_or(0))
}

/// Limits and reservations of a task.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ResourceRequirements {
    /// Not more than this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<Resources>,
    /// At least this, counted by the scheduler.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reservations: Option<Resources>,
    /// Everything else.
    #[serde(flatten)]
    pub extra: Extra,
}

/// An amount of each resource.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Resources {
    /// 1e-9 CPUs.
    #[serde(rename = "NanoCPUs", skip_serializing_if = "Option::is_none")]
    pub nano_cpus: Option<i64>,
    /// Bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<i64>,
    /// Processes; limits only, 0 for no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pids: Option<i64>,
    /// Of kinds that only nodes' settings name; reservations only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generic_resources: Option<Vec<GenericAmount>>,
    /// Everything else.
    #[serde(flatten)]
    pub extra: Extra,
}

/// Some of a kind of generic resource. A task asks for a number; which named ones it gets is the scheduler's.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct GenericAmount {
    /// How many of which kind.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub discrete_resource_spec: Option<DiscreteAmount>,
    /// `NamedResourceSpec`, which only a node may have.
    #[serde(flatten)]
    pub extra: Extra,
}

/// How many of which kind.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct DiscreteAmount {
    /// As nodes' settings call it: `gpu`.
    pub kind: String,
    /// How many.
    pub value: i64,
    /// Unknown keys.
    #[serde(flatten)]
    pub extra: Extra,
}

impl GenericAmount {
    /// So many of a kind.
    #[must_use]
    pub fn of(kind: &str, value: i64) -> Self {
        let amount = DiscreteAmount { kind: kind.to_owned(), value, ..DiscreteAmount::default() };
        Self { discrete_resource_spec: Some(amount), ..Self::default() }
    }
}

/// When an ended task is replaced, as written.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct RestartPolicy {
    /// none, on-failure, any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub condition: Option<String>,
    /// Nanoseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay: Option<i64>,
    /// 0: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_attempts: Option<u64>,
    /// Nanoseconds in which attempts count; 0: all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window: Option<i64>,
    /// Unknown keys.
    #[serde(flatten)]
    pub extra: Extra,
}

/// Which ends of a task lead to another one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RestartCondition {
    /// None.
    None,
    /// Those with an error.
    OnFailure,
    /// All.
    Any,
}

/// A restart policy with its defaults filled in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RestartSettings {
    /// Which ends count.
    pub condition: RestartCondition,
    /// Between the end of the old and the start of the new.
    pub delay: Duration,
    /// 0: no limit.
    pub max_attempts: u64,
    /// Zero: attempts count for ever.
    pub window: Duration,
}

/// Where output goes.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct LogDriver {
    /// Only json-file is served.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// max-size, max-file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub options: Option<Labels>,
    /// Unknown keys.
    #[serde(flatten)]
    pub extra: Extra,
}
