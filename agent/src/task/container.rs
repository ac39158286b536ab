//! The container of a task: everything of it that follows from the assignment.

use std::{collections::BTreeMap, fmt::Write};

use sha2::{Digest, Sha256};
use skep_api::{
    TaskId,
    object::GenericResource,
    spec,
    template::{TaskFacts, TemplateError, expand},
    validate::size,
};

use super::files;
use crate::{
    assignment::Assignment,
    engine::{Limits, LogLimits, Mount, MountKind, NewContainer, NewSandbox, Ulimit},
    network::Attached,
};

/// Label that names the task of a container; by it a restarted daemon finds its own.
pub(crate) const TASK_ID_LABEL: &str = "com.docker.swarm.task.id";
/// Label that names the node: one engine may have served another node before.
pub(crate) const NODE_ID_LABEL: &str = "com.docker.swarm.node.id";

/// Label with the task's name, as Docker makes it.
pub(crate) const TASK_NAME_LABEL: &str = "com.docker.swarm.task.name";
/// Where stacks expect Docker's socket; what they get is the node's own API, whichever engine it has.
const API_SOCKETS: [&str; 2] = ["/var/run/docker.sock", "/run/docker.sock"];

/// Docker shows and uses this much of a container's id as its default host name.
const SHORT_ID_CHARS: usize = 12;

/// A spec that cannot be carried out here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SpecError {
    #[error("the task has no container spec")]
    NoContainer,
    #[error("{0}")]
    Unreadable(String),
    #[error("Env, Hostname and Mounts: {0}")]
    Template(#[from] TemplateError),
    #[error("mount type '{0}' is not supported: bind, volume or tmpfs expected")]
    MountType(String),
    #[error("log driver '{0}' is not supported: json-file expected")]
    LogDriver(String),
    #[error("log option {key}={value} is not valid")]
    LogOption { key: &'static str, value: String },
}

/// The container's id: the same for the same task, so that it is known before it is made.
pub(crate) fn container_id(task: TaskId) -> String {
    let digest = Sha256::digest(format!("container of task {task}"));
    digest.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a String takes all that is written to it");
        text
    })
}

/// The node on which a container is made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Whereabouts<'a> {
    pub(crate) id: &'a str,
    pub(crate) name: &'a str,
}

/// What the engine is to make of an assignment; `given` is the host name where it is settled already.
pub(crate) fn new_container(
    assignment: &Assignment,
    node: Whereabouts<'_>,
    given: Option<String>,
    network: &Attached,
    resolv_conf: String,
) -> Result<NewContainer, SpecError> {
    let task = assignment.spec.as_ref().map_err(|e| SpecError::Unreadable(e.clone()))?;
    let spec = task.container_spec.as_ref().ok_or(SpecError::NoContainer)?;
    let id = container_id(assignment.task);
    let facts = facts(assignment, node);
    let hostname = match given {
        Some(name) => name,
        None => hostname(spec, &facts)?.unwrap_or_else(|| id[..SHORT_ID_CHARS].to_owned()),
    };
    let mut env: Vec<String> =
        spec.env.iter().flatten().map(|variable| expand(variable, &facts)).collect::<Result<_, _>>()?;
    env.extend(GenericResource::environment(&assignment.given));
    let hosts = files::hosts(&hostname, network.bridge_addr, spec.hosts.as_deref().unwrap_or_default());
    Ok(NewContainer {
        image: spec.image.clone(),
        entrypoint: spec.command.clone().filter(|words| !words.is_empty()),
        args: spec.args.clone().filter(|words| !words.is_empty()),
        env,
        workdir: spec.dir.clone().filter(|dir| !dir.is_empty()),
        user: spec.user.clone().filter(|user| !user.is_empty()),
        groups: spec.groups.clone().unwrap_or_default(),
        hostname,
        hosts,
        resolv_conf: files::resolv_conf(resolv_conf, spec.dns_config.as_deref()),
        mounts: mounts(spec.mounts.as_deref().unwrap_or_default(), &facts)?,
        read_only_root: spec.read_only.unwrap_or(false),
        limits: limits(task),
        cap_add: spec.capability_add.clone().unwrap_or_default(),
        cap_drop: spec.capability_drop.clone().unwrap_or_default(),
        stop_signal: spec.stop_signal.clone().filter(|signal| !signal.is_empty()),
        labels: labels(assignment, spec, node.id),
        netns: network.netns.clone(),
        log: log_limits(task.log_driver.as_deref())?,
        sysctls: spec.sysctls.clone().unwrap_or_default(),
        ulimits: spec.ulimits.iter().flatten().map(ulimit).collect(),
        id,
    })
}

