//! What users do when nothing goes wrong: all nodes are to take tasks again; then an update that works, one that does
//! not, and one that goes back by itself.

use std::time::Duration;

use skep_api::object::UpdateState;
use skep_api::spec::{Availability, ServiceSpec};
use skep_api::{NodeId, ServiceId};
use tokio::time::sleep;

use super::faults::Trouble;
use super::specs::{self, ZONE, number_of};
use super::users::{self, Answer, Ask};
use super::world::World;
use crate::invariants::{i05_parallelism as parallelism, i06_it_heals as heals};

const REPLICAS: u64 = 4;
const NAME: &str = "calm";
const NAME_BACK: &str = "calmback";
/// Two of four: write numbers that are odd replace two at a time, see the users' spec.
const FIRST: u64 = 1;
/// A rollback of four, two at a time, and its watch.
const ROLLBACK_MAX: Duration = Duration::from_secs(10);

/// Sees to it that every node takes tasks from now on, and that one is in the zone that some ask for, and one not.
pub(crate) async fn all_take_tasks(world: World) -> turmoil::Result {
    loop {
        let newest = world.lock().newest.clone();
        let drained = newest.nodes().find(|node| node.spec.availability != Availability::Active);
        if let Some(node) = drained {
            users::ask(&world, Ask::Availability(node.id, Availability::Active)).await;
        }
        let is_in = |zone: Option<&String>| zone.is_some_and(|zone| zone == "a");
        let (inside, outside): (Vec<NodeId>, Vec<NodeId>) = {
            let zone = newest.nodes().map(|node| (node.id, is_in(node.spec.labels.get(ZONE))));
            let (inside, outside): (Vec<_>, Vec<_>) = zone.partition(|(_, is_in)| *is_in);
            let ids = |nodes: Vec<(NodeId, bool)>| nodes.into_iter().map(|(id, _)| id).collect();
            (ids(inside), ids(outside))
        };
        match (inside.first(), outside.first()) {
            (None, Some(id)) => drop(users::ask(&world, Ask::Zone(*id, Some("a"))).await),
            (Some(id), None) => drop(users::ask(&world, Ask::Zone(*id, None)).await),
            _ => {}
        }
        sleep(Duration::from_millis(200)).await;
    }
}

/// A service of four is updated, and then to what cannot run.
pub(crate) fn update(trouble: &mut Trouble<'_>, limit: Duration) {
    let spec = |number, image| specs::plain(NAME, number, image, REPLICAS, 8080);
    write(trouble, spec(FIRST, "ok:1"));
    if !all_is_well(trouble, NAME, limit) {
        return;
    }
    let service = service(&trouble.world, NAME).unwrap();
    for (number, image) in [(FIRST + 2, "ok:2"), (FIRST + 4, "bad:1")] {
        write(trouble, spec(number, image));
        let per_step = 1 + number % 2;
        let watched = trouble.world.clone();
        let ends = |world: &World| {
            if image == "bad:1" {
                return parallelism::update(world, service) == Some(UpdateState::Paused);
            }
            parallelism::in_flight(&mut world.lock(), service, REPLICAS, per_step);
            heals::what_ails_the_swarm(world).is_none()
        };
        let within = if image == "bad:1" { parallelism::FAILURE_ACTION_MAX } else { limit };
        if !trouble.until(within, ends) {
            let why = heals::what_ails_the_swarm(&watched);
            return watched
                .lock()
                .trace
                .fail(format!("the update to {image} does not come to its end: {why:?}"));
        }
    }
    // It is not asked for any more: else the swarm would never be well.
    write(trouble, spec(FIRST + 6, "ok:1"));
}

/// A service of four is updated to what cannot run, and goes back by itself.
pub(crate) fn rollback(trouble: &mut Trouble<'_>, limit: Duration) {
    let spec = |number, image| specs::that_rolls_back(NAME_BACK, number, image, REPLICAS);
    write(trouble, spec(FIRST, "ok:1"));
    if !all_is_well(trouble, NAME_BACK, limit) {
        return;
    }
    let service = service(&trouble.world, NAME_BACK).unwrap();
    write(trouble, spec(FIRST + 2, "bad:1"));
    let goes_back = |world: &World| {
        let state = parallelism::update(world, service);
        matches!(state, Some(UpdateState::RollbackStarted | UpdateState::RollbackCompleted))
    };
    let world = trouble.world.clone();
    if !trouble.until(parallelism::FAILURE_ACTION_MAX, goes_back) {
        return world.fail(format!("no rollback: {:?}", parallelism::update(&world, service)));
    }
    let is_back = |world: &World| {
        let ends = parallelism::update(world, service) == Some(UpdateState::RollbackCompleted);
        ends && heals::what_ails_the_swarm(world).is_none()
    };
    let ended = trouble.until(ROLLBACK_MAX, is_back);
    let now = world.lock().newest.service(service).map(|service| number_of(&service.spec));
    if !ended || now != Some(FIRST) {
        let (state, why) = (parallelism::update(&world, service), heals::what_ails_the_swarm(&world));
        world.fail(format!("the rollback of {now:?} does not come to its end: {state:?}, {why:?}"));
    }
}

fn service(world: &World, name: &str) -> Option<ServiceId> {
    world.lock().newest.service_by_name(name).map(|service| service.id)
}

fn all_is_well(trouble: &mut Trouble<'_>, name: &str, limit: Duration) -> bool {
    let is_well =
        |world: &World| service(world, name).is_some() && heals::what_ails_the_swarm(world).is_none();
    let healed = trouble.until(limit, is_well);
    let why = heals::what_ails_the_swarm(&trouble.world);
    if !healed {
        trouble.world.lock().trace.fail(format!("a service was made, and does not run: {why:?}"));
    }
    healed
}

/// Creates or updates the service, and waits until it is told that it is done.
fn write(trouble: &mut Trouble<'_>, spec: ServiceSpec) {
    let world = trouble.world.clone();
    trouble.world.lock().n_users += 1;
    trouble.sim.client(format!("{}{}", spec.name, number_of(&spec)), async move {
        let wanted = || Box::new(spec.clone());
        loop {
            let found = users::ask(&world, Ask::Find(spec.name.clone())).await;
            let what = match found {
                Some(Ok(Answer::Found(None))) => Ask::Create(wanted()),
                Some(Ok(Answer::Found(Some(old)))) => Ask::Update(old.id, old.meta.version, wanted()),
                Some(_) | None => continue,
            };
            if matches!(users::ask(&world, what).await, Some(Ok(_))) {
                break;
            }
            sleep(Duration::from_millis(100)).await;
        }
        world.lock().n_users -= 1;
        Ok(())
    });
}
