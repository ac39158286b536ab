//! Status codes and words of the routes.

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use skep_api::{Id, NodeId};
use tokio::net::UnixStream;

use super::fake::Running;
use crate::http::SwarmState;

/// Sends one request; gives status, headers and body.
async fn ask(
    server: &Running,
    method: &str,
    path: &str,
    body: &str,
) -> (StatusCode, hyper::HeaderMap, String) {
    let stream = UnixStream::connect(server.socket()).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::builder()
        .method(method.parse::<Method>().unwrap())
        .uri(path)
        .header("host", "skep")
        .body(Full::new(Bytes::from(body.to_owned())))
        .unwrap();
    let response = sender.send_request(request).await.unwrap();
    let (head, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    (head.status, head.headers, String::from_utf8_lossy(&body).into_owned())
}

/// Checks the status and a part of the body.
async fn check(server: &Running, request: &str, body: &str, status: u16, expect: &str) {
    let (method, path) = request.split_once(' ').unwrap();
    let (got, _, text) = ask(server, method, path, body).await;
    assert_eq!(got.as_u16(), status, "{request}: {text}");
    assert!(text.contains(expect), "{request}: {text}");
}

#[tokio::test]
async fn ping_tells_who_we_are() {
    let server = Running::manager();
    for method in ["GET", "HEAD"] {
        let (status, headers, body) = ask(&server, method, "/_ping", "").await;
        assert_eq!(status, 200);
        assert_eq!(body, if method == "GET" { "OK" } else { "" });
        for (key, value) in [
            ("api-version", "1.55"),
            ("ostype", "linux"),
            ("docker-experimental", "false"),
            ("swarm", "active/manager"),
            ("pragma", "no-cache"),
        ] {
            assert_eq!(headers[key], value, "{key}");
        }
        assert!(headers["server"].to_str().unwrap().starts_with("skep/"));
    }
}

#[tokio::test]
async fn wrong_requests_are_named() {
    let server = Running::manager();
    for (request, body, status, expect) in [
        ("GET /v1.24/nothing", "", 404, r#"{"message":"page not found"}"#),
        ("PUT /services", "", 404, "page not found"),
        ("GET /v1.20/info", "", 400, "client version 1.20 is too old. Minimum supported API version is 1.24"),
        ("GET /v1.99/info", "", 400, "client version 1.99 is too new. Maximum supported API version is 1.55"),
        ("GET /services/none", "", 404, "service none not found"),
        ("GET /services?filters=%7B%22x%22%3A%5B%22a%22%5D%7D", "", 400, "invalid filter 'x'"),
        ("POST /services/create", "{", 400, "invalid JSON"),
        ("GET /tasks/none", "", 404, "task none not found"),
        ("GET /nodes/none", "", 404, "node none not found"),
        ("GET /nodes/self", "", 200, r#""Hostname":"alpha""#),
        ("GET /secrets", "", 200, "[]"),
        ("GET /configs?filters=%7B%7D", "", 200, "[]"),
        ("POST /secrets/create", "{}", 501, "secrets is not supported"),
        ("GET /volumes", "", 200, r#""Name":"data""#),
        (
            "GET /volumes?filters=%7B%22dangling%22%3A%5B%22true%22%5D%7D",
            "",
            200,
            r#"[{"CreatedAt":"2026-11-21T00:00:00Z","Name":"old","Driver":"local","Mountpoint":"","Labels":null"#,
        ),
        (
            "GET /volumes?filters=%7B%22label%22%3A%5B%22a=c%22%5D%7D",
            "",
            200,
            r#"{"Volumes":[],"Warnings":null}"#,
        ),
        ("GET /volumes/data", "", 200, r#""Labels":{"a":"b"}"#),
        ("GET /volumes/none", "", 404, "get none: no such volume"),
        ("POST /volumes/create", r#"{"Name":"v","Driver":"nfs"}"#, 404, r#"plugin \"nfs\" not found"#),
        (
            "POST /volumes/create",
            r#"{"Name":"v","DriverOpts":{"type":"nfs"}}"#,
            400,
            "DriverOpts.type 'nfs' is not supported yet",
        ),
        ("POST /volumes/create", r#"{"Name":"v","Labels":{"x":"y"}}"#, 201, r#""Labels":{"x":"y"}"#),
        ("DELETE /volumes/data", "", 409, "volume is in use"),
        ("DELETE /volumes/none", "", 404, "get none: no such volume"),
        ("DELETE /volumes/none?force=1", "", 204, ""),
        ("POST /volumes/prune", "", 200, r#""VolumesDeleted":[]"#),
        (
            "POST /volumes/prune?filters=%7B%22all%22%3A%5B%22true%22%5D%7D",
            "",
            200,
            r#""VolumesDeleted":["old"]"#,
        ),
    ] {
        check(&server, request, body, status, expect).await;
    }
}

#[tokio::test]
async fn wrong_requests_on_networks_and_the_swarm_are_named() {
    let server = Running::manager();
    for (request, body, status, expect) in [
        ("POST /networks/create", "{}", 400, "network name cannot be empty"),
        (
            "POST /networks/create",
            r#"{"Name":"a","Driver":"bridge"}"#,
            501,
            "a network of one node ('bridge')",
        ),
        (
            "POST /networks/create",
            r#"{"Name":"host"}"#,
            403,
            "operation is not permitted on predefined host network",
        ),
        ("DELETE /networks/none", "", 403, "none is a pre-defined network and cannot be removed"),
        ("DELETE /networks/ingress", "", 501, "removing the ingress network"),
        ("GET /networks/nope", "", 404, "network nope not found"),
        ("POST /networks/bridge/connect", "{}", 501, "connecting a container to a network"),
        ("GET /containers/cdcd/json", "", 200, r#""Name":"/web.1.xyz""#),
        ("POST /swarm/init", "{}", 503, "This node is already part of a swarm"),
        (
            "POST /swarm/update?version=99",
            "{}",
            500,
            "rpc error: code = Unknown desc = update out of sequence",
        ),
        ("POST /swarm/update", "{}", 400, "invalid swarm version ''"),
        (
            "POST /swarm/update?version=1&rotateWorkerToken=x",
            "{}",
            400,
            "invalid value for rotateWorkerToken: x",
        ),
        (
            "POST /swarm/update?version=1&rotateManagerUnlockKey=x",
            "{}",
            400,
            "invalid value for rotateManagerUnlockKey: x",
        ),
        ("GET /swarm/unlockkey", "", 200, r#"{"UnlockKey":""}"#),
        ("POST /swarm/unlock", r#"{"UnlockKey":"x"}"#, 409, "swarm is not locked"),
    ] {
        check(&server, request, body, status, expect).await;
    }
}

#[tokio::test]
async fn a_container_shows_what_is_in_force_in_it() {
    let server = Running::manager();
    for expect in [
        r#""Path":"/skep-whoami","Args":["-v"]"#,
        r#""Mounts":[{"Type":"volume","Name":"data","Driver":"local","Source":"/s/data","Destination":"/d","Mode":"","RW":true"#,
        r#""CapAdd":["CAP_NET_ADMIN"],"CapDrop":null"#,
        r#""Memory":8388608,"MemorySwap":0,"NanoCpus":0,"PidsLimit":null"#,
        r#"{"Type":"tmpfs","Target":"/t","TmpfsOptions":{"SizeBytes":0,"Mode":1023}}"#,
        r#""Hostname":"cdcd","User":"""#,
    ] {
        check(&server, "GET /containers/cdcd/json", "", 200, expect).await;
    }
}

#[tokio::test]
async fn images_and_registries_are_asked() {
    let server = Running::manager();
    for (request, body, status, expect) in [
        ("GET /distribution/a/b:c/json", "", 404, "manifest for a/b:c not found: manifest unknown"),
        (
            "GET /distribution/far:1/json",
            "",
            200,
            r#""size":7},"Platforms":[{"architecture":"amd64","os":"linux"}]"#,
        ),
        ("POST /auth", r#"{"serveraddress":"h:5000"}"#, 200, r#"{"Status":"Login Succeeded""#),
        ("POST /auth", r#"{"serveraddress":"x"}"#, 403, "login attempt failed"),
        ("POST /images/create?fromImage=alpine&tag=3", "", 404, "no alpine:3"),
        (
            "POST /images/create?fromImage=far&tag=1",
            "",
            200,
            "\"Pull complete\",\"progressDetail\":{},\"id\":\"0123",
        ),
        ("POST /images/create?fromImage=far:1", "", 200, "Status: Downloaded newer image for far:1"),
        ("POST /images/skep/whoami:latest/tag?repo=a&tag=1", "", 201, ""),
        ("POST /images/none/tag?repo=a", "", 404, "No such image: none"),
        ("POST /images/skep/whoami:latest/tag", "", 400, "repo is empty"),
        ("POST /images/a/push", "", 501, "pushing to a registry"),
        ("GET /images/skep/whoami:latest/json", "", 200, r#""RepoTags":["skep/whoami:latest"]"#),
        ("GET /images/none/json", "", 404, "No such image: none"),
    ] {
        check(&server, request, body, status, expect).await;
    }
}

#[tokio::test]
async fn a_nodes_role_and_availability_are_read_as_docker_reads_them() {
    let server = Running::manager();
    let (_, _, body) = ask(&server, "GET", "/nodes/beta", "").await;
    let node: Value = serde_json::from_str(&body).unwrap();
    let update = format!("POST /nodes/beta/update?version={}", node["Version"]["Index"]);
    for (spec, status, expect) in [
        (r#"{"Availability":"active"}"#, 400, r#"invalid Role: \"\""#),
        (r#"{"Role":"boss","Availability":"active"}"#, 400, r#"invalid Role: \"boss\""#),
        (r#"{"Role":"worker","Availability":"bogus"}"#, 400, r#"invalid Availability: \"bogus\""#),
        (r#"{"role":"Worker","availability":"PAUSE"}"#, 200, ""),
    ] {
        check(&server, &update, spec, status, expect).await;
    }
}

#[tokio::test]
async fn a_service_lives_and_dies() {
    let server = Running::manager();
    let spec = r#"{"name":"web","TaskTemplate":{"ContainerSpec":{"Image":"a"}},"Mode":{"Replicated":{"Replicas":2}}}"#;
    let (status, _, body) = ask(&server, "POST", "/v1.50/services/create", spec).await;
    assert_eq!(status, 201, "{body}");
    let created: Value = serde_json::from_str(&body).unwrap();
    let id = created["ID"].as_str().unwrap();
    assert_eq!(id.len(), 25);
    let (_, _, body) = ask(&server, "GET", &format!("/services/{}", &id[..8]), "").await;
    let service: Value = serde_json::from_str(&body).unwrap();
    let version = service["Version"]["Index"].as_u64().unwrap();
    for (request, body, status, expect) in [
        (
            "POST /services/create".to_owned(),
            spec,
            409,
            "name conflicts with an existing object: service web already exists",
        ),
        ("GET /services/web?insertDefaults=true".into(), "", 200, r#""FailureAction":"pause""#),
        ("GET /services?status=true".into(), "", 200, r#""RunningTasks":2,"DesiredTasks":2"#),
        ("GET /tasks?filters=%7B%22service%22%3A%5B%22web%22%5D%7D".into(), "", 200, r#""Slot":2"#),
        (
            "GET /tasks?filters=%7B%22desired-state%22%3A%7B%22running%22%3Atrue%7D%7D".into(),
            "",
            200,
            r#""Slot":1"#,
        ),
        (
            "GET /tasks?filters=%7B%22desired-state%22%3A%5B%22x%22%5D%7D".into(),
            "",
            400,
            "Invalid desired-state filter: 'x'",
        ),
        ("POST /services/web/update".into(), spec, 400, "invalid service version ''"),
        ("POST /services/web/update?version=1".into(), spec, 500, "update out of sequence"),
        (
            format!("POST /services/web/update?version={version}&rollback=x"),
            spec,
            400,
            "unrecognized rollback option x",
        ),
        (
            format!("POST /services/web/update?version={version}&rollback=none"),
            spec,
            200,
            r#""Warnings":null"#,
        ),
        (
            "POST /skep/services/web/rollout?version=1&do=stop".into(),
            "",
            400,
            "do 'stop': pause, resume, abort or rollback expected",
        ),
        ("POST /skep/services/web/rollout?do=pause".into(), "", 400, "invalid service version ''"),
        (
            "POST /skep/services/web/rollout?version=1&do=rollback&to=0".into(),
            "",
            400,
            "to '0': the number of a past spec expected, from 1",
        ),
        ("GET /skep/services/none/history".into(), "", 404, "service none not found"),
        ("GET /services/web/logs".into(), "", 400, "you must choose at least one stream"),
        ("DELETE /services/web".into(), "", 200, ""),
        ("DELETE /services/web".into(), "", 404, "service web not found"),
        ("GET /services".into(), "", 200, "[]"),
        ("GET /tasks".into(), "", 200, "[]"),
    ] {
        check(&server, &request, body, status, expect).await;
    }
}

#[tokio::test]
async fn filters_are_read_as_docker_reads_them() {
    let server = Running::manager();
    let spec = r#"{"name":"web","TaskTemplate":{"ContainerSpec":{"Image":"a"}}}"#;
    check(&server, "POST /services/create", spec, 201, "ID").await;
    for (list, key, value, status, expect) in [
        ("tasks", "desired-state", "RUNNING", 200, r#""Slot":1"#),
        ("tasks", "desired-state", "", 200, r#""Slot":1"#),
        ("tasks", "desired-state", "Shutdown", 200, "[]"),
        ("tasks", "service", "none", 404, "service none not found"),
        ("tasks", "node", "none", 404, "node none not found"),
        ("services", "mode", "foo", 200, "[]"),
        ("services", "mode", "replicated", 200, r#""Name":"web""#),
        ("nodes", "role", "Manager", 200, r#""Hostname":"alpha""#),
        ("nodes", "role", "boss", 400, "Invalid role filter: 'boss'"),
        ("nodes", "membership", "Pending", 200, "[]"),
        ("nodes", "name", "alp", 200, r#""Hostname":"alpha""#),
        ("containers/json", "is-task", "true", 200, "/web.1.xyz"),
        ("containers/json", "is-task", "false", 200, "[]"),
        ("containers/json", "is-task", "x", 400, "invalid filter 'is-task=x'"),
    ] {
        let request = format!("GET /{list}?filters=%7B%22{key}%22%3A%5B%22{value}%22%5D%7D");
        check(&server, &request, "", status, expect).await;
    }
}

#[tokio::test]
async fn networks_are_made_found_and_removed() {
    let server = Running::manager();
    let spec = r#"{"Name":"web_default","Driver":"overlay","Labels":{"com.docker.stack.namespace":"web"}}"#;
    let (status, _, body) = ask(&server, "POST", "/networks/create", spec).await;
    assert_eq!(status, 201, "{body}");
    let created: Value = serde_json::from_str(&body).unwrap();
    let id = created["Id"].as_str().unwrap();
    for (request, status, expect) in [
        (format!("GET /networks/{id}"), 200, r#""Name":"web_default""#),
        (format!("GET /networks/{}", &id[..6]), 200, r#""Scope":"swarm""#),
        ("GET /networks/web_default?verbose=true".into(), 200, id),
        ("GET /networks/web_default?scope=local".into(), 404, "network web_default not found"),
        ("GET /networks/ingress?scope=swarm".into(), 200, r#""Subnet":"10.255.0.0/16""#),
        ("GET /networks?filters=%7B%22type%22%3A%5B%22x%22%5D%7D".into(), 400, "invalid filter 'type=x'"),
    ] {
        check(&server, &request, "", status, expect).await;
    }
    let names = async |filters: &str| {
        let path = format!("/networks?filters={}", filters.replace('"', "%22").replace(['{'], "%7B"));
        let (_, _, body) = ask(&server, "GET", &path.replace('}', "%7D").replace('^', "%5E"), "").await;
        let all: Vec<Value> = serde_json::from_str(&body).unwrap();
        all.iter().map(|one| one["Name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    for (filters, expect) in [
        ("{}", &["bridge", "host", "none", "ingress", "web_default"][..]),
        (r#"{"scope":["swarm"]}"#, &["ingress", "web_default"]),
        (r#"{"type":["builtin"]}"#, &["bridge", "host", "none"]),
        (r#"{"label":["com.docker.stack.namespace=web"]}"#, &["web_default"]),
        (r#"{"driver":["null"]}"#, &["none"]),
        (r#"{"name":["^web_"]}"#, &["web_default"]),
        (r#"{"dangling":["true"]}"#, &["web_default"]),
    ] {
        assert_eq!(names(filters).await, expect, "{filters}");
    }
    check(&server, "POST /networks/prune", "", 200, r#"{"NetworksDeleted":["web_default"]}"#).await;
    check(&server, "DELETE /networks/web_default", "", 404, "network web_default not found").await;
}

#[tokio::test]
async fn only_a_manager_tells_of_the_cluster() {
    for (state, expect, ping) in [
        (
            SwarmState::Inactive,
            r#"This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect this node to swarm and try again."#,
            "inactive",
        ),
        (
            SwarmState::Worker { node_id: NodeId(Id(1)) },
            "This node is not a swarm manager. Worker nodes can't be used to view or modify cluster state. Please run this command on a manager node or promote the current node to a manager.",
            "active/worker",
        ),
        (
            SwarmState::Locked,
            r#"Swarm is encrypted and needs to be unlocked before it can be used. Please use \"docker swarm unlock\" to unlock it."#,
            "locked",
        ),
        (SwarmState::Pending, "still joining", "pending"),
        (SwarmState::Error("no disk".into()), "no disk", "error"),
        (
            SwarmState::Full("this manager's disk is full: x".into()),
            "this manager's disk is full: x",
            "error",
        ),
    ] {
        let server = Running::start(state);
        for path in
            ["/swarm", "/nodes", "/services", "/tasks", "/secrets", "/configs", "/services/x/logs?stdout=1"]
        {
            check(&server, &format!("GET {path}"), "", 503, expect).await;
        }
        let (_, headers, _) = ask(&server, "GET", "/_ping", "").await;
        assert_eq!(headers["swarm"], ping);
        check(&server, "GET /info", "", 200, r#""ControlAvailable":false"#).await;
    }
}

#[tokio::test]
async fn only_a_locked_manager_is_unlocked() {
    let locked = Running::start(SwarmState::Locked);
    let key = |text: &str| format!(r#"{{"UnlockKey":"{text}"}}"#);
    let other = key("SWMKEY-1-7c37Cc8654o6p38HnroywCi19pllOnGtbdZEgtKxZu8");
    for (body, status, expect) in [
        (key(""), 400, "invalid key string"),
        (key("SWMKEY-1-%"), 400, "invalid key string"),
        (other.clone(), 401, "swarm could not be unlocked: invalid key provided"),
    ] {
        check(&locked, "POST /swarm/unlock", &body, status, expect).await;
    }
    for path in ["POST /swarm/init", "POST /swarm/join"] {
        check(&locked, path, "{}", 503, "This node is already part of a swarm").await;
    }
    check(&locked, "GET /swarm/unlockkey", "", 503, "Swarm is encrypted and needs to be unlocked").await;
    check(&locked, "GET /info", "", 200, r#""LocalNodeState":"locked""#).await;
    let right = key("SWMKEY-1-BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc");
    check(&locked, "POST /swarm/unlock", &right, 200, "").await;
    check(&locked, "POST /swarm/unlock", &right, 409, "swarm is not locked").await;
    let outside = Running::start(SwarmState::Inactive);
    check(&outside, "POST /swarm/unlock", &other, 503, "This node is not a swarm manager. Use").await;
}

#[tokio::test]
async fn logs_are_frames() {
    let server = Running::manager();
    let spec = r#"{"Name":"web","TaskTemplate":{"ContainerSpec":{"Image":"a"}}}"#;
    check(&server, "POST /services/create", spec, 201, "ID").await;
    let (status, headers, body) =
        ask(&server, "GET", "/services/web/logs?stdout=1&stderr=1&timestamps=1&tail=10", "").await;
    assert_eq!(status, 200);
    assert_eq!(headers["content-type"], "application/vnd.docker.multiplexed-stream");
    let line = "2026-11-21T00:00:00.000000000Z hello\n";
    let head = [1, 0, 0, 0, 0, 0, 0, u8::try_from(line.len()).unwrap()];
    let frame = [&head, line.as_bytes()].concat();
    assert!(body.as_bytes().starts_with(&frame), "{body:?}");
    assert!(body.contains("warning: incomplete log stream"), "{body:?}");
}
