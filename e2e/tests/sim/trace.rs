//! What one seed did, line by line: it names a failure, and tells whether two runs were the same.

use std::panic::{AssertUnwindSafe, catch_unwind};

use tempfile::TempDir;

/// Lines with their simulated time, and what was wrong.
#[derive(Default)]
pub(crate) struct Trace {
    lines: Vec<String>,
    failures: Vec<String>,
}

impl Trace {
    pub(crate) fn note(&mut self, line: String) {
        let at = turmoil::sim_elapsed().unwrap_or_default().as_micros();
        self.lines.push(format!("{at} {line}"));
    }

    pub(crate) fn fail(&mut self, line: String) {
        self.note(format!("FAILED {line}"));
        self.failures.push(line);
    }

    pub(crate) fn lines(&self) -> &[String] {
        &self.lines
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
pub(crate) fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().expect("a number"))
}

/// Runs `seed` of `test` and says which one it was that failed; `SKEP_SIM_SEED` also prints what happened.
pub(crate) fn check<F>(test: &str, seed: u64, run: impl FnOnce(u64) -> (Trace, F)) -> F {
    let replay = format!("replay: SKEP_SIM_SEED={seed} cargo test --release -p skep-e2e --test sim {test}");
    match catch_unwind(AssertUnwindSafe(|| run(seed))) {
        Ok((trace, figures)) => {
            if number("SKEP_SIM_SEED").is_some() {
                trace.lines.iter().for_each(|line| println!("{line}"));
            }
            assert!(!trace.has_failed(), "{test}: seed {seed}: {}\n{replay}", trace.failures.join("; "));
            figures
        }
        Err(panic) => {
            println!("{test}: seed {seed} panicked; {replay}");
            std::panic::resume_unwind(panic)
        }
    }
}

/// The seeds that this call is to run: one that is named, or those below `SKEP_SIM_SEEDS` (`usual` of them
/// without) of which this is the `half`.
pub(crate) fn seeds(usual: u64, half: u64) -> Vec<u64> {
    if let Some(seed) = number("SKEP_SIM_SEED") {
        return if half == 0 { vec![seed] } else { Vec::new() };
    }
    let first = number("SKEP_SIM_FROM").unwrap_or(0);
    let n = number("SKEP_SIM_SEEDS").unwrap_or(usual);
    (first..first + n).filter(|seed| seed % 2 == half).collect()
}
