//! Docker's filters: values of a key are alternatives, all keys must match.

use std::collections::BTreeMap;

use serde_json::Value;
use skep_api::{ApiError, spec::Labels};

/// Filters as asked for.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Filters(BTreeMap<String, Vec<String>>);

impl Filters {
    /// Reads `{"k":["v"]}` or `{"k":{"v":true}}`; other keys than `known` are refused.
    pub(crate) fn parse(text: &str, known: &[&str]) -> Result<Self, ApiError> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        let malformed = || ApiError::invalid("invalid filter");
        let value: Value = serde_json::from_str(text).map_err(|_| malformed())?;
        let mut filters = BTreeMap::new();
        for (key, values) in value.as_object().ok_or_else(malformed)? {
            if !known.contains(&key.as_str()) {
                return Err(ApiError::invalid(format!("invalid filter '{key}'")));
            }
            let words = match values {
                Value::Array(items) => items.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
                Value::Object(map) => map
                    .iter()
                    .filter(|(_, on)| **on == Value::Bool(true))
                    .map(|(word, _)| word.clone())
                    .collect(),
                Value::Null => Vec::new(),
                Value::Bool(_) | Value::Number(_) | Value::String(_) => return Err(malformed()),
            };
            filters.insert(key.clone(), words);
        }
        Ok(Self(filters))
    }

    /// The values of a key.
    pub(crate) fn values(&self, key: &str) -> &[String] {
        self.0.get(key).map_or(&[], Vec::as_slice)
    }

    /// Whether a key is absent, or one of its values passes.
    pub(crate) fn any(&self, key: &str, passes: impl FnMut(&String) -> bool) -> bool {
        let values = self.values(key);
        values.is_empty() || values.iter().any(passes)
    }

    /// Whether a key is absent, or `subject` begins with one of its values.
    pub(crate) fn prefix(&self, key: &str, subject: &str) -> bool {
        self.any(key, |value| subject.starts_with(value.as_str()))
    }

    /// Whether a key is absent or only has empty values, or one of them is `subject` in any case: as Docker reads
    /// what is an enumeration in its control API (`MB:daemon/cluster/filters.go`).
    pub(crate) fn word(&self, key: &str, subject: &str) -> bool {
        let values = || self.values(key).iter().filter(|value| !value.is_empty());
        values().next().is_none() || values().any(|value| value.eq_ignore_ascii_case(subject))
    }

    /// Whether all labels asked for (`key` or `key=value`) are there; an empty value is any.
    pub(crate) fn labels(&self, key: &str, labels: Option<&Labels>) -> bool {
        self.values(key).iter().all(|wanted| match wanted.split_once('=') {
            Some((name, value)) => {
                labels.and_then(|all| all.get(name)).is_some_and(|has| value.is_empty() || has == value)
            }
            None => labels.is_some_and(|all| all.contains_key(wanted)),
        })
    }

    /// Whether a flag is set, as `{"k":["true"]}`.
    pub(crate) fn flag(&self, key: &str) -> Result<Option<bool>, ApiError> {
        match self.values(key) {
            [] => Ok(None),
            [word] => match word.to_ascii_lowercase().as_str() {
                "1" | "true" => Ok(Some(true)),
                "0" | "false" => Ok(Some(false)),
                _ => Err(ApiError::invalid(format!("invalid filter '{key}={word}'"))),
            },
            [_, ..] => Err(ApiError::invalid(format!("invalid filter '{key}'"))),
        }
    }

    /// Refuses a value of `key` that is none of `words`, in any case, nor empty; in Docker's words.
    pub(crate) fn check_word(&self, key: &str, words: &[&str]) -> Result<(), ApiError> {
        let is_known =
            |value: &str| value.is_empty() || words.iter().any(|word| word.eq_ignore_ascii_case(value));
        match self.values(key).iter().find(|value| !is_known(value)) {
            Some(value) => Err(ApiError::invalid(format!("Invalid {key} filter: '{value}'"))),
            None => Ok(()),
        }
    }

    /// Refuses a value of `key` that is none of `words`.
    pub(crate) fn check(&self, key: &str, words: &[&str]) -> Result<(), ApiError> {
        match self.values(key).iter().find(|value| !words.contains(&value.as_str())) {
            Some(value) => Err(ApiError::invalid(format!("invalid filter '{key}={value}'"))),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read() {
        for text in [r#"{"name":["a","b"],"id":[]}"#, r#"{"name":{"a":true,"b":true,"c":false}}"#] {
            let filters = Filters::parse(text, &["name", "id"]).unwrap();
            assert_eq!(filters.values("name"), ["a", "b"]);
            assert!(
                filters.prefix("name", "beta")
                    && filters.prefix("id", "x")
                    && !filters.prefix("name", "gamma")
            );
        }
    }

    #[test]
    fn unknown_keys_are_named() {
        for (text, expect) in [
            (r#"{"x":["a"]}"#, "invalid filter 'x'"),
            ("[1]", "invalid filter"),
            (r#"{"a":1}"#, "invalid filter"),
        ] {
            assert_eq!(Filters::parse(text, &["a"]).unwrap_err().message, expect, "{text}");
        }
        let filters = Filters::parse(r#"{"a":["q"]}"#, &["a"]).unwrap();
        assert_eq!(filters.check("a", &["x", "y"]).unwrap_err().message, "invalid filter 'a=q'");
        assert_eq!(filters.flag("a").unwrap_err().message, "invalid filter 'a=q'");
    }

    #[test]
    fn words_are_read_in_any_case_and_empty_ones_ask_for_nothing() {
        for (values, expect) in [
            (r#"["Running"]"#, Ok(true)),
            (r#"["RUNNING","shutdown"]"#, Ok(true)),
            (r#"["shutdown"]"#, Ok(false)),
            (r#"["","shutdown"]"#, Ok(false)),
            (r#"[""]"#, Ok(true)),
            ("[]", Ok(true)),
            (r#"["up"]"#, Err("Invalid state filter: 'up'".to_owned())),
        ] {
            let filters = Filters::parse(&format!(r#"{{"state":{values}}}"#), &["state"]).unwrap();
            let checked = filters.check_word("state", &["running", "shutdown"]);
            let found = checked.map(|()| filters.word("state", "running")).map_err(|error| error.message);
            assert_eq!(found, expect, "{values}");
        }
    }

    #[test]
    fn labels_match_by_key_or_pair() {
        let labels = Labels::from([("a".into(), "1".into()), ("b".into(), String::new())]);
        for (text, expect) in [
            ("a", true),
            ("a=1", true),
            ("a=2", false),
            ("a=", true),
            ("b=", true),
            ("c=", false),
            ("c", false),
        ] {
            let filters = Filters::parse(&format!(r#"{{"label":["{text}"]}}"#), &["label"]).unwrap();
            assert_eq!(filters.labels("label", Some(&labels)), expect, "{text}");
        }
    }
}
