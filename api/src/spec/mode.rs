//! Which kind of service.

use serde::{Deserialize, Serialize};

use super::Extra;
use crate::TaskState;

/// Which kind of service, as written: one of them, replicated when there is none.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ServiceMode {
    /// A number of tasks, anywhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicated: Option<Replicated>,
    /// A task on each node. Its empty object asks for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub global: Option<Global>,
    /// Tasks that come to an end, so many times.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicated_job: Option<ReplicatedJob>,
    /// A task that comes to an end, once on each node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub global_job: Option<Global>,
    /// Unknown keys.
    #[serde(flatten)]
    pub extra: Extra,
}

/// A number of tasks.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Replicated {
    /// 1 when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicas: Option<u64>,
    /// Unknown keys.
    #[serde(flatten)]
    pub extra: Extra,
}

/// A task on each node.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Global {
    /// Unknown keys.
    #[serde(flatten)]
    pub extra: Extra,
}

/// Tasks that come to an end.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ReplicatedJob {
    /// At the same time; 1 when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_concurrent: Option<u64>,
    /// In all; as many as at the same time when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_completions: Option<u64>,
    /// Unknown keys.
    #[serde(flatten)]
    pub extra: Extra,
}

/// Which kind of service, with defaults filled in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// A number of tasks, in slots 1..=n.
    Replicated {
        /// How many.
        replicas: u64,
    },
    /// A task on each node.
    Global,
    /// Tasks that come to an end, in slots 0..total.
    ReplicatedJob {
        /// At the same time.
        concurrent: u64,
        /// In all.
        total: u64,
    },
    /// A task that comes to an end, once on each node.
    GlobalJob,
}

impl Mode {
    /// Docker's word, as its filters use it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Replicated { .. } => "replicated",
            Self::Global => "global",
            Self::ReplicatedJob { .. } => "replicated-job",
            Self::GlobalJob => "global-job",
        }
    }

    /// Whether its tasks are to come to an end.
    #[must_use]
    pub fn is_job(self) -> bool {
        match self {
            Self::ReplicatedJob { .. } | Self::GlobalJob => true,
            Self::Replicated { .. } | Self::Global => false,
        }
    }

    /// Whether its seats are the nodes.
    #[must_use]
    pub fn is_global(self) -> bool {
        match self {
            Self::Global | Self::GlobalJob => true,
            Self::Replicated { .. } | Self::ReplicatedJob { .. } => false,
        }
    }

    /// Where we want its tasks to come to.
    #[must_use]
    pub fn goal(self) -> TaskState {
        if self.is_job() { TaskState::Complete } else { TaskState::Running }
    }
}

impl ServiceMode {
    /// What is written, with defaults filled in. Of several the first counts; `validate` refuses them.
    #[must_use]
    pub fn read(&self) -> Mode {
        if let Some(replicated) = &self.replicated {
            Mode::Replicated { replicas: replicated.replicas.unwrap_or(1) }
        } else if self.global.is_some() {
            Mode::Global
        } else if let Some(job) = &self.replicated_job {
            let concurrent = job.max_concurrent.unwrap_or(1);
            Mode::ReplicatedJob { concurrent, total: job.total_completions.unwrap_or(concurrent) }
        } else if self.global_job.is_some() {
            Mode::GlobalJob
        } else {
            Mode::Replicated { replicas: 1 }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::{json::parse, spec::ServiceSpec};

    use super::*;

    #[track_caller]
    fn check(mode: &str, expect: Mode) {
        let body = format!(r#"{{"Name":"a","Mode":{mode}}}"#);
        let spec: ServiceSpec = parse(body.as_bytes()).unwrap();
        assert_eq!(spec.mode(), expect, "{mode}");
        // As it came in: an empty object asks for its mode.
        let again = serde_json::to_value(&spec).unwrap();
        assert_eq!(again["Mode"], serde_json::from_str::<serde_json::Value>(mode).unwrap());
    }

    #[test]
    fn modes_are_read_and_go_out_as_they_came() {
        check("{}", Mode::Replicated { replicas: 1 });
        check(r#"{"Replicated":{"Replicas":3}}"#, Mode::Replicated { replicas: 3 });
        check(r#"{"Replicated":{}}"#, Mode::Replicated { replicas: 1 });
        check(r#"{"Global":{}}"#, Mode::Global);
        check(r#"{"GlobalJob":{}}"#, Mode::GlobalJob);
        check(r#"{"ReplicatedJob":{}}"#, Mode::ReplicatedJob { concurrent: 1, total: 1 });
        check(r#"{"ReplicatedJob":{"MaxConcurrent":2}}"#, Mode::ReplicatedJob { concurrent: 2, total: 2 });
        check(
            r#"{"ReplicatedJob":{"MaxConcurrent":2,"TotalCompletions":7}}"#,
            Mode::ReplicatedJob { concurrent: 2, total: 7 },
        );
        assert_eq!(ServiceSpec::default().mode(), Mode::Replicated { replicas: 1 });
        assert_eq!((Mode::GlobalJob.goal(), Mode::Global.goal()), (TaskState::Complete, TaskState::Running));
    }
}
