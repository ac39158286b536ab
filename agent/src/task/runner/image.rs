//! A task's image: one that is on this node is used as it is, any other is pulled first.
//!
//! A name with a tag is not asked for again at the registry, so a start depends on no other machine; who
//! wants each task to have what a tag means today pins the digest, as `docker service create` does.

use skep_api::{Secret, TaskState};

use super::{Runner, StepError, Woken};
use crate::{
    assignment::Assignment,
    engine::{EngineError, chain},
    task::container::SpecError,
};

impl Runner {
    /// Whether the spec can be read and the image is here; its name if it is to be pulled.
    pub(super) async fn check(&mut self, assignment: &Assignment) -> Result<Option<String>, StepError> {
        let spec = assignment.spec.as_ref().map_err(|e| SpecError::Unreadable(e.clone()))?;
        let image = spec.container_spec.as_ref().ok_or(SpecError::NoContainer)?.image.clone();
        let found = self.host.engine.find_image(&image).await?;
        match found {
            Some(found) => self.image_stop_signal = found.stop_signal,
            None if self.has_pulled => return Err(EngineError::NoSuchImage(image).into()),
            None => return Ok(Some(image)),
        }
        Ok(None)
    }

    /// Gets the image, unless a stop is wanted first. Then the task is looked at anew, for it may have been
    /// changed meanwhile.
    pub(super) async fn pull(&mut self, image: &str, auth: &Secret) -> Woken {
        self.advance(TaskState::Preparing, Some(&format!("preparing: pulling {image}")), None);
        let pulled = tokio::select! {
            biased;
            stop = self.orders.wait_for(|order| order.wanted().is_stop()) => {
                return if stop.is_err() { Woken::Closing } else { Woken::Changed };
            }
            pulled = self.host.engine.pull(image, auth) => pulled,
        };
        self.has_pulled = true;
        if let Err(e) = pulled {
            self.advance(TaskState::Rejected, Some("preparing"), Some(chain(&e)));
        }
        Woken::Changed
    }
}
