//! How a change rolls out.

use crate::{ApiError, spec::UpdateConfig};

pub(super) fn update(config: Option<&UpdateConfig>, path: &str, actions: &[&str]) -> Result<(), ApiError> {
    let Some(config) = config else { return Ok(()) };
    match config.failure_action.as_deref().unwrap_or("") {
        "" => {}
        action if actions.contains(&action) => {}
        action => {
            return Err(ApiError::invalid(format!(
                "{path}.FailureAction: unrecognized update failure action {action}"
            )));
        }
    }
    match config.order.as_deref().unwrap_or("") {
        "" | "stop-first" | "start-first" => {}
        order => {
            return Err(ApiError::invalid(format!("{path}.Order: unrecognized update order {order}")));
        }
    }
    let spans = [("Delay", "update-delay", config.delay), ("Monitor", "update-monitor", config.monitor)];
    for (name, word, value) in spans {
        if value.unwrap_or(0) < 0 {
            return Err(ApiError::invalid(format!("{path}.{name}: TaskSpec: {word} cannot be negative")));
        }
    }
    let ratio = config.max_failure_ratio.unwrap_or(0.0);
    if !(0.0..=1.0).contains(&ratio) {
        return Err(ApiError::invalid(format!(
            "{path}.MaxFailureRatio: TaskSpec: update-maxfailureratio cannot be less than 0 or bigger than 1"
        )));
    }
    Ok(())
}
