//! Figures: rounds, what they come to, and how they are printed.

use std::io::Write as _;

use anyhow::Context as _;
use serde_json::{Value, json};
use skep_e2e::Stopwatch;

/// Runs until SIGTERM, then ends at once, so that a stop costs no grace period.
pub(crate) const PROGRAM: &str = "trap 'exit 0' TERM; while :; do sleep 1000000 & wait $!; done";

/// One figure: what it is, its unit, the value promised, all rounds.
pub(crate) struct Figure {
    pub(crate) name: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) goal: f64,
    pub(crate) rounds: Vec<f64>,
}

impl Figure {
    pub(crate) fn to_json(&self) -> Value {
        let sorted = sorted(&self.rounds);
        json!({
            "name": self.name, "unit": self.unit, "goal": self.goal, "rounds": self.rounds,
            "min": sorted.first(), "median": sorted.get(sorted.len() / 2), "max": sorted.last(),
        })
    }

    pub(crate) fn to_row(&self) -> String {
        let sorted = sorted(&self.rounds);
        let at = |n: usize| sorted.get(n).copied().unwrap_or(f64::NAN);
        let median = at(sorted.len() / 2);
        let verdict = if median <= self.goal { "reached" } else { "missed" };
        let last = at(sorted.len().saturating_sub(1));
        format!(
            "{:<44} {:>9.1} {:>9.1} {:>9.1} {:>9.1} {:<4} {verdict}",
            self.name,
            at(0),
            median,
            last,
            self.goal,
            self.unit
        )
    }
}

/// The rounds in order of size.
pub(crate) fn sorted(rounds: &[f64]) -> Vec<f64> {
    let mut sorted = rounds.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

/// The value that `percent` of the rounds do not pass; NaN of none.
pub(crate) fn percentile(rounds: &[f64], percent: usize) -> f64 {
    let sorted = sorted(rounds);
    let at = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(at).copied().unwrap_or(f64::NAN)
}

pub(crate) fn measure(
    name: &'static str,
    unit: &'static str,
    goal: f64,
    rounds: usize,
    mut once: impl FnMut() -> anyhow::Result<f64>,
) -> anyhow::Result<Figure> {
    let rounds = (0..rounds).map(|_| once()).collect::<anyhow::Result<Vec<f64>>>().with_context(|| name)?;
    Ok(Figure { name, unit, goal, rounds })
}

pub(crate) fn ms(watch: Stopwatch) -> f64 {
    watch.elapsed().as_secs_f64() * 1000.0
}

/// The load averages of 1, 5 and 15 minutes.
pub(crate) fn load() -> anyhow::Result<String> {
    let text = std::fs::read_to_string("/proc/loadavg")?;
    Ok(text.split(' ').take(3).collect::<Vec<_>>().join(" "))
}

/// Prints a line; a closed pipe is no reason to stop.
pub(crate) fn say(line: &str) {
    drop(writeln!(std::io::stdout(), "{line}"));
}

#[cfg(test)]
mod tests {
    use super::percentile;

    #[test]
    fn a_percentile_is_one_of_the_rounds() {
        let rounds: Vec<f64> = (1..=20).map(f64::from).collect();
        for (percent, expect) in [(50, 10.0), (99, 20.0), (1, 1.0)] {
            assert!((percentile(&rounds, percent) - expect).abs() < f64::EPSILON, "{percent}");
        }
        assert!(percentile(&[], 50).is_nan());
    }
}
