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

/// `docker service logs --follow web`, read as it comes; ended when dropped.
struct Follower {
    child: std::process::Child,
    lines: mpsc::Receiver<String>,
    text: String,
}

impl Follower {
    fn start(cluster: &Cluster) -> Self {
        let args = ["service", "logs", "--follow", "--tail", "1", "web"];
        let mut docker = cluster.docker_command(cluster.manager(), &args);
        let mut child =
            docker.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("the docker CLI starts");
        let (send, lines) = mpsc::channel();
        let pipe = child.stdout.take().expect("its stdout is a pipe");
        // Ends with the pipe.
        std::thread::spawn(move || {
            for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                let _ = send.send(line);
            }
        });
        Self { child, lines, text: String::new() }
    }

    /// Waits until each of the three tasks has said `n` more lines than now.
    #[track_caller]
    fn wait_for_each(&mut self, n: usize) {
        let spoken = |text: &str, name: &str| text.matches(name).count();
        let before = self.text.clone();
        let done = skep_e2e::try_wait_for(SOON, || {
            for line in self.lines.try_iter() {
                self.text.push_str(&line);
                self.text.push('\n');
            }
            let names = speakers(&self.text);
            let has_more = |name: &&String| spoken(&self.text, name) >= spoken(&before, name) + n;
            (names.iter().filter(has_more).count() == 3).then_some(())
        });
        assert!(done.is_some(), "{n} more lines of each of three tasks: {}", self.text);
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.child.kill().expect("it can be ended");
        self.child.wait().expect("it was ended");
    }
}

#[test]
fn followed_logs_go_on_with_new_lines() {
    let cluster = with_talkers();
    Follower::start(&cluster).wait_for_each(2);
}

#[test]
fn followed_logs_go_on_under_new_certificates() {
    let cluster = with_talkers();
    let mut follower = Follower::start(&cluster);
    follower.wait_for_each(1);
    // Connections under the old root end with the rotation, that of the logs among them.
    let _ = cluster.docker(&["swarm", "ca", "--rotate", "--quiet"]).ok();
    follower.wait_for_each(3);
    for name in speakers(&follower.text) {
        let of_task = follower.text.lines().filter(|line| line.starts_with(&format!("{name}.")));
        let said = |line: &str| line.rsplit_once("line ")?.1.parse::<u64>().ok();
        let numbers: Vec<u64> = of_task.filter_map(said).collect();
        let expect: Vec<u64> = (numbers[0]..).take(numbers.len()).collect();
        assert_eq!(numbers, expect, "each line of {name} once");
    }
}
