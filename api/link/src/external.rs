//! A certificate authority outside of the swarm that speaks cfssl's protocol: `POST` of a request, over TLS in
//! which both sides show certificates under the swarm's root.
//!
//! Figures and words are Swarm's (`SK:ca/external.go`).

use std::{sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{Request, StatusCode, Uri, body::Bytes, header};
use hyper_util::rt::TokioIo;
use rustls::{RootCertStore, pki_types::ServerName};
use serde::Deserialize;
use serde_json::json;
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{Given, Identity, Role, root, tls};

/// One request, from the dial to the answer.
const REQUEST_MAX: Duration = Duration::from_secs(5);
/// An answer is one certificate, in JSON.
const ANSWER_MAX_BYTES: usize = 256 << 10;
/// What of a refusal is passed on.
const WORDS_MAX: usize = 500;
/// The profile under which a root is cross-signed.
const CROSS_SIGN_PROFILE: &str = "CA";

/// Where it is, and under which roots it shows its own certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExternalCa {
    /// `https://...`
    pub url: String,
    /// PEM, one or more.
    pub roots_pem: String,
}

/// It did not sign.
#[derive(Debug, thiserror::Error)]
pub enum ExternalError {
    /// Not a URL that can be asked.
    #[error("invalid URL '{url}': https://host[:port]/path is expected")]
    Url {
        /// What was given.
        url: String,
    },
    /// Its roots, or names in it, cannot be used.
    #[error("invalid external CA: {0}")]
    Config(String),
    /// No connection, or it broke.
    #[error("unable to perform certificate signing request: {0}")]
    Unreachable(String),
    /// No answer in time.
    #[error("unable to perform certificate signing request: no answer within {REQUEST_MAX:?}")]
    Timeout,
    /// Another status than 200.
    #[error("unexpected status code in CSR response: {0} - {1}")]
    Status(u16, String),
    /// Not cfssl's answer.
    #[error("unable to parse JSON response")]
    Json,
    /// Its own words.
    #[error("response errors: {0}")]
    Refused(String),
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    success: bool,
    result: Option<Signed>,
    #[serde(default)]
    errors: Option<Vec<Complaint>>,
}

#[derive(Deserialize)]
struct Signed {
    certificate: String,
}

#[derive(Deserialize)]
struct Complaint {
    #[serde(default)]
    code: i64,
    #[serde(default)]
    message: String,
}

impl ExternalCa {
    /// Whether it is there and shows the certificate that it should.
    ///
    /// # Errors
    /// [`ExternalError`], after 5 s at most.
    pub async fn check(&self, identity: &Identity) -> Result<(), ExternalError> {
        timeout(REQUEST_MAX, self.connect(identity)).await.map_err(|_| ExternalError::Timeout)?.map(drop)
    }

    /// Has it sign a node's certificate: PEM.
    ///
    /// # Errors
    /// [`ExternalError`], after 5 s at most.
    pub async fn sign_node(
        &self,
        identity: &Identity,
        csr_pem: &str,
        node_id: &str,
        role: Role,
        cluster_id: &str,
    ) -> Result<String, ExternalError> {
        let request = json!({
            "hosts": [role.unit(), node_id],
            "certificate_request": csr_pem,
            "subject": { "CN": node_id, "names": [{ "O": cluster_id, "OU": role.unit() }] },
            "profile": "",
        });
        self.sign(identity, &request).await
    }

    /// Has it sign another root, so that who trusts it follows that one: PEM.
    ///
    /// # Errors
    /// [`ExternalError`], after 5 s at most.
    pub async fn cross_sign(&self, identity: &Identity, other: &Given) -> Result<String, ExternalError> {
        let config = |error: crate::CaError| ExternalError::Config(error.to_string());
        let csr_pem = root::root_csr(other).map_err(config)?;
        let (name, constraints) = root::about(&other.cert_pem).map_err(config)?;
        let hex: String = constraints.iter().map(|byte| format!("{byte:02x}")).collect();
        let request = json!({
            "certificate_request": csr_pem,
            "subject": { "CN": name },
            "profile": CROSS_SIGN_PROFILE,
            // cfssl takes of the request's extensions only names.
            "extensions": [{ "id": "2.5.29.19", "critical": true, "value": hex }],
        });
        self.sign(identity, &request).await
    }

    async fn sign(&self, identity: &Identity, body: &serde_json::Value) -> Result<String, ExternalError> {
        timeout(REQUEST_MAX, self.post(identity, body)).await.map_err(|_| ExternalError::Timeout)?
    }

