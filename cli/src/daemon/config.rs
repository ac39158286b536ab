//! The daemon's config file: its keys are the long flags, its values go where no flag was given.
//!
//! It is read as arguments that stand before the real ones, so a flag that there is is a key that there is,
//! and both are checked by the same words.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, anyhow, bail};
use clap::{Arg, ArgAction, ArgMatches, Args as _, Command, FromArgMatches as _, parser::ValueSource};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::DaemonArgs;

/// Read when there is one and no other was named.
const FILE_DEFAULT: &str = "/etc/skep/skep.toml";
/// Larger is no config file.
const BYTES_MAX: u64 = 1 << 20;
/// Flags that are no settings.
const NO_KEYS: [&str; 4] = ["config", "check", "help", "version"];

/// What a daemon is started with, and where each setting came from.
#[derive(Debug)]
pub(crate) struct Effective {
    pub(crate) args: DaemonArgs,
    /// `key = value  # origin`, for `--check`.
    lines: Vec<String>,
}

impl Effective {
    /// Takes in the config file that the command line names, or the default one. `words` are the arguments
    /// after `skep daemon`.
    ///
    /// # Errors
    /// Names file, line and key of what is wrong in the file.
    pub(crate) fn of(words: &[OsString]) -> anyhow::Result<Self> {
        let given = parse(&[], words)?;
        let named = DaemonArgs::from_arg_matches(&given)?.config;
        let Some((path, text)) = read(named)? else { return Self::from_matches(&given, None, &given) };
        let mut from_file = Vec::new();
        for (word, at) in arguments(&path, &text, &given)? {
            // Alone first: what is wrong with it is said with its place.
            if let Err(error) =
                command().try_get_matches_from([OsString::from("skep daemon"), word.clone().into()])
            {
                return Err(anyhow!("{at}: {}", brief(&error)));
            }
            from_file.push(word.into());
        }
        Self::from_matches(&parse(&from_file, words)?, Some(&path), &given)
    }

    fn from_matches(matches: &ArgMatches, file: Option<&Path>, given: &ArgMatches) -> anyhow::Result<Self> {
        let args = DaemonArgs::from_arg_matches(matches)?;
        let command = command();
        let settings = command.get_arguments().filter(|arg| is_key(arg));
        let lines = settings.filter_map(|arg| line(arg, matches, file, given)).collect();
        Ok(Self { args, lines })
    }

    /// All settings, as a config file would have them.
    pub(crate) fn text(&self) -> String {
        self.lines.iter().map(|line| format!("{line}\n")).collect()
    }
}

fn command() -> Command {
    DaemonArgs::augment_args(Command::new("skep daemon"))
}

fn parse(first: &[OsString], words: &[OsString]) -> Result<ArgMatches, clap::Error> {
    let name = OsString::from("skep daemon");
    command().try_get_matches_from([name].iter().chain(first).chain(words))
}

/// Clap's sentence without its frame.
fn brief(error: &clap::Error) -> String {
    let text = error.to_string();
    let first = text.lines().next().unwrap_or_default();
    first.trim_start_matches("error: ").to_owned()
}

fn read(named: Option<PathBuf>) -> anyhow::Result<Option<(PathBuf, String)>> {
    let is_named = named.is_some();
    let path = named.unwrap_or_else(|| FILE_DEFAULT.into());
    let about = match std::fs::metadata(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !is_named => return Ok(None),
        other => other.with_context(|| format!("--config: cannot read {}", path.display()))?,
    };
    if about.len() > BYTES_MAX {
        bail!("--config: {} is larger than {BYTES_MAX} bytes", path.display());
    }
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("--config: cannot read {}", path.display()))?;
    Ok(Some((path, text)))
}

fn is_key(arg: &Arg) -> bool {
    arg.get_long().is_some_and(|long| !NO_KEYS.contains(&long))
}

fn is_list(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::Append)
}

