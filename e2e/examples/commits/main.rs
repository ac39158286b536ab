//! Raw commits a second of three members on this machine, each a process with its log on disk and its peers
//! over TCP, beside three of etcd; in turn, the same clients and payloads.
//!
//! `cargo run --release -p skep-e2e --example commits -- [ROUNDS]`; etcd must be installed (etcd-server).

#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]

mod etcd;
mod frames;
mod ours;

use std::collections::BTreeMap;
use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use tokio::time::Instant;

/// Writers that each wait for their commit before the next.
const WRITERS: [usize; 4] = [1, 16, 64, 256];
/// How long each figure is measured, after a tenth of it to warm up.
const SPAN: Duration = Duration::from_secs(4);
/// Connections that the writers share.
const CONNECTIONS: usize = 4;
const PAYLOAD_BYTES: usize = 256;

/// Rounds by the number of writers and by who was measured: commits a second, and the median and 99th
/// percentile of a commit in ms.
type Table = BTreeMap<(usize, &'static str), Vec<(f64, f64, f64)>>;

/// Three members, ended when dropped.
trait Members {
    /// Commits one payload through the leader.
    fn write(
        &self,
        connection: usize,
        writer: u64,
        payload: Vec<u8>,
    ) -> impl Future<Output = anyhow::Result<()>> + Send;
}

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|arg| arg == "member") {
        return ours::member(&args[1..]);
    }
    let rounds: usize = args.first().map_or(Ok(3), |arg| arg.parse()).context("ROUNDS is a number")?;
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        let mut table = Table::new();
        for _ in 0..rounds {
            let ours = std::sync::Arc::new(ours::Ours::start().await?);
            for writers in WRITERS {
                table.entry((writers, "skep")).or_default().push(measure(&ours, writers).await?);
            }
            drop(ours);
            let etcd = std::sync::Arc::new(etcd::Etcd::start().await?);
            for writers in WRITERS {
                table.entry((writers, "etcd")).or_default().push(measure(&etcd, writers).await?);
            }
        }
        show(&table);
        anyhow::Ok(())
    })
}

/// One cell of the table.
async fn measure<M: Members + Send + Sync + 'static>(
    members: &std::sync::Arc<M>,
    writers: usize,
) -> anyhow::Result<(f64, f64, f64)> {
    let began = Instant::now();
    let (from, until) = (began + SPAN / 10, began + SPAN / 10 + SPAN);
    let tasks: Vec<_> = (0..writers)
        .map(|writer| {
            let members = members.clone();
            tokio::spawn(async move {
                let mut latencies = Vec::new();
                while Instant::now() < until {
                    let sent = Instant::now();
                    let number = u64::try_from(writer)?;
                    members.write(writer % CONNECTIONS, number, vec![b'x'; PAYLOAD_BYTES]).await?;
                    if sent >= from {
                        latencies.push(sent.elapsed().as_secs_f64() * 1000.0);
                    }
                }
                anyhow::Ok(latencies)
            })
        })
        .collect();
    let mut latencies = Vec::new();
    for task in tasks {
        latencies.extend(task.await??);
    }
    latencies.sort_by(f64::total_cmp);
    let at = |percent: usize| latencies.get(latencies.len() * percent / 100).copied().unwrap_or(f64::NAN);
    let n = u32::try_from(latencies.len()).context("few enough")?;
    Ok((f64::from(n) / SPAN.as_secs_f64(), at(50), at(99)))
}

fn show(table: &Table) {
    let median = |rounds: &[(f64, f64, f64)], of: fn(&(f64, f64, f64)) -> f64| {
        let mut values: Vec<f64> = rounds.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    println!(
        "{:>8} {:<6} {:>10} {:>10} {:>10} {:>10} {:>10} {:>7}",
        "writers", "of", "min/s", "median/s", "max/s", "p50 ms", "p99 ms", "ratio"
    );
    for ((writers, of), rounds) in table {
        let mut rates: Vec<f64> = rounds.iter().map(|round| round.0).collect();
        rates.sort_by(f64::total_cmp);
        let etcd = table.get(&(*writers, "etcd")).map_or(f64::NAN, |rounds| median(rounds, |r| r.0));
        println!(
            "{writers:>8} {of:<6} {:>10.0} {:>10.0} {:>10.0} {:>10.2} {:>10.2} {:>7.2}",
            rates[0],
            median(rounds, |r| r.0),
            rates[rates.len() - 1],
            median(rounds, |r| r.1),
            median(rounds, |r| r.2),
            median(rounds, |r| r.0) / etcd,
        );
    }
}

/// A fresh directory for one run, on the disk that the current directory is on.
fn fresh_dir(name: &str) -> anyhow::Result<PathBuf> {
    let dir = std::env::current_dir()?.join("target").join(format!("commits-{name}-{}", std::process::id()));
    drop(std::fs::remove_dir_all(&dir));
    std::fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
    Ok(dir)
}
