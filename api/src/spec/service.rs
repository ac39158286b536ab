//! `ServiceSpec`: a service as the user wants it.

use serde::{Deserialize, Serialize};

use crate::NetworkId;

use super::{
    ContainerSpec, EndpointSpec, Extra, Labels, Mode, NetworkAttachment, PortConfig, Replicated, ServiceMode,
    TaskSpec, UpdateConfig, UpdateSettings,
};

/// A service as the user wants it.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ServiceSpec {
    /// Unique, `^[a-zA-Z0-9](?:[-_]*[A-Za-z0-9]+)*$`, at most 63 characters.
    pub name: String,
    /// Of the service, not of its containers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<Labels>,
    /// What each task runs.
    pub task_template: TaskSpec,
    /// How many tasks; replicated with one when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<ServiceMode>,
    /// How a change of the template rolls out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub update_config: Option<Box<UpdateConfig>>,
    /// How a rollback rolls out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rollback_config: Option<Box<UpdateConfig>>,
    /// Published ports.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint_spec: Option<Box<EndpointSpec>>,
    /// The old place of the template's networks: counts when that has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub networks: Option<Vec<NetworkAttachment>>,
    /// Everything else.
    #[serde(flatten)]
    pub extra: Extra,
}

impl ServiceSpec {
    /// Which kind of service it is, with defaults filled in.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode.as_ref().map_or(Mode::Replicated { replicas: 1 }, ServiceMode::read)
    }

    /// Tasks wanted of a replicated service (Swarm's default is 1).
    #[must_use]
    pub fn replicas(&self) -> u64 {
        self.mode.as_ref().and_then(|mode| mode.replicated.as_ref()).and_then(|r| r.replicas).unwrap_or(1)
    }

    /// Spells out what Docker fills in when it takes a service in: one replica where no number is given, the numbers
    /// of a job, the type of a mount; and Go's zero for how many slots an update takes at once, where it has settings
    /// and not this one. (A stored spec that lacks the number is older than this, and means one.)
    pub fn fill_in(&mut self) {
        let mode = self.mode.get_or_insert_with(|| ServiceMode {
            replicated: Some(Replicated::default()),
            ..ServiceMode::default()
        });
        if let Some(replicated) = &mut mode.replicated {
            replicated.replicas.get_or_insert(1);
        }
        if let Some(job) = &mut mode.replicated_job {
            let concurrent = *job.max_concurrent.get_or_insert(1);
            job.total_completions.get_or_insert(concurrent);
        }
        for config in self.update_config.iter_mut().chain(&mut self.rollback_config) {
            config.parallelism.get_or_insert(0);
        }
        let container = self.task_template.container_spec.as_mut();
        for mount in container.and_then(|container| container.mounts.as_mut()).into_iter().flatten() {
            mount.kind = mount.kind();
        }
    }

    /// The container part of the template.
    #[must_use]
    pub fn container(&self) -> Option<&ContainerSpec> {
        self.task_template.container_spec.as_ref()
    }

    /// Ports as asked for; empty when none.
    #[must_use]
    pub fn ports(&self) -> &[PortConfig] {
        self.endpoint_spec.as_ref().and_then(|e| e.ports.as_deref()).unwrap_or(&[])
    }

    /// The networks that its tasks are on; empty when none.
    #[must_use]
    pub fn networks(&self) -> &[NetworkAttachment] {
        match self.task_template.networks.as_deref() {
            Some(own) if !own.is_empty() => own,
            _ => self.networks.as_deref().unwrap_or(&[]),
        }
    }

    /// The networks that its tasks are on, by id: stored specs name them so.
    pub fn network_ids(&self) -> impl Iterator<Item = NetworkId> {
        self.networks().iter().filter_map(|attachment| attachment.target.parse().ok())
    }

    /// Both lists of networks, to name them otherwise.
    pub fn networks_mut(&mut self) -> impl Iterator<Item = &mut NetworkAttachment> {
        self.task_template.networks.iter_mut().chain(self.networks.iter_mut()).flatten()
    }

    /// The update's settings with Swarm's defaults filled in.
    #[must_use]
    pub fn update(&self) -> UpdateSettings {
        UpdateSettings::of(self.update_config.as_deref())
    }

    /// The rollback's settings with Swarm's defaults filled in.
    #[must_use]
    pub fn rollback(&self) -> UpdateSettings {
        UpdateSettings::of(self.rollback_config.as_deref())
    }
}
