//! A node's new certificate: for the role that the store gives it now, under a fresh key; and when it is due.

use std::time::Duration;

use skep_api::wire;
use tonic::transport::Channel;

use crate::{CaError, Identity, IdentityError, new_csr, stubs::node_ca_client::NodeCaClient};

/// Of a certificate's life, from its first second on: renewed at a random point between the two (Swarm's
/// figures, `SK:ca/certificates.go`), in hundredths.
const RENEW_FROM: i128 = 50;
const RENEW_TO: i128 = 80;
/// Certificates that live longer than is asked for now are replaced within this time, at random.
const SHORTEN_WITHIN_SECS: i64 = 300;
/// The CA dates certificates back, and clocks are not exact: so much longer a life is not news.
const SHORTEN_SLACK_SECS: i64 = 2 * 3600;
/// The first pause after a failure, doubled at each further one,
const RETRY_MIN: Duration = Duration::from_secs(1);
/// up to this;
const RETRY_MAX: Duration = Duration::from_secs(300);
/// but a certificate's last hours are not slept through: at most this part of what is left of it.
const RETRY_PART: u32 = 8;
/// The least pause.
const RETRY_LEAST: Duration = Duration::from_millis(200);
/// An external CA may take 5 s (Swarm's figure), and there may be a second one.
const RENEW_MAX: Duration = Duration::from_secs(12);

/// From when to when a certificate is valid, in Unix seconds, with its own share of chance. Decides; waits
/// are the caller's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Life {
    /// Its first second: an hour before it was made.
    pub not_before: i64,
    /// Its last one.
    pub not_after: i64,
    /// Drawn once for each certificate, evenly from all values.
    pub chance: u32,
}

impl Life {
    /// When it is to be renewed, in Unix seconds: between half and four fifths of its life, or soon if it
    /// lives longer than `asked_secs` (what the swarm's settings say now) allows. `since` is when that was
    /// first known.
    #[must_use]
    pub fn renew_at(&self, asked_secs: Option<i64>, since: i64) -> i64 {
        let share = |span: i128| span * i128::from(self.chance) / (1_i128 << 32);
        let life = i128::from(self.not_after) - i128::from(self.not_before);
        let at =
            i128::from(self.not_before) + (life * RENEW_FROM + share(life * (RENEW_TO - RENEW_FROM))) / 100;
        let is_long =
            asked_secs.is_some_and(|asked| life > i128::from(asked) + i128::from(SHORTEN_SLACK_SECS));
        let soon = i128::from(since) + share(i128::from(SHORTEN_WITHIN_SECS));
        let at = if is_long { at.min(soon) } else { at };
        i64::try_from(at).unwrap_or(self.not_after)
    }

    /// Whether nobody takes it any more at `now`.
    #[must_use]
    pub fn is_over(&self, now: i64) -> bool {
        now > self.not_after
    }

    /// The pause after so many failures in a row.
    #[must_use]
    pub fn retry_in(&self, n_failures: u32, now: i64) -> Duration {
        let pause = RETRY_MIN.saturating_mul(1 << n_failures.min(16)).min(RETRY_MAX);
        // Once it is over nothing more is lost.
        let rest = u64::try_from(self.not_after.saturating_sub(now)).ok().filter(|rest| *rest > 0);
        let part = rest.map_or(RETRY_MAX, |rest| Duration::from_secs(rest) / RETRY_PART);
        let pause = pause.min(part);
        (pause / 2 + (pause / 2).mul_f64(f64::from(self.chance) / f64::from(u32::MAX))).max(RETRY_LEAST)
    }
}

