//! Services and how their updates go.

use std::sync::Arc;

use super::{Malformed, from_json, json, malformed, ports_in, ports_out};
use crate::{
    Secret, ServiceId, Timestamp,
    object::{JobRun, PastSpec, Service, UpdateState, UpdateStatus},
    wire,
};

impl From<&UpdateStatus> for wire::UpdateStatus {
    fn from(status: &UpdateStatus) -> Self {
        Self {
            state: status.state.as_str().to_owned(),
            started_at: status.started_at.0,
            completed_at: status.completed_at.map_or(0, |at| at.0),
            message: status.message.clone(),
            slots: status.slots,
            failed: status.failed,
            paused_by_user: status.paused_by_user,
        }
    }
}

impl TryFrom<wire::UpdateStatus> for UpdateStatus {
    type Error = Malformed;

    fn try_from(status: wire::UpdateStatus) -> Result<Self, Malformed> {
        let state = UpdateState::ALL
            .into_iter()
            .find(|state| state.as_str() == status.state)
            .ok_or_else(|| malformed("service", format!("update state '{}'", status.state)))?;
        Ok(Self {
            state,
            started_at: Timestamp(status.started_at),
            completed_at: (status.completed_at != 0).then_some(Timestamp(status.completed_at)),
            message: status.message,
            slots: status.slots,
            failed: status.failed,
            paused_by_user: status.paused_by_user,
        })
    }
}

impl From<&Service> for wire::Service {
    fn from(service: &Service) -> Self {
        Self {
            id: service.id.to_bytes(),
            meta: Some(service.meta.into()),
            spec: json(&*service.spec),
            previous_spec: service.previous_spec.as_deref().map(json).unwrap_or_default(),
            spec_version: service.spec_version,
            previous_spec_version: service.previous_spec_version,
            ports: ports_out(&service.ports),
            update_status: service.update_status.as_ref().map(Into::into),
            registry_auth: service.registry_auth.reveal().to_vec(),
            previous_registry_auth: service.previous_registry_auth.reveal().to_vec(),
            updates: service.updates,
            job_iteration: service.job_iteration,
            last_execution: service.last_execution.0,
            history: service.history.iter().map(Into::into).collect(),
            runs: service.runs.iter().map(Into::into).collect(),
            cron_last: service.cron_last.0,
            balance_asked: service.balance_asked.0,
            auth_version: service.auth_version,
        }
    }
}

impl TryFrom<wire::Service> for Service {
    type Error = Malformed;

    fn try_from(service: wire::Service) -> Result<Self, Malformed> {
        let previous_spec = if service.previous_spec.is_empty() {
            None
        } else {
            Some(Arc::new(from_json("service", &service.previous_spec)?))
        };
        Ok(Self {
            id: ServiceId::from_bytes(&service.id).ok_or_else(|| malformed("service", "id"))?,
            meta: service.meta.unwrap_or_default().into(),
            spec: Arc::new(from_json("service", &service.spec)?),
            previous_spec,
            spec_version: service.spec_version,
            previous_spec_version: service.previous_spec_version,
            ports: ports_in(service.ports).into(),
            update_status: service.update_status.map(TryInto::try_into).transpose()?,
            registry_auth: Secret::new(service.registry_auth),
            previous_registry_auth: Secret::new(service.previous_registry_auth),
            updates: service.updates,
            job_iteration: service.job_iteration,
            last_execution: Timestamp(service.last_execution),
            history: service.history.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
            runs: service.runs.into_iter().map(JobRun::from).collect(),
            cron_last: Timestamp(service.cron_last),
            balance_asked: Timestamp(service.balance_asked),
            auth_version: service.auth_version,
        })
    }
}

impl From<&PastSpec> for wire::PastSpec {
    fn from(past: &PastSpec) -> Self {
        Self {
            spec: json(&*past.spec),
            spec_version: past.spec_version,
            registry_auth: past.registry_auth.reveal().to_vec(),
            at: past.at.0,
        }
    }
}

impl TryFrom<wire::PastSpec> for PastSpec {
    type Error = Malformed;

    fn try_from(past: wire::PastSpec) -> Result<Self, Malformed> {
        Ok(Self {
            spec: Arc::new(from_json("service", &past.spec)?),
            spec_version: past.spec_version,
            registry_auth: Secret::new(past.registry_auth),
            at: Timestamp(past.at),
        })
    }
}

impl From<&JobRun> for wire::JobRun {
    fn from(run: &JobRun) -> Self {
        Self {
            iteration: run.iteration,
            started: run.started.0,
            ended: run.ended.0,
            completed: run.completed,
            failed: run.failed,
        }
    }
}

impl From<wire::JobRun> for JobRun {
    fn from(run: wire::JobRun) -> Self {
        Self {
            iteration: run.iteration,
            started: Timestamp(run.started),
            ended: Timestamp(run.ended),
            completed: run.completed,
            failed: run.failed,
        }
    }
}
