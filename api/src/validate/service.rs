//! A service as a whole: its name, its mode, and then its parts.

use super::{endpoint::endpoint, field, labels::labels, network, not_honoured, task::task, update::update};
use crate::{ApiError, spec::ServiceSpec};

/// Longest name of a service.
pub const NAME_CHARS_MAX: usize = 63;

/// Most replicas of one service: a limit so that a typo does not fill the store.
pub const REPLICAS_MAX: u64 = 100_000;

/// Checks a service's spec for creation or update.
///
/// # Errors
/// Names the first field that is wrong, or that asks for what is not honoured yet.
pub fn service(spec: &ServiceSpec) -> Result<(), ApiError> {
    service_name(&spec.name)?;
    labels(spec)?;
    mode(spec)?;
    task(&spec.task_template)?;
    network::attachments(spec)?;
    update(spec.update_config.as_ref(), "UpdateConfig", &["pause", "continue", "rollback"])?;
    // A rollback that fails is never rolled back.
    update(spec.rollback_config.as_ref(), "RollbackConfig", &["pause", "continue"])?;
    endpoint(spec)
}

pub(super) fn service_name(name: &str) -> Result<(), ApiError> {
    if name.is_empty() {
        return Err(ApiError::invalid("Name: meta: name must be provided"));
    }
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    let valid = edge(name.chars().next())
        && edge(name.chars().next_back())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
    if !valid {
        return Err(ApiError::invalid(format!("Name '{name}': name must be valid as a DNS name component")));
    }
    if name.len() > NAME_CHARS_MAX {
        return Err(ApiError::invalid(format!("Name: name must be {NAME_CHARS_MAX} characters or fewer")));
    }
    Ok(())
}

fn mode(spec: &ServiceSpec) -> Result<(), ApiError> {
    let Some(mode) = &spec.mode else { return Ok(()) };
    // An empty object asks for the mode, so these are not looked at as zero values.
    for (key, asked) in [
        ("Global", mode.global.is_some()),
        ("ReplicatedJob", mode.replicated_job.is_some()),
        ("GlobalJob", mode.global_job.is_some()),
    ] {
        if asked {
            return Err(not_honoured(&field("Mode", key), ""));
        }
    }
    if spec.replicas() > REPLICAS_MAX {
        return Err(ApiError::invalid(format!("Mode.Replicated.Replicas: at most {REPLICAS_MAX}")));
    }
    Ok(())
}
