//! The figures of three managers and two workers, of skep and of the installed Docker, in turn.
//!
//! Every round is a fresh swarm of each, one after the other; rows are medians over all rounds.

use std::collections::BTreeMap;

use anyhow::bail;
use serde_json::{Value, json};

use crate::Flags;
use crate::ours::Ours;
use crate::peer::Peer;
use crate::steps::{self, Rounds};
use crate::swarm::Daemons;
use crate::table::{load, percentile, say, sorted};

/// Failovers in one round; Docker's take up to half a minute each, and it gets a fifth of them.
const FAILOVERS: usize = 7;
const PEER_SHARE: usize = 5;

/// Rows in the order of the table, with their unit and what is promised of the embedded engine.
const ROWS: &[(&str, &str, f64)] = &[
    (steps::ONE, "ms", 150.0),
    (steps::CREATE, "ms", 900.0),
    (steps::KILLED, "ms", 1000.0),
    (steps::FROZEN, "ms", 1000.0),
    (steps::LOST, "ms", 5000.0),
    (steps::DRAIN, "ms", 1500.0),
    (steps::INIT, "ms", 300.0),
    (steps::JOIN, "ms", 100.0),
    (steps::PROMOTE, "ms", 300.0),
    (steps::RUN, "ms", f64::NAN),
    (steps::START, "ms", f64::NAN),
    (steps::RSS_IDLE, "MiB", 60.0),
    (steps::RSS_FULL, "MiB", 80.0),
];

type Table = BTreeMap<&'static str, BTreeMap<String, Vec<f64>>>;

/// Measures and prints all.
pub(crate) fn run(flags: &Flags) -> anyhow::Result<()> {
    let (rounds, failovers) = (flags.number("--rounds", 3)?, flags.number("--failovers", FAILOVERS)?);
    let mut engines = flags.values("--engine").to_vec();
    let peers = flags.values("--peer");
    if let Some(other) = peers.iter().find(|peer| *peer != "dockerd") {
        bail!("--peer {other}: only dockerd is known");
    }
    if engines.is_empty() && peers.is_empty() {
        engines.push("embedded".to_owned());
    }
    let mut table = Table::new();
    let mut labels = Vec::new();
    let load_before = load()?;
    for n in 1..=rounds {
        for engine in &engines {
            let mut ours = Ours::start(engine);
            round(n, &mut ours, failovers, &mut table, &mut labels);
        }
        for _ in peers {
            let mut peer = Peer::start()?;
            round(n, &mut peer, failovers.div_ceil(PEER_SHARE), &mut table, &mut labels);
            let mut rounds = Rounds::new();
            steps::run_alone(&peer.nodes()[0], &mut rounds)?;
            add(rounds, &peer.label(), &mut table);
        }
    }
    show(&table, &labels);
    let load_after = load()?;
    say(&format!("load average before {load_before}, after {load_after}; {rounds} rounds, in turn"));
    let load = json!({"before": load_before, "after": load_after});
    say(&json!({"figures": to_json(&table), "rounds": rounds, "load": load}).to_string());
    Ok(())
}

fn round(n: usize, daemons: &mut dyn Daemons, failovers: usize, table: &mut Table, labels: &mut Vec<String>) {
    let label = daemons.label();
    let before = load().unwrap_or_default();
    let mut rounds = Rounds::new();
    let outcome = all(daemons, failovers, &mut rounds);
    say(&format!("round {n}, {label}, load before {before}: {}", brief(&rounds)));
    if let Err(err) = outcome {
        // What was measured before stays measured; the failure is part of the report.
        say(&format!("round {n}, {label}: FAILED: {err:#}"));
    }
    if !labels.contains(&label) {
        labels.push(label.clone());
    }
    add(rounds, &label, table);
}

fn add(rounds: Rounds, label: &str, table: &mut Table) {
    for (row, value) in rounds {
        table.entry(row).or_default().entry(label.to_owned()).or_default().push(value);
    }
}

fn all(daemons: &mut dyn Daemons, failovers: usize, rounds: &mut Rounds) -> anyhow::Result<()> {
    steps::form(daemons, rounds)?;
    steps::memory(daemons, rounds, steps::RSS_IDLE)?;
    for _ in 0..5 {
        steps::create(daemons, rounds, steps::ONE, 1)?;
    }
    for _ in 0..2 {
        steps::create(daemons, rounds, steps::CREATE, 50)?;
    }
    for _ in 0..2 {
        steps::drain(daemons, rounds)?;
    }
    steps::lost(daemons, rounds)?;
    for _ in 0..failovers {
        steps::killed(daemons, rounds)?;
        steps::frozen(daemons, rounds)?;
    }
    steps::thousand_services(daemons, rounds)
}

fn brief(rounds: &Rounds) -> String {
    rounds.iter().map(|(row, value)| format!("{row} {value:.0}")).collect::<Vec<_>>().join("; ")
}

fn show(table: &Table, labels: &[String]) {
    say(&format!(
        "{:<46} {:<28} {:>3} {:>9} {:>9} {:>9} {:>9} {:<4} {:>8} {:>7}",
        "figure", "of", "n", "min", "median", "p99", "max", "", "promised", "ratio"
    ));
    for (row, unit, goal) in ROWS {
        let Some(cells) = table.get(row) else { continue };
        let first = labels.first().and_then(|label| cells.get(label)).map(|v| percentile(v, 50));
        for label in labels {
            let Some(values) = cells.get(label) else { continue };
            let at = |percent| percentile(values, percent);
            let min = sorted(values).first().copied().unwrap_or(f64::NAN);
            let ratio = first.map_or(f64::NAN, |first| at(50) / first);
            let n = values.len();
            say(&format!(
                "{row:<46} {label:<28} {n:>3} {min:>9.1} {:>9.1} {:>9.1} {:>9.1} {unit:<4} {goal:>8.0} {ratio:>7.2}",
                at(50),
                at(99),
                at(100),
            ));
        }
    }
}

fn to_json(table: &Table) -> Value {
    let rows = table.iter().map(|(row, cells)| json!({"name": row, "rounds": cells}));
    Value::Array(rows.collect())
}
