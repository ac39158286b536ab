//! How members talk: openraft's calls, turned into one call of a `Transport`.
//!
//! The transport is the seam: it carries a request to a member, within a time, and knows nothing of
//! consensus. `Alone` is the transport of a swarm with one member, which has nobody to call.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::type_config::alias::SnapshotOf;
use openraft::{EmptyNode, OptionalSend, RaftNetworkFactory, RaftNetworkV2};

use crate::types::{Types, Vote};

/// What one member asks of another.
#[derive(Debug)]
#[expect(dead_code, reason = "a transport with peers reads these; the one-member one has none")]
pub(crate) enum Request {
    Append(AppendEntriesRequest<Types>),
    Vote(VoteRequest<Types>),
    /// Asks whether a vote would be granted. It must reach the member: openraft's default for a
    /// network that lacks it grants always, which would turn pre-votes off silently.
    PreVote(VoteRequest<Types>),
    TransferLeader(TransferLeaderRequest<Types>),
}

/// What it answers: the variant of the request.
#[derive(Debug)]
#[expect(dead_code, reason = "a transport with peers makes these; the one-member one has none")]
pub(crate) enum Response {
    Append(AppendEntriesResponse<Types>),
    Vote(VoteResponse<Types>),
    PreVote(VoteResponse<Types>),
    TransferLeader(TransferLeaderResponse<Types>),
}

/// Carries requests to other members.
pub(crate) trait Transport: fmt::Debug + Send + Sync + 'static {
    /// Sends `request` to the member `target`; fails after `limit` at the latest, as a call without an
    /// end would stop replication to that member for ever.
    fn call(
        &self,
        target: u64,
        request: Request,
        limit: Duration,
    ) -> BoxFuture<'static, Result<Response, CallError>>;
}

/// Why a member gave no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// It cannot be reached; it is asked again only after a pause.
    #[error("raft member {target} cannot be reached: {reason}")]
    Unreachable { target: u64, reason: &'static str },
}

/// The transport of the only member.
#[derive(Debug)]
pub(crate) struct Alone;

impl Transport for Alone {
    fn call(
        &self,
        target: u64,
        _request: Request,
        _limit: Duration,
    ) -> BoxFuture<'static, Result<Response, CallError>> {
        let error = CallError::Unreachable { target, reason: "this swarm has one manager" };
        Box::pin(std::future::ready(Err(error)))
    }
}

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
    async fn call(&self, request: Request, option: &RPCOption) -> Result<Response, RPCError<Types>> {
        self.transport
            .call(self.target, request, option.soft_ttl())
            .await
            .map_err(|e| RPCError::Unreachable(Unreachable::new(&e)))
    }

    fn mismatch(&self) -> RPCError<Types> {
        let reason = "it answered another request than the one it was sent";
        let error = CallError::Unreachable { target: self.target, reason };
        RPCError::Unreachable(Unreachable::new(&error))
    }
}

impl RaftNetworkV2<Types> for Peer {
    type SnapshotData = ();

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        let Response::Append(answer) = self.call(Request::Append(rpc), &option).await? else {
            return Err(self.mismatch());
        };
        Ok(answer)
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        let Response::Vote(answer) = self.call(Request::Vote(rpc), &option).await? else {
            return Err(self.mismatch());
        };
        Ok(answer)
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        let Response::PreVote(answer) = self.call(Request::PreVote(rpc), &option).await? else {
            return Err(self.mismatch());
        };
        Ok(answer)
    }

    async fn full_snapshot(
        &mut self,
        _vote: Vote,
        _snapshot: SnapshotOf<Types, ()>,
        _cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let error = CallError::Unreachable { target: self.target, reason: "snapshots are not sent yet" };
        Err(StreamingError::Unreachable(Unreachable::new(&error)))
    }

    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        let Response::TransferLeader(answer) = self.call(Request::TransferLeader(req), &option).await? else {
            return Err(self.mismatch());
        };
        Ok(answer)
    }
}
