//! The pending result of a pass: a view with its changes applied, and what they were made from.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Deref,
    sync::Arc,
};

use skep_api::{
    Id, RequestId, ServiceId, Timestamp,
    id::IdSource,
    object::{SeatKey, Task},
};

use crate::{Change, Follows, Guard, GuardKind, Proposal, Refusal, Subject, View, apply::merged};

/// Changes at most in one proposal (Swarm's limit of a transaction, `SK:manager/state/store/memory.go`).
pub const CHANGES_MAX: usize = 200;

/// With more services than that in a draft, several share a proposal. One that is refused is drafted anew with all that
/// it has, so a few are better alone.
const GROUPS_MANY: usize = 64;

/// Reads like a [`View`] that has its own changes already.
#[derive(Clone, Debug)]
pub struct Draft {
    base: View,
    view: View,
    now: Timestamp,
    changes: Vec<Change>,
    /// Of each change.
    origins: Vec<Origin>,
    /// An object may have been written more than once.
    is_written_again: bool,
    refusals: Vec<Refusal>,
}

/// Whose a task is that gets its node, and which version a written object had in the base, noted while it is at hand:
/// among a million tasks, to find it again is most of the work of making a proposal.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Origin {
    service: Option<ServiceId>,
    /// `None` if it was not there, or this draft wrote it before.
    version: Option<u64>,
}

impl Deref for Draft {
    type Target = View;

    fn deref(&self) -> &View {
        &self.view
    }
}

impl Draft {
    /// A draft without changes.
    #[must_use]
    pub fn new(base: View, now: Timestamp) -> Self {
        Self {
            view: base.clone(),
            base,
            now,
            changes: Vec::new(),
            origins: Vec::new(),
            is_written_again: false,
            refusals: Vec::new(),
        }
    }

    /// What it was made from.
    #[must_use]
    pub fn base(&self) -> &View {
        &self.base
    }

    /// The time of the pass.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.now
    }

    /// Adds a change and shows its effect at once.
    ///
    /// # Errors
    /// The draft itself does not allow it (a key is taken); the draft is as it was.
    pub fn push(&mut self, change: Change) -> Result<(), Refusal> {
        // Of a task nothing is written before all is checked; and while nobody else has the view, little of it is
        // copied for a write.
        let is_checked_first = matches!(change, Change::PutTask(_) | Change::AssignTask(..));
        let before = (!is_checked_first).then(|| self.view.clone());
        let revision = self.view.revision;
        let (origin, is_again) = self.origin(&change);
        if let Err(refusal) = self.view.apply_change(&change, self.now) {
            self.view = before.unwrap_or_else(|| View { revision, ..std::mem::take(&mut self.view) });
            self.refusals.push(refusal.clone());
            return Err(refusal);
        }
        self.changes.push(change);
        self.origins.push(origin);
        self.is_written_again |= is_again;
        Ok(())
    }

    /// Where a change begins, and whether this draft may have written its object before.
    fn origin(&self, change: &Change) -> (Origin, bool) {
        let Some((kind, id)) = key(change) else { return (Origin::default(), false) };
        let (service, known) = if let Change::AssignTask(id, _) = change {
            let task = self.view.tasks.get(id);
            (task.map(|task| task.service_id), task.map_or(0, |task| task.meta.version))
        } else {
            (None, Guard::version_in(kind, id, &self.view))
        };
        // What this draft wrote has a later version than all of the base; what it deleted may be put again.
        let is_again = known > self.base.revision || !is_put(change);
        let version = Some(known).filter(|known| !is_again && *known > 0);
        (Origin { service, version }, is_again)
    }

    /// The changes so far.
    #[must_use]
    pub fn changes(&self) -> &[Change] {
        &self.changes
    }

    /// What the draft did not allow. A pass looks before it pushes, so there is something only when it has
    /// a bug; what was refused is drafted anew by the next pass.
    #[must_use]
    pub fn refusals(&self) -> &[Refusal] {
        &self.refusals
    }

    /// Cuts the changes into proposals: one service each, but for very many of them, about [`CHANGES_MAX`] changes, in order.
    ///
    /// An object that was written several times is written once, at its first place with its last content.
    /// Neighbouring changes of one seat stay together: the end of a task and its successor are one decision.
    ///
    /// They may all be on their way at once: each has a request, and says of what an earlier one wrote that it
    /// follows that one. So it does of `before`, the proposals on their way that the draft's view had already.
    #[must_use]
    pub fn into_proposals<'a>(
        self,
        before: impl IntoIterator<Item = &'a Proposal>,
        ids: &mut dyn IdSource,
    ) -> Vec<Proposal> {
        let is_each_once = !self.is_written_again;
        let changes = if is_each_once {
            self.changes.into_iter().zip(self.origins).collect()
        } else {
            last_writes(self.changes, self.origins)
        };
        let mut groups: Vec<Group> = Vec::new();
        let mut place: BTreeMap<Option<Id>, usize> = BTreeMap::new();
        for (change, origin) in changes {
            let owner = origin.service.map(|id| id.0).or_else(|| owner(&change, &self.view, &self.base));
            // Mostly it is the one before.
            let newest = groups.len().checked_sub(1).filter(|at| groups[*at].0 == owner);
            let at = newest.or_else(|| place.get(&owner).copied()).filter(|at| {
                let group = &groups[*at].1;
                group.len() < CHANGES_MAX
                    || (seat(&change).is_some()
                        && group.last().and_then(|(last, _)| seat(last)) == seat(&change))
            });
            let at = at.unwrap_or_else(|| {
                // Many services have one.
                groups.push((owner, Vec::with_capacity(1)));
                place.insert(owner, groups.len() - 1);
                groups.len() - 1
            });
            groups[at].1.push((change, origin));
        }
        let groups = together_if_many(groups);
        let mut written = BTreeMap::new();
        before.into_iter().for_each(|proposal| note_writes(proposal, &mut written));
        let mut proposals = Vec::with_capacity(groups.len());
        for group in groups {
            let mut keys: Vec<_> =
                group.iter().filter_map(|(change, origin)| Some((key(change)?, origin.version))).collect();
            if !is_each_once {
                // Of two writes of one object the last one, as both say what it was.
                keys = BTreeMap::from_iter(keys).into_iter().collect();
            }
            let mut proposal =
                Proposal { request: Some(RequestId(ids.next_id())), now: self.now, ..Proposal::default() };
            for ((kind, id), version) in keys {
                match written.get(&(kind, id)) {
                    Some((request, back)) => {
                        proposal.follows.push(Follows { kind, id, request: *request, back: *back });
                    }
                    None => {
                        let version = version.unwrap_or_else(|| {
                            if is_each_once { 0 } else { Guard::version_in(kind, id, &self.base) }
                        });
                        proposal.guards.push(Guard { kind, id, version });
                    }
                }
            }
            proposal.changes = group.into_iter().map(|(change, _)| change).collect();
            if !is_each_once {
                note_writes(&proposal, &mut written);
            }
            proposals.push(proposal);
        }
        proposals
    }
}

