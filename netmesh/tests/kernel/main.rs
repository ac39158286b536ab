//! The mesh on a real kernel: two nodes and a client in network namespaces of their own.

#![expect(clippy::unwrap_used, reason = "a test's helpers fail as the test does")]

mod lab;

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, TcpListener, UdpSocket};
use std::process::Command;

use lab::{Lab, can_run, greet, greet_udp, in_netns, ingress, port, serve, talk, task_addr, underlay};
use skep_netmesh::{Attach, HostPort, MeshError, Protocol};

const TCP: Protocol = Protocol::Tcp;
const UDP: Protocol = Protocol::Udp;
const LOCALHOST: Ipv4Addr = Ipv4Addr::LOCALHOST;

fn names(all: &[&str]) -> BTreeSet<String> {
    all.iter().map(|name| (*name).to_owned()).collect()
}

fn publishing(n: u8) -> Attach {
    Attach { ingress: Some(task_addr(n)), ..Attach::default() }
}

/// Tasks a and b on node 1, c on node 2, all behind 8080/tcp and 5353/udp.
fn three_tasks(lab: &Lab) -> [std::path::PathBuf; 3] {
    lab.apply(1, &[], &[]);
    let made = [("a", 1, 0), ("b", 2, 0), ("c", 3, 1)].map(|(name, n, on)| {
        let netns = lab.nodes[on].attach(name, publishing(n)).unwrap().netns;
        serve(&netns, name);
        netns
    });
    let all = [1, 2, 3].map(task_addr);
    lab.apply(2, &[port(TCP, 8080, &all), port(UDP, 5353, &all)], &tasks());
    made
}

fn tasks() -> [(Ipv4Addr, u8); 3] {
    [(task_addr(1), 1), (task_addr(2), 1), (task_addr(3), 2)]
}

/// The whole of the ingress, with bridged frames seen by the rules and not.
fn ingress_story(bridge_netfilter: &str) {
    let lab = Lab::new(2);
    lab.set_bridge_netfilter(bridge_netfilter);
    let [a, _, _] = three_tasks(&lab);
    let everyone = names(&["a", "b", "c"]);
    for node in &lab.nodes {
        assert_eq!(lab.answers(node, 8080, 40), everyone, "asked by the client on node {}", node.n);
        // All of 127/8 leads to the proxy of a TCP port.
        assert!(greet(&node.netns, Ipv4Addr::new(127, 9, 8, 7), 8080).is_ok());
        for to in [underlay(node.n), LOCALHOST, ingress(node.n)] {
            let got: BTreeSet<String> = (0..40).map(|_| greet(&node.netns, to, 8080).unwrap().0).collect();
            assert_eq!(got, everyone, "asked on node {} itself at {to}", node.n);
            let got: BTreeSet<String> = (0..40).map(|_| greet_udp(&node.netns, to, 5353).unwrap()).collect();
            assert_eq!(got, everyone, "asked by datagrams on node {} itself at {to}", node.n);
        }
        let got: BTreeSet<String> =
            (0..40).map(|_| greet_udp(&lab.client, underlay(node.n), 5353).unwrap()).collect();
        assert_eq!(got, everyone, "asked by datagrams on node {}", node.n);
    }
    // A task reaches its own service, itself included, by any node.
    for n in [1, 2] {
        let got: BTreeSet<String> = (0..40).map(|_| greet(&a, underlay(n), 8080).unwrap().0).collect();
        assert_eq!(got, everyone, "asked by task a on node {n}");
    }
    endpoint_leaves(&lab);
    nobody_is_left(&lab);
}

fn endpoint_leaves(lab: &Lab) {
    let mut open = loop {
        let talk = talk(&lab.client, underlay(1), 8080).unwrap();
        if talk.name == "c" {
            break talk;
        }
    };
    let mut proxied = loop {
        let talk = talk(&lab.nodes[0].netns, LOCALHOST, 8080).unwrap();
        if talk.name == "c" {
            break talk;
        }
    };
    assert!(open.is_alive());
    let left = [1, 2].map(task_addr);
    lab.apply(3, &[port(TCP, 8080, &left), port(UDP, 5353, &left)], &tasks());
    for node in &lab.nodes {
        assert_eq!(lab.answers(node, 8080, 40), names(&["a", "b"]), "after c left, on node {}", node.n);
    }
    assert!(open.is_alive() && proxied.is_alive(), "connections to c go on until it ends");
}