/// The flag of a key; of a list's also in the plural.
fn find<'a>(command: &'a Command, key: &str) -> Option<&'a Arg> {
    let singular = key.strip_suffix('s').unwrap_or(key);
    let y = key.strip_suffix("ies").map(|stem| format!("{stem}y"));
    command.get_arguments().filter(|arg| is_key(arg)).find(|arg| {
        let long = arg.get_long().unwrap_or_default();
        long == key || is_list(arg) && (long == singular || y.as_deref() == Some(long))
    })
}

/// `--key=value` of each setting that no flag gave, with its place in the file.
fn arguments(path: &Path, text: &str, given: &ArgMatches) -> anyhow::Result<Vec<(String, String)>> {
    let place = |at: usize| {
        let n = text.get(..at).unwrap_or_default().matches('\n').count() + 1;
        format!("{}:{n}", path.display())
    };
    let table = DeTable::parse(text).map_err(|error| {
        anyhow!("{}: {}", place(error.span().map_or(0, |span| span.start)), error.message())
    })?;
    let command = command();
    let mut out = Vec::new();
    for (key, value) in table.get_ref() {
        let (name, at) = (key.get_ref().as_ref(), place(key.span().start));
        let Some(arg) = find(&command, name) else {
            bail!("{at}: unknown key '{name}'; the keys are the daemon's long flags (skep daemon --help)");
        };
        if given.value_source(arg.get_id().as_str()) == Some(ValueSource::CommandLine) {
            continue;
        }
        let long = arg.get_long().unwrap_or_default();
        let values =
            values(arg, value).map_err(|expected| anyhow!("{at}: {name}: {expected} is expected"))?;
        let is_switch = matches!(arg.get_action(), ArgAction::SetTrue);
        let word = |value: &String| if is_switch { format!("--{long}") } else { format!("--{long}={value}") };
        out.extend(values.iter().map(|value| (word(value), format!("{at}: {name}"))));
    }
    Ok(out)
}

/// The words of a value; else what is expected.
fn values(arg: &Arg, value: &Spanned<DeValue<'_>>) -> Result<Vec<String>, &'static str> {
    if matches!(arg.get_action(), ArgAction::SetTrue) {
        return match value.get_ref() {
            DeValue::Boolean(on) => Ok(if *on { vec![String::new()] } else { Vec::new() }),
            DeValue::String(_)
            | DeValue::Integer(_)
            | DeValue::Float(_)
            | DeValue::Datetime(_)
            | DeValue::Array(_)
            | DeValue::Table(_) => Err("true or false"),
        };
    }
    if !is_list(arg) {
        return Ok(vec![scalar(value.get_ref()).ok_or("a string or a number")?]);
    }
    let expected = "a list of strings, or a table of strings,";
    match value.get_ref() {
        DeValue::Array(items) => items.iter().map(|item| scalar(item.get_ref()).ok_or(expected)).collect(),
        DeValue::Table(members) => members
            .iter()
            .map(|(key, value)| Ok(format!("{}={}", key.get_ref(), scalar(value.get_ref()).ok_or(expected)?)))
            .collect(),
        DeValue::String(_)
        | DeValue::Integer(_)
        | DeValue::Float(_)
        | DeValue::Boolean(_)
        | DeValue::Datetime(_) => Err(expected),
    }
}

fn scalar(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) => Some(number.as_str().replace('_', "")),
        DeValue::Float(number) => Some(number.as_str().replace('_', "")),
        DeValue::Boolean(_) | DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => None,
    }
}

