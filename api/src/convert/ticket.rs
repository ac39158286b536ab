//! Tickets.

use super::{Malformed, malformed};
use crate::{
    TicketId, Timestamp,
    object::{Revocation, Ticket},
    spec::Role,
    wire,
};

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
            revoked: ticket.revoked.is_some(),
            revoked_for: wire::ticket::Why::from(ticket.revoked).into(),
        }
    }
}

impl TryFrom<wire::Ticket> for Ticket {
    type Error = Malformed;

    fn try_from(ticket: wire::Ticket) -> Result<Self, Malformed> {
        let why = Revocation::from(ticket.revoked_for());
        Ok(Self {
            id: TicketId::from_bytes(&ticket.id).ok_or_else(|| malformed("ticket", "id"))?,
            meta: ticket.meta.unwrap_or_default().into(),
            digest: ticket.digest,
            role: if ticket.manager { Role::Manager } else { Role::Worker },
            expires_at: Timestamp(ticket.expires_at),
            uses_left: ticket.uses_left,
            labels: ticket.labels,
            revoked: ticket.revoked.then_some(why),
        })
    }
}

impl From<Option<Revocation>> for wire::ticket::Why {
    fn from(why: Option<Revocation>) -> Self {
        match why {
            None | Some(Revocation::ByUser) => Self::User,
            Some(Revocation::NewRoot) => Self::NewRoot,
            Some(Revocation::MadeAnew) => Self::MadeAnew,
        }
    }
}

impl From<wire::ticket::Why> for Revocation {
    fn from(why: wire::ticket::Why) -> Self {
        match why {
            wire::ticket::Why::User => Self::ByUser,
            wire::ticket::Why::NewRoot => Self::NewRoot,
            wire::ticket::Why::MadeAnew => Self::MadeAnew,
        }
    }
}