impl View {
    /// This state as it will be after a proposal that is on its way, but for the versions; `None` if it would be
    /// refused.
    #[must_use]
    pub fn with(mut self, proposal: &Proposal) -> Option<Self> {
        for change in &proposal.changes {
            self.apply_change(change, proposal.now).ok()?;
        }
        Some(self)
    }
}

/// What is written of what one service owns, in order.
type Group = (Option<Id>, Vec<(Change, Origin)>);

/// Many small groups share proposals: each proposal has its price.
fn together_if_many(groups: Vec<Group>) -> Vec<Vec<(Change, Origin)>> {
    let n_groups = groups.len();
    let mut out: Vec<Vec<_>> = Vec::with_capacity(n_groups);
    for (_, changes) in groups {
        let last =
            out.last_mut().filter(|last| n_groups > GROUPS_MANY && last.len() + changes.len() <= CHANGES_MAX);
        match last {
            Some(last) => last.extend(changes),
            None => out.push(changes),
        }
    }
    out
}

/// Who wrote an object last: a request, and how many of its changes came after.
type Written = BTreeMap<(GuardKind, Id), (RequestId, u64)>;

fn note_writes(proposal: &Proposal, written: &mut Written) {
    let Some(request) = proposal.request else { return };
    let mut seen = BTreeSet::new();
    for (change, back) in proposal.changes.iter().rev().zip(0..) {
        let Some(key) = key(change).filter(|key| seen.insert(*key)) else { continue };
        if is_put(change) {
            written.insert(key, (request, back));
        } else {
            // It is gone, which is what version 0 says.
            written.remove(&key);
        }
    }
}

/// Leaves of several writes of an object the last one, at the place and with the origin of the first.
fn last_writes(changes: Vec<Change>, origins: Vec<Origin>) -> Vec<(Change, Origin)> {
    let mut kept: Vec<(Change, Origin)> = Vec::with_capacity(changes.len());
    let mut place: BTreeMap<(GuardKind, Id), usize> = BTreeMap::new();
    for (change, origin) in changes.into_iter().zip(origins) {
        match (is_put(&change).then(|| key(&change)).flatten(), key(&change)) {
            (Some(key), _) if place.contains_key(&key) => {
                let before = &mut kept[place[&key]].0;
                *before = together(before, change);
            }
            (Some(key), _) => {
                place.insert(key, kept.len());
                kept.push((change, origin));
            }
            (None, deleted) => {
                // A put after the deletion is another object.
                if let Some(deleted) = deleted {
                    place.remove(&deleted);
                }
                kept.push((change, origin));
            }
        }
    }
    kept
}

/// What two writes of an object are as one.
fn together(before: &Change, after: Change) -> Change {
    match (before, after) {
        (Change::PutTask(task), Change::AssignTask(_, assigned)) => {
            let status = merged(&task.status, &assigned.status, false);
            let task = assigned.to(task);
            let status = status.unwrap_or_else(|| task.status.clone());
            Change::PutTask(Arc::new(Task { status, ..task }))
        }
        (_, after) => after,
    }
}

fn is_put(change: &Change) -> bool {
    matches!(
        change,
        Change::PutService(_)
            | Change::PutTask(_)
            | Change::PutNode(_)
            | Change::PutCluster(_)
            | Change::PutNetwork(_)
            | Change::PutTicket(_)
            | Change::AssignTask(..)
    )
}

/// The seat of a task that a change puts.
fn seat(change: &Change) -> Option<SeatKey> {
    let Change::PutTask(task) = change else { return None };
    Some(task.seat())
}

/// Which object a change writes, if that is guarded.
fn key(change: &Change) -> Option<(GuardKind, Id)> {
    (!change.is_report()).then(|| change.subject().key())
}

/// The service that a change belongs to.
fn owner(change: &Change, view: &View, base: &View) -> Option<Id> {
    if let Change::PutTask(task) = change {
        return Some(task.service_id.0);
    }
    match change.subject() {
        Subject::Service(id) => Some(id.0),
        Subject::Task(id) => {
            view.tasks.get(&id).or_else(|| base.tasks.get(&id)).map(|task| task.service_id.0)
        }
        Subject::Node(_) | Subject::Cluster(_) | Subject::Network(_) | Subject::Ticket(_) => None,
    }
}
