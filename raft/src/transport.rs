//! The seam to the other members: carries bytes to one of them, within a time.
//!
//! A transport knows nothing of consensus; what it carries it hands to [`Raft::handle`](crate::Raft::handle)
//! of the member that it was meant for, and brings back the answer.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

/// Carries opaque bytes to other members.
pub trait Transport: fmt::Debug + Send + Sync + 'static {
    /// Brings `body` to the member `to` and returns its answer; fails after `limit` at the latest, as a
    /// call without an end would stop replication to that member. The future is polled on the thread of
    /// consensus, so it must not block; it may be dropped at any time.
    fn call(
        &self,
        to: u64,
        body: Bytes,
        limit: Duration,
    ) -> BoxFuture<'static, Result<Bytes, TransportError>>;
}

/// Why a member gave no answer.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TransportError {
    /// The request certainly did not reach the member: no address, no connection. It may be made again
    /// at once, as it was not carried out.
    #[error("the member cannot be reached: {0}")]
    Unreachable(String),
    /// No answer came, or an error did; the member may have carried the request out.
    #[error("the member gave no answer: {0}")]
    NoAnswer(String),
}

/// The transport of a swarm's only member: it has nobody to call.
#[derive(Clone, Copy, Debug)]
pub struct Alone;

impl Transport for Alone {
    fn call(
        &self,
        _to: u64,
        _body: Bytes,
        _limit: Duration,
    ) -> BoxFuture<'static, Result<Bytes, TransportError>> {
        let error = TransportError::Unreachable("this swarm has one manager".to_owned());
        Box::pin(std::future::ready(Err(error)))
    }
}

/// Calls members from any runtime: the transport's futures live on the runtime of consensus.
#[derive(Clone, Debug)]
pub(crate) struct Calls {
    transport: Arc<dyn Transport>,
    runtime: Handle,
}

impl Calls {
    /// Calls that live on `runtime`.
    pub(crate) fn new(transport: Arc<dyn Transport>, runtime: Handle) -> Calls {
        Calls { transport, runtime }
    }

    /// One call; cancelled when the future is dropped.
    pub(crate) async fn call(&self, to: u64, body: Bytes, limit: Duration) -> Result<Bytes, TransportError> {
        let call = bounded(&*self.transport, to, body, limit);
        let mut task = AbortOnDrop(self.runtime.spawn(call));
        // An error means that the member is being shut down.
        (&mut task.0).await.unwrap_or_else(|_| Err(TransportError::NoAnswer("this member stops".to_owned())))
    }

    /// Runs to its end on the runtime of consensus, whether or not the caller waits.
    pub(crate) fn spawn<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        self.runtime.spawn(future)
    }
}

struct AbortOnDrop<T>(JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A call that ends even where the transport forgets its limit.
pub(crate) fn bounded(
    transport: &dyn Transport,
    to: u64,
    body: Bytes,
    limit: Duration,
) -> impl Future<Output = Result<Bytes, TransportError>> + Send + 'static {
    let call = transport.call(to, body, limit);
    async move {
        let late = |_| Err(TransportError::NoAnswer(format!("nothing within {} ms", limit.as_millis())));
        tokio::time::timeout(limit, call).await.unwrap_or_else(late)
    }
}
