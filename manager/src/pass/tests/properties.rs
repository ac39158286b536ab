//! Random days in the life of a swarm, from seeds: the harness checks the invariants after each pass.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use skep_api::{
    ServiceId, TaskState,
    object::{NodeState, SeatKey, Task, TaskStatus},
    spec::{Availability, ServiceSpec},
};
use skep_store::Change;

use crate::control::services::{paused, resumed};

use super::harness::{Swarm, image, node_id, service_id, simple, with};

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

/// The mode of a service stays: of the first it is replicated, of the second global, the third is a job.
fn in_mode(spec: ServiceSpec, id: ServiceId, seed: u64) -> ServiceSpec {
    let mode = match (id.0.0, seed % 2) {
        (1, _) if seed.is_multiple_of(3) => return with(&spec, r#"{"Labels":{"skep.rebalance":"30"}}"#),
        (1, _) => return spec,
        (2, _) => r#"{"Global":{}}"#,
        (_, 0) => r#"{"GlobalJob":{}}"#,
        (..) => r#"{"ReplicatedJob":{"MaxConcurrent":2,"TotalCompletions":4}}"#,
    };
    ServiceSpec { mode: serde_json::from_str(mode).unwrap(), ..spec }
}

fn random_spec(name: &str, chance: &mut Chance) -> ServiceSpec {
    let image = ["ok", "ok2", "exit:1:700", "exit:0:3000", "private"];
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

/// Every other day services have priorities, and there is not enough for all.
fn ranked(spec: ServiceSpec, chance: &mut Chance, seed: u64) -> ServiceSpec {
    if seed.is_multiple_of(2) {
        return spec;
    }
    let patch = format!(
        r#"{{"TaskTemplate":{{"Resources":{{"Reservations":{{"NanoCPUs":{}}}}}}},
            "Labels":{{"skep.priority":"{}"}}}}"#,
        chance.below(5) * 1_000_000_000,
        chance.of(&["0", "0", "3", "7"]),
    );
    let spec = with(&spec, &patch);
    // One port of the nodes for all who ask for one.
    let port = r#"{"EndpointSpec":{"Ports":[{"TargetPort":80,"PublishedPort":80,"PublishMode":"host"}]}}"#;
    if chance.below(4) == 0 { with(&spec, port) } else { spec }
}

fn one_event(swarm: &mut Swarm, chance: &mut Chance, seed: u64) {
    let id = service_id(u128::from(chance.below(N_SERVICES) + 1));
    let node = u128::from(chance.below(N_NODES) + 1);
    let name = format!("s{id}");
    let service = swarm.view().service(id).cloned();
    match chance.below(15) {
        0..=2 => {
            let spec = in_mode(ranked(random_spec(&name, chance), chance, seed), id, seed);
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
        11 => end_one(swarm, id, chance),
        12 if service.is_some() => {
            // Twice, start-first: what once took over is itself taken over from.
            let spec = ranked(random_spec(&name, chance), chance, seed);
            let spec = with(&spec, r#"{"UpdateConfig":{"Order":"start-first"}}"#);
            for force in [7, 8] {
                let patch = format!(r#"{{"TaskTemplate":{{"ForceUpdate":{force}}}}}"#);
                swarm.update(id, in_mode(with(&spec, &patch), id, seed));
                swarm.run(Duration::from_millis(chance.below(3000)));
            }
        }
        13 if swarm.view().node(node_id(node)).is_some() => {
            // Drained for a moment.
            swarm.set_availability(node, Availability::Drain);
            swarm.run(Duration::from_millis(chance.below(2000)));
            swarm.set_availability(node, Availability::Active);
        }
        14 if service.is_some() => swarm.log_in(id, chance.of(&["a", "b"])),
        7 if swarm.view().node(node_id(node)).is_none() => swarm.add_node(node),
        7 if chance.below(4) == 0 => swarm.apply(vec![Change::DeleteNode(node_id(node))]),
        _ => {}
    }
}

/// One of the tasks that run ends by itself.
fn end_one(swarm: &mut Swarm, id: ServiceId, chance: &mut Chance) {
    let mut running = swarm.running(id);
    running.retain(|task| !task.node_id.is_some_and(|node| swarm.frozen.contains(&node)));
    let Some(n) = (running.len() as u64).checked_sub(1) else { return };
    let task = &running[usize::try_from(chance.below(n + 1)).unwrap()];
    let state = if chance.below(2) == 0 { TaskState::Failed } else { TaskState::Complete };
    let status = TaskStatus { state, timestamp: swarm.now, ..task.status.clone() };
    swarm.apply(vec![Change::TaskStatus(task.id, status)]);
}

/// So many days, or as many as `SKEP_DAYS` says.
fn n_days() -> u64 {
    std::env::var("SKEP_DAYS").map_or(25, |days| days.parse().expect("a number of days"))
}

#[test]
fn random_days_keep_the_invariants_and_heal() {
    for seed in 1..=n_days() {
        let mut chance = Chance(seed);
        let mut swarm = Swarm::new(u128::from(N_NODES));
        if seed % 4 == 1 {
            swarm.stop_time = Duration::from_millis(700);
        }
        for _ in 0..40 {
            one_event(&mut swarm, &mut chance, seed);
            swarm.run(Duration::from_millis(chance.below(4000)));
        }
        heal(&mut swarm, seed);
    }
}

/// Faults stop, all services ask for what can run: soon all of it runs, or has come to its end.
fn heal(swarm: &mut Swarm, seed: u64) {
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
        let image = if id.0.0 == 3 { "exit:0:300" } else { "ok" };
        let order = if seed.is_multiple_of(3) { "start-first" } else { "stop-first" };
        let patch = format!(r#"{{"UpdateConfig":{{"Order":"{order}"}}}}"#);
        swarm.update(*id, in_mode(with(&simple(&name, image, 4), &patch), *id, seed));
    }
    // So long counts a failure against its node.
    swarm.seconds(310);
    for id in ids {
        let service = swarm.view().service(id).cloned().unwrap();
        let tasks = swarm.tasks(id);
        assert!(tasks.len() <= 4 * 5);
        let is_there = |task: &&Arc<Task>| {
            if service.spec.mode().is_job() {
                task.status.state == TaskState::Complete && task.job_iteration() == service.job_iteration
            } else {
                task.is_runnable() && task.status.state == TaskState::Running && image(task) == "ok"
            }
        };
        let seats: BTreeSet<SeatKey> = tasks.iter().filter(is_there).map(|task| task.seat()).collect();
        assert_eq!(seats.len(), 4, "seed {seed}: {tasks:?}");
        let n_runnable = tasks.iter().filter(|task| task.is_runnable()).count();
        assert_eq!(n_runnable, if service.spec.mode().is_job() { 0 } else { 4 }, "seed {seed}");
        if service.moves_a_minute() > 0 {
            let spread = swarm.spread(service.id);
            assert!(spread.values().all(|n| *n == 1), "seed {seed}: {spread:?}");
        }
    }
}
