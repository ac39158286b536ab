//! Users: each has services of its own, asks one manager after another, and remembers what it was promised.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use skep_api::object::Service;
use skep_api::spec::{Availability, NodeSpec, Role, ServiceSpec};
use skep_api::{ApiError, ErrorKind, NodeId, Secret, ServiceId};
use skep_manager::{Control, RegistryAuth, RollOut};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};

use super::specs::{self, Kind, number_of};
use super::world::World;
use crate::invariants::i01_acknowledged_writes_survive as survive;

/// How long a user waits for an answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// How often those look whose services are to be put right.
const REPAIR_EVERY: Duration = Duration::from_millis(500);

/// One call of the API of a machine's daemon.
pub(crate) struct Request {
    pub(crate) ask: Ask,
    pub(crate) answer: oneshot::Sender<Result<Answer, ApiError>>,
}

/// What is asked.
#[derive(Clone, Debug)]
pub(crate) enum Ask {
    Find(String),
    Create(Box<ServiceSpec>),
    Update(ServiceId, u64, Box<ServiceSpec>),
    /// To the previous spec.
    Back(ServiceId, u64),
    RollOut(ServiceId, u64, RollOut),
    Remove(ServiceId),
    Role(NodeId, Role),
    Zone(NodeId, Option<&'static str>),
    Availability(NodeId, Availability),
    RemoveNode(NodeId),
}

/// What is answered.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    Found(Option<Arc<Service>>),
    Done,
}

/// What may be under a name, by the numbers of writes; 0 is nothing.
#[derive(Clone, Debug)]
pub(crate) struct Promise {
    pub(crate) may_be: BTreeSet<u64>,
    /// Where an update that fails goes back to by itself.
    pub(crate) back: BTreeSet<u64>,
    /// Creations of which nobody knows: each may come when the name is free, however late.
    creations: BTreeSet<u64>,
}

impl Default for Promise {
    fn default() -> Promise {
        Promise { may_be: [0].into(), back: BTreeSet::new(), creations: BTreeSet::new() }
    }
}

impl Promise {
    /// Whether that may be there, under its name.
    pub(crate) fn allows(&self, there: Option<&Arc<Service>>) -> bool {
        let number = there.map_or(0, |service| number_of(&service.spec));
        // What came there by itself leaves no way further back.
        let has_gone_back = there.is_some_and(|service| service.previous_spec.is_none());
        self.may_be.contains(&number) || (has_gone_back && self.back.contains(&number))
    }
}

/// Answers what is asked of a daemon, as its API would.
pub(crate) async fn serve(id: u64, mut requests: mpsc::UnboundedReceiver<Request>, world: World) {
    while let Some(Request { ask, answer }) = requests.recv().await {
        let control = world.with(id, |slot| slot.control.clone());
        tokio::spawn(async move {
            let answered = match control {
                Some(control) => carry_out(&control, ask).await,
                None => Err(ApiError::new(ErrorKind::Unavailable, "this node is not a swarm manager")),
            };
            // The user may be gone.
            answer.send(answered).ok();
        });
    }
    std::future::pending().await
}

async fn carry_out(control: &Control, ask: Ask) -> Result<Answer, ApiError> {
    match ask {
        Ask::Find(name) => {
            let view = control.view().await?;
            return Ok(Answer::Found(view.service_by_name(&name).cloned()));
        }
        Ask::Create(spec) => drop(control.create_service(*spec, Secret::default()).await?),
        Ask::Update(id, version, spec) => {
            control.update_service(id, version, Some(*spec), RegistryAuth::OfSpec).await?;
        }
        Ask::Back(id, version) => {
            control.update_service(id, version, None, RegistryAuth::OfSpec).await?;
        }
        Ask::RollOut(id, version, what) => control.roll_out(id, version, what).await?,
        Ask::Remove(id) => control.remove_service(id).await?,
        Ask::Role(id, role) => change_node(control, id, |spec| spec.role = role).await?,
        Ask::Zone(id, zone) => {
            change_node(control, id, |spec| {
                spec.labels.remove(specs::ZONE);
                spec.labels.extend(zone.map(|zone| (specs::ZONE.to_owned(), zone.to_owned())));
            })
            .await?;
        }
        Ask::RemoveNode(id) => control.remove_node(id, true).await?,
        Ask::Availability(id, wanted) => change_node(control, id, |spec| spec.availability = wanted).await?,
    }
    Ok(Answer::Done)
}

