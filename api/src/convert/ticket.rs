//! Tickets.

use super::{Malformed, malformed};
use crate::{TicketId, Timestamp, object::Ticket, spec::Role, wire};

impl From<&Ticket> for wire::Ticket {
    fn from(ticket: &Ticket) -> Self {
        Self {
            id: ticket.id.to_bytes(),
            meta: Some(ticket.meta.into()),
            digest: ticket.digest.clone(),
            manager: ticket.role == Role::Manager,
            expires_at: ticket.expires_at.0,
            uses_left: ticket.uses_left,
            labels: ticket.labels.clone(),
            revoked: ticket.revoked,
        }
    }
}

impl TryFrom<wire::Ticket> for Ticket {
    type Error = Malformed;

    fn try_from(ticket: wire::Ticket) -> Result<Self, Malformed> {
        Ok(Self {
            id: TicketId::from_bytes(&ticket.id).ok_or_else(|| malformed("ticket", "id"))?,
            meta: ticket.meta.unwrap_or_default().into(),
            digest: ticket.digest,
            role: if ticket.manager { Role::Manager } else { Role::Worker },
            expires_at: Timestamp(ticket.expires_at),
            uses_left: ticket.uses_left,
            labels: ticket.labels,
            revoked: ticket.revoked,
        })
    }
}
