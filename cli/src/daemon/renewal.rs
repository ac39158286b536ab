//! Keeps this node's certificate young and its root current, for as long as it is a member.
//!
//! When a certificate is due is decided in `skep_link::Life`; here it is waited for and asked for. Whoever
//! keeps connections follows the identity, and makes them anew.

use std::{sync::atomic::Ordering, time::Duration};

use anyhow::Context as _;
use skep_api::{Timestamp, id::IdSource};
use skep_link::{Identity, Life, RenewError, Whom};
use skep_manager::SystemIds;
use tokio::time::{Instant, sleep};

use super::{
    machine,
    node::{Inner, Membership, Place},
};

/// One manager's connection.
const DIAL_MAX: Duration = Duration::from_secs(2);
/// The wall clock is looked at this often: it may jump, and machines sleep.
const LOOK_EACH: Duration = Duration::from_secs(30);
/// A certificate that no manager took for this long is shown in `info`: one manager may be behind.
const REFUSED_AFTER: Duration = Duration::from_secs(5);
/// How `info` begins to say that.
const NOT_TAKEN: &str = "the managers do not take this node's certificate: ";

/// What is known of the certificate in use.
struct Known {
    life: Life,
    /// Whether it is to be replaced whatever its age.
    is_wanted: bool,
    n_failures: u32,
    /// Not before then.
    retry_at: Option<Instant>,
    /// How long certificates are to live, in seconds, and since when that is known.
    asked: Option<(i64, i64)>,
}

impl Known {
    fn of(identity: &Identity) -> Self {
        let (not_before, not_after) = identity.validity();
        let life = Life { not_before, not_after, chance: chance() };
        Self { life, is_wanted: false, n_failures: 0, retry_at: None, asked: None }
    }

    fn is_due(&self, now: i64) -> bool {
        let at = match self.asked {
            Some((secs, since)) => self.life.renew_at(Some(secs), since),
            None => self.life.renew_at(None, 0),
        };
        self.is_wanted || now >= at
    }

    fn failed(&mut self, now: i64) {
        self.retry_at = Some(Instant::now() + self.life.retry_in(self.n_failures, now));
        self.n_failures = self.n_failures.saturating_add(1);
    }
}

fn chance() -> u32 {
    u32::try_from(SystemIds::default().next_id().0 >> 96).unwrap_or(u32::MAX)
}

fn unix_secs() -> i64 {
    machine::clock() / 1_000_000_000
}

/// Renews when it is time, when a manager says so, and when the root changes; runs until it is dropped.
pub(super) async fn keep(node: &Inner, membership: &Membership) {
    let identity = &membership.identity;
    let (mut trust, mut wanted) = (membership.agent.trust(), membership.agent.renewals_wanted());
    let mut replaced = identity.replaced();
    let mut refused = membership.agent.refused();
    let mut refused_since = None;
    let mut known = Known::of(identity);
    let mut n_wanted = *wanted.borrow_and_update();
    loop {
        if replaced.has_changed().unwrap_or_default() {
            replaced.borrow_and_update();
            known = Known { asked: known.asked, ..Known::of(identity) };
        }
        let now = unix_secs();
        let told = trust.borrow_and_update().clone();
        if let Some(told) = told {
            let secs = i64::try_from(told.cert_expiry_secs).ok().filter(|secs| *secs > 0);
            if known.asked.map(|(secs, _)| secs) != secs {
                known.asked = secs.map(|secs| (secs, now));
            }
            if told.root_pem != identity.root_pem()
                && let Err(error) = take_root(node, identity, &told.root_pem).await
            {
                tracing::warn!(err = %error, "the swarm has another root; asking for a certificate under it");
                known.is_wanted = true;
            }
        }
        let is_resting = known.retry_at.is_some_and(|at| at > Instant::now());
        if known.is_due(now) && !is_resting {
            match renew(node, membership).await {
                Ok(()) => {
                    tracing::info!(until = %until(identity.validity().1), "this node's certificate is renewed")
                }
                Err(why) => {
                    known.failed(unix_secs());
                    tracing::warn!(err = why, "this node's certificate cannot be renewed yet; trying again");
                }
            }
        }
        if node.unsaved.load(Ordering::Relaxed) {
            let _renewing = node.renewing.lock().await;
            if let Err(error) = keep_on_disk(node, identity) {
                tracing::error!(err = format!("{error:#}"), "trying again");
            }
        }
        let why = refused.borrow_and_update().clone();
        refused_since = why.is_some().then(|| refused_since.unwrap_or_else(Instant::now));
        show(node, identity, why.as_deref().zip(refused_since));
        let showing = refused_since.map(|since| REFUSED_AFTER.saturating_sub(since.elapsed()));
        let showing = showing.filter(|rest| !rest.is_zero()).unwrap_or(LOOK_EACH);
        tokio::select! {
            () = sleep(pause(&known).min(showing)) => {}
            Ok(()) = trust.changed() => {}
            Ok(()) = refused.changed() => {}
            Ok(()) = replaced.changed() => {
                known = Known { asked: known.asked, ..Known::of(identity) };
            }
            Ok(()) = wanted.changed() => {
                let n = *wanted.borrow_and_update();
                known.is_wanted |= n != n_wanted;
                n_wanted = n;
                known.retry_at = None;
            }
        }
    }
}

