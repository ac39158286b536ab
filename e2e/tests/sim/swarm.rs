//! A whole swarm on simulated machines: real managers and real agents over real gRPC, fake engines and networks.

mod away;
mod calm;
mod daemon;
mod faults;
mod net;
mod observe;
pub(crate) mod specs;
pub(crate) mod users;
pub(crate) mod world;

use crate::trace::{check, check_half, one, same_twice};
use world::Figures;

/// What CI runs.
const SEEDS: u64 = 26;

#[test]
fn even_seeds() {
    check_half::<Figures>("swarm", SEEDS, 0);
}

#[test]
fn odd_seeds() {
    check_half::<Figures>("swarm", SEEDS, 1);
}

#[test]
fn a_manager_that_does_not_know_who_leads_comes_back() {
    check::<Figures>("swarm::away", away::SEED);
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