/// One setting as the file has it, with its origin; `None` for one that is not set.
fn line(arg: &Arg, matches: &ArgMatches, file: Option<&Path>, given: &ArgMatches) -> Option<String> {
    let (id, long) = (arg.get_id().as_str(), arg.get_long()?);
    let source = matches.value_source(id)?;
    let origin = match (source, file) {
        (ValueSource::DefaultValue, _) => "default".to_owned(),
        _ if given.value_source(id) == Some(ValueSource::CommandLine) => "flag".to_owned(),
        (_, Some(file)) => file.display().to_string(),
        (_, None) => "flag".to_owned(),
    };
    let quoted = |text: &str| {
        if text.parse::<f64>().is_ok_and(f64::is_finite) {
            text.to_owned()
        } else {
            serde_json::Value::from(text).to_string()
        }
    };
    let value = if matches!(arg.get_action(), ArgAction::SetTrue) {
        matches.get_flag(id).to_string()
    } else {
        let all: Vec<String> = matches.get_raw(id)?.map(|one| quoted(&one.to_string_lossy())).collect();
        if is_list(arg) { format!("[{}]", all.join(", ")) } else { all.concat() }
    };
    Some(format!("{long} = {value}  # {origin}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn effective(text: &str, flags: &str) -> anyhow::Result<Effective> {
        let dir = tempfile::tempdir()?;
        let file = dir.path().join("skep.toml");
        std::fs::write(&file, text)?;
        let mut words: Vec<OsString> = vec!["--config".into(), file.clone().into()];
        words.extend(flags.split_ascii_whitespace().map(OsString::from));
        Effective::of(&words)
            .map_err(|error| anyhow!("{}", format!("{error:#}").replace(&file.display().to_string(), "FILE")))
    }

    const SAMPLE: &str = "# A comment.\nnode-name = \"alpha\"\ncpus = 2\nmemory = \"2g\"\n\n[labels]\nzone = \"a\"\nssd = \"\"\n";

    #[test]
    fn flags_win_over_the_file_and_the_file_over_defaults() {
        let args = effective(SAMPLE, "").unwrap().args;
        assert_eq!(
            (args.node_name.as_deref(), args.cpus, args.memory.as_deref()),
            (Some("alpha"), Some(2.0), Some("2g"))
        );
        assert_eq!(args.labels, ["ssd=", "zone=a"]);
        assert_eq!(args.log_level, "info");
        let out = effective(SAMPLE, "--node-name beta --label x=y --log-level=debug").unwrap();
        assert_eq!((out.args.node_name.as_deref(), out.args.log_level.as_str()), (Some("beta"), "debug"));
        assert_eq!(out.args.labels, ["x=y"], "a list is the flags' or the file's");
        let text = out.text();
        for line in [
            "node-name = \"beta\"  # flag",
            "cpus = 2  # /",
            "log-level = \"debug\"  # flag",
            "state-dir = \"/var/lib/skep\"  # default",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        for (text, expect) in [
            ("\nnod-name = \"a\"\n", "FILE:2: unknown key 'nod-name'; the keys are"),
            ("config = \"x\"\n", "FILE:1: unknown key 'config'"),
            ("cpus = \"many\"\n", "FILE:1: cpus: invalid value 'many' for '--cpus <NUMBER>'"),
            ("cpus = true\n", "FILE:1: cpus: a string or a number is expected"),
            ("node-name = [\"a\"]\n", "FILE:1: node-name: a string or a number is expected"),
            ("label = \"a=b\"\n", "FILE:1: label: a list of strings, or a table of strings, is expected"),
            ("advertise-addr = \"x\"\n", "FILE:1: advertise-addr: invalid value 'x'"),
            ("a = 1\na = 2\n", "FILE:2: duplicate key"),
            ("node-name\n", "FILE:1: "),
        ] {
            let error = format!("{:#}", effective(text, "").unwrap_err());
            assert!(error.starts_with(expect), "{text}: {error}");
        }
        let missing = Effective::of(&["--config".into(), "/nowhere/skep.toml".into()]).unwrap_err();
        assert!(
            format!("{missing:#}").starts_with("--config: cannot read /nowhere/skep.toml"),
            "{missing:#}"
        );
    }

    #[test]
    fn the_sample_file_is_sound() {
        let sample = include_str!("../../../docs/howto/skep.toml");
        effective(sample, "").unwrap();
        // What it shows commented out has to be right too.
        let all: String =
            sample.lines().map(|line| format!("{}\n", line.strip_prefix("#= ").unwrap_or(line))).collect();
        effective(&all, "").unwrap();
    }
}