    async fn post(&self, identity: &Identity, body: &serde_json::Value) -> Result<String, ExternalError> {
        let unreachable = |error: hyper::Error| ExternalError::Unreachable(error.to_string());
        let (uri, _, _) = self.place()?;
        let stream = self.connect(identity).await?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(unreachable)?;
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let host = uri.authority().map_or("", |authority| authority.as_str());
        let mut request = Request::post(path)
            .header(header::HOST, host)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::CONNECTION, "close");
        if let Some((user, _)) = host.rsplit_once('@') {
            request = request.header(header::AUTHORIZATION, format!("Basic {}", STANDARD.encode(user)));
        }
        let request = request
            .body(Full::new(Bytes::from(body.to_string())))
            .map_err(|_| ExternalError::Url { url: self.url.clone() })?;
        let asking = async {
            let answer = sender.send_request(request).await.map_err(unreachable)?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), ANSWER_MAX_BYTES).collect().await;
            let body = body.map_err(|error| ExternalError::Unreachable(error.to_string()))?;
            read(status, &body.to_bytes())
        };
        tokio::pin!(asking);
        // The connection is worked on here: it ends with the call.
        tokio::select! {
            answer = &mut asking => answer,
            ended = connection => match ended {
                Ok(()) => asking.await,
                Err(error) => Err(unreachable(error)),
            },
        }
    }

    fn place(&self) -> Result<(Uri, String, u16), ExternalError> {
        let invalid = || ExternalError::Url { url: self.url.clone() };
        let uri: Uri = self.url.parse().map_err(|_| invalid())?;
        if uri.scheme_str() != Some("https") {
            return Err(invalid());
        }
        let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(invalid)?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = uri.port_u16().unwrap_or(443);
        Ok((uri, host, port))
    }

    async fn connect(&self, identity: &Identity) -> Result<TlsStream<TcpStream>, ExternalError> {
        let unreachable = |error: std::io::Error| ExternalError::Unreachable(error.to_string());
        let (_, host, port) = self.place()?;
        let certificates =
            tls::certificates(&self.roots_pem).map_err(|error| ExternalError::Config(error.to_string()))?;
        let mut roots = RootCertStore::empty();
        for root in certificates {
            roots.add(root).map_err(|error| ExternalError::Config(error.to_string()))?;
        }
        let config = identity.config_for_external(roots);
        let name =
            ServerName::try_from(host.clone()).map_err(|_| ExternalError::Url { url: self.url.clone() })?;
        let stream = TcpStream::connect((host.as_str(), port)).await.map_err(unreachable)?;
        TlsConnector::from(Arc::new(config)).connect(name, stream).await.map_err(unreachable)
    }
}

fn read(status: StatusCode, body: &[u8]) -> Result<String, ExternalError> {
    if status != StatusCode::OK {
        let words: String = String::from_utf8_lossy(body).chars().take(WORDS_MAX).collect();
        return Err(ExternalError::Status(status.as_u16(), words));
    }
    let answer: Answer = serde_json::from_slice(body).map_err(|_| ExternalError::Json)?;
    match answer.result {
        Some(signed) if answer.success => Ok(root::normal_pem(&signed.certificate)),
        Some(_) | None => {
            let complaints = answer.errors.unwrap_or_default();
            let words: Vec<String> =
                complaints.iter().map(|one| format!("{} (code {})", one.message, one.code)).collect();
            let words = if words.is_empty() {
                "certificate signing request failed".to_owned()
            } else {
                words.join("; ").chars().take(WORDS_MAX).collect()
            };
            Err(ExternalError::Refused(words))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_as_cfssl_gives_them() {
        let ok = read(
            StatusCode::OK,
            br#"{"success":true,"result":{"certificate":"C"},"errors":[],"messages":[]}"#,
        );
        assert_eq!(ok.unwrap(), "C");
        for (status, body, expect) in [
            (
                400,
                r#"{"success":false}"#,
                "unexpected status code in CSR response: 400 - {\"success\":false}",
            ),
            (200, "<html>", "unable to parse JSON response"),
            (
                200,
                r#"{"success":false,"result":null,"errors":[{"code":9002,"message":"bad profile"}]}"#,
                "response errors: bad profile (code 9002)",
            ),
            (200, r#"{"success":false}"#, "certificate signing request failed"),
        ] {
            let error = read(StatusCode::from_u16(status).unwrap(), body.as_bytes()).unwrap_err();
            assert!(error.to_string().contains(expect), "{error}");
        }
    }

    #[test]
    fn urls_are_https() {
        let place = |url: &str| {
            ExternalCa { url: url.to_owned(), roots_pem: String::new() }
                .place()
                .map(|(_, host, port)| (host, port))
        };
        assert_eq!(place("https://ca.example/sign").unwrap(), ("ca.example".to_owned(), 443));
        assert_eq!(place("https://[fd00::1]:8888/api/v1/cfssl/sign").unwrap(), ("fd00::1".to_owned(), 8888));
        for url in ["http://ca.example/sign", "ca.example", "https://", ""] {
            assert!(matches!(place(url), Err(ExternalError::Url { .. })), "{url}");
        }
    }
}
