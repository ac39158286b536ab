//! Cases as data: a body, and the words of its refusal or none.

use super::{service::service_name, *};
use crate::{json::parse, spec::ServiceSpec};

#[track_caller]
fn check(template: &str, rest: &str, expect: &str) {
    let body =
        format!(r#"{{"Name":"web","TaskTemplate":{{"ContainerSpec":{{"Image":"x"{template}}}}}{rest}}}"#);
    let spec: ServiceSpec = parse(body.as_bytes()).unwrap();
    match service(&spec) {
        Ok(()) => assert_eq!(expect, "", "{body}"),
        Err(error) => {
            assert!(!expect.is_empty() && error.message.contains(expect), "{body}: {error}");
        }
    }
}

#[test]
fn what_the_cli_always_sends_asks_for_nothing() {
    check(
        r#","Init":false,"DNSConfig":{},"Isolation":"default","StopGracePeriod":10000000000"#,
        r#","Mode":{"Replicated":{"Replicas":2}},"UpdateConfig":{"Parallelism":1,"FailureAction":"pause","Monitor":5000000000,
        "MaxFailureRatio":0,"Order":"stop-first"},"EndpointSpec":{"Mode":"vip"},"Networks":[]"#,
        "",
    );
}

#[test]
fn labels_of_a_schedule_belong_together() {
    for (template, rest, expect) in [
        (
            "",
            r#","Mode":{"ReplicatedJob":{}},"Labels":{"skep.cron":"@daily","skep.cron.tz":"Europe/Berlin"}"#,
            "",
        ),
        (
            "",
            r#","Mode":{"ReplicatedJob":{}},"Labels":{"skep.cron":"61 * * * *"}"#,
            "Labels.skep.cron: invalid value '61 * * * *': ",
        ),
        (
            "",
            r#","Mode":{"ReplicatedJob":{}},"Labels":{"skep.cron":"@daily","skep.cron.tz":"Mars"}"#,
            "Labels.skep.cron.tz: invalid value 'Mars': unknown time zone",
        ),
        (
            "",
            r#","Labels":{"skep.cron":"@daily"}"#,
            "Labels.skep.cron: only a replicated job runs by a schedule",
        ),
        ("", r#","Labels":{"skep.cron.tz":"UTC"}"#, "Labels.skep.cron.tz: needs Labels.skep.cron"),
    ] {
        check(template, rest, expect);
    }
}

#[test]
fn what_is_not_honoured_is_refused_by_name() {
    for (template, rest, expect) in [
        (r#","Secrets":[]"#, "", ""),
        (r#","Secrets":[{"SecretName":"s"}]"#, "", "ContainerSpec.Secrets is not supported yet"),
        (r#","TTY":true"#, "", "TTY"),
        (r#","Sysctls":{"net.core.somaxconn":"1024","kernel.sem":"1 2 3 4"}"#, "", ""),
        (r#","Sysctls":{"vm.swappiness":"1"}"#, "", "sysctl 'vm.swappiness' is not allowed"),
        (r#","Ulimits":[{"Name":"nofile","Soft":10,"Hard":-1}]"#, "", ""),
        (r#","Ulimits":[{"Name":"files"}]"#, "", "Ulimits[0].Name: invalid ulimit type: files"),
        (r#","Ulimits":[{"Name":"nofile","Soft":-1,"Hard":10}]"#, "", "soft limit must be less than"),
        (r#","DNSConfig":{"Nameservers":["9.9.9.9","fd00::1"],"Search":["a.b"]}"#, "", ""),
        (r#","DNSConfig":{"Nameservers":["dns"]}"#, "", "DNSConfig.Nameservers[0]: dns is not an ip address"),
        (
            r#","Mounts":[{"Type":"volume","Source":"d-{{.Task.Slot}}","Target":"/d","VolumeOptions":{"NoCopy":true,
            "Labels":{"a":"b"},"DriverConfig":{"Name":"local"}}}]"#,
            "",
            "",
        ),
        (
            r#","Mounts":[{"Type":"volume","Source":"d","Target":"/d","VolumeOptions":{"DriverConfig":{"Name":"nfs"}}}]"#,
            "",
            "VolumeOptions.DriverConfig.Name 'nfs' is not supported yet",
        ),
        (
            r#","Mounts":[{"Type":"volume","Source":"d","Target":"/d","VolumeOptions":{"DriverConfig":{"Options":{"type":"nfs"}}}}]"#,
            "",
            "VolumeOptions.DriverConfig.Options.type 'nfs' is not supported yet",
        ),
        (r#","HealthCheck":{"Test":["CMD","x"]}"#, "", "Healthcheck"),
        (r#","Healthcheck":{"Test":["NONE"]}"#, "", ""),
        (r#","Env":["A={{.Node.Hostname}}"]"#, "", ""),
        (r#","Env":["B=","A={{index .Service.Labels 1}}"]"#, "", "ContainerSpec.Env[1]: placeholder"),
        (r#","Hostname":"{{.Node.Name}}""#, "", "ContainerSpec.Hostname: placeholder"),
        ("", r#","Mode":{"Global":{}}"#, ""),
        ("", r#","Mode":{"ReplicatedJob":{}}"#, ""),
        ("", r#","Mode":{"GlobalJob":{}},"RollbackConfig":{}"#, ""),
        ("", r#","UpdateConfig":{"Order":"start-first","FailureAction":"rollback"}"#, ""),
        ("", r#","RollbackConfig":{"Order":"start-first","FailureAction":"continue"}"#, ""),
        (
            "",
            r#","RollbackConfig":{"FailureAction":"rollback"}"#,
            "RollbackConfig.FailureAction: unrecognized update failure action rollback",
        ),
        ("", r#","Labels":{"skep.update.progress-deadline":"10m","skep.update.history":"3"}"#, ""),
        (
            "",
            r#","Labels":{"skep.update.history":"many"}"#,
            "Labels.skep.update.history: invalid value 'many': must be a whole number",
        ),
        ("", r#","Labels":{"skep.priority":"7"}"#, ""),
        ("", r#","UnknownToAll":{"A":1}"#, ""),
    ] {
        check(template, rest, expect);
    }
}

#[test]
fn no_swap_at_all_is_a_wish_too() {
    for (resources, expect) in [
        (r#"{"SwapBytes":0}"#, "TaskTemplate.Resources.SwapBytes is not supported yet"),
        (r#"{"MemorySwappiness":0}"#, "TaskTemplate.Resources.MemorySwappiness is not supported yet"),
        (r#"{"SwapBytes":null,"MemorySwappiness":null}"#, ""),
    ] {
        let body = format!(
            r#"{{"Name":"web","TaskTemplate":{{"ContainerSpec":{{"Image":"x"}},"Resources":{resources}}}}}"#
        );
        let words = service(&parse(body.as_bytes()).unwrap()).err().map_or(String::new(), |e| e.message);
        assert!(words.starts_with(expect) && words.is_empty() == expect.is_empty(), "{body}: {words}");
    }
}

#[test]
fn what_is_wrong_is_named() {
    for (template, rest, expect) in [
        (r#","Mounts":[{"Type":"bind","Source":"a","Target":"/b"}]"#, "", "Mounts[0].Source"),
        (r#","Mounts":[{"Source":"a","Target":"/b"}]"#, "", "invalid bind mount source"),
        (
            r#","Mounts":[{"Type":"disk","Source":"a","Target":"/b"}]"#,
            "",
            "Mounts[0].Type: invalid MountType: \"disk\"",
        ),
        (
            r#","Mounts":[{"Type":"tmpfs","Target":"/b"},{"Type":"tmpfs","Target":"/b/"}]"#,
            "",
            "duplicate mount point",
        ),
        (r#","StopSignal":"SIGNOPE""#, "", "StopSignal: invalid signal"),
        (r#","Dir":"rel""#, "", "needs to be an absolute path"),
        ("", r#","EndpointSpec":{"Ports":[{"PublishedPort":80}]}"#, "Ports[0].TargetPort"),
        (
            "",
            r#","EndpointSpec":{"Ports":[{"PublishedPort":80,"TargetPort":1},{"PublishedPort":80,"TargetPort":2}]}"#,
            "duplicate published ports",
        ),
        (
            "",
            r#","EndpointSpec":{"Ports":[{"PublishedPort":80,"TargetPort":1,"PublishMode":"host"},{"PublishedPort":80,"TargetPort":2}]}"#,
            "Ports[1]: duplicate published ports provided: 80/tcp",
        ),
        (
            "",
            r#","Mode":{"Global":{},"Replicated":{"Replicas":1}}"#,
            "Mode: must specify only one service mode",
        ),
        (
            "",
            r#","Mode":{"GlobalJob":{}},"UpdateConfig":{}"#,
            "UpdateConfig: Jobs may not have an update config",
        ),
        ("", r#","Mode":{"Replicated":{"Replicas":100001}}"#, "Mode.Replicated.Replicas: at most 100000"),
        (
            "",
            r#","Mode":{"Replicated":{"Replicas":18446744073709551615}}"#,
            "Mode.Replicated.Replicas: Number of replicas must be non-negative",
        ),
        (
            "",
            r#","Mode":{"ReplicatedJob":{"MaxConcurrent":18446744073709551615}}"#,
            "Mode.ReplicatedJob.MaxConcurrent: Maximum concurrent jobs must not be negative",
        ),
        (
            "",
            r#","Mode":{"ReplicatedJob":{"TotalCompletions":100001}}"#,
            "Mode.ReplicatedJob.TotalCompletions: at most 100000",
        ),
        ("", r#","Labels":{"skeptical":"1","com.example":"1"}"#, ""),
        (
            "",
            r#","Labels":{"skep.prio":"7"}"#,
            "Labels.skep.prio: skep has no such label; it has skep.update",
        ),
        ("", r#","Labels":{"skep.priority":"high"}"#, "Labels.skep.priority: invalid value 'high': must be"),
    ] {
        check(template, rest, expect);
    }
}

#[test]
fn swarms_words_follow_the_field() {
    for (template, rest, expect) in [
        (
            "",
            r#","UpdateConfig":{"MaxFailureRatio":1.5}"#,
            "UpdateConfig.MaxFailureRatio: TaskSpec: update-maxfailureratio cannot be less than 0 or bigger than 1",
        ),
        (
            "",
            r#","UpdateConfig":{"Delay":-1}"#,
            "UpdateConfig.Delay: TaskSpec: update-delay cannot be negative",
        ),
        (
            "",
            r#","RollbackConfig":{"Monitor":-1}"#,
            "RollbackConfig.Monitor: TaskSpec: update-monitor cannot be negative",
        ),
        ("", r#","UpdateConfig":{"Order":"x"}"#, "UpdateConfig.Order: unrecognized update order x"),
        ("", r#","EndpointSpec":{"Mode":"x"}"#, "EndpointSpec.Mode: invalid resolution mode: \"x\""),
    ] {
        check(template, rest, expect);
    }
}

#[test]
fn labels_that_would_do_nothing_are_refused() {
    let volume = |labels: &str| {
        format!(
            r#","Mounts":[{{"Type":"volume","Source":"d","Target":"/d","VolumeOptions":{{"Labels":{labels}}}}}]"#
        )
    };
    let spread = r#","Labels":{"skep.strategy":"binpack","skep.spread.weight":"node.labels.a"}"#;
    for (template, rest, expect) in [
        (r#","Labels":{"a":"b"}"#, "", ""),
        (
            r#","Labels":{"skep.priority":"1"}"#,
            "",
            "TaskTemplate.ContainerSpec.Labels.skep.priority: does nothing there; take it out",
        ),
        (&volume(r#"{"skep.exclusive":"true","a":"b"}"#), "", ""),
        (
            &volume(r#"{"skep.exclusive":"yes"}"#),
            "",
            "VolumeOptions.Labels.skep.exclusive: invalid value 'yes': must be one of true, false",
        ),
        (
            &volume(r#"{"skep.exklusiv":"true"}"#),
            "",
            "skep has no such label of volumes; it has skep.exclusive",
        ),
        ("", r#","Labels":{"skep.rebalance":"3"}"#, ""),
        (
            "",
            r#","Mode":{"Global":{}},"Labels":{"skep.rebalance":"3"}"#,
            "Labels.skep.rebalance: does nothing here; take it out: only tasks of replicated services",
        ),
        ("", r#","Mode":{"Global":{}},"Labels":{"skep.update.progress-deadline":"3m"}"#, ""),
        (
            "",
            r#","Mode":{"ReplicatedJob":{}},"Labels":{"skep.update.progress-deadline":"3m"}"#,
            "Labels.skep.update.progress-deadline: does nothing here; take it out: a job has no update",
        ),
        ("", r#","Mode":{"ReplicatedJob":{}},"Labels":{"skep.soft.a":"node.role==worker"}"#, ""),
        (
            "",
            r#","Mode":{"Global":{}},"Labels":{"skep.soft.a":"node.role==worker"}"#,
            "Labels.skep.soft.a: does nothing here; take it out: each task of a global service",
        ),
        (
            "",
            spread,
            "Labels.skep.spread.weight: does nothing here; take it out: nodes that skep.strategy=binpack",
        ),
    ] {
        check(template, rest, expect);
    }
}

#[test]
fn placement_and_generic_resources() {
    let one = |amount: &str| {
        format!(
            r#""Resources":{{"Reservations":{{"GenericResources":[{{"DiscreteResourceSpec":{amount}}}]}}}}"#
        )
    };
    let twice = r#""Resources":{"Reservations":{"GenericResources":[{"DiscreteResourceSpec":{"Kind":"a","Value":1}},
        {"DiscreteResourceSpec":{"Kind":"a","Value":2}}]}}"#;
    let named = r#""Resources":{"Reservations":{"GenericResources":[{"NamedResourceSpec":{"Kind":"a","Value":"b"}}]}}"#;
    let limit =
        r#""Resources":{"Limits":{"GenericResources":[{"DiscreteResourceSpec":{"Kind":"a","Value":1}}]}}"#;
    for (template, expect) in [
        (
            r#""Placement":{"Preferences":[{"Spread":{"SpreadDescriptor":"node.labels.a"}}],"MaxReplicas":2}"#,
            "",
        ),
        (r#""Placement":{"Preferences":[{}]}"#, "Placement.Preferences[0]: only Spread is supported"),
        (r#""Placement":{"Preferences":[{"Spread":{}}]}"#, "SpreadDescriptor: must not be empty"),
        (&one(r#"{"Kind":"gpu","Value":1}"#), ""),
        (&one(r#"{"Kind":"gpu","Value":0}"#), "Value: invalid argument for resource gpu"),
        (&one(r#"{"Kind":"g p","Value":1}"#), "Kind: 'g p' is no kind"),
        (named, "GenericResources[0].NamedResourceSpec: invalid argument for resource"),
        (twice, "GenericResources[1].Kind: 'a' is asked for twice"),
        (limit, "generic resources have reservations only"),
        (
            r#""Resources":{"Limits":{"NanoCPUs":500000}}"#,
            "Limits.NanoCPUs: invalid cpu value 0.0005: Must be at least 0.001",
        ),
        (
            r#""Resources":{"Reservations":{"NanoCPUs":-2000000000}}"#,
            "invalid cpu value -2: Must be at least 0.001",
        ),
        (
            r#""Resources":{"Limits":{"MemoryBytes":4096}}"#,
            "Limits.MemoryBytes: invalid memory value 4096: Must be at least 4MiB",
        ),
        (
            r#""RestartPolicy":{"Delay":-1}"#,
            "RestartPolicy.Delay: TaskSpec: restart-delay cannot be negative",
        ),
        (
            r#""RestartPolicy":{"Window":-1}"#,
            "RestartPolicy.Window: TaskSpec: restart-window cannot be negative",
        ),
    ] {
        let body =
            format!(r#"{{"Name":"web","TaskTemplate":{{"ContainerSpec":{{"Image":"x"}},{template}}}}}"#);
        let spec: ServiceSpec = parse(body.as_bytes()).unwrap();
        let words = service(&spec).err().map(|e| e.message).unwrap_or_default();
        assert!(words.contains(expect) && words.is_empty() == expect.is_empty(), "{template}: {words}");
    }
}

#[test]
fn log_options() {
    for (options, expect) in [
        (r#"{"max-size":"10m","max-file":"3"}"#, ""),
        (r#"{"max-size":"0"}"#, "max-size: invalid value '0'"),
        (r#"{"max-size":"ten"}"#, "max-size: invalid value 'ten'"),
        (r#"{"max-file":"0"}"#, "max-file: invalid value '0'"),
        (r#"{"labels":"x"}"#, "labels 'x' is not supported yet"),
    ] {
        let body = format!(
            r#"{{"Name":"web","TaskTemplate":{{"ContainerSpec":{{"Image":"x"}},"LogDriver":{{"Name":"json-file","Options":{options}}}}}}}"#
        );
        let spec: ServiceSpec = parse(body.as_bytes()).unwrap();
        let words = service(&spec).err().map(|e| e.message).unwrap_or_default();
        assert!(words.contains(expect) && words.is_empty() == expect.is_empty(), "{options}: {words}");
    }
}

#[test]
fn images() {
    for (image, expect) in [
        ("a", ""),
        ("a/b_c:1.0-x", ""),
        ("reg.example:5000/a/b@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef", ""),
        ("sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef", ""),
        ("BAD:img:x", "is not a valid repository/tag"),
        ("a b", "is not a valid repository/tag"),
        ("-a", "is not a valid repository/tag"),
        ("a:", "is not a valid repository/tag"),
    ] {
        let body = format!(r#"{{"Name":"web","TaskTemplate":{{"ContainerSpec":{{"Image":"{image}"}}}}}}"#);
        let spec: ServiceSpec = parse(body.as_bytes()).unwrap();
        let words = service(&spec).err().map(|e| e.message).unwrap_or_default();
        assert!(words.contains(expect) && words.is_empty() == expect.is_empty(), "{image}: {words}");
    }
}

#[test]
fn names() {
    for (name, ok) in
        [("a", true), ("a-b_c", true), ("-a", false), ("a.b", false), ("a-", false), ("", false)]
    {
        assert_eq!(service_name(name).is_ok(), ok, "{name}");
    }
    assert!(service_name(&"a".repeat(64)).is_err());
}

#[test]
fn sizes_and_signals() {
    for (text, bytes) in
        [("10m", Some(10 << 20)), ("1G", Some(1 << 30)), ("7", Some(7)), ("x", None), ("", None)]
    {
        assert_eq!(size(text), bytes, "{text}");
    }
    for (text, number) in
        [("SIGTERM", Some(15)), ("quit", Some(3)), ("9", Some(9)), ("0", None), ("FOO", None)]
    {
        assert_eq!(signal_number(text), number, "{text}");
    }
}

#[test]
fn what_docker_fills_in_is_spelled_out() {
    let body = r#"{"Name":"web","TaskTemplate":{"ContainerSpec":{"Image":"x","Mounts":[
        {"Source":"/a","Target":"/b"},{"Type":"Volume","Source":"v","Target":"/v"}]}},
        "UpdateConfig":{"Delay":1},"RollbackConfig":{"Parallelism":2}}"#;
    let mut spec: ServiceSpec = parse(body.as_bytes()).unwrap();
    assert_eq!(service(&spec), Ok(()));
    // As it is stored by builds that do not fill it in.
    assert_eq!((spec.update().parallelism, spec.rollback().parallelism), (1, 2));
    spec.fill_in();
    assert_eq!((spec.update().parallelism, spec.rollback().parallelism), (u64::MAX, 2));
    let mounts = spec.container().and_then(|container| container.mounts.clone()).unwrap();
    assert_eq!(mounts.iter().map(|mount| mount.kind.as_str()).collect::<Vec<_>>(), ["bind", "volume"]);
    let mut bare: ServiceSpec = parse(br#"{"Name":"web"}"#).unwrap();
    bare.fill_in();
    assert_eq!((bare.update_config.is_none(), bare.update().parallelism), (true, 1));
}
