//! How many services a second three managers make, beside the installed Docker: through the API, on kept
//! connections, each client one after the other. A service has no replicas: what is measured is the
//! control plane alone, from the request to the answer that says "kept by a majority".

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, bail};
use serde_json::json;
use skep_e2e::{BUSYBOX, Connection, Stopwatch};

use crate::Flags;
use crate::ours::Ours;
use crate::peer::Peer;
use crate::steps::{self, Rounds};
use crate::swarm::{ANSWER_WAIT_MAX, Daemons, Node, remove_all};
use crate::table::{load, ms, percentile, say};

/// Clients, and how many services they make together.
const RUNS: &[(usize, usize)] = &[(1, 1000), (16, 5000)];

/// What one run gave.
struct Run {
    a_second: f64,
    latencies: Vec<f64>,
}

/// Measures and prints all: each round on a fresh swarm of each kind, in turn.
pub(crate) fn run(flags: &Flags) -> anyhow::Result<()> {
    let rounds = flags.number("--rounds", 3)?;
    let mut table: BTreeMap<(usize, &str, String), Vec<Run>> = BTreeMap::new();
    let before = load()?;
    for _ in 0..rounds {
        for is_peer in [false, true] {
            if is_peer && flags.values("--peer").is_empty() {
                continue;
            }
            let daemons: Box<dyn Daemons> =
                if is_peer { Box::new(Peer::start()?) } else { Box::new(Ours::start("embedded")) };
            steps::form(&*daemons, &mut Rounds::new())?;
            let (leader, other) = steps::leader(&*daemons)?;
            for (n_clients, n) in RUNS {
                for (by, node) in [("leader", &leader), ("follower", &other)] {
                    let run = creates(node, *n_clients, *n)?;
                    table.entry((*n_clients, by, daemons.label())).or_default().push(run);
                    remove_all(node)?;
                }
            }
        }
    }
    show(&table);
    say(&format!("load average before {before}, after {}; {rounds} rounds, in turn", load()?));
    Ok(())
}

fn creates(node: &Node, n_clients: usize, n: usize) -> anyhow::Result<Run> {
    let next = AtomicUsize::new(0);
    let latencies = Mutex::new(Vec::with_capacity(n));
    let client = || -> anyhow::Result<()> {
        let mut connection = Connection::open(&node.socket, ANSWER_WAIT_MAX)?;
        connection.ask("GET", "/_ping", b"")?;
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= n {
                return Ok(());
            }
            let body = json!({
                "Name": format!("made-{number}"),
                "TaskTemplate": {"ContainerSpec": {"Image": BUSYBOX, "Command": ["sleep", "1000"]}},
                "Mode": {"Replicated": {"Replicas": 0}},
                "EndpointSpec": {"Mode": "vip"},
            });
            let body = body.to_string();
            let watch = Stopwatch::start();
            let answer = connection.ask("POST", "/services/create", body.as_bytes())?;
            if answer.status != 201 {
                bail!("create {number}: {} {}", answer.status, answer.message());
            }
            latencies.lock().ok().context("no client panics")?.push(ms(watch));
        }
    };
    let watch = Stopwatch::start();
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..n_clients).map(|_| scope.spawn(client)).collect();
        clients.into_iter().try_for_each(|client| client.join().ok().context("a client panicked")?)
    })?;
    let took = ms(watch);
    let latencies = latencies.into_inner().ok().context("no client panics")?;
    let n = u32::try_from(latencies.len()).context("few")?;
    Ok(Run { a_second: f64::from(n) * 1000.0 / took, latencies })
}

fn show(table: &BTreeMap<(usize, &str, String), Vec<Run>>) {
    say(&format!(
        "{:<8} {:<9} {:<28} {:>8} {:>8} {:>8} {:>8} {:>8}",
        "clients", "by", "of", "min/s", "median/s", "max/s", "p50 ms", "p99 ms"
    ));
    for ((n_clients, by, label), runs) in table {
        let rates: Vec<f64> = runs.iter().map(|run| run.a_second).collect();
        let latencies: Vec<f64> = runs.iter().flat_map(|run| run.latencies.clone()).collect();
        say(&format!(
            "{n_clients:<8} {by:<9} {label:<28} {:>8.0} {:>8.0} {:>8.0} {:>8.2} {:>8.2}",
            percentile(&rates, 0),
            percentile(&rates, 50),
            percentile(&rates, 100),
            percentile(&latencies, 50),
            percentile(&latencies, 99),
        ));
    }
}
