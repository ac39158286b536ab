//! Decides which tasks exist and what becomes of them.
//!
//! Service by service, its parts one after the other; each reads the service's situation and writes through it.
//! Stored state is the only memory, so a new leader decides the same. A wait is a wake-up, named by what waits.
//! Invariants: a quiet cluster drafts nothing; never two runnable tasks in a seat, but while one takes over from
//! the other; ports and addresses are never given twice.

mod addresses;
mod context;
mod cron;
mod dirt;
mod enforcer;
mod global;
mod jobs;
mod moves;
mod nodes;
mod ports;
mod preempt;
mod reaper;
mod replicated;
mod restart;
mod room;
mod seats;
mod situation;
mod subnets;
mod takeover;
mod tickets;
mod update;

pub use addresses::{assign_address, assign_addresses};
pub use context::{Context, Look, Scope, ServicePart, WakeKey};
pub use cron::Scheduled;
pub use dirt::{Differences, is_dirty, same_endpoint};
pub use enforcer::Enforcer;
pub use global::{Fit, Global};
pub use jobs::Jobs;
pub use moves::{Hold, begin_move, end_moves, may_move};
pub use nodes::expire_nodes;
pub use ports::{PortError, Ports, assign_ports, may_get_ports};
pub use preempt::preempt;
pub use reaper::Reaper;
pub use replicated::Replicated;
pub use restart::Restart;
pub use seats::{FAILURES_WINDOW, Seat};
pub use situation::{NewTask, Situation, Why, clear_away};
pub use subnets::{SubnetError, assign_subnets, free_vni};
pub use takeover::Takeover;
pub use tickets::expire_tickets;
pub use update::Update;

use skep_api::ServiceId;
use skep_store::Draft;

/// What is decided of each service, in order.
pub const PARTS: &[&dyn ServicePart] =
    &[&Ports, &Replicated, &Scheduled, &Jobs, &Global, &Enforcer, &Takeover, &Restart, &Update, &Reaper];

/// Decides what becomes of one service, as far as it is looked at.
pub fn reconcile(draft: &mut Draft, cx: &mut Context<'_>, id: ServiceId, look: &Look) {
    let Some(mut at) = Situation::read(draft, id, look) else {
        clear_away(draft, id, look);
        return;
    };
    cx.differences = Differences::default();
    let is_whole = at.is_whole();
    for part in PARTS.iter().filter(|part| is_whole || part.is_by_seat()) {
        if !at.is_over() {
            part.reconcile(&mut at, draft, cx);
        }
    }
    debug_assert!(at.is_true(draft), "a part wrote past the situation of service {id}");
    cx.last = (is_whole && !at.is_over()).then(|| (at, draft.changes().len()));
}
