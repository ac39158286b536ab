//! The swarm's certificate authority: who signs, how one root takes another's place, and when it is done.
//!
//! `signing` issues certificates by the key in the state or by an external CA; `change` says what an update of
//! the settings means for the root, without I/O; `begin` does what that takes; `reconcile` decides what a
//! rotation needs next, and `converge` does it for as long as this manager leads.

mod begin;
mod change;
mod converge;
#[cfg(test)]
mod external_tests;
mod reconcile;
mod signing;
#[cfg(test)]
mod tests;

pub(crate) use begin::changed;
pub(crate) use converge::converge;
pub(crate) use signing::{Issued, sign};
