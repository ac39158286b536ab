//! Who is there: every decision about beats, suspicion, grace and holding, in the caller's time. Pure.
//!
//! In: signs of life, broken streams, excuses, what the store says of each node. Out, from [`Roster::step`]:
//! whom to probe, who is down, and when to look again. Invariants: a node that gives any sign of life
//! within each `down_after` is never down; suspicion alone never brings a node down sooner.

use std::{collections::BTreeMap, time::Duration};

use skep_api::NodeId;
use tokio::time::Instant;

/// An agent beats this often unless the swarm's spec says otherwise.
const BEAT: Duration = Duration::from_secs(1);
/// Beats shorter than this would be lost in the managers' own rhythm of telling each other.
const BEAT_MIN: Duration = Duration::from_millis(500);
/// Without a sign of life for so many beats a node is down (Swarm's number, `SK:manager/dispatcher`).
const DOWN_AFTER_BEATS: u32 = 3;
/// A beat may be so late before its node is suspect: other managers tell of theirs each half second.
const SUSPECT_MARGIN: Duration = Duration::from_millis(750);
/// Between probes of a node that stays suspect.
const PROBE_EACH: Duration = Duration::from_millis(700);
/// A daemon that said that it restarts may take so long.
const RESTART_GRACE: Duration = Duration::from_secs(60);
/// Greetings that two cores manage in a second when a whole fleet reconnects (measured: 200 to 380).
const GREETINGS_A_SECOND: u64 = 200;
/// Nodes that turn suspect within this time are counted together;
const MASS_WITHIN: Duration = Duration::from_secs(10);
/// from so many on, if they are also more than a fifth of all, it may be our network and not theirs,
const MASS_MIN: usize = 3;
/// and nobody is given up before no other node has turned suspect for this long.
const HOLD: Duration = Duration::from_secs(30);
/// Between attempts to record that a node is down.
const GIVE_UP_AGAIN: Duration = Duration::from_secs(1);
/// The store is looked at this often even if nothing is due.
const LOOK_EACH: Duration = Duration::from_secs(1);

/// The swarm's own figures.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Limits {
    /// How often agents beat.
    pub(crate) beat: Duration,
    /// The silence after which a node is down.
    pub(crate) down_after: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self::of_beat(BEAT)
    }
}

impl Limits {
    /// For this time between beats.
    pub(crate) fn of_beat(beat: Duration) -> Self {
        let beat = beat.max(BEAT_MIN);
        Self { beat, down_after: beat.saturating_mul(DOWN_AFTER_BEATS) }
    }

    fn suspect_after(self) -> Duration {
        self.beat.saturating_add(SUSPECT_MARGIN)
    }
}

/// How long so many agents may take to come back after they lost their manager.
pub(crate) fn reconnect_window(n_agents: usize, limits: Limits) -> Duration {
    let n_agents = u64::try_from(n_agents).unwrap_or(u64::MAX);
    limits.down_after.max(Duration::from_millis(n_agents.saturating_mul(1_000) / GREETINGS_A_SECOND))
}

/// Over how long so many agents spread their first attempt: half of what greeting all of them takes.
pub(crate) fn reconnect_spread(n_agents: usize) -> Duration {
    let n_agents = u64::try_from(n_agents).unwrap_or(u64::MAX);
    Duration::from_millis(n_agents.saturating_mul(500) / GREETINGS_A_SECOND)
}

/// What the store says of a node that is not down.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stored {
    /// It is to be heard.
    Expected,
    /// Its daemon said that it restarts, so long ago.
    Restarting(Duration),
}

#[derive(Debug)]
struct Expected {
    /// Silence is counted from here.
    since: Instant,
    /// Its stream broke then, and no sign of life came after that.
    broken: Option<Instant>,
    is_suspect: bool,
    probed: Option<Instant>,
    restarting: Option<Restarting>,
    given_up: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Restarting {
    /// When its host last answered.
    host: Instant,
    /// Its time is up then, whoever leads meanwhile.
    until: Instant,
}

impl Expected {
    fn suspect_at(&self, limits: Limits) -> Instant {
        let silent = self.since + limits.suspect_after();
        self.broken.map_or(silent, |broken| broken.min(silent))
    }

