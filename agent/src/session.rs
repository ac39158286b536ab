//! The agent's session with a manager: one stream each way, held open for as long as both live.
//!
//! Out: hello, beats, statuses. In: assignment sets, meshes, wishes for logs. When it breaks, the next
//! manager of the list is tried after a pause that grows and is never the same for two nodes; the tasks
//! do not notice. A manager whose assignments are older than what this node has seen is left at once.

use std::{net::Ipv4Addr, sync::Arc, time::Duration};

use skep_api::{
    NodeId,
    id::{IdSource, SeededIds},
    object::NodeTls,
    wire::{self, agent_message::Message as Out, manager_message::Message as In},
};
use skep_link::{DialError, Identity, RootDigest, stubs::dispatcher_client::DispatcherClient};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming, transport::Channel};

use crate::{
    assignment::{Position, SetRefused},
    engine::chain,
    logs::LogStreams,
    mesh,
    task::runner::Host,
    ties::{NodeRole, Ties, Trust},
    worker::Command,
};

/// The first pause after a session broke: a manager that restarts is back in about this time,
const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// and the longest: a swarm that comes back is whole again soon after.
/// It must stay well under a new leader's reconnect window (`manager/src/liveness.rs`).
const BACKOFF_MAX: Duration = Duration::from_secs(3);
/// Between attempts of a node that was removed: an id is never taken in again, but for a swarm that is brought
/// back from a backup.
const REMOVED_PAUSE: Duration = Duration::from_secs(60);
/// Until the manager says otherwise.
const BEAT_DEFAULT: Duration = Duration::from_secs(1);
/// A manager that is not connected to in this time is passed over: another one may be quicker.
const DIAL_MAX: Duration = Duration::from_secs(2);
/// A probe for a manager: it asks again before this has passed twice.
const PROBE_MAX: Duration = Duration::from_millis(650);
/// Probes at a time; what is asked beyond that is not answered.
const PROBES_MAX: usize = 16;
/// From the connection to the manager's welcome.
const WELCOME_MAX: Duration = Duration::from_secs(5);
/// A manager that takes nothing in for so long is as good as gone.
const SEND_MAX: Duration = Duration::from_secs(5);
/// Statuses not said to be stored in this time are sent again.
const STORED_MAX: Duration = Duration::from_secs(5);
/// Messages on their way out; there is one batch of statuses at a time, the rest are beats.
const OUTGOING_MAX: usize = 16;

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SessionError {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("the manager ended the session")]
    Ended,
    #[error("the manager broke the session off")]
    Broken(#[source] Box<tonic::Status>),
    #[error("the manager did not {0} in time")]
    Silent(&'static str),
    #[error(transparent)]
    Set(#[from] SetRefused),
    #[error(transparent)]
    Mesh(#[from] mesh::Gap),
    #[error("the agent stops")]
    Closing,
    #[error("this node's certificate was replaced")]
    Replaced,
}

impl SessionError {
    /// How a manager said that this node is not in the swarm any more, if it did.
    fn removal(&self) -> Option<String> {
        let Self::Broken(status) = self else { return None };
        (status.code() == Code::PermissionDenied).then(|| status.message().to_owned())
    }
}

impl From<tonic::Status> for SessionError {
    fn from(status: tonic::Status) -> Self {
        Self::Broken(Box::new(status))
    }
}

/// A session that another one takes the place of, held until that one is welcome: the managers see no gap.
#[derive(Debug)]
struct Kept {
    _outgoing: mpsc::Sender<wire::AgentMessage>,
    _incoming: Streaming<wire::ManagerMessage>,
}

/// What a node says of itself at the start of a session.
#[derive(Debug, Clone)]
pub(crate) struct Introduction {
    pub(crate) identity: Identity,
    pub(crate) description: wire::NodeDescription,
    pub(crate) data_path_addr: Ipv4Addr,
    /// `host:port` where this agent answers probes; empty: nowhere.
    pub(crate) probe_addr: String,
}

/// The session's holder.
#[derive(Debug)]
pub(crate) struct Session {
    host: Arc<Host>,
    ties: Arc<Ties>,
    introduction: Introduction,
    commands: mpsc::Sender<Command>,
    logs: LogStreams,
    position: Position,
    chance: SeededIds,
    /// Over how long agents spread their first attempt after a break.
    spread: Duration,
    probes: JoinSet<()>,
    kept: Option<Kept>,
    /// Under which of this node's certificates it was opened.
    under: RootDigest,
    /// What it said of that.
    said: NodeTls,
}

impl Session {
    pub(crate) fn new(
        host: Arc<Host>,
        ties: Arc<Ties>,
        introduction: Introduction,
        commands: mpsc::Sender<Command>,
        logs: LogStreams,
        position: Position,
    ) -> Self {
        let node = crc32fast::hash(host.node_id.as_bytes());
        let chance = SeededIds(u64::from(node) ^ (host.clock)().unsigned_abs());
        let (spread, probes) = (Duration::ZERO, JoinSet::new());
        Self {
            host,
            ties,
            introduction,
            commands,
            logs,
            position,
            chance,
            spread,
            probes,
            kept: None,
            under: RootDigest([0; 32]),
            said: NodeTls::default(),
        }
    }

    /// Holds a session with one manager after another until `closing`.
    pub(crate) async fn run(mut self, mut closing: watch::Receiver<bool>) {
        let mut failures = 0;
        let mut told = self.ties.told.subscribe();
        // Agents spread over the managers.
        let mut turn = usize::try_from(self.chance.next_id().0 % 1024).unwrap_or(0);
        loop {
            let manager = {
                let managers = self.ties.managers.borrow();
                managers.get(turn % managers.len().max(1)).cloned().unwrap_or_default()
            };
            let ended = tokio::select! {
                _ = closing.wait_for(|closing| *closing) => return,
                ended = Box::pin(self.hold(&manager)) => ended,
            };
            self.host.reporter.give_up();
            // Not told anew where there was none: who follows it would end the pause before the next attempt.
            let was_connected = self.ties.is_connected.send_if_modified(std::mem::take);
            self.ties.client.send_replace(None);
            if matches!(ended, SessionError::Replaced) {
                tracing::info!(manager, "the session begins anew under a new certificate");
                continue;
            }
            self.kept = None;
            turn += 1;
            failures = if was_connected { 0 } else { failures + 1 };
            let words = ended.removal();
            let is_removed = words.is_some();
            let is_news = is_removed && self.ties.removed.send_replace(words).is_none();
            if is_news {
                self.end_all().await;
            }
            if let SessionError::Dial(error @ DialError::NotTaken { .. }) = &ended {
                self.ties.refused.send_replace(Some(error.to_string()));
            }
            match ended {
                SessionError::Closing => return,
                SessionError::Broken(_) if is_removed && !is_news => {
                    tracing::debug!(manager, "this node is still removed");
                }
                SessionError::Dial(_) if failures > 1 => {
                    tracing::debug!(manager, err = chain(&ended), "no manager");
                }
                SessionError::Dial(_)
                | SessionError::Ended
                | SessionError::Broken(_)
                | SessionError::Silent(_)
                | SessionError::Replaced
                | SessionError::Set(_)
                | SessionError::Mesh(_) => {
                    tracing::warn!(manager, err = chain(&ended), "no session with the manager")
                }
            }
            let spread = if was_connected { share(self.spread, &mut self.chance) } else { Duration::ZERO };
            let mut pause = backoff(failures, &mut self.chance) + spread;
            let is_out = self.ties.removed.borrow().is_some();
            if is_out {
                pause += REMOVED_PAUSE;
            }
            tokio::select! {
                _ = closing.wait_for(|closing| *closing) => return,
                () = sleep(pause) => {}
                // It need not try those that are gone in their turn. The first attempts are spread as ever.
                Ok(()) = told.changed(), if failures > 1 && !is_out => {
                    let n = u128::try_from(*told.borrow_and_update()).unwrap_or(1).max(1);
                    turn = usize::try_from(self.chance.next_id().0 % n).unwrap_or(0);
                }
            }
        }
    }

    /// This node was removed from the swarm: nothing of it may run on here.
    async fn end_all(&self) {
        tracing::warn!(
            "this node is not in the swarm any more; its tasks end. Join again after `swarm leave`"
        );
        let nothing = wire::AssignmentSet { complete: true, ..wire::AssignmentSet::default() };
        let assigned = self.commands.send(Command::Assign(nothing)).await;
        // Without a worker the agent is closing.
        assigned.unwrap_or_default();
    }

    /// One session, from the dial to its end.
    async fn hold(&mut self, manager: &str) -> SessionError {
        match self.open(manager).await {
            Ok((client, outgoing, mut incoming)) => {
                let ended = self.serve(manager, &client, &outgoing, &mut incoming).await;
                if matches!(ended, SessionError::Replaced) {
                    self.kept = Some(Kept { _outgoing: outgoing, _incoming: incoming });
                }
                ended
            }
            Err(e) => e,
        }
    }

    async fn open(
        &mut self,
        manager: &str,
    ) -> Result<
        (DispatcherClient<Channel>, mpsc::Sender<wire::AgentMessage>, Streaming<wire::ManagerMessage>),
        SessionError,
    > {
        self.under = self.introduction.identity.fingerprint();
        let connecting = timeout(DIAL_MAX, skep_link::connect(manager, &self.introduction.identity)).await;
        let channel = connecting.map_err(|_| SessionError::Silent("take the connection"))??;
        let mut client = skep_link::dispatcher(channel);
        let (outgoing, messages) = mpsc::channel(OUTGOING_MAX);
        self.position.reset();
        // A manager that is behind would bring back what is gone.
        let mesh_seen = self.ties.mesh.borrow().as_ref().map_or(0, |mesh| mesh.revision);
        let hello = wire::Hello {
            description: Some(self.description()),
            data_path_addr: self.introduction.data_path_addr.to_string(),
            revision: self.position.seen().max(mesh_seen),
            probe_addr: self.introduction.probe_addr.clone(),
            takes_mesh_changes: true,
            takes_few_peers: true,
        };
        send(&outgoing, Out::Hello(hello)).await?;
        let opening = timeout(WELCOME_MAX, client.session(ReceiverStream::new(messages))).await;
        let incoming = opening.map_err(|_| SessionError::Silent("open the session"))??.into_inner();
        Ok((client, outgoing, incoming))
    }

    async fn serve(
        &mut self,
        manager: &str,
        client: &DispatcherClient<Channel>,
        outgoing: &mpsc::Sender<wire::AgentMessage>,
        incoming: &mut Streaming<wire::ManagerMessage>,
    ) -> SessionError {
        let mut replaced = self.introduction.identity.replaced();
        replaced.mark_changed();
        let mut applied = self.host.mesh_applied.subscribe();
        let mut backlog = self.host.reporter.backlog();
        let mut each = BEAT_DEFAULT;
        let mut beats = beats(each);
        let mut is_welcome = false;
        let welcome_by = Instant::now() + WELCOME_MAX;
        let mut stored_by = welcome_by;
        loop {
            let is_in_flight = self.host.reporter.is_in_flight();
            let result = tokio::select! {
                message = incoming.message() => match message {
                    Ok(Some(wire::ManagerMessage { message: Some(In::Welcome(welcome)) })) => {
                        let asked = Duration::from_millis(u64::from(welcome.beat_ms));
                        if welcome.beat_ms > 0 && asked != each {
                            each = asked;
                            beats = self::beats(each);
                        }
                        if !is_welcome {
                            tracing::info!(manager, "session with a manager");
                        }
                        is_welcome = true;
                        self.welcome(welcome, client);
                        Ok(())
                    }
                    Ok(Some(message)) => self.take(message, client, outgoing).await,
                    Ok(None) => Err(SessionError::Ended),
                    Err(status) => Err(status.into()),
                },
                _ = beats.tick(), if is_welcome => beat(&mut applied, (self.host.clock)(), outgoing).await,
                // The drain of a stopping task waits for this one, on whatever node.
                Ok(()) = applied.changed(), if is_welcome => beat(&mut applied, (self.host.clock)(), outgoing).await,
                Ok(()) = backlog.changed() => Ok(()),
                // A new certificate needs a new connection, another root just a word: all nodes get it at once.
                Ok(()) = replaced.changed(), if is_welcome => {
                    let tls = self.introduction.identity.tls();
                    if self.introduction.identity.fingerprint() != self.under {
                        Err(SessionError::Replaced)
                    } else if tls == self.said {
                        Ok(())
                    } else {
                        send(outgoing, Out::Description(self.description())).await
                    }
                }
                () = sleep_until(stored_by), if is_in_flight => {
                    self.host.reporter.give_up();
                    Ok(())
                }
                () = sleep_until(welcome_by), if !is_welcome => Err(SessionError::Silent("welcome this node")),
            };
            if let Err(e) = result {
                return e;
            }
            if is_welcome && let Some(batch) = self.host.reporter.take_batch((self.host.clock)()) {
                stored_by = Instant::now() + STORED_MAX;
                if let Err(e) = send(outgoing, Out::Statuses(batch)).await {
                    return e;
                }
            }
        }
    }

    /// The terms of the session; they come again when they change.
    fn welcome(&mut self, welcome: wire::Welcome, client: &DispatcherClient<Channel>) {
        self.spread = Duration::from_millis(u64::from(welcome.spread_ms));
        if !welcome.managers.is_empty() {
            self.ties.managers.send_replace(welcome.managers);
        }
        self.ties.client.send_replace(Some(client.clone()));
        self.ties.is_connected.send_replace(true);
        self.ties.removed.send_replace(None);
        self.ties.refused.send_if_modified(|why| why.take().is_some());
        self.kept = None;
    }

    /// What this node says of itself, with what its certificate stands on.
    fn description(&mut self) -> wire::NodeDescription {
        let tls = self.introduction.identity.tls();
        self.said = tls.clone();
        let tls = wire::NodeTls {
            issuer_subject: tls.issuer_subject,
            issuer_public_key: tls.issuer_public_key,
            root_digest: tls.root_digest,
        };
        wire::NodeDescription { tls: Some(tls), ..self.introduction.description.clone() }
    }

    /// Probes another node for a manager that does not hear it.
    fn probe(&mut self, wanted: wire::ProbeWanted, outgoing: &mpsc::Sender<wire::AgentMessage>) {
        while self.probes.try_join_next().is_some() {}
        let Some(node) = NodeId::from_bytes(&wanted.node_id).filter(|_| self.probes.len() < PROBES_MAX)
        else {
            return;
        };
        let (identity, outgoing) = (self.introduction.identity.clone(), outgoing.clone());
        self.probes.spawn(async move {
            let answered =
                skep_link::probe(&wanted.addr, &identity, node, Vec::new(), PROBE_MAX).await.is_ok();
            let answer = Out::ProbeAnswer(wire::ProbeAnswer { node_id: wanted.node_id, answered });
            // Without the session nobody waits for it.
            send(&outgoing, answer).await.unwrap_or_default();
        });
    }

    async fn take(
        &mut self,
        message: wire::ManagerMessage,
        client: &DispatcherClient<Channel>,
        outgoing: &mpsc::Sender<wire::AgentMessage>,
    ) -> Result<(), SessionError> {
        match message.message {
            Some(In::Assignments(set)) => {
                self.position.take(&set)?;
                self.commands.send(Command::Assign(set)).await.map_err(|_| SessionError::Closing)?;
            }
            Some(In::Mesh(state)) => {
                tracing::trace!(node = self.host.node_name, revision = state.revision, "mesh received");
                self.ties.mesh.send_replace(Some(Arc::new(state)));
            }
            Some(In::MeshChange(change)) => {
                let mut taken = Ok(());
                self.ties.mesh.send_if_modified(|known| {
                    let state = Arc::make_mut(known.get_or_insert_default());
                    taken = mesh::take(state, change);
                    taken.is_ok()
                });
                taken?;
            }
            Some(In::LogsWanted(wanted)) => self.logs.open(wanted, client),
            Some(In::LogsUnwanted(unwanted)) => self.logs.close(&unwanted.id),
            Some(In::StatusesStored(stored)) => self.host.reporter.stored(stored.sequence),
            Some(In::Role(wire::NodeRole { manager, raft_id })) => {
                let role = Some(NodeRole { manager, raft_id });
                self.ties.role.send_if_modified(|known| std::mem::replace(known, role) != role);
            }
            Some(In::ProbeWanted(wanted)) => self.probe(wanted, outgoing),
            Some(In::Trust(wire::Trust { ca_cert_pem, cert_expiry_secs })) => {
                let trust = Some(Trust { root_pem: ca_cert_pem, cert_expiry_secs });
                self.ties.trust.send_if_modified(|known| std::mem::replace(known, trust.clone()) != trust);
            }
            Some(In::RenewWanted(_)) => self.ties.renewals_wanted.send_modify(|n| *n += 1),
            // A newer manager's word that this build does not know; welcomes are taken by the caller.
            Some(In::Welcome(_)) | None => {}
        }
        Ok(())
    }
}

fn beats(each: Duration) -> tokio::time::Interval {
    let mut beats = interval(each);
    // A node that slept has missed its beats; sending them late would say nothing.
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    beats
}

async fn beat(
    applied: &mut watch::Receiver<u64>,
    clock: i64,
    outgoing: &mpsc::Sender<wire::AgentMessage>,
) -> Result<(), SessionError> {
    let mesh_revision = *applied.borrow_and_update();
    send(outgoing, Out::Beat(wire::Beat { mesh_revision, clock })).await
}

async fn send(outgoing: &mpsc::Sender<wire::AgentMessage>, message: Out) -> Result<(), SessionError> {
    match timeout(SEND_MAX, outgoing.send(wire::AgentMessage { message: Some(message) })).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(SessionError::Ended),
        Err(_) => Err(SessionError::Silent("take a message")),
    }
}

/// The pause after so many failures in a row: doubled each time, and somewhere in its upper half.
fn backoff(failures: u32, chance: &mut SeededIds) -> Duration {
    let full = BACKOFF_MIN.saturating_mul(1 << failures.min(10)).min(BACKOFF_MAX);
    full / 2 + share(full / 2, chance)
}

/// A random part of a span.
fn share(span: Duration, chance: &mut SeededIds) -> Duration {
    span / 1000 * u32::try_from(chance.next_id().0 % 1000).unwrap_or(0)
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
