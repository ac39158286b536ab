//! Decides where a task runs, and says why not where it cannot.
//!
//! In: a picture of the nodes and a group of like tasks. Out: a node for each task that fits, and for
//! the rest an explanation, for all nodes together in Swarm's words and node by node.
//! Invariant: same input, same placement, whatever the order of nodes; nothing is reserved twice.

mod filter;
mod group;
mod picture;
#[cfg(test)]
mod tests;

pub use filter::Filter;
pub use group::TaskGroup;
pub use picture::{NodeInfo, Picture, Placement, Refusal};
