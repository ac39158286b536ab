//! Applies proposals: the only writer of the replicated state.

mod node;
mod service;
mod task;

pub(crate) use task::{merged, resource_taken};

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
};

use imbl::OrdMap;
use prost::Message;
use skep_api::{
    NetworkId, NodeId, RequestId, ServiceId, TaskId, TicketId, Timestamp,
    convert::{generic_in, task_in},
    object::{Cluster, Meta, Task},
    wire,
};

use crate::{Assigned, Change, Guard, ObjectRef, Refusal, RefusalKind, View, proposal::FORMAT};

/// The replicated state of one manager.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Store {
    pub(crate) view: View,
    pub(crate) requests: OrdMap<RequestId, Vec<u8>>,
    pub(crate) request_order: VecDeque<RequestId>,
    /// Of all remembered answers.
    pub(crate) answer_bytes: usize,
}

/// How far a state that is made anew jumps: more changes than any swarm makes.
pub const JUMP: u64 = 1 << 32;

/// What came of one log entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Applied {
    /// For the proposer; read by [`crate::decode_result`].
    pub answer: Vec<u8>,
    /// What it changed.
    pub changed: Vec<ObjectRef>,
}

impl Store {
    /// The current state; O(1).
    #[must_use]
    pub fn view(&self) -> View {
        self.view.clone()
    }

    /// Goes on with revisions that no state before this one can have had: a swarm that is made anew from what one
    /// manager or a backup holds gives no version out again that the lost one may have given.
    pub fn jump(&mut self) {
        self.view.revision = self.view.revision.saturating_add(JUMP);
    }

    /// Applies one entry of the log. A refused one changes nothing; a repeated request gets its first answer.
    pub fn apply(&mut self, entry: &[u8]) -> Applied {
        let proposal = match wire::Proposal::decode(entry) {
            Ok(proposal) => proposal,
            Err(error) => {
                return refused(&Refusal::new(RefusalKind::Format, format!("malformed proposal: {error}")));
            }
        };
        let request = RequestId::from_bytes(&proposal.request_id);
        if let Some(answer) = request.and_then(|id| self.requests.get(&id)) {
            return Applied { answer: answer.clone(), changed: Vec::new() };
        }
        let follows = self.check_follows(&proposal.follows);
        let applied = match follows.and_then(|()| self.apply_whole(proposal)) {
            Ok(changed) => {
                let answer = wire::ProposalResult { revision: self.view.revision, refusal: None };
                Applied { answer: answer.encode_to_vec(), changed }
            }
            Err(refusal) => refused(&refusal),
        };
        if let Some(id) = request {
            self.remember(id, applied.answer.clone());
        }
        applied
    }

    /// Applies all of a proposal, or nothing.
    fn apply_whole(&mut self, proposal: wire::Proposal) -> Result<Vec<ObjectRef>, Refusal> {
        use wire::change::Change as In;
        let moves_a_task =
            |change: &wire::Change| matches!(change.change, Some(In::AssignTask(_) | In::TaskStatus(_)));
        let mut before = Vec::new();
        if !proposal.changes.iter().all(moves_a_task) {
            let mut view = self.view.clone();
            let changed = view.apply_proposal(proposal, &mut before)?;
            self.view = view;
            return Ok(changed);
        }
        // Most of what is written is this. To have the state as it was beside it would mean to copy a piece of each
        // index for each task; to take back what was written of it is easy, and rare.
        let revision = self.view.revision;
        let applied = self.view.apply_proposal(proposal, &mut before);
        if applied.is_err() {
            before.into_iter().rev().for_each(|task| self.view.put_back(task));
            self.view.revision = revision;
        }
        applied
    }
}

fn refused(refusal: &Refusal) -> Applied {
    let answer = wire::ProposalResult { revision: 0, refusal: Some(refusal.into()) };
    Applied { answer: answer.encode_to_vec(), changed: Vec::new() }
}

impl View {
    /// Notes in `before` how tasks were that get a node or a status.
    fn apply_proposal(
        &mut self,
        proposal: wire::Proposal,
        before: &mut Vec<Arc<Task>>,
    ) -> Result<Vec<ObjectRef>, Refusal> {
        if proposal.format != FORMAT {
            let words = format!("proposal of format {}, this build reads {FORMAT}", proposal.format);
            return Err(Refusal::new(RefusalKind::Format, words));
        }
        for guard in &proposal.guards {
            Guard::try_from(guard)?.check(self)?;
        }
        let now = Timestamp(proposal.now);
        let mut changed = Vec::with_capacity(proposal.changes.len());
        let mut seats = BTreeSet::new();
        for change in proposal.changes {
            let change = self.read_change(change)?;
            if let Change::PutTask(task) = &change {
                seats.insert((task.service_id, task.seat()));
            } else if let Change::AssignTask(id, _) | Change::TaskStatus(id, _) = &change {
                before.extend(self.tasks.get(id).cloned());
            }
            changed.extend(self.apply_change(&change, now)?);
        }
        for (service, seat) in seats {
            self.check_seat(service, seat)?;
        }
        Ok(changed)
    }

