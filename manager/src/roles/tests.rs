//! The steps: a table, and what always holds.

use std::collections::BTreeSet;

use skep_api::{
    Id, NodeId,
    id::{IdSource, SeededIds},
};

use super::decide::{Picture, Step, next};

fn set(ids: &[u64]) -> BTreeSet<u64> {
    ids.iter().copied().collect()
}

fn node(id: u64) -> NodeId {
    NodeId(Id(u128::from(id)))
}

fn picture(
    own: u64,
    wanted: &[u64],
    unwanted: &[u64],
    voters: &[u64],
    learners: &[u64],
    down: &[u64],
) -> Picture {
    let reachable: BTreeSet<u64> =
        voters.iter().chain(learners).copied().filter(|id| !down.contains(id)).collect();
    Picture {
        own,
        wanted: set(wanted),
        unwanted: unwanted.iter().map(|id| (*id, node(*id))).collect(),
        voters: set(voters),
        learners: set(learners),
        caught_up: reachable.clone(),
        reachable,
    }
}

#[test]
fn one_step_at_a_time() {
    for (what, picture, step) in [
        ("settled", picture(1, &[1, 2, 3], &[], &[1, 2, 3], &[], &[]), None),
        ("a new one follows first", picture(1, &[1, 2], &[], &[1], &[], &[]), Some(Step::AddLearner(2))),
        ("then votes", picture(1, &[1, 2], &[], &[1], &[2], &[]), Some(Step::AddVoter(2))),
        ("not before it answers", picture(1, &[1, 2], &[], &[1], &[2], &[2]), None),
        (
            "a second one follows meanwhile",
            picture(1, &[1, 2, 3], &[], &[1], &[2], &[2]),
            Some(Step::AddLearner(3)),
        ),
        ("demoted", picture(1, &[1, 3], &[2], &[1, 2, 3], &[], &[]), Some(Step::Remove(2))),
        ("demoted while down", picture(1, &[1, 3], &[2], &[1, 2, 3], &[], &[2]), Some(Step::Remove(2))),
        ("the store forgets it", picture(1, &[1, 3], &[2], &[1, 3], &[], &[]), Some(Step::Clear(2, node(2)))),
        ("no quorum without it", picture(1, &[1, 3], &[2], &[1, 2, 3], &[], &[3]), None),
        ("the leader is demoted", picture(1, &[2, 3], &[1], &[1, 2, 3], &[], &[]), Some(Step::Transfer(2))),
        ("to one that answers", picture(1, &[2, 3], &[1], &[1, 2, 3], &[], &[2]), Some(Step::Transfer(3))),
        ("the last one stays", picture(1, &[], &[1], &[1], &[], &[]), None),
        (
            "two of two are demoted: the last one stays",
            picture(1, &[], &[1, 2], &[1, 2], &[], &[]),
            Some(Step::Remove(2)),
        ),
        (
            "others go before the leader",
            picture(1, &[3], &[1, 2], &[1, 2, 3], &[], &[]),
            Some(Step::Remove(2)),
        ),
        ("a removed node's member", picture(1, &[1], &[], &[1, 2], &[], &[]), Some(Step::Remove(2))),
        ("a learner nobody wants", picture(1, &[1], &[], &[1], &[2], &[2]), Some(Step::Remove(2))),
        (
            "came again under a new id",
            picture(1, &[1, 2, 33], &[], &[1, 2, 3], &[33], &[3]),
            Some(Step::AddVoter(33)),
        ),
    ] {
        assert_eq!(next(&picture, &BTreeSet::new()), step, "{what}");
    }
    let waiting = picture(1, &[1, 2, 3], &[], &[1], &[], &[]);
    assert_eq!(next(&waiting, &BTreeSet::from([Step::AddLearner(2)])), None, "what failed rests a while");
}

/// Does a step as raft would.
fn take(picture: &mut Picture, step: Step) {
    match step {
        Step::Transfer(to) => picture.own = to,
        Step::Clear(id, _) => {
            picture.unwanted.remove(&id);
        }
        Step::AddLearner(id) => {
            picture.learners.insert(id);
        }
        Step::AddVoter(id) => {
            assert!(picture.learners.remove(&id), "{id} did not follow first");
            picture.voters.insert(id);
        }
        Step::Remove(id) => {
            assert_ne!(id, picture.own, "the leader removed itself");
            picture.voters.remove(&id);
            picture.learners.remove(&id);
        }
    }
}

#[test]
fn the_quorum_is_kept_and_the_steps_end() {
    for seed in 0..4000_u64 {
        let mut chance = SeededIds(seed);
        let mut bits = chance.next_id().0;
        let mut one_of = |n: u128| {
            let bit = bits % n;
            bits /= n;
            bit
        };
        let mut picture = Picture { own: 1, ..Picture::default() };
        picture.voters.insert(1);
        let mut alive = set(&[1]);
        for id in 1..=7_u64 {
            if one_of(4) != 0 || id == 1 {
                alive.insert(id);
            }
            match one_of(3) {
                0 => {
                    picture.voters.insert(id);
                }
                1 if id != 1 => {
                    picture.learners.insert(id);
                }
                _ => {}
            }
            match one_of(3) {
                0 => {
                    picture.wanted.insert(id);
                }
                1 => {
                    picture.unwanted.insert(id, node(id));
                }
                _ => {}
            }
        }
        let quorum =
            |picture: &Picture| picture.voters.intersection(&alive).count() > picture.voters.len() / 2;
        if !quorum(&picture) {
            continue;
        }
        let all_alive =
            picture.voters.union(&picture.learners).chain(&picture.wanted).all(|id| alive.contains(id));
        let mut n_steps = 0;
        loop {
            let members: BTreeSet<u64> = picture.voters.union(&picture.learners).copied().collect();
            picture.reachable = members.intersection(&alive).copied().collect();
            picture.caught_up = picture.reachable.clone();
            let Some(step) = next(&picture, &BTreeSet::new()) else { break };
            take(&mut picture, step);
            assert!(quorum(&picture), "seed {seed}: {step} lost the quorum: {picture:?}");
            n_steps += 1;
            assert!(n_steps < 50, "seed {seed}: no end: {picture:?}");
        }
        if all_alive && !picture.wanted.is_empty() {
            assert!(picture.is_settled(), "seed {seed}: stuck: {picture:?}");
        }
    }
}
