//! Making a swarm, joining one, and leaving it.

use std::{sync::Arc, time::Duration};

use skep_agent::NodeRole;
use skep_api::{
    ApiError, ErrorKind,
    object::ingress::DATA_PATH_PORT,
    spec::{Availability, InitRequest, JoinBody},
    validate,
};
use skep_link::{Identity, JoinError, JoinParams, JoinToken, Joined, Role};
use skep_manager::{FEATURE_LEVEL, InitParams, Manager};
use tokio::{
    net::TcpListener,
    time::{Instant, timeout_at},
};

use super::{
    address,
    listener::{self, Listener},
    machine,
    member::Member,
    node::{Inner, Membership, Place},
    role,
};

/// Docker's limit of a join (`MB:daemon/cluster/swarm.go`).
const JOIN_TIMEOUT: Duration = Duration::from_secs(20);
/// Docker's words when that has passed (`MB:daemon/cluster/errors.go`).
const JOIN_GOES_ON: &str = "Timeout was reached before node joined. The attempt to join the swarm will continue in \
     the background. Use the \"docker info\" command to see the current swarm status of your node.";
/// How long the managers may take to note that we leave.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(4);

impl Inner {
    async fn make_swarm(
        self: &Arc<Self>,
        slot: &mut Option<Manager>,
        request: InitRequest,
    ) -> Result<String, ApiError> {
        address::check_listen(&request.listen_addr)?;
        validate::init(&request)?;
        let (addr, port) = self.advertised("AdvertiseAddr", &request.advertise_addr)?;
        let listen_addr = address::listen(&request.listen_addr)?;
        let data_path_addr = self.data_path(&request.data_path_addr, addr)?;
        let host = address::host(&request.advertise_addr, addr);
        let advertise_addr = format!("{host}:{}", port.unwrap_or(listen_addr.port()));
        let params = InitParams {
            advertise_addr: advertise_addr.clone(),
            data_path_addr: data_path_addr.to_string(),
            data_path_port: request.data_path_port,
            description: machine::description(&self.settings, self.docker.as_ref()),
            availability: Availability::parse(&request.availability).unwrap_or_default(),
            spec: if request.auto_lock_managers { request.spec.with_autolock() } else { request.spec },
            identity_dir: self.identity_dir(),
        };
        let data_path_port =
            if request.data_path_port == 0 { DATA_PATH_PORT } else { request.data_path_port };
        self.check_ports(listen_addr.port(), data_path_port).await?;
        let bound = listener::bind(listen_addr).await.map_err(|e| internal(&e))?;
        let (manager, identity) =
            Manager::init(self.manager_config(), params).await.map_err(|e| internal(&e.into()))?;
        self.keep_keys(&manager);
        let member = Member {
            format: 1,
            listen_addr,
            advertise_addr: advertise_addr.clone(),
            data_path_addr,
            managers: vec![advertise_addr],
            data_path_port,
            asked_addr: request.advertise_addr,
            default_addr: self.settings.advertise_addr,
        };
        self.begin_as_manager(slot, manager, identity, member, bound).await
    }

    /// Takes up the work of a swarm's only manager, whose state is on disk: listens to other nodes, and runs its own
    /// agent.
    pub(super) async fn begin_as_manager(
        self: &Arc<Self>,
        slot: &mut Option<Manager>,
        manager: Manager,
        identity: Identity,
        member: Member,
        bound: TcpListener,
    ) -> Result<String, ApiError> {
        let node_id = identity.node_id();
        let listener = Listener::serve(bound, identity.clone(), manager.routes());
        let agent = async {
            member.save(&self.settings.state_dir)?;
            self.start_agent(&identity, &member, true).await
        }
        .await;
        let agent = match agent {
            Ok(agent) => agent,
            Err(error) => {
                manager.stop().await;
                listener.stop().await;
                return Err(internal(&error));
            }
        };
        let membership = Membership { agent, identity, member, listener: Some(listener.clone()) };
        listener.set(role::routes_of_manager(&manager, &membership));
        let control = manager.control();
        *slot = Some(manager);
        self.set(Place::Manager(membership.clone(), control));
        self.keep_role(Some(tokio::spawn(role::follow(self.clone(), membership, None))));
        Ok(node_id)
    }