    fn deadline(&self, limits: Limits) -> Instant {
        let silent = self.since + limits.down_after;
        match self.restarting {
            None => silent,
            Some(Restarting { host, until }) => (host + limits.down_after).min(until).max(silent),
        }
    }
}

/// What to do now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Step {
    /// Nodes to probe.
    pub(crate) probe: Vec<NodeId>,
    /// Nodes to record as down. They come again until the store says so.
    pub(crate) down: Vec<NodeId>,
    /// Nodes whose time is up, but who are held.
    pub(crate) held: Vec<NodeId>,
    /// When to look again.
    pub(crate) next: Instant,
}

/// The nodes that are expected.
#[derive(Debug)]
pub(crate) struct Roster {
    limits: Limits,
    nodes: BTreeMap<NodeId, Expected>,
    /// Who turned suspect and gave no sign of life since; also those who are down by now.
    turned: BTreeMap<NodeId, Instant>,
    hold_until: Option<Instant>,
}

impl Roster {
    /// A leader begins: each of these nodes must be heard within the reconnect window, but for those that
    /// have not lost their manager (`settled`, with their last signs of life): for them nothing changes.
    pub(crate) fn begin(
        limits: Limits,
        stored: impl IntoIterator<Item = (NodeId, Stored)>,
        settled: impl IntoIterator<Item = (NodeId, Instant)>,
        now: Instant,
    ) -> Self {
        let mut roster = Self { limits, nodes: BTreeMap::new(), turned: BTreeMap::new(), hold_until: None };
        roster.sync(limits, stored, now);
        let all: Vec<NodeId> = roster.nodes.keys().copied().collect();
        roster.excuse(all, now);
        for (node, at) in settled {
            if let Some(expected) = roster.nodes.get_mut(&node) {
                expected.since = at.min(now);
            }
        }
        roster
    }

    /// What the store says: these nodes, and no others, are expected.
    pub(crate) fn sync(
        &mut self,
        limits: Limits,
        stored: impl IntoIterator<Item = (NodeId, Stored)>,
        now: Instant,
    ) {
        self.limits = limits;
        let mut before = std::mem::take(&mut self.nodes);
        for (id, stored) in stored {
            let mut expected = before.remove(&id).unwrap_or_else(|| {
                self.turned.remove(&id);
                Expected {
                    since: now,
                    broken: None,
                    is_suspect: false,
                    probed: None,
                    restarting: None,
                    given_up: None,
                }
            });
            expected.restarting = match stored {
                Stored::Expected => None,
                Stored::Restarting(ago) => Some(
                    expected
                        .restarting
                        .unwrap_or(Restarting { host: now, until: now + RESTART_GRACE.saturating_sub(ago) }),
                ),
            };
            self.nodes.insert(id, expected);
        }
    }

    /// A node gave a sign of life.
    pub(crate) fn alive(&mut self, node: NodeId, at: Instant) {
        let Some(expected) = self.nodes.get_mut(&node) else { return };
        if at > expected.since {
            expected.since = at;
        }
        if expected.broken.is_some_and(|broken| broken < at) {
            expected.broken = None;
        }
    }

    /// The host of a node that restarts answered, though its daemon did not.
    pub(crate) fn host_alive(&mut self, node: NodeId, at: Instant) {
        let restarting = self.nodes.get_mut(&node).and_then(|expected| expected.restarting.as_mut());
        if let Some(restarting) = restarting {
            restarting.host = at.max(restarting.host);
        }
    }

    /// A node's only stream broke. Says whether that is news.
    pub(crate) fn broken(&mut self, node: NodeId, at: Instant) -> bool {
        let Some(expected) = self.nodes.get_mut(&node) else { return false };
        let is_news = expected.broken.is_none();
        expected.broken.get_or_insert(at);
        is_news
    }

    /// These nodes lost their manager, not we them: they get the time to find another.
    pub(crate) fn excuse(&mut self, nodes: impl IntoIterator<Item = NodeId>, now: Instant) {
        let window = reconnect_window(self.nodes.len(), self.limits);
        let since = now + (window - self.limits.down_after);
        for node in nodes {
            if let Some(expected) = self.nodes.get_mut(&node) {
                expected.since = since.max(expected.since);
                expected.broken = None;
            }
        }
    }

