//! Where tasks may run.

use serde::{Deserialize, Serialize};

use super::Extra;

/// Where tasks may run.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Placement {
    /// `node.labels.zone==a` and the like; all must hold.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub constraints: Option<Vec<String>>,
    /// What the tasks are spread over, the most important first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preferences: Option<Vec<PlacementPreference>>,
    /// Tasks of the service on a node at most; 0 for any number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_replicas: Option<u64>,
    /// Everything else.
    #[serde(flatten)]
    pub extra: Extra,
}

/// What tasks are spread over.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct PlacementPreference {
    /// Evenly over the values of a label.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spread: Option<SpreadOver>,
    /// Unknown keys.
    #[serde(flatten)]
    pub extra: Extra,
}

/// The label whose values share tasks evenly.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct SpreadOver {
    /// `node.labels.zone`, `engine.labels.rack`.
    pub spread_descriptor: String,
    /// Unknown keys.
    #[serde(flatten)]
    pub extra: Extra,
}

impl PlacementPreference {
    /// Even over the values of a label.
    #[must_use]
    pub fn spread(descriptor: &str) -> Self {
        let over = SpreadOver { spread_descriptor: descriptor.to_owned(), ..SpreadOver::default() };
        Self { spread: Some(over), ..Self::default() }
    }
}
