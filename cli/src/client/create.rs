//! `skep service create`: flags to a spec.

use anyhow::Context as _;
use clap::Args;
use skep_api::spec::{
    ContainerSpec, EndpointSpec, LogDriver, Mount, Placement, Replicated, ResourceRequirements, Resources,
    RestartPolicy, ServiceMode, ServiceSpec, TaskSpec, UpdateConfig,
};

use super::{
    connection::{Connection, escape},
    duration, flags,
    output::{print, text},
    progress,
};

/// Swarm's default, which the CLI writes out once one flag of the group is given.
const RESTART_DELAY_DEFAULT: i64 = 5_000_000_000;
const MONITOR_DEFAULT: i64 = 5_000_000_000;

#[derive(Args, Debug, Default)]
pub(crate) struct Create {
    /// Service name
    #[arg(long)]
    name: Option<String>,
    /// Number of tasks
    #[arg(long)]
    replicas: Option<u64>,
    /// Set environment variables
    #[arg(short, long, value_parser = flags::env)]
    env: Vec<String>,
    /// Service labels
    #[arg(short, long)]
    label: Vec<String>,
    /// Container labels
    #[arg(long)]
    container_label: Vec<String>,
    /// Publish a port as a node port
    #[arg(short, long, value_parser = flags::ports)]
    publish: Vec<flags::Ports>,
    /// Placement constraints
    #[arg(long)]
    constraint: Vec<String>,
    /// Attach a filesystem mount to the service
    #[arg(long, value_parser = flags::mount)]
    mount: Vec<Mount>,
    /// Exit immediately instead of waiting for the service to converge
    #[arg(short, long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = false,
        action = clap::ArgAction::Set, hide_default_value = true, hide_possible_values = true)]
    detach: bool,
    /// Suppress progress output
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    container: Container,
    #[command(flatten)]
    resources: Amounts,
    #[command(flatten)]
    restart: Restart,
    #[command(flatten)]
    update: Update,
    #[command(flatten)]
    rollback: Rollback,
    /// The image, and the command with its arguments
    #[arg(required = true, trailing_var_arg = true, value_names = ["IMAGE", "COMMAND"], num_args = 1..)]
    image_and_command: Vec<String>,
}

#[derive(Args, Debug, Default)]
struct Container {
    /// Overwrite the default ENTRYPOINT of the image
    #[arg(long)]
    entrypoint: Option<String>,
    /// Username or UID (format: <name|uid>[:<group|gid>])
    #[arg(short, long)]
    user: Option<String>,
    /// Set one or more supplementary user groups for the container
    #[arg(long)]
    group: Vec<String>,
    /// Working directory inside the container
    #[arg(short, long)]
    workdir: Option<String>,
    /// Container hostname
    #[arg(long)]
    hostname: Option<String>,
    /// Set one or more custom host-to-IP mappings (host:ip)
    #[arg(long = "host", id = "extra_host", value_name = "HOST:IP", value_parser = flags::host)]
    extra_host: Vec<String>,
    /// Mount the container's root filesystem as read only
    #[arg(long)]
    read_only: bool,
    /// Add Linux capabilities
    #[arg(long)]
    cap_add: Vec<String>,
    /// Drop Linux capabilities
    #[arg(long)]
    cap_drop: Vec<String>,
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

#[derive(Args, Debug, Default)]
struct Amounts {
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

#[derive(Args, Debug, Default)]
struct Restart {
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

#[derive(Args, Debug, Default)]
struct Update {
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

#[derive(Args, Debug, Default)]
struct Rollback {
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

/// Empty lists are absent in the API.
fn given<T>(all: Vec<T>) -> Option<Vec<T>> {
    (!all.is_empty()).then_some(all)
}

impl Create {
    /// The spec that the flags ask for.
    pub(crate) fn spec(self) -> anyhow::Result<ServiceSpec> {
        let (image, args) = self.image_and_command.split_first().context("an image is required")?;
        let template = TaskSpec {
            resources: self.resources.requirements(),
            restart_policy: self.restart.policy(),
            placement: given(self.constraint)
                .map(|all| Placement { constraints: Some(all), ..Placement::default() }),
            log_driver: self.container.log_driver(),
            container_spec: Some(self.container.spec(
                image,
                args,
                given(self.env),
                (!self.container_label.is_empty()).then(|| flags::labels(&self.container_label)),
                given(self.mount),
            )?),
            ..TaskSpec::default()
        };
        let ports = given(self.publish.into_iter().flat_map(|ports| ports.0).collect());
        let replicated = Replicated { replicas: Some(self.replicas.unwrap_or(1)), ..Replicated::default() };
        Ok(ServiceSpec {
            name: self.name.unwrap_or_default(),
            labels: Some(flags::labels(&self.label)),
            task_template: template,
            mode: Some(ServiceMode { replicated: Some(replicated), ..ServiceMode::default() }),
            update_config: self.update.config(),
            rollback_config: self.rollback.config(),
            endpoint_spec: Some(EndpointSpec { mode: Some("vip".into()), ports, ..EndpointSpec::default() }),
            ..ServiceSpec::default()
        })
    }
}

impl Container {
    fn log_driver(&self) -> Option<LogDriver> {
        let name = self.log_driver.clone()?;
        let options = (!self.log_opt.is_empty()).then(|| flags::labels(&self.log_opt));
        Some(LogDriver { name: Some(name), options, ..LogDriver::default() })
    }

