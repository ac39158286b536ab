//! What new settings mean for the root: nothing, another key, a rotation. No I/O: what has to be asked of
//! external CAs is named.
//!
//! Cases and words are Swarm's (`SK:manager/controlapi/ca_rotation.go`).

use skep_api::{ApiError, object::Cluster};
use skep_link::{Given, check_root, issuer_of, normal_pem};

use crate::control::invalid_argument;

/// What the update says of the root.
pub(super) struct Wish<'a> {
    /// `CAConfig.SigningCACert`; empty: none.
    pub(super) cert: &'a str,
    /// `CAConfig.SigningCAKey`; empty: none.
    pub(super) key: &'a str,
    /// `CAConfig.ForceRotate`.
    pub(super) force: u64,
}

/// What becomes of the root.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Step {
    /// It stays.
    Keep,
    /// It stays, with this key (empty: an external CA signs); a rotation that is under way is called off.
    Stay(String),
    /// The rotation goes on, with this key of the next root.
    NextKey(String),
    /// A rotation to this root begins, in the place of any other; `None`: to one that is made for it.
    Rotate(Option<Given>),
}

/// A root for which an external CA must be there first, and Swarm's word for it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Needed {
    pub(super) root_pem: String,
    pub(super) what: &'static str,
}

/// What is to be done, if `needed` are there.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct Plan {
    pub(super) needed: Vec<Needed>,
    pub(super) step: Step,
}

/// Reads the wish against the state.
///
/// # Errors
/// A root that cannot be used, in Swarm's words.
pub(super) fn plan(old: &Cluster, wish: &Wish<'_>, now_unix_secs: i64) -> Result<Plan, ApiError> {
    if !wish.key.is_empty() && wish.cert.is_empty() {
        return Err(refuse("if a signing CA key is provided, the signing CA cert must also be provided"));
    }
    let given = if wish.cert.is_empty() {
        None
    } else {
        Some(check_root(wish.cert, wish.key, now_unix_secs).map_err(|error| refuse(&error.to_string()))?)
    };
    let mut needed = Vec::new();
    let mut need = |root_pem: &str, what| needed.push(Needed { root_pem: normal_pem(root_pem), what });
    let is_current = |given: &Given| given.cert_pem == normal_pem(&old.ca_cert_pem);
    if old.ca_key_pem.is_empty()
        && !given.as_ref().is_some_and(|given| is_current(given) && !given.key_pem.is_empty())
    {
        need(&old.ca_cert_pem, "current");
    }
    let step = match given {
        None if wish.force != old.ca_forced => Step::Rotate(None),
        None => {
            if let Some(next) = old.ca_rotation.as_ref().filter(|next| next.key_pem.is_empty()) {
                need(&next.cert_pem, "next");
            }
            Step::Keep
        }
        Some(given) => {
            if given.key_pem.is_empty() {
                need(&given.cert_pem, "desired");
            }
            let public_key = |pem: &str| issuer_of(pem).map(|(_, key)| key);
            let next = old.ca_rotation.as_ref();
            if is_current(&given) {
                Step::Stay(given.key_pem)
            } else if public_key(&given.cert_pem) == public_key(&old.ca_cert_pem) {
                return Err(refuse("Cannot update to a cert with an identical key"));
            } else if next.is_some_and(|next| normal_pem(&next.cert_pem) == given.cert_pem) {
                Step::NextKey(given.key_pem)
            } else {
                Step::Rotate(Some(given))
            }
        }
    };
    let has_key = match &step {
        Step::Rotate(Some(given)) => !given.key_pem.is_empty(),
        Step::Rotate(None) | Step::Keep | Step::Stay(_) | Step::NextKey(_) => true,
    };
    if old.ca_key_pem.is_empty() && !has_key {
        return Err(refuse("rotating from one external CA to a different external CA is not supported"));
    }
    Ok(Plan { needed, step })
}

/// A 400 in the words of Swarm's control API.
pub(super) fn refuse(words: &str) -> ApiError {
    ApiError::invalid(invalid_argument(words))
}
