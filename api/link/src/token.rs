//! Join tokens: `SWMTKN-1-<root digest>-<secret>`, and those of tickets: `SWMTKN-T1-<root digest>-<ticket>-<secret>`.
//!
//! The digest lets the joiner know the cluster's root before it says its secret; the secret says in
//! which role it may join. Rotating changes the secret alone. `Debug` never shows the secret.

use std::{fmt, str::FromStr};

use ring::{
    digest::{SHA256, digest},
    rand::{SecureRandom, SystemRandom},
};
use skep_api::{Id, TicketId};

use crate::tls;

const PREFIX: &str = "SWMTKN";
const VERSION: &str = "1";
/// Of tokens with a life of their own. Builds that do not know them, and Docker, refuse it as a version.
const TICKET_VERSION: &str = "T1";
const SECRET_CHARS: usize = 25;
/// The length of the largest 256-bit number in base 36.
const DIGEST_CHARS: usize = 50;
const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";

/// The SHA-256 of a root certificate (of its DER form). Displayed as hex.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RootDigest(pub [u8; 32]);

/// A join token, taken apart.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    digest: RootDigest,
    ticket: Option<TicketId>,
    secret: String,
}

/// Why a text is no join token. No variant repeats the text: most of it may be a real secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It does not look like a token at all.
    #[error(
        "invalid join token: this is not a join token, which looks like SWMTKN-1-<digest>-<secret>; \
         'swarm join-token worker' on a manager prints one"
    )]
    NotAToken,
    /// A token of another version.
    #[error("invalid join token: only versions 1 and T1 (SWMTKN-1-..., SWMTKN-T1-...) are supported")]
    Version,
    /// The part of a ticket's token that says which one it is.
    #[error(
        "invalid join token: its fourth part, the ticket's id, must be {SECRET_CHARS} characters of 0-9a-z"
    )]
    Ticket,
    /// The part with the digest of the root certificate.
    #[error("invalid join token: its third part, the CA digest, must be {DIGEST_CHARS} characters of 0-9a-z")]
    Digest,
    /// The part with the secret.
    #[error("invalid join token: its last part, the secret, must be {SECRET_CHARS} characters of 0-9a-z")]
    Secret,
}

fn sha256(of: &[u8]) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest(&SHA256, of).as_ref());
    bytes
}

impl RootDigest {
    /// The digest of a certificate in DER form.
    #[must_use]
    pub fn of_der(der: &[u8]) -> Self {
        Self(sha256(der))
    }

    /// The digest of the first certificate of a PEM text. A text that holds none has the digest of
    /// the text itself, which no certificate matches: whoever joins by it is refused.
    #[must_use]
    pub fn of_pem(pem: &str) -> Self {
        match tls::certificates(pem).ok().and_then(|all| all.into_iter().next()) {
            Some(certificate) => Self::of_der(&certificate),
            None => Self::of_der(pem.as_bytes()),
        }
    }

    fn to_base36(self) -> String {
        let mut rest = self.0;
        let mut text = [b'0'; DIGEST_CHARS];
        for place in text.iter_mut().rev() {
            let mut remainder = 0_u32;
            for byte in &mut rest {
                let value = remainder * 256 + u32::from(*byte);
                *byte = u8::try_from(value / 36)
                    .expect("the remainder is below 36, so the quotient is below 256");
                remainder = value % 36;
            }
            *place = DIGITS[usize::try_from(remainder).expect("below 36")];
        }
        text.iter().copied().map(char::from).collect()
    }

    fn from_base36(text: &str) -> Option<Self> {
        if text.len() != DIGEST_CHARS {
            return None;
        }
        let mut bytes = [0_u8; 32];
        for character in text.bytes() {
            let mut carry = u32::try_from(DIGITS.iter().position(|digit| *digit == character)?).ok()?;
            for byte in bytes.iter_mut().rev() {
                let value = u32::from(*byte) * 36 + carry;
                *byte = u8::try_from(value % 256).ok()?;
                carry = value / 256;
            }
            if carry != 0 {
                return None;
            }
        }
        Some(Self(bytes))
    }
}

impl fmt::Display for RootDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for RootDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl JoinToken {
    /// The token of a cluster with this root (see [`RootDigest::of_pem`]) and this secret, which comes
    /// from [`JoinToken::generate_secret`].
    #[must_use]
    pub fn new(root_cert_pem: &str, secret: &str) -> Self {
        Self { digest: RootDigest::of_pem(root_cert_pem), ticket: None, secret: secret.to_owned() }
    }

    /// The token of a ticket.
    #[must_use]
    pub fn of_ticket(root_cert_pem: &str, ticket: TicketId, secret: &str) -> Self {
        Self { ticket: Some(ticket), ..Self::new(root_cert_pem, secret) }
    }

