//! What `SwarmKit`'s scheduler benchmarks measure, on skep's: tasks that are pending in the store, until each has its
//! node there and an event has told of it. `cargo run --release -p skep-e2e --example schedule [ROWS]`.
//!
//! `SwarmKit` times from the end of the transaction that created nodes and tasks: its scheduler reads their events,
//! waits 50 ms for more, places, writes in transactions of at most 200 changes, and the benchmark takes one event a
//! task. Here: the picture is made from the view, nothing being kept from before; the pass places; its proposals are
//! encoded for the log, decoded and applied, as each replica does; one event a task. No disk on either side.
//!
//! Each row runs in a process of its own, so that the peak of its memory is its own.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a measurement: it prints, and stops at a failure"
)]

mod swarm;

use std::{process::Command, sync::Arc};

use skep_api::{Timestamp, id::SeededIds, object::Service};
use skep_manager::pass::{Memo, pass};
use skep_store::{Change, Dirty, ObjectRef, Store, decode_result};
use swarm::{Ask, NOW, Row, node_id, service_id};
use tokio::time::Instant;

/// A row's name, what it measures, how often, and what `SwarmKit` took on the machine of the figures.
type Line = (&'static str, Row, usize, &'static str);

/// A service for each task.
const fn one_off(n_nodes: u64, n_tasks: u64, ask: Ask) -> Row {
    Row { n_nodes, n_tasks, tasks_each: 1, ask }
}

/// One service for all.
const fn grouped(n_nodes: u64, n_tasks: u64, ask: Ask) -> Row {
    Row { n_nodes, n_tasks, tasks_each: n_tasks, ask }
}

/// Services as people have them, of the leader's passes.
const fn settled(n_nodes: u64, n_tasks: u64) -> Row {
    Row { n_nodes, n_tasks, tasks_each: 1_000, ask: Ask::Nothing }
}

const LINES: &[Line] = &[
    ("1kNodes1kTasks", one_off(1_000, 1_000, Ask::Nothing), 5, "156 ms"),
    ("1kNodes10kTasks", one_off(1_000, 10_000, Ask::Nothing), 5, "1.351 s"),
    ("1kNodes100kTasks", one_off(1_000, 100_000, Ask::Nothing), 3, "38.7 s (busy)"),
    ("100kNodes1kTasks", one_off(100_000, 1_000, Ask::Nothing), 3, "59.8 s (busy)"),
    ("100kNodes100kTasks", one_off(100_000, 100_000, Ask::Nothing), 3, "about 2 h"),
    ("100kNodes1MTasks", one_off(100_000, 1_000_000, Ask::Nothing), 1, "about a day"),
    ("Constraints1kNodes1kTasks", one_off(1_000, 1_000, Ask::Constraint), 5, "152 ms"),
    ("Constraints1kNodes10kTasks", one_off(1_000, 10_000, Ask::Constraint), 5, "1.565 s"),
    ("Constraints1kNodes100kTasks", one_off(1_000, 100_000, Ask::Constraint), 3, "41.8 s (busy)"),
    ("Preferences1kNodes10kTasks", one_off(1_000, 10_000, Ask::Preference), 5, "-"),
    ("Preferences100kNodes100kTasks", one_off(100_000, 100_000, Ask::Preference), 3, "-"),
    ("Grouped1kNodes1kTasks", grouped(1_000, 1_000, Ask::Nothing), 5, "71 ms"),
    ("Grouped1kNodes10kTasks", grouped(1_000, 10_000, Ask::Nothing), 5, "453 ms"),
    ("Grouped1kNodes100kTasks", grouped(1_000, 100_000, Ask::Nothing), 3, "17.5 s (busy)"),
    ("Grouped100kNodes1kTasks", grouped(100_000, 1_000, Ask::Nothing), 5, "423 ms"),
    ("Grouped100kNodes100kTasks", grouped(100_000, 100_000, Ask::Nothing), 3, "12.6 s (busy)"),
    ("Grouped100kNodes1MTasks", grouped(100_000, 1_000_000, Ask::Nothing), 1, "-"),
    ("GroupedConstraints1kNodes10kTasks", grouped(1_000, 10_000, Ask::Constraint), 5, "-"),
    ("GroupedPreferences1kNodes10kTasks", grouped(1_000, 10_000, Ask::Preference), 5, "-"),
    ("GroupedPreferences100kNodes1MTasks", grouped(100_000, 1_000_000, Ask::Preference), 1, "-"),
];

