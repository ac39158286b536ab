//! For people: why a service's tasks wait, and where those of a new one would go. Writes nothing.

use skep_api::{ApiError, ServiceId, Timestamp, spec::ServiceSpec, validate};

use super::{Control, networks::resolve, services::check_level};
use crate::pass::{Plan, Waiting, plan, waiting};

impl Control {
    /// Why tasks of a service wait for a node.
    ///
    /// # Errors
    /// No such service; no leader.
    pub async fn explain_service(&self, id: ServiceId) -> Result<Vec<Waiting>, ApiError> {
        let view = self.view().await?;
        if view.service(id).is_none() {
            return Err(ApiError::not_found(format!("service {id} not found")));
        }
        Ok(waiting(&view, id, Timestamp((self.shared.clock)())))
    }

    /// Where the tasks of a service would go if it was created now.
    ///
    /// # Errors
    /// As for creation, but for its name; no leader.
    pub async fn plan_service(&self, mut spec: ServiceSpec) -> Result<Plan, ApiError> {
        if spec.name.is_empty() {
            "planned".clone_into(&mut spec.name);
        }
        validate::service(&spec)?;
        spec.fill_in();
        let view = self.view().await?;
        check_level(&view, &spec)?;
        resolve(&view, &mut spec)?;
        Ok(plan(&view, &spec))
    }
}
