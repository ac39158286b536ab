//! One agent's live tie: sends it what changed, takes in its beats and reports.

use std::sync::Arc;

use skep_api::{
    NodeId, TaskId, Timestamp,
    object::{Node, NodeDescription, NodeState, NodeStatus, TaskStatus},
    spec::Role,
    wire::{self, agent_message::Message as In, manager_message::Message as Out},
};
use skep_store::{Change, Guard, GuardKind, Proposal, ProposalError, RefusalKind, View, decode_result};
use tokio::{sync::mpsc, task::JoinSet, time::Instant};
use tonic::{Status, Streaming};

use super::{
    assignments::Sent,
    hub::{Ties, Told},
    service::Shared,
};
use crate::{clocks::on_ours, liveness::RESTARTING};

/// The status message of a node that said that it leaves.
pub(crate) const LEFT: &str = "node left the swarm";

/// Batches of one agent that are being stored; an agent of ours has one under way, resent after 5 s.
const STORING_MAX: usize = 4;

/// How often a node's description is made anew because the node changed meanwhile.
const STALE_MAX: u32 = 8;

/// What a session is made of.
pub(super) struct Session {
    pub(super) shared: Arc<Shared>,
    pub(super) node: NodeId,
    pub(super) ties: Ties,
    /// The agent is told of the mesh step by step.
    pub(super) takes_mesh_changes: bool,
    /// The agent needs to know of other nodes only when a task of it is on the ingress network.
    pub(super) takes_few_peers: bool,
    pub(super) aside: mpsc::Receiver<wire::ManagerMessage>,
    pub(super) out: mpsc::Sender<Result<wire::ManagerMessage, Status>>,
}

impl Session {
    /// Sends until the agent is gone, another session took over, or the node was removed.
    pub(super) async fn send_all(mut self) {
        let mut sent = Sent::default();
        let mut mesh_sent = None;
        let mut role_sent = None;
        let trust = self.ties.terms.borrow_and_update().trust();
        if let Some(trust) = trust
            && !self.send(Out::Trust(trust)).await
        {
            return;
        }
        loop {
            if !self.shared.hub.is_current(self.node, self.ties.session) {
                return;
            }
            let view = self.shared.machine.view();
            let Some(node) = view.node(self.node) else {
                let gone = Status::permission_denied("this node was removed from the swarm");
                // The agent may be gone already; then nobody needs the reason.
                self.out.send(Err(gone)).await.unwrap_or_default();
                return;
            };
            if node.status.state == NodeState::Down {
                // It was given up, or leaves. A session begins with a node that counts as there: an agent that
                // lives dials again.
                return;
            }
            let role = wire::NodeRole { manager: node.spec.role == Role::Manager, raft_id: node.raft_id };
            if role_sent != Some(role) {
                role_sent = Some(role);
                if !self.send(Out::Role(role)).await {
                    return;
                }
            }
            // The mesh goes first: what starts should find its neighbours there, unless there are too many for that.
            self.ties.mesh.mark_unchanged();
            let (mesh, checked) = self.shared.hub.newest();
            if mesh_sent.is_none_or(|sent: Told| sent.own != mesh.revision) {
                let known = mesh_sent.filter(|_| self.takes_mesh_changes);
                let (messages, told) = mesh.news(self.node, self.takes_few_peers, known, checked);
                mesh_sent = Some(told);
                for message in messages {
                    if !self.send(message).await {
                        return;
                    }
                }
            }
            if let Some(set) = sent.next(&view, self.node, |task| self.shared.hub.is_drained(task))
                && !self.send(Out::Assignments(set)).await
            {
                return;
            }
            tokio::select! {
                () = self.ties.wake.notified() => {}
                changed = self.ties.mesh.changed() => if changed.is_err() { return },
                changed = self.ties.terms.changed() => {
                    let terms = self.ties.terms.borrow_and_update().clone();
                    if changed.is_err() || !self.send(Out::Welcome(terms.welcome(self.node))).await {
                        return;
                    }
                    if let Some(trust) = terms.trust()
                        && !self.send(Out::Trust(trust)).await
                    {
                        return;
                    }
                }
                message = self.aside.recv() => match message {
                    Some(message) => if self.out.send(Ok(message)).await.is_err() { return },
                    None => return,
                },
                () = self.out.closed() => return,
            }
        }
    }

    async fn send(&self, message: Out) -> bool {
        self.out.send(Ok(wire::ManagerMessage { message: Some(message) })).await.is_ok()
    }
}

