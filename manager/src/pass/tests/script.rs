//! Golden scripts: what happens to a swarm, line by line in virtual time, and what it shows then.
//!
//! A script begins with the rule that it shows (`# rule: sem:99 ..`); after `----` stands all that its `show` lines
//! print. `SKEP_BLESS=1` writes that anew. The commands are those of [`Script::line`]; tasks are told as
//! `service.seat#n`, the nth of its seat.

mod beyond;

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use skep_api::{
    Id, NetworkId, NodeId, ServiceId, TaskState, Timestamp,
    object::{GenericResource, Network, NodeState, Plugin, SeatKey, Task, TaskStatus},
    spec::{Availability, ServiceSpec},
};
use skep_store::{Change, FEATURE_LEVEL};

use super::harness::{EPOCH, Swarm, image, node_id, service_id, simple, with};

use crate::control::services::{
    aborted, paused, resumed,
    update::{rolled_back, rolled_back_to},
};

/// `until` waits no longer.
const UNTIL_MAX: Duration = Duration::from_secs(600);
/// What is between the script and what it shows.
const LINE: &str = "----\n";

struct Script {
    swarm: Swarm,
    shown: String,
}

impl Script {
    fn new() -> Self {
        Self { swarm: Swarm::new(0), shown: String::new() }
    }

    fn line(&mut self, line: &str) {
        let line = self.with_ids(line);
        let (head, json) = match line.find('{') {
            Some(at) => line.split_at(at),
            None => (line.as_str(), "{}"),
        };
        let words: Vec<&str> = head.split_whitespace().collect();
        match words.as_slice() {
            ["nodes", n, facts @ ..] => self.nodes(n.parse().unwrap(), facts),
            ["service", "create", name, facts @ ..] => {
                let n = self.swarm.view().services().map(|service| service.id.0.0).max().unwrap_or(0) + 1;
                let spec = changed(&simple(name, "ok", 1), facts, json);
                self.swarm.create(n, spec);
            }
            ["service", "update", name, facts @ ..] => {
                let id = self.id(name);
                let old = self.swarm.view().service(id).unwrap().spec.clone();
                self.swarm.update(id, changed(&old, facts, json));
            }
            ["service", "auth", name, secret] => {
                let id = self.id(name);
                self.swarm.log_in(id, secret);
            }
            ["network", verb, name] => self.network(verb, name),
            ["service", "rm", name] => {
                let id = self.id(name);
                self.swarm.apply(vec![Change::DeleteService(id)]);
            }
            ["scale", scale] => {
                let (name, n) = scale.split_once('=').unwrap();
                let id = self.id(name);
                let old = self.swarm.view().service(id).unwrap().spec.clone();
                self.swarm.update(id, changed(&old, &[&format!("replicas={n}")], "{}"));
            }
            ["rebalance", name] => self.rebalance(name),
            [verb @ ("pause" | "resume" | "abort" | "rollback"), name, rest @ ..] => {
                self.roll_out(verb, name, rest)
            }
            ["advance", span] => self.swarm.run(duration(span)),
            ["until", state] => self.until(state),
            ["fail", seat, rest @ ..] => self.fail(seat, rest),
            ["complete", seat] => {
                self.report(seat, |status| TaskStatus {
                    state: TaskState::Complete,
                    exit_code: Some(0),
                    ..status
                });
            }
            ["hold", seat, state] => {
                let (service, key) = self.seat(seat);
                self.swarm.held.insert((service, key), self::state(state));
            }
            ["release"] => self.swarm.held.clear(),
            ["agents", "stop", span] => self.swarm.stop_time = duration(span),
            ["node", verb, name, facts @ ..] => self.node(verb, number(name), facts),
            ["lead", "nobody", span] => {
                self.swarm.now = self.swarm.now.after(duration(span));
                self.swarm.change_leader();
            }
            // It was ahead: stored times are, and the pass's time goes on from these.
            ["clock", "back", span] => {
                self.swarm.behind += duration(span);
                self.swarm.change_leader();
            }
            ["leader", "change"] => self.swarm.change_leader(),
            ["swarm", setting, value] => self.set(setting, value),
            ["ticket", n, facts @ ..] => self.ticket(n.parse().unwrap(), facts),
            ["show", what @ ..] => self.print(what),
            other => panic!("no command: {other:?}"),
        }
        self.swarm.settle();
    }

    /// `$back` is the id of the network of that name.
    fn with_ids(&self, line: &str) -> String {
        let view = self.swarm.view();
        let named = |line: String, network: &Arc<Network>| {
            line.replace(&format!("${}", network.spec.name), &network.id.to_string())
        };
        view.networks().fold(line.to_owned(), named)
    }

