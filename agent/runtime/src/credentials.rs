//! Who we are to a registry: the `X-Registry-Auth` header of Docker's clients.

use std::fmt;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use oci_client::secrets::RegistryAuth;
use serde::Deserialize;

/// Docker's clients pad, others do not.
const URL_SAFE: GeneralPurpose = GeneralPurpose::new(
    &alphabet::URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);
/// Credentials are a few hundred bytes; tokens may be some kilobytes.
const HEADER_BYTES_MAX: usize = 64 * 1024;

/// Credentials that cannot be used. Says nothing of their content.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CredentialsError {
    /// Not the JSON in base64 that Docker's clients send.
    #[error("invalid X-Registry-Auth header: expected JSON in URL-safe base64")]
    Malformed,
    /// From `docker login` of a registry with OAuth2 refresh tokens.
    #[error(
        "identity tokens of a registry are not supported by skep yet: log in with user name and password"
    )]
    IdentityToken,
}

/// User name and password, or a token; printing them shows only whether there are any.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Credentials {
    username: String,
    password: String,
    registry_token: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct AuthConfig {
    username: String,
    password: String,
    /// `user:password` in base64.
    auth: String,
    identitytoken: String,
    registrytoken: String,
}

impl Credentials {
    /// A user name and a password.
    pub fn basic(username: &str, password: &str) -> Credentials {
        Credentials { username: username.to_owned(), password: password.to_owned(), ..Self::default() }
    }

    /// Reads a header's value; an empty one is nobody.
    pub fn parse(header: &[u8]) -> Result<Credentials, CredentialsError> {
        if header.is_empty() {
            return Ok(Credentials::default());
        }
        let json = decode(header).ok_or(CredentialsError::Malformed)?;
        Credentials::parse_json(&json)
    }

    /// Reads the JSON itself, as `docker login` sends it.
    pub fn parse_json(json: &[u8]) -> Result<Credentials, CredentialsError> {
        let config: AuthConfig = serde_json::from_slice(json).map_err(|_| CredentialsError::Malformed)?;
        if !config.identitytoken.is_empty() {
            return Err(CredentialsError::IdentityToken);
        }
        let mut found = Credentials {
            username: config.username,
            password: config.password,
            registry_token: config.registrytoken,
        };
        if found.username.is_empty() && !config.auth.is_empty() {
            let pair = decode(config.auth.as_bytes()).and_then(|bytes| String::from_utf8(bytes).ok());
            let pair = pair.ok_or(CredentialsError::Malformed)?;
            let (username, password) = pair.split_once(':').ok_or(CredentialsError::Malformed)?;
            found = Credentials { registry_token: found.registry_token, ..Self::basic(username, password) };
        }
        Ok(found)
    }

    /// Nobody in particular.
    pub fn is_anonymous(&self) -> bool {
        *self == Credentials::default()
    }

    pub(crate) fn for_registry(&self) -> RegistryAuth {
        if !self.registry_token.is_empty() {
            RegistryAuth::Bearer(self.registry_token.clone())
        } else if self.username.is_empty() {
            RegistryAuth::Anonymous
        } else {
            RegistryAuth::Basic(self.username.clone(), self.password.clone())
        }
    }
}

/// Either alphabet of base64.
fn decode(text: &[u8]) -> Option<Vec<u8>> {
    if text.len() > HEADER_BYTES_MAX {
        return None;
    }
    let url_safe: Vec<u8> = text
        .trim_ascii()
        .iter()
        .map(|b| match b {
            b'+' => b'-',
            b'/' => b'_',
            other => *other,
        })
        .collect();
    URL_SAFE.decode(url_safe).ok()
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_anonymous() { "anonymous" } else { "[redacted]" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_as_docker_sends_them() {
        let me = Credentials::basic("me", "p?>w");
        let token = Credentials { registry_token: "t".into(), ..Credentials::default() };
        let encode = |json: &str| URL_SAFE.encode(json);
        for (json, expect) in [
            (r#"{"username":"me","password":"p?>w","serveraddress":"h:5000"}"#, Ok(me.clone())),
            (r#"{"auth":"bWU6cD8-dw=="}"#, Ok(me.clone())),
            (r#"{"auth":"bWU6cD8+dw"}"#, Ok(me.clone())),
            (r#"{"registrytoken":"t"}"#, Ok(token)),
            (r"{}", Ok(Credentials::default())),
            (r#"{"identitytoken":"t"}"#, Err(CredentialsError::IdentityToken)),
            (r#"{"auth":"bWU"}"#, Err(CredentialsError::Malformed)),
            ("[", Err(CredentialsError::Malformed)),
        ] {
            let padded = encode(json);
            assert_eq!(Credentials::parse(padded.as_bytes()), expect, "{json}");
            assert_eq!(Credentials::parse(padded.trim_end_matches('=').as_bytes()), expect, "{json}");
        }
        assert_eq!(Credentials::parse(b""), Ok(Credentials::default()));
        assert_eq!(Credentials::parse(b"!"), Err(CredentialsError::Malformed));
        assert_eq!(Credentials::parse(&vec![b'a'; HEADER_BYTES_MAX + 1]), Err(CredentialsError::Malformed));
        assert_eq!(format!("{me:?}"), "[redacted]");
    }
}
