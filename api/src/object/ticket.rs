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
    /// Why it was taken back, if it was.
    pub revoked: Option<Revocation>,
}

/// Why a ticket was taken back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Revocation {
    /// Somebody did.
    ByUser,
    /// The swarm has another root: its token names the old one.
    NewRoot,
    /// The swarm was made anew of an earlier state, which does not know what became of it since.
    MadeAnew,
}

/// For how long a ticket that is over is kept, so that who shows it is told why it is refused.
pub const TICKET_KEPT: Duration = Duration::from_secs(24 * 3600);

/// Why a ticket lets nobody in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TicketOver {
    /// It was taken back.
    Revoked(Revocation),
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
            Self::Revoked(Revocation::ByUser) => "revoked",
            Self::Revoked(Revocation::NewRoot) => "revoked (new root)",
            Self::Revoked(Revocation::MadeAnew) => "revoked (swarm restored)",
            Self::UsedUp => "used up",
            Self::Expired => "expired",
        }
    }
}

impl Ticket {
    /// Why it lets nobody in at that time; `None`: it does.
    #[must_use]
    pub fn over(&self, now: Timestamp) -> Option<TicketOver> {
        if let Some(why) = self.revoked {
            Some(TicketOver::Revoked(why))
        } else if self.uses_left == Some(0) {
            Some(TicketOver::UsedUp)
        } else if !self.expires_at.is_zero() && self.expires_at <= now {
            Some(TicketOver::Expired)
        } else {
            None
        }
    }

    /// It, taken back; `None` if it was before, or if by itself and it is used up.
    #[must_use]
    pub fn taken_back(&self, why: Revocation) -> Option<Self> {
        let is_used_up = self.uses_left == Some(0);
        (self.revoked.is_none() && (why == Revocation::ByUser || !is_used_up))
            .then(|| Self { revoked: Some(why), ..self.clone() })
    }

    /// When it is deleted; `None` for not by itself.
    #[must_use]
    pub fn gone_at(&self) -> Option<Timestamp> {
        let over_at = if self.revoked.is_some() || self.uses_left == Some(0) {
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
        assert_eq!(used.taken_back(Revocation::NewRoot), None);
        let revoked = ticket.taken_back(Revocation::NewRoot).unwrap();
        assert_eq!(revoked.over(Timestamp(10)), Some(TicketOver::Revoked(Revocation::NewRoot)));
        assert_eq!(revoked.taken_back(Revocation::ByUser), None);
        let endless = Ticket { uses_left: None, expires_at: Timestamp::ZERO, ..ticket };
        assert_eq!((endless.over(Timestamp(i64::MAX)), endless.gone_at()), (None, None));
    }

    #[test]
    fn what_is_over_is_kept_for_a_day() {
        let meta = Meta { updated_at: Timestamp(5), ..Meta::default() };
        let ticket = Ticket { meta, expires_at: Timestamp(10), ..Ticket::default() };
        assert_eq!(ticket.gone_at(), Some(Timestamp(10).after(TICKET_KEPT)));
        let revoked = ticket.taken_back(Revocation::ByUser).unwrap();
        assert_eq!(revoked.gone_at(), Some(Timestamp(5).after(TICKET_KEPT)));
    }
}
