//! The keys of an object that no typed field takes.

use std::{
    ops::{Deref, DerefMut},
    sync::LazyLock,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

/// The keys of an object that no typed field takes. Reads and is written as a map; none, as mostly, is a pointer to
/// nothing: a map of its own has 72 bytes, and a spec has some twenty of them.
#[derive(Clone, Debug, Default)]
pub struct Extra(Option<Box<Map<String, Value>>>);

static NONE: LazyLock<Map<String, Value>> = LazyLock::new(Map::new);

impl From<Map<String, Value>> for Extra {
    fn from(map: Map<String, Value>) -> Self {
        Self((!map.is_empty()).then(|| Box::new(map)))
    }
}

impl Deref for Extra {
    type Target = Map<String, Value>;

    fn deref(&self) -> &Self::Target {
        self.0.as_deref().unwrap_or(&NONE)
    }
}

impl DerefMut for Extra {
    fn deref_mut(&mut self) -> &mut Self::Target {
        self.0.get_or_insert_default()
    }
}

impl PartialEq for Extra {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Extra {}

impl<'a> IntoIterator for &'a Extra {
    type Item = (&'a String, &'a Value);
    type IntoIter = serde_json::map::Iter<'a>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl Serialize for Extra {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (**self).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Extra {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Map::deserialize(deserializer).map(Self::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::ServiceSpec;

    #[test]
    fn none_is_small_and_equal_to_what_was_emptied() {
        assert_eq!(size_of::<Extra>(), size_of::<usize>());
        let mut extra = Extra::default();
        extra.insert("a".into(), Value::Null);
        assert_ne!(extra, Extra::default());
        extra.remove("a");
        assert_eq!(extra, Extra::default());
    }

    #[test]
    fn unknown_keys_come_back_as_they_were() {
        let text = r#"{"Name":"a","TaskTemplate":{"Own":[1]},"Mode":{},"Z":1,"B":{"c":null}}"#;
        let spec: ServiceSpec = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&spec).unwrap(), text);
    }

    /// A swarm of a million services has so many specs.
    #[test]
    fn a_spec_has_no_room_for_what_few_ask_for() {
        assert!(size_of::<ServiceSpec>() <= 768, "{} bytes", size_of::<ServiceSpec>());
    }
}
