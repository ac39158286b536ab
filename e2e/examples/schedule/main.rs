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

use std::process::Command;

use skep_api::{Timestamp, id::SeededIds};
use skep_manager::pass::{Memo, pass};
use skep_store::{Change, Dirty, ObjectRef, Store, decode_result};
use swarm::{Ask, NOW, Row, node_id, service_id};
use tokio::time::Instant;

/// A row's name, what it measures, how often, and what `SwarmKit` took on the machine of the figures.
type Line = (&'static str, Row, usize, &'static str);

const fn row(n_nodes: u64, n_tasks: u64, is_one_off: bool, ask: Ask) -> Row {
    Row { n_nodes, n_tasks, is_one_off, ask }
}

const LINES: &[Line] = &[
    ("1kNodes1kTasks", row(1_000, 1_000, true, Ask::Nothing), 5, "156 ms"),
    ("1kNodes10kTasks", row(1_000, 10_000, true, Ask::Nothing), 5, "1.351 s"),
    ("1kNodes100kTasks", row(1_000, 100_000, true, Ask::Nothing), 3, "38.7 s (busy)"),
    ("100kNodes1kTasks", row(100_000, 1_000, true, Ask::Nothing), 3, "59.8 s (busy)"),
    ("100kNodes100kTasks", row(100_000, 100_000, true, Ask::Nothing), 3, "about 2 h"),
    ("100kNodes1MTasks", row(100_000, 1_000_000, true, Ask::Nothing), 1, "about a day"),
    ("Constraints1kNodes1kTasks", row(1_000, 1_000, true, Ask::Constraint), 5, "152 ms"),
    ("Constraints1kNodes10kTasks", row(1_000, 10_000, true, Ask::Constraint), 5, "1.565 s"),
    ("Constraints1kNodes100kTasks", row(1_000, 100_000, true, Ask::Constraint), 3, "41.8 s (busy)"),
    ("Preferences1kNodes10kTasks", row(1_000, 10_000, true, Ask::Preference), 5, "-"),
    ("Preferences100kNodes100kTasks", row(100_000, 100_000, true, Ask::Preference), 3, "-"),
    ("Grouped1kNodes1kTasks", row(1_000, 1_000, false, Ask::Nothing), 5, "71 ms"),
    ("Grouped1kNodes10kTasks", row(1_000, 10_000, false, Ask::Nothing), 5, "453 ms"),
    ("Grouped1kNodes100kTasks", row(1_000, 100_000, false, Ask::Nothing), 3, "17.5 s (busy)"),
    ("Grouped100kNodes1kTasks", row(100_000, 1_000, false, Ask::Nothing), 5, "423 ms"),
    ("Grouped100kNodes100kTasks", row(100_000, 100_000, false, Ask::Nothing), 3, "12.6 s (busy)"),
    ("Grouped100kNodes1MTasks", row(100_000, 1_000_000, false, Ask::Nothing), 1, "-"),
    ("GroupedConstraints1kNodes10kTasks", row(1_000, 10_000, false, Ask::Constraint), 5, "-"),
    ("GroupedPreferences1kNodes10kTasks", row(1_000, 10_000, false, Ask::Preference), 5, "-"),
    ("GroupedPreferences100kNodes1MTasks", row(100_000, 1_000_000, false, Ask::Preference), 1, "-"),
];