    fn spec(
        self,
        image: &str,
        args: &[String],
        env: Option<Vec<String>>,
        labels: Option<skep_api::spec::Labels>,
        mounts: Option<Vec<Mount>>,
    ) -> anyhow::Result<ContainerSpec> {
        let command = match &self.entrypoint {
            Some(line) => Some(
                flags::words(line)
                    .map_err(anyhow::Error::msg)
                    .context("invalid argument for --entrypoint")?,
            ),
            None => None,
        };
        Ok(ContainerSpec {
            image: with_tag(image),
            labels,
            command,
            args: given(args.to_vec()),
            hostname: self.hostname,
            env,
            dir: self.workdir,
            user: self.user,
            groups: given(self.group),
            stop_signal: self.stop_signal,
            stop_grace_period: self.stop_grace_period,
            read_only: self.read_only.then_some(true),
            mounts,
            hosts: given(self.extra_host),
            capability_add: given(self.cap_add),
            capability_drop: given(self.cap_drop),
            ..ContainerSpec::default()
        })
    }
}

impl Amounts {
    fn requirements(&self) -> Option<ResourceRequirements> {
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
    /// As Docker: absent without a flag, whole with one.
    fn policy(self) -> Option<RestartPolicy> {
        let any = self.restart_condition.is_some()
            || self.restart_delay.is_some()
            || self.restart_max_attempts.is_some()
            || self.restart_window.is_some();
        any.then(|| RestartPolicy {
            condition: self.restart_condition.or_else(|| Some("any".into())),
            delay: self.restart_delay.or(Some(RESTART_DELAY_DEFAULT)),
            max_attempts: self.restart_max_attempts,
            window: self.restart_window,
            ..RestartPolicy::default()
        })
    }
}

impl Update {
    fn config(self) -> Option<UpdateConfig> {
        whole(UpdateConfig {
            parallelism: self.update_parallelism,
            delay: self.update_delay,
            failure_action: self.update_failure_action,
            monitor: self.update_monitor,
            max_failure_ratio: self.update_max_failure_ratio,
            order: self.update_order,
            ..UpdateConfig::default()
        })
    }
}

impl Rollback {
    fn config(self) -> Option<UpdateConfig> {
        whole(UpdateConfig {
            parallelism: self.rollback_parallelism,
            delay: self.rollback_delay,
            failure_action: self.rollback_failure_action,
            monitor: self.rollback_monitor,
            max_failure_ratio: self.rollback_max_failure_ratio,
            order: self.rollback_order,
            ..UpdateConfig::default()
        })
    }
}

/// As Docker: absent without a flag, whole with one.
fn whole(given: UpdateConfig) -> Option<UpdateConfig> {
    (given != UpdateConfig::default()).then(|| UpdateConfig {
        parallelism: given.parallelism.or(Some(1)),
        failure_action: given.failure_action.or_else(|| Some("pause".into())),
        monitor: given.monitor.or(Some(MONITOR_DEFAULT)),
        max_failure_ratio: given.max_failure_ratio.or(Some(0.0)),
        order: given.order.or_else(|| Some("stop-first".into())),
        ..given
    })
}

/// `name:latest` for a name without tag and digest.
fn with_tag(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    if last.contains(':') || last.contains('@') { image.to_owned() } else { format!("{image}:latest") }
}

/// Creates the service and waits for it, unless told not to.
pub(crate) async fn run(daemon: &Connection, create: Create) -> anyhow::Result<()> {
    let (detach, quiet) = (create.detach, create.quiet);
    let mut spec = create.spec()?;
    let warning = pin(daemon, &mut spec).await;
    let created = daemon.post("/services/create", &spec).await?;
    for line in created["Warnings"].as_array().into_iter().flatten().filter_map(serde_json::Value::as_str) {
        eprintln!("{line}");
    }
    if let Some(warning) = warning {
        eprintln!("{warning}");
    }
    let id = text(&created, "/ID");
    print(&format!("{id}\n"))?;
    if detach { Ok(()) } else { progress::wait(daemon, id, quiet).await }
}

/// Adds the image's digest as the registry has it, or says that it could not.
async fn pin(daemon: &Connection, spec: &mut ServiceSpec) -> Option<String> {
    let container = spec.task_template.container_spec.as_mut()?;
    if container.image.contains('@') {
        return None;
    }
    let path = container.image.split('/').map(escape).collect::<Vec<_>>().join("/");
    let found = daemon.get(&format!("/distribution/{path}/json")).await.ok();
    let digest = found.as_ref().map_or("", |found| text(found, "/Descriptor/digest"));
    if !digest.is_empty() {
        container.image = format!("{}@{digest}", container.image);
        return None;
    }
    let image = &container.image;
    Some(format!(
        "image {image} could not be accessed on a registry to record\nits digest. Each node will access {image} \
         independently,\npossibly leading to different nodes running different\nversions of the image.\n"
    ))
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde_json::json;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        create: Create,
    }

