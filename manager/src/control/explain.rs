//! For people: why a service's tasks wait, and where those of a new one would go. Writes nothing.

use skep_api::{ApiError, ServiceId, Timestamp, spec::ServiceSpec, validate};

use super::{
    Control,
    networks::resolve,
    services::{check_level, check_ports},
};
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
    /// As for creation, but for its name: also that a port is taken. No leader.
    pub async fn plan_service(&self, mut spec: ServiceSpec) -> Result<Plan, ApiError> {
        if spec.name.is_empty() {
            "planned".clone_into(&mut spec.name);
        }
        validate::service(&spec)?;
        spec.fill_in();
        let view = self.view().await?;
        resolve(&view, &mut spec)?;
        check_ports(&view, &spec, ServiceId::default())?;
        check_level(&view, &spec)?;
        Ok(plan(&view, &spec, Timestamp((self.shared.clock)())))
    }
}

#[cfg(test)]
mod tests {
    use skep_api::Secret;

    use super::*;
    use crate::rig::first_manager;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_plan_is_refused_as_the_creation_would_be() {
        let (manager, _, _dir) = first_manager().await;
        let control = manager.control();
        let on_port = |name: &str| -> ServiceSpec {
            let text = format!(
                r#"{{"Name":"{name}","TaskTemplate":{{"ContainerSpec":{{"Image":"busybox"}}}},
                    "EndpointSpec":{{"Ports":[{{"TargetPort":80,"PublishedPort":8080}}]}}}}"#
            );
            serde_json::from_str(&text).unwrap()
        };
        assert!(control.plan_service(on_port("a")).await.is_ok());
        control.create_service(on_port("a"), Secret::default()).await.unwrap();
        let created = control.create_service(on_port("b"), Secret::default()).await.unwrap_err();
        assert_eq!(control.plan_service(on_port("b")).await.unwrap_err(), created);
    }
}
