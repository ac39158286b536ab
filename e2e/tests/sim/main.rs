//! Managers' consensus and state in simulated time: crashes, cuts and changes of membership from a seed,
//! then peace. Every answer that clients got must fit one order of things, and all members end up equal.
//!
//! `SKEP_SIM_SEED=7` runs one seed and prints what happened; `SKEP_SIM_SEEDS=5000` runs that many.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests")]
#![expect(clippy::print_stdout, reason = "a seed that failed, and what happened in it")]

mod client;
mod faults;
mod history;
mod member;
mod wire;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

use world::Run;

/// What CI runs.
const SEEDS: u64 = 100;
/// Seeds that found something once, each beside what it found. They say less as the simulation changes.
const FOUND: &[u64] = &[
    741, // a leader that ended its own half-done removal led on, and could not become a voter again
];

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().expect("a number"))
}

/// Runs `seed` and says which one it was that failed.
fn run(seed: u64, verbose: bool) -> Run {
    match catch_unwind(AssertUnwindSafe(|| faults::run(seed))) {
        Ok(run) if run.failures.is_empty() => run,
        Ok(run) => {
            if verbose {
                run.trace.iter().for_each(|line| println!("{line}"));
            }
            panic!(
                "seed {seed}: {}\nreplay: SKEP_SIM_SEED={seed} cargo test -p skep-e2e --test sim",
                run.failures.join("; ")
            )
        }
        Err(panic) => {
            println!("seed {seed} panicked; replay: SKEP_SIM_SEED={seed} cargo test -p skep-e2e --test sim");
            std::panic::resume_unwind(panic)
        }
    }
}

/// Half of the seeds each, so that two cores are used.
fn half(which: u64) {
    if let Some(seed) = number("SKEP_SIM_SEED") {
        if which == 0 {
            let run = run(seed, true);
            run.trace.iter().for_each(|line| println!("{line}"));
            println!("{:?}", run.figures);
        }
        return;
    }
    let n = number("SKEP_SIM_SEEDS").unwrap_or(SEEDS);
    let runs: Vec<Run> = (0..n).filter(|seed| seed % 2 == which).map(|seed| run(seed, false)).collect();
    let sum = |of: fn(&world::Figures) -> u64| runs.iter().map(|run| of(&run.figures)).sum::<u64>();
    println!(
        "{} seeds: {} operations, {} left open, {} terms, {} crashes, {} cuts, {} changes of members, \
         {} snapshots sent, {} of them to begin with",
        runs.len(),
        sum(|f| f.operations),
        sum(|f| f.open),
        sum(|f| f.terms),
        sum(|f| f.crashes),
        sum(|f| f.cuts),
        sum(|f| f.changes),
        sum(|f| f.installs),
        sum(|f| f.joins),
    );
    if n >= SEEDS {
        let done = sum(|f| f.operations);
        assert!(done > 100 * (n / 2), "clients got through to too little: {done} operations");
        assert!(sum(|f| f.joins) > 0, "no member began with a snapshot while clients wrote");
    }
}

#[test]
fn even_seeds() {
    half(0);
}

#[test]
fn odd_seeds() {
    half(1);
}

#[test]
fn seeds_that_found_something_pass() {
    for seed in FOUND {
        let _ = run(*seed, false);
    }
}

#[test]
fn one_seed_gives_one_run() {
    for seed in [3, 4] {
        let (first, second) = (faults::run(seed), faults::run(seed));
        let differ = first.trace.iter().zip(&second.trace).find(|(a, b)| a != b);
        assert_eq!(differ, None);
        assert_eq!(first.trace.len(), second.trace.len());
    }
    assert_ne!(faults::run(3).trace, faults::run(5).trace);
}
