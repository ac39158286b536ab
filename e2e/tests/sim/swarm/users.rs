//! Users: each has services of its own, asks one manager after another, and remembers what it was promised.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::json;
use skep_api::spec::{Availability, NodeSpec, Role, ServiceSpec};
use skep_api::{ApiError, ErrorKind, NodeId, Secret, ServiceId};
use skep_manager::{Control, RegistryAuth};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};

use super::world::World;
use crate::invariants::i01_acknowledged_writes_survive as survive;

/// How long a user waits for an answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// What a write left in the spec: no other one of this simulation has its number.
const LABEL: &str = "write";
const REPLICAS_MAX: u64 = 4;
/// The port of the first user's service; each has the next one.
const FIRST_PORT: u64 = 8001;
/// What the images do: see the simulated machine.
const IMAGES: [&str; 8] = ["ok:1", "ok:2", "ok:3", "ok:1", "ok:2", "stubborn:1", "bad:1", "missing:1"];

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
    Remove(ServiceId),
    Role(NodeId, Role),
    Availability(NodeId, Availability),
    RemoveNode(NodeId),
}

/// What is answered.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    Found(Option<(ServiceId, u64, Box<ServiceSpec>)>),
    Done,
}

/// What may be under a name, by the numbers of writes; 0 is nothing.
#[derive(Clone, Debug)]
pub(crate) struct Promise {
    pub(crate) may_be: BTreeSet<u64>,
    /// Creations of which nobody knows: each may come when the name is free, however late.
    creations: BTreeSet<u64>,
}

impl Default for Promise {
    fn default() -> Promise {
        Promise { may_be: [0].into(), creations: BTreeSet::new() }
    }
}

/// Which write a spec is of.
pub(crate) fn number_of(spec: &ServiceSpec) -> u64 {
    spec.labels.as_ref().and_then(|labels| labels.get(LABEL)).map_or(0, |number| number.parse().unwrap())
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
            let found = view.service_by_name(&name);
            return Ok(Answer::Found(found.map(|service| {
                (service.id, service.meta.version, Box::new(ServiceSpec::clone(&service.spec)))
            })));
        }
        Ask::Create(spec) => drop(control.create_service(*spec, Secret::default()).await?),
        Ask::Update(id, version, spec) => {
            control.update_service(id, version, Some(*spec), RegistryAuth::OfSpec).await?;
        }
        Ask::Remove(id) => control.remove_service(id).await?,
        Ask::Role(id, role) => change_node(control, id, |spec| spec.role = role).await?,
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

/// A spec that is the write `number`.
pub(crate) fn spec(name: &str, number: u64, image: &str, replicas: u64, port: u64) -> ServiceSpec {
    let ports = if port == 0 { json!([]) } else { json!([{ "TargetPort": 80, "PublishedPort": port }]) };
    let spec = json!({
        "Name": name,
        "Labels": { LABEL: number.to_string() },
        "TaskTemplate": {
            "ContainerSpec": { "Image": image, "StopGracePeriod": 1_000_000_000_u64 },
            "RestartPolicy": { "Condition": "any", "Delay": 500_000_000_u64 },
        },
        "Mode": { "Replicated": { "Replicas": replicas } },
        "UpdateConfig": {
            "Parallelism": 1 + number % 2,
            "FailureAction": "pause",
            "Monitor": 1_000_000_000_u64,
            "Order": if number % 4 == 2 { "start-first" } else { "stop-first" },
        },
        "EndpointSpec": { "Ports": ports },
    });
    serde_json::from_value(spec).unwrap()
}

/// A user with the service `s<number>`, until the trouble is over.
pub(crate) async fn run(number: u64, world: World) -> turmoil::Result {
    let name = format!("s{number}");
    let mut n_writes = 0;
    while !world.lock().is_over {
        sleep(Duration::from_millis(50 + world.below(1200))).await;
        let Some(Ok(Answer::Found(found))) = ask(&world, Ask::Find(name.clone())).await else { continue };
        let read = found.as_ref().map_or(0, |(_, _, spec)| number_of(spec));
        survive::is_read(&mut world.lock(), &name, read);
        n_writes += 1;
        let write = number * 10_000 + n_writes;
        let image = world.pick(&IMAGES);
        let replicas = 1 + world.below(REPLICAS_MAX);
        // Half of them publish a port, and now and then one that is another's.
        let port = world.pick(&[0, FIRST_PORT - 1 + number, FIRST_PORT - 1 + number, FIRST_PORT]);
        let mut wanted = spec(&name, write, image, replicas, port);
        let (what, becomes) = match found {
            None => (Ask::Create(Box::new(wanted)), write),
            Some((id, ..)) if world.below(8) == 0 => (Ask::Remove(id), 0),
            Some((id, version, old)) => {
                if world.below(2) == 0 {
                    // Only the number of tasks.
                    wanted.task_template = old.task_template.clone();
                }
                (Ask::Update(id, version, Box::new(wanted)), write)
            }
        };
        let answered = ask(&world, what).await;
        remember(&world, &name, number, becomes, answered);
    }
    // What cannot run is put right.
    while !repair(number, &name, &world).await {
        sleep(Duration::from_millis(100)).await;
    }
    world.lock().n_users -= 1;
    Ok(())
}

async fn repair(number: u64, name: &str, world: &World) -> bool {
    let Some(Ok(Answer::Found(found))) = ask(world, Ask::Find(name.to_owned())).await else { return false };
    let runs =
        |spec: &ServiceSpec| spec.container().is_some_and(|container| container.image.starts_with("ok"));
    // Two may ask for a port at one moment: one has it then, and the other's tasks wait until it asks for none.
    let is_anothers = |spec: &ServiceSpec| {
        number != 1 && spec.ports().iter().any(|port| u64::from(port.published_port) == FIRST_PORT)
    };
    let is_good = |spec: &ServiceSpec| runs(spec) && !is_anothers(spec);
    let Some((id, version, _)) = found.filter(|(_, _, old)| !is_good(old)) else { return true };
    let becomes = number * 10_000 + world.lock().promises.len() as u64 + 9_000;
    let wanted = spec(name, becomes, "ok:9", 2, 0);
    let answered = ask(world, Ask::Update(id, version, Box::new(wanted))).await;
    let is_done = matches!(answered, Some(Ok(_)));
    remember(world, name, number, becomes, answered);
    is_done
}

fn remember(world: &World, name: &str, user: u64, becomes: u64, answered: Option<Result<Answer, ApiError>>) {
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
    let Promise { may_be, creations } = state.promises.entry(name.to_owned()).or_default();
    if acknowledged > 0 {
        // A removal of which nobody knows may come yet.
        let is_removal_open = becomes != 0 && may_be.len() > 1 && may_be.contains(&0);
        *may_be = [becomes].into();
        if is_removal_open {
            may_be.insert(0);
        }
    } else if unknown > 0 {
        if may_be.contains(&0) && becomes != 0 {
            creations.insert(becomes);
        }
        may_be.insert(becomes);
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
