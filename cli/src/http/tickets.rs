//! Join tokens with a life of their own: routes of our own, since Docker has none.

use std::time::Duration;

use axum::{
    Router,
    body::Bytes,
    extract::{Path, State},
    http::StatusCode,
    routing::{delete, get},
};
use serde::Deserialize;
use serde_json::{Value, json};
use skep_api::{
    ApiError, TicketId, Timestamp,
    object::Ticket,
    spec::{Labels, Role},
};
use skep_manager::{TicketAsked, View};

use super::{
    Api,
    answer::{Answer, body, empty, ok, with_json},
};

pub(super) fn routes() -> Router<Api> {
    Router::new()
        .route("/skep/swarm/tickets", get(list).post(create))
        .route("/skep/swarm/tickets/{id}", delete(revoke))
}

/// Body of `POST /skep/swarm/tickets`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", default, deny_unknown_fields)]
#[derive(Default)]
struct Asked {
    /// worker or manager; worker when empty.
    role: String,
    /// Nanoseconds; 0: for ever.
    #[serde(rename = "TTL")]
    ttl: i64,
    /// 0: any number.
    uses: u32,
    labels: Labels,
}

impl Asked {
    fn read(self) -> Result<TicketAsked, ApiError> {
        let role = match self.role.as_str() {
            "" | "worker" => Role::Worker,
            "manager" => Role::Manager,
            other => return Err(ApiError::invalid(format!("Role '{other}': worker or manager expected"))),
        };
        let ttl = u64::try_from(self.ttl).map_err(|_| ApiError::invalid("TTL: must not be negative"))?;
        Ok(TicketAsked {
            role,
            ttl: (ttl > 0).then(|| Duration::from_nanos(ttl)),
            uses: (self.uses > 0).then_some(self.uses),
            labels: self.labels,
        })
    }
}

async fn create(State(api): State<Api>, request: Bytes) -> Answer {
    let control = api.manager()?;
    let asked: Asked = body(&request)?;
    let (id, token) = control.create_ticket(asked.read()?).await?;
    Ok(with_json(StatusCode::CREATED, &json!({ "ID": id.to_string(), "Token": token.to_string() })))
}

async fn list(State(api): State<Api>) -> Answer {
    let (tickets, now) = api.manager()?.tickets().await?;
    let tickets: Vec<Value> = tickets.iter().map(|ticket| rendered(ticket, now)).collect();
    ok(&tickets)
}

/// Without its secret, which nobody has.
fn rendered(ticket: &Ticket, now: Timestamp) -> Value {
    let expires =
        if ticket.expires_at.is_zero() { Value::Null } else { ticket.expires_at.to_string().into() };
    json!({
        "ID": ticket.id.to_string(),
        "CreatedAt": ticket.meta.created_at.to_string(),
        "Role": ticket.role.as_str(),
        "ExpiresAt": expires,
        "UsesLeft": ticket.uses_left,
        "State": ticket.over(now).map_or("valid", |over| over.as_str()),
        "Labels": ticket.labels,
    })
}

async fn revoke(State(api): State<Api>, Path(word): Path<String>) -> Answer {
    let control = api.manager()?;
    let id = find(&control.view().await?, &word)?;
    control.revoke_ticket(id).await?;
    empty(StatusCode::OK)
}

/// By its id or the beginning of that.
fn find(view: &View, word: &str) -> Result<TicketId, ApiError> {
    if word.starts_with("SWMTKN") {
        // It is a secret, and is not said again.
        let words = "a join token is taken back by its ID; 'skep swarm join-token ls' shows it";
        return Err(ApiError::invalid(words));
    }
    let found: Vec<TicketId> = view
        .tickets()
        .map(|ticket| ticket.id)
        .filter(|id| !word.is_empty() && id.to_string().starts_with(word))
        .collect();
    match found.as_slice() {
        [] => Err(ApiError::not_found(format!("join token {word} not found"))),
        [one] => Ok(*one),
        [_, ..] => {
            Err(ApiError::invalid(format!("join token {word} is ambiguous ({} matches found)", found.len())))
        }
    }
}
