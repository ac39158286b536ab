//! What the cluster made by hand says of placement: nothing waits in it.

use async_trait::async_trait;
use skep_api::{ApiError, ServiceId, spec::ServiceSpec};
use skep_manager::{Plan, Rebalance, Waiting};

use super::fake::FakeControl;
use crate::http::backend::Placing;

#[async_trait]
impl Placing for FakeControl {
    async fn explain_service(&self, _: ServiceId) -> Result<Vec<Waiting>, ApiError> {
        Ok(Vec::new())
    }

    async fn plan_service(&self, _: ServiceSpec) -> Result<Plan, ApiError> {
        Ok(Plan::default())
    }

    async fn plan_rebalance(&self, _: ServiceId) -> Result<Rebalance, ApiError> {
        Ok(Rebalance::default())
    }

    async fn rebalance(&self, _: ServiceId) -> Result<Rebalance, ApiError> {
        Ok(Rebalance::default())
    }
}
