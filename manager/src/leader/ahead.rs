//! What the leader has drafted and the log has not answered yet.
//!
//! Passes draft on the applied state with this upon it, so that they need not wait for a commit. Each
//! proposal says which earlier ones it follows, so a refusal refuses all that was built on it; nothing more is
//! drafted then until the rest is answered, and what they touched is looked at again.

use std::collections::VecDeque;

use skep_api::{RequestId, id::IdSource};
use skep_store::{Change, Dirty, Draft, Proposal, Subject, View};

use crate::machine::Published;

/// Proposals on their way at once. Enough to fill the log's batches; each is at most some 200 changes, which
/// are drafted upon anew by each pass.
pub(super) const SENT_MAX: usize = 64;
/// No pass drafts more while so many changes are on their way or wait for it.
const CHANGES_AHEAD_MAX: usize = 2_000;

/// Proposals in the order in which they were drafted.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    sent: VecDeque<Proposal>,
    waiting: VecDeque<Proposal>,
    /// Something was refused or lost, or cannot be built upon: all has to be answered first.
    drains: bool,
}

impl Ahead {
    pub(super) fn is_empty(&self) -> bool {
        self.sent.is_empty() && self.waiting.is_empty()
    }

    /// What a pass may draft on now: the applied state, and upon it what is on its way. None: not yet.
    pub(super) fn view(&mut self, published: &Published) -> Option<View> {
        if self.is_empty() {
            self.drains = false;
        }
        let n_changes = self.all().map(|proposal| proposal.changes.len()).sum::<usize>();
        if self.drains || !self.waiting.is_empty() || n_changes > CHANGES_AHEAD_MAX {
            return None;
        }
        let mut view = published.view.clone();
        let is_applied = |proposal: &Proposal| proposal.request.is_some_and(|id| published.requests.has(id));
        for proposal in self.sent.iter().filter(|sent| !is_applied(sent)) {
            let Some(next) = view.with(proposal) else {
                // Somebody else's write came between: it will be refused.
                self.drains = true;
                return None;
            };
            view = next;
        }
        Some(view)
    }

    /// Takes what a pass drafted on `view`.
    pub(super) fn take(&mut self, draft: Draft, ids: &mut dyn IdSource) {
        // The version of a spec is the revision at which it is put: tasks cannot name it before.
        let puts_spec = |change: &Change| {
            let Change::PutService(service) = change else { return false };
            draft.base().service(service.id).is_none_or(|old| service.is_changed_from(old))
        };
        self.drains |= draft.changes().iter().any(puts_spec);
        let proposals = draft.into_proposals(&self.sent, ids);
        self.waiting.extend(proposals);
    }

    /// The next one to send, if not too many are on their way.
    pub(super) fn send(&mut self) -> Option<Proposal> {
        if self.sent.len() >= SENT_MAX {
            return None;
        }
        let proposal = self.waiting.pop_front()?;
        self.sent.push_back(proposal.clone());
        Some(proposal)
    }

    /// One is answered. If it was not applied, what has to be looked at again: it, and what was not sent yet.
    pub(super) fn answered(&mut self, request: RequestId, is_applied: bool, view: &View) -> Dirty {
        let mut again = Dirty::default();
        let Some(at) = self.sent.iter().position(|sent| sent.request == Some(request)) else { return again };
        let proposal = self.sent.remove(at);
        if !is_applied {
            self.drains = true;
            let unsent = self.waiting.drain(..);
            proposal.into_iter().chain(unsent).for_each(|proposal| mark(&mut again, &proposal, view));
        }
        again
    }

    fn all(&self) -> impl Iterator<Item = &Proposal> {
        self.sent.iter().chain(&self.waiting)
    }
}

/// Marks what a proposal would have changed.
fn mark(dirty: &mut Dirty, proposal: &Proposal, view: &View) {
    for change in &proposal.changes {
        if let Change::PutTask(task) = change {
            dirty.services.insert(task.service_id);
            dirty.tasks.insert(task.id, task.service_id);
            dirty.freed.extend(task.node_id);
        } else if let Change::AssignTask(_, assigned) = change {
            dirty.freed.insert(assigned.node);
        }
        match change.subject() {
            Subject::Service(id) => {
                dirty.services.insert(id);
            }
            Subject::Task(id) => dirty.services.extend(view.task(id).map(|task| task.service_id)),
            Subject::Node(id) => {
                dirty.nodes.insert(id);
            }
            Subject::Cluster(_) => dirty.all = true,
            // A pass decides nothing of them.
            Subject::Network(_) => {}
            Subject::Ticket(_) => dirty.tickets = true,
        }
    }
}
