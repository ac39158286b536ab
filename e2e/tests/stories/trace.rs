//! What `skep dev` leaves on the machine when it is taken down: nothing.

use std::collections::BTreeSet;
use std::fs;

use skep_e2e::try_wait_for;

use crate::{SOON, cluster_with_example};

/// Everything on this machine that carries the swarm's name or a node's id.
fn traces(name: &str, node_ids: &[String]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let names = |dir: &str| {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        entries.map(|e| e.path().display().to_string()).collect::<Vec<_>>()
    };
    for dir in ["/run/netns", "/run/skep-dev", "/var/lib/skep-dev", "/sys/class/net"] {
        found.extend(names(dir).into_iter().filter(|path| path.contains(name)));
    }
    for hierarchy in names("/sys/fs/cgroup") {
        let of_ours = names(&format!("{hierarchy}/skep"));
        found.extend(of_ours.into_iter().filter(|path| node_ids.iter().any(|id| path.contains(id))));
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    found.extend(mounts.lines().filter(|line| line.contains(name)).map(str::to_owned));
    for process in names("/proc") {
        let line = fs::read(format!("{process}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains(&format!("/{name}/")) {
            found.insert(format!("{process}: {line}"));
        }
        let cgroup = fs::read_to_string(format!("{process}/cgroup")).unwrap_or_default();
        if node_ids.iter().any(|id| cgroup.contains(id)) {
            found.insert(format!("{process}: {line} in {cgroup}"));
        }
    }
    found
}

#[test]
fn nothing_is_left_after_down_even_of_a_killed_daemon() {
    let mut cluster = cluster_with_example(2);
    let tasks = cluster.wait_running("whoami", 3, SOON);
    let ids: Vec<String> = cluster.nodes().iter().map(|n| cluster.node_id(&n.name)).collect();
    assert!(!traces(cluster.name(), &ids).is_empty(), "a running swarm is seen by this test");
    cluster.kill_node("worker-1", false);
    let _ = cluster.down().ok();
    // Ended processes stay visible until init has reaped them, which is not ours to hasten.
    let mut left = BTreeSet::new();
    let n_left = || {
        left = traces(cluster.name(), &ids);
        let pids = tasks.iter().map(|task| format!("/proc/{}", task.pid));
        left.extend(pids.filter(|path| std::path::Path::new(path).exists()));
        left.is_empty().then_some(())
    };
    let gone = try_wait_for(SOON, n_left);
    assert!(gone.is_some(), "{left:#?}");
}