fn nobody_is_left(lab: &Lab) {
    // A process of the node that listens on the port too must never answer for it.
    // While the port is published it cannot take it, so it is there first.
    let taken = in_netns(&lab.nodes[0].netns, || TcpListener::bind((underlay(1), 8080)));
    assert_eq!(taken.unwrap_err().kind(), ErrorKind::AddrInUse);
    lab.apply(4, &[], &tasks());
    let _other = in_netns(&lab.nodes[0].netns, || TcpListener::bind((underlay(1), 8080)).unwrap());
    lab.apply(5, &[port(TCP, 8080, &[]), port(UDP, 5353, &[])], &tasks());
    for node in &lab.nodes {
        for (from, to) in [(&lab.client, underlay(node.n)), (&node.netns, underlay(node.n))] {
            let refused = greet(from, to, 8080).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "tcp on node {}", node.n);
            let refused = greet_udp(from, to, 5353).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "udp on node {}", node.n);
        }
        assert!(greet(&node.netns, LOCALHOST, 8080).is_err());
    }
    lab.apply(6, &[], &[]);
    assert_eq!(greet(&lab.client, underlay(2), 8080).unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn ingress_with_bridged_frames_filtered() {
    if can_run() {
        ingress_story("1");
    }
}

#[test]
fn ingress_with_bridged_frames_not_filtered() {
    if can_run() {
        ingress_story("0");
    }
}

/// What the kernel has of the tunnel is what the state says: nothing learned, nothing flooded.
#[test]
fn tunnel_is_programmed_from_state_alone() {
    if !can_run() {
        return;
    }
    let lab = Lab::new(2);
    three_tasks(&lab);
    lab.answers(&lab.nodes[0], 8080, 20);
    let show = |args: &[&str]| lab::output_in(&lab.nodes[0].netns, "bridge", args);
    let port = show(&["-d", "link", "show", "dev", "skep-vx"]);
    for setting in ["neigh_suppress on", "learning off", " flood off", "mcast_flood off", "bcast_flood off"] {
        assert!(port.contains(setting), "{setting} in {port}");
    }
    let entries = show(&["fdb", "show", "dev", "skep-vx"]);
    let rows: BTreeSet<&str> =
        entries.lines().map(str::trim).filter(|l| !l.contains("permanent master")).collect();
    let wanted = [
        "02:42:0a:ff:00:03 dst 10.99.0.2 self permanent",
        "02:42:0a:ff:00:03 master skep-ing static",
        "02:42:0a:ff:80:02 dst 10.99.0.2 self permanent",
        "02:42:0a:ff:80:02 master skep-ing static",
    ];
    for row in wanted {
        assert!(rows.contains(row), "{row} in {entries}");
    }
    assert!(!entries.contains("00:00:00:00:00:00"), "no entry to flood to: {entries}");
    lab.apply(3, &[], &[(task_addr(1), 1)]);
    let entries = lab::output_in(&lab.nodes[0].netns, "bridge", &["fdb", "show", "dev", "skep-vx"]);
    assert!(!entries.contains("02:42:0a:ff:00:03") && entries.contains("02:42:0a:ff:80:02"), "{entries}");
}

#[test]
fn shares_follow_weights() {
    if !can_run() {
        return;
    }
    let lab = Lab::new(2);
    three_tasks(&lab);
    let mut weighted = port(TCP, 8080, &[1, 3].map(task_addr));
    weighted.endpoints[0].weight = 3;
    lab.apply(3, &[weighted], &tasks());
    let got: Vec<String> = (0..400).map(|_| greet(&lab.client, underlay(1), 8080).unwrap().0).collect();
    let n_first = got.iter().filter(|name| *name == "a").count();
    assert!((255..345).contains(&n_first), "{n_first} of 400 for a weight of 3 of 4");
}

#[test]
fn tunnel_takes_members_alone() {
    if !can_run() {
        return;
    }
    let lab = Lab::new(2);
    three_tasks(&lab);
    let on_first = [port(TCP, 8080, &[task_addr(1)])];
    lab.apply(3, &on_first, &tasks());
    assert_eq!(greet(&lab.client, underlay(2), 8080).unwrap().0, "a");
    let mut alone = lab.desired(1, 4, &on_first, &tasks());
    alone.peers.clear();
    lab.nodes[0].apply(alone);
    let unheard = greet(&lab.client, underlay(2), 8080).unwrap_err();
    assert_eq!(unheard.kind(), ErrorKind::TimedOut);
    lab.apply(5, &on_first, &tasks());
    assert_eq!(greet(&lab.client, underlay(2), 8080).unwrap().0, "a");
}

fn host_port(protocol: Protocol, published: u16) -> HostPort {
    HostPort { protocol, published, target: 80 }
}

#[test]
fn host_ports_lead_to_one_task() {
    if !can_run() {
        return;
    }
    let lab = Lab::new(2);
    let node = &lab.nodes[0];
    let want = Attach { host_ports: vec![host_port(TCP, 8081), host_port(UDP, 0)], ..Attach::default() };
    let made = node.attach("h", want.clone()).unwrap();
    serve(&made.netns, "h");
    let picked = made.host_ports.iter().find(|p| p.protocol == UDP).unwrap().published;
    assert!(picked >= 32_768, "{picked}");
    assert_eq!(node.attach("h", want.clone()).unwrap(), made, "attaching again changes nothing");

    assert_eq!(greet(&lab.client, underlay(1), 8081).unwrap(), ("h".into(), IpAddr::V4(underlay(100))));
    for (from, to) in [(&node.netns, underlay(1)), (&node.netns, LOCALHOST), (&lab.client, underlay(1))] {
        assert_eq!(greet(from, to, 8081).unwrap().0, "h", "from {from:?}");
        assert_eq!(greet_udp(from, to, picked).unwrap(), "h", "from {from:?}");
    }
    // Another task of the node, by the node's address.
    let other = node.attach("o", Attach::default()).unwrap();
    for bridge_netfilter in ["1", "0"] {
        lab.set_bridge_netfilter(bridge_netfilter);
        assert_eq!(greet(&other.netns, underlay(1), 8081).unwrap().0, "h", "by another task");
        assert_eq!(greet(&made.netns, underlay(1), 8081).unwrap().0, "h", "by itself, {bridge_netfilter}");
    }

    // Neither another task nor a process of the node can have the port.
    let clash = node.attach("clash", Attach { host_ports: vec![host_port(TCP, 8081)], ..Attach::default() });
    assert!(matches!(clash.unwrap_err(), MeshError::PortTaken { published: 8081, .. }));
    let taken = in_netns(&node.netns, || TcpListener::bind((underlay(1), 8081)).unwrap_err());
    assert_eq!(taken.kind(), ErrorKind::AddrInUse);
    let _held = in_netns(&node.netns, || TcpListener::bind((Ipv4Addr::UNSPECIFIED, 8082)).unwrap());
    let clash = node.attach("clash", Attach { host_ports: vec![host_port(TCP, 8082)], ..Attach::default() });
    assert!(matches!(clash.unwrap_err(), MeshError::PortTaken { published: 8082, .. }));
    assert_eq!(node.mesh().attached(), ["h", "o"], "a refused task has nothing");

    node.detach("h");
    assert_eq!(greet(&lab.client, underlay(1), 8081).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    in_netns(&node.netns, || TcpListener::bind((underlay(1), 8081)).unwrap());
}

#[test]
fn tasks_reach_out_as_their_node_and_are_not_reached() {
    if !can_run() {
        return;
    }
    for bridge_netfilter in ["1", "0"] {
        let lab = Lab::new(2);
        lab.set_bridge_netfilter(bridge_netfilter);
        let task = lab.nodes[0].attach("t", Attach::default()).unwrap();
        let same = lab.nodes[0].attach("u", Attach::default()).unwrap();
        serve(&task.netns, "t");
        serve(&lab.client, "world");
        let (name, seen_as) = greet(&task.netns, underlay(100), 80).unwrap();
        assert_eq!((name.as_str(), seen_as), ("world", IpAddr::V4(underlay(1))));
        let (name, seen_as) = greet(&same.netns, task.bridge_addr, 80).unwrap();
        assert_eq!(
            (name.as_str(), seen_as),
            ("t", IpAddr::V4(same.bridge_addr)),
            "not translated on the bridge"
        );
        // The client knows the way, but the node lets nothing in that is not published.
        let route = ["route", "add", "172.30.0.0/16", "via", "10.99.0.1"];
        lab::output_in(&lab.client, "ip", &route);
        assert!(greet(&lab.client, task.bridge_addr, 80).is_err());
    }
}

#[test]
fn restart_keeps_networks_and_connections() {
    if !can_run() {
        return;
    }
    let mut lab = Lab::new(2);
    three_tasks(&lab);
    let host = Attach { host_ports: vec![host_port(TCP, 8081)], ..Attach::default() };
    let made = lab.nodes[0].attach("h", host.clone()).unwrap();
    serve(&made.netns, "h");
    let mut open: Vec<_> = (0..9).map(|_| talk(&lab.client, underlay(1), 8080).unwrap()).collect();
    open.push(talk(&lab.client, underlay(1), 8081).unwrap());
    let links = lab.nodes[0].links();

    lab.nodes[0].stop();
    assert!(open.iter_mut().all(lab::Talk::is_alive), "while the daemon is down");
    assert_eq!(greet(&lab.client, underlay(1), 8081).unwrap().0, "h", "while the daemon is down");
    assert_eq!(lab.answers(&lab.nodes[0], 8080, 40), names(&["a", "b", "c"]), "while the daemon is down");

    lab.nodes[0].start();
    assert_eq!(lab.nodes[0].mesh().attached(), ["a", "b", "h"]);
    assert_eq!(lab.nodes[0].links(), links);
    assert_eq!(lab.answers(&lab.nodes[0], 8080, 40), names(&["a", "b", "c"]), "before the first apply");
    assert_eq!(greet(&lab.nodes[0].netns, LOCALHOST, 8081).unwrap().0, "h", "before the first apply");
    assert_eq!(lab.nodes[0].attach("h", host).unwrap(), made);
    let all = [1, 2, 3].map(task_addr);
    lab.apply(3, &[port(TCP, 8080, &all)], &tasks());
    assert_eq!(lab.answers(&lab.nodes[0], 8080, 40), names(&["a", "b", "c"]), "after the first apply");
    assert!(open.iter_mut().all(lab::Talk::is_alive), "after the restart");
}

#[test]
fn lost_pin_is_found_by_the_process() {
    if !can_run() {
        return;
    }
    let lab = Lab::new(1);
    let node = &lab.nodes[0];
    let made = node.attach("t", Attach::default()).unwrap();
    let pin = made.netns.display().to_string();
    let mut process = Command::new("nsenter").args([&format!("--net={pin}"), "sleep", "60"]).spawn().unwrap();
    wait_for_netns(process.id(), &made.netns);
    serve(&made.netns, "t");
    // What a daemon in a new mount namespace finds: a file where the namespace was.
    assert!(Command::new("umount").arg(&pin).status().unwrap().success());
    assert!(in_netns(&node.netns, || greet(&node.netns, made.bridge_addr, 80)).is_ok());
    let found = node.attach("t", Attach { pid: Some(process.id()), ..Attach::default() });
    let again = found.map(|again| (greet(&again.netns, made.bridge_addr, 80).unwrap().0, again));
    process.kill().unwrap();
    process.wait().unwrap();
    assert_eq!(again.unwrap(), ("t".to_owned(), made));
    let own = Attach { pid: Some(std::process::id()), ..Attach::default() };
    // This process is in the namespace of the test and not of the node, so ask for the node's own.
    let mut in_node = Command::new("nsenter")
        .args([&format!("--net={}", node.netns.display()), "sleep", "60"])
        .spawn()
        .unwrap();
    wait_for_netns(in_node.id(), &node.netns);
    let refused = node.attach("x", Attach { pid: Some(in_node.id()), ..own });
    in_node.kill().unwrap();
    in_node.wait().unwrap();
    assert!(matches!(refused.unwrap_err(), MeshError::ForeignNamespace { .. }));
}

fn wait_for_netns(pid: u32, netns: &std::path::Path) {
    use std::os::unix::fs::MetadataExt;
    let want = std::fs::metadata(netns).unwrap().ino();
    while std::fs::metadata(format!("/proc/{pid}/ns/net")).unwrap().ino() != want {
        std::thread::yield_now();
    }
}

#[test]
fn nothing_is_left_behind() {
    if !can_run() {
        return;
    }
    let lab = Lab::new(1);
    let node = &lab.nodes[0];
    lab.apply(1, &[], &[]);
    let before = node.links();
    let want = Attach { host_ports: vec![host_port(TCP, 8081)], ..publishing(1) };
    let made = node.attach("t", want.clone()).unwrap();
    assert_eq!(node.links().len(), before.len() + 2);
    assert_eq!(lab::output_in(&made.netns, "ip", &["-o", "link"]).lines().count(), 3, "lo, eth0, eth1");
    node.detach("t");
    node.detach("t");
    assert_eq!(node.links(), before);
    assert!(!made.netns.exists());
    assert!(node.mesh().attached().is_empty());

    let again = node.attach("t", want).unwrap();
    assert_ne!(again.bridge_addr, made.bridge_addr, "a freed address rests");
    let mesh = node.mesh();
    node.on(async move { mesh.teardown().await.unwrap() });
    assert_eq!(node.links(), ["lo", "uplink"]);
    assert!(!node.config.state_file.exists() && !again.netns.exists());
    in_netns(&node.netns, || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 4789)).unwrap());
}

