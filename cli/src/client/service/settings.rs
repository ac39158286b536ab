//! Flags that `service create` and `service update` share, and what of a spec they ask for.
//!
//! Each group gives what was named alone, to put over a service's spec, and as create needs it: whole once
//! one flag of it is given, as docker writes it.

use anyhow::Context as _;
use clap::Args;
use skep_api::spec::{
    ContainerSpec, LogDriver, ResourceRequirements, Resources, RestartPolicy, UpdateConfig,
};

use crate::client::{duration, flags};

/// Swarm's default, which the CLI writes out once one flag of the group is given.
const RESTART_DELAY_DEFAULT: i64 = 5_000_000_000;
const MONITOR_DEFAULT: i64 = 5_000_000_000;

/// Whether to wait for the service.
#[derive(Args, Debug, Default)]
pub(crate) struct Waiting {
    /// Exit immediately instead of waiting for the service to converge
    #[arg(short, long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = false,
        action = clap::ArgAction::Set, hide_default_value = true, hide_possible_values = true)]
    pub(crate) detach: bool,
    /// Suppress progress output
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

/// How the container's process runs.
#[derive(Args, Debug, Default, PartialEq)]
pub(crate) struct Process {
    /// Overwrite the default ENTRYPOINT of the image
    #[arg(long)]
    entrypoint: Option<String>,
    /// Username or UID (format: <name|uid>[:<group|gid>])
    #[arg(short, long)]
    user: Option<String>,
    /// Working directory inside the container
    #[arg(short, long)]
    workdir: Option<String>,
    /// Container hostname
    #[arg(long)]
    hostname: Option<String>,
    /// Mount the container's root filesystem as read only
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true)]
    read_only: Option<bool>,
    /// Add Linux capabilities
    #[arg(long)]
    pub(crate) cap_add: Vec<String>,
    /// Drop Linux capabilities
    #[arg(long)]
    pub(crate) cap_drop: Vec<String>,
    /// Time to wait before force killing a container (ns|us|ms|s|m|h) (default 10s)
    #[arg(long, value_parser = duration::parse)]
    stop_grace_period: Option<i64>,
    /// Signal to stop the container
    #[arg(long)]
    stop_signal: Option<String>,
    /// Logging driver for service
    #[arg(long)]
    log_driver: Option<String>,
    /// Logging driver options
    #[arg(long)]
    log_opt: Vec<String>,
}

impl Process {
    /// What was named; lists are the caller's.
    pub(crate) fn container(&self) -> anyhow::Result<ContainerSpec> {
        let command = match &self.entrypoint {
            Some(line) => Some(
                flags::words(line)
                    .map_err(anyhow::Error::msg)
                    .context("invalid argument for --entrypoint")?,
            ),
            None => None,
        };
        Ok(ContainerSpec {
            command,
            hostname: self.hostname.clone(),
            dir: self.workdir.clone(),
            user: self.user.clone(),
            stop_signal: self.stop_signal.clone(),
            stop_grace_period: self.stop_grace_period,
            read_only: self.read_only,
            ..ContainerSpec::default()
        })
    }

    pub(crate) fn log_driver(&self) -> Option<LogDriver> {
        let name = self.log_driver.clone()?;
        let options = (!self.log_opt.is_empty()).then(|| flags::labels(&self.log_opt));
        Some(LogDriver { name: Some(name), options, ..LogDriver::default() })
    }
}

#[derive(Args, Debug, Default, PartialEq)]
pub(crate) struct Amounts {
    /// Limit CPUs
    #[arg(long, value_parser = flags::cpus)]
    limit_cpu: Option<i64>,
    /// Limit Memory
    #[arg(long, value_parser = flags::bytes)]
    limit_memory: Option<i64>,
    /// Limit maximum number of processes (default 0 = unlimited)
    #[arg(long)]
    limit_pids: Option<i64>,
    /// Reserve CPUs
    #[arg(long, value_parser = flags::cpus)]
    reserve_cpu: Option<i64>,
    /// Reserve Memory
    #[arg(long, value_parser = flags::bytes)]
    reserve_memory: Option<i64>,
}

#[derive(Args, Debug, Default, PartialEq)]
pub(crate) struct Restart {
    /// Restart when condition is met ("none", "on-failure", "any") (default "any")
    #[arg(long)]
    restart_condition: Option<String>,
    /// Delay between restart attempts (ns|us|ms|s|m|h) (default 5s)
    #[arg(long, value_parser = duration::parse)]
    restart_delay: Option<i64>,
    /// Maximum number of restarts before giving up
    #[arg(long)]
    restart_max_attempts: Option<u64>,
    /// Window used to evaluate the restart policy (ns|us|ms|s|m|h)
    #[arg(long, value_parser = duration::parse)]
    restart_window: Option<i64>,
}

