//! Does what a change of the root takes: sees that external CAs are there, makes the next root, has the
//! current one sign it.

use skep_api::{
    ApiError, ErrorKind,
    object::{CaRotation, Cluster},
    spec::SigningCa,
};
use skep_link::{Authority, ExternalCa, Given};

use super::{
    change::{Needed, Step, Wish, plan, refuse},
    signing::external_cas,
};
use crate::dispatcher::Shared;

/// The cluster with the root as its new settings, which it has already, ask for. `signing` is what came with
/// them for once.
///
/// # Errors
/// In Swarm's words.
pub(crate) async fn changed(shared: &Shared, new: Cluster, signing: &SigningCa) -> Result<Cluster, ApiError> {
    let now = (shared.clock)() / 1_000_000_000;
    let force = new.spec.force_rotate();
    let key = String::from_utf8_lossy(signing.key.reveal()).into_owned();
    let wish = Wish { cert: &signing.cert_pem, key: &key, force };
    let plan = plan(&new, &wish, now)?;
    for needed in &plan.needed {
        check_external(shared, &new, needed).await?;
    }
    Ok(match plan.step {
        Step::Keep => new,
        Step::Stay(ca_key_pem) => Cluster { ca_key_pem, ca_rotation: None, ca_forced: force, ..new },
        Step::NextKey(key_pem) => {
            let ca_rotation = new.ca_rotation.clone().map(|rotation| CaRotation { key_pem, ..rotation });
            Cluster { ca_rotation, ca_forced: force, ..new }
        }
        Step::Rotate(given) => {
            let next = match given {
                Some(given) => given,
                None => {
                    let made = Authority::generate(now).map_err(|error| internal(&error))?;
                    Given { cert_pem: made.cert_pem().to_owned(), key_pem: made.key_pem().to_owned() }
                }
            };
            let cross_pem = cross_signed(shared, &new, &next).await?;
            tracing::info!("a root rotation begins");
            let rotation = CaRotation { cert_pem: next.cert_pem, key_pem: next.key_pem, cross_pem };
            Cluster { ca_rotation: Some(rotation), ca_forced: force, ..new }
        }
    })
}

/// The next root's certificate, signed by the current root: not by what a rotation under way has put under it.
async fn cross_signed(shared: &Shared, old: &Cluster, next: &Given) -> Result<String, ApiError> {
    let unable = |why: String| {
        tracing::error!(err = why, "the current root did not sign the next one");
        let words = "unable to generate a cross-signed certificate for root rotation";
        ApiError::new(ErrorKind::Internal, format!("rpc error: code = Internal desc = {words}: {why}"))
    };
    if !old.ca_key_pem.is_empty() {
        let authority =
            Authority::from_pem(&old.ca_cert_pem, &old.ca_key_pem).map_err(|e| unable(e.to_string()))?;
        return authority.cross_sign(&next.cert_pem).map_err(|error| unable(error.to_string()));
    }
    let external = external_cas(old, &old.ca_cert_pem);
    let mut why = None;
    for ca in &external {
        match ca.cross_sign(&shared.identity, next).await {
            Ok(cross) => return Ok(cross),
            Err(error) => why = Some(format!("{}: {error}", ca.url)),
        }
    }
    Err(why.map_or_else(
        || {
            refuse(
                "must provide an external CA for the current external root CA to generate a cross-signed certificate",
            )
        },
        unable,
    ))
}

async fn check_external(shared: &Shared, new: &Cluster, needed: &Needed) -> Result<(), ApiError> {
    let mut reasons = Vec::new();
    for ca in external_cas(new, &needed.root_pem) {
        // It may show a certificate of its own root alone.
        let ca = ExternalCa { roots_pem: format!("{}{}", ca.roots_pem, needed.root_pem), ..ca };
        match ca.check(&shared.identity).await {
            Ok(()) => return Ok(()),
            Err(error) => reasons.push(format!("{}: {error}", ca.url)),
        }
    }
    let why = if reasons.is_empty() { "none is set".to_owned() } else { reasons.join("; ") };
    Err(refuse(&format!(
        "there must be at least one valid, reachable external CA corresponding to the {} CA certificate ({why})",
        needed.what
    )))
}

fn internal(error: &dyn std::error::Error) -> ApiError {
    ApiError::new(ErrorKind::Internal, error.to_string())
}
