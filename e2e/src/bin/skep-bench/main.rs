//! The figures that we promise, measured on swarms of `skep dev` and beside the dockerd of this machine.
//!
//! Prints a table for people and, last, one line of JSON for programs, with the machine's load before
//! and after: figures of a loaded machine are rough. Never two swarms at once.

mod creates;
mod five;
mod one;
mod ours;
mod peer;
mod quiet;
mod soak;
mod steps;
mod swarm;
mod table;

use std::collections::BTreeMap;

use anyhow::{Context as _, bail};

const USAGE: &str = "usage: skep-bench [one] [--rounds N]
       skep-bench five [--engine embedded|docker]... [--peer dockerd] [--rounds N] [--failovers N]
       skep-bench creates [--peer dockerd] [--rounds N]
       skep-bench quiet [--minutes N] [--spin N]
       skep-bench soak [--minutes N] [--seed N] [--workers N] [--engine embedded|docker]";

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (command, flags) = match args.split_first() {
        Some((first, rest)) if !first.starts_with("--") => (first.as_str(), rest),
        Some(_) | None => ("one", args.as_slice()),
    };
    let flags = Flags::read(flags)?;
    match command {
        "one" => one::run(flags.number("--rounds", 3)?),
        "five" => five::run(&flags),
        "creates" => creates::run(&flags),
        "quiet" => {
            let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
            quiet::run(flags.number("--minutes", 10)?, flags.number("--spin", cores)?)
        }
        "soak" => {
            let engine = flags.values("--engine").last().map_or("embedded", String::as_str);
            soak::run(&soak::Options {
                minutes: flags.number("--minutes", 10)?,
                seed: flags.number("--seed", 1)?,
                workers: flags.number("--workers", 2)?,
                engine: engine.to_owned(),
            })
        }
        other => bail!("{other} is no command\n{USAGE}"),
    }
}

/// Flags and their values, in the order given.
pub(crate) struct Flags(BTreeMap<String, Vec<String>>);

impl Flags {
    fn read(args: &[String]) -> anyhow::Result<Self> {
        let mut flags: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for pair in args.chunks(2) {
            let [flag, value] = pair else { bail!("{} has no value\n{USAGE}", pair.concat()) };
            let known = [
                "--rounds",
                "--failovers",
                "--minutes",
                "--spin",
                "--seed",
                "--workers",
                "--engine",
                "--peer",
            ];
            if !known.contains(&flag.as_str()) {
                bail!("{flag} is no flag\n{USAGE}");
            }
            flags.entry(flag.clone()).or_default().push(value.clone());
        }
        Ok(Self(flags))
    }

    pub(crate) fn values(&self, flag: &str) -> &[String] {
        self.0.get(flag).map(Vec::as_slice).unwrap_or_default()
    }

    pub(crate) fn number(&self, flag: &str, default: usize) -> anyhow::Result<usize> {
        let Some(text) = self.values(flag).last() else { return Ok(default) };
        text.parse().with_context(|| format!("{flag} {text} is no number"))
    }
}
