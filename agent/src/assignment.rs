//! Assignments as the agent uses them, and which sets of them it takes.
//!
//! Invariant: a set that is older than the newest one seen is never taken, and an increment only on
//! exactly what it applies to.

use std::{net::Ipv4Addr, sync::Arc, time::Duration};

use skep_api::{
    Secret, ServiceId, TaskId, TaskState, convert,
    object::GenericResource,
    spec::{ContainerSpec, PortConfig, STOP_GRACE_DEFAULT, TaskSpec},
    wire,
};

/// A task that this node was given.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Assignment {
    pub(crate) task: TaskId,
    pub(crate) service: ServiceId,
    pub(crate) service_name: String,
    pub(crate) slot: u64,
    /// What it runs, or why that cannot be read: the task is rejected with these words.
    pub(crate) spec: Result<Arc<TaskSpec>, String>,
    pub(crate) desired: TaskState,
    pub(crate) ports: Vec<PortConfig>,
    pub(crate) ingress: Option<Ipv4Addr>,
    /// What of the node's generic resources it has.
    pub(crate) given: Vec<GenericResource>,
    /// No node sends it new connections any more.
    pub(crate) drained: bool,
    /// How far the manager knows it to be.
    pub(crate) state: TaskState,
    /// `X-Registry-Auth` for pulling the image, or empty.
    pub(crate) registry_auth: Secret,
}

/// An assignment that names no task or no state that this build knows.
#[derive(Debug, thiserror::Error)]
#[error("malformed assignment: {0}")]
pub(crate) struct Malformed(&'static str);

impl Assignment {
    /// Reads one from the wire. A spec that cannot be read is kept as an error: its task must say so.
    pub(crate) fn read(from: &wire::Assignment) -> Result<Self, Malformed> {
        let state = |number| TaskState::from_number(number).ok_or(Malformed("unknown task state"));
        Ok(Self {
            task: TaskId::from_bytes(&from.task_id).ok_or(Malformed("task id"))?,
            service: ServiceId::from_bytes(&from.service_id).ok_or(Malformed("service id"))?,
            service_name: from.service_name.clone(),
            slot: from.slot,
            spec: serde_json::from_slice(&from.spec)
                .map(Arc::new)
                .map_err(|e| format!("the task's spec cannot be read: {e}")),
            desired: state(from.desired_state)?,
            ports: convert::ports_in(from.ports.clone()),
            ingress: (from.ingress_addr != 0).then(|| Ipv4Addr::from(from.ingress_addr)),
            given: convert::generic_in(from.given.clone()),
            drained: from.drained,
            state: state(from.state)?,
            registry_auth: Secret::new(from.registry_auth.clone()),
        })
    }

    /// As Docker names it: `service.slot.task`.
    pub(crate) fn name(&self, node: &str) -> String {
        format!("{}.{}.{}", self.service_name, self.slot_name(node), self.task)
    }

    /// Its slot, or the node where it has none (`SK:api/naming`); so it is for the first slot of a job, too.
    pub(crate) fn slot_name(&self, node: &str) -> String {
        if self.slot == 0 { node.to_owned() } else { self.slot.to_string() }
    }

    pub(crate) fn container(&self) -> Option<&ContainerSpec> {
        self.spec.as_ref().ok().and_then(|spec| spec.container_spec.as_ref())
    }

    /// Between the stop signal and SIGKILL.
    pub(crate) fn stop_grace(&self) -> Duration {
        self.container().map_or(STOP_GRACE_DEFAULT, ContainerSpec::stop_grace)
    }

    /// Whether other nodes may send it connections: its stop waits until they do not.
    pub(crate) fn is_in_mesh(&self) -> bool {
        self.ingress.is_some() && self.ports.iter().any(PortConfig::is_ingress)
    }

    pub(crate) fn has_host_ports(&self) -> bool {
        self.ports.iter().any(|port| !port.is_ingress())
    }

    /// What its program is to listen on.
    pub(crate) fn published_tcp_ports(&self) -> Vec<u16> {
        let tcp = self.ports.iter().filter(|port| port.protocol() == "tcp");
        tcp.map(|port| port.target_port).collect()
    }

    pub(crate) fn host_ports(&self) -> Vec<PortConfig> {
        self.ports.iter().filter(|port| !port.is_ingress()).cloned().collect()
    }
}

/// The assignment without what must not lie on this node's disk: the registry's credentials.
pub(crate) fn without_secrets(mut assignment: wire::Assignment) -> wire::Assignment {
    const KEY: &str = "PullOptions";
    assignment.registry_auth.clear();
    if !assignment.spec.windows(KEY.len()).any(|window| window.eq_ignore_ascii_case(KEY.as_bytes())) {
        return assignment;
    }
    let Ok(mut spec) = serde_json::from_slice::<serde_json::Value>(&assignment.spec) else {
        return assignment;
    };
    if let Some(container) = spec.get_mut("ContainerSpec").and_then(serde_json::Value::as_object_mut) {
        container.retain(|key, _| !key.eq_ignore_ascii_case(KEY));
    }
    assignment.spec = spec.to_string().into_bytes();
    assignment
}

/// What is wrong with a set: the session ends and another manager is asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SetRefused {
    #[error(
        "the manager's assignments are of revision {offered}, older than {seen} which this node has seen"
    )]
    Older { offered: u64, seen: u64 },
    #[error("the manager's assignments apply to revision {applies_to}, this node has {at:?}")]
    Gap { applies_to: u64, at: Option<u64> },
}

