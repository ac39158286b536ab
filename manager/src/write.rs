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
        let answer = ask(|| self.raft.propose(entry.clone())).await?;
        match decode_result(&answer) {
            Ok(_) => Ok(()),
            Err(ProposalError::Refused(refusal)) if refusal.kind == RefusalKind::Stale => {
                Err(WriteError::Stale)
            }
            Err(ProposalError::Refused(refusal)) => Err(WriteError::Refused(refusal)),
            Err(ProposalError::Answer(words)) => Err(WriteError::Answer(words)),
        }
    }
}

/// Proposes until the outcome is known. Once an answer was lost, that nobody leads says nothing of what was
/// written before: a later leader may commit it.
async fn ask<F>(mut propose: impl FnMut() -> F) -> Result<Vec<u8>, WriteError>
where
    F: Future<Output = Result<Vec<u8>, ProposeError>>,
{
    let mut may_be_written = false;
    for _ in 0..WRITE_TRIES_MAX {
        match propose().await {
            Ok(answer) => return Ok(answer),
            Err(ProposeError::Lost) => may_be_written = true,
            Err(error @ ProposeError::TooLarge { .. }) => {
                return Err(WriteError::TooLarge(error.to_string()));
            }
            Err(ProposeError::NoLeader | ProposeError::Stopped) if may_be_written => {}
            Err(ProposeError::NoLeader | ProposeError::Stopped) => return Err(WriteError::NoLeader),
        }
    }
    Err(WriteError::Unknown)
}

#[cfg(test)]
mod tests {
    use skep_raft::ProposeError::{self, Lost, NoLeader, Stopped};

    use super::{WriteError, ask};

    #[tokio::test]
    async fn after_a_lost_answer_no_leader_does_not_mean_not_written() {
        type Script = &'static [Result<u8, ProposeError>];
        let cases: [(Script, Result<u8, WriteError>); 6] = [
            (&[Ok(7)], Ok(7)),
            (&[Err(NoLeader)], Err(WriteError::NoLeader)),
            (&[Err(Stopped)], Err(WriteError::NoLeader)),
            (&[Err(Lost), Err(NoLeader), Err(NoLeader)], Err(WriteError::Unknown)),
            (&[Err(Lost), Err(Stopped), Err(Lost)], Err(WriteError::Unknown)),
            (&[Err(Lost), Err(NoLeader), Ok(7)], Ok(7)),
        ];
        for (script, expect) in cases {
            let mut answers = script.iter().cloned();
            let asked = ask(|| {
                let answer = answers.next().expect("it is asked no more often than this");
                std::future::ready(answer.map(|n| vec![n]))
            });
            assert_eq!(asked.await, expect.map(|n| vec![n]), "{script:?}");
            assert_eq!(answers.next(), None, "{script:?}");
        }
    }
}