    /// Gets an identity, and becomes what it grants; as a manager, begins to.
    async fn join_swarm(self: &Arc<Self>, body: JoinBody) -> Result<(), ApiError> {
        address::check_listen(&body.listen_addr)?;
        if body.remote_addrs.is_empty() {
            return Err(ApiError::invalid("RemoteAddrs: at least 1 RemoteAddr is required to join"));
        }
        let token = token_of(&body)?;
        let (addr, port) = self.advertised("AdvertiseAddr", &body.advertise_addr)?;
        let host = address::host(&body.advertise_addr, addr);
        let listen_addr = address::listen(&body.listen_addr)?;
        let data_path_addr = self.data_path(&body.data_path_addr, addr)?;
        self.check_ports(listen_addr.port(), DATA_PATH_PORT).await?;
        // A worker can do without; what the token grants shows later.
        let bound = listener::bind(listen_addr).await;
        let params = JoinParams {
            description: (&machine::description(&self.settings, self.docker.as_ref())).into(),
            data_path_addr: data_path_addr.to_string(),
            availability: body.availability,
            feature_level: FEATURE_LEVEL,
        };
        let mut failure = None;
        for remote in &body.remote_addrs {
            match Box::pin(skep_link::join(remote, &token, params.clone(), JOIN_TIMEOUT)).await {
                Ok(Joined { identity, managers, .. }) => {
                    let mut known = body.remote_addrs.clone();
                    known.extend(managers.into_iter().filter(|addr| !body.remote_addrs.contains(addr)));
                    let member = Member {
                        format: 1,
                        listen_addr,
                        advertise_addr: format!("{host}:{}", port.unwrap_or(listen_addr.port())),
                        data_path_addr,
                        managers: known,
                        data_path_port: DATA_PATH_PORT,
                        asked_addr: body.advertise_addr.clone(),
                        default_addr: self.settings.advertise_addr,
                    };
                    return Box::pin(self.become_joined(identity, member, bound)).await;
                }
                Err(error) => failure = Some(error),
            }
        }
        Err(failure.map_or_else(|| ApiError::invalid("RemoteAddrs: none"), |error| join_failure(&error)))
    }

    async fn become_joined(
        self: &Arc<Self>,
        identity: Identity,
        member: Member,
        bound: anyhow::Result<TcpListener>,
    ) -> Result<(), ApiError> {
        let is_manager = identity.role() == Role::Manager;
        if let Err(error) = bound.as_ref()
            && is_manager
        {
            let words = internal(error);
            leave_managers(&identity, &member.managers, &member.advertise_addr).await;
            return Err(words);
        }
        let becoming = async {
            self.save_identity(&identity)?;
            member.save(&self.settings.state_dir)?;
            self.become_member(identity, member, bound.ok()).await
        };
        let membership = becoming.await.map_err(|e| internal(&e))?;
        let (place, first) = if is_manager {
            (Place::Joining(membership.clone()), Some(NodeRole { manager: true, raft_id: 0 }))
        } else {
            (Place::Worker(membership.clone()), None)
        };
        self.set(place);
        self.keep_role(Some(tokio::spawn(role::follow(self.clone(), membership, first))));
        Ok(())
    }

    pub(super) async fn init(self: &Arc<Self>, request: InitRequest) -> Result<String, ApiError> {
        if request.force_new_cluster && !matches!(self.place(), Place::Nowhere) {
            return Box::pin(self.go_on_alone(request)).await;
        }
        let mut slot = self.manager.lock().await;
        self.refuse_a_second_swarm()?;
        let made = Box::pin(self.make_swarm(&mut slot, request)).await;
        if made.is_err() {
            // As Swarm does: a failed first init leaves nothing behind.
            self.wipe();
        }
        made
    }

    pub(super) async fn join(self: &Arc<Self>, request: JoinBody) -> Result<(), ApiError> {
        let until = Instant::now() + JOIN_TIMEOUT;
        {
            let _changing = self.manager.lock().await;
            self.refuse_a_second_swarm()?;
            if let Err(error) = Box::pin(self.join_swarm(request)).await {
                self.wipe();
                return Err(error);
            }
        }
        // A manager is one when it votes and has the state: what is asked of it then is answered.
        let mut places = self.places();
        let settled = places.wait_for(|place| !matches!(place, Place::Joining(_)));
        let place = match timeout_at(until, settled).await {
            Ok(Ok(place)) => place.clone(),
            Ok(Err(_)) | Err(_) => return Err(ApiError::new(ErrorKind::Unavailable, JOIN_GOES_ON)),
        };
        if let Place::Refused(_, words) = place {
            Box::pin(self.leave(true)).await?;
            return Err(ApiError::new(ErrorKind::Unavailable, words));
        }
        Ok(())
    }

