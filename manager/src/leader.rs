//! The leader: one value with one loop, gained with leadership and dropped with it.
//!
//! Loop: wait for a change, a timer, an answer or the end of leadership; one pass on one draft; propose it.
//! Proposals are on their way while the next pass drafts upon them (`ahead`). A refused one is dropped, with
//! all that was built on it, and what they touched is looked at again.

mod ahead;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, future::Future, pin::Pin, sync::Arc, time::Duration};

use futures::{StreamExt, stream::FuturesUnordered};
use skep_api::{RequestId, Timestamp};
use skep_orchestrator::WakeKey;
use skep_raft::{ProposeError, Raft};
use skep_store::{Dirty, Proposal, ProposalError, View, decode_result};
use tokio::time::Instant;

use self::ahead::Ahead;
use crate::{
    SystemIds,
    machine::{Machine, Published},
    pass::{Memo, Times, pass},
};

/// No pass comes to another service once it has drafted so many changes.
const CHANGES_MAX: usize = 2_000;
/// How long the loop rests after a lost proposal before it looks again.
const RETRY_DELAY: Duration = Duration::from_millis(50);

/// What the loop needs; dropping the future ends the leader.
pub(crate) struct Leader {
    pub(crate) raft: Raft,
    pub(crate) machine: Arc<Machine>,
    pub(crate) clock: fn() -> i64,
}

impl Leader {
    /// Runs until it is dropped.
    pub(crate) async fn run(self) {
        tracing::info!("leading");
        self.passes().await;
    }

    async fn passes(&self) {
        let mut state = Passes {
            ids: SystemIds::default(),
            memo: Memo::default(),
            wakes: BTreeMap::new(),
            dirty: Dirty::everything(),
            last: (newest(&self.machine.view()), Instant::now()),
            ahead: Ahead::default(),
        };
        let mut answers: FuturesUnordered<Answering> = FuturesUnordered::new();
        let mut rest_until = None;
        loop {
            let (published, dirty) = self.machine.take();
            state.dirty.merge(dirty);
            let mut wake = None;
            if rest_until.is_none_or(|until| until <= Instant::now()) {
                rest_until = None;
                wake = self.pass(&mut state, &published);
            }
            while let Some(proposal) = state.ahead.send() {
                answers.push(self.propose(&proposal));
            }
            tokio::select! {
                biased;
                Some((request, outcome)) = answers.next() => {
                    if matches!(outcome, Err(Unapplied::Stopped)) {
                        return;
                    }
                    if !state.answered(request, &outcome, &self.machine.view()) {
                        rest_until = Some(Instant::now() + RETRY_DELAY);
                    }
                }
                () = self.machine.changed() => {}
                () = sleep_until(rest_until) => {}
                () = sleep_or_forever(wake) => {}
            }
        }
    }

    /// Looks at what is dirty or due, unless what is on its way has to be answered first. Says when something
    /// will be due.
    fn pass(&self, state: &mut Passes, published: &Published) -> Option<Duration> {
        let clock = Timestamp((self.clock)());
        let now = now(clock, &published.view, state.last);
        let next = |wakes: &BTreeMap<WakeKey, Timestamp>| wakes.values().min().map(|at| at.since(now));
        let is_due = next(&state.wakes).is_some_and(|wait| wait.is_zero());
        if (state.dirty.is_empty() && !is_due) || published.view.cluster().is_none() {
            return next(&state.wakes);
        }
        let view = state.ahead.view(published)?;
        for (key, _) in state.wakes.iter().filter(|(_, at)| **at <= now) {
            match key {
                WakeKey::Service(id) => state.dirty.services.insert(*id),
                WakeKey::Node(id) => state.dirty.nodes.insert(*id),
                WakeKey::Tickets => std::mem::replace(&mut state.dirty.tickets, true),
            };
        }
        state.last = (now, Instant::now());
        let dirty = std::mem::take(&mut state.dirty);
        if dirty.all {
            state.wakes.clear();
        }
        let result = pass(view, &dirty, Times { now, clock }, &mut state.ids, &mut state.memo, CHANGES_MAX);
        result.settle(&mut state.wakes);
        state.dirty.merge(result.rest);
        for refusal in result.draft.refusals() {
            tracing::warn!(err = %refusal, "a pass drafted what its own state refuses: a bug");
        }
        state.ahead.take(result.draft, &mut state.ids);
        // A pass that came to its end without a change has no answer to go on with the rest at.
        let goes_on = !state.dirty.is_empty() && state.ahead.is_empty();
        if goes_on { Some(Duration::ZERO) } else { next(&state.wakes) }
    }

