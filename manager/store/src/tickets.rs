//! Tickets as they are applied.

use std::sync::Arc;

use skep_api::{
    TicketId, Timestamp,
    object::{Revocation, Ticket},
};

use crate::{ObjectRef, View};

impl View {
    /// A ticket by id.
    #[must_use]
    pub fn ticket(&self, id: TicketId) -> Option<&Arc<Ticket>> {
        self.tickets.get(&id)
    }

    /// All tickets in the order of their ids.
    pub fn tickets(&self) -> impl Iterator<Item = &Arc<Ticket>> {
        self.tickets.values()
    }

    pub(crate) fn put_ticket(&mut self, ticket: &Arc<Ticket>, now: Timestamp) -> ObjectRef {
        let old = self.tickets.get(&ticket.id).map(|old| old.meta);
        let new = Ticket { meta: self.meta(old, now), ..(**ticket).clone() };
        self.tickets.insert(ticket.id, Arc::new(new));
        ObjectRef::Ticket(ticket.id)
    }

    pub(crate) fn delete_ticket(&mut self, id: TicketId) -> Option<ObjectRef> {
        self.tickets.remove(&id).map(|_| ObjectRef::Ticket(id))
    }

    /// Takes all tickets back: their tokens name a root that is none any more.
    pub(crate) fn end_tickets(&mut self, now: Timestamp) {
        let ended: Vec<Ticket> =
            self.tickets.values().filter_map(|ticket| ticket.taken_back(Revocation::NewRoot)).collect();
        ended.into_iter().for_each(|ticket| {
            self.put_ticket(&Arc::new(ticket), now);
        });
    }

    pub(crate) fn restore_ticket(&mut self, ticket: Ticket) {
        self.tickets.insert(ticket.id, Arc::new(ticket));
    }
}