    pub(super) async fn leave(self: &Arc<Self>, force: bool) -> Result<(), ApiError> {
        let _unlocking = self.unlocking.lock().await;
        let mut slot = self.manager.lock().await;
        match self.place() {
            // Swarm's words (`MB:daemon/cluster/swarm.go`).
            Place::Locked if !force => {
                let words = "Swarm is encrypted and locked. Please unlock it first or use `--force` to ignore this message.";
                return Err(ApiError::new(ErrorKind::Unavailable, words));
            }
            Place::Nowhere => {
                return Err(ApiError::new(ErrorKind::Unavailable, "This node is not part of a swarm"));
            }
            Place::Manager(_, control) if !force => {
                return Err(ApiError::new(ErrorKind::Unavailable, control.leave_warning().await));
            }
            Place::Full(..) if !force => {
                let words = "this node is a manager, and stopped as its disk is full: make room there, or leave with --force";
                return Err(ApiError::new(ErrorKind::Unavailable, words));
            }
            Place::Manager(..)
            | Place::Full(..)
            | Place::Broken(_)
            | Place::Locked
            | Place::Joining(_)
            | Place::Refused(..)
            | Place::Worker(_) => {}
        }
        self.keep_role(None);
        let membership = self.membership();
        match &membership {
            Some(membership) => {
                if slot.is_some() || matches!(self.place(), Place::Full(..)) {
                    let managers = membership.agent.managers();
                    leave_managers(&membership.identity, &managers, &membership.member.advertise_addr).await;
                } else {
                    say_goodbye(membership).await;
                }
                membership.agent.leave().await;
            }
            None => self.end_tasks_without_an_agent().await,
        }
        if let Some(manager) = slot.take() {
            manager.stop().await;
        }
        if let Some(listener) = membership.and_then(|membership| membership.listener) {
            listener.stop().await;
        }
        self.set(Place::Nowhere);
        self.wipe();
        Ok(())
    }
}

fn token_of(body: &JoinBody) -> Result<JoinToken, ApiError> {
    if body.join_token.is_empty() {
        // The words with which Swarm's managers refuse one that has none (`SK:ca/server.go`).
        return Err(ApiError::invalid(
            "rpc error: code = InvalidArgument desc = A valid join token is necessary to join this cluster",
        ));
    }
    JoinToken::parse(&body.join_token).map_err(|e| ApiError::invalid(e.to_string()))
}

/// Has the other managers take this one out of raft, and list it as gone. Without them, or where that
/// would lose the quorum, it goes all the same: whoever leaves by force was warned.
async fn leave_managers(identity: &Identity, managers: &[String], own: &str) {
    let others: Vec<String> = managers.iter().filter(|addr| *addr != own).cloned().collect();
    if others.is_empty() {
        return;
    }
    if let Err(error) = skep_manager::depart(identity, &others, LEAVE_TIMEOUT).await {
        tracing::warn!(
            err = error,
            "leaving the swarm without the other managers' consent; demote this node there"
        );
    }
}

/// Tells the managers that this node leaves; they find out by themselves if it does not reach them.
async fn say_goodbye(membership: &Membership) {
    let said = async {
        for manager in membership.agent.managers() {
            let Ok(channel) = skep_link::connect(&manager, &membership.identity).await else { continue };
            let request = skep_link::unary(skep_api::wire::LeaveRequest {});
            if skep_link::dispatcher(channel).leave(request).await.is_ok() {
                return;
            }
        }
        tracing::warn!("no manager heard that this node leaves; it will show as down");
    };
    if tokio::time::timeout(LEAVE_TIMEOUT, said).await.is_err() {
        tracing::warn!("no manager answered that this node leaves; it will show as down");
    }
}

/// The whole chain of causes, for the person who called.
pub(super) fn internal(error: &anyhow::Error) -> ApiError {
    ApiError::new(ErrorKind::Internal, format!("{error:#}"))
}

fn join_failure(error: &JoinError) -> ApiError {
    let mut words = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let cause_words = cause.to_string();
        if !words.contains(&cause_words) {
            words = format!("{words}: {cause_words}");
        }
        source = cause.source();
    }
    let kind = match error {
        JoinError::Digest { .. } | JoinError::Refused { .. } => ErrorKind::InvalidArgument,
        JoinError::Dial(_) | JoinError::Timeout { .. } => ErrorKind::Unavailable,
        JoinError::Answer { .. } | JoinError::Identity(_) | JoinError::Csr(_) => ErrorKind::Internal,
    };
    ApiError::new(kind, words)
}
