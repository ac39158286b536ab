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
    schedule(spec)
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