/// What an engine that makes network namespaces itself is to make first.
pub(crate) fn new_sandbox(assignment: &Assignment, node: Whereabouts<'_>) -> Result<NewSandbox, SpecError> {
    let task = assignment.spec.as_ref().map_err(|e| SpecError::Unreadable(e.clone()))?;
    let spec = task.container_spec.as_ref().ok_or(SpecError::NoContainer)?;
    let id = container_id(assignment.task);
    let hostname = hostname(spec, &facts(assignment, node))?;
    Ok(NewSandbox { id, hostname })
}

/// The one that was asked for, if any.
fn hostname(spec: &spec::ContainerSpec, facts: &TaskFacts) -> Result<Option<String>, TemplateError> {
    let asked = spec.hostname.as_deref().filter(|name| !name.is_empty());
    asked.map(|name| expand(name, facts)).transpose()
}

fn facts(assignment: &Assignment, node: Whereabouts<'_>) -> TaskFacts {
    TaskFacts {
        service_id: assignment.service.to_string(),
        service_name: assignment.service_name.clone(),
        node_id: node.id.to_owned(),
        node_hostname: node.name.to_owned(),
        task_id: assignment.task.to_string(),
        task_name: assignment.name(node.id),
        slot: assignment.slot_name(node.id),
    }
}

/// Docker's labels win over the user's of the same name.
fn labels(assignment: &Assignment, spec: &spec::ContainerSpec, node: &str) -> BTreeMap<String, String> {
    let mut labels = spec.labels.clone().unwrap_or_default();
    labels.extend([
        ("com.docker.swarm.task".to_owned(), String::new()),
        (TASK_ID_LABEL.to_owned(), assignment.task.to_string()),
        (TASK_NAME_LABEL.to_owned(), assignment.name(node)),
        (NODE_ID_LABEL.to_owned(), node.to_owned()),
        ("com.docker.swarm.service.id".to_owned(), assignment.service.to_string()),
        ("com.docker.swarm.service.name".to_owned(), assignment.service_name.clone()),
    ]);
    labels
}

fn limits(task: &spec::TaskSpec) -> Limits {
    let limits = task.resources.as_ref().and_then(|resources| resources.limits.clone()).unwrap_or_default();
    // Negative figures are refused by validation; none of them may become a huge limit here.
    let amount = |value: Option<i64>| u64::try_from(value.unwrap_or(0)).unwrap_or(0);
    Limits {
        memory_bytes: amount(limits.memory_bytes),
        nano_cpus: amount(limits.nano_cpus),
        pids: amount(limits.pids),
    }
}

fn ulimit(limit: &spec::Ulimit) -> Ulimit {
    // Docker writes "none" as -1.
    let count = |value: i64| u64::try_from(value).unwrap_or(u64::MAX);
    Ulimit { name: limit.name.clone(), soft: count(limit.soft), hard: count(limit.hard) }
}

fn mounts(mounts: &[spec::Mount], facts: &TaskFacts) -> Result<Vec<Mount>, SpecError> {
    mounts.iter().map(|mount| one_mount(mount, facts)).collect()
}

