//! How members talk: openraft's calls, turned into one call of the [`Transport`] each.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::RPCOption;
use openraft::raft::{SnapshotResponse, TransferLeaderResponse};
use openraft::type_config::alias::SnapshotOf;
use openraft::{EmptyNode, OptionalSend, RaftNetworkFactory, RaftNetworkV2};

use crate::snapshot::Pieces;
use crate::transfer;
use crate::transport::{self, Transport, TransportError};
use crate::types::{AppendRequest, AppendResponse, TransferRequest, Types, Vote, VoteRequest, VoteResponse};
use crate::wire::{self, Answer, AppendMsg, Ask, Request, Response, TransferMsg, VoteMsg, WireError};

/// How long an append may take: openraft's own limit is a heartbeat's time, in which a large one is
/// not synced. A heartbeat's answer it awaits no longer than that in any case.
const APPEND_LIMIT: Duration = Duration::from_millis(500);
/// What each megabyte adds to that.
const APPEND_LIMIT_PER_MIB: Duration = Duration::from_millis(250);

/// Makes a `Peer` for each member.
#[derive(Debug)]
pub(crate) struct Network(pub(crate) Arc<dyn Transport>);

impl RaftNetworkFactory<Types> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, _node: &EmptyNode) -> Peer {
        Peer { target, transport: Arc::clone(&self.0) }
    }
}

/// One other member.
#[derive(Debug)]
pub(crate) struct Peer {
    target: u64,
    transport: Arc<dyn Transport>,
}

impl Peer {
    pub(crate) async fn call(&self, ask: Ask, limit: Duration) -> Result<Answer, RPCError<Types>> {
        let body = wire::encode(&Request { to: self.target, ask: Some(ask) });
        let answer = transport::bounded(&*self.transport, self.target, body, limit).await;
        let answer = answer.map_err(|error| match error {
            TransportError::Unreachable(_) => RPCError::Unreachable(Unreachable::new(&error)),
            TransportError::NoAnswer(_) => RPCError::Network(NetworkError::new(&error)),
        })?;
        match wire::decode::<Response>(answer).map_err(not_understood)?.answer {
            // It is not asked again before a pause.
            Some(Answer::Stopped(_)) => {
                Err(RPCError::Unreachable(Unreachable::from_string("consensus is stopped there")))
            }
            Some(answer) => Ok(answer),
            None => Err(not_understood(WireError::Missing("the answer"))),
        }
    }
}

pub(crate) fn not_understood(error: WireError) -> RPCError<Types> {
    RPCError::Unreachable(Unreachable::new(&error))
}

fn mismatch() -> RPCError<Types> {
    not_understood(WireError::Missing("the answer to this request"))
}

impl RaftNetworkV2<Types> for Peer {
    type SnapshotData = Arc<dyn Pieces>;

    async fn append_entries(
        &mut self,
        rpc: AppendRequest,
        _option: RPCOption,
    ) -> Result<AppendResponse, RPCError<Types>> {
        let ask = Ask::Append(AppendMsg::new(&rpc));
        let mib = prost::Message::encoded_len(&Request { to: self.target, ask: Some(ask.clone()) }) >> 20;
        let limit = APPEND_LIMIT + APPEND_LIMIT_PER_MIB * u32::try_from(mib).unwrap_or(u32::MAX);
        let Answer::Append(answer) = self.call(ask, limit).await? else {
            return Err(mismatch());
        };
        answer.read().map_err(not_understood)
    }

    async fn vote(&mut self, rpc: VoteRequest, option: RPCOption) -> Result<VoteResponse, RPCError<Types>> {
        let ask = Ask::Vote(VoteMsg::new(&rpc));
        let Answer::Vote(answer) = self.call(ask, option.soft_ttl()).await? else {
            return Err(mismatch());
        };
        answer.read().map_err(not_understood)
    }

    /// It must reach the member: openraft's default for a network that lacks it grants always, which
    /// would turn pre-votes off silently.
    async fn pre_vote(
        &mut self,
        rpc: VoteRequest,
        option: RPCOption,
    ) -> Result<VoteResponse, RPCError<Types>> {
        let ask = Ask::PreVote(VoteMsg::new(&rpc));
        let Answer::PreVote(answer) = self.call(ask, option.soft_ttl()).await? else {
            return Err(mismatch());
        };
        answer.read().map_err(not_understood)
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: SnapshotOf<Types, Arc<dyn Pieces>>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        transfer::send(self, vote, snapshot, cancel).await
    }

    async fn transfer_leader(
        &mut self,
        req: TransferRequest,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        let ask = Ask::Transfer(TransferMsg::new(&req));
        let Answer::Transfer(answer) = self.call(ask, option.soft_ttl()).await? else {
            return Err(mismatch());
        };
        answer.read().map_err(not_understood)
    }
}
