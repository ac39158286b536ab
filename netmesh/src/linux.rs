//! The kernel's side of the mesh: netlink messages and namespaces. Carries out, chooses nothing.
//!
//! The messages are encoded here and not by a crate: the one rule that the mesh stands on (translate to
//! the result of a map lookup) has no typed form in those at hand, and what is left is small.
//! Invariant: a socket belongs to the network namespace of the thread that opened it, for ever.

pub(crate) mod conntrack;
pub(crate) mod expr;
pub(crate) mod netlink;
pub(crate) mod netns;
pub(crate) mod nft;
pub(crate) mod node;
pub(crate) mod route;
pub(crate) mod ruleset;
pub(crate) mod wire;
