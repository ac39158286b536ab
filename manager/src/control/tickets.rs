//! Tickets: tokens for joining that end, are used up, and give labels to the nodes that join with them.

use std::{sync::Arc, time::Duration};

use skep_api::{
    ApiError, ErrorKind, TicketId, Timestamp,
    id::IdSource,
    object::{Revocation, Ticket},
    spec::{Labels, NodeSpec, Role},
    validate,
};
use skep_link::JoinToken;
use skep_store::{Change, Guard, GuardKind};

use super::{Control, not_written, out_of_sequence, services::needs_level_2};
use crate::{SystemIds, write::WriteError};

/// The most tickets that let somebody in: each pass over them costs, and a loop that makes them is a mistake.
const TICKETS_MAX: usize = 1_000;
/// How often a ticket is made anew because the swarm's settings changed meanwhile.
const STALE_MAX: u32 = 8;

/// What somebody asks of a new ticket.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TicketAsked {
    /// What a node that joins with it becomes.
    pub role: Role,
    /// For how long it lets nodes in; `None`: for ever.
    pub ttl: Option<Duration>,
    /// How many nodes it lets in; `None`: any number.
    pub uses: Option<u32>,
    /// Of these nodes.
    pub labels: Labels,
}

impl Control {
    /// Makes a ticket, and gives its token: the only time that its secret is told.
    ///
    /// # Errors
    /// No use or no time at all; a label without a key; there are too many; no leader.
    pub async fn create_ticket(&self, asked: TicketAsked) -> Result<(TicketId, JoinToken), ApiError> {
        validate::node(&NodeSpec { labels: asked.labels.clone(), ..NodeSpec::default() })?;
        if asked.uses == Some(0) {
            return Err(ApiError::invalid("Uses: must be at least 1"));
        }
        if asked.ttl.is_some_and(|ttl| ttl.is_zero()) {
            return Err(ApiError::invalid("TTL: must be longer than 0s"));
        }
        for _ in 0..STALE_MAX {
            if let Some(made) = self.try_create(&asked).await? {
                return Ok(made);
            }
        }
        Err(out_of_sequence())
    }

    /// `None` if the swarm's settings changed meanwhile: its root may be another one.
    async fn try_create(&self, asked: &TicketAsked) -> Result<Option<(TicketId, JoinToken)>, ApiError> {
        let view = self.view().await?;
        needs_level_2(&view, "a join token of its own")?;
        let cluster = view.cluster().ok_or_else(|| ApiError::not_found("the swarm has no object yet"))?;
        let now = Timestamp(self.shared.leaders_clock());
        if view.tickets().filter(|ticket| ticket.over(now).is_none()).count() >= TICKETS_MAX {
            let words = format!("there are {TICKETS_MAX} valid join tokens already: revoke some");
            return Err(ApiError::new(ErrorKind::ResourceExhausted, words));
        }
        let id = TicketId(SystemIds::default().next_id());
        let token = JoinToken::of_ticket(&cluster.ca_cert_pem, id, &JoinToken::generate_secret());
        let ticket = Ticket {
            id,
            digest: token.secret_digest().to_vec(),
            role: asked.role,
            expires_at: asked.ttl.map_or(Timestamp::ZERO, |ttl| now.after(ttl)),
            uses_left: asked.uses,
            labels: asked.labels.clone(),
            ..Ticket::default()
        };
        let guards = vec![
            Guard { kind: GuardKind::Ticket, id: id.0, version: 0 },
            Guard { kind: GuardKind::Cluster, id: cluster.id.0, version: cluster.meta.version },
        ];
        match self.shared.write(guards, vec![Change::PutTicket(Arc::new(ticket))]).await {
            Ok(()) => Ok(Some((id, token))),
            Err(WriteError::Stale) => Ok(None),
            Err(error) => Err(not_written(error)),
        }
    }

    /// All tickets, and the time by which they are judged: the leader's, as at the door.
    ///
    /// # Errors
    /// No leader.
    pub async fn tickets(&self) -> Result<(Vec<Arc<Ticket>>, Timestamp), ApiError> {
        let view = self.view().await?;
        Ok((view.tickets().cloned().collect(), Timestamp(self.shared.leaders_clock())))
    }

    /// Takes a ticket back: it lets nobody in from then on.
    ///
    /// # Errors
    /// No such ticket; no leader.
    pub async fn revoke_ticket(&self, id: TicketId) -> Result<(), ApiError> {
        let view = self.view().await?;
        let old = view.ticket(id).ok_or_else(|| ApiError::not_found(format!("join token {id} not found")))?;
        let Some(new) = old.taken_back(Revocation::ByUser) else { return Ok(()) };
        // Whoever joins with it at the same time has read it before, and is refused.
        self.write(Vec::new(), vec![Change::PutTicket(Arc::new(new))]).await
    }
}

