//! The client's commands: each a few calls of the Docker Engine API, so they work against any engine.

mod connection;
mod create;
mod daemon;
mod duration;
mod flags;
mod frames;
mod image;
mod info;
mod logs;
mod node;
mod output;
mod progress;
mod registry_auth;
mod service;
mod swarm;
mod tasks;
#[cfg(test)]
mod tests;
mod version;

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Subcommand;

use connection::Connection;

/// What is asked of a daemon.
#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Manage the swarm
    #[command(subcommand)]
    Swarm(swarm::Command),
    /// Manage the swarm's nodes
    #[command(subcommand)]
    Node(node::Command),
    /// Manage services
    #[command(subcommand)]
    Service(service::Command),
    /// Manage this node's images
    #[command(subcommand)]
    Image(image::Command),
    /// Display information on the daemon and its swarm
    Info(info::Info),
    /// Show the versions of the client and the daemon
    Version,
}

/// Where the daemon is unless told otherwise.
const HOST_DEFAULT: &str = "unix:///run/skep/skep.sock";

/// Carries out one command. `host` is the flag's.
///
/// # Errors
/// What the daemon answered, or why it could not be asked.
pub(crate) fn run(host: Option<String>, command: Command) -> anyhow::Result<ExitCode> {
    runtime()?.block_on(dispatch(&host_of(host), command))
}

/// Asks the daemon to stop, and waits for its end. `host` is the flag's.
///
/// # Errors
/// As [`run`]; it does not end.
pub(crate) fn stop_daemon(host: Option<String>, shutdown: bool) -> anyhow::Result<ExitCode> {
    runtime()?.block_on(daemon::stop(&host_of(host), shutdown)).map(|()| ExitCode::SUCCESS)
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")
}

/// The daemon that the flag names, or the environment.
fn host_of(flag: Option<String>) -> String {
    let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    flag.or_else(|| variable("SKEP_HOST"))
        .or_else(|| variable("DOCKER_HOST"))
        .unwrap_or_else(|| HOST_DEFAULT.to_owned())
}

async fn dispatch(host: &str, command: Command) -> anyhow::Result<ExitCode> {
    if let Command::Version = command {
        return version::run(host).await;
    }
    if let Command::Swarm(command) = &command
        && let Some(done) = swarm::without_daemon(command)
    {
        return done.map(|()| ExitCode::SUCCESS);
    }
    let daemon = Connection::negotiate(host).await?;
    match command {
        Command::Swarm(command) => swarm::run(&daemon, command).await,
        Command::Node(command) => node::run(&daemon, command).await,
        Command::Service(command) => service::run(&daemon, command).await,
        Command::Image(command) => image::run(&daemon, command).await,
        Command::Info(flags) => info::run(&daemon, &flags).await,
        Command::Version => Ok(()),
    }
    .map(|()| ExitCode::SUCCESS)
}
