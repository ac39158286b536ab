//! Simulated time: the real code of managers and agents under crashes, cuts, slow disks and changes of
//! membership that a seed gives, then peace. What must hold all along and at the end is one file an invariant.
//!
//! `SKEP_SIM_SEED=7` runs one seed and prints what happened; `SKEP_SIM_SEEDS=5000` runs that many, from
//! `SKEP_SIM_FROM` on.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests")]
#![expect(clippy::print_stdout, reason = "a seed that failed, and what happened in it")]

mod consensus;
mod invariants;
mod shared;
mod swarm;
mod trace;
