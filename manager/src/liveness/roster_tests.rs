//! Liveness in virtual time: each rule by itself, then any mixture of signs of life.

use proptest::prelude::*;
use skep_api::Id;

use super::*;

fn node(n: u64) -> NodeId {
    NodeId(Id(u128::from(n)))
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// A roster with a clock of its own, which runs every step that is due, as its shell does.
struct Play {
    start: Instant,
    now: Instant,
    roster: Roster,
    stored: BTreeMap<NodeId, Stored>,
    /// Who went down when, in ms.
    down: Vec<(NodeId, u64)>,
    probed: Vec<(NodeId, u64)>,
    n_steps: usize,
}

impl Play {
    /// Long after the leader's beginning: nodes 1..=n, all heard just now.
    fn of(n: u64) -> Self {
        let mut play = Self::beginning(n);
        for id in 1..=n {
            play.roster.alive(node(id), play.now + ms(60_000));
        }
        play.now += ms(60_000);
        play.start = play.now;
        play
    }

    fn beginning(n: u64) -> Self {
        let now = Instant::now();
        let stored: BTreeMap<_, _> = (1..=n).map(|id| (node(id), Stored::Expected)).collect();
        let roster = Roster::begin(Limits::default(), stored.clone(), [], now);
        Self { start: now, now, roster, stored, down: Vec::new(), probed: Vec::new(), n_steps: 0 }
    }

    fn at(&self) -> u64 {
        u64::try_from((self.now - self.start).as_millis()).unwrap()
    }

    fn step(&mut self) -> Instant {
        self.n_steps += 1;
        self.roster.sync(Limits::default(), self.stored.clone(), self.now);
        let step = self.roster.step(self.now);
        let at = self.at();
        for id in &step.down {
            self.down.push((*id, at));
            self.stored.remove(id);
        }
        self.probed.extend(step.probe.into_iter().map(|id| (id, at)));
        step.next
    }

    /// Lets time pass until so many ms after the start.
    fn until(&mut self, at: u64) {
        let end = self.start + ms(at);
        loop {
            let next = self.step();
            if next > end {
                break;
            }
            self.now = self.now.max(next);
        }
        self.now = end;
    }

    /// Beats of all but these nodes, each second, until then.
    fn beats_but(&mut self, silent: &[u64], until: u64) {
        let mut at = self.at();
        while at < until {
            at = until.min(at + 1_000);
            self.until(at);
            let others: Vec<_> =
                self.stored.keys().copied().filter(|id| !silent.iter().any(|n| node(*n) == *id)).collect();
            for id in others {
                self.roster.alive(id, self.now);
            }
        }
    }
}

#[test]
fn a_node_is_down_three_seconds_after_its_last_beat() {
    let mut play = Play::of(2);
    play.beats_but(&[], 2_000);
    play.beats_but(&[1], 4_999);
    assert_eq!(play.down, []);
    play.until(5_000);
    assert_eq!(play.down, [(node(1), 5_000)]);
    assert!(play.n_steps < 60, "{} steps", play.n_steps);
}

#[test]
fn a_suspect_is_probed_again_and_again_and_its_answer_counts_as_a_beat() {
    let mut play = Play::of(1);
    play.until(2_900);
    assert_eq!(play.probed, [(node(1), 1_750), (node(1), 2_450)]);
    play.roster.alive(node(1), play.now);
    play.until(5_800);
    assert_eq!(play.down, []);
    play.until(5_900);
    assert_eq!(play.down, [(node(1), 5_900)]);
}

#[test]
fn a_broken_stream_is_probed_at_once_and_shortens_nothing() {
    let mut play = Play::of(1);
    play.until(500);
    assert!(play.roster.broken(node(1), play.now));
    assert!(!play.roster.broken(node(1), play.now));
    play.until(2_999);
    assert_eq!(play.probed.first(), Some(&(node(1), 500)));
    assert_eq!(play.down, []);
    play.until(3_000);
    assert_eq!(play.down, [(node(1), 3_000)]);
}

#[test]
fn a_sign_of_life_from_before_the_break_does_not_lift_suspicion() {
    let mut play = Play::of(1);
    play.until(500);
    play.roster.broken(node(1), play.now);
    play.roster.alive(node(1), play.start + ms(400));
    play.until(600);
    assert_eq!(play.probed.len(), 1);
    play.roster.alive(node(1), play.start + ms(550));
    play.until(2_200);
    assert_eq!(play.probed.len(), 1, "not suspect any more");
}

#[test]
fn a_new_leader_waits_for_the_fleet() {
    for (n, window) in [(5, 3_000), (600, 3_000), (5_000, 25_000)] {
        let mut play = Play::beginning(n);
        // All but the last come back.
        let others: Vec<NodeId> = (1..n).map(node).collect();
        play.until(window - 1);
        for id in &others {
            play.roster.alive(*id, play.now);
        }
        assert_eq!(play.down, []);
        play.until(window);
        assert_eq!(play.down, [(node(n), window)]);
    }
}

#[test]
fn a_new_leader_grants_no_time_to_those_who_kept_their_manager() {
    let mut play = Play::beginning(2);
    let stored = play.stored.clone();
    // The first one is with another manager, and gave its last sign of life 1.2 s ago.
    let settled = [(node(1), play.now.checked_sub(ms(1_200)).unwrap())];
    play.roster = Roster::begin(Limits::default(), stored, settled, play.now);
    play.until(4_000);
    assert_eq!(play.down, [(node(1), 1_800), (node(2), 3_000)]);
    assert!(play.probed.iter().any(|(id, at)| (*id, *at) == (node(1), 550)), "{:?}", play.probed);
}

#[test]
fn a_new_leader_does_not_prolong_a_restart() {
    let mut play = Play::of(2);
    play.stored.insert(node(1), Stored::Restarting(ms(50_000)));
    for at in (500..=14_000).step_by(500) {
        play.until(at);
        play.roster.host_alive(node(1), play.now);
        play.roster.alive(node(2), play.now);
    }
    assert_eq!(play.down, [(node(1), 10_000)]);
}

#[test]
fn agents_of_a_lost_manager_get_time_to_find_another() {
    let mut play = Play::of(5);
    play.beats_but(&[1, 2, 3], 2_000);
    // Two were its agents; the third one ran on its host.
    play.roster.excuse([node(1), node(2)], play.now);
    play.beats_but(&[1, 2, 3], 4_000);
    assert_eq!(play.down, [(node(3), 3_000)], "no mass loss: two of the three only lost their manager");
    // One of them finds another manager.
    play.beats_but(&[1, 3], 4_900);
    play.until(5_000);
    assert_eq!(play.down, [(node(3), 3_000), (node(1), 5_000)]);
}

#[test]
fn one_or_two_of_five_go_down_but_three_are_held() {
    let mut play = Play::of(5);
    play.beats_but(&[1, 2], 4_000);
    assert_eq!(play.down, [(node(1), 3_000), (node(2), 3_000)]);

    let mut play = Play::of(5);
    play.beats_but(&[1, 2, 3], 31_000);
    assert_eq!(play.down, []);
    assert!(play.roster.hold().is_some());
    // The hold ends thirty seconds after the last of them turned suspect, at 1.75 s.
    play.beats_but(&[1, 2, 3], 32_000);
    assert_eq!(play.down, [(node(1), 31_750), (node(2), 31_750), (node(3), 31_750)]);
    assert!(play.roster.hold().is_none());
}

#[test]
fn three_of_a_hundred_are_no_mass_and_those_lost_before_count() {
    let mut play = Play::of(100);
    play.beats_but(&[1, 2, 3], 4_000);
    assert_eq!(play.down.len(), 3);

    // One each three seconds: the third within ten seconds of the first is held.
    let mut play = Play::of(5);
    play.beats_but(&[1], 3_000);
    play.beats_but(&[1, 2], 6_000);
    play.beats_but(&[1, 2, 3], 10_000);
    assert_eq!(play.down, [(node(1), 3_000), (node(2), 6_000)]);
    assert!(play.roster.hold().is_some());
}

#[test]
fn a_hold_goes_on_with_each_new_suspect_and_ends_when_nobody_is_one() {
    let mut play = Play::of(10);
    play.beats_but(&[1, 2, 3], 20_000);
    let until = play.roster.hold().unwrap();
    play.beats_but(&[1, 2, 3, 4], 23_000);
    assert!(play.roster.hold().unwrap() > until + ms(15_000));
    play.beats_but(&[], 26_000);
    assert_eq!((play.roster.hold(), play.down.len()), (None, 0));
}

#[test]
fn a_daemon_that_restarts_has_a_minute_while_its_host_answers() {
    let mut play = Play::of(5);
    for n in 1..=3 {
        play.stored.insert(node(n), Stored::Restarting(Duration::ZERO));
    }
    // The first one's host answers, the second one's does not; the third is back.
    let mut at = 0;
    while at < 61_000 {
        at += 500;
        play.until(at);
        play.roster.host_alive(node(1), play.now);
        for n in [4, 5] {
            play.roster.alive(node(n), play.now);
        }
        if at > 2_000 {
            play.stored.insert(node(3), Stored::Expected);
            play.roster.alive(node(3), play.now);
        }
    }
    assert_eq!(play.down, [(node(2), 3_000), (node(1), 60_000)]);
}

#[test]
fn a_leader_that_hung_gives_everybody_time() {
    let mut play = Play::of(3);
    play.now += ms(60_000);
    play.roster.grant_all(play.now);
    play.until(62_999);
    assert_eq!(play.down, []);
}

#[test]
fn who_could_not_be_recorded_as_down_comes_again() {
    let mut roster = Roster::begin(Limits::default(), [(node(1), Stored::Expected)], [], Instant::now());
    let at = Instant::now() + ms(5_000);
    assert_eq!(roster.step(at).down, [node(1)]);
    let step = roster.step(at + ms(10));
    assert!(step.down.is_empty() && step.next > at + ms(10));
    assert_eq!(roster.step(at + ms(1_000)).down, [node(1)]);
    roster.sync(Limits::default(), [], at + ms(1_001));
    assert!(roster.step(at + ms(3_000)).down.is_empty());
}

#[test]
fn the_period_is_the_swarms() {
    let limits = Limits::of_beat(Duration::from_secs(5));
    assert_eq!((limits.beat, limits.down_after), (Duration::from_secs(5), Duration::from_secs(15)));
    let at_least = Limits::of_beat(ms(100));
    assert_eq!(at_least.down_after, ms(1_500));
    assert!(at_least.suspect_after() < at_least.down_after);
    assert_eq!(reconnect_window(5_000, Limits::default()), Duration::from_secs(25));
    assert_eq!(reconnect_window(100, limits), Duration::from_secs(15));
}

proptest! {
    /// Whoever gives a sign of life within each three seconds is never down, whatever happens to the others
    /// and to streams; whoever is silent is down at three seconds, or when a hold ends.
    #[test]
    fn signs_of_life_keep_a_node(
        n in 1_u64..12,
        events in proptest::collection::vec((1_u64..12, 0_u64..2_900, 0_u8..4), 1..80),
    ) {
        let mut play = Play::of(n);
        let mut last: BTreeMap<u64, u64> = (1..=n).map(|id| (id, 0)).collect();
        for (id, pause, what) in events {
            let at = play.at() + pause / n;
            // Node 1 is never silent for long.
            for soon in (play.at()..at).step_by(500) {
                play.until(soon);
                play.roster.alive(node(1), play.now);
            }
            play.until(at);
            play.roster.alive(node(1), play.now);
            if id > n {
                continue;
            }
            match what {
                0 => { play.roster.broken(node(id), play.now); }
                _ => {
                    play.roster.alive(node(id), play.now);
                    last.insert(id, at);
                }
            }
        }
        let end = play.at() + 45_000;
        for at in (play.at()..end).step_by(500) {
            play.until(at);
            play.roster.alive(node(1), play.now);
        }
        prop_assert!(play.down.iter().all(|(id, _)| *id != node(1)), "{:?}", play.down);
        for id in 2..=n {
            let gone = play.down.iter().find(|(down, _)| *down == node(id)).map(|(_, at)| *at);
            let gone = gone.expect("the silent go down in the end");
            // `last` may be from when it went down, or after: then it was silent for three seconds before.
            prop_assert!(gone >= 3_000 && (gone >= last[&id] + 3_000 || gone <= last[&id]));
        }
        if n < 3 {
            // Too few for a hold.
            for (id, at) in &play.down {
                prop_assert!(*at <= last.iter().find(|(n, _)| node(**n) == *id).unwrap().1 + 3_000);
            }
        }
    }
}
