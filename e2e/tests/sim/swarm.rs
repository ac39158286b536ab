//! A whole swarm on simulated machines: real managers and real agents over real gRPC, fake engines and networks.

mod calm;
mod daemon;
mod faults;
mod net;
mod observe;
pub(crate) mod users;
pub(crate) mod world;

use crate::trace::{check, one, same_twice, seeds};
use world::Figures;

/// What CI runs.
const SEEDS: u64 = 40;

fn run(seed: u64) -> Figures {
    check("swarm", seed)
}

fn half(which: u64) {
    let runs: Vec<Figures> = seeds(SEEDS, which).into_iter().map(run).collect();
    let sum = |of: fn(&Figures) -> u64| runs.iter().map(of).sum::<u64>();
    println!(
        "{} seeds: {} writes acknowledged, {} unknown, {} revisions, {} tasks, {} crashes, {} of them of \
         machines, {} cuts, {} restarts, {} changes of role, {} drains, healed after {} ms at most",
        runs.len(),
        sum(|f| f.acknowledged),
        sum(|f| f.unknown),
        sum(|f| f.revisions),
        sum(|f| f.tasks),
        sum(|f| f.crashes),
        sum(|f| f.power_cuts),
        sum(|f| f.cuts),
        sum(|f| f.restarts),
        sum(|f| f.roles),
        sum(|f| f.drains),
        runs.iter().map(|f| f.healed_after_ms).max().unwrap_or_default(),
    );
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
fn one_seed_gives_one_run() {
    same_twice::<Figures>("swarm", 3);
}

#[test]
#[ignore = "the others run it, in a process for each seed"]
fn one_seed() {
    one(faults::run);
}
