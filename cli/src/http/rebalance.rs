//! Making the nodes of a service even: routes of our own, since Docker has none.

use axum::{
    Router,
    extract::{Path, State},
    routing::get,
};
use serde_json::{Value, json};
use skep_api::NodeId;
use skep_manager::{Rebalance, View};

use super::{
    Api,
    answer::{Answer, ok},
    lookup,
};

pub(super) fn routes() -> Router<Api> {
    Router::new().route("/skep/services/{id}/rebalance", get(plan).post(carry_out))
}

/// Which tasks would move.
async fn plan(State(api): State<Api>, Path(word): Path<String>) -> Answer {
    let control = api.manager()?;
    let service = lookup::service(&control.view().await?, &word)?;
    let plan = control.plan_rebalance(service.id).await?;
    ok(&rendered(&plan, &control.stale_view()))
}

/// Has them moved.
async fn carry_out(State(api): State<Api>, Path(word): Path<String>) -> Answer {
    let control = api.manager()?;
    let service = lookup::service(&control.view().await?, &word)?;
    let plan = control.rebalance(service.id).await?;
    ok(&rendered(&plan, &control.stale_view()))
}

fn rendered(plan: &Rebalance, view: &View) -> Value {
    let node = |id: NodeId| {
        let hostname = view.node(id).map_or("", |node| node.description.hostname.as_str());
        json!({ "ID": id.to_string(), "Hostname": hostname })
    };
    let one = |one: &skep_manager::Move| {
        let task = json!({ "ID": one.task.id.to_string(), "Name": one.task.name(), "Slot": one.task.slot });
        json!({ "Task": task, "From": node(one.from), "To": node(one.to) })
    };
    let moves: Vec<Value> = plan.moves.iter().map(one).collect();
    json!({ "Moves": moves, "MovesPerMinute": plan.a_minute, "Held": plan.held })
}