    /// Reads a token as printed.
    ///
    /// # Errors
    /// [`TokenError`] says which part is wrong.
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        let parts: Vec<&str> = text.trim().split('-').collect();
        if parts.first() != Some(&PREFIX) {
            return Err(TokenError::NotAToken);
        }
        let (digest, ticket, secret) = match parts.as_slice() {
            [_, VERSION, digest, secret] => (digest, None, secret),
            [_, TICKET_VERSION, digest, ticket, secret] => (digest, Some(ticket), secret),
            [_] | [_, VERSION | TICKET_VERSION, ..] => return Err(TokenError::NotAToken),
            _ => return Err(TokenError::Version),
        };
        let digest = RootDigest::from_base36(digest).ok_or(TokenError::Digest)?;
        if secret.len() != SECRET_CHARS || !secret.bytes().all(|byte| DIGITS.contains(&byte)) {
            return Err(TokenError::Secret);
        }
        let ticket = ticket.map(|id| id.parse().map_err(|_| TokenError::Ticket)).transpose()?;
        Ok(Self { digest, ticket, secret: (*secret).to_owned() })
    }

    /// A fresh secret: 128 bits of the system's randomness as 25 base36 characters.
    ///
    /// # Panics
    /// If the system has no randomness to give.
    #[must_use]
    pub fn generate_secret() -> String {
        let mut bytes = [0; 16];
        SystemRandom::new().fill(&mut bytes).expect("the system's random source answers");
        Id(u128::from_be_bytes(bytes)).to_string()
    }

    /// The secret part. Not to be printed.
    #[must_use]
    pub fn secret(&self) -> &str {
        &self.secret
    }

    /// Whether the token's secret is this one, without telling by the time taken how much of it is right.
    #[must_use]
    pub fn has_secret(&self, secret: &str) -> bool {
        // Digests are compared: where they first differ says nothing about the secret.
        digest(&SHA256, self.secret.as_bytes()).as_ref() == digest(&SHA256, secret.as_bytes()).as_ref()
    }

    /// The ticket whose token it is, if it is one's.
    #[must_use]
    pub fn ticket(&self) -> Option<TicketId> {
        self.ticket
    }

    /// The SHA-256 of the secret.
    #[must_use]
    pub fn secret_digest(&self) -> [u8; 32] {
        sha256(self.secret.as_bytes())
    }

    /// The digest of the cluster's root certificate.
    #[must_use]
    pub fn digest(&self) -> RootDigest {
        self.digest
    }
}

impl FromStr for JoinToken {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        Self::parse(text)
    }
}

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digest = self.digest.to_base36();
        match self.ticket {
            None => write!(f, "{PREFIX}-{VERSION}-{digest}-{}", self.secret),
            Some(ticket) => write!(f, "{PREFIX}-{TICKET_VERSION}-{digest}-{ticket}-{}", self.secret),
        }
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinToken").field("digest", &self.digest).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_round_trip_in_base36() {
        for bytes in [[0; 32], [0xff; 32], [0x5a; 32]] {
            let text = RootDigest(bytes).to_base36();
            assert_eq!(text.len(), DIGEST_CHARS);
            assert_eq!(RootDigest::from_base36(&text), Some(RootDigest(bytes)));
        }
        assert_eq!(RootDigest::from_base36(&"z".repeat(50)), None, "over 256 bits");
    }

    #[test]
    fn tokens_round_trip_and_do_not_leak() {
        let secret = JoinToken::generate_secret();
        let token = JoinToken::new("a root", &secret);
        let text = token.to_string();
        assert_eq!(text.len(), "SWMTKN-1-".len() + DIGEST_CHARS + 1 + SECRET_CHARS);
        assert_eq!(JoinToken::parse(&format!(" {text}\n")), Ok(token.clone()));
        assert!(token.has_secret(&secret));
        assert!(!token.has_secret(&JoinToken::generate_secret()));
        assert!(!format!("{token:?}").contains(&secret));
    }

    #[test]
    fn tokens_of_tickets_round_trip_and_do_not_leak() {
        let secret = JoinToken::generate_secret();
        let token = JoinToken::of_ticket("a root", TicketId(Id(7)), &secret);
        let text = token.to_string();
        assert!(text.starts_with("SWMTKN-T1-"));
        assert_eq!(JoinToken::parse(&text), Ok(token.clone()));
        assert_eq!((token.ticket(), token.has_secret(&secret)), (Some(TicketId(Id(7))), true));
        assert_eq!(token.secret_digest(), JoinToken::new("another root", &secret).secret_digest());
        assert!(!format!("{token:?}").contains(&secret));
    }

    #[test]
    fn what_is_no_token_is_refused_by_its_part() {
        let (digest, secret) = ("1".repeat(50), "a".repeat(25));
        let check = |text: &str, expect| assert_eq!(JoinToken::parse(text), Err(expect), "{text}");
        check("", TokenError::NotAToken);
        check("10.0.0.1:2377", TokenError::NotAToken);
        check("SWMKEY-1-abc", TokenError::NotAToken);
        check("SWMTKN", TokenError::NotAToken);
        check("SWMTKN-1", TokenError::NotAToken);
        check(&format!("SWMTKN-1-{digest}"), TokenError::NotAToken);
        check(&format!("SWMTKN-1-{digest}-{secret}-x"), TokenError::NotAToken);
        check(&format!("SWMTKN-2-0-{digest}-{secret}"), TokenError::Version);
        check("SWMTKN-T1", TokenError::NotAToken);
        check(&format!("SWMTKN-T1-{digest}-{secret}"), TokenError::NotAToken);
        check(&format!("SWMTKN-T1-{digest}-x-{secret}"), TokenError::Ticket);
        check(&format!("SWMTKN-T1-{digest}-{secret}-x"), TokenError::Secret);
        check(&format!("SWMTKN-1-{}-{secret}", &digest[1..]), TokenError::Digest);
        check(&format!("SWMTKN-1-{}-{secret}", "Z".repeat(50)), TokenError::Digest);
        check(&format!("SWMTKN-1-{digest}-{}", &secret[1..]), TokenError::Secret);
        check(&format!("SWMTKN-1-{digest}-{}", "é".repeat(25)), TokenError::Secret);
    }
}
