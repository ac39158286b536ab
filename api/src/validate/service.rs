//! A service as a whole: its name, its mode, and then its parts.

use super::{endpoint::endpoint, labels::labels, network, task::task, update::update};
use crate::{ApiError, spec::ServiceSpec};

/// Longest name of a service.
pub const NAME_CHARS_MAX: usize = 63;

/// Most replicas of one service, and most completions of a job: a limit so that a typo does not fill the store.
pub const REPLICAS_MAX: u64 = 100_000;
/// What is too much.
const REPLICAS_AND_MORE: u64 = REPLICAS_MAX + 1;

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
    update(spec.update_config.as_deref(), "UpdateConfig", &["pause", "continue", "rollback"])?;
    // A rollback that fails is never rolled back.
    update(spec.rollback_config.as_deref(), "RollbackConfig", &["pause", "continue"])?;
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

/// One mode, with numbers that a store can hold (`SK:manager/controlapi/service.go:validateMode`).
fn mode(spec: &ServiceSpec) -> Result<(), ApiError> {
    let Some(mode) = &spec.mode else { return Ok(()) };
    // An empty object asks for the mode.
    let asked = [
        mode.replicated.is_some(),
        mode.global.is_some(),
        mode.replicated_job.is_some(),
        mode.global_job.is_some(),
    ];
    if asked.into_iter().filter(|asked| *asked).count() > 1 {
        return Err(ApiError::invalid("Mode: must specify only one service mode"));
    }
    if spec.mode().is_job() && spec.update_config.is_some() {
        return Err(invalid_argument("UpdateConfig: Jobs may not have an update config"));
    }
    let number = |path: &str, n: Option<u64>, negative: &str| match n.unwrap_or(0) {
        // Clients cast what is below zero.
        n if i64::try_from(n).is_err() => Err(invalid_argument(&format!("{path}: {negative}"))),
        REPLICAS_AND_MORE.. => Err(ApiError::invalid(format!("{path}: at most {REPLICAS_MAX}"))),
        _ => Ok(()),
    };
    if let Some(replicated) = &mode.replicated {
        let words = "Number of replicas must be non-negative";
        number("Mode.Replicated.Replicas", replicated.replicas, words)?;
    }
    if let Some(job) = &mode.replicated_job {
        let path = "Mode.ReplicatedJob";
        let words = "Maximum concurrent jobs must not be negative";
        number(&format!("{path}.MaxConcurrent"), job.max_concurrent, words)?;
        let words = "Total completed jobs must not be negative";
        number(&format!("{path}.TotalCompletions"), job.total_completions, words)?;
    }
    Ok(())
}

/// Docker passes its control API's status on in the message.
fn invalid_argument(words: &str) -> ApiError {
    ApiError::invalid(format!("rpc error: code = InvalidArgument desc = {words}"))
}
