//! What one seed did, line by line: it names a failure, and tells whether two runs were the same.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;
use std::process::Command;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tempfile::TempDir;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;
use turmoil::Sim;

thread_local! {
    /// The simulation's time, for what is done between its steps.
    static NOW: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// Simulated time.
pub(crate) fn now() -> Duration {
    turmoil::sim_elapsed().unwrap_or_else(|| NOW.get())
}

/// Makes one step of a simulation.
pub(crate) fn step(sim: &mut Sim<'_>) -> turmoil::Result {
    let stepped = sim.step();
    NOW.set(sim.elapsed());
    stepped.map(drop)
}

/// Lines with their simulated time, and what was wrong.
#[derive(Default)]
pub(crate) struct Trace {
    lines: Vec<String>,
    failures: Vec<String>,
}

impl Trace {
    pub(crate) fn note(&mut self, line: String) {
        let at = now().as_micros();
        self.lines.push(format!("{at} {line}"));
    }

    pub(crate) fn fail(&mut self, line: String) {
        self.note(format!("FAILED {line}"));
        self.failures.push(line);
    }

    pub(crate) fn has_failed(&self) -> bool {
        !self.failures.is_empty()
    }
}

/// A directory in memory where the machine has one, gone with the value.
pub(crate) fn memory_dir() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// A number that is set from outside.
fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().expect("a number"))
}

/// Set for the process that runs one seed: which one. `SKEP_SIM_TRACE`: it also prints what happened.
const ONE: &str = "SKEP_SIM_ONE";
const TRACE: &str = "SKEP_SIM_TRACE";
/// What the daemons log beside it, as `RUST_LOG` names it.
const LOG: &str = "SKEP_SIM_LOG";
/// Begins the last line of a run that found nothing wrong.
const FIGURES: &str = "FIGURES ";

/// Log lines bear the time that the trace has.
struct SimulatedTime;

impl FormatTime for SimulatedTime {
    fn format_time(&self, out: &mut Writer<'_>) -> fmt::Result {
        write!(out, "{}", now().as_micros())
    }
}

/// One seed, in a process that was made for it: what else runs in a process moves tokio's task numbers, and by
/// them the order in which the tasks of a crashed host end.
pub(crate) fn one<F: Serialize>(run: impl FnOnce(u64) -> (Trace, F)) {
    let Some(seed) = number(ONE) else { return };
    if let Ok(filter) = std::env::var(LOG) {
        tracing_subscriber::fmt().with_env_filter(filter).with_timer(SimulatedTime).with_ansi(false).init();
    }
    let (trace, figures) = run(seed);
    if number(TRACE).is_some() {
        trace.lines.iter().for_each(|line| println!("{line}"));
    }
    assert!(trace.failures.is_empty(), "{}", trace.failures.join("; "));
    println!("\n{FIGURES}{}", serde_json::to_string(&figures).unwrap());
}

/// Runs the `one_seed` of a simulation: all that it printed, and its figures if it found nothing wrong.
fn run<F: DeserializeOwned>(simulation: &str, seed: u64, with_trace: bool) -> (String, Option<F>) {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args([&format!("{simulation}::one_seed"), "--exact", "--ignored", "--nocapture"]);
    child.env(ONE, seed.to_string());
    if with_trace {
        child.env(TRACE, "1");
    }
    let output = child.output().unwrap();
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    let figures = text.lines().find_map(|line| line.strip_prefix(FIGURES));
    let figures = figures.filter(|_| output.status.success()).map(|json| serde_json::from_str(json).unwrap());
    (text, figures)
}

/// Runs a seed; one that failed says what happened in it, as does the one that `SKEP_SIM_SEED` chose.
fn figures<F: DeserializeOwned>(simulation: &str, seed: u64) -> Option<F> {
    let is_chosen = number("SKEP_SIM_SEED").is_some();
    let (text, figures) = run(simulation, seed, is_chosen);
    if is_chosen || figures.is_none() {
        println!("{text}");
    }
    figures
}

fn replay(simulation: &str, seed: u64) -> String {
    format!(
        "SKEP_SIM_SEED={seed} cargo test --release --workspace --test sim {simulation}::even -- --nocapture"
    )
}

/// Runs a seed that must pass.
pub(crate) fn check<F: DeserializeOwned>(simulation: &str, seed: u64) {
    let figures: Option<F> = figures(simulation, seed);
    assert!(figures.is_some(), "{simulation}: seed {seed} failed\nreplay: {}", replay(simulation, seed));
}

/// Runs all seeds that this call is to run, of which this is the `half`, also after one that failed; prints how
/// much happened in them.
pub(crate) fn check_half<F: Serialize + DeserializeOwned>(simulation: &str, usual: u64, half: u64) -> Vec<F> {
    let (mut passed, mut failed) = (Vec::new(), Vec::new());
    for seed in seeds(usual, half) {
        match figures(simulation, seed) {
            Some(figures) => passed.push(figures),
            None => failed.push(seed),
        }
    }
    println!("{simulation}: {} seeds passed: {}", passed.len(), totals(&passed));
    if let Some(first) = failed.first() {
        panic!("{simulation}: seeds {failed:?} failed\nreplay: {}", replay(simulation, *first));
    }
    passed
}

/// The sum of each figure; of those in milliseconds the largest.
fn totals<F: Serialize>(figures: &[F]) -> String {
    let mut totals: BTreeMap<String, u64> = BTreeMap::new();
    for figures in figures {
        let serde_json::Value::Object(figures) = serde_json::to_value(figures).unwrap() else { continue };
        for (name, figure) in figures {
            let figure = figure.as_u64().unwrap();
            let is_largest = name.ends_with("_ms");
            let total = totals.entry(name).or_default();
            *total = if is_largest { figure.max(*total) } else { figure + *total };
        }
    }
    let words: Vec<String> = totals.into_iter().map(|(name, total)| format!("{name} {total}")).collect();
    words.join(", ")
}

/// Runs a seed twice; both runs must be the same to the last line of their traces, and another seed's not.
pub(crate) fn same_twice<F: DeserializeOwned>(simulation: &str, seed: u64) {
    let trace = |seed| {
        let (text, figures) = run::<F>(simulation, seed, true);
        assert!(figures.is_some(), "{simulation}: seed {seed} failed: {text}");
        text.lines().filter(|line| is_traced(line)).map(str::to_owned).collect::<Vec<_>>()
    };
    let (first, second) = (trace(seed), trace(seed));
    if let Some(at) = first.iter().zip(&second).position(|(a, b)| a != b) {
        let around = at.saturating_sub(8)..at + 1;
        panic!("seed {seed}: {:#?}\nand then {:#?}", first.get(around.clone()), second.get(around));
    }
    assert_eq!(first.len(), second.len());
    assert!(first.len() > 100, "it traces what it does");
    assert_ne!(trace(seed + 1), first);
}

fn is_traced(line: &str) -> bool {
    line.split_once(' ').is_some_and(|(at, _)| !at.is_empty() && at.bytes().all(|byte| byte.is_ascii_digit()))
}

/// The seeds that this call is to run: one that is named, or those below `SKEP_SIM_SEEDS` (`usual` of them
/// without) of which this is the `half`.
fn seeds(usual: u64, half: u64) -> Vec<u64> {
    if let Some(seed) = number("SKEP_SIM_SEED") {
        return if half == 0 { vec![seed] } else { Vec::new() };
    }
    let first = number("SKEP_SIM_FROM").unwrap_or(0);
    let n = number("SKEP_SIM_SEEDS").unwrap_or(usual);
    (first..first + n).filter(|seed| seed % 2 == half).collect()
}
