//! skep's own labels: what is asked for with them is known and well-formed, or refused.

use super::not_honoured;
use crate::{
    ApiError,
    spec::{SKEP_LABEL_PREFIX, ServiceSpec, SkepLabel},
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
        if !label.is_honoured() {
            return Err(not_honoured(&format!("Labels.{key}"), value));
        }
    }
    Ok(())
}
