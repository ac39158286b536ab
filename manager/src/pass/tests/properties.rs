//! Random days in the life of a swarm, from seeds: the harness checks the invariants after each pass.

use std::time::Duration;

use skep_api::{object::NodeState, spec::Availability};
use skep_store::Change;

use crate::control::services::{paused, resumed};

use super::harness::{Swarm, node_id, service_id, simple, with};

/// xorshift64*, seeded.
struct Chance(u64);

impl Chance {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % n
    }
}

impl Chance {
    fn of<'a>(&mut self, words: &[&'a str]) -> &'a str {
        words[usize::try_from(self.below(words.len() as u64)).unwrap()]
    }
}

const N_NODES: u64 = 4;
const N_SERVICES: u64 = 3;

fn random_spec(name: &str, chance: &mut Chance) -> skep_api::spec::ServiceSpec {
    let image = ["ok", "ok2", "exit:1:700", "exit:0:3000", "missing"];
    let image = image[usize::try_from(chance.below(5)).unwrap()];
    let patch = format!(
        r#"{{"TaskTemplate":{{"RestartPolicy":{{"Delay":{},"MaxAttempts":{}}},"ForceUpdate":{},
            "Resources":{{"Reservations":{{"NanoCPUs":{}}}}}}},
            "UpdateConfig":{{"Parallelism":{},"Delay":{},"FailureAction":"{}","Order":"{}","MaxFailureRatio":{}}},
            "RollbackConfig":{{"Parallelism":{},"FailureAction":"{}","Order":"{}"}},
            "EndpointSpec":{{"Ports":[{{"TargetPort":80,"PublishMode":"{}"}}]}}}}"#,
        chance.below(3) * 1_000_000_000,
        chance.below(4),
        chance.below(3),
        chance.below(3) * 500_000_000,
        chance.below(3),
        chance.below(2) * 1_000_000_000,
        chance.of(&["pause", "continue", "rollback"]),
        chance.of(&["stop-first", "start-first"]),
        chance.of(&["0", "0.3"]),
        chance.below(3),
        chance.of(&["pause", "continue"]),
        chance.of(&["stop-first", "start-first"]),
        chance.of(&["ingress", "host"]),
    );
    with(&simple(name, image, chance.below(7)), &patch)
}

fn one_event(swarm: &mut Swarm, chance: &mut Chance) {
    let id = service_id(u128::from(chance.below(N_SERVICES) + 1));
    let node = u128::from(chance.below(N_NODES) + 1);
    let name = format!("s{id}");
    let service = swarm.view().service(id).cloned();
    match chance.below(11) {
        0..=2 => {
            let spec = random_spec(&name, chance);
            if service.is_some() {
                swarm.update(id, spec);
            } else {
                swarm.create(id.0.0, spec);
            }
        }
        3 if service.as_ref().is_some_and(|service| service.previous_spec.is_some()) => swarm.rollback(id),
        4 if service.is_some() => swarm.apply(vec![Change::DeleteService(id)]),
        5 => {
            let all = [Availability::Active, Availability::Pause, Availability::Drain];
            let availability = all[usize::try_from(chance.below(3)).unwrap()];
            if swarm.view().node(node_id(node)).is_some() {
                swarm.set_availability(node, availability);
            }
        }
        6 if swarm.view().node(node_id(node)).is_some() => {
            let state = if chance.below(2) == 0 { NodeState::Down } else { NodeState::Ready };
            swarm.set_state(node, state);
        }
        8 => swarm.change_leader(),
        9 if service.as_ref().is_some_and(|service| service.is_updating()) => swarm.change(id, paused),
        9 if service.as_ref().is_some_and(|service| service.is_update_paused()) => swarm.change(id, resumed),
        10 => swarm.keep_history(chance.below(3)),
        7 if swarm.view().node(node_id(node)).is_none() => swarm.add_node(node),
        7 if chance.below(4) == 0 => swarm.apply(vec![Change::DeleteNode(node_id(node))]),
        _ => {}
    }
}

#[test]
fn random_days_keep_the_invariants_and_heal() {
    for seed in 1..=25 {
        let mut chance = Chance(seed);
        let mut swarm = Swarm::new(u128::from(N_NODES));
        for _ in 0..40 {
            one_event(&mut swarm, &mut chance);
            swarm.run(Duration::from_millis(chance.below(4000)));
        }
        heal(&mut swarm);
    }
}

/// Faults stop, all services ask for what can run: soon all of it runs.
fn heal(swarm: &mut Swarm) {
    for n in 1..=u128::from(N_NODES) {
        if swarm.view().node(node_id(n)).is_none() {
            swarm.add_node(n);
        }
        swarm.set_state(n, NodeState::Ready);
        swarm.set_availability(n, Availability::Active);
    }
    let ids: Vec<_> = swarm.view().services().map(|service| service.id).collect();
    for id in &ids {
        let name = swarm.view().service(*id).unwrap().spec.name.clone();
        swarm.update(*id, simple(&name, "ok", 4));
    }
    swarm.seconds(300);
    for id in ids {
        let expect: Vec<(u64, String)> = (1..=4).map(|slot| (slot, "ok".to_owned())).collect();
        let mut images = swarm.images(id);
        assert_eq!(images.len(), 4, "{images:?}");
        // Slots may have kept other numbers.
        images.iter_mut().zip(&expect).for_each(|(image, expect)| image.0 = expect.0);
        assert_eq!(images, expect);
        assert!(swarm.tasks(id).len() <= 4 * 5);
    }
}
