//! Tickets.

use super::{Malformed, malformed};
use crate::{
    NodeId, TicketId, Timestamp,
    object::{Revocation, Ticket, TicketUse},
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
            uses: ticket.uses.iter().map(Into::into).collect(),
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
            uses: ticket.uses.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
        })
    }
}

impl From<&TicketUse> for wire::TicketUse {
    fn from(used: &TicketUse) -> Self {
        Self { request: used.request.clone(), node_id: used.node.to_bytes(), at: used.at.0 }
    }
}

impl TryFrom<wire::TicketUse> for TicketUse {
    type Error = Malformed;

    fn try_from(used: wire::TicketUse) -> Result<Self, Malformed> {
        let node =
            NodeId::from_bytes(&used.node_id).ok_or_else(|| malformed("use of a ticket", "node id"))?;
        Ok(Self { request: used.request, node, at: Timestamp(used.at) })
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