    /// Reads a change in the light of this view: a stored task names its spec by version.
    fn read_change(&self, change: wire::Change) -> Result<Change, Refusal> {
        use wire::change::Change as In;
        let format = |what: &str| Refusal::new(RefusalKind::Format, format!("change without {what}"));
        Ok(match change.change.ok_or_else(|| format("content"))? {
            In::PutService(service) => Change::PutService(Arc::new(service.try_into()?)),
            In::DeleteService(id) => {
                Change::DeleteService(ServiceId::from_bytes(&id).ok_or_else(|| format("id"))?)
            }
            In::PutTask(task) => {
                let service = ServiceId::from_bytes(&task.service_id).ok_or_else(|| format("service id"))?;
                let (spec, _) = self.specs.get(&(service, task.spec_version)).ok_or_else(|| {
                    let words = format!("service {service} has no spec version {}", task.spec_version);
                    Refusal::new(RefusalKind::Missing, words)
                })?;
                Change::PutTask(Arc::new(task_in(task, Arc::clone(spec))?))
            }
            In::DeleteTask(id) => Change::DeleteTask(TaskId::from_bytes(&id).ok_or_else(|| format("id"))?),
            In::PutNode(node) => Change::PutNode(Arc::new(node.try_into()?)),
            In::DeleteNode(id) => Change::DeleteNode(NodeId::from_bytes(&id).ok_or_else(|| format("id"))?),
            In::PutNetwork(network) => Change::PutNetwork(Arc::new(network.try_into()?)),
            In::DeleteNetwork(id) => {
                Change::DeleteNetwork(NetworkId::from_bytes(&id).ok_or_else(|| format("id"))?)
            }
            In::PutCluster(cluster) => Change::PutCluster(Arc::new(cluster.try_into()?)),
            In::TaskStatus(report) => Change::TaskStatus(
                TaskId::from_bytes(&report.task_id).ok_or_else(|| format("id"))?,
                report.status.unwrap_or_default().try_into()?,
            ),
            In::NodeStatus(report) => Change::NodeStatus(
                NodeId::from_bytes(&report.node_id).ok_or_else(|| format("id"))?,
                report.status.unwrap_or_default().try_into()?,
            ),
            In::PutTicket(ticket) => Change::PutTicket(Arc::new(ticket.try_into()?)),
            In::DeleteTicket(id) => {
                Change::DeleteTicket(TicketId::from_bytes(&id).ok_or_else(|| format("id"))?)
            }
            In::AssignTask(assign) => Change::AssignTask(
                TaskId::from_bytes(&assign.task_id).ok_or_else(|| format("id"))?,
                Assigned {
                    node: NodeId::from_bytes(&assign.node_id).ok_or_else(|| format("node"))?,
                    status: assign.status.unwrap_or_default().try_into()?,
                    given: generic_in(assign.given),
                },
            ),
        })
    }

    /// Applies one change; the same on a replica and in a draft.
    pub(crate) fn apply_change(
        &mut self,
        change: &Change,
        now: Timestamp,
    ) -> Result<Option<ObjectRef>, Refusal> {
        self.revision += 1;
        match change {
            Change::PutService(service) => {
                self.check_name(service)?;
                self.put_service(service, now).map(Some)
            }
            Change::DeleteService(id) => Ok(self.delete_service(*id)),
            Change::PutTask(task) => self.put_task(task, now).map(Some),
            Change::DeleteTask(id) => Ok(self.delete_task(*id)),
            Change::PutNode(node) => self.put_node(node, now).map(Some),
            Change::DeleteNode(id) => Ok(self.delete_node(*id)),
            Change::PutCluster(cluster) => {
                let feature_level = self.level_with(cluster)?;
                let old = self.cluster.as_ref();
                let has_new_root = old.is_some_and(|old| old.ca_cert_pem != cluster.ca_cert_pem);
                let meta = self.meta(old.map(|old| old.meta), now);
                if has_new_root {
                    self.end_tickets(now);
                }
                self.cluster = Some(Arc::new(Cluster { meta, feature_level, ..(**cluster).clone() }));
                Ok(Some(ObjectRef::Cluster))
            }
            Change::PutNetwork(network) => self.put_network(network, now).map(Some),
            Change::DeleteNetwork(id) => self.delete_network(*id),
            Change::TaskStatus(id, status) => self.report_task(*id, status),
            Change::NodeStatus(id, status) => Ok(self.report_node(*id, status, now)),
            Change::PutTicket(ticket) => Ok(Some(self.put_ticket(ticket, now))),
            Change::DeleteTicket(id) => Ok(self.delete_ticket(*id)),
            Change::AssignTask(id, assigned) => self.assign_task(*id, assigned, now).map(Some),
        }
    }

    pub(crate) fn meta(&self, old: Option<Meta>, now: Timestamp) -> Meta {
        Meta { version: self.revision, created_at: old.map_or(now, |m| m.created_at), updated_at: now }
    }
}

pub(crate) fn remove_member<K: Ord + Clone, M: Ord + Clone>(
    index: &mut OrdMap<K, imbl::OrdSet<M>>,
    key: &K,
    member: M,
) {
    if let Some(members) = index.get_mut(key) {
        members.remove(&member);
        if members.is_empty() {
            index.remove(key);
        }
    }
}
