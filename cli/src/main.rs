//! The binary `skep`: the client's commands, the daemon, and `skep dev`.

mod args;
mod client;
mod daemon;
mod dev;
mod http;
mod units;

use std::process::ExitCode;

use clap::Parser as _;

use args::{Cli, Command};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return args::refuse(&error),
    };
    let done = match cli.command {
        Command::Daemon(daemon) => match daemon.asked {
            Some(daemon::Asked::Stop(flags)) => client::stop_daemon(cli.host, flags.shutdown),
            None => daemon::run(&args::after("daemon")),
        },
        Command::Dev(args) => dev::run(args),
        Command::Client(command) => client::run(cli.host, command),
    };
    done.unwrap_or_else(|error| {
        eprintln!("{error:#}");
        ExitCode::FAILURE
    })
}
