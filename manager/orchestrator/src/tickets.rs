//! What becomes of tickets by themselves: those that are over go, once nobody is likely to ask why.

use skep_api::{TicketId, Timestamp};
use skep_store::{Change, Draft};

use crate::{Context, WakeKey, context::push};

/// Deletes tickets that are over for long enough.
pub fn expire_tickets(draft: &mut Draft, cx: &mut Context<'_>) {
    let going: Vec<(TicketId, Timestamp)> =
        draft.tickets().filter_map(|ticket| Some((ticket.id, ticket.gone_at()?))).collect();
    for (id, at) in going {
        if at > draft.now() {
            cx.wake(WakeKey::Tickets, at);
        } else {
            push(draft, Change::DeleteTicket(id));
        }
    }
}
