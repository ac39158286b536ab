//! `service logs` gathers the lines of all tasks from their nodes.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::sync::mpsc;

use skep_e2e::{Cluster, wait_for};

use crate::{SOON, cluster, create};

const TALK: &str =
    "trap 'exit 0' TERM; i=0; while :; do i=$((i+1)); echo line $i; echo err $i >&2; sleep 1 & wait $!; done";

/// The task names at the head of log lines, such as `web.1`.
fn speakers(text: &str) -> BTreeSet<String> {
    let names = text.lines().filter_map(|line| line.split('@').next()?.trim().rsplit_once('.'));
    names.map(|(name, _id)| name.to_owned()).collect()
}

fn with_talkers() -> Cluster {
    let cluster = cluster(2);
    create(&cluster, "web", &["--replicas", "3"], TALK);
    let _ = cluster.wait_running("web", 3, SOON);
    cluster
}

#[test]
fn lines_of_all_nodes_are_shown_and_cut_by_tail() {
    let cluster = with_talkers();
    wait_for("all three tasks have spoken", SOON, || {
        let output = cluster.docker(&["service", "logs", "web"]);
        (speakers(&output.stdout).len() == 3 && output.stdout.contains("line 2")).then_some(())
    });
    let output = cluster.docker(&["service", "logs", "--tail", "1", "web"]);
    assert!(output.is_ok(), "{output}");
    let n_lines = output.stdout.lines().count() + output.stderr.lines().count();
    assert_eq!(n_lines, 3, "one line of each task: {output}");
    for node in ["manager-1", "worker-1", "worker-2"] {
        let all = cluster.docker(&["service", "logs", "web"]).ok();
        assert!(all.contains(&format!("@{node}")), "{node} has a line: {all}");
    }
    let output = cluster.docker(&["service", "logs", "web"]);
    assert!(output.stderr.contains("err 1") && !output.stdout.contains("err 1"), "{output}");
    let raw = cluster.docker(&["service", "logs", "--raw", "--tail", "1", "web"]);
    assert!(raw.is_ok() && !raw.stdout.contains('@'), "{raw}");
    let refused = cluster.docker(&["service", "logs", "nosuch"]).refused();
    assert!(refused.contains("no such task or service: nosuch"), "{refused}");
}

#[test]
fn followed_logs_go_on_with_new_lines() {
    let cluster = with_talkers();
    let args = ["service", "logs", "--follow", "--tail", "1", "web"];
    let mut follower = cluster
        .docker_command(cluster.manager(), &args)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let (send, lines) = mpsc::channel();
    let pipe = follower.stdout.take().unwrap();
    let reader = std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            let _ = send.send(line);
        }
    });
    let mut text = String::new();
    let done = skep_e2e::try_wait_for(SOON, || {
        for line in lines.try_iter() {
            text.push_str(&line);
            text.push('\n');
        }
        let all_twice =
            speakers(&text).iter().filter(|name| text.matches(name.as_str()).count() >= 2).count();
        (all_twice == 3).then_some(())
    });
    follower.kill().unwrap();
    follower.wait().unwrap();
    reader.join().unwrap();
    assert!(done.is_some(), "two lines of each of three tasks: {text}");
}