    fn network(&mut self, verb: &str, name: &str) {
        let view = self.swarm.view();
        let known = view.networks().find(|network| network.spec.name == name);
        let change = match (verb, known) {
            ("create", None) => {
                let id = NetworkId(Id(u128::try_from(view.networks().count()).unwrap() + 1));
                let spec = serde_json::from_str(&format!(r#"{{"Name":"{name}"}}"#)).unwrap();
                Change::PutNetwork(Arc::new(Network { id, spec, ..Network::default() }))
            }
            ("rm", Some(network)) => Change::DeleteNetwork(network.id),
            (verb, _) => panic!("no command: network {verb} {name}"),
        };
        self.swarm.apply(vec![change]);
    }

    fn print(&mut self, what: &[&str]) {
        match what {
            ["tickets"] => self.show_tickets(),
            ["messages", name] => self.show_messages(name),
            ["nodes"] => self.show_nodes(),
            ["update", name] => self.show_update(name),
            ["runs", name] => self.show_runs(name),
            ["moves", name] => self.show_moves(name),
            [name] => self.show(name),
            other => panic!("no command: show {other:?}"),
        }
    }

    fn roll_out(&mut self, verb: &str, name: &str, rest: &[&str]) {
        let (id, now) = (self.id(name), self.swarm.now);
        match (verb, rest) {
            ("pause", _) => self.swarm.change(id, paused),
            ("resume", _) => self.swarm.change(id, resumed),
            ("abort", _) => self.swarm.change(id, |old| aborted(old, FEATURE_LEVEL, now)),
            (_, []) => self.swarm.rollback(id),
            (_, ["refused"]) => {
                let service = self.swarm.view().service(id).cloned().unwrap();
                let error = rolled_back(&service, FEATURE_LEVEL, now).unwrap_err();
                writeln!(self.shown, "  refused: {}", error.message).unwrap();
            }
            (_, back) => {
                let back = back[0].parse().unwrap();
                self.swarm.change(id, |old| rolled_back_to(old, back, FEATURE_LEVEL, now));
            }
        }
    }

    fn nodes(&mut self, n: u128, facts: &[&str]) {
        let before = u128::try_from(self.swarm.view().n_nodes()).unwrap();
        for n in before + 1..=before + n {
            self.swarm.add_node(n);
            self.describe(n, facts);
        }
    }

    /// `cpus=4`, `arch=aarch64`, `plugin=Network/weave`, `generic=gpu=a,gpu=b`, or labels.
    fn describe(&mut self, n: u128, facts: &[&str]) {
        for (key, value) in facts.iter().map(|fact| fact.split_once('=').unwrap_or((fact, ""))) {
            self.swarm.shrunk.extend((key == "cpus").then_some(node_id(n)));
            self.swarm.edit_node(n, |node| match key {
                "cpus" => node.description.nano_cpus = value.parse::<i64>().unwrap() * 1_000_000_000,
                "arch" => node.description.arch = value.to_owned(),
                "plugin" => {
                    let (kind, name) = value.split_once('/').unwrap();
                    node.description.plugins.push(Plugin { kind: kind.into(), name: name.into() });
                }
                "generic" => node.description.generic = GenericResource::parse_all([value]).unwrap(),
                label => drop(node.spec.labels.insert(label.to_owned(), value.to_owned())),
            });
        }
    }

    fn node(&mut self, verb: &str, n: u128, facts: &[&str]) {
        match verb {
            "drain" => self.swarm.set_availability(n, Availability::Drain),
            "pause" => self.swarm.set_availability(n, Availability::Pause),
            "active" => self.swarm.set_availability(n, Availability::Active),
            "down" => self.swarm.set_state(n, NodeState::Down),
            "up" => self.swarm.set_state(n, NodeState::Ready),
            "rm" => self.swarm.apply(vec![Change::DeleteNode(node_id(n))]),
            "label" => self.describe(n, facts),
            "unlabel" => self.swarm.edit_node(n, |node| node.spec.labels.clear()),
            other => panic!("no command: node {other}"),
        }
    }

    fn id(&self, name: &str) -> ServiceId {
        self.swarm.view().service_by_name(name).unwrap_or_else(|| panic!("no service {name}")).id
    }

    /// `slot=2` or `node=n1` of the first service, `web.2` or `web.n1` of any.
    fn seat(&self, word: &str) -> (ServiceId, SeatKey) {
        let (service, seat) = match word.split_once('=') {
            Some((_, seat)) => (service_id(1), seat),
            None => {
                let (name, seat) = word.rsplit_once('.').unwrap();
                (self.id(name), seat)
            }
        };
        let key = match seat.parse() {
            Ok(slot) => SeatKey::Slot(slot),
            Err(_) => SeatKey::Node(node_id(number(seat))),
        };
        (service, key)
    }

    /// The agent of a seat's newest placed task says something of it.
    fn report(&mut self, word: &str, say: impl FnOnce(TaskStatus) -> TaskStatus) {
        let (service, key) = self.seat(word);
        let view = self.swarm.view();
        let tasks = view.tasks_of_seat(service, key);
        let live = tasks.iter().filter(|task| task.is_live() && task.node_id.is_some());
        let task = live.max_by_key(|task| (task.meta.created_at, task.id)).unwrap();
        let status = TaskStatus { timestamp: self.swarm.now, ..task.status.clone() };
        self.swarm.apply(vec![Change::TaskStatus(task.id, say(status))]);
    }

    fn fail(&mut self, seat: &str, rest: &[&str]) {
        let code = rest.first().and_then(|word| word.strip_prefix("code=")).unwrap_or("1");
        let code: i32 = code.parse().unwrap();
        let err = format!("task: non-zero exit ({code})").as_str().into();
        let state = TaskState::Failed;
        self.report(seat, |status| TaskStatus { state, exit_code: Some(code), err, ..status });
    }

    /// Until all that is to run is in a state, or what is wanted of updates is over.
    fn until(&mut self, word: &str) {
        let end = self.swarm.now.after(UNTIL_MAX);
        let is_there = |swarm: &Swarm| match word {
            "updated" => swarm.view().services().all(|service| {
                service.update_status.as_ref().is_some_and(|status| status.completed_at.is_some())
            }),
            "paused" => swarm.view().services().all(|service| service.is_update_paused()),
            word => {
                let state = state(word);
                let view = swarm.view();
                view.tasks().filter(|task| task.is_runnable()).all(|task| task.status.state == state)
            }
        };
        while !is_there(&self.swarm) {
            assert!(self.swarm.now < end, "{word} does not come");
            self.swarm.run(Duration::from_millis(10));
        }
    }

    fn show(&mut self, name: &str) {
        let id = self.id(name);
        self.heading(name);
        for task in self.swarm.tasks(id) {
            let node = task.node_id.map_or("-".to_owned(), host);
            let (state, desired) = (task.status.state.as_str(), task.desired_state.as_str());
            let words = self.words(&task);
            let name = &self.swarm.names[&task.id];
            writeln!(self.shown, "  {name} {node} {state}, wanted {desired}, {}{words}", image(&task))
                .unwrap();
        }
    }

    /// `history 3`, `label a=b`.
    fn set(&mut self, setting: &str, value: &str) {
        self.swarm.edit_cluster(|cluster| match setting {
            "history" => {
                let settings = format!(r#"{{"Orchestration":{{"TaskHistoryRetentionLimit":{value}}}}}"#);
                cluster.spec = serde_json::from_str(&settings).unwrap();
            }
            "label" => {
                let (key, value) = value.split_once('=').unwrap();
                cluster.spec.labels.insert(key.to_owned(), value.to_owned());
            }
            other => panic!("no command: swarm {other}"),
        });
    }

    fn show_nodes(&mut self) {
        let nodes: Vec<String> = self.swarm.view().nodes().map(|node| host(node.id)).collect();
        self.heading("nodes");
        writeln!(self.shown, "  {}", nodes.join(" ")).unwrap();
    }

    fn show_messages(&mut self, name: &str) {
        let id = self.id(name);
        self.heading(name);
        for task in self.swarm.tasks(id) {
            let (name, status) = (&self.swarm.names[&task.id], &task.status);
            let words = self.words(&task);
            writeln!(self.shown, "  {name} {}, {}{words}", status.state.as_str(), status.message.as_str())
                .unwrap();
        }
    }

    fn words(&self, task: &Task) -> String {
        if task.status.err.is_empty() { String::new() } else { format!(": {}", task.status.err) }
    }

    fn show_update(&mut self, name: &str) {
        let id = self.id(name);
        self.heading(name);
        let (state, mut words) = match self.swarm.update_status(id) {
            Some((state, words)) => (state.as_str(), words),
            None => ("no update", String::new()),
        };
        for (id, name) in &self.swarm.names {
            words = words.replace(&id.to_string(), name);
        }
        writeln!(self.shown, "  {state}: {words}").unwrap();
    }

    fn heading(&mut self, name: &str) {
        let at = self.swarm.now.since(Timestamp(EPOCH));
        writeln!(self.shown, "{name} at {at:?}").unwrap();
    }
}

/// `replicas=3`, `image=ok2`, and a patch.
fn changed(spec: &ServiceSpec, facts: &[&str], json: &str) -> ServiceSpec {
    let mut spec = with(spec, json);
    for (key, value) in facts.iter().map(|fact| fact.split_once('=').unwrap()) {
        let patch = match key {
            "mode" => {
                spec.mode = serde_json::from_str(&mode(value)).unwrap();
                continue;
            }
            "replicas" => format!(r#"{{"Mode":{{"Replicated":{{"Replicas":{value}}}}}}}"#),
            "image" => format!(r#"{{"TaskTemplate":{{"ContainerSpec":{{"Image":"{value}"}}}}}}"#),
            other => panic!("no fact: {other}"),
        };
        spec = with(&spec, &patch);
    }
    spec
}

/// `global`, `replicated-job:2/5` (two at a time, five in all), `global-job`.
fn mode(text: &str) -> String {
    match text.split_once(':').map(|(_, numbers)| numbers.split_once('/').unwrap()) {
        Some((concurrent, total)) => {
            format!(r#"{{"ReplicatedJob":{{"MaxConcurrent":{concurrent},"TotalCompletions":{total}}}}}"#)
        }
        None if text == "global" => r#"{"Global":{}}"#.to_owned(),
        None => r#"{"GlobalJob":{}}"#.to_owned(),
    }
}

fn state(word: &str) -> TaskState {
    let is_named = |state: &TaskState| state.as_str().eq_ignore_ascii_case(word);
    TaskState::ALL.into_iter().find(is_named).unwrap_or_else(|| panic!("no state: {word}"))
}

/// `n7` is node 7.
fn number(host: &str) -> u128 {
    host.strip_prefix('n').unwrap().parse().unwrap()
}

fn host(node: NodeId) -> String {
    format!("n{}", { node.0.0 })
}

fn duration(text: &str) -> Duration {
    match text.strip_suffix("ms") {
        Some(n) => Duration::from_millis(n.parse().unwrap()),
        None => Duration::from_secs(text.strip_suffix('s').unwrap().parse().unwrap()),
    }
}

fn files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "txt") {
            found.push(path);
        }
    }
}

/// Rules of Swarm's as scripts name them: the lines of a chapter, and those that are none of the orchestration.
const RULES: [(&str, std::ops::RangeInclusive<u32>, &[u32]); 3] = [
    ("updates and rollbacks", 93..=112, &[]),
    ("restarts, states and history", 121..=130, &[]),
    // Cluster volumes are refused.
    ("the scheduler", 154..=164, &[163]),
];

#[test]
fn each_rule_has_a_script() {
    let mut found = Vec::new();
    files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/pass/tests/scripts"), &mut found);
    let texts: Vec<String> = found.iter().map(|path| fs::read_to_string(path).unwrap()).collect();
    let heads: Vec<&str> = texts.iter().filter_map(|text| text.lines().next()).collect();
    for (chapter, lines, others) in RULES {
        for line in lines.filter(|line| !others.contains(line)) {
            let name = format!("sem:{line} ");
            assert!(heads.iter().any(|head| head.contains(&name)), "{chapter}: no script shows {name}");
        }
    }
}

#[test]
fn scripts_show_what_they_did() {
    let mut found = Vec::new();
    files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/pass/tests/scripts"), &mut found);
    found.sort();
    assert!(!found.is_empty());
    let mut wrong = Vec::new();
    for path in found {
        let text = fs::read_to_string(&path).unwrap();
        let (commands, expect) = text.split_once(LINE).unwrap_or((&text, ""));
        assert!(commands.starts_with("# rule: "), "{}: whose rule is it?", path.display());
        let mut script = Script::new();
        let lines = commands.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        lines.for_each(|line| script.line(line));
        if script.shown == expect {
            continue;
        }
        if std::env::var_os("SKEP_BLESS").is_some() {
            fs::write(&path, format!("{commands}{LINE}{}", script.shown)).unwrap();
        } else {
            wrong.push(format!("{}:\n{}", path.display(), script.shown));
        }
    }
    assert!(wrong.is_empty(), "shown otherwise (SKEP_BLESS=1 writes it): {}", wrong.join("\n"));
}
