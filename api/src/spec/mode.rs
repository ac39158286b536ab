//! Which kind of service.

use serde::{Deserialize, Serialize};

use super::Extra;

/// Which kind of service.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ServiceMode {
    /// A number of tasks, anywhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicated: Option<Replicated>,
    /// Other modes.
    #[serde(flatten)]
    pub extra: Extra,
}

/// A number of tasks.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Replicated {
    /// 1 when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicas: Option<u64>,
    /// Unknown keys.
    #[serde(flatten)]
    pub extra: Extra,
}