/// One more service of one task where a million run, with what the leader keeps.
const INCREMENTAL: &str = "Incremental100kNodes1MTasks";

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let [flag, name] = words.as_slice()
        && flag == "--row"
    {
        return one(name);
    }
    println!("load {}", std::fs::read_to_string("/proc/loadavg").unwrap().trim());
    println!("{:<36} {:>32} {:>9}   SwarmKit", "", "least / median / most", "peak MiB");
    let names = LINES.iter().map(|(name, _, _, peer)| (*name, *peer)).chain([(INCREMENTAL, "-")]);
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
    let mut times: Vec<f64> = match LINES.iter().find(|(own, ..)| *own == name) {
        Some((_, row, n, _)) => (0..*n).map(|_| placed(*row)).collect(),
        None => incremental(),
    };
    times.sort_by(f64::total_cmp);
    let ms = |time: f64| format!("{:.2}", time * 1e3);
    let (least, median, most) = (times[0], times[times.len() / 2], times[times.len() - 1]);
    let shown = format!("{} / {} / {} ms", ms(least), ms(median), ms(most));
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let kib: u64 = peak.trim().trim_end_matches(" kB").trim().parse().unwrap();
    println!("{shown:>32} {:>9}", kib / 1024);
}

/// Seconds until all tasks of a row have their nodes.
fn placed(row: Row) -> f64 {
    let mut store = swarm::store(row);
    let mut dirty = Dirty::default();
    // Nothing of the services is to be decided, as they have their tasks: room came, and all that wait are placed.
    dirty.mark(ObjectRef::Node(node_id(0)));
    let at = Instant::now();
    let n_events = pass_and_apply(&mut store, &dirty, NOW, &mut Memo::default());
    let took = at.elapsed().as_secs_f64();
    assert_eq!(n_events, row.n_tasks);
    let view = store.view();
    assert_eq!(view.unplaced_tasks().count(), 0);
    let n_used = view.nodes_with_load().filter(|(_, load)| load.n_tasks > 0).count();
    assert!(n_used > 0);
    took
}

/// How many events of tasks it made.
fn pass_and_apply(store: &mut Store, dirty: &Dirty, now: Timestamp, memo: &mut Memo) -> u64 {
    let mut ids = SeededIds(7);
    let result = pass(store.view(), dirty, now, &mut ids, memo, usize::MAX);
    assert_eq!(result.draft.refusals(), []);
    let mut n_events = 0;
    for proposal in result.draft.into_proposals([], &mut ids) {
        let applied = store.apply(&proposal.encode());
        decode_result(&applied.answer).unwrap();
        let is_task = |object: &ObjectRef| matches!(object, ObjectRef::Task(..));
        n_events += u64::try_from(applied.changed.into_iter().filter(is_task).count()).unwrap();
    }
    n_events
}

/// Seconds of the pass alone for one service that is changed, again and again.
fn incremental() -> Vec<f64> {
    let mut store = swarm::store(Row { is_one_off: false, ..row(100_000, 1_000_000, false, Ask::Nothing) });
    let mut memo = Memo::default();
    let mut dirty = Dirty::default();
    dirty.mark(ObjectRef::Node(node_id(0)));
    pass_and_apply(&mut store, &dirty, NOW, &mut memo);
    let mut times = Vec::new();
    for number in 1..=50 {
        let old = store.view().service(service_id(0)).unwrap().spec.clone();
        let mut spec = (*old).clone();
        spec.name = format!("new{number}");
        spec.mode.as_mut().unwrap().replicated.as_mut().unwrap().replicas = Some(3);
        let id = service_id(number);
        let service = skep_api::object::Service {
            id,
            spec: std::sync::Arc::new(spec),
            ..skep_api::object::Service::default()
        };
        swarm::apply(&mut store, vec![Change::PutService(std::sync::Arc::new(service))]);
        let mut dirty = Dirty::default();
        dirty.mark(ObjectRef::Service(id));
        let now = Timestamp(NOW.0 + i64::try_from(number).unwrap());
        let mut ids = SeededIds(number);
        let view = store.view();
        let at = Instant::now();
        let result = pass(view, &dirty, now, &mut ids, &mut memo, 2_000);
        times.push(at.elapsed().as_secs_f64());
        assert_eq!(result.draft.changes().len(), 6, "three tasks, and their nodes");
        for proposal in result.draft.into_proposals([], &mut ids) {
            decode_result(&store.apply(&proposal.encode()).answer).unwrap();
        }
    }
    times
}
