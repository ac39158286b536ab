//! The mark that each write of a soak leaves in its spec, and the spec that it stands for.

use serde_json::{Value, json};
use skep_e2e::WHOAMI;

/// A unique word, and what else of the spec is a writer's to choose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) unique: String,
    pub(super) replicas: u64,
    /// A part of the tasks' template: another one replaces the tasks.
    pub(super) env: String,
    /// The bytes of a label that is there to fill logs.
    pub(super) filling: usize,
}

impl Mark {
    fn text(&self) -> String {
        format!("{} {} {} {}", self.unique, self.replicas, self.env, self.filling)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let (unique, replicas) = (words.next()?.to_owned(), words.next()?.parse().ok()?);
        let (env, filling) = (words.next()?.to_owned(), words.next()?.parse().ok()?);
        Some(Self { unique, replicas, env, filling })
    }

    /// The whole spec of the service `name`, whose tasks fit no node.
    pub(super) fn spec(&self, name: &str) -> Value {
        json!({
            "Name": name,
            "Labels": {"mark": self.text(), "filling": "x".repeat(self.filling)},
            "TaskTemplate": {
                "ContainerSpec": {"Image": WHOAMI, "Env": [self.env]},
                "Placement": {"Constraints": ["node.labels.soak==nowhere"]},
            },
            "Mode": {"Replicated": {"Replicas": self.replicas}},
        })
    }

    /// The mark in a spec that a manager shows.
    ///
    /// # Errors
    /// The spec is not the one that its mark stands for.
    pub(super) fn of(spec: &Value) -> Result<Self, String> {
        let text = spec["Labels"]["mark"].as_str().unwrap_or_default();
        let mark = Self::parse(text).ok_or(format!("no mark in {spec}"))?;
        let filling = spec["Labels"]["filling"].as_str().map(str::len);
        let is_whole = filling == Some(mark.filling)
            && spec["Mode"]["Replicated"]["Replicas"].as_u64() == Some(mark.replicas)
            && spec["TaskTemplate"]["ContainerSpec"]["Env"] == json!([mark.env]);
        if is_whole { Ok(mark) } else { Err(format!("the mark {text:?} is in another spec: {spec}")) }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::Mark;

    #[test]
    fn a_mark_is_found_in_its_own_spec_alone() {
        let mark = Mark { unique: "w1-7".to_owned(), replicas: 2, env: "E=w1-3".to_owned(), filling: 10 };
        let mut spec = mark.spec("a");
        assert_eq!(Mark::of(&spec), Ok(mark));
        spec["Mode"]["Replicated"]["Replicas"] = json!(3);
        assert!(Mark::of(&spec).is_err());
    }
}
