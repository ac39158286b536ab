//! What every route shares: errors as Docker words them, JSON answers, bodies and parameters.

use std::collections::BTreeMap;

use axum::{
    extract::Query,
    http::{HeaderMap, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;
use skep_api::{ApiError, ErrorKind, Secret};

/// The largest JSON body: a spec with many configs stays far below; more is an attack or a mistake.
pub(crate) const BODY_BYTES_MAX: usize = 8 << 20;

/// An error on its way to the client.
#[derive(Debug)]
pub(crate) struct Failure(pub(crate) ApiError);

/// What a route gives.
pub(crate) type Answer = Result<Response, Failure>;

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        Self(error)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        failure(status, &self.0.message)
    }
}

/// Docker's form of an error.
pub(crate) fn failure(status: StatusCode, message: &str) -> Response {
    with_json(status, &json!({ "message": message }))
}

/// A JSON answer with its line end, as Docker gives it.
pub(crate) fn with_json(status: StatusCode, value: &impl Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(mut bytes) => {
            bytes.push(b'\n');
            (status, [(header::CONTENT_TYPE, "application/json")], bytes).into_response()
        }
        Err(error) => {
            failure(StatusCode::INTERNAL_SERVER_ERROR, &format!("cannot write the answer: {error}"))
        }
    }
}

/// A JSON answer to a request that succeeded.
#[expect(clippy::unnecessary_wraps, reason = "the tail of every route")]
pub(crate) fn ok(value: &impl Serialize) -> Answer {
    Ok(with_json(StatusCode::OK, value))
}

/// An answer without content.
#[expect(clippy::unnecessary_wraps, reason = "the tail of every route")]
pub(crate) fn empty(status: StatusCode) -> Answer {
    Ok(status.into_response())
}

/// A refusal that names what is not served.
pub(crate) fn unserved(what: &str) -> Failure {
    Failure(ApiError::new(ErrorKind::Unimplemented, format!("{what} is not supported by skep yet")))
}

/// Reads a JSON body.
pub(crate) fn body<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    skep_api::json::parse(bytes)
}

/// The header with the caller's credentials for a registry, as it came; empty without.
pub(crate) fn registry_auth(headers: &HeaderMap) -> Secret {
    headers.get("X-Registry-Auth").map_or_else(Secret::default, |value| Secret::new(value.as_bytes()))
}

/// The parameters of a request's query.
#[derive(Debug, Default)]
pub(crate) struct Params(BTreeMap<String, String>);

impl Params {
    pub(crate) fn of(uri: &Uri) -> Result<Self, ApiError> {
        let Query(map) = Query::try_from_uri(uri)
            .map_err(|error| ApiError::invalid(format!("malformed query: {error}")))?;
        Ok(Self(map))
    }

    /// A parameter; empty when it was not given.
    pub(crate) fn text(&self, key: &str) -> &str {
        self.0.get(key).map_or("", String::as_str)
    }

    /// Docker's reading of a flag: anything but these words is yes.
    pub(crate) fn flag(&self, key: &str) -> bool {
        !matches!(self.text(key).trim().to_ascii_lowercase().as_str(), "" | "0" | "no" | "false" | "none")
    }

    /// A parameter that Go's `ParseBool` reads (`MB:daemon/server/router/swarm/cluster_routes.go`).
    pub(crate) fn rotate(&self, key: &str) -> Result<bool, ApiError> {
        match self.text(key) {
            "" | "0" | "f" | "F" | "false" | "False" | "FALSE" => Ok(false),
            "1" | "t" | "T" | "true" | "True" | "TRUE" => Ok(true),
            other => Err(ApiError::invalid(format!("invalid value for {key}: {other}"))),
        }
    }

    /// A version number, which an update must name.
    pub(crate) fn version(&self, what: &str) -> Result<u64, ApiError> {
        let text = self.text("version");
        text.parse().map_err(|_| ApiError::invalid(format!("invalid {what} version '{text}'")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_read_as_docker_reads_them() {
        let params = Params::of(&"/x?a=1&b=0&c=true&d=False&e=&f=none&g=yes".parse().unwrap()).unwrap();
        for (key, expect) in [
            ("a", true),
            ("b", false),
            ("c", true),
            ("d", false),
            ("e", false),
            ("f", false),
            ("g", true),
            ("h", false),
        ] {
            assert_eq!(params.flag(key), expect, "{key}");
        }
        assert_eq!(params.version("service").unwrap_err().message, "invalid service version ''");
    }
}
