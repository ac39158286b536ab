//! A task as `GET /tasks` shows it: only what stories ask about.

use serde_json::Value;

/// One task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// The task's id.
    pub id: String,
    /// The slot, from 1.
    pub slot: u64,
    /// The id of the node that runs it; empty while it is pending.
    pub node_id: String,
    /// The observed state, in lower case.
    pub state: String,
    /// The desired state, in lower case.
    pub desired: String,
    /// The status message.
    pub message: String,
    /// The error, empty when there is none.
    pub err: String,
    /// The container's id; empty before it exists.
    pub container: String,
    /// The container's first process on this machine; 0 when none runs.
    pub pid: i64,
    /// The exit code of a container that has ended.
    pub exit_code: i64,
}

impl Task {
    /// Reads one element of `GET /tasks`.
    #[must_use]
    pub fn from_json(value: &Value) -> Self {
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        let status = &value["Status"];
        let container = &status["ContainerStatus"];
        Self {
            id: text(&value["ID"]),
            slot: value["Slot"].as_u64().unwrap_or_default(),
            node_id: text(&value["NodeID"]),
            state: text(&status["State"]),
            desired: text(&value["DesiredState"]),
            message: text(&status["Message"]),
            err: text(&status["Err"]),
            container: text(&container["ContainerID"]),
            pid: container["PID"].as_i64().unwrap_or_default(),
            exit_code: container["ExitCode"].as_i64().unwrap_or_default(),
        }
    }

    /// It runs and is meant to.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.state == "running" && self.desired == "running"
    }
}
