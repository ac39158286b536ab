//! What a node has besides CPUs and memory: resources of a kind that only its name tells, and plugins.

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
