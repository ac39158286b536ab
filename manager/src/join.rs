//! Joining: a caller without a certificate shows a token and gets a node identity.

use std::sync::Arc;

use skep_api::{
    NodeId, Timestamp,
    id::IdSource,
    object::{Cluster, Node, NodeDescription, NodeState, NodeStatus, Revocation, Ticket, TicketOver},
    spec::{Availability, NodeSpec, Role},
    wire,
};
use skep_link::{JoinToken, remote_addr, stubs::join_server::Join};
use skep_store::{Change, Guard, GuardKind, View};
use tokio::sync::{Mutex, Semaphore};
use tonic::{Request, Response, Status};

use crate::{
    SystemIds,
    ca::{Issued, sign},
    dispatcher::{Shared, check_data_path},
    level,
    write::WriteError,
};

/// Swarm's words for a token that is not ours.
const BAD_TOKEN: &str = "A valid join token is necessary to join this cluster";

/// How often a node is taken in anew because the swarm's settings changed meanwhile.
const STALE_MAX: u32 = 8;

/// Nodes that are taken in at the same time: enough to share entries of the log, few enough that sessions and beats of
/// those that are in do not wait behind thousands that come at once.
const JOINING_MAX: usize = 32;
/// Nodes that wait for it: as many as are taken in before their callers give up. Others hear at once that they should come
/// again.
const WAITING_MAX: usize = 2_048;
/// Of those that come with a ticket so many wait: they are taken in one by one, and take no place of the others.
const BY_TICKET_MAX: usize = 256;

/// The gRPC service.
pub(crate) struct JoinService {
    shared: Arc<Shared>,
    /// Who joins with a ticket, one after the other: each changes it, and would have all others begin anew.
    pub(crate) by_ticket: Mutex<()>,
    /// Those, and who waits.
    admitted_by_ticket: Semaphore,
    /// Those that are being taken in.
    joining: Semaphore,
    /// Those, and who waits, without a ticket.
    admitted: Semaphore,
}

impl JoinService {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            by_ticket: Mutex::new(()),
            admitted_by_ticket: Semaphore::new(BY_TICKET_MAX),
            joining: Semaphore::new(JOINING_MAX),
            admitted: Semaphore::new(JOINING_MAX + WAITING_MAX),
        }
    }
}

#[tonic::async_trait]
impl Join for JoinService {
    async fn join(
        &self,
        request: Request<wire::JoinRequest>,
    ) -> Result<Response<wire::JoinResponse>, Status> {
        let shared = &self.shared;
        let addr = remote_addr(&request).map(|addr| addr.ip().to_string()).unwrap_or_default();
        let request = request.into_inner();
        let token = JoinToken::parse(&request.token).map_err(|e| Status::invalid_argument(e.to_string()))?;
        // A token that was rotated is no token any more, whichever manager is asked.
        shared.raft.read_barrier().await.map_err(|e| Status::unavailable(e.to_string()))?;
        // Who has no business here holds nobody up.
        let view = shared.machine.view();
        granted(&view, swarm(&view)?, &token, &digest(&request), Timestamp(shared.leaders_clock()))?;
        drop(view);
        let has_ticket = token.ticket().is_some();
        let admitted = if has_ticket { &self.admitted_by_ticket } else { &self.admitted };
        let _admitted = admitted
            .try_acquire()
            .map_err(|_| Status::resource_exhausted("too many nodes join at once; try again"))?;
        let _turn = if has_ticket {
            (Some(self.by_ticket.lock().await), None)
        } else {
            let turn = self.joining.acquire().await.map_err(|e| Status::internal(e.to_string()))?;
            (None, Some(turn))
        };
        for _ in 0..STALE_MAX {
            let view = shared.machine.view();
            match self.take_in(&view, &token, &request, &addr).await {
                // The swarm's token, root or settings changed meanwhile.
                Err(Refused::Stale) => {}
                Err(Refused::For(status)) => return Err(status),
                Ok(answer) => return Ok(Response::new(answer)),
            }
        }
        Err(Status::aborted("the swarm's settings change all the time; try again"))
    }
}

/// Why a node was not taken in.
enum Refused {
    /// What it was decided from has changed.
    Stale,
    /// For good.
    For(Status),
}

impl From<Status> for Refused {
    fn from(status: Status) -> Self {
        Self::For(status)
    }
}