/// A certificate could not be renewed; the old one is as it was.
#[derive(Debug, thiserror::Error)]
pub enum RenewError {
    /// No request could be made.
    #[error("cannot make a certificate signing request")]
    Csr(#[source] CaError),
    /// The manager said no, or broke off.
    #[error("the manager does not renew this node's certificate: {}", .0.message())]
    Refused(#[source] Box<tonic::Status>),
    /// The answer does not fit our key or the root.
    #[error("unusable certificate from the manager: {0}")]
    Identity(#[source] IdentityError),
    /// The answer is for somebody else.
    #[error("the manager answered with a certificate of node {found}")]
    OtherNode {
        /// Whom it names.
        found: String,
    },
}

/// Asks the manager at the other end of `channel` for a new certificate in the place of `identity`'s. The
/// result is neither saved nor in use yet: see [`Identity::save`] and [`Identity::replace`].
///
/// # Errors
/// [`RenewError`].
pub async fn renew(channel: Channel, identity: &Identity) -> Result<Identity, RenewError> {
    renew_by(identity, async |csr_pem| {
        let mut request = tonic::Request::new(wire::RenewRequest { csr_pem });
        request.set_timeout(RENEW_MAX);
        let answer = NodeCaClient::new(channel).renew(request).await?.into_inner();
        Ok((answer.certificate_pem, answer.ca_cert_pem))
    })
    .await
}

/// The same of whoever signs: `sign` gets the request and answers certificates and root, all PEM.
///
/// # Errors
/// [`RenewError`].
pub async fn renew_by(
    identity: &Identity,
    sign: impl AsyncFnOnce(String) -> Result<(String, String), tonic::Status>,
) -> Result<Identity, RenewError> {
    let (csr_pem, key_pem) = new_csr().map_err(RenewError::Csr)?;
    let (certificate_pem, root_pem) =
        sign(csr_pem).await.map_err(|status| RenewError::Refused(Box::new(status)))?;
    let renewed = Identity::new(certificate_pem, key_pem, root_pem).map_err(RenewError::Identity)?;
    if renewed.node_id() != identity.node_id() || renewed.cluster_id() != identity.cluster_id() {
        return Err(RenewError::OtherNode { found: renewed.node_id() });
    }
    Ok(renewed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3600;

    fn life(life_secs: i64, chance: u32) -> Life {
        // Dated back by an hour, made at 0.
        Life { not_before: -HOUR, not_after: life_secs, chance }
    }

    #[test]
    fn due_between_half_and_four_fifths_of_the_life() {
        for life_secs in [HOUR, 2 * HOUR, 90 * 24 * HOUR, 20 * 365 * 24 * HOUR] {
            let all = life_secs + HOUR;
            let at = |chance| life(life_secs, chance).renew_at(None, 0) + HOUR;
            assert_eq!(at(0), all / 2);
            assert!((all * 65 / 100 - at(u32::MAX / 2)).abs() <= 1);
            assert!((all * 80 / 100 - 1..=all * 80 / 100).contains(&at(u32::MAX)), "{life_secs}");
        }
        // Swarm's least life is two hours with the hour before: due within 36 minutes, well before its end.
        assert!((0..=36 * 60).contains(&life(HOUR, 123_456_789).renew_at(None, 0)));
    }

    #[test]
    fn a_shorter_life_that_is_asked_for_comes_soon() {
        let long = life(90 * 24 * HOUR, u32::MAX / 2);
        let since = 1000;
        assert_eq!(long.renew_at(Some(90 * 24 * HOUR), since), long.renew_at(None, 0));
        let soon = long.renew_at(Some(HOUR), since);
        assert!((since..=since + SHORTEN_WITHIN_SECS).contains(&soon), "{soon}");
        assert_eq!(long.renew_at(Some(180 * 24 * HOUR), since), long.renew_at(None, 0));
        // What is due anyway does not wait.
        assert_eq!(long.renew_at(Some(HOUR), i64::MAX / 4), long.renew_at(None, 0));
    }

    #[test]
    fn pauses_grow_and_leave_time_before_the_end() {
        let long = life(90 * 24 * HOUR, 0);
        let pauses: Vec<u64> =
            [0, 1, 2, 5, 40].map(|n| u64::try_from(long.retry_in(n, 0).as_millis()).unwrap()).to_vec();
        assert_eq!(pauses, [500, 1000, 2000, 16_000, 150_000]);
        assert!(long.retry_in(40, 90 * 24 * HOUR - 80) <= Duration::from_secs(10));
        assert_eq!(long.retry_in(0, 90 * 24 * HOUR - 1), RETRY_LEAST);
        assert_eq!(long.retry_in(40, 91 * 24 * HOUR), RETRY_MAX / 2, "over: no hurry");
        assert!(long.is_over(90 * 24 * HOUR + 1) && !long.is_over(90 * 24 * HOUR));
    }

    /// A year of a node whose certificates live an hour and whose manager is away one time in three, for up
    /// to ten minutes: it is never without a valid one.
    #[test]
    fn an_hours_certificates_are_renewed_for_a_year() {
        let mut bits = 1_u64;
        let mut chance = || {
            bits = bits.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            u32::try_from(bits >> 32).unwrap()
        };
        let mut now = 0_i64;
        let mut held = Life { not_before: -HOUR, not_after: HOUR, chance: chance() };
        let mut n_renewed = 0;
        while now < 365 * 24 * HOUR {
            now = now.max(held.renew_at(Some(HOUR), now));
            let back_at = if chance() % 3 == 0 { now + i64::from(chance() % 600) } else { now };
            let mut n_failures = 0;
            while now < back_at {
                now += i64::try_from(held.retry_in(n_failures, now).as_millis()).unwrap() / 1000 + 1;
                n_failures += 1;
            }
            assert!(!held.is_over(now), "lapsed at {now}: {held:?}");
            held = Life { not_before: now - HOUR, not_after: now + HOUR, chance: chance() };
            n_renewed += 1;
            // A renewal at once after a renewal is none.
            now += 1;
        }
        assert!((14_000..40_000).contains(&n_renewed), "{n_renewed}");
    }
}
