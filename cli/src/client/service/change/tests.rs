//! What flags make of a spec.

use clap::Parser;
use serde_json::{Value, json};

use super::Change;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    change: Change,
}

fn changed(spec: &Value, line: &str) -> Value {
    let words = ["x"].into_iter().chain(line.split_ascii_whitespace()).chain(["web"]);
    let line = Line::try_parse_from(words).unwrap_or_else(|error| panic!("{error}"));
    let mut out = spec.clone();
    line.change.edits.apply(&mut out).unwrap();
    out
}

fn before() -> Value {
    json!({
        "Name": "web", "Labels": { "a": "1", "b": "2" }, "Unknown": { "kept": true },
        "TaskTemplate": {
            "ContainerSpec": {
                "Image": "web:1", "Env": ["A=1", "B=2"], "Groups": ["g1"], "Hosts": ["10.0.0.1 db cache"],
                "Mounts": [{ "Type": "volume", "Source": "v", "Target": "/v" }], "CapabilityDrop": ["CAP_CHOWN"],
            },
            "Placement": { "Constraints": ["node.role==worker"], "Platforms": [{ "OS": "linux" }] },
            "Resources": { "Limits": { "NanoCPUs": 1 } }, "ForceUpdate": 3,
        },
        "Mode": { "Replicated": { "Replicas": 2 } },
        "EndpointSpec": { "Mode": "vip", "Ports": [{ "Protocol": "tcp", "TargetPort": 80, "PublishedPort": 8080 }] },
    })
}

#[track_caller]
fn check(line: &str, pointer: &str, expect: &Value) {
    let out = changed(&before(), line);
    assert_eq!(out.pointer(pointer).unwrap_or(&Value::Null), expect, "{line}\n{out:#}");
    assert_eq!(out["Unknown"]["kept"], true, "{line}");
}

#[test]
fn without_a_flag_nothing_changes() {
    assert_eq!(changed(&before(), ""), before());
    let bare = json!({ "Name": "web", "TaskTemplate": { "ContainerSpec": { "Image": "a" } } });
    assert_eq!(changed(&bare, "")["TaskTemplate"], bare["TaskTemplate"]);
}

#[test]
fn lists_are_added_to_and_taken_from() {
    let container = |key: &str| format!("/TaskTemplate/ContainerSpec/{key}");
    check("--env-add B=3 --env-add C=4 --env-rm A", &container("Env"), &json!(["B=3", "C=4"]));
    check("--label-add b=3 --label-add c --label-rm a", "/Labels", &json!({ "b": "3", "c": "" }));
    check("--container-label-add x=y", &container("Labels"), &json!({ "x": "y" }));
    check("--group-add g0", &container("Groups"), &json!(["g0", "g1"]));
    check(
        "--host-rm db --host-add new:10.0.0.2",
        &container("Hosts"),
        &json!(["10.0.0.1 cache", "10.0.0.2 new"]),
    );
    check("--mount-rm /v", &container("Mounts"), &json!([]));
    check("--mount-add type=tmpfs,dst=/v", &container("Mounts/0/Type"), &json!("tmpfs"));
    check(
        "--constraint-add node.id!=x --constraint-rm node.role==worker",
        "/TaskTemplate/Placement/Constraints",
        &json!(["node.id!=x"]),
    );
    check("--constraint-add a==b", "/TaskTemplate/Placement/Platforms/0/OS", &json!("linux"));
    check(
        "--placement-pref-add spread=node.labels.zone",
        "/TaskTemplate/Placement/Preferences",
        &json!([{ "Spread": { "SpreadDescriptor": "node.labels.zone" } }]),
    );
    check(
        "--dns-add 9.9.9.9 --dns-add 8.8.8.8 --dns-search-add a.b --dns-option-rm x",
        &container("DNSConfig"),
        &json!({ "Nameservers": ["8.8.8.8", "9.9.9.9"], "Search": ["a.b"], "Options": [] }),
    );
    check("--sysctl-add net.a=1", &container("Sysctls"), &json!({ "net.a": "1" }));
    check(
        "--ulimit-add nofile=1:2 --ulimit-add core=0 --ulimit-rm nproc",
        &container("Ulimits"),
        &json!([{ "Name": "core", "Soft": 0, "Hard": 0 }, { "Name": "nofile", "Soft": 1, "Hard": 2 }]),
    );
    check("--publish-rm 80", "/EndpointSpec/Ports", &json!([]));
    check("--publish-add 8443:443", "/EndpointSpec/Ports/1/TargetPort", &json!(443));
    check("--publish-rm 80 --publish-add 9090:80", "/EndpointSpec/Ports/0/PublishedPort", &json!(9090));
}

