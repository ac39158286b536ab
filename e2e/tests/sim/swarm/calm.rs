//! What users do when nothing goes wrong: all nodes are to take tasks again; then an update that works, and one
//! that does not.

use std::time::Duration;

use skep_api::ServiceId;
use skep_api::spec::Availability;
use tokio::time::sleep;

use super::faults::Trouble;
use super::users::{self, Answer, Ask};
use super::world::World;
use crate::invariants::{i05_parallelism as parallelism, i06_it_heals as heals};

const REPLICAS: u64 = 4;
const NAME: &str = "calm";
/// Two of four: write numbers that are odd replace two at a time, see the users' spec.
const FIRST: u64 = 1;

/// Sees to it that every node takes tasks, from now on.
pub(crate) async fn all_active(world: World) -> turmoil::Result {
    loop {
        let newest = world.lock().newest.clone();
        let drained = newest.nodes().find(|node| node.spec.availability != Availability::Active);
        if let Some(node) = drained {
            users::ask(&world, Ask::Availability(node.id, Availability::Active)).await;
        }
        sleep(Duration::from_millis(200)).await;
    }
}

/// A service of four is updated, and then to what cannot run.
pub(crate) fn update(trouble: &mut Trouble<'_>, limit: Duration) {
    write(trouble, FIRST, "ok:1");
    if !all_is_well(trouble, limit) {
        return;
    }
    let service = service(&trouble.world).unwrap();
    for (number, image) in [(FIRST + 2, "ok:2"), (FIRST + 4, "bad:1")] {
        write(trouble, number, image);
        let per_step = 1 + number % 2;
        let watched = trouble.world.clone();
        let ends = |world: &World| {
            if image == "bad:1" {
                return parallelism::is_paused(world, service);
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
}

fn service(world: &World) -> Option<ServiceId> {
    world.lock().newest.service_by_name(NAME).map(|service| service.id)
}

fn all_is_well(trouble: &mut Trouble<'_>, limit: Duration) -> bool {
    let is_well = |world: &World| service(world).is_some() && heals::what_ails_the_swarm(world).is_none();
    let healed = trouble.until(limit, is_well);
    let why = heals::what_ails_the_swarm(&trouble.world);
    if !healed {
        trouble.world.lock().trace.fail(format!("a service was made, and does not run: {why:?}"));
    }
    healed
}

/// Creates or updates the service, and waits until it is told that it is done.
fn write(trouble: &mut Trouble<'_>, number: u64, image: &'static str) {
    let world = trouble.world.clone();
    trouble.world.lock().n_users += 1;
    trouble.sim.client(format!("calm{number}"), async move {
        let wanted = || Box::new(users::spec(NAME, number, image, REPLICAS, 8080));
        loop {
            let found = users::ask(&world, Ask::Find(NAME.to_owned())).await;
            let what = match found {
                Some(Ok(Answer::Found(None))) => Ask::Create(wanted()),
                Some(Ok(Answer::Found(Some((id, version, _))))) => Ask::Update(id, version, wanted()),
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
