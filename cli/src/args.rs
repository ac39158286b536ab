//! The command line, and what is said when it is wrong: Docker's words and exit codes.

use std::{ffi::OsString, process::ExitCode};

use clap::{
    Parser, Subcommand,
    error::{ContextKind, ContextValue, ErrorKind},
};

use crate::{client, daemon::DaemonCommand, dev::DevArgs};

/// The exit code for a flag that is not known or has a value that it cannot have.
const EXIT_FLAG: u8 = 125;

/// Orchestrates containers on a swarm of machines
#[derive(Parser, Debug)]
#[command(name = "skep", version, disable_help_subcommand = true)]
pub(crate) struct Cli {
    /// Daemon to talk to, as unix:///path or tcp://host:port (or SKEP_HOST, DOCKER_HOST)
    #[arg(short = 'H', long, value_name = "URL")]
    pub(crate) host: Option<String>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Run a node
    Daemon(DaemonCommand),
    /// Run a swarm on this machine, each node in a network namespace of its own
    Dev(DevArgs),
    #[command(flatten)]
    Client(client::Command),
}

/// What stands after a subcommand's name on this program's command line.
pub(crate) fn after(command: &str) -> Vec<OsString> {
    std::env::args_os().skip(1).skip_while(|word| word != command).skip(1).collect()
}

/// Says what is wrong with the command line; help and the version are no mistakes.
pub(crate) fn refuse(error: &clap::Error) -> ExitCode {
    let kind = error.kind();
    if kind == ErrorKind::UnknownArgument || kind == ErrorKind::InvalidSubcommand {
        return refuse_unknown(error);
    }
    // Clap's own words: help goes to stdout, a mistake to stderr.
    if error.print().is_err() {
        return ExitCode::FAILURE;
    }
    let is_value = matches!(
        kind,
        ErrorKind::InvalidValue
            | ErrorKind::ValueValidation
            | ErrorKind::NoEquals
            | ErrorKind::TooManyValues
            | ErrorKind::ArgumentConflict
    );
    if is_value {
        ExitCode::from(EXIT_FLAG)
    } else if matches!(kind, ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Names the flag or command that there is not.
fn refuse_unknown(error: &clap::Error) -> ExitCode {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        Some(ContextValue::StyledStr(text)) => Some(text.to_string()),
        Some(_) | None => None,
    };
    let command = text(ContextKind::InvalidSubcommand).map(|word| format!("skep: unknown command: {word}"));
    let argument = text(ContextKind::InvalidArg).unwrap_or_default();
    let words = command.unwrap_or_else(|| match argument.strip_prefix('-') {
        Some(rest) if !rest.starts_with('-') => format!("unknown shorthand flag: '{rest}' in {argument}"),
        Some(_) => format!("unknown flag: {argument}"),
        None => format!("skep: unexpected argument '{argument}'"),
    });
    eprintln!("{words}");
    if let Some(usage) = text(ContextKind::Usage) {
        let usage = usage.trim().trim_start_matches("Usage:").trim_start().to_owned();
        let is_path = |word: &&str| word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-');
        let path: Vec<&str> = usage.split_ascii_whitespace().take_while(is_path).collect();
        eprintln!("\nUsage:  {usage}\n\nRun '{} --help' for more information", path.join(" "));
    }
    if argument.starts_with('-') { ExitCode::from(EXIT_FLAG) } else { ExitCode::FAILURE }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_sound() {
        super::Cli::command().debug_assert();
    }
}