#[test]
fn settings_go_over_what_is_there() {
    check(
        "--limit-memory 64m",
        "/TaskTemplate/Resources/Limits",
        &json!({ "NanoCPUs": 1, "MemoryBytes": 64 << 20 }),
    );
    check("--reserve-cpu 0.5", "/TaskTemplate/Resources/Reservations", &json!({ "NanoCPUs": 500_000_000 }));
    check("--replicas 5", "/Mode/Replicated/Replicas", &json!(5));
    check("--force", "/TaskTemplate/ForceUpdate", &json!(4));
    check("--args -v", "/TaskTemplate/ContainerSpec/Args", &json!(["-v"]));
    check("--read-only", "/TaskTemplate/ContainerSpec/ReadOnly", &json!(true));
    check("--restart-condition none", "/TaskTemplate/RestartPolicy/Delay", &json!(5_000_000_000_i64));
    check("--update-parallelism 2", "/UpdateConfig/FailureAction", &json!("pause"));
    check("--rollback-order start-first", "/RollbackConfig/Order", &json!("start-first"));
    let mut spec = before();
    spec["UpdateConfig"] = json!({ "Parallelism": 4, "Order": "start-first" });
    let out = changed(&spec, "--update-delay 2s");
    assert_eq!(
        out["UpdateConfig"],
        json!({ "Parallelism": 4, "Order": "start-first", "Delay": 2_000_000_000 }),
        "what was not named stays"
    );
}

#[test]
fn capabilities_have_three_states() {
    let out = changed(&before(), "--cap-add chown --cap-drop NET_RAW");
    assert_eq!(out["TaskTemplate"]["ContainerSpec"]["CapabilityAdd"], json!([]));
    assert_eq!(out["TaskTemplate"]["ContainerSpec"]["CapabilityDrop"], json!(["CAP_NET_RAW"]));
    let out = changed(&out, "--cap-add CHOWN");
    assert_eq!(out["TaskTemplate"]["ContainerSpec"]["CapabilityAdd"], json!(["CAP_CHOWN"]));
}

#[test]
fn generic_resources_are_one_of_each_kind_and_only_what_is_there_goes() {
    let with = |line: &str| {
        let words = ["x"].into_iter().chain(line.split_ascii_whitespace()).chain(["web"]);
        let line = Line::try_parse_from(words).unwrap_or_else(|error| panic!("{error}"));
        let mut out = before();
        out["TaskTemplate"]["Resources"]["Reservations"] =
            json!({ "GenericResources": [{ "DiscreteResourceSpec": { "Kind": "gpu", "Value": 1 } }] });
        let done = line.change.edits.apply(&mut out).map_err(|error| error.to_string());
        done.map(|()| out["TaskTemplate"]["Resources"]["Reservations"]["GenericResources"].clone())
    };
    let gpu = |n: i64| json!([{ "DiscreteResourceSpec": { "Kind": "gpu", "Value": n } }]);
    assert_eq!(with("--generic-resource-add gpu=3"), Ok(gpu(3)));
    assert_eq!(with("--generic-resource-rm gpu"), Ok(json!([])));
    let unknown = "could not find generic-resource `ssd` to remove it";
    assert_eq!(with("--generic-resource-rm ssd"), Err(unknown.to_owned()));
}
