//! Hours of bad luck: rounds of random faults and changes on a swarm under writes, then peace.
//!
//! After each round all must come right again within [`HEAL_MAX`]: every node ready, one leader, and what
//! every manager shows in keeping with all that the writers were told; with workers, in each slot exactly one
//! container by the kernel's count, and every node answering on the port. What contradicts an answer that a
//! writer got ends it at once. The seed fixes what is done, not how the machine takes it.

mod books;
mod change;
mod disk;
mod fault;
mod ledger;
mod mark;
mod truth;
mod writer;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, bail};
use skep_e2e::{Cluster, Stopwatch, try_wait_for};

use crate::swarm::Node;
use crate::table::{load, percentile, say};
use fault::Faults;
use ledger::Ledger;

/// The longest that the swarm may take to come right once faults have ended.
const HEAL_MAX: Duration = Duration::from_secs(60);
/// The published port of [`truth::WEB`].
const PORT: u16 = 9100;
const N_MANAGERS: usize = 3;
/// Clients that write at a time: beside workloads, and where there is nothing else.
const WRITERS_OF_FIVE: u64 = 2;
const WRITERS_OF_MANAGERS: u64 = 6;

/// What to run.
pub(crate) struct Options {
    pub(crate) minutes: usize,
    pub(crate) seed: usize,
    /// Beside three managers; without any there are no workloads, and each manager's disk is small.
    pub(crate) workers: usize,
    pub(crate) engine: String,
}

/// A sequence of numbers from a seed (SplitMix64).
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.next().is_multiple_of(n)
    }

    fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        let n = u64::try_from(of.len()).unwrap_or(u64::MAX);
        &of[usize::try_from(self.next() % n).unwrap_or_default()]
    }
}

/// A swarm with all that a soak asks of it.
struct Soak {
    cluster: Cluster,
    nodes: Vec<Node>,
    ledger: Ledger,
    has_workloads: bool,
}

/// Runs for so many minutes; fails at the first thing that is not right.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let whole = Duration::from_secs(u64::try_from(options.minutes)? * 60);
    let seed = u64::try_from(options.seed)?;
    let mut soak = Soak::start(options, seed)?;
    let kinds = if soak.has_workloads { &fault::OF_FIVE[..] } else { &fault::OF_MANAGERS };
    let mut dice = Dice(seed);
    let (mut heals, mut counts) = (Vec::new(), BTreeMap::new());
    let watch = Stopwatch::start();
    while watch.elapsed() < whole {
        let round = heals.len() + 1;
        match soak.round(kinds, &mut dice, &mut counts) {
            Ok((done, took, last)) => {
                heals.push(took);
                let last = if last.is_empty() { last } else { format!(" (last: {last})") };
                let (at, brief) = (watch.elapsed().as_secs(), soak.ledger.brief());
                say(&format!("{at} s, round {round}: {done}; right after {took:.1} s{last}; {brief}"));
            }
            Err(why) => {
                let kept = keep_logs(&soak.cluster)?;
                let at = watch.elapsed().as_secs();
                say(&format!("{at} s, round {round}, seed {seed}: {why:#}\nlogs: {kept}"));
                bail!("it is not right");
            }
        }
    }
    let n = heals.len();
    let (median, worst) = (percentile(&heals, 50), percentile(&heals, 100));
    let counts: Vec<String> = counts.iter().map(|(kind, n)| format!("{kind} {n}")).collect();
    say(&format!("faults: {}", counts.join(", ")));
    say(&format!(
        "{n} rounds, right again after {median:.1} s (median), {worst:.1} s (worst); {}; load average {}",
        soak.ledger.brief(),
        load()?
    ));
    Ok(())
}

impl Soak {
    fn start(options: &Options, seed: u64) -> anyhow::Result<Self> {
        let workers = u8::try_from(options.workers).context("--workers is at most 200")?;
        // With the example, whose image answers requests.
        let mut builder =
            Cluster::builder(u8::try_from(N_MANAGERS)?, workers).example(u16::from(workers > 0));
        if options.engine != "embedded" {
            builder = builder.flag("--engine").flag(&options.engine);
        }
        let mut cluster = builder.start();
        truth::compact_often(&cluster)?;
        let has_workloads = workers > 0;
        if has_workloads {
            truth::create_services(&cluster)?;
        } else {
            let names: Vec<String> = cluster.nodes().iter().map(|n| n.name.clone()).collect();
            names.iter().try_for_each(|name| disk::make_small(&mut cluster, name))?;
        }
        let nodes: Vec<Node> = cluster.nodes().iter().map(node).collect();
        let n_writers = if has_workloads { WRITERS_OF_FIVE } else { WRITERS_OF_MANAGERS };
        let ledger = Ledger::start(&nodes[..N_MANAGERS], seed, n_writers);
        Ok(Self { cluster, nodes, ledger, has_workloads })
    }

    /// Faults, their end, and all right again: what was done, the seconds that it took to come right, and what
    /// was the last that was not.
    fn round(
        &mut self,
        kinds: &[&str],
        dice: &mut Dice,
        counts: &mut BTreeMap<String, usize>,
    ) -> anyhow::Result<(String, f64, String)> {
        let mut faults = Faults::new(&mut self.cluster, self.ledger.shared(), dice);
        faults.strike(kinds, counts)?;
        let done = faults.heal()?;
        let healing = Stopwatch::start();
        let mut last = String::new();
        let right = try_wait_for(HEAL_MAX, || {
            if self.ledger.wrong().is_some() {
                return Some(());
            }
            self.look().map_err(|why| last = why).ok()
        });
        if let Some(wrong) = self.ledger.wrong() {
            bail!("{done}\ncannot be: {wrong}");
        }
        if right.is_none() {
            bail!("{done}\nnot right within {HEAL_MAX:?}: {last}");
        }
        if let Some(line) = truth::panics(&self.cluster) {
            bail!("{done}\na daemon panicked: {line}");
        }
        Ok((done, healing.elapsed().as_secs_f64(), last))
    }

    /// Whether all is right now.
    fn look(&self) -> Result<(), String> {
        truth::whole(&self.cluster)?;
        if self.has_workloads {
            truth::workloads(&self.cluster, &self.nodes)?;
        }
        self.ledger.look(&truth::managers(&self.cluster))
    }
}

fn node(n: &skep_e2e::Node) -> Node {
    Node { name: n.name.clone(), socket: n.socket_path().to_owned(), address: n.address, pid: 0 }
}

/// Copies the daemons' logs to where they outlive the swarm.
fn keep_logs(cluster: &Cluster) -> anyhow::Result<String> {
    let dir = std::env::temp_dir().join(format!("skep-soak-{}", cluster.name()));
    std::fs::create_dir_all(&dir)?;
    for node in cluster.nodes() {
        let name = format!("{}.log", node.name);
        std::fs::copy(cluster.state_dir().join(&name), dir.join(&name))?;
    }
    Ok(dir.display().to_string())
}