/// What the leader does of a swarm where all runs: with a look at everything, as after it was elected; with a service
/// that is new, of three tasks; and with one that gets one task more.
const PASSES: &[(&str, Row, Kind)] = &[
    ("Full10kNodes100kTasks", settled(10_000, 100_000), Kind::Full),
    ("New10kNodes100kTasks", settled(10_000, 100_000), Kind::New),
    ("Scaled10kNodes100kTasks", settled(10_000, 100_000), Kind::Scaled),
    ("Full100kNodes1MTasks", settled(100_000, 1_000_000), Kind::Full),
    ("New100kNodes1MTasks", settled(100_000, 1_000_000), Kind::New),
    ("Scaled100kNodes1MTasks", settled(100_000, 1_000_000), Kind::Scaled),
];

/// Tasks that a pass may place: all of them, as a tick of `SwarmKit` does.
const BUDGET: usize = 1_000_000;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Full,
    New,
    Scaled,
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let [flag, name] = words.as_slice()
        && flag == "--row"
    {
        return one(name);
    }
    println!("load {}", std::fs::read_to_string("/proc/loadavg").unwrap().trim());
    println!("{:<36} {:>32} {:>9} {:>9}   SwarmKit", "", "least / median / most", "state MiB", "peak MiB");
    let names = LINES
        .iter()
        .map(|(name, _, _, peer)| (*name, *peer))
        .chain(PASSES.iter().map(|(name, ..)| (*name, "-")));
    for (name, peer) in names {
        if !words.is_empty() && !words.iter().any(|word| name.contains(word.as_str())) {
            continue;
        }
        let own = std::env::current_exe().unwrap();
        let out = Command::new(own).args(["--row", name]).output().unwrap();
        let text = String::from_utf8_lossy(&out.stdout);
        println!("{name:<36} {}   {peer}", text.trim_end());
    }
}

fn one(name: &str) {
    let mut before = 0;
    let mut times: Vec<f64> = match LINES.iter().find(|(own, ..)| *own == name) {
        Some((_, row, n, _)) => (0..*n).map(|_| placed(*row, &mut before)).collect(),
        None => {
            let (_, row, kind) = PASSES.iter().find(|(own, ..)| *own == name).unwrap();
            passes(*row, *kind)
        }
    };
    times.sort_by(f64::total_cmp);
    let ms = |time: f64| format!("{:.2}", time * 1e3);
    let (least, median, most) = (times[0], times[times.len() / 2], times[times.len() - 1]);
    let shown = format!("{} / {} / {} ms", ms(least), ms(median), ms(most));
    println!("{shown:>32} {before:>9} {:>9}", mebibytes("VmHWM:"));
}

/// What `/proc` says of this process's memory.
fn mebibytes(what: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let found = status.lines().find_map(|line| line.strip_prefix(what)).unwrap();
    found.trim().trim_end_matches(" kB").trim().parse::<u64>().unwrap() / 1024
}

/// Seconds until all tasks of a row have their nodes. `before` is how much memory the state took at first.
fn placed(row: Row, before: &mut u64) -> f64 {
    let mut store = swarm::store(row);
    if *before == 0 {
        *before = mebibytes("VmRSS:");
    }
    let mut dirty = Dirty::default();
    // Nothing of the services is to be decided, as they have their tasks: room came, and all that wait are placed.
    dirty.mark(ObjectRef::Node(node_id(0)));
    let mut memo = Memo::default();
    let at = Instant::now();
    let n_events = pass_and_apply(&mut store, &dirty, NOW, &mut memo, 1_000);
    let took = at.elapsed().as_secs_f64();
    assert_eq!(n_events, row.n_tasks);
    let view = store.view();
    assert_eq!(view.unplaced_tasks().count(), 0);
    let n_used = view.nodes_with_load().filter(|(_, load)| load.n_tasks > 0).count();
    assert!(n_used > 0);
    took
}

