//! skep's own labels of a service: what goes beyond Swarm is asked for with them.
//!
//! One table says which there are, and what their values look like.

use std::time::Duration;

use super::ServiceSpec;
use crate::{
    constraint::{Constraint, Subject},
    span,
};

/// What labels of ours begin with.
pub const SKEP_LABEL_PREFIX: &str = "skep.";

/// The most that a soft constraint weighs.
pub const SOFT_WEIGHT_MAX: u32 = 1_000;

/// A label of ours.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum SkepLabel {
    /// A task of an update that does not run by then has failed.
    ProgressDeadline,
    /// How many past specs are kept.
    UpdateHistory,
    /// Restart delays double up to that.
    BackoffMax,
    /// Moves a minute towards an even spread; 0 for none.
    Rebalance,
    /// Which nodes come first.
    Strategy,
    /// The label of nodes that says what share of the tasks is theirs.
    SpreadWeight,
    /// A constraint that may be missed. There may be several, each with a name of its own behind the key.
    Soft,
    /// Higher ones may take the room of lower ones.
    Priority,
    /// When a job runs.
    Cron,
    /// The time zone that this is meant in.
    CronZone,
    /// What becomes of a run whose predecessor still runs.
    CronOverlap,
    /// How many past runs are kept.
    CronHistory,
}

/// What values look like.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Form {
    /// A span that is longer than nothing: `10m`.
    Span,
    /// A whole number from 0 to that.
    Number(u64),
    /// One of these.
    Word(&'static [&'static str]),
    /// Anything but nothing.
    Text,
    /// A label of nodes, as in a preference: `node.labels.size`.
    LabelOfNode,
    /// A constraint, and behind a comma, which no constraint has, what it weighs: `node.labels.disk==ssd,10`.
    Soft,
}

struct Row {
    label: SkepLabel,
    key: &'static str,
    form: Form,
}

const fn row(label: SkepLabel, key: &'static str, form: Form) -> Row {
    Row { label, key, form }
}

const ROWS: &[Row] = &[
    row(SkepLabel::ProgressDeadline, "skep.update.progress-deadline", Form::Span),
    row(SkepLabel::UpdateHistory, "skep.update.history", Form::Number(100)),
    row(SkepLabel::BackoffMax, "skep.restart.backoff-max", Form::Span),
    row(SkepLabel::Rebalance, "skep.rebalance", Form::Number(1_000)),
    row(SkepLabel::Strategy, "skep.strategy", Form::Word(&["spread", "binpack"])),
    row(SkepLabel::SpreadWeight, "skep.spread.weight", Form::LabelOfNode),
    row(SkepLabel::Soft, "skep.soft.", Form::Soft),
    row(SkepLabel::Priority, "skep.priority", Form::Number(100)),
    row(SkepLabel::Cron, "skep.cron", Form::Text),
    row(SkepLabel::CronZone, "skep.cron.tz", Form::Text),
    row(SkepLabel::CronOverlap, "skep.cron.overlap", Form::Word(&["skip", "replace"])),
    row(SkepLabel::CronHistory, "skep.cron.history", Form::Number(100)),
];

impl SkepLabel {
    /// The label that a key is for.
    #[must_use]
    pub fn find(key: &str) -> Option<Self> {
        let is_it = |row: &&Row| match row.form {
            Form::Soft => key.strip_prefix(row.key).is_some_and(|name| !name.is_empty()),
            Form::Span | Form::Number(_) | Form::Word(_) | Form::Text | Form::LabelOfNode => key == row.key,
        };
        ROWS.iter().find(is_it).map(|row| row.label)
    }

    /// All keys, as one writes them.
    #[must_use]
    pub fn keys() -> Vec<String> {
        let written = |row: &Row| match row.form {
            Form::Soft => format!("{}<name>", row.key),
            Form::Span | Form::Number(_) | Form::Word(_) | Form::Text | Form::LabelOfNode => {
                row.key.to_owned()
            }
        };
        ROWS.iter().map(written).collect()
    }

    /// Its key, or what its keys begin with.
    #[must_use]
    pub fn key(self) -> &'static str {
        self.row().key
    }

    /// Checks a value.
    ///
    /// # Errors
    /// What values look like.
    pub fn check(self, value: &str) -> Result<(), String> {
        match self.row().form {
            Form::Span => match span::parse(value)? {
                ..=0 => Err("must be longer than 0s".to_owned()),
                _ => Ok(()),
            },
            Form::Number(max) => match value.parse::<u64>() {
                Ok(number) if number <= max => Ok(()),
                Ok(_) | Err(_) => Err(format!("must be a whole number from 0 to {max}")),
            },
            Form::Word(words) if words.contains(&value) => Ok(()),
            Form::Word(words) => Err(format!("must be one of {}", words.join(", "))),
            Form::Text if value.is_empty() => Err("must not be empty".to_owned()),
            Form::Text => Ok(()),
            Form::LabelOfNode => match Subject::of(value) {
                Subject::NodeLabel(key) | Subject::EngineLabel(key) if !key.is_empty() => Ok(()),
                Subject::NodeLabel(_)
                | Subject::EngineLabel(_)
                | Subject::Id
                | Subject::Hostname
                | Subject::Address
                | Subject::Role
                | Subject::Os
                | Subject::Arch
                | Subject::Unknown => Err("must be node.labels.<key> or engine.labels.<key>".to_owned()),
            },
            Form::Soft => SoftConstraint::parse(value).map(drop),
        }
    }

    fn row(self) -> &'static Row {
        ROWS.iter().find(|row| row.label == self).expect("each label has a row, as a test holds")
    }
}

