//! What users ask for: services and jobs of all modes, with all that says how they are placed, restarted and updated.

use serde_json::{Value, json};
use skep_api::object::Service;
use skep_api::spec::{Mode, ServiceSpec};

use super::world::World;

/// What a write left in the spec: no other one of this simulation has its number.
const LABEL: &str = "write";
pub(crate) const REPLICAS_MAX: u64 = 4;
/// The port of the first user's service; each has the next one. Of their nodes' own ports the same.
pub(crate) const FIRST_PORT: u64 = 8001;
const FIRST_HOST_PORT: u64 = 9001;
/// What the images do: see the simulated machine.
const IMAGES: [&str; 11] =
    ["ok:1", "ok:2", "ok:3", "ok:1", "ok:2", "ok:3", "stubborn:1", "bad:1", "missing:1", "done:1", "flaky:1"];
const JOB_IMAGES: [&str; 8] =
    ["done:1", "done:2", "done:3", "flaky:1", "flaky:2", "bad:1", "missing:1", "ok:1"];
/// What is reserved at most by what is to fit in the end, and the nodes' label that constraints look at.
const CPU_SMALL: i64 = 100_000_000;
pub(crate) const ZONE: &str = "zone";

/// Which kind of service.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Replicated,
    Global,
    ReplicatedJob,
    GlobalJob,
}

impl Kind {
    const ALL: [Kind; 8] = [
        Kind::Replicated,
        Kind::Replicated,
        Kind::Replicated,
        Kind::Replicated,
        Kind::Global,
        Kind::Global,
        Kind::ReplicatedJob,
        Kind::GlobalJob,
    ];

    pub(crate) fn some(world: &World) -> Kind {
        world.pick(&Kind::ALL)
    }

    pub(crate) fn of(spec: &ServiceSpec) -> Kind {
        match spec.mode() {
            Mode::Replicated { .. } => Kind::Replicated,
            Mode::Global => Kind::Global,
            Mode::ReplicatedJob { .. } => Kind::ReplicatedJob,
            Mode::GlobalJob => Kind::GlobalJob,
        }
    }

    fn is_job(self) -> bool {
        matches!(self, Kind::ReplicatedJob | Kind::GlobalJob)
    }

    fn mode(self, n: u64, total: u64) -> Value {
        match self {
            Kind::Replicated => json!({ "Replicated": { "Replicas": n } }),
            Kind::Global => json!({ "Global": {} }),
            Kind::ReplicatedJob => {
                json!({ "ReplicatedJob": { "MaxConcurrent": n, "TotalCompletions": total } })
            }
            Kind::GlobalJob => json!({ "GlobalJob": {} }),
        }
    }

    /// An image that does what such a service is for.
    fn good_image(self) -> &'static str {
        if self.is_job() { "done" } else { "ok" }
    }
}

/// Which write a spec is of.
pub(crate) fn number_of(spec: &ServiceSpec) -> u64 {
    spec.labels.as_ref().and_then(|labels| labels.get(LABEL)).map_or(0, |number| number.parse().unwrap())
}

/// A spec that is the write `number`: nothing special is asked for. What is odd replaces two at a time.
pub(crate) fn plain(name: &str, number: u64, image: &str, replicas: u64, port: u64) -> ServiceSpec {
    let spec = json!({
        "Name": name,
        "Labels": { LABEL: number.to_string() },
        "TaskTemplate": {
            "ContainerSpec": { "Image": image, "StopGracePeriod": 1_000_000_000_u64 },
            "RestartPolicy": { "Condition": "any", "Delay": 500_000_000_u64 },
        },
        "Mode": Kind::Replicated.mode(replicas, 0),
        "UpdateConfig": {
            "Parallelism": 1 + number % 2,
            "FailureAction": "pause",
            "Monitor": 1_000_000_000_u64,
            "Order": if number % 4 == 2 { "start-first" } else { "stop-first" },
        },
        "EndpointSpec": { "Ports": ports(port, 0) },
    });
    serde_json::from_value(spec).unwrap()
}

/// The same, of which an update that fails goes back by itself, two at a time.
pub(crate) fn that_rolls_back(name: &str, number: u64, image: &str, replicas: u64) -> ServiceSpec {
    let mut spec = serde_json::to_value(plain(name, number, image, replicas, 0)).unwrap();
    spec["UpdateConfig"]["FailureAction"] = json!("rollback");
    spec["RollbackConfig"] = json!({ "Parallelism": 2, "Monitor": 500_000_000_u64 });
    serde_json::from_value(spec).unwrap()
}

/// What is sure to run, of the kind that a service is.
pub(crate) fn good(name: &str, number: u64, kind: Kind) -> ServiceSpec {
    let image = format!("{}:9", kind.good_image());
    let spec = plain(name, number, &image, 2, 0);
    in_kind(spec, kind, kind.mode(2, 3))
}

