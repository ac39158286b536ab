//! A token for joining with a life of its own.

use std::time::Duration;

use super::Meta;
use crate::{
    TicketId, Timestamp,
    spec::{Labels, Role},
};

/// A token for joining that ends, or is used up, or gives labels. Only a digest of its secret is kept.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Ticket {
    /// Its id: part of the token, not secret.
    pub id: TicketId,
    /// Version and times.
    pub meta: Meta,
    /// SHA-256 of its secret.
    pub digest: Vec<u8>,
    /// What a node that joins with it becomes.
    pub role: Role,
    /// Zero: never.
    pub expires_at: Timestamp,
    /// How many nodes may still join with it; `None`: any number.
    pub uses_left: Option<u32>,
    /// Of the nodes that join with it.
    pub labels: Labels,
    /// Somebody took it back.
    pub revoked: bool,
}

/// For how long a ticket that is over is kept, so that who shows it is told why it is refused.
pub const TICKET_KEPT: Duration = Duration::from_secs(24 * 3600);

/// Why a ticket lets nobody in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TicketOver {
    /// Somebody took it back.
    Revoked,
    /// As many nodes joined with it as may.
    UsedUp,
    /// Its time is over.
    Expired,
}

impl TicketOver {
    /// In a word, for tables.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Revoked => "revoked",
            Self::UsedUp => "used up",
            Self::Expired => "expired",
        }
    }
}

impl Ticket {
    /// Why it lets nobody in at that time; `None`: it does.
    #[must_use]
    pub fn over(&self, now: Timestamp) -> Option<TicketOver> {
        if self.revoked {
            Some(TicketOver::Revoked)
        } else if self.uses_left == Some(0) {
            Some(TicketOver::UsedUp)
        } else if !self.expires_at.is_zero() && self.expires_at <= now {
            Some(TicketOver::Expired)
        } else {
            None
        }
    }

    /// When it is deleted; `None` for not by itself.
    #[must_use]
    pub fn gone_at(&self) -> Option<Timestamp> {
        let over_at = if self.revoked || self.uses_left == Some(0) {
            self.meta.updated_at
        } else if self.expires_at.is_zero() {
            return None;
        } else {
            self.expires_at
        };
        Some(over_at.after(TICKET_KEPT))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::Meta;

    #[test]
    fn a_ticket_is_over_for_one_reason() {
        let ticket = Ticket { expires_at: Timestamp(10), uses_left: Some(1), ..Ticket::default() };
        assert_eq!(ticket.over(Timestamp(9)), None);
        assert_eq!(ticket.over(Timestamp(10)), Some(TicketOver::Expired));
        let used = Ticket { uses_left: Some(0), ..ticket.clone() };
        assert_eq!(used.over(Timestamp(10)), Some(TicketOver::UsedUp));
        assert_eq!(Ticket { revoked: true, ..used }.over(Timestamp(1)), Some(TicketOver::Revoked));
        let endless = Ticket { uses_left: None, expires_at: Timestamp::ZERO, ..ticket };
        assert_eq!((endless.over(Timestamp(i64::MAX)), endless.gone_at()), (None, None));
    }

    #[test]
    fn what_is_over_is_kept_for_a_day() {
        let meta = Meta { updated_at: Timestamp(5), ..Meta::default() };
        let ticket = Ticket { meta, expires_at: Timestamp(10), ..Ticket::default() };
        assert_eq!(ticket.gone_at(), Some(Timestamp(10).after(TICKET_KEPT)));
        let revoked = Ticket { revoked: true, ..ticket };
        assert_eq!(revoked.gone_at(), Some(Timestamp(5).after(TICKET_KEPT)));
    }
}