/// Takes in what the agent says until its stream ends.
pub(super) async fn receive_all(
    shared: Arc<Shared>,
    node: NodeId,
    session: u64,
    addr: String,
    (mut messages, mut cut): (Streaming<wire::AgentMessage>, Option<Cut>),
    out: mpsc::Sender<Result<wire::ManagerMessage, Status>>,
) {
    // Storing waits for the disk; beats are read meanwhile.
    let mut storing: JoinSet<bool> = JoinSet::new();
    loop {
        let message = tokio::select! {
            Some(stored) = storing.join_next(), if !storing.is_empty() => match stored {
                Ok(true) => continue,
                // Not stored: ending the session makes the agent report again.
                Ok(false) | Err(_) => return,
            },
            message = messages.message() => message,
        };
        let Ok(Some(message)) = message else { return };
        match message.message {
            Some(In::Beat(beat)) => {
                shared.liveness.alive([(node, Instant::now())]);
                shared.clocks.heard(node, beat.clock, (shared.clock)());
                shared.hub.heard(node, session, beat.mesh_revision);
                revive(&shared, node, &addr).await;
                if let Some(whole) = cut.take_if(|cut| cut.is_due(shared.machine.view().feature_level())) {
                    cut = described_again(&shared, node, whole.description).await;
                }
            }
            Some(In::Statuses(batch)) => {
                if storing.len() >= STORING_MAX {
                    return;
                }
                let (shared, out) = (shared.clone(), out.clone());
                storing.spawn(async move {
                    let sequence = batch.sequence;
                    if !store_statuses(&shared, node, batch).await {
                        return false;
                    }
                    let receipt = Out::StatusesStored(wire::StatusesStored { sequence });
                    out.send(Ok(wire::ManagerMessage { message: Some(receipt) })).await.is_ok()
                });
            }
            Some(In::Description(description)) => {
                cut = described_again(&shared, node, description.into()).await;
            }
            Some(In::ProbeAnswer(answer)) => {
                if let Some(probed) = NodeId::from_bytes(&answer.node_id).filter(|_| answer.answered) {
                    shared.liveness.alive([(probed, Instant::now())]);
                    shared.hub.probed(probed);
                }
            }
            Some(In::Hello(_)) | None => return,
        }
    }
}

/// A description of which the swarm's feature level keeps a part alone: the rest is stored once the level has risen.
#[derive(Debug)]
pub(super) struct Cut {
    description: NodeDescription,
    /// At which it was cut.
    level: u32,
}

impl Cut {
    /// `None` if all of it is kept.
    pub(super) fn of(description: &NodeDescription, level: u32) -> Option<Self> {
        let is_cut = description.clone().at_level(level) != *description;
        is_cut.then(|| Self { description: description.clone(), level })
    }

    fn is_due(&self, level: u32) -> bool {
        level > self.level
    }
}

/// Stores what a node says of itself in the middle of its session.
async fn described_again(shared: &Shared, node: NodeId, description: NodeDescription) -> Option<Cut> {
    let level = shared.machine.view().feature_level();
    let cut = Cut::of(&description, level);
    if let Err(error) = describe(shared, node, description, None).await {
        tracing::warn!(node.id = %node, err = %error, "could not store a node's description");
    }
    cut
}

/// A node that beats is there, whatever was thought of it before: it was held, or its word that it restarts
/// came late.
async fn revive(shared: &Shared, node: NodeId, addr: &str) {
    let view = shared.machine.view();
    let Some(stored) = view.node(node) else { return };
    let is_as_thought = match stored.status.state {
        NodeState::Ready => match stored.status.message.as_str() {
            "" => true,
            RESTARTING => shared.hub.is_stopping(node),
            _ => false,
        },
        // Its session ends, and another one begins; see `send_all`.
        NodeState::Down => true,
        NodeState::Unknown => false,
    };
    if is_as_thought {
        return;
    }
    let status = NodeStatus { state: NodeState::Ready, addr: addr.to_owned(), ..NodeStatus::default() };
    let changes = vec![Change::NodeStatus(node, status)];
    let proposal = Proposal { changes, now: Timestamp((shared.clock)()), ..Proposal::default() };
    if let Err(error) = shared.raft.propose(proposal.encode()).await {
        tracing::warn!(node.id = %node, err = %error, "could not record that a node is back; its next beat tries again");
    }
}

/// Stores what a node reports of its own tasks; reports of others' are dropped.
async fn store_statuses(shared: &Shared, node: NodeId, batch: wire::StatusBatch) -> bool {
    let view = shared.machine.view();
    let now = shared.leaders_clock();
    let read = |stamped| on_ours(stamped, batch.clock, now);
    let changes: Vec<Change> =
        batch.reports.into_iter().filter_map(|report| own_report(&view, node, report, read)).collect();
    changes.is_empty() || shared.collector.store(changes).await
}

