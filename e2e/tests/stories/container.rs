//! What a task finds inside its container, as the service asked for.

use skep_e2e::wait_for;

use crate::{IDLE, SOON, cluster, create};

#[test]
fn env_args_user_directory_and_mounts_are_as_asked() {
    let cluster = cluster(0);
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("file"), "from the host").unwrap();
    let bind = format!("type=bind,source={},target=/bind,readonly", dir.path().display());
    let flags = [
        "--env",
        "COLOUR=green",
        "--user",
        "1000:1000",
        "--workdir",
        "/tmp",
        "--hostname",
        "box",
        "--mount",
        &bind,
        "--mount",
        "type=volume,source=data,target=/data",
        "--mount",
        "type=tmpfs,target=/scratch,tmpfs-size=1048576",
    ];
    let script = "echo colour=$COLOUR; echo id=$(id -u):$(id -g); echo dir=$(pwd); echo host=$(hostname); \
        echo file=$(cat /bind/file); touch /bind/x 2>/dev/null || echo bind=readonly; \
        grep -q ' /scratch tmpfs' /proc/mounts && echo scratch=tmpfs; grep -q ' /data ' /proc/mounts && echo data=mounted; \
        echo caps=$(grep CapBnd /proc/self/status | cut -f2); echo pid=$$; \
        ls /proc/kcore -la | grep -q 'crw' && echo kcore=masked; grep -q box /etc/hosts && echo hosts=box; \
        [ -e /etc/resolv.conf ] && echo resolv=there; echo links=$(ls /sys/class/net | tr '\\n' ' '); echo done";
    create(&cluster, "look", &flags, &format!("{script}; {IDLE}"));
    let _ = cluster.wait_running("look", 1, SOON);
    let logs = wait_for("the task has looked around", SOON, || {
        let logs = cluster.docker(&["service", "logs", "--raw", "look"]).ok();
        logs.contains("done").then_some(logs)
    });
    for line in [
        "colour=green",
        "id=1000:1000",
        "dir=/tmp",
        "host=box",
        "file=from the host",
        "bind=readonly",
        "scratch=tmpfs",
        "data=mounted",
        "pid=1",
        "hosts=box",
        "resolv=there",
        // Docker's fourteen default capabilities.
        "caps=00000000a80425fb",
    ] {
        assert!(logs.lines().any(|l| l == line), "{line} is not in:\n{logs}");
    }
    assert!(
        logs.lines().any(|l| l.starts_with("links=") && l.contains("lo") && l.contains("eth0")),
        "{logs}"
    );
}

#[test]
fn a_task_is_stopped_by_its_signal_and_killed_after_its_grace_period() {
    let cluster = cluster(0);
    create(&cluster, "deaf", &["--stop-grace-period", "1s"], "trap '' TERM; while :; do sleep 1; done");
    let deaf = cluster.wait_running("deaf", 1, SOON);
    let _ = cluster.docker(&["service", "scale", "--detach", "deaf=0"]).ok();
    let watch = skep_e2e::Stopwatch::start();
    wait_for("the deaf task is killed", SOON, || {
        (!std::path::Path::new(&format!("/proc/{}", deaf[0].pid)).exists()).then_some(())
    });
    let took = watch.elapsed().as_secs_f64();
    assert!((0.8..4.0).contains(&took), "killed after the grace period of 1 s: {took} s");
}