#[cfg(test)]
mod tests {
    use skep_api::{
        object::{Cluster, TicketOver},
        wire,
    };
    use skep_link::{new_csr, stubs::join_server::Join as _};
    use tonic::{Code, Request, Status};

    use super::*;
    use crate::{Manager, join::JoinService, rig::first_manager};

    async fn join(service: &JoinService, token: &JoinToken) -> Result<wire::JoinResponse, Status> {
        join_by(service, token, new_csr().unwrap().0).await
    }

    async fn join_by(
        service: &JoinService,
        token: &JoinToken,
        csr_pem: String,
    ) -> Result<wire::JoinResponse, Status> {
        let description = wire::NodeDescription { hostname: "n".into(), ..wire::NodeDescription::default() };
        let request = wire::JoinRequest {
            token: token.to_string(),
            csr_pem,
            description: Some(description),
            data_path_addr: "10.0.0.7".into(),
            feature_level: skep_store::FEATURE_LEVEL,
            ..wire::JoinRequest::default()
        };
        Ok(service.join(Request::new(request)).await?.into_inner())
    }

    fn door(manager: &Manager) -> JoinService {
        JoinService::new(Arc::clone(&manager.control().shared))
    }

    fn asked(ttl: Option<u64>, uses: Option<u32>) -> TicketAsked {
        let labels = [("zone".to_owned(), "a".to_owned())].into();
        TicketAsked { ttl: ttl.map(Duration::from_secs), uses, labels, ..TicketAsked::default() }
    }