fn one_mount(mount: &spec::Mount, facts: &TaskFacts) -> Result<Mount, SpecError> {
    let source = expand(&mount.source, facts)?;
    let target = expand(&mount.target, facts)?;
    let kind = match mount.kind.as_str() {
        "bind" if API_SOCKETS.contains(&source.as_str()) => MountKind::ApiSocket,
        "bind" => MountKind::Bind { source },
        // Docker's default type.
        "volume" | "" => {
            let options = mount.volume_options.clone().unwrap_or_default();
            MountKind::Volume {
                name: Some(source).filter(|name| !name.is_empty()),
                labels: options.labels.unwrap_or_default(),
                no_copy: options.no_copy.unwrap_or(false),
            }
        }
        "tmpfs" => {
            let options = mount.tmpfs_options.clone().unwrap_or_default();
            let size_bytes = u64::try_from(options.size_bytes.unwrap_or(0)).unwrap_or(0);
            MountKind::Tmpfs { size_bytes, mode: options.mode.filter(|mode| *mode != 0) }
        }
        other => return Err(SpecError::MountType(other.to_owned())),
    };
    Ok(Mount { kind, target, read_only: mount.read_only.unwrap_or(false) })
}

fn log_limits(driver: Option<&spec::LogDriver>) -> Result<LogLimits, SpecError> {
    let Some(driver) = driver else { return Ok(LogLimits::default()) };
    match driver.name.as_deref() {
        None | Some("" | "json-file") => {}
        Some(other) => return Err(SpecError::LogDriver(other.to_owned())),
    }
    let option = |key: &str| driver.options.as_ref().and_then(|options| options.get(key)).cloned();
    let mut limits = LogLimits::default();
    if let Some(value) = option("max-size") {
        let bytes =
            size(&value).filter(|bytes| *bytes > 0).ok_or(SpecError::LogOption { key: "max-size", value })?;
        limits.max_size = Some(bytes);
    }
    if let Some(value) = option("max-file") {
        let files = value.parse().ok().filter(|files| *files > 0);
        limits.max_file = Some(files.ok_or(SpecError::LogOption { key: "max-file", value })?);
    }
    Ok(limits)
}

#[cfg(test)]
mod tests {
    use std::{net::Ipv4Addr, path::PathBuf};

    use skep_api::{Id, convert, wire};

    use super::*;

    fn assignment(spec: &str) -> Assignment {
        Assignment::read(&wire::Assignment {
            task_id: TaskId(Id(7)).to_bytes(),
            service_id: vec![2; 16],
            service_name: "web".into(),
            slot: 3,
            spec: spec.as_bytes().to_vec(),
            desired_state: 512,
            given: convert::generic_out(&[
                GenericResource::Named { kind: "gpu".into(), value: "a".into() },
                GenericResource::Named { kind: "gpu".into(), value: "b".into() },
            ]),
            ..Default::default()
        })
        .unwrap()
    }

    fn build(spec: &str) -> Result<NewContainer, SpecError> {
        let network = Attached {
            netns: PathBuf::from("/n"),
            bridge_addr: Ipv4Addr::new(172, 18, 0, 5),
            host_ports: Vec::new(),
        };
        new_container(
            &assignment(spec),
            Whereabouts { id: "node1", name: "alpha" },
            None,
            &network,
            "nameserver 9.9.9.9\n".into(),
        )
    }

