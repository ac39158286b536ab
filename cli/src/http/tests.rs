//! The server against a cluster made by hand: status codes and words first, then the real docker CLI.

mod docker;
pub(crate) mod fake;
mod placing;
mod routes;
