//! Daemons that are killed or stopped and come back: their tasks run on and are adopted.

use std::path::Path;
use std::time::Duration;

use skep_e2e::{Cluster, Task, wait_for};

use crate::{IDLE, SOON, cluster, create};

const N_TASKS: usize = 6;

/// A directory on the host in which each start of a task leaves one line.
struct Marks(tempfile::TempDir);

impl Marks {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("the host has a place for temporary files"))
    }

    fn mount(&self) -> String {
        format!("type=bind,source={},target=/marks", self.0.path().display())
    }

    fn n_starts(&self) -> usize {
        let text = std::fs::read_to_string(self.0.path().join("starts")).unwrap_or_default();
        text.lines().count()
    }
}

fn with_tasks(cluster: &Cluster, marks: &Marks) -> Vec<Task> {
    let n = N_TASKS.to_string();
    let script = format!("echo started >> /marks/starts; {IDLE}");
    create(cluster, "web", &["--replicas", &n, "--mount", &marks.mount()], &script);
    let tasks = cluster.wait_running("web", N_TASKS, SOON);
    assert!(tasks.iter().all(|t| t.pid > 0 && !t.container.is_empty()), "{tasks:#?}");
    wait_for("every task has started", SOON, || (marks.n_starts() == N_TASKS).then_some(()));
    tasks
}

#[track_caller]
fn assert_untouched(before: &[Task], cluster: &Cluster, marks: &Marks) {
    let after = cluster.wait_running("web", N_TASKS, SOON);
    let ids =
        |tasks: &[Task]| tasks.iter().map(|t| (t.id.clone(), t.container.clone(), t.pid)).collect::<Vec<_>>();
    assert_eq!(ids(&after), ids(before), "the same tasks in the same containers");
    assert!(before.iter().all(|t| Path::new(&format!("/proc/{}", t.pid)).exists()), "their processes live");
    assert_eq!(marks.n_starts(), N_TASKS, "nothing was started twice");
}

#[test]
fn a_killed_daemon_comes_back_and_adopts_its_tasks() {
    let mut cluster = cluster(2);
    let marks = Marks::new();
    let before = with_tasks(&cluster, &marks);
    for name in ["worker-1", "worker-2", "manager-1"] {
        cluster.kill_node(name, false);
        let all_live = before.iter().all(|t| Path::new(&format!("/proc/{}", t.pid)).exists());
        assert!(all_live, "tasks run on without the daemon of {name}");
        let _ = cluster.restart_node(name).ok();
        cluster.wait_node(name, "ready", SOON);
        assert_untouched(&before, &cluster, &marks);
    }
    // Adopted tasks are still the daemon's: they stop when told.
    let _ = cluster.docker(&["service", "rm", "web"]).ok();
    wait_for("the adopted tasks are stopped", SOON, || {
        before.iter().all(|t| !Path::new(&format!("/proc/{}", t.pid)).exists()).then_some(())
    });
}

#[test]
fn a_stopped_daemon_leaves_its_tasks_and_notices_what_ended_meanwhile() {
    let mut cluster = cluster(1);
    let marks = Marks::new();
    let before = with_tasks(&cluster, &marks);
    for name in ["worker-1", "manager-1"] {
        // SIGTERM first, then the start.
        let _ = cluster.restart_node(name).ok();
        cluster.wait_node(name, "ready", SOON);
        assert_untouched(&before, &cluster, &marks);
    }
    let worker = cluster.node_id("worker-1");
    let victim = before.iter().find(|t| t.node_id == worker).unwrap();
    cluster.kill_node("worker-1", false);
    let pid = rustix::process::Pid::from_raw(i32::try_from(victim.pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    let _ = cluster.restart_node("worker-1").ok();
    wait_for("the task that ended meanwhile failed", SOON, || {
        cluster.tasks("web").iter().any(|t| t.id == victim.id && t.state == "failed").then_some(())
    });
    let _ = cluster.wait_running("web", N_TASKS, Duration::from_secs(15));
    // A task runs before its program has done anything.
    wait_for("a task is started in its place", SOON, || (marks.n_starts() > N_TASKS).then_some(()));
    assert_eq!(marks.n_starts(), N_TASKS + 1, "one, and no more");
}

#[test]
fn a_daemon_that_is_told_to_stop_keeps_its_tasks_or_hands_them_over() {
    let mut cluster = cluster(2);
    create(&cluster, "web", &["--replicas", "4", "--env", &cluster.mark("web")], IDLE);
    let before = cluster.wait_running("web", 4, SOON);
    let programs = cluster.wait_programs("web", 4, SOON);

    let said = cluster.skep_on(cluster.node("worker-1"), &["daemon", "stop"]).ok();
    assert!(said.contains("Its tasks run on"), "{said}");
    let _ = cluster.restart_node("worker-1").ok();
    cluster.wait_node("worker-1", "ready", SOON);
    assert_eq!((cluster.running("web"), cluster.programs("web")), (before, programs));

    let stopped = cluster.node_id("worker-2");
    let _ = cluster.skep_on(cluster.node("worker-2"), &["daemon", "stop", "--shutdown"]).ok();
    wait_for("all four run on the others, well within the minute that a restart would have", SOON, || {
        let running = cluster.running("web");
        (running.len() == 4 && running.iter().all(|t| t.node_id != stopped)).then_some(())
    });
    let _ = cluster.restart_node("worker-2").ok();
    cluster.wait_node("worker-2", "ready", SOON);
    let _ = cluster.wait_programs("web", 4, SOON);
}

#[test]
fn services_and_published_ports_survive_the_manager() {
    let mut cluster = crate::cluster_with_example(1);
    let _ = cluster.wait_running("whoami", 3, SOON);
    cluster.kill_node("manager-1", false);
    let worker = cluster.node("worker-1").address;
    for _ in 0..20 {
        assert_eq!(skep_e2e::get(worker, 8080, "/").unwrap().status, 200, "the mesh needs no manager");
    }
    let _ = cluster.restart_node("manager-1").ok();
    let _ = cluster.wait_running("whoami", 3, SOON);
    for address in cluster.addresses() {
        wait_for("the port answers", SOON, || skep_e2e::get(address, 8080, "/").ok());
    }
    let _ = cluster.docker(&["service", "scale", "--detach", "whoami=4"]).ok();
    let _ = cluster.wait_running("whoami", 4, SOON);
}