    #[test]
    fn a_container_follows_from_its_spec() {
        let made = build(
            r#"{"ContainerSpec":{"Image":"a:1","Command":["/x"],"Env":["A=b","N={{.Node.Hostname}}.{{.Task.Slot}}"],"User":"1:2","Dir":"/w","ReadOnly":true,
            "Labels":{"a":"b","com.docker.swarm.task.id":"mine"},"Mounts":[
              {"Type":"bind","Source":"/s","Target":"/t","ReadOnly":true},{"Type":"volume","Target":"/v"},
              {"Type":"tmpfs","Target":"/m","TmpfsOptions":{"SizeBytes":4096,"Mode":511}},
              {"Type":"bind","Source":"/var/run/docker.sock","Target":"/var/run/docker.sock","ReadOnly":true},
              {"Type":"volume","Source":"data-{{.Task.Slot}}","Target":"/d","VolumeOptions":{"NoCopy":true,"Labels":{"a":"b"}}}],
            "DNSConfig":{"Nameservers":["1.1.1.1"],"Options":["ndots:1"]},"Sysctls":{"net.core.somaxconn":"9"},
            "Ulimits":[{"Name":"nofile","Soft":10,"Hard":-1}]},
            "Resources":{"Limits":{"MemoryBytes":1048576,"NanoCPUs":500000000,"Pids":10}},
            "LogDriver":{"Name":"json-file","Options":{"max-size":"10m","max-file":"3"}}}"#,
        )
        .unwrap();
        assert_eq!(made.id.len(), 64);
        assert_eq!(made.id, container_id(TaskId(Id(7))));
        assert_eq!(made.hostname, made.id[..12]);
        assert!(made.hosts.ends_with(&format!("172.18.0.5\t{}\n", made.hostname)));
        assert_eq!(made.env, ["A=b", "N=alpha.3", "DOCKER_RESOURCE_GPU=a,b"]);
        assert_eq!((made.entrypoint, made.args), (Some(vec!["/x".to_owned()]), None));
        assert_eq!(made.limits, Limits { memory_bytes: 1 << 20, nano_cpus: 500_000_000, pids: 10 });
        assert_eq!(made.log, LogLimits { max_size: Some(10 << 20), max_file: Some(3) });
        assert_eq!(made.labels["a"], "b");
        assert_eq!(made.labels[TASK_ID_LABEL], TaskId(Id(7)).to_string());
        assert_eq!(made.labels["com.docker.swarm.task.name"], format!("web.3.{}", TaskId(Id(7))));
        assert_eq!(made.labels["com.docker.swarm.task"], "");
        assert_eq!(made.mounts[0].kind, MountKind::Bind { source: "/s".into() });
        let volume = |name: Option<&str>, labels: &[(&str, &str)], no_copy| MountKind::Volume {
            name: name.map(str::to_owned),
            labels: labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
            no_copy,
        };
        assert_eq!(made.mounts[1].kind, volume(None, &[], false));
        assert_eq!(made.mounts[3].kind, MountKind::ApiSocket);
        assert_eq!(made.mounts[4].kind, volume(Some("data-3"), &[("a", "b")], true));
        assert_eq!(made.resolv_conf, "nameserver 1.1.1.1\noptions ndots:1\n");
        assert_eq!(made.sysctls["net.core.somaxconn"], "9");
        assert_eq!(made.ulimits, [Ulimit { name: "nofile".into(), soft: 10, hard: u64::MAX }]);
        assert_eq!(made.mounts[2].kind, MountKind::Tmpfs { size_bytes: 4096, mode: Some(511) });
    }

    #[test]
    fn what_cannot_be_done_is_named() {
        for (spec, expect) in [
            ("{}", "the task has no container spec"),
            (
                r#"{"ContainerSpec":{"Mounts":[{"Type":"npipe"}]}}"#,
                "mount type 'npipe' is not supported: bind, volume or tmpfs expected",
            ),
            (
                r#"{"ContainerSpec":{},"LogDriver":{"Name":"gelf"}}"#,
                "log driver 'gelf' is not supported: json-file expected",
            ),
            (
                r#"{"ContainerSpec":{},"LogDriver":{"Options":{"max-file":"0"}}}"#,
                "log option max-file=0 is not valid",
            ),
        ] {
            assert_eq!(build(spec).unwrap_err().to_string(), expect);
        }
        assert!(build("{").unwrap_err().to_string().starts_with("the task's spec cannot be read"));
    }
}