#[test]
fn a_publishing_task_needs_the_ingress_network() {
    if !can_run() {
        return;
    }
    let lab = Lab::new(1);
    let refused = lab.nodes[0].attach("t", publishing(1)).unwrap_err();
    assert!(matches!(refused, MeshError::NoIngress { .. }));
    let refused = lab.nodes[0].attach("../t", Attach::default()).unwrap_err();
    assert!(matches!(refused, MeshError::BadTaskId { .. }));
    assert!(lab.nodes[0].mesh().attached().is_empty());
}

/// Someone removed the rules: the next change brings all of them back.
#[test]
fn lost_rules_come_back() {
    if !can_run() {
        return;
    }
    if Command::new("nft").arg("-v").output().is_err() {
        eprintln!("\n*** SKIPPED: lost_rules_come_back needs the `nft` program ***\n");
        return;
    }
    let lab = Lab::new(2);
    three_tasks(&lab);
    let host = Attach { host_ports: vec![host_port(TCP, 8081)], ..Attach::default() };
    serve(&lab.nodes[0].attach("h", host).unwrap().netns, "h");
    lab::output_in(&lab.nodes[0].netns, "nft", &["flush", "ruleset"]);
    let left = [1, 3].map(task_addr);
    lab.apply(3, &[port(TCP, 8080, &left)], &tasks());
    assert_eq!(lab.answers(&lab.nodes[0], 8080, 40), names(&["a", "c"]));
    assert_eq!(greet(&lab.client, underlay(1), 8081).unwrap().0, "h");
}

