//! The managers as raft members: how they reach each other, come in and go.
//!
//! `book` knows who and where they are, `transport` carries raft's words to them over
//! streams (`talk`), `service` answers what they ask, `enter` is the way of a new one. Who is to be a member is decided in `roles`.

mod book;
mod enter;
mod moved;
mod service;
mod talk;
mod transport;

pub(crate) use book::{Book, read_peers};
pub use enter::{EnterError, Entrance, depart};
pub(crate) use service::{MembersService, NodeCaService};
pub(crate) use transport::Links;
