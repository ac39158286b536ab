//! What becomes of tickets by themselves: those that are over go, once nobody is likely to ask why.

use skep_api::{TicketId, Timestamp};
use skep_store::{Change, Draft};

use crate::{Context, WakeKey, context::push};

/// So many tickets that are over are kept at most: all are walked whenever one changes.
const OVER_MAX: usize = 1_000;

/// Deletes tickets that are over for long enough, and where very many are over, those that were so first.
pub fn expire_tickets(draft: &mut Draft, cx: &mut Context<'_>) {
    let now = draft.now();
    let mut over: Vec<(Timestamp, TicketId)> = Vec::new();
    for ticket in draft.tickets() {
        let Some(at) = ticket.gone_at() else { continue };
        if ticket.over(now).is_some() {
            over.push((at, ticket.id));
        } else {
            cx.wake(WakeKey::Tickets, at);
        }
    }
    over.sort_unstable();
    let n_too_many = over.len().saturating_sub(OVER_MAX);
    for (n, (at, id)) in over.into_iter().enumerate() {
        if n >= n_too_many && at > now {
            cx.wake(WakeKey::Tickets, at);
        } else {
            push(draft, Change::DeleteTicket(id));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use skep_api::{
        Id,
        id::SeededIds,
        object::{Meta, Ticket},
    };
    use skep_store::View;

    use super::*;

    #[test]
    fn of_very_many_that_are_over_those_that_were_so_first_go() {
        let mut draft = Draft::new(View::default(), Timestamp(1));
        let n_tickets = u128::try_from(OVER_MAX).unwrap() + 2;
        for n in 1..=n_tickets {
            let expires_at = Timestamp(if n < 3 { 7 } else { 5 });
            let ticket =
                Ticket { id: TicketId(Id(n)), expires_at, meta: Meta::default(), ..Ticket::default() };
            draft.push(Change::PutTicket(Arc::new(ticket))).unwrap();
        }
        let mut draft = Draft::new((*draft).clone(), Timestamp(6));
        expire_tickets(&mut draft, &mut Context::new(&mut SeededIds(1)));
        assert!(draft.changes().is_empty(), "{:?}", draft.changes());
        let mut draft = Draft::new((*draft).clone(), Timestamp(7));
        let mut ids = SeededIds(1);
        let mut cx = Context::new(&mut ids);
        expire_tickets(&mut draft, &mut cx);
        let gone = |n| Change::DeleteTicket(TicketId(Id(n)));
        assert_eq!(draft.changes(), [gone(3), gone(4)]);
        assert!(cx.wakes.contains_key(&WakeKey::Tickets));
    }
}