/// Places all that waits; how many events of tasks that made.
fn pass_and_apply(store: &mut Store, dirty: &Dirty, now: Timestamp, memo: &mut Memo, seed: u64) -> u64 {
    // Each call needs ids of its own: a request that the store remembers is not applied again.
    let mut ids = SeededIds(seed);
    let (mut dirty, mut n_events) = (dirty.clone(), 0);
    while !dirty.is_empty() {
        let result = pass(store.view(), &dirty, now, &mut ids, memo, BUDGET);
        assert_eq!(result.draft.refusals(), []);
        dirty = result.rest;
        for proposal in result.draft.into_proposals([], &mut ids) {
            let applied = store.apply(&proposal.encode());
            decode_result(&applied.answer).unwrap();
            let is_task = |object: &ObjectRef| matches!(object, ObjectRef::Task(..));
            n_events += u64::try_from(applied.changed.into_iter().filter(is_task).count()).unwrap();
        }
    }
    n_events
}

/// Seconds of the pass alone, again and again.
fn passes(row: Row, kind: Kind) -> Vec<f64> {
    let mut store = swarm::store(row);
    let mut memo = Memo::default();
    let mut dirty = Dirty::default();
    dirty.mark(ObjectRef::Node(node_id(0)));
    pass_and_apply(&mut store, &dirty, NOW, &mut memo, 1_000);
    // And what else a swarm gets once.
    pass_and_apply(&mut store, &Dirty::everything(), NOW, &mut memo, 1_001);
    let n_rounds = if kind == Kind::Full { 5 } else { 50 };
    (1..=n_rounds).map(|number| a_pass(&mut store, &mut memo, row, kind, number)).collect()
}

fn a_pass(store: &mut Store, memo: &mut Memo, row: Row, kind: Kind, number: u64) -> f64 {
    let id = match kind {
        Kind::Full | Kind::New => service_id(row.n_tasks + number),
        Kind::Scaled => service_id(number),
    };
    let mut service = match store.view().service(id) {
        Some(service) => (**service).clone(),
        None => Service {
            id,
            spec: store.view().service(service_id(0)).unwrap().spec.clone(),
            ..Service::default()
        },
    };
    let mut spec = (*service.spec).clone();
    let replicas = &mut spec.mode.as_mut().unwrap().replicated.as_mut().unwrap().replicas;
    // A task and its node each.
    let (n_changes, dirty) = match kind {
        Kind::Full => (0, Dirty::everything()),
        Kind::New => {
            *replicas = Some(3);
            spec.name = format!("new{number}");
            (6, Dirty { services: [id].into(), ..Dirty::default() })
        }
        Kind::Scaled => {
            *replicas = Some(row.tasks_each + 1);
            (2, Dirty { services: [id].into(), ..Dirty::default() })
        }
    };
    service.spec = Arc::new(spec);
    if kind == Kind::Full {
        // A leader that is new knows nothing yet.
        *memo = Memo::default();
    } else {
        swarm::apply(store, vec![Change::PutService(Arc::new(service))]);
    }
    let now = Timestamp(NOW.0 + i64::try_from(number).unwrap());
    let (mut ids, view) = (SeededIds(number), store.view());
    let at = Instant::now();
    let result = pass(view, &dirty, now, &mut ids, memo, 2_000);
    let took = at.elapsed().as_secs_f64();
    assert_eq!(result.draft.changes().len(), n_changes);
    for proposal in result.draft.into_proposals([], &mut ids) {
        decode_result(&store.apply(&proposal.encode()).answer).unwrap();
    }
    took
}