/// Not a promise yet: printed, so that a change for the worse is seen.
#[test]
fn figures() {
    if !can_run() {
        return;
    }
    let lab = Lab::new(1);
    let node = &lab.nodes[0];
    for n_ports in [1_u16, 100, 1000] {
        let all: Vec<_> = (0..n_ports).map(|n| port(TCP, 10_000 + n, &[1, 2, 3].map(task_addr))).collect();
        let (whole, one) = time_updates(node, &lab.desired(1, 1, &all, &[]));
        eprintln!("{n_ports} ports: {whole:?} to load, {one:?} for one endpoint of one (median of 21)");
    }
    node.apply(lab.desired(1, 2, &[], &[]));
    let (mesh, n_tasks) = (node.mesh(), 20_u8);
    let (made, gone, side_by_side) = node.on(async move {
        let start = tokio::time::Instant::now();
        for n in 0..n_tasks {
            mesh.attach(&format!("t{n}"), publishing(n + 1)).await.unwrap();
        }
        let made = start.elapsed() / n_tasks.into();
        let start = tokio::time::Instant::now();
        for n in 0..n_tasks {
            mesh.detach(&format!("t{n}")).await.unwrap();
        }
        let gone = start.elapsed() / n_tasks.into();
        let start = tokio::time::Instant::now();
        let mut tasks = tokio::task::JoinSet::new();
        for n in 0..n_tasks {
            let mesh = mesh.clone();
            tasks.spawn(async move {
                mesh.attach(&format!("s{n}"), publishing(n + 1)).await.unwrap();
                mesh.detach(&format!("s{n}")).await.unwrap();
            });
        }
        tasks.join_all().await;
        (made, gone, start.elapsed())
    });
    eprintln!(
        "a task's network: {made:?} to attach, {gone:?} to detach; both for {n_tasks} at once: {side_by_side:?}"
    );
}

fn time_updates(
    node: &lab::Node,
    desired: &skep_netmesh::Desired,
) -> (std::time::Duration, std::time::Duration) {
    let (mesh, desired) = (node.mesh(), desired.clone());
    node.on(async move {
        let start = tokio::time::Instant::now();
        mesh.apply(desired.clone()).await.unwrap();
        let whole = start.elapsed();
        let mut times = Vec::new();
        for n in 0..21 {
            let mut next = desired.clone();
            next.ports[0].endpoints[0].addr = task_addr(100 + n);
            let start = tokio::time::Instant::now();
            mesh.apply(next).await.unwrap();
            times.push(start.elapsed());
        }
        times.sort();
        (whole, times[10])
    })
}
