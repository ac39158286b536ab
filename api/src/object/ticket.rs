//! A token for joining with a life of its own.

use std::time::Duration;

use super::Meta;
use crate::{
    NodeId, TicketId, Timestamp,
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
    /// Who joined with it last, the newest first, if it is used up some day: whose answer was lost asks again.
    pub uses: Vec<TicketUse>,
}

/// A node that joined with a ticket.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TicketUse {
    /// SHA-256 of its certificate signing request, which nobody else can make use of: its key never left the node.
    pub request: Vec<u8>,
    /// Which node it became.
    pub node: NodeId,
    /// When.
    pub at: Timestamp,
}

/// So long the answer to a join may be asked for again.
const ANSWERED_AGAIN: Duration = Duration::from_secs(10 * 60);
/// So many uses are remembered at most.
const USES_MAX: usize = 16;

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

    /// It after one more node joined with it; `None` where that is all the same to it.
    #[must_use]
    pub fn used(&self, request: &[u8], node: NodeId, now: Timestamp) -> Option<Self> {
        let left = self.uses_left?;
        let own = TicketUse { request: request.to_vec(), node, at: now };
        let late = self.uses.iter().filter(|old| now.since(old.at) < ANSWERED_AGAIN).cloned();
        let uses = [own].into_iter().chain(late).take(USES_MAX).collect();
        Some(Self { uses_left: Some(left.saturating_sub(1)), uses, ..self.clone() })
    }

    /// Which node the same request made of late, unless the ticket was taken back.
    #[must_use]
    pub fn made_by(&self, request: &[u8], now: Timestamp) -> Option<NodeId> {
        let is_it = |used: &&TicketUse| used.request == request && now.since(used.at) < ANSWERED_AGAIN;
        self.uses.iter().filter(|_| self.revoked.is_none()).find(is_it).map(|used| used.node)
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
    use crate::{Id, object::Meta};

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
    fn the_same_request_is_known_for_a_while() {
        let ticket = Ticket { uses_left: Some(2), ..Ticket::default() };
        let (node, other) = (NodeId(Id(1)), NodeId(Id(2)));
        let used = ticket.used(b"a", node, Timestamp(5)).unwrap();
        let used = used.used(b"b", other, Timestamp(6)).unwrap();
        assert_eq!((used.uses_left, used.made_by(b"c", Timestamp(7))), (Some(0), None));
        assert_eq!(
            (used.made_by(b"a", Timestamp(7)), used.made_by(b"b", Timestamp(7))),
            (Some(node), Some(other))
        );
        let late = Timestamp(5).after(ANSWERED_AGAIN);
        assert_eq!((used.made_by(b"a", late), used.made_by(b"b", late)), (None, Some(other)));
        assert_eq!(used.used(b"c", node, late).unwrap().uses.len(), 2);
        assert_eq!(used.taken_back(Revocation::ByUser).unwrap().made_by(b"a", Timestamp(7)), None);
        assert_eq!(Ticket::default().used(b"a", node, Timestamp(5)), None);
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
