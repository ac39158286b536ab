//! A guarded write: proposed with a request id, asked again when its answer was lost, applied once.

use skep_api::{RequestId, Timestamp, id::IdSource};
use skep_raft::ProposeError;
use skep_store::{Change, Guard, Proposal, ProposalError, Refusal, RefusalKind, decode_result};
use tonic::Status;

use crate::{SystemIds, dispatcher::Shared};

/// How often a write whose outcome is unknown is asked again, with the same request id.
const WRITE_TRIES_MAX: u32 = 3;

/// Why a write was not acknowledged.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum WriteError {
    /// What it was made from has changed.
    #[error("update out of sequence")]
    Stale,
    /// The state does not allow it.
    #[error(transparent)]
    Refused(Refusal),
    /// It was not written.
    #[error("the swarm has no leader")]
    NoLeader,
    /// It was not written.
    #[error("{0}")]
    TooLarge(String),
    /// It may be written, or not.
    #[error("the outcome of the write is unknown; look before asking again")]
    Unknown,
    /// A bug.
    #[error("{0}")]
    Answer(String),
}

impl From<WriteError> for Status {
    fn from(error: WriteError) -> Self {
        let words = error.to_string();
        match error {
            WriteError::Stale => Self::aborted(words),
            WriteError::Refused(_) => Self::failed_precondition(words),
            WriteError::NoLeader | WriteError::Unknown => Self::unavailable(words),
            WriteError::TooLarge(_) => Self::invalid_argument(words),
            WriteError::Answer(_) => Self::internal(words),
        }
    }
}

impl Shared {
    /// Proposes and waits until it is applied here.
    pub(crate) async fn write(&self, guards: Vec<Guard>, changes: Vec<Change>) -> Result<(), WriteError> {
        let proposal = Proposal {
            request: Some(RequestId(SystemIds::default().next_id())),
            guards,
            changes,
            follows: Vec::new(),
            now: Timestamp((self.clock)()),
        };
        let entry = proposal.encode();
        for _ in 0..WRITE_TRIES_MAX {
            match self.raft.propose(entry.clone()).await {
                Ok(answer) => {
                    return match decode_result(&answer) {
                        Ok(_) => Ok(()),
                        Err(ProposalError::Refused(refusal)) if refusal.kind == RefusalKind::Stale => {
                            Err(WriteError::Stale)
                        }
                        Err(ProposalError::Refused(refusal)) => Err(WriteError::Refused(refusal)),
                        Err(ProposalError::Answer(words)) => Err(WriteError::Answer(words)),
                    };
                }
                Err(ProposeError::Lost) => {}
                Err(error @ ProposeError::TooLarge { .. }) => {
                    return Err(WriteError::TooLarge(error.to_string()));
                }
                Err(ProposeError::NoLeader | ProposeError::Stopped) => return Err(WriteError::NoLeader),
            }
        }
        Err(WriteError::Unknown)
    }
}
