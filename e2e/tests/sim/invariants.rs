//! What is promised (section 13 of the design), each promise in a file of its own.

pub(crate) mod i01_acknowledged_writes_survive;
pub(crate) mod i02_conflicts_and_names;
pub(crate) mod i06_it_heals;
