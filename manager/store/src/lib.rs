//! The replicated objects: views, changes, guards, and the one way in which they are applied.
//!
//! Deterministic: two replicas that apply the same proposals hold the same bytes. No clock, no chance,
//! no I/O; time comes in with the proposal.

mod apply;
mod draft;
mod events;
mod guard;
mod level;
mod load;
mod names;
mod networks;
mod proposal;
mod record;
mod requests;
mod restore;
mod snapshot;
mod tickets;
mod view;

pub use apply::{Applied, JUMP, Store};
pub use draft::{CHANGES_MAX, Draft};
pub use events::{Dirty, ObjectRef, Placing};
pub use guard::{Follows, Guard, GuardKind};
pub use level::{FEATURE_LEVEL, TooOld};
pub use load::{GenericLoad, NodeLoad};
pub use proposal::{
    ANSWER_BYTES_MAX, Assigned, Change, Proposal, ProposalError, REQUESTS_REMEMBERED, Refusal, RefusalKind,
    Subject, decode_result,
};
pub use record::Record;
pub use requests::Requests;
pub use restore::{Job, Restoring};
pub use snapshot::SnapshotError;
pub use view::View;