/// Until the clock is looked at again.
fn pause(known: &Known) -> Duration {
    if let Some(at) = known.retry_at.filter(|at| *at > Instant::now()) {
        return at.saturating_duration_since(Instant::now()).min(LOOK_EACH);
    }
    let now = unix_secs();
    let (asked, since) = known.asked.map_or((None, 0), |(secs, since)| (Some(secs), since));
    let rest = known.life.renew_at(asked, since).saturating_sub(now);
    Duration::from_secs(u64::try_from(rest).unwrap_or_default()).clamp(Duration::from_millis(100), LOOK_EACH)
}

/// Trusts another root from now on, with the certificate as it is.
async fn take_root(node: &Inner, identity: &Identity, root_pem: &str) -> anyhow::Result<()> {
    let _renewing = node.renewing.lock().await;
    let under = identity.under(root_pem).context("the certificate is not valid under it")?;
    use_it(node, identity, &under)?;
    tracing::info!("this node trusts the swarm's new root");
    Ok(())
}

pub(super) async fn renew(node: &Inner, membership: &Membership) -> Result<(), String> {
    let Err(why) = ask_any(node, membership, |_| true).await else { return Ok(()) };
    // A manager that no other one answers has all that it takes: it may be the only one, or all have slept too
    // long to let each other in.
    let Place::Manager(_, control) = node.place() else { return Err(why) };
    let _renewing = node.renewing.lock().await;
    let renewed = control.renew_own().await.map_err(|error| format!("{why}; {error}"))?;
    use_it(node, &membership.identity, &renewed).map_err(|error| format!("{error:#}"))
}

/// Gets a certificate from any manager and takes it into use, if it is `fit`.
///
/// # Errors
/// Why the last one did not give one.
pub(super) async fn ask_any(
    node: &Inner,
    membership: &Membership,
    fit: impl Fn(&Identity) -> bool,
) -> Result<(), String> {
    let _renewing = node.renewing.lock().await;
    let identity = &membership.identity;
    let mut managers = membership.agent.managers();
    // Not all nodes ask the same one first.
    let n = usize::try_from(chance()).unwrap_or_default() % managers.len().max(1);
    managers.rotate_left(n);
    let mut why = "no manager is known".to_owned();
    for addr in managers {
        let asked = async {
            let dialled = skep_link::connect_once(&addr, identity, Whom::Manager, DIAL_MAX).await;
            let (channel, _) = dialled.map_err(|error| error.to_string())?;
            skep_link::renew(channel, identity).await.map_err(|error: RenewError| error.to_string())
        };
        match asked.await {
            Ok(renewed) if fit(&renewed) => {
                return use_it(node, identity, &renewed).map_err(|error| format!("{error:#}"));
            }
            Ok(_) => why = format!("{addr}: it knows of another role"),
            Err(words) => why = words,
        }
    }
    Err(why)
}

/// In use at once, also where it cannot be kept: the old one would lapse.
fn use_it(node: &Inner, identity: &Identity, new: &Identity) -> anyhow::Result<()> {
    identity.replace(new);
    keep_on_disk(node, identity)
}

/// A full disk is tried again: the next start needs it.
pub(super) fn keep_on_disk(node: &Inner, identity: &Identity) -> anyhow::Result<()> {
    let saved = node.save_identity(identity);
    node.unsaved.store(saved.is_err(), Ordering::Relaxed);
    saved.context("cannot keep the new certificate, which is in use")
}

/// `info` says why no manager takes this node's certificate, until one does.
fn show(node: &Inner, identity: &Identity, refused: Option<(&str, Instant)>) {
    let (_, not_after) = identity.validity();
    let now = unix_secs();
    let why = if now > not_after {
        let (then, now) = (until(not_after), until(now));
        Some(format!("it expired at {then}, and it is now {now}; if this clock is right,"))
    } else {
        let lasting = refused.filter(|(_, since)| since.elapsed() >= REFUSED_AFTER);
        lasting.map(|(why, _)| format!("{why}; if the swarm's root was changed without this node,"))
    };
    node.turn(|place| {
        let next = match (&*place, why) {
            (Place::Worker(membership) | Place::Joining(membership), Some(why)) => {
                let words = format!("{NOT_TAKEN}{why} \"docker swarm leave\" here, then join again");
                tracing::error!(err = words, "no manager lets this node in");
                Place::Refused(membership.clone(), words)
            }
            (Place::Refused(membership, words), None) if words.starts_with(NOT_TAKEN) => {
                Place::Worker(membership.clone())
            }
            (
                Place::Nowhere
                | Place::Broken(_)
                | Place::Locked
                | Place::Joining(_)
                | Place::Refused(..)
                | Place::Worker(_)
                | Place::Manager(..)
                | Place::Full(..),
                _,
            ) => return false,
        };
        *place = next;
        true
    });
}

fn until(unix_secs: i64) -> Timestamp {
    Timestamp(unix_secs.saturating_mul(1_000_000_000))
}