    /// Puts a proposal on its way: by the first poll of what is returned, so in the order of these.
    fn propose(&self, proposal: &Proposal) -> Answering {
        let (raft, entry, request) = (self.raft.clone(), proposal.encode(), proposal.request);
        Box::pin(async move {
            let outcome = match raft.propose_as_leader(entry).await {
                Ok(answer) => decode_result(&answer).map(drop).map_err(Unapplied::Refused),
                Err(ProposeError::Stopped) => Err(Unapplied::Stopped),
                Err(error) => Err(Unapplied::Lost(error)),
            };
            (request, outcome)
        })
    }
}

/// The wall clock, or the time since the last pass where that is later: a clock that was set back, here or
/// on an earlier leader, holds nothing up. Never at or before an earlier pass, nor before the swarm's start.
fn now(clock: Timestamp, view: &View, last: (Timestamp, Instant)) -> Timestamp {
    let stored = view.cluster().map_or(Timestamp::ZERO, |cluster| cluster.meta.updated_at);
    let (time, at) = last;
    let gone_on = time.after(at.elapsed().max(Duration::from_nanos(1)));
    clock.max(stored).max(gone_on)
}

/// The answer to one proposal.
type Answering = Pin<Box<dyn Future<Output = (Option<RequestId>, Result<(), Unapplied>)> + Send>>;

/// Why a proposal was not applied.
enum Unapplied {
    /// The state had moved on, mostly.
    Refused(ProposalError),
    /// Nobody knows.
    Lost(ProposeError),
    /// Consensus has ended here.
    Stopped,
}

/// What the loop holds.
struct Passes {
    ids: SystemIds,
    memo: Memo,
    wakes: BTreeMap<WakeKey, Timestamp>,
    dirty: Dirty,
    /// The time of the last pass, and when that was.
    last: (Timestamp, Instant),
    ahead: Ahead,
}

impl Passes {
    /// Takes an answer; false if its proposal was not applied.
    fn answered(&mut self, request: Option<RequestId>, outcome: &Result<(), Unapplied>, view: &View) -> bool {
        match outcome {
            Ok(()) | Err(Unapplied::Stopped) => {}
            // Routine: a user's write came between.
            Err(Unapplied::Refused(error)) => {
                tracing::debug!(err = %error, "a pass's proposal was refused; drafting anew");
            }
            Err(Unapplied::Lost(error)) => tracing::warn!(err = %error, "a pass's proposal was lost"),
        }
        if let Some(request) = request {
            self.dirty.merge(self.ahead.answered(request, outcome.is_ok(), view));
        }
        outcome.is_ok()
    }
}

/// The newest time that is stored: a new leader's clock may be behind the last one's.
fn newest(view: &View) -> Timestamp {
    let services = view.services().map(|service| service.meta.updated_at);
    let tasks = view.tasks().map(|task| task.meta.updated_at);
    services.chain(tasks).max().unwrap_or_default()
}

async fn sleep_or_forever(span: Option<Duration>) {
    match span {
        Some(span) => tokio::time::sleep(span).await,
        None => std::future::pending().await,
    }
}

/// Sleeps until then; for ever without a deadline.
pub(crate) async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
