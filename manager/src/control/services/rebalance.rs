//! Making a service's nodes even at somebody's wish.

use skep_api::{ApiError, ServiceId, Timestamp, object::Service, spec::Mode};

use super::{
    super::{Control, failed_precondition},
    update::needs_level_2,
};
use crate::pass::{Rebalance, never_even, plan_rebalance};

/// How often the wish is written anew because the leader wrote the service meanwhile.
const STALE_MAX: usize = 8;

impl Control {
    /// What would make a service's nodes even.
    ///
    /// # Errors
    /// No such service; no leader.
    pub async fn plan_rebalance(&self, id: ServiceId) -> Result<Rebalance, ApiError> {
        let view = self.view().await?;
        let service =
            view.service(id).ok_or_else(|| ApiError::not_found(format!("service {id} not found")))?;
        Ok(plan_rebalance(&view, service, Timestamp((self.shared.clock)())))
    }

    /// Has the leader move tasks of a service until its nodes are even. Says which these would be by now.
    ///
    /// # Errors
    /// No such service, or one whose tasks are never moved; no leader.
    pub async fn rebalance(&self, id: ServiceId) -> Result<Rebalance, ApiError> {
        let now = Timestamp((self.shared.clock)());
        for _ in 0..STALE_MAX {
            let plan = self.plan_rebalance(id).await?;
            let version = self.stale_view().service(id).map_or(0, |service| service.meta.version);
            let written = self.change_service(id, version, |view, old| {
                needs_level_2(view, "moving tasks")?;
                if !matches!(old.spec.mode(), Mode::Replicated { .. }) {
                    return Err(failed_precondition("only tasks of replicated services can be moved"));
                }
                if let Some(why) = never_even(view, old) {
                    return Err(failed_precondition(why));
                }
                Ok(Service { balance_asked: now, ..old.clone() })
            });
            match written.await {
                Ok(_) => return Ok(plan),
                Err(error) if error.message.contains("out of sequence") => {}
                Err(error) => return Err(error),
            }
        }
        Err(super::out_of_sequence())
    }
}

#[cfg(test)]
mod tests {
    use skep_api::{Secret, spec::ServiceSpec};

    use crate::rig::first_manager;

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_never_even_is_refused() {
        let (manager, _, _dir) = first_manager().await;
        let control = manager.control();
        let create = async |labels: &str| {
            let text = format!(
                r#"{{"Name":"a{}","TaskTemplate":{{"ContainerSpec":{{"Image":"busybox"}}}},"Labels":{labels}}}"#,
                labels.len()
            );
            let spec: ServiceSpec = serde_json::from_str(&text).unwrap();
            control.create_service(spec, Secret::default()).await.unwrap().id
        };
        let plain = create("{}").await;
        control.rebalance(plain).await.unwrap();
        let packed = create(r#"{"skep.strategy":"binpack"}"#).await;
        let error = control.rebalance(packed).await.unwrap_err();
        assert!(error.message.contains("its labels ask for certain nodes"), "{error}");
        assert!(control.view().await.unwrap().service(packed).unwrap().balance_asked.is_zero());
    }
}