async fn change_node(
    control: &Control,
    id: NodeId,
    change: impl FnOnce(&mut NodeSpec),
) -> Result<(), ApiError> {
    let view = control.view().await?;
    let node = view.node(id).ok_or_else(|| ApiError::not_found("no such node"))?;
    let mut spec = node.spec.clone();
    change(&mut spec);
    control.update_node(id, node.meta.version, spec).await
}

/// Asks some manager; `None` if nobody knows whether it was done.
pub(crate) async fn ask(world: &World, ask: Ask) -> Option<Result<Answer, ApiError>> {
    let (answer, answered) = oneshot::channel();
    let Some(manager) = world.some_manager() else {
        return Some(Err(ApiError::new(ErrorKind::Unavailable, "no manager runs")));
    };
    let Some(api) = world.with(manager, |slot| slot.api.clone()) else {
        return Some(Err(ApiError::new(ErrorKind::Unavailable, "the daemon starts")));
    };
    if api.send(Request { ask, answer }).is_err() {
        return Some(Err(ApiError::new(ErrorKind::Unavailable, "the daemon is gone")));
    }
    timeout(ANSWER_LIMIT, answered).await.ok()?.ok()
}

/// A user with the service `s<number>`, until the trouble is over.
pub(crate) async fn run(number: u64, world: World) -> turmoil::Result {
    let name = format!("s{number}");
    let mut n_writes = 0;
    while !world.lock().is_over {
        sleep(Duration::from_millis(50 + world.below(1200))).await;
        let Some(Ok(Answer::Found(found))) = ask(&world, Ask::Find(name.clone())).await else { continue };
        survive::is_read(&mut world.lock(), &name, found.as_ref());
        n_writes += 1;
        let write = number * 10_000 + n_writes;
        let (what, becomes) = wish(&world, number, write, found.as_ref());
        let answered = ask(&world, what).await;
        remember(&world, &name, number, (becomes, found.as_ref()), answered);
    }
    // What cannot run is put right, and what an accident breaks later.
    let mut is_counted = true;
    loop {
        if repair(number, &name, &world).await && std::mem::take(&mut is_counted) {
            world.lock().n_users -= 1;
        }
        sleep(if is_counted { Duration::from_millis(100) } else { REPAIR_EVERY }).await;
    }
}

/// What a user asks for next, and which write its service is of then.
fn wish(world: &World, user: u64, write: u64, found: Option<&Arc<Service>>) -> (Ask, u64) {
    let name = format!("s{user}");
    let Some(old) = found else {
        let wanted = specs::any(world, user, &name, write, Kind::some(world));
        return (Ask::Create(Box::new(wanted)), write);
    };
    let (id, version, now) = (old.id, old.meta.version, number_of(&old.spec));
    let mut wanted = specs::any(world, user, &name, write, Kind::of(&old.spec));
    match (world.below(12), &old.previous_spec) {
        (0, _) => return (Ask::Remove(id), 0),
        (1, Some(previous)) => return (Ask::Back(id, version), number_of(previous)),
        (2, _) if old.is_updating() => return (Ask::RollOut(id, version, RollOut::Pause), now),
        (3, _) if old.is_update_paused() => return (Ask::RollOut(id, version, RollOut::Resume), now),
        (4, Some(previous)) if old.is_updating() => {
            return (Ask::RollOut(id, version, RollOut::Abort), number_of(previous));
        }
        // Only how it rolls out, and the number of tasks.
        (5..=8, _) => wanted.task_template = old.spec.task_template.clone(),
        // The same anew.
        (9, _) => {
            let force_update = Some(old.spec.task_template.force_update.unwrap_or(0) + 1);
            wanted.task_template =
                skep_api::spec::TaskSpec { force_update, ..old.spec.task_template.clone() };
        }
        _ => {}
    }
    (Ask::Update(id, version, Box::new(wanted)), write)
}

