//! What is asked of the daemon itself: to stop. A route of our own, since Docker has none.

use axum::{
    Router,
    extract::State,
    http::{StatusCode, Uri},
    routing::post,
};

use super::{
    Api,
    answer::{Answer, Params, empty},
};

pub(super) fn routes() -> Router<Api> {
    Router::new().route("/skep/daemon/stop", post(stop))
}

/// `?shutdown=1`: the node's tasks are replaced at once.
async fn stop(State(api): State<Api>, uri: Uri) -> Answer {
    api.backend.stop(Params::of(&uri)?.flag("shutdown"));
    empty(StatusCode::ACCEPTED)
}