    fn spec(line: &str) -> serde_json::Value {
        let words = std::iter::once("x").chain(line.split_ascii_whitespace());
        let line = Line::try_parse_from(words).unwrap_or_else(|error| panic!("{error}"));
        serde_json::to_value(line.create.spec().unwrap()).unwrap()
    }

    #[test]
    fn a_plain_one_asks_for_little() {
        assert_eq!(
            spec("whoami"),
            json!({
                "Name": "", "Labels": {},
                "TaskTemplate": { "ContainerSpec": { "Image": "whoami:latest" } },
                "Mode": { "Replicated": { "Replicas": 1 } },
                "EndpointSpec": { "Mode": "vip" },
            })
        );
    }

    #[test]
    fn flags_reach_their_fields() {
        let out = spec(
            "--name web --replicas 3 -e A=1 -l a=b -l c --container-label x=y -p 8080:80 --constraint node.role==worker \
             --mount type=tmpfs,dst=/t --limit-cpu 0.5 --limit-memory 64m --limit-pids 9 --reserve-memory 32m \
             --restart-condition on-failure --restart-max-attempts 2 --update-parallelism 2 --update-delay 10s \
             --update-monitor 1ms --rollback-order start-first --stop-grace-period 2s --stop-signal SIGINT -u 1:1 \
             -w /w --hostname h --read-only --cap-add NET_ADMIN --cap-drop ALL --host db:10.0.0.1 --group 7 \
             --log-driver json-file --log-opt max-size=1m --entrypoint /bin/sh -d img:1 -c echo --name",
        );
        for (pointer, expect) in [
            ("/Name", json!("web")),
            ("/Labels", json!({ "a": "b", "c": "" })),
            ("/Mode/Replicated/Replicas", json!(3)),
            ("/EndpointSpec/Ports/0/PublishedPort", json!(8080)),
            ("/TaskTemplate/ContainerSpec/Image", json!("img:1")),
            ("/TaskTemplate/ContainerSpec/Command", json!(["/bin/sh"])),
            ("/TaskTemplate/ContainerSpec/Args", json!(["-c", "echo", "--name"])),
            ("/TaskTemplate/ContainerSpec/Hosts", json!(["10.0.0.1 db"])),
            ("/TaskTemplate/ContainerSpec/StopGracePeriod", json!(2_000_000_000)),
            (
                "/TaskTemplate/Resources/Limits",
                json!({ "NanoCPUs": 500_000_000, "MemoryBytes": 64 << 20, "Pids": 9 }),
            ),
            ("/TaskTemplate/Resources/Reservations", json!({ "MemoryBytes": 32 << 20 })),
            (
                "/TaskTemplate/RestartPolicy",
                json!({ "Condition": "on-failure", "Delay": 5_000_000_000_i64, "MaxAttempts": 2 }),
            ),
            ("/UpdateConfig/Delay", json!(10_000_000_000_i64)),
            ("/UpdateConfig/Monitor", json!(1_000_000)),
            ("/UpdateConfig/FailureAction", json!("pause")),
            ("/RollbackConfig/Order", json!("start-first")),
            ("/TaskTemplate/LogDriver/Options/max-size", json!("1m")),
        ] {
            assert_eq!(out.pointer(pointer), Some(&expect), "{pointer}\n{out:#}");
        }
    }

    #[test]
    fn names_get_a_tag() {
        for (image, expect) in [
            ("a", "a:latest"),
            ("a:1", "a:1"),
            ("host:5000/a", "host:5000/a:latest"),
            ("a@sha256:00", "a@sha256:00"),
        ] {
            assert_eq!(with_tag(image), expect);
        }
    }
}
