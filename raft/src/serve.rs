//! Answers what other members ask: the far end of their transport.
//!
//! A member that is asked by another never asks a third one: what it cannot do itself it refuses, and
//! the one who asked looks for the leader again.

use std::time::Duration;

use bytes::Bytes;
use openraft::ReadPolicy;
use openraft::errors::RaftError;
use tokio::time::{Instant, timeout};

use crate::client::{Attempt, READ_INDEX_LIMIT, attempt};
use crate::config::ENTRY_BYTES_MAX;
use crate::error::HandleError;
use crate::raft::Raft;
use crate::types::{AppendResponse, Command};
use crate::wire::{
    self, Answer, AppendAnswer, AppendMsg, Ask, Empty, Outcome, ProposeAnswer, ReadAnswer, Request, Response,
    TransferAnswer, VoteAnswer, WireError, WrittenMsg,
};

/// Appends that were on their way when a member was let go come no later than this.
const LATE_MAX: Duration = Duration::from_secs(1);

impl Raft {
    /// Answers a request that another member's [`Transport`](crate::Transport) carried here. May be
    /// called from any runtime. Who may call it is for the caller to decide: members only.
    ///
    /// # Errors
    /// [`HandleError`]: the request was not carried out.
    pub async fn handle(&self, body: Bytes) -> Result<Bytes, HandleError> {
        let request: Request = wire::decode(body).map_err(malformed)?;
        if request.to != self.raft_id() {
            return Err(HandleError::NotForMe { meant: request.to, raft_id: self.raft_id() });
        }
        let ask = request.ask.ok_or_else(|| malformed(WireError::Missing("the question")))?;
        let answer = self.answer(ask).await.map_err(malformed)?;
        let answer = answer.unwrap_or(Answer::Stopped(Empty {}));
        Ok(wire::encode(&Response { answer: Some(answer) }))
    }

    /// None: consensus has stopped here.
    async fn answer(&self, ask: Ask) -> Result<Option<Answer>, WireError> {
        let core = self.core();
        Ok(match ask {
            Ask::Append(msg) => self.append(msg).await?,
            Ask::Vote(msg) => {
                let answer = core.vote(msg.read()?).await.ok();
                answer.map(|answer| Answer::Vote(VoteAnswer::new(&answer)))
            }
            Ask::PreVote(msg) => {
                let answer = core.pre_vote(msg.read()?).await.ok();
                answer.map(|answer| Answer::PreVote(VoteAnswer::new(&answer)))
            }
            Ask::Transfer(msg) => {
                let answer = core.handle_transfer_leader(msg.read()?).await.ok();
                answer.map(|answer| Answer::Transfer(TransferAnswer::new(&answer)))
            }
            Ask::Snapshot(piece) => self.take_piece(piece).await?,
            Ask::Propose(entry) => Some(Answer::Propose(self.propose_asked(entry).await)),
            Ask::ReadIndex(Empty {}) => self.read_index().await,
            Ask::Removed(Empty {}) => {
                self.heard().removed.send_replace(Some(Instant::now()));
                Some(Answer::Removed(Empty {}))
            }
        })
    }

    async fn append(&self, msg: AppendMsg) -> Result<Option<Answer>, WireError> {
        let Ok(answer) = self.core().append_entries(msg.read()?).await else { return Ok(None) };
        match &answer {
            AppendResponse::Success | AppendResponse::PartialSuccess(_) | AppendResponse::Conflict => {
                self.heard().leader.send_replace(Some(Instant::now()));
                let removed = *self.heard().removed.borrow();
                if removed.is_some_and(|at| at.elapsed() > LATE_MAX) {
                    // Whoever leads replicates to members only.
                    self.heard().removed.send_replace(None);
                }
            }
            AppendResponse::HigherVote(_) => {}
        }
        Ok(Some(Answer::Append(AppendAnswer::new(&answer))))
    }

    async fn propose_asked(&self, entry: Bytes) -> ProposeAnswer {
        let outcome = if entry.len() > ENTRY_BYTES_MAX {
            Outcome::Refused(Empty {})
        } else {
            match attempt(self, Command(entry)).await {
                Attempt::Written { index, response } => {
                    Outcome::Written(WrittenMsg { index, response: Bytes::from(response) })
                }
                Attempt::Refused | Attempt::Stopped => Outcome::Refused(Empty {}),
                Attempt::Lost => Outcome::Lost(Empty {}),
            }
        };
        ProposeAnswer { outcome: Some(outcome) }
    }

    async fn read_index(&self) -> Option<Answer> {
        let confirmed =
            timeout(READ_INDEX_LIMIT, self.core().get_read_linearizer(ReadPolicy::ReadIndex)).await;
        let index = match confirmed {
            Ok(Ok(linearizer)) => Some(linearizer.read_log_id().index()),
            Ok(Err(RaftError::Fatal(_))) => return None,
            Ok(Err(RaftError::APIError(_))) | Err(_) => None,
        };
        Some(Answer::ReadIndex(ReadAnswer { index }))
    }
}

fn malformed(error: WireError) -> HandleError {
    HandleError::Malformed { reason: error.to_string() }
}
