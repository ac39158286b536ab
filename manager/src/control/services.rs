//! Writes on services.

use std::sync::Arc;

use skep_api::{
    ApiError, ErrorKind, ServiceId, Timestamp,
    id::IdSource,
    object::{Service, UpdateState, UpdateStatus},
    spec::{PortConfig, ServiceSpec},
    validate,
};
use skep_store::{Change, Guard, GuardKind, View};

use super::{Control, CreatedService, invalid_argument, mode_name, out_of_sequence};
use crate::SystemIds;

impl Control {
    /// Creates a service. Its tasks come with the leader's next pass.
    ///
    /// # Errors
    /// The spec is wrong or asks for what is not honoured; the name or a port is taken; no leader.
    pub async fn create_service(&self, spec: ServiceSpec) -> Result<CreatedService, ApiError> {
        validate::service(&spec)?;
        let view = self.view().await?;
        if view.service_by_name(&spec.name).is_some() {
            let words =
                format!("name conflicts with an existing object: service {} already exists", spec.name);
            return Err(ApiError::new(ErrorKind::AlreadyExists, words));
        }
        let id = ServiceId(SystemIds::default().next_id());
        check_ports(&view, &spec, id)?;
        let service = Service { id, spec: Arc::new(spec), ..Service::default() };
        let guard = Guard { kind: GuardKind::Service, id: id.0, version: 0 };
        self.write(vec![guard], vec![Change::PutService(Arc::new(service))]).await?;
        Ok(CreatedService { id, warnings: Vec::new() })
    }

    /// Updates a service from the version that the caller has seen; `None` rolls back to the previous spec.
    ///
    /// # Errors
    /// As for creation; a stale version; a changed name or mode; nothing to roll back to.
    pub async fn update_service(
        &self,
        id: ServiceId,
        version: u64,
        spec: Option<ServiceSpec>,
    ) -> Result<Vec<String>, ApiError> {
        if let Some(spec) = &spec {
            validate::service(spec)?;
        }
        let view = self.view().await?;
        let old = view.service(id).ok_or_else(|| ApiError::not_found(format!("service {id} not found")))?;
        if old.meta.version != version {
            return Err(out_of_sequence());
        }
        let new = match spec {
            Some(spec) => updated(old, spec)?,
            None => rolled_back(old, Timestamp((self.shared.clock)()))?,
        };
        check_ports(&view, &new.spec, id)?;
        let guard = Guard { kind: GuardKind::Service, id: id.0, version };
        self.write(vec![guard], vec![Change::PutService(Arc::new(new))]).await?;
        Ok(Vec::new())
    }

    /// Removes a service; its tasks are stopped and removed by the leader.
    ///
    /// # Errors
    /// No such service; no leader.
    pub async fn remove_service(&self, id: ServiceId) -> Result<(), ApiError> {
        let view = self.view().await?;
        if view.service(id).is_none() {
            return Err(ApiError::not_found(format!("service {id} not found")));
        }
        self.write(Vec::new(), vec![Change::DeleteService(id)]).await
    }
}

fn updated(old: &Service, spec: ServiceSpec) -> Result<Service, ApiError> {
    if spec.name != old.spec.name {
        return Err(ApiError::new(ErrorKind::Unimplemented, "renaming services is not supported"));
    }
    if mode_name(&spec) != mode_name(&old.spec) {
        return Err(ApiError::new(ErrorKind::Unimplemented, "service mode change is not allowed"));
    }
    Ok(Service {
        spec: Arc::new(spec),
        previous_spec: Some(Arc::clone(&old.spec)),
        previous_spec_version: old.spec_version,
        update_status: None,
        ..old.clone()
    })
}

/// Swaps the two specs, so that a second rollback undoes the first (`SK:manager/controlapi/service.go`).
fn rolled_back(old: &Service, now: Timestamp) -> Result<Service, ApiError> {
    let Some(previous) = &old.previous_spec else {
        let words = format!("service {} does not have a previous spec", old.spec.name);
        return Err(ApiError::new(
            ErrorKind::FailedPrecondition,
            format!("rpc error: code = FailedPrecondition desc = {words}"),
        ));
    };
    Ok(Service {
        spec: Arc::clone(previous),
        previous_spec: Some(Arc::clone(&old.spec)),
        previous_spec_version: old.spec_version,
        update_status: Some(UpdateStatus {
            state: UpdateState::RollbackStarted,
            started_at: now,
            completed_at: None,
            message: "manually requested rollback".to_owned(),
        }),
        ..old.clone()
    })
}

/// A port that another service has is refused with its owner's name, before anything is written; the
/// store's guard catches what comes between.
fn check_ports(view: &View, spec: &ServiceSpec, id: ServiceId) -> Result<(), ApiError> {
    for port in spec.ports().iter().filter(|port| port.is_ingress() && port.published_port != 0) {
        if let Some(owner) =
            view.port_owner(port.protocol(), port.published_port).filter(|owner| *owner != id)
        {
            return Err(taken(view, port, owner));
        }
        // A port that was asked for but is not allocated yet belongs to its service all the same.
        let asked = view
            .services()
            .find(|other| other.id != id && other.spec.ports().iter().any(|theirs| clashes(theirs, port)));
        if let Some(other) = asked {
            return Err(taken(view, port, other.id));
        }
    }
    Ok(())
}

fn clashes(theirs: &PortConfig, ours: &PortConfig) -> bool {
    theirs.is_ingress()
        && theirs.protocol() == ours.protocol()
        && theirs.published_port == ours.published_port
}

fn taken(view: &View, port: &PortConfig, owner: ServiceId) -> ApiError {
    ApiError::invalid(invalid_argument(&view.port_taken(port, owner)))
}