impl JoinService {
    async fn take_in(
        &self,
        view: &View,
        token: &JoinToken,
        request: &wire::JoinRequest,
        addr: &str,
    ) -> Result<wire::JoinResponse, Refused> {
        let shared = &self.shared;
        let cluster = swarm(view)?;
        let (leaders_now, request_digest) = (Timestamp(shared.leaders_clock()), digest(request));
        let Grant { role, ticket, again } = granted(view, cluster, token, &request_digest, leaders_now)?;
        if let Some(id) = again {
            // The answer was lost: it is in already.
            let now = (shared.clock)() / 1_000_000_000;
            let issued = sign(&shared.identity, cluster, &request.csr_pem, id, role, now).await?;
            return Ok(answer(view, cluster, id, role, issued));
        }
        if role == Role::Manager {
            level::check_new(view, request.feature_level)?;
        }
        let availability = match request.availability.as_str() {
            "" => Availability::Active,
            word => Availability::parse(word)
                .ok_or_else(|| Status::invalid_argument(format!("invalid availability \"{word}\"")))?,
        };
        let data_path_addr =
            if request.data_path_addr.is_empty() { addr } else { request.data_path_addr.as_str() };
        check_data_path(data_path_addr)?;
        let labels = ticket.as_ref().map(|ticket| ticket.labels.clone()).unwrap_or_default();
        let id = NodeId(SystemIds::default().next_id());
        let now = (shared.clock)() / 1_000_000_000;
        let issued = sign(&shared.identity, cluster, &request.csr_pem, id, role, now).await?;
        let description = NodeDescription::from(request.description.clone().unwrap_or_default());
        let description = description.at_level(view.feature_level());
        let node = Node {
            id,
            spec: NodeSpec { role, availability, labels, ..NodeSpec::default() },
            // It counts for a rotation of the root from its first moment.
            description: NodeDescription { tls: Some(issued.tls.clone()), ..description },
            // Ready once its session is there.
            status: NodeStatus { state: NodeState::Unknown, addr: addr.to_owned(), ..NodeStatus::default() },
            data_path_addr: data_path_addr.to_owned(),
            ..Node::default()
        };
        // The token and the root are still those that it was checked against.
        let mut guards = vec![
            Guard { kind: GuardKind::Node, id: id.0, version: 0 },
            Guard { kind: GuardKind::Cluster, id: cluster.id.0, version: cluster.meta.version },
        ];
        let mut changes = vec![Change::PutNode(Arc::new(node))];
        if let Some(ticket) = ticket {
            guards.push(Guard { kind: GuardKind::Ticket, id: ticket.id.0, version: ticket.meta.version });
            changes.extend(
                ticket.used(&request_digest, id, leaders_now).map(|used| Change::PutTicket(Arc::new(used))),
            );
        }
        match shared.write(guards, changes).await {
            Ok(()) => {}
            Err(WriteError::Stale) => return Err(Refused::Stale),
            Err(error) => return Err(Refused::For(error.into())),
        }
        tracing::info!(node.id = %id, role = role.as_str(), "node joined");
        Ok(answer(view, cluster, id, role, issued))
    }
}

fn answer(view: &View, cluster: &Cluster, id: NodeId, role: Role, issued: Issued) -> wire::JoinResponse {
    wire::JoinResponse {
        node_id: id.to_bytes(),
        certificate_pem: issued.certificate_pem,
        ca_cert_pem: issued.root_pem,
        cluster_id: cluster.id.to_bytes(),
        manager: role == Role::Manager,
        managers: managers(view),
    }
}

/// Of a request: what a node signs with its key is no other's.
fn digest(request: &wire::JoinRequest) -> Vec<u8> {
    ring::digest::digest(&ring::digest::SHA256, request.csr_pem.as_bytes()).as_ref().to_vec()
}

fn swarm(view: &View) -> Result<&Cluster, Status> {
    view.cluster()
        .map(|cluster| &**cluster)
        .ok_or_else(|| Status::unavailable("this manager is still starting"))
}

/// What a token grants.
struct Grant {
    role: Role,
    /// Whose token it is, if it is a ticket's.
    ticket: Option<Arc<Ticket>>,
    /// The node that the same request has become already.
    again: Option<NodeId>,
}

fn granted(
    view: &View,
    cluster: &Cluster,
    token: &JoinToken,
    request: &[u8],
    now: Timestamp,
) -> Result<Grant, Status> {
    if let Some(id) = token.ticket() {
        let known = view.ticket(id).filter(|ticket| ticket.digest == token.secret_digest());
        let ticket = known.ok_or_else(|| Status::permission_denied(BAD_TOKEN))?;
        let is_as_made = |id: &NodeId| view.node(*id).is_some_and(|node| node.spec.role == ticket.role);
        let again = ticket.made_by(request, now).filter(is_as_made);
        return match ticket.over(now).filter(|_| again.is_none()) {
            None => Ok(Grant { role: ticket.role, ticket: Some(Arc::clone(ticket)), again }),
            Some(over) => Err(Status::permission_denied(refusal(ticket, over))),
        };
    }
    if token.has_secret(&cluster.manager_token_secret) {
        Ok(Grant { role: Role::Manager, ticket: None, again: None })
    } else if token.has_secret(&cluster.worker_token_secret) {
        Ok(Grant { role: Role::Worker, ticket: None, again: None })
    } else {
        Err(Status::permission_denied(BAD_TOKEN))
    }
}

/// Only who knows the secret hears it.
fn refusal(ticket: &Ticket, over: TicketOver) -> String {
    let why = match over {
        TicketOver::Revoked(Revocation::ByUser) => "was revoked".to_owned(),
        TicketOver::Revoked(Revocation::NewRoot) => "ended with the swarm's old root".to_owned(),
        TicketOver::Revoked(Revocation::MadeAnew) => {
            "ended as the swarm was made anew of an earlier state".to_owned()
        }
        TicketOver::UsedUp => "is used up".to_owned(),
        TicketOver::Expired => format!("expired at {}", ticket.expires_at),
    };
    format!(
        "the join token {} {why}; 'skep swarm join-token create' on a manager makes another one",
        ticket.id
    )
}

/// A role as certificates say it.
pub(crate) fn certified(role: Role) -> skep_link::Role {
    match role {
        Role::Manager => skep_link::Role::Manager,
        Role::Worker => skep_link::Role::Worker,
    }
}

/// `host:port` of every manager.
pub(crate) fn managers(view: &View) -> Vec<String> {
    let members = view.nodes().filter(|node| node.raft_id != 0 && !node.advertise_addr.is_empty());
    members.map(|node| node.advertise_addr.clone()).collect()
}