/// A constraint that may be missed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SoftConstraint<'a> {
    /// What should hold.
    pub constraint: Constraint,
    /// As it is written, without what it weighs.
    pub text: &'a str,
    /// 1 to [`SOFT_WEIGHT_MAX`]; 1 where that is not said.
    pub weight: u32,
}

impl<'a> SoftConstraint<'a> {
    fn parse(value: &'a str) -> Result<Self, String> {
        let (text, weight) = match value.rsplit_once(',') {
            Some((text, weight)) => (text.trim(), weight.trim().parse().unwrap_or(0)),
            None => (value.trim(), 1),
        };
        if !(1..=SOFT_WEIGHT_MAX).contains(&weight) {
            return Err(format!("the weight behind the comma must be from 1 to {SOFT_WEIGHT_MAX}"));
        }
        let constraint = Constraint::parse(text).map_err(|error| error.to_string())?;
        Ok(Self { constraint, text, weight })
    }
}

impl ServiceSpec {
    /// The value of a label of ours, as written. Of soft constraints, see [`ServiceSpec::soft`].
    #[must_use]
    pub fn label(&self, label: SkepLabel) -> Option<&str> {
        self.labels.as_ref().and_then(|labels| labels.get(label.key())).map(String::as_str)
    }

    /// The number that a label of ours gives.
    #[must_use]
    pub fn label_number(&self, label: SkepLabel) -> Option<u64> {
        self.label(label).and_then(|value| value.parse().ok())
    }

    /// The span that a label of ours gives.
    #[must_use]
    pub fn label_span(&self, label: SkepLabel) -> Option<Duration> {
        let nanos = span::parse(self.label(label)?).ok()?;
        u64::try_from(nanos).ok().map(Duration::from_nanos)
    }

    /// Whose tasks come before whose: the higher, the sooner; 0 where no label says another one.
    #[must_use]
    pub fn priority(&self) -> u64 {
        self.label_number(SkepLabel::Priority).unwrap_or(0)
    }

    /// Constraints that may be missed.
    pub fn soft(&self) -> impl Iterator<Item = SoftConstraint<'_>> {
        let all = self.labels.iter().flatten();
        all.filter(|(key, _)| SkepLabel::find(key) == Some(SkepLabel::Soft))
            .filter_map(|(_, value)| SoftConstraint::parse(value).ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_label_has_one_row() {
        for row in ROWS {
            assert_eq!(ROWS.iter().filter(|other| other.label == row.label).count(), 1, "{}", row.key);
            let key = if row.form == Form::Soft { format!("{}a", row.key) } else { row.key.to_owned() };
            assert_eq!(SkepLabel::find(&key), Some(row.label));
            assert!(row.key.starts_with(SKEP_LABEL_PREFIX));
        }
        assert_eq!(SkepLabel::find("skep.soft."), None);
        assert_eq!(SkepLabel::find("skep.cron.daily"), None);
    }

    #[test]
    fn values_are_checked() {
        for (key, value, ok) in [
            ("skep.update.progress-deadline", "10m", true),
            ("skep.update.progress-deadline", "0s", false),
            ("skep.update.progress-deadline", "10", false),
            ("skep.rebalance", "0", true),
            ("skep.rebalance", "-1", false),
            ("skep.rebalance", "1.5", false),
            ("skep.priority", "101", false),
            ("skep.strategy", "binpack", true),
            ("skep.strategy", "random", false),
            ("skep.cron", "", false),
            ("skep.spread.weight", "node.labels.size", true),
            ("skep.spread.weight", "engine.labels.size", true),
            ("skep.spread.weight", "node.labels.", false),
            ("skep.spread.weight", "size", false),
            ("skep.soft.disk", "node.labels.disk==ssd", true),
            ("skep.soft.disk", "node.labels.disk==ssd,10", true),
            ("skep.soft.disk", "node.labels.disk==ssd,0", false),
            ("skep.soft.disk", "node.labels.disk==ssd,99999999999", false),
            ("skep.soft.disk", "node.labels.disk==ssd,", false),
            ("skep.soft.disk", "node.labels.disk=ssd", false),
        ] {
            assert_eq!(SkepLabel::find(key).unwrap().check(value).is_ok(), ok, "{key}={value}");
        }
    }

    #[test]
    fn labels_are_read() {
        let spec: ServiceSpec = serde_json::from_str(
            r#"{"Labels":{"skep.priority":"7","skep.restart.backoff-max":"1m","skep.soft.b":"node.role==worker,3",
            "skep.soft.a":"node.ip==fd00::1","other":"x"}}"#,
        )
        .unwrap();
        assert_eq!(spec.label_number(SkepLabel::Priority), Some(7));
        assert_eq!(spec.label_span(SkepLabel::BackoffMax), Some(Duration::from_secs(60)));
        assert_eq!(spec.label(SkepLabel::Cron), None);
        let soft: Vec<(&str, u32)> = spec.soft().map(|soft| (soft.text, soft.weight)).collect();
        assert_eq!(soft, [("node.ip==fd00::1", 1), ("node.role==worker", 3)]);
    }
}