    fn refused(outcome: Result<wire::JoinResponse, Status>, words: &str) {
        let status = outcome.unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied);
        assert!(status.message().contains(words), "{}", status.message());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn of_many_that_join_with_one_use_one_gets_in_with_its_labels() {
        let (manager, _, _dir) = first_manager().await;
        let control = manager.control();
        let (id, token) = control.create_ticket(asked(Some(600), Some(1))).await.unwrap();
        // Two doors, as two managers have.
        let doors = [door(&manager), door(&manager)];
        let tries = (0..8).map(|n| join(&doors[n % 2], &token));
        let answers = futures::future::join_all(tries).await;
        let (joined, others): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
        assert_eq!(joined.len(), 1);
        others.into_iter().for_each(|other| refused(other, "is used up"));
        let view = control.view().await.unwrap();
        assert_eq!(view.n_nodes(), 2);
        assert_eq!(view.ticket(id).unwrap().uses_left, Some(0));
        let node = view.nodes().find(|node| node.id != control.node_id()).unwrap();
        assert_eq!(node.spec.labels, asked(None, None).labels);
        assert_eq!(node.spec.role, Role::Worker);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn who_is_refused_is_told_why_if_the_secret_is_right() {
        let (manager, _, _dir) = first_manager().await;
        let (control, door) = (manager.control(), door(&manager));
        let (id, token) = control.create_ticket(asked(None, None)).await.unwrap();
        for _ in 0..3 {
            join(&door, &token).await.unwrap();
        }
        control.revoke_ticket(id).await.unwrap();
        control.revoke_ticket(id).await.unwrap();
        refused(join(&door, &token).await, "was revoked");
        let root = control.view().await.unwrap().cluster().unwrap().ca_cert_pem.clone();
        let guessed = JoinToken::of_ticket(&root, id, &JoinToken::generate_secret());
        refused(join(&door, &guessed).await, "A valid join token is necessary");
        let unknown = JoinToken::of_ticket(&root, TicketId(skep_api::Id(1)), token.secret());
        refused(join(&door, &unknown).await, "A valid join token is necessary");
        // A ticket's secret is no token of the swarm's own.
        refused(join(&door, &JoinToken::new(&root, token.secret())).await, "A valid join token is necessary");

        let (id, short) = control.create_ticket(asked(Some(60), None)).await.unwrap();
        join(&door, &short).await.unwrap();
        let ticket = (**control.view().await.unwrap().ticket(id).unwrap()).clone();
        // Of late only: the leader takes away what is over for long.
        let expires_at = Timestamp(ticket.expires_at.0 - 61_000_000_000);
        let past = Ticket { expires_at, ..ticket };
        control.write(Vec::new(), vec![Change::PutTicket(Arc::new(past))]).await.unwrap();
        refused(join(&door, &short).await, "expired at 20");
        let stored = format!("{:?}", control.view().await.unwrap().tickets().collect::<Vec<_>>());
        assert!(!stored.contains(token.secret()));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn whose_answer_was_lost_asks_again_and_is_the_same_node() {
        let (manager, _, _dir) = first_manager().await;
        let (control, door) = (manager.control(), door(&manager));
        let (id, token) = control.create_ticket(asked(None, Some(1))).await.unwrap();
        let (csr, _) = new_csr().unwrap();
        let first = join_by(&door, &token, csr.clone()).await.unwrap();
        let again = join_by(&door, &token, csr.clone()).await.unwrap();
        assert_eq!(again.node_id, first.node_id);
        assert_eq!(control.view().await.unwrap().n_nodes(), 2);
        refused(join(&door, &token).await, "is used up");
        control.revoke_ticket(id).await.unwrap();
        refused(join_by(&door, &token, csr).await, "was revoked");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_new_root_ends_all_tickets() {
        let (manager, _, _dir) = first_manager().await;
        let (control, door) = (manager.control(), door(&manager));
        let (id, token) = control.create_ticket(asked(None, None)).await.unwrap();
        let (used, last) = control.create_ticket(asked(None, Some(1))).await.unwrap();
        join(&door, &last).await.unwrap();
        let old = (**control.view().await.unwrap().cluster().unwrap()).clone();
        let root = skep_link::Authority::generate(1_700_000_000).unwrap();
        let new = Cluster { ca_cert_pem: root.cert_pem().into(), ca_key_pem: root.key_pem().into(), ..old };
        control.write(Vec::new(), vec![Change::PutCluster(Arc::new(new.clone()))]).await.unwrap();
        let over = |tickets: &[Arc<Ticket>], id| {
            let ticket = tickets.iter().find(|ticket| ticket.id == id).unwrap();
            ticket.over(Timestamp(1)).map(TicketOver::as_str)
        };
        let (tickets, _) = control.tickets().await.unwrap();
        assert_eq!(over(&tickets, id), Some("revoked (new root)"));
        assert_eq!(over(&tickets, used), Some("used up"));
        // Also with the new root's digest in it.
        let mended = JoinToken::of_ticket(root.cert_pem(), id, token.secret());
        refused(join(&door, &mended).await, "ended with the swarm's old root");
        let (id, token) = control.create_ticket(asked(None, None)).await.unwrap();
        control.write(Vec::new(), vec![Change::PutCluster(Arc::new(new))]).await.unwrap();
        assert_eq!(over(&control.tickets().await.unwrap().0, id), None, "the root is the same");
        join(&door, &token).await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn who_has_no_ticket_waits_for_nobody_and_holds_nobody_up() {
        let (manager, _, _dir) = first_manager().await;
        let (control, door) = (manager.control(), door(&manager));
        let (id, token) = control.create_ticket(asked(None, None)).await.unwrap();
        let somebody = door.by_ticket.lock().await;
        let guessed = JoinToken::of_ticket("root", id, &JoinToken::generate_secret());
        refused(join(&door, &guessed).await, "A valid join token is necessary");
        control.revoke_ticket(id).await.unwrap();
        refused(join(&door, &token).await, "was revoked");
        drop(somebody);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn only_tickets_that_let_somebody_in_count() {
        let (manager, _, _dir) = first_manager().await;
        let control = manager.control();
        let put = |n: usize, uses_left| {
            let id = TicketId(skep_api::Id(u128::try_from(n).unwrap()));
            Change::PutTicket(Arc::new(Ticket { id, uses_left, ..Ticket::default() }))
        };
        control.write(Vec::new(), (1..=TICKETS_MAX).map(|n| put(n, Some(0))).collect()).await.unwrap();
        control.create_ticket(asked(None, None)).await.unwrap();
        control.write(Vec::new(), (1..TICKETS_MAX).map(|n| put(n, Some(1))).collect()).await.unwrap();
        let error = control.create_ticket(asked(None, None)).await.unwrap_err();
        assert_eq!(error.message, "there are 1000 valid join tokens already: revoke some");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_lets_nobody_in_is_not_made() {
        let (manager, _, _dir) = first_manager().await;
        let control = manager.control();
        let error = control.create_ticket(asked(None, Some(0))).await.unwrap_err();
        assert_eq!(error.message, "Uses: must be at least 1");
        let error = control.create_ticket(asked(Some(0), None)).await.unwrap_err();
        assert_eq!(error.message, "TTL: must be longer than 0s");
        let none = TicketAsked { labels: [(String::new(), "a".to_owned())].into(), ..asked(None, None) };
        assert_eq!(control.create_ticket(none).await.unwrap_err().message, "Labels: a label needs a key");
        assert_eq!(control.view().await.unwrap().tickets().count(), 0);
        let error = control.revoke_ticket(TicketId(skep_api::Id(1))).await.unwrap_err();
        assert!(error.message.ends_with("not found"), "{error:?}");
    }
}
