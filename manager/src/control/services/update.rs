//! What an update or a rollback makes of a service.

use std::sync::Arc;

use skep_api::{
    ApiError, ErrorKind, Timestamp,
    object::{Service, UpdateState, UpdateStatus},
    spec::ServiceSpec,
};

use super::RegistryAuth;

pub(super) fn no_previous_spec(service: &Service) -> ApiError {
    let words = format!("service {} does not have a previous spec", service.spec.name);
    ApiError::new(
        ErrorKind::FailedPrecondition,
        format!("rpc error: code = FailedPrecondition desc = {words}"),
    )
}

pub(super) fn updated(old: &Service, spec: ServiceSpec, auth: RegistryAuth) -> Result<Service, ApiError> {
    if spec.name != old.spec.name {
        return Err(ApiError::new(ErrorKind::Unimplemented, "renaming services is not supported"));
    }
    if spec.mode().as_str() != old.spec.mode().as_str() {
        return Err(ApiError::new(ErrorKind::Unimplemented, "service mode change is not allowed"));
    }
    Ok(Service {
        spec: Arc::new(spec),
        previous_spec: Some(Arc::clone(&old.spec)),
        previous_spec_version: old.spec_version,
        registry_auth: auth.of(old)?,
        previous_registry_auth: old.registry_auth.clone(),
        update_status: None,
        ..old.clone()
    })
}

/// Swaps the two specs, so that a second rollback undoes the first (`SK:manager/controlapi/service.go`).
pub(super) fn rolled_back(old: &Service, now: Timestamp) -> Result<Service, ApiError> {
    let Some(previous) = &old.previous_spec else {
        return Err(no_previous_spec(old));
    };
    Ok(Service {
        spec: Arc::clone(previous),
        previous_spec: Some(Arc::clone(&old.spec)),
        previous_spec_version: old.spec_version,
        registry_auth: old.previous_registry_auth.clone(),
        previous_registry_auth: old.registry_auth.clone(),
        update_status: Some(UpdateStatus::new(
            UpdateState::RollbackStarted,
            now,
            "manually requested rollback",
        )),
        ..old.clone()
    })
}