fn in_kind(spec: ServiceSpec, kind: Kind, mode: Value) -> ServiceSpec {
    let update_config = spec.update_config.filter(|_| !kind.is_job());
    ServiceSpec { mode: serde_json::from_value(mode).unwrap(), update_config, ..spec }
}

fn ports(port: u64, host: u64) -> Value {
    let mut ports = Vec::new();
    if port != 0 {
        ports.push(json!({ "TargetPort": 80, "PublishedPort": port }));
    }
    if host != 0 {
        ports.push(json!({ "TargetPort": 81, "PublishedPort": host, "PublishMode": "host" }));
    }
    json!(ports)
}

/// Anything that the user `user` may ask for.
pub(crate) fn any(world: &World, user: u64, name: &str, number: u64, kind: Kind) -> ServiceSpec {
    let image = if kind.is_job() { world.pick(&JOB_IMAGES) } else { world.pick(&IMAGES) };
    // Half of them publish a port, and now and then one that is another's.
    let port = world.pick(&[0, FIRST_PORT - 1 + user, FIRST_PORT - 1 + user, FIRST_PORT]);
    let host = if kind == Kind::Global { world.pick(&[0, FIRST_HOST_PORT - 1 + user]) } else { 0 };
    let (n, total) = (1 + world.below(REPLICAS_MAX), 1 + world.below(5));
    let mut labels = json!({ LABEL: number.to_string() });
    if kind == Kind::Replicated && world.below(5) == 0 {
        labels["skep.rebalance"] = json!("30");
    }
    let spec = json!({
        "Name": name,
        "Labels": labels,
        "TaskTemplate": {
            "ContainerSpec": { "Image": image, "StopGracePeriod": 1_000_000_000_u64 },
            "RestartPolicy": {
                "Condition": world.pick(&["any", "any", "on-failure", "none"]),
                "Delay": millis(world, &[0, 500, 500, 1000]),
                "MaxAttempts": world.pick(&[0, 0, 1, 3]),
            },
            "Placement": placement(world),
            "Resources": { "Reservations": {
                "NanoCPUs": world.pick(&[0, 0, CPU_SMALL, CPU_SMALL, 10 * CPU_SMALL, 15 * CPU_SMALL]),
            } },
            "ForceUpdate": world.below(3),
        },
        "Mode": kind.mode(n, total),
        "UpdateConfig": update(world, &["rollback", "rollback", "pause", "continue"]),
        "RollbackConfig": update(world, &["pause", "continue"]),
        "EndpointSpec": { "Ports": ports(port, host) },
    });
    let spec: ServiceSpec = serde_json::from_value(spec).unwrap();
    in_kind(spec, kind, kind.mode(n, total))
}

fn placement(world: &World) -> Value {
    let constraints = match world.below(6) {
        0 => json!([format!("node.labels.{ZONE}==a")]),
        1 => json!([format!("node.labels.{ZONE}!=a")]),
        _ => json!([]),
    };
    let over = json!({ "Spread": { "SpreadDescriptor": format!("node.labels.{ZONE}") } });
    let preferences = if world.below(4) == 0 { json!([over]) } else { json!([]) };
    json!({
        "Constraints": constraints,
        "Preferences": preferences,
        "MaxReplicas": world.pick(&[0, 0, 0, 1, 2, 4]),
    })
}

fn update(world: &World, actions: &[&str]) -> Value {
    json!({
        "Parallelism": world.below(4),
        "Delay": millis(world, &[0, 0, 200, 1000]),
        "FailureAction": world.pick(actions),
        "Monitor": millis(world, &[300, 1000, 2000]),
        "MaxFailureRatio": world.pick(&[0.0, 0.0, 0.3]),
        "Order": world.pick(&["stop-first", "start-first"]),
    })
}

/// One of these spans, as the API has it.
fn millis(world: &World, of: &[u64]) -> u64 {
    world.pick(of) * 1_000_000
}

/// Whether a service can come to what it asks for, once all nodes take tasks and each constraint holds for some.
pub(crate) fn can_be(service: &Service, user: u64) -> bool {
    let spec = &service.spec;
    let good = Kind::of(spec).good_image();
    let runs = spec.container().is_some_and(|container| container.image.starts_with(good));
    // Two may ask for a port at one moment: one has it then, and the other's tasks wait until it asks for none.
    let is_anothers =
        user != 1 && spec.ports().iter().any(|port| u64::from(port.published_port) == FIRST_PORT);
    let max = spec.task_template.max_replicas();
    let has_room = spec.task_template.reservations().0 <= CPU_SMALL && (max == 0 || max >= REPLICAS_MAX);
    runs && !is_anothers && has_room && !service.is_update_paused()
}
