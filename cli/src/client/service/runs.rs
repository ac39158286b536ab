//! `skep service runs`: the runs of a scheduled job.

use clap::Args;
use serde_json::Value;

use crate::client::{
    connection::{Connection, escape},
    output::{self, Format, print, text},
};

#[derive(Args, Debug)]
pub(crate) struct Flags {
    /// 'table' or 'json'
    #[arg(long)]
    format: Option<String>,
    #[arg(value_name = "SERVICE")]
    service: String,
}

pub(super) async fn run(daemon: &Connection, flags: &Flags) -> anyhow::Result<()> {
    let format = Format::parse(flags.format.as_deref())?;
    let answer = daemon.get(&format!("/skep/services/{}/runs", escape(&flags.service))).await?;
    let runs: Vec<&Value> = answer["Runs"].as_array().into_iter().flatten().collect();
    let head = ["ITERATION", "STARTED", "ENDED", "COMPLETED", "FAILED"];
    output::list(format, &head, runs.into_iter().map(row).collect())?;
    match (format, answer["Next"].as_str()) {
        (Format::Table, Some(next)) => print(&format!("next run: {next}\n")),
        (Format::Table | Format::Json, _) => Ok(()),
    }
}

fn row(run: &Value) -> (Vec<String>, Value) {
    let number = |key: &str| run[key].as_u64().unwrap_or(0).to_string();
    let ended = if run["Ended"].is_null() { "running" } else { text(run, "/Ended") };
    let cells = [
        number("Iteration"),
        text(run, "/Started").to_owned(),
        ended.to_owned(),
        number("Completed"),
        number("Failed"),
    ];
    (cells.to_vec(), run.clone())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn runs_are_shown_in_rows() {
        let run = json!({ "Iteration": 3, "Started": "a", "Ended": null, "Completed": 1, "Failed": 0 });
        assert_eq!(row(&run).0, ["3", "a", "running", "1", "0"]);
        let over = json!({ "Iteration": 2, "Started": "a", "Ended": "b", "Completed": 1, "Failed": 2 });
        assert_eq!(row(&over).0, ["2", "a", "b", "1", "2"]);
    }
}
