//! Whole passes in virtual time: a store, simulated agents, and a clock that jumps to the next event.

mod budget;
mod explaining;
mod failures;
mod harness;
mod nodes;
mod placing;
mod properties;
mod ranking;
mod script;
mod updates;
