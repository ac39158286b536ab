//! A token for joining with a life of its own.

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
}