async fn repair(user: u64, name: &str, world: &World) -> bool {
    let Some(Ok(Answer::Found(found))) = ask(world, Ask::Find(name.to_owned())).await else { return false };
    let Some(old) = found.filter(|service| !specs::can_be(service, user)) else { return true };
    let number = user * 10_000 + world.lock().promises.len() as u64 + 9_000;
    // No two of them are the same.
    let becomes = number.max(number_of(&old.spec) + 1);
    let wanted = specs::good(name, becomes, Kind::of(&old.spec));
    let answered = ask(world, Ask::Update(old.id, old.meta.version, Box::new(wanted))).await;
    let is_done = matches!(answered, Some(Ok(_)));
    remember(world, name, user, (becomes, Some(&old)), answered);
    is_done
}

/// Takes note of what becomes of a name whose service was `old` before.
fn remember(
    world: &World,
    name: &str,
    user: u64,
    (becomes, old): (u64, Option<&Arc<Service>>),
    answered: Option<Result<Answer, ApiError>>,
) {
    let mut state = world.lock();
    let outcome = match &answered {
        Some(Ok(_)) => "done".to_owned(),
        Some(Err(error)) => error.to_string(),
        None => "no answer".to_owned(),
    };
    state.trace.note(format!("u{user} {name} is to be {becomes}: {outcome}"));
    let (acknowledged, unknown) = match &answered {
        Some(Ok(_)) => (1, 0),
        Some(Err(error)) if is_certain(error) => (0, 0),
        Some(Err(_)) | None => (0, 1),
    };
    state.figures.acknowledged += acknowledged;
    state.figures.unknown += unknown;
    // The spec before it; or, while an update goes on, what that one goes back to.
    let previous = old.into_iter().flat_map(|old| [Some(&old.spec), old.previous_spec.as_ref()]);
    let previous = previous.flatten().map(|spec| number_of(spec));
    let Promise { may_be, back, creations } = state.promises.entry(name.to_owned()).or_default();
    if acknowledged > 0 {
        // A removal of which nobody knows may come yet.
        let is_removal_open = becomes != 0 && may_be.len() > 1 && may_be.contains(&0);
        *may_be = [becomes].into();
        *back = previous.collect();
        if is_removal_open {
            may_be.insert(0);
        }
    } else if unknown > 0 {
        if may_be.contains(&0) && becomes != 0 {
            creations.insert(becomes);
        }
        may_be.insert(becomes);
        back.extend(previous);
    }
    if may_be.contains(&0) {
        may_be.extend(creations.iter());
    }
}

/// Whether an error says that nothing was done.
fn is_certain(error: &ApiError) -> bool {
    !matches!(error.kind, ErrorKind::Unavailable | ErrorKind::Internal)
        || error.message.contains("The swarm does not have a leader")
}

/// A machine is gone for good: its node is taken out of the swarm.
pub(crate) async fn remove_node(node: NodeId, world: World) -> turmoil::Result {
    while world.lock().newest.node(node).is_some() {
        if !matches!(ask(&world, Ask::RemoveNode(node)).await, Some(Ok(_))) {
            // It may have come to be a manager just before.
            ask(&world, Ask::Role(node, Role::Worker)).await;
        }
        sleep(Duration::from_millis(100)).await;
    }
    world.lock().n_users -= 1;
    Ok(())
}
