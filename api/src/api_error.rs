//! The one error that an API caller sees: a kind, mapped once to HTTP, and words for a person.

use std::fmt;

/// What went wrong, in the field's classes. Each maps to one HTTP status.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ErrorKind {
    /// The request cannot be carried out as written; names the field.
    InvalidArgument,
    /// No such object.
    NotFound,
    /// A name or key is taken.
    AlreadyExists,
    /// The state of the cluster does not allow it now.
    FailedPrecondition,
    /// The version that it was made from is stale.
    Aborted,
    /// A limit was met.
    ResourceExhausted,
    /// The key that the caller gave is not the right one.
    Unauthenticated,
    /// The caller may not.
    PermissionDenied,
    /// No leader, not a manager, shutting down: may be retried.
    Unavailable,
    /// Asks for a feature that is not served.
    Unimplemented,
    /// A bug or a broken disk.
    Internal,
}

/// An error of an API call.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ApiError {
    /// Its class.
    pub kind: ErrorKind,
    /// For the person: names the field or object and what to do.
    pub message: String,
}

impl ApiError {
    /// An error of `kind`.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// The request is wrong.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidArgument, message)
    }

    /// No such object.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::NotFound, message)
    }

    /// The HTTP status, as moby maps these classes (a stale version is a 500 there; clients match its words).
    #[must_use]
    pub fn http_status(&self) -> u16 {
        match self.kind {
            ErrorKind::InvalidArgument | ErrorKind::FailedPrecondition => 400,
            ErrorKind::Unauthenticated => 401,
            ErrorKind::PermissionDenied => 403,
            ErrorKind::NotFound => 404,
            ErrorKind::AlreadyExists => 409,
            ErrorKind::Aborted | ErrorKind::Internal => 500,
            ErrorKind::Unimplemented => 501,
            ErrorKind::Unavailable | ErrorKind::ResourceExhausted => 503,
        }
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ApiError {}