#[derive(Args, Debug, Default, PartialEq)]
pub(crate) struct Update {
    /// Maximum number of tasks updated simultaneously (0 to update all at once) (default 1)
    #[arg(long)]
    update_parallelism: Option<u64>,
    /// Delay between updates (ns|us|ms|s|m|h) (default 0s)
    #[arg(long, value_parser = duration::parse)]
    update_delay: Option<i64>,
    /// Duration after each task update to monitor for failure (ns|us|ms|s|m|h) (default 5s)
    #[arg(long, value_parser = duration::parse)]
    update_monitor: Option<i64>,
    /// Action on update failure ("pause", "continue", "rollback") (default "pause")
    #[arg(long)]
    update_failure_action: Option<String>,
    /// Failure rate to tolerate during an update (default 0)
    #[arg(long)]
    update_max_failure_ratio: Option<f64>,
    /// Update order ("start-first", "stop-first") (default "stop-first")
    #[arg(long)]
    update_order: Option<String>,
}

#[derive(Args, Debug, Default, PartialEq)]
pub(crate) struct Rollback {
    /// Maximum number of tasks rolled back simultaneously (0 to roll back all at once) (default 1)
    #[arg(long)]
    rollback_parallelism: Option<u64>,
    /// Delay between task rollbacks (ns|us|ms|s|m|h) (default 0s)
    #[arg(long, value_parser = duration::parse)]
    rollback_delay: Option<i64>,
    /// Duration after each task rollback to monitor for failure (ns|us|ms|s|m|h) (default 5s)
    #[arg(long, value_parser = duration::parse)]
    rollback_monitor: Option<i64>,
    /// Action on rollback failure ("pause", "continue") (default "pause")
    #[arg(long)]
    rollback_failure_action: Option<String>,
    /// Failure rate to tolerate during a rollback (default 0)
    #[arg(long)]
    rollback_max_failure_ratio: Option<f64>,
    /// Rollback order ("start-first", "stop-first") (default "stop-first")
    #[arg(long)]
    rollback_order: Option<String>,
}

impl Amounts {
    pub(crate) fn requirements(&self) -> Option<ResourceRequirements> {
        let limits = Resources {
            nano_cpus: self.limit_cpu,
            memory_bytes: self.limit_memory,
            pids: self.limit_pids,
            ..Resources::default()
        };
        let reservations = Resources {
            nano_cpus: self.reserve_cpu,
            memory_bytes: self.reserve_memory,
            ..Resources::default()
        };
        let some = |amounts: Resources| (amounts != Resources::default()).then_some(amounts);
        let all = ResourceRequirements {
            limits: some(limits),
            reservations: some(reservations),
            ..ResourceRequirements::default()
        };
        (all != ResourceRequirements::default()).then_some(all)
    }
}

impl Restart {
    pub(crate) fn given(&self) -> Option<RestartPolicy> {
        let given = RestartPolicy {
            condition: self.restart_condition.clone(),
            delay: self.restart_delay,
            max_attempts: self.restart_max_attempts,
            window: self.restart_window,
            ..RestartPolicy::default()
        };
        (given != RestartPolicy::default()).then_some(given)
    }

    pub(crate) fn policy(&self) -> Option<RestartPolicy> {
        self.given().map(|given| RestartPolicy {
            condition: given.condition.or_else(|| Some("any".into())),
            delay: given.delay.or(Some(RESTART_DELAY_DEFAULT)),
            ..given
        })
    }
}

impl Update {
    pub(crate) fn given(&self) -> Option<UpdateConfig> {
        some(UpdateConfig {
            parallelism: self.update_parallelism,
            delay: self.update_delay,
            failure_action: self.update_failure_action.clone(),
            monitor: self.update_monitor,
            max_failure_ratio: self.update_max_failure_ratio,
            order: self.update_order.clone(),
            ..UpdateConfig::default()
        })
    }

    pub(crate) fn config(&self) -> Option<UpdateConfig> {
        self.given().map(whole)
    }
}

impl Rollback {
    pub(crate) fn given(&self) -> Option<UpdateConfig> {
        some(UpdateConfig {
            parallelism: self.rollback_parallelism,
            delay: self.rollback_delay,
            failure_action: self.rollback_failure_action.clone(),
            monitor: self.rollback_monitor,
            max_failure_ratio: self.rollback_max_failure_ratio,
            order: self.rollback_order.clone(),
            ..UpdateConfig::default()
        })
    }

    pub(crate) fn config(&self) -> Option<UpdateConfig> {
        self.given().map(whole)
    }
}

fn some(given: UpdateConfig) -> Option<UpdateConfig> {
    (given != UpdateConfig::default()).then_some(given)
}

/// The rest as docker fills it in.
fn whole(given: UpdateConfig) -> UpdateConfig {
    UpdateConfig {
        parallelism: given.parallelism.or(Some(1)),
        failure_action: given.failure_action.or_else(|| Some("pause".into())),
        monitor: given.monitor.or(Some(MONITOR_DEFAULT)),
        max_failure_ratio: given.max_failure_ratio.or(Some(0.0)),
        order: given.order.or_else(|| Some("stop-first".into())),
        ..given
    }
}