fn own_report(
    view: &View,
    node: NodeId,
    report: wire::StatusReport,
    read: impl Fn(Timestamp) -> Timestamp,
) -> Option<Change> {
    let id = TaskId::from_bytes(&report.task_id)?;
    let task = view.task(id)?;
    if task.node_id != Some(node) {
        tracing::warn!(node.id = %node, task.id = %id, "dropped a report of another node's task");
        return None;
    }
    let mut status = TaskStatus::try_from(report.status?).ok()?;
    if status.state == skep_api::TaskState::Running && status.running_at.is_zero() {
        status.running_at = status.timestamp;
    }
    // The leader waits by these times. A node's clock that runs ahead must not hold an update up, nor one that is behind cut its monitor short.
    status.timestamp = read(status.timestamp);
    if !status.running_at.is_zero() {
        status.running_at = read(status.running_at);
    }
    Some(Change::TaskStatus(id, status))
}

/// What is no address would be of no use to the other nodes' meshes.
pub(crate) fn check_data_path(addr: &str) -> Result<(), Status> {
    let parsed = addr.parse::<std::net::Ipv4Addr>();
    parsed
        .map(|_| ())
        .map_err(|_| Status::invalid_argument(format!("DataPathAddr: '{addr}' is no IPv4 address")))
}

/// Where a node is, as it says at the start of a session.
pub(super) struct Introduced {
    /// Empty: as before.
    pub(super) data_path_addr: String,
    pub(super) probe_addr: String,
    /// From where it speaks.
    pub(super) addr: String,
}

/// Stores what a node says of itself; at the start of a session also that it is there. Made anew if the node
/// changed meanwhile, as one that has just joined does.
pub(super) async fn describe(
    shared: &Shared,
    node: NodeId,
    description: NodeDescription,
    introduced: Option<Introduced>,
) -> Result<(), Status> {
    for _ in 0..STALE_MAX {
        let Some(proposal) = described(shared, node, &description, introduced.as_ref())? else {
            return Ok(());
        };
        let answer = shared.raft.propose(proposal.encode()).await;
        match decode_result(&answer.map_err(|e| Status::unavailable(e.to_string()))?) {
            Ok(_) => return Ok(()),
            Err(ProposalError::Refused(refusal)) if refusal.kind == RefusalKind::Stale => {}
            Err(error) => return Err(Status::aborted(error.to_string())),
        }
    }
    Err(Status::aborted("the node changes all the time; try again"))
}

/// What is new in that; `None` for nothing.
fn described(
    shared: &Shared,
    node: NodeId,
    description: &NodeDescription,
    introduced: Option<&Introduced>,
) -> Result<Option<Proposal>, Status> {
    let view = shared.machine.view();
    let stored =
        view.node(node).ok_or_else(|| Status::permission_denied("this node was removed from the swarm"))?;
    let description = description.clone().at_level(view.feature_level());
    let mut new = Node { description, ..(**stored).clone() };
    let mut addr = None;
    if let Some(introduced) = introduced {
        if !introduced.data_path_addr.is_empty() {
            new.data_path_addr.clone_from(&introduced.data_path_addr);
        }
        new.probe_addr.clone_from(&introduced.probe_addr);
        addr = Some(introduced.addr.clone());
    }
    check_data_path(&new.data_path_addr)?;
    let mut proposal = Proposal { now: Timestamp((shared.clock)()), ..Proposal::default() };
    if new != **stored {
        proposal.guards.push(Guard { kind: GuardKind::Node, id: node.0, version: stored.meta.version });
        proposal.changes.push(Change::PutNode(Arc::new(new)));
    }
    if let Some(addr) = addr {
        let since = stored.status.since;
        let status = NodeStatus { state: NodeState::Ready, addr, since, ..NodeStatus::default() };
        if stored.status != status {
            proposal.changes.push(Change::NodeStatus(node, status));
        }
    }
    Ok((!proposal.changes.is_empty()).then_some(proposal))
}

#[cfg(test)]
mod tests {
    use skep_api::object::Plugin;

    use super::*;

    #[test]
    fn what_an_old_level_cannot_keep_is_told_again_once_it_rises() {
        let plain = NodeDescription { nano_cpus: 1, ..NodeDescription::default() };
        assert!(Cut::of(&plain, 1).is_none());
        let plugin = Plugin { kind: "Log".into(), name: "x".into() };
        let more = NodeDescription { plugins: vec![plugin], ..plain };
        assert!(Cut::of(&more, 2).is_none());
        let cut = Cut::of(&more, 1).expect("level 1 has no plugins");
        assert_eq!((cut.is_due(1), cut.is_due(2)), (false, true));
        assert_eq!(cut.description, more);
    }
}
