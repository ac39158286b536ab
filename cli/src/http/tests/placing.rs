//! What the cluster made by hand says of placement, where nothing waits, and of tickets.

use std::sync::Arc;

use async_trait::async_trait;
use skep_api::{ApiError, Id, ServiceId, TicketId, Timestamp, object::Ticket, spec::ServiceSpec};
use skep_link::JoinToken;
use skep_manager::{Plan, Rebalance, TicketAsked, Waiting};

use super::fake::FakeControl;
use crate::http::backend::{ControlPlane as _, Placing, Tickets};

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

#[async_trait]
impl Tickets for FakeControl {
    async fn create_ticket(&self, _: TicketAsked) -> Result<(TicketId, JoinToken), ApiError> {
        let id = TicketId(Id(7));
        Ok((id, JoinToken::of_ticket("a root", id, "s3cret")))
    }

    async fn tickets(&self) -> Result<(Vec<Arc<Ticket>>, Timestamp), ApiError> {
        Ok((self.stale_view().tickets().cloned().collect(), Timestamp(5)))
    }

    async fn revoke_ticket(&self, _: TicketId) -> Result<(), ApiError> {
        Ok(())
    }
}