/// Where in the stream of assignment sets this agent is.
#[derive(Debug, Default)]
pub(crate) struct Position {
    /// The highest revision seen, over restarts.
    seen: u64,
    /// The revision of what was last taken in this session; increments build on it.
    at: Option<u64>,
}

impl Position {
    pub(crate) fn new(seen: u64) -> Self {
        Self { seen, at: None }
    }

    /// A new session starts with a complete set.
    pub(crate) fn reset(&mut self) {
        self.at = None;
    }

    pub(crate) fn seen(&self) -> u64 {
        self.seen
    }

    /// Whether the set is to be taken; then it counts as taken.
    pub(crate) fn take(&mut self, set: &wire::AssignmentSet) -> Result<(), SetRefused> {
        if set.results_in < self.seen {
            return Err(SetRefused::Older { offered: set.results_in, seen: self.seen });
        }
        if !set.complete && self.at != Some(set.applies_to) {
            return Err(SetRefused::Gap { applies_to: set.applies_to, at: self.at });
        }
        self.seen = set.results_in;
        self.at = Some(set.results_in);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(complete: bool, applies_to: u64, results_in: u64) -> wire::AssignmentSet {
        wire::AssignmentSet { complete, applies_to, results_in, ..Default::default() }
    }

    #[test]
    fn sets_are_taken_in_order_only() {
        let mut position = Position::new(10);
        let older = SetRefused::Older { offered: 9, seen: 10 };
        assert_eq!(position.take(&set(true, 0, 9)), Err(older));
        assert_eq!(position.take(&set(false, 10, 11)), Err(SetRefused::Gap { applies_to: 10, at: None }));
        assert_eq!(position.take(&set(true, 0, 10)), Ok(()));
        assert_eq!(position.take(&set(false, 10, 12)), Ok(()));
        assert_eq!(position.take(&set(false, 11, 13)), Err(SetRefused::Gap { applies_to: 11, at: Some(12) }));
        position.reset();
        assert_eq!(position.take(&set(false, 12, 13)), Err(SetRefused::Gap { applies_to: 12, at: None }));
        assert_eq!(position.seen(), 12);
    }

    #[test]
    fn registry_credentials_stay_off_the_disk() {
        let spec = br#"{"ContainerSpec":{"Image":"a","PullOptions":{"RegistryAuth":"c2VjcmV0"}}}"#;
        for spec in [spec.to_vec(), br#"{"ContainerSpec":{"Image":"a"}}"#.to_vec()] {
            let assignment =
                wire::Assignment { spec, registry_auth: b"secret".to_vec(), ..Default::default() };
            let kept = without_secrets(assignment);
            assert!(kept.registry_auth.is_empty());
            assert_eq!(String::from_utf8(kept.spec).unwrap(), r#"{"ContainerSpec":{"Image":"a"}}"#);
        }
    }

    #[test]
    fn what_names_no_task_is_refused_and_a_bad_spec_is_kept_as_an_error() {
        assert!(Assignment::read(&wire::Assignment::default()).is_err());
        let bad = wire::Assignment {
            task_id: vec![1; 16],
            service_id: vec![2; 16],
            spec: b"{".to_vec(),
            ..Default::default()
        };
        assert!(Assignment::read(&bad).unwrap().spec.is_err());
    }
}
