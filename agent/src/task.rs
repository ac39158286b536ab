//! A task on this node: `step` names what is next, `runner` does it.

pub(crate) mod container;
pub(crate) mod files;
pub(crate) mod runner;
pub(crate) mod signal;
pub(crate) mod step;
