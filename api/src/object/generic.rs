//! What a node has besides CPUs and memory: resources of a kind that only its name tells, and plugins.

use std::collections::{BTreeMap, BTreeSet};

/// A resource that only its kind tells: one of a set of names, or an amount.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum GenericResource {
    /// One of a set.
    Named {
        /// As the node's settings call it: `gpu`.
        kind: String,
        /// Which one, never empty.
        value: String,
    },
    /// So many.
    Discrete {
        /// As the node's settings call it: `ssd`.
        kind: String,
        /// How many.
        amount: i64,
    },
}

impl GenericResource {
    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> &str {
        match self {
            Self::Named { kind, .. } | Self::Discrete { kind, .. } => kind,
        }
    }
}

/// A plugin of a node's engine.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Plugin {
    /// Network, Volume, Log.
    pub kind: String,
    /// Its name there: overlay, local, json-file.
    pub name: String,
}

impl Plugin {
    /// What the embedded engine has, in the order of Docker's clients.
    #[must_use]
    pub fn embedded() -> Vec<Self> {
        let all = [("Log", "json-file"), ("Network", "bridge"), ("Network", "overlay"), ("Volume", "local")];
        all.map(|(kind, name)| Self { kind: kind.to_owned(), name: name.to_owned() }).into()
    }
}

/// The most of a kind, so that no sum of a node's tasks is beyond what is counted with: enough for bytes of memory.
pub const GENERIC_MAX: i64 = 1 << 44;

/// Whether a word can be a kind: it becomes part of the name of a variable of the task's environment.
///
/// # Errors
/// What is wrong.
pub fn check_kind(kind: &str) -> Result<(), String> {
    let is_word = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | ':' | '/');
    if kind.is_empty() || !kind.chars().all(is_word) {
        return Err(format!("'{kind}' is no kind of a generic resource: letters, digits, and any of _-.:/"));
    }
    Ok(())
}

impl GenericResource {
    /// Reads what a node's settings say: `gpu=uuid1,gpu=uuid2,ssd=3`, in one text or several
    /// (`SK:api/genericresource/parse.go`).
    ///
    /// # Errors
    /// Swarm's words, with the term.
    pub fn parse_all<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Vec<Self>, String> {
        let error = |words: String| format!("could not parse GenericResource: {words}");
        let mut kinds: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for term in texts.into_iter().flat_map(|text| text.split(',')) {
            let malformed = || error(format!("incorrect term {term}, missing '=' or malformed expression"));
            let (kind, value) = term.split_once('=').ok_or_else(malformed)?;
            let (kind, value) = (kind.trim(), value.trim());
            check_kind(kind).map_err(error)?;
            if value.is_empty() || value.contains('=') {
                return Err(malformed());
            }
            kinds.entry(kind).or_default().push(value);
        }
        let mut all = Vec::new();
        for (kind, values) in kinds {
            let numbers: Vec<i64> = values.iter().filter_map(|value| value.parse().ok()).collect();
            match (values.as_slice(), numbers.as_slice()) {
                ([_], [amount]) if !(0..=GENERIC_MAX).contains(amount) => {
                    return Err(error(format!("cannot ask for {amount} of resource {kind}")));
                }
                ([_], [amount]) => all.push(Self::Discrete { kind: kind.to_owned(), amount: *amount }),
                (_, []) => {
                    let names: BTreeSet<&str> = values.iter().copied().collect();
                    if names.len() < values.len() {
                        return Err(error(format!("a name of resource {kind} stands there twice")));
                    }
                    let own = |value: &str| Self::Named { kind: kind.to_owned(), value: value.to_owned() };
                    all.extend(values.into_iter().map(own));
                }
                (_, _) => {
                    let list = values.join(" ");
                    let words = format!("mixed discrete and named resources in expression '{kind}=[{list}]'");
                    return Err(error(words));
                }
            }
        }
        Ok(all)
    }

    /// What a task finds in its environment: `DOCKER_RESOURCE_GPU=uuid1,uuid2`
    /// (`SK:api/genericresource/string.go`).
    #[must_use]
    pub fn environment(given: &[Self]) -> Vec<String> {
        let mut values: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for one in given {
            let value = match one {
                Self::Named { value, .. } => value.clone(),
                Self::Discrete { amount, .. } => amount.to_string(),
            };
            let name = format!("DOCKER_RESOURCE_{}", one.kind()).to_uppercase();
            values.entry(name).or_default().push(value);
        }
        values.into_iter().map(|(name, values)| format!("{name}={}", values.join(","))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(texts: &[&str], expect: Result<&str, &str>) {
        let found = GenericResource::parse_all(texts.iter().copied());
        let shown = found.map(|all| GenericResource::environment(&all).join(" "));
        assert_eq!(shown.as_deref().map_err(String::as_str), expect, "{texts:?}");
    }

    #[test]
    fn settings_are_read() {
        check(&[], Ok(""));
        check(&["gpu=b", "gpu=a", "ssd=3"], Ok("DOCKER_RESOURCE_GPU=b,a DOCKER_RESOURCE_SSD=3"));
        check(&["NVIDIA-GPU=0x1,NVIDIA-GPU=0x2"], Ok("DOCKER_RESOURCE_NVIDIA-GPU=0x1,0x2"));
        let error = |words: &str| format!("could not parse GenericResource: {words}");
        let term = |term: &str| error(&format!("incorrect term {term}, missing '=' or malformed expression"));
        check(&["gpu"], Err(&term("gpu")));
        check(&["gpu="], Err(&term("gpu=")));
        check(&["gpu=a=b"], Err(&term("gpu=a=b")));
        check(&["ssd=-1"], Err(&error("cannot ask for -1 of resource ssd")));
        check(
            &["gpu=a", "gpu=1"],
            Err(&error("mixed discrete and named resources in expression 'gpu=[a 1]'")),
        );
        check(&["gpu=a,gpu=a"], Err(&error("a name of resource gpu stands there twice")));
    }
}