    /// We did not run for a while: what nodes said meanwhile is not read yet.
    pub(crate) fn grant_all(&mut self, now: Instant) {
        for expected in self.nodes.values_mut() {
            expected.since = now.max(expected.since);
        }
    }

    /// Until when nobody is given up, while that is so.
    pub(crate) fn hold(&self) -> Option<Instant> {
        self.hold_until
    }

    /// What to do now.
    pub(crate) fn step(&mut self, now: Instant) -> Step {
        self.turn(now);
        let limits = self.limits;
        let expired: Vec<NodeId> =
            self.nodes.iter().filter(|(_, e)| e.deadline(limits) <= now).map(|(id, _)| *id).collect();
        self.begin_or_end_hold(now, !expired.is_empty());
        let (held, expired) =
            if self.hold_until.is_some() { (expired, Vec::new()) } else { (Vec::new(), expired) };
        let mut down = Vec::new();
        for id in expired {
            let Some(expected) = self.nodes.get_mut(&id) else { continue };
            if expected.given_up.is_none_or(|at| at + GIVE_UP_AGAIN <= now) {
                expected.given_up = Some(now);
                down.push(id);
            }
        }
        let mut probe = Vec::new();
        for (id, expected) in self.nodes.iter_mut().filter(|(_, e)| e.is_suspect) {
            if expected.probed.is_none_or(|at| at + PROBE_EACH <= now) {
                expected.probed = Some(now);
                probe.push(*id);
            }
        }
        Step { probe, down, held, next: self.next(now) }
    }

    /// Brings each node's suspicion up to date.
    fn turn(&mut self, now: Instant) {
        for (id, expected) in &mut self.nodes {
            let at = expected.suspect_at(self.limits);
            if at > now {
                expected.is_suspect = false;
                expected.given_up = None;
                self.turned.remove(id);
                continue;
            }
            if expected.is_suspect {
                continue;
            }
            expected.is_suspect = true;
            expected.probed = None;
            if expected.restarting.is_none() {
                self.turned.insert(*id, at);
                if let Some(until) = &mut self.hold_until {
                    *until = (at + HOLD).max(*until);
                }
            }
        }
        // Older ones do not count in any way.
        self.turned.retain(|_, at| *at + MASS_WITHIN + HOLD > now);
    }

    fn begin_or_end_hold(&mut self, now: Instant, is_anyone_expired: bool) {
        if let Some(until) = self.hold_until {
            let is_over = until <= now || self.turned.is_empty();
            self.hold_until = (!is_over).then_some(until);
            return;
        }
        // Looked at when somebody's time is up: who found another manager meanwhile is not counted.
        let Some(newest) = self.turned.values().max().copied().filter(|_| is_anyone_expired) else { return };
        let n_suspects = self.turned.values().filter(|at| **at + MASS_WITHIN >= newest).count();
        let n_given_up = self.turned.keys().filter(|id| !self.nodes.contains_key(*id)).count();
        let n_nodes = self.nodes.len() + n_given_up;
        if n_suspects >= MASS_MIN && n_suspects * 5 > n_nodes && newest + HOLD > now {
            self.hold_until = Some(newest + HOLD);
        }
    }

    fn next(&self, now: Instant) -> Instant {
        let mut next = self.hold_until.unwrap_or(now + LOOK_EACH).min(now + LOOK_EACH);
        for expected in self.nodes.values() {
            if !expected.is_suspect {
                next = next.min(expected.suspect_at(self.limits));
                continue;
            }
            next = next.min(expected.probed.map_or(now, |at| at + PROBE_EACH));
            let deadline = expected.deadline(self.limits);
            if deadline > now {
                next = next.min(deadline);
            } else if let Some(at) = expected.given_up {
                next = next.min(at + GIVE_UP_AGAIN);
            }
        }
        next
    }
}

#[cfg(test)]
#[path = "roster_tests.rs"]
mod tests;
