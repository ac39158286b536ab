//! Hours of bad luck: rounds of random faults and changes on a swarm of five under writes, then peace.
//!
//! After each round all must come right again within [`HEAL_MAX`]: every node ready, one leader, in each
//! slot exactly one container by the kernel's count, every node answering on the port, and every service
//! whose creation was acknowledged there once. The seed fixes what is done, not how the machine takes it.

mod fault;
mod ledger;
mod truth;

use std::time::Duration;

use anyhow::bail;
use skep_e2e::{Cluster, Stopwatch, try_wait_for};

use crate::swarm::Node;
use crate::table::{load, percentile, say};
use fault::Faults;
use ledger::Ledger;

/// The longest that the swarm may take to come right once faults have ended.
const HEAL_MAX: Duration = Duration::from_secs(60);
/// The published port of [`truth::WEB`].
const PORT: u16 = 9100;

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

    fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        let n = u64::try_from(of.len()).unwrap_or(u64::MAX);
        &of[usize::try_from(self.next() % n).unwrap_or_default()]
    }
}

/// Runs for `minutes`; fails at the first round after which something is not right.
pub(crate) fn run(minutes: usize, seed: usize, engine: &str) -> anyhow::Result<()> {
    let whole = Duration::from_secs(u64::try_from(minutes)? * 60);
    // With the example, whose image answers requests.
    let mut builder = Cluster::builder(3, 2).example(1);
    if engine != "embedded" {
        builder = builder.flag("--engine").flag(engine);
    }
    let mut cluster = builder.start();
    truth::create_services(&cluster)?;
    let nodes: Vec<Node> = cluster.nodes().iter().map(node).collect();
    let ledger = Ledger::start(&nodes[..3]);
    let mut dice = Dice(u64::try_from(seed)?);
    let mut heals = Vec::new();
    let watch = Stopwatch::start();
    while watch.elapsed() < whole {
        let round = heals.len() + 1;
        let mut faults = Faults::new(&mut cluster, &mut dice);
        faults.strike();
        let done = faults.heal()?;
        let at = watch.elapsed().as_secs();
        let healing = Stopwatch::start();
        let wrong = match come_right(&cluster, &nodes, &ledger) {
            Ok(wrong) => wrong,
            Err(why) => {
                let kept = keep_logs(&cluster)?;
                say(&format!("{at} s, round {round}, seed {seed}: {done}\nnot right: {why}\nlogs: {kept}"));
                bail!("the swarm did not come right within {HEAL_MAX:?}");
            }
        };
        let took = healing.elapsed().as_secs_f64();
        heals.push(took);
        truth::a_manager(&cluster).into_iter().for_each(|by| ledger.tidy(&by));
        let last = if wrong.is_empty() { String::new() } else { format!(" (last: {wrong})") };
        say(&format!("{at} s, round {round}: {done}; right after {took:.1} s{last}; {}", ledger.brief()));
    }
    let n = heals.len();
    let (median, worst) = (percentile(&heals, 50), percentile(&heals, 100));
    say(&format!(
        "{n} rounds, right again after {median:.1} s (median), {worst:.1} s (worst); {}; load average {}",
        ledger.brief(),
        load()?
    ));
    Ok(())
}

/// Waits until all is right; what was the last that was not. At the limit, that as an error.
fn come_right(cluster: &Cluster, nodes: &[Node], ledger: &Ledger) -> Result<String, String> {
    let mut wrong = String::new();
    let right = try_wait_for(HEAL_MAX, || {
        let by = truth::a_manager(cluster).ok_or("no manager answers".to_owned());
        let looked = by.and_then(|by| truth::look(cluster, nodes).and_then(|()| ledger.look(&by)));
        looked.map_err(|why| wrong = why).ok()
    });
    if right.is_some() { Ok(wrong) } else { Err(wrong) }
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
