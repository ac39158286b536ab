//! What a manager's state costs at scale: bytes a task, statuses applied a second, a snapshot while writes go
//! on, a restart with it. `cargo run --release -p skep-e2e --example scale [TASKS]`; a tenth as many nodes.
//!
//! Bytes are counted by the allocator, exactly as they were asked for.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a measurement: it prints, and stops at a failure"
)]

mod counting;
mod member;
mod state;

use skep_store::Store;
use tokio::time::Instant;

#[global_allocator]
static ALLOCATOR: counting::Counting = counting::Counting;

/// What this process took of the processors up to now, in seconds: time on a busy machine says less.
fn processors() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    // User and system time, in hundredths; the name before them may have spaces.
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks: f64 = after_name.split_whitespace().skip(11).take(2).map(|n| n.parse::<f64>().unwrap()).sum();
    ticks / 100.0
}

fn main() {
    let n_tasks: u64 = std::env::args().nth(1).map_or(1_000_000, |n| n.parse().expect("a number of tasks"));
    let n_nodes = n_tasks / 10;
    let empty = counting::bytes();
    let mut store = Store::default();
    state::add_nodes(&mut store, n_nodes);
    let nodes = counting::bytes();
    println!("{n_nodes} nodes: {} B each", (nodes - empty) / n_nodes.max(1));
    let mut at = Instant::now();
    state::add_tasks(&mut store, n_tasks, n_nodes);
    let bytes = counting::bytes();
    println!(
        "{n_tasks} tasks: {} B each, {:.1} s to apply",
        (bytes - nodes) / n_tasks,
        at.elapsed().as_secs_f64()
    );
    println!("all together: {} MB", (bytes - empty) / 1_000_000);
    for batch in [1_000, 1] {
        let n = (n_tasks / 2).min(if batch == 1 { 100_000 } else { 500_000 });
        let entries = state::reports(&store, n, batch);
        let mut published = store.view();
        at = Instant::now();
        let before = processors();
        for entry in &entries {
            store.apply(entry);
            // The last view is dropped with each entry, as a manager's readers do.
            published = store.view();
        }
        let took = at.elapsed();
        assert!(published.revision() > 0);
        let n = f64::from(u32::try_from(n).unwrap());
        println!(
            "statuses in entries of {batch}: {:.0} a second, {:.0} a second of one processor",
            n / took.as_secs_f64(),
            n / (processors() - before)
        );
    }
    let after = counting::bytes();
    println!("after the reports: {} MB", (after - empty) / 1_000_000);
    member::run(store);
}
