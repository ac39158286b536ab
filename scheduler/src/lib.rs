//! Decides where a task runs, and says why not where it cannot.
//!
//! In: a picture of the nodes, what like tasks ask for, and what their service has where. Out: a node for each task
//! that fits, and for the rest how many nodes each rule refused; node by node only for who asks.
//! Invariants: same nodes, same placement, whatever was put in first; nothing is reserved twice.

mod ask;
mod classes;
mod explain;
mod filter;
mod node;
mod order;
mod picture;
mod place;
mod preempt;
mod rank;
mod spread;
#[cfg(test)]
mod tests;

pub use ask::{Amounts, Ask, Crowd, Descriptor, Soft, Strategy};
pub use explain::{Explanation, NodeAnswer};
pub use filter::Filter;
pub use node::{GenericFree, NodeInfo};
pub use picture::Picture;
pub use place::{Given, Placement, Refused};
pub use preempt::{Offer, Tenant, offer};
