//! `ServiceSpec` and the parts of a task template that are not the container.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::NetworkId;

use super::{ContainerSpec, Extra, Labels, NetworkAttachment};

/// Swarm's default restart delay (`SK:api/defaults/service.go`).
pub const RESTART_DELAY_DEFAULT: Duration = Duration::from_secs(5);
/// Swarm's default monitor of an update (`SK:api/defaults/service.go`).
pub const UPDATE_MONITOR_DEFAULT: Duration = Duration::from_secs(5);
/// Swarm's default time between SIGTERM and SIGKILL (`SK:api/defaults/service.go`).
pub const STOP_GRACE_DEFAULT: Duration = Duration::from_secs(10);

/// A service as the user wants it.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ServiceSpec {
    /// Unique, `^[a-zA-Z0-9](?:[-_]*[A-Za-z0-9]+)*$`, at most 63 characters.
    pub name: String,
    /// Of the service, not of its containers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<Labels>,
    /// What each task runs.
    pub task_template: TaskSpec,
    /// How many tasks; replicated with one when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<ServiceMode>,
    /// How a change of the template rolls out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub update_config: Option<UpdateConfig>,
    /// How a rollback rolls out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rollback_config: Option<UpdateConfig>,
    /// Published ports.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint_spec: Option<EndpointSpec>,
    /// The old place of the template's networks: counts when that has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub networks: Option<Vec<NetworkAttachment>>,
    /// Everything else.
    #[serde(flatten)]
    pub extra: Extra,
}

impl ServiceSpec {
    /// Tasks wanted of a replicated service (Swarm's default is 1).
    #[must_use]
    pub fn replicas(&self) -> u64 {
        self.mode.as_ref().and_then(|mode| mode.replicated.as_ref()).and_then(|r| r.replicas).unwrap_or(1)
    }

    /// Spells out what Docker fills in when it takes a service in: one replica where no number is given.
    pub fn fill_in(&mut self) {
        let mode = self.mode.get_or_insert_with(|| ServiceMode {
            replicated: Some(Replicated::default()),
            ..ServiceMode::default()
        });
        if let Some(replicated) = &mut mode.replicated {
            replicated.replicas.get_or_insert(1);
        }
    }

    /// The container part of the template.
    #[must_use]
    pub fn container(&self) -> Option<&ContainerSpec> {
        self.task_template.container_spec.as_ref()
    }

    /// Ports as asked for; empty when none.
    #[must_use]
    pub fn ports(&self) -> &[PortConfig] {
        self.endpoint_spec.as_ref().and_then(|e| e.ports.as_deref()).unwrap_or(&[])
    }

    /// The networks that its tasks are on; empty when none.
    #[must_use]
    pub fn networks(&self) -> &[NetworkAttachment] {
        match self.task_template.networks.as_deref() {
            Some(own) if !own.is_empty() => own,
            _ => self.networks.as_deref().unwrap_or(&[]),
        }
    }

    /// The networks that its tasks are on, by id: stored specs name them so.
    pub fn network_ids(&self) -> impl Iterator<Item = NetworkId> {
        self.networks().iter().filter_map(|attachment| attachment.target.parse().ok())
    }

    /// Both lists of networks, to name them otherwise.
    pub fn networks_mut(&mut self) -> impl Iterator<Item = &mut NetworkAttachment> {
        self.task_template.networks.iter_mut().chain(self.networks.iter_mut()).flatten()
    }

    /// The update's settings with Swarm's defaults filled in.
    #[must_use]
    pub fn update(&self) -> UpdateSettings {
        UpdateSettings::of(self.update_config.as_ref())
    }

    /// The rollback's settings with Swarm's defaults filled in.
    #[must_use]
    pub fn rollback(&self) -> UpdateSettings {
        UpdateSettings::of(self.rollback_config.as_ref())
    }
}

/// Which kind of service.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ServiceMode {
    /// A number of tasks, anywhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicated: Option<Replicated>,
    /// Other modes.
    #[serde(flatten)]
    pub extra: Extra,
}

/// A number of tasks.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Replicated {
    /// 1 when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicas: Option<u64>,
    /// Unknown keys.
    #[serde(flatten)]
    pub extra: Extra,
}

/// What a task runs and needs.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct TaskSpec {
    /// The container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container_spec: Option<ContainerSpec>,
    /// Limits and reservations.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    /// When an ended task is replaced.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restart_policy: Option<RestartPolicy>,
    /// Where it may run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub placement: Option<Placement>,
    /// Raised by `--force`: a change replaces the tasks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub force_update: Option<u64>,
    /// Where output goes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_driver: Option<LogDriver>,
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
        let policy = self.restart_policy.clone().unwrap_or_default();
        let condition = match policy.condition.as_deref() {
            Some("none") => RestartCondition::None,
            Some("on-failure") => RestartCondition::OnFailure,
            _ => RestartCondition::Any,
        };
        RestartSettings {
            condition,
            delay: policy.delay.map_or(RESTART_DELAY_DEFAULT, nanos),
            max_attempts: policy.max_attempts.unwrap_or(0),
            window: policy.window.map_or(Duration::ZERO, nanos),
        }
    }

    /// Constraints as written.
    #[must_use]
    pub fn constraints(&self) -> &[String] {
        self.placement.as_ref().and_then(|p| p.constraints.as_deref()).unwrap_or(&[])
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
fn nanos(value: i64) -> Duration {
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
    /// Everything else.
    #[serde(flatten)]
    pub extra: Extra,
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

/// Where tasks may run.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Placement {
    /// `node.labels.zone==a` and the like; all must hold.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub constraints: Option<Vec<String>>,
    /// Everything else.
    #[serde(flatten)]
    pub extra: Extra,
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
}

impl UpdateSettings {
    fn of(config: Option<&UpdateConfig>) -> Self {
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
                _ => FailureAction::Pause,
            },
            // The API's zero means the default (measured on Docker: `peers.md` 3c).
            monitor: if monitor.is_zero() { UPDATE_MONITOR_DEFAULT } else { monitor },
            max_failure_ratio: config.max_failure_ratio.unwrap_or(0.0),
        }
    }
}

/// How a service is reached.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct EndpointSpec {
    /// vip when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// Published ports.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ports: Option<Vec<PortConfig>>,
    /// Unknown keys.
    #[serde(flatten)]
    pub extra: Extra,
}

/// A published port, as asked for and as given.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct PortConfig {
    /// Of no effect.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// tcp, udp; empty: tcp.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub protocol: String,
    /// In the container.
    #[serde(skip_serializing_if = "is_zero")]
    pub target_port: u16,
    /// On the nodes; 0: one is given.
    #[serde(skip_serializing_if = "is_zero")]
    pub published_port: u16,
    /// ingress, host; empty: ingress.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub publish_mode: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the shape that serde calls")]
fn is_zero(port: &u16) -> bool {
    *port == 0
}

impl PortConfig {
    /// Whether every node answers on it.
    #[must_use]
    pub fn is_ingress(&self) -> bool {
        self.publish_mode != "host"
    }

    /// The protocol with its default.
    #[must_use]
    pub fn protocol(&self) -> &str {
        if self.protocol.is_empty() { "tcp" } else { &self.protocol }
    }
}
