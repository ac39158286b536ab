//! skep's own labels: what is asked for with them is known and well-formed, or refused.

use crate::{
    ApiError,
    spec::{Mode, SKEP_LABEL_PREFIX, Schedule, ServiceSpec, SkepLabel},
};

pub(super) fn labels(spec: &ServiceSpec) -> Result<(), ApiError> {
    let ours = spec.labels.iter().flatten().filter(|(key, _)| key.starts_with(SKEP_LABEL_PREFIX));
    for (key, value) in ours {
        let Some(label) = SkepLabel::find(key) else {
            let known = SkepLabel::keys().join(", ");
            return Err(ApiError::invalid(format!("Labels.{key}: skep has no such label; it has {known}")));
        };
        label
            .check(value)
            .map_err(|words| ApiError::invalid(format!("Labels.{key}: invalid value '{value}': {words}")))?;
    }
    of_the_container(spec)?;
    of_the_mode(spec)?;
    schedule(spec)
}

/// What is asked for there is read by nobody.
fn of_the_container(spec: &ServiceSpec) -> Result<(), ApiError> {
    let container = spec.task_template.container_spec.as_ref();
    let mut labels = container.and_then(|container| container.labels.as_ref()).into_iter().flatten();
    match labels.find(|(key, _)| key.starts_with(SKEP_LABEL_PREFIX)) {
        Some((key, _)) => Err(ApiError::invalid(format!(
            "TaskTemplate.ContainerSpec.Labels.{key}: does nothing there; take it out: it belongs into the service's \
             Labels (--label; in a compose file deploy.labels)"
        ))),
        None => Ok(()),
    }
}

/// What is asked for would be done for services of another mode, or without another label.
fn of_the_mode(spec: &ServiceSpec) -> Result<(), ApiError> {
    let useless = |label: SkepLabel| -> Option<&'static str> {
        let mode = spec.mode();
        match label {
            SkepLabel::Rebalance if !matches!(mode, Mode::Replicated { .. }) => {
                Some("only tasks of replicated services are moved")
            }
            SkepLabel::ProgressDeadline if mode.is_job() => {
                Some("a job has no update that goes task by task")
            }
            SkepLabel::Strategy | SkepLabel::SpreadWeight | SkepLabel::Soft if mode.is_global() => {
                Some("each task of a global service is for one node")
            }
            SkepLabel::SpreadWeight
                if spec.label(SkepLabel::Strategy) == Some("binpack")
                    && spec.task_template.spread().next().is_none() =>
            {
                Some("nodes that skep.strategy=binpack fills have no shares")
            }
            SkepLabel::ProgressDeadline
            | SkepLabel::UpdateHistory
            | SkepLabel::BackoffMax
            | SkepLabel::Rebalance
            | SkepLabel::Strategy
            | SkepLabel::SpreadWeight
            | SkepLabel::Soft
            | SkepLabel::Priority
            | SkepLabel::Cron
            | SkepLabel::CronZone
            | SkepLabel::CronOverlap
            | SkepLabel::CronHistory => None,
        }
    };
    let ours = spec.labels.iter().flatten().filter_map(|(key, _)| Some((key, SkepLabel::find(key)?)));
    for (key, label) in ours {
        if let Some(why) = useless(label) {
            return Err(ApiError::invalid(format!("Labels.{key}: does nothing here; take it out: {why}")));
        }
    }
    Ok(())
}

/// The labels of a schedule belong together, and to a job that is run by it.
fn schedule(spec: &ServiceSpec) -> Result<(), ApiError> {
    let Some(text) = spec.label(SkepLabel::Cron) else {
        let alone = [SkepLabel::CronZone, SkepLabel::CronOverlap, SkepLabel::CronHistory];
        return match alone.into_iter().find(|label| spec.label(*label).is_some()) {
            Some(label) => Err(ApiError::invalid(format!("Labels.{}: needs Labels.skep.cron", label.key()))),
            None => Ok(()),
        };
    };
    if !matches!(spec.mode(), Mode::ReplicatedJob { .. }) {
        return Err(ApiError::invalid("Labels.skep.cron: only a replicated job runs by a schedule"));
    }
    let zone = spec.label(SkepLabel::CronZone).unwrap_or("UTC");
    Schedule::parse(text, zone).map(drop).map_err(|(label, words)| {
        let value = if label == SkepLabel::Cron { text } else { zone };
        ApiError::invalid(format!("Labels.{}: invalid value '{value}': {words}", label.key()))
    })
}
