//! `skep service create`: flags to a spec.

use anyhow::{Context as _, bail};
use clap::Args;
use serde_json::Value;
use skep_api::spec::{
    ContainerSpec, EndpointSpec, GenericAmount, Global, Mount, NetworkAttachment, Placement,
    PlacementPreference, Replicated, ReplicatedJob, ServiceMode, ServiceSpec, TaskSpec,
};

use super::{
    connection::{Connection, escape},
    flags,
    output::{print, text},
    progress,
    service::explain,
    service::settings::{Amounts, Process, Restart, Rollback, Update, Waiting},
    service::surroundings::Surroundings,
};

#[derive(Args, Debug, Default)]
pub(crate) struct Create {
    /// Service name
    #[arg(long)]
    name: Option<String>,
    /// Number of tasks
    #[arg(long)]
    replicas: Option<u64>,
    /// Service mode ("replicated", "global", "replicated-job", "global-job")
    #[arg(long, default_value = "replicated")]
    mode: String,
    /// Number of job tasks to run concurrently (default equal to --replicas)
    #[arg(long)]
    max_concurrent: Option<u64>,
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
    /// Add a placement preference
    #[arg(long, value_name = "PREF", value_parser = flags::spread)]
    placement_pref: Vec<String>,
    /// Maximum number of tasks per node (default 0 = unlimited)
    #[arg(long, value_name = "NUMBER")]
    replicas_max_per_node: Option<u64>,
    /// User defined resources
    #[arg(long, value_name = "KIND=NUMBER", value_parser = flags::generic)]
    generic_resource: Vec<GenericAmount>,
    /// Attach a filesystem mount to the service
    #[arg(long, value_parser = flags::mount)]
    mount: Vec<Mount>,
    /// Network attachments
    #[arg(long, value_name = "NETWORK")]
    network: Vec<String>,
    /// Send registry authentication details to swarm agents
    #[arg(long)]
    with_registry_auth: bool,
    /// Set one or more supplementary user groups for the container
    #[arg(long)]
    group: Vec<String>,
    /// Set one or more custom host-to-IP mappings (host:ip)
    #[arg(long = "host", id = "extra_host", value_name = "HOST:IP", value_parser = flags::host)]
    extra_host: Vec<String>,
    /// Endpoint mode (vip or dnsrr)
    #[arg(long, default_value = "vip")]
    endpoint_mode: String,
    /// Create nothing, but say where the tasks would go
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    waiting: Waiting,
    #[command(flatten)]
    process: Process,
    #[command(flatten)]
    surroundings: Surroundings,
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

/// Empty lists are absent in the API.
fn given<T>(all: Vec<T>) -> Option<Vec<T>> {
    (!all.is_empty()).then_some(all)
}

impl Create {
    /// The spec that the flags ask for.
    pub(crate) fn spec(self) -> anyhow::Result<ServiceSpec> {
        let (image, args) = self.image_and_command.split_first().context("an image is required")?;
        let placement = Placement {
            constraints: given(self.constraint),
            preferences: given(
                self.placement_pref.iter().map(|over| PlacementPreference::spread(over)).collect(),
            ),
            max_replicas: self.replicas_max_per_node,
            ..Placement::default()
        };
        let mut resources = self.resources.requirements();
        if !self.generic_resource.is_empty() {
            let reserved = resources.get_or_insert_default().reservations.get_or_insert_default();
            reserved.generic_resources = Some(self.generic_resource);
        }
        let template = TaskSpec {
            resources: resources.map(Box::new),
            restart_policy: self.restart.policy().map(Box::new),
            placement: (placement != Placement::default()).then(|| Box::new(placement)),
            log_driver: self.process.log_driver().map(Box::new),
            networks: given(self.network.iter().map(|name| attachment(name)).collect()),
            container_spec: Some(ContainerSpec {
                image: with_tag(image),
                args: given(args.to_vec()),
                env: given(self.env),
                labels: (!self.container_label.is_empty()).then(|| flags::labels(&self.container_label)),
                mounts: given(self.mount),
                groups: given(self.group),
                hosts: given(self.extra_host),
                capability_add: given(self.process.cap_add.clone()),
                capability_drop: given(self.process.cap_drop.clone()),
                ..self.surroundings.of(self.process.container()?)
            }),
            ..TaskSpec::default()
        };
        if self.replicas_max_per_node.is_some_and(|max| max > 0)
            && matches!(&*self.mode, "global" | "global-job")
        {
            bail!("replicas-max-per-node can only be used with replicated or replicated-job mode");
        }
        let mode = mode(&self.mode, self.replicas, self.max_concurrent)?;
        let (update_config, rollback_config) = (self.update.config(), self.rollback.config());
        let is_job = mode.replicated_job.is_some() || mode.global_job.is_some();
        if is_job && (update_config.is_some() || rollback_config.is_some()) {
            bail!("update and rollback configuration is not supported for jobs");
        }
        let ports = given(self.publish.into_iter().flat_map(|ports| ports.0).collect());
        Ok(ServiceSpec {
            name: self.name.unwrap_or_default(),
            labels: Some(flags::labels(&self.label)),
            task_template: template,
            mode: Some(mode),
            update_config: update_config.map(Box::new),
            rollback_config: rollback_config.map(Box::new),
            endpoint_spec: Some(Box::new(EndpointSpec {
                mode: Some(self.endpoint_mode),
                ports,
                ..EndpointSpec::default()
            })),
            ..ServiceSpec::default()
        })
    }
}

/// Docker's rules and words (`CLI:cli/command/service/opts.go`).
fn mode(word: &str, replicas: Option<u64>, max_concurrent: Option<u64>) -> anyhow::Result<ServiceMode> {
    if replicas.is_some() && matches!(word, "global" | "global-job") {
        bail!("replicas can only be used with replicated or replicated-job mode");
    }
    if max_concurrent.is_some() && word != "replicated-job" {
        bail!("max-concurrent can only be used with replicated-job mode");
    }
    let mut mode = ServiceMode::default();
    match word {
        "replicated" => {
            let replicas = Some(replicas.unwrap_or(1));
            mode.replicated = Some(Replicated { replicas, ..Replicated::default() });
        }
        "global" => mode.global = Some(Global::default()),
        "replicated-job" => {
            mode.replicated_job = Some(ReplicatedJob {
                max_concurrent: max_concurrent.or(replicas),
                total_completions: replicas,
                ..ReplicatedJob::default()
            });
        }
        "global-job" => mode.global_job = Some(Global::default()),
        other => bail!("unknown mode: {other}, only replicated and global supported"),
    }
    Ok(mode)
}

/// As `--network` asks; the daemon finds the network by its name or id.
fn attachment(network: &str) -> NetworkAttachment {
    NetworkAttachment { target: network.to_owned(), ..NetworkAttachment::default() }
}

/// `name:latest` for a name without tag and digest.
pub(crate) fn with_tag(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    if last.contains(':') || last.contains('@') { image.to_owned() } else { format!("{image}:latest") }
}

/// Creates the service and waits for it, unless told not to.
pub(crate) async fn run(daemon: &Connection, create: Create) -> anyhow::Result<()> {
    let (detach, quiet) = (create.waiting.detach, create.waiting.quiet);
    let (sends_auth, is_dry) = (create.with_registry_auth, create.dry_run);
    let mut spec = create.spec()?;
    let mut warning = None;
    let mut daemon = daemon.clone();
    if let Some(container) = &mut spec.task_template.container_spec {
        if sends_auth {
            daemon = daemon.logged_in_for(&container.image)?;
        }
        let daemon = &daemon;
        let pinned = pin(daemon, &mut container.image).await;
        if !pinned.platforms.is_empty() {
            let placement = spec.task_template.placement.get_or_insert_default();
            placement.extra.insert("Platforms".to_owned(), pinned.platforms.into());
        }
        warning = pinned.warning;
    }
    if is_dry {
        return explain::plan(&daemon, &spec).await;
    }
    let created = daemon.post("/services/create", &spec).await?;
    warn(&created);
    if let Some(warning) = warning {
        eprintln!("{warning}");
    }
    let id = text(&created, "/ID");
    print(&format!("{id}\n"))?;
    if detach { Ok(()) } else { progress::wait(&daemon, id, quiet, false).await }
}

/// Passes on what the daemon warns of.
pub(crate) fn warn(answer: &Value) {
    for line in answer["Warnings"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        eprintln!("{line}");
    }
}

/// What a registry knows of an image.
#[derive(Debug, Default)]
pub(crate) struct Pinned {
    /// What the user is told when it knows nothing.
    pub(crate) warning: Option<String>,
    /// What the image is made for, as a spec's placement has it.
    pub(crate) platforms: Vec<Value>,
}

/// Adds the image's digest as the registry has it, or says that it could not.
pub(crate) async fn pin(daemon: &Connection, image: &mut String) -> Pinned {
    let path = image.split('/').map(escape).collect::<Vec<_>>().join("/");
    let found = daemon.get(&format!("/distribution/{path}/json")).await.ok();
    let platforms = found.as_ref().map(platforms).unwrap_or_default();
    if image.contains('@') {
        return Pinned { warning: None, platforms };
    }
    let digest = found.as_ref().map_or("", |found| text(found, "/Descriptor/digest"));
    if !digest.is_empty() {
        *image = format!("{image}@{digest}");
        return Pinned { warning: None, platforms };
    }
    let warning = format!(
        "image {image} could not be accessed on a registry to record\nits digest. Each node will access {image} \
         independently,\npossibly leading to different nodes running different\nversions of the image.\n"
    );
    Pinned { warning: Some(warning), platforms: Vec::new() }
}

/// The platforms of a registry's answer, each once (`MB:client/service_create.go`): no attestations, and any
/// architecture where it is arm, of which nodes tell more than images do.
fn platforms(found: &Value) -> Vec<Value> {
    let mut out: Vec<Value> = Vec::new();
    for platform in found["Platforms"].as_array().into_iter().flatten() {
        let (os, arch) = (text(platform, "/os"), text(platform, "/architecture"));
        if os == "unknown" || arch == "unknown" {
            continue;
        }
        let named = [("Architecture", arch), ("OS", os)].into_iter();
        let told = named.filter(|(_, word)| !word.is_empty() && !word.eq_ignore_ascii_case("arm"));
        let one: Value = told.map(|(key, word)| (key.to_owned(), Value::from(word))).collect();
        if !out.contains(&one) {
            out.push(one);
        }
    }
    out
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

    fn spec(line: &str) -> Value {
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
    fn modes_are_asked_for_as_in_docker() {
        for (flags, expect) in [
            ("--mode global", json!({ "Global": {} })),
            ("--mode global-job", json!({ "GlobalJob": {} })),
            ("--mode replicated-job", json!({ "ReplicatedJob": {} })),
            (
                "--mode replicated-job --replicas 5",
                json!({ "ReplicatedJob": { "MaxConcurrent": 5, "TotalCompletions": 5 } }),
            ),
            (
                "--mode replicated-job --replicas 5 --max-concurrent 2",
                json!({ "ReplicatedJob": { "MaxConcurrent": 2, "TotalCompletions": 5 } }),
            ),
        ] {
            assert_eq!(spec(&format!("{flags} img"))["Mode"], expect, "{flags}");
        }
        for (flags, expect) in [
            (
                "--mode global --replicas 2",
                "replicas can only be used with replicated or replicated-job mode",
            ),
            (
                "--mode global --replicas-max-per-node 2",
                "replicas-max-per-node can only be used with replicated or replicated-job mode",
            ),
            ("--max-concurrent 2", "max-concurrent can only be used with replicated-job mode"),
            ("--mode all", "unknown mode: all, only replicated and global supported"),
            (
                "--mode global-job --update-delay 1s",
                "update and rollback configuration is not supported for jobs",
            ),
        ] {
            let words = std::iter::once("x").chain(flags.split_ascii_whitespace()).chain(["img"]);
            let line = Line::try_parse_from(words).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(line.create.spec().unwrap_err().to_string(), expect, "{flags}");
        }
    }

    #[test]
    fn flags_reach_their_fields() {
        let out = spec(
            "--name web --replicas 3 -e A=1 -l a=b -l c --container-label x=y -p 8080:80 --constraint node.role==worker \
             --mount type=tmpfs,dst=/t --limit-cpu 0.5 --limit-memory 64m --limit-pids 9 --reserve-memory 32m \
             --restart-condition on-failure --restart-max-attempts 2 --update-parallelism 2 --update-delay 10s \
             --update-monitor 1ms --rollback-order start-first --stop-grace-period 2s --stop-signal SIGINT -u 1:1 \
             -w /w --hostname h --read-only --cap-add NET_ADMIN --cap-drop ALL --host db:10.0.0.1 --group 7 \
             --log-driver json-file --log-opt max-size=1m --placement-pref spread=node.labels.dc \
             --replicas-max-per-node 2 --generic-resource gpu=1 --dns 9.9.9.9 --dns-search a.b --dns-option ndots:1 --sysctl net.core.somaxconn=9 \
             --ulimit nofile=10:20 --endpoint-mode dnsrr --mount type=volume,src=v,dst=/v,volume-label=a=b,volume-nocopy \
             --entrypoint /bin/sh -d img:1 -c echo --name",
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
            (
                "/TaskTemplate/Resources/Reservations",
                json!({
                    "MemoryBytes": 32 << 20,
                    "GenericResources": [{ "DiscreteResourceSpec": { "Kind": "gpu", "Value": 1 } }],
                }),
            ),
            (
                "/TaskTemplate/Placement/Preferences",
                json!([{ "Spread": { "SpreadDescriptor": "node.labels.dc" } }]),
            ),
            ("/TaskTemplate/Placement/MaxReplicas", json!(2)),
            (
                "/TaskTemplate/RestartPolicy",
                json!({ "Condition": "on-failure", "Delay": 5_000_000_000_i64, "MaxAttempts": 2 }),
            ),
            ("/UpdateConfig/Delay", json!(10_000_000_000_i64)),
            ("/UpdateConfig/Monitor", json!(1_000_000)),
            ("/UpdateConfig/FailureAction", json!("pause")),
            ("/RollbackConfig/Order", json!("start-first")),
            (
                "/TaskTemplate/ContainerSpec/DNSConfig",
                json!({ "Nameservers": ["9.9.9.9"], "Search": ["a.b"], "Options": ["ndots:1"] }),
            ),
            ("/TaskTemplate/ContainerSpec/Sysctls", json!({ "net.core.somaxconn": "9" })),
            ("/TaskTemplate/ContainerSpec/Ulimits", json!([{ "Name": "nofile", "Soft": 10, "Hard": 20 }])),
            (
                "/TaskTemplate/ContainerSpec/Mounts/1/VolumeOptions",
                json!({ "NoCopy": true, "Labels": { "a": "b" } }),
            ),
            ("/EndpointSpec/Mode", json!("dnsrr")),
            ("/TaskTemplate/LogDriver/Options/max-size", json!("1m")),
        ] {
            assert_eq!(out.pointer(pointer), Some(&expect), "{pointer}\n{out:#}");
        }
    }

    #[test]
    fn platforms_are_those_that_nodes_can_be() {
        let found = json!({ "Platforms": [
            { "architecture": "amd64", "os": "linux" },
            { "architecture": "arm", "os": "linux", "variant": "v6" },
            { "architecture": "arm", "os": "linux", "variant": "v7" },
            { "architecture": "unknown", "os": "unknown" },
        ] });
        let expect = [json!({ "Architecture": "amd64", "OS": "linux" }), json!({ "OS": "linux" })];
        assert_eq!(platforms(&found), expect);
        assert!(platforms(&json!({ "Platforms": null })).is_empty());
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
