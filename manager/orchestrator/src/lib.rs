//! Decides which tasks exist and what becomes of them.
//!
//! Each reconciler reads the draft and adds changes to it; stored state is the only memory, so a new
//! leader decides the same. A wait is a wake-up, named by its service.
//! Invariants: a quiet cluster drafts nothing; never two runnable tasks in a slot; ports and addresses
//! are never given twice.

mod addresses;
mod context;
mod dirt;
mod enforcer;
mod ports;
mod reaper;
mod replicated;
mod restart;
mod seats;
mod subnets;
mod update;

pub use addresses::Addresses;
pub use context::{Context, Reconciler, Scope};
pub use dirt::{is_dirty, same_endpoint};
pub use enforcer::Enforcer;
pub use ports::{PortError, Ports, assign_ports};
pub use reaper::Reaper;
pub use replicated::Replicated;
pub use restart::Restart;
pub use subnets::{SubnetError, assign_subnets, free_vni};
pub use update::Update;

/// What runs before placement, in order.
#[must_use]
pub fn before_placement() -> [Box<dyn Reconciler>; 6] {
    [
        Box::new(Ports),
        Box::new(Replicated),
        Box::new(Enforcer),
        Box::new(Restart),
        Box::new(Update),
        Box::new(Addresses),
    ]
}

/// What runs after placement, in order.
#[must_use]
pub fn after_placement() -> [Box<dyn Reconciler>; 1] {
    [Box::new(Reaper)]
}
