//! Several members with real logs over a transport that can be cut: elections, forwarding, reads,
//! changes of membership, loss and return.

mod swarm;

use std::time::Duration;

use skep_raft::{ChangeError, Compaction, ProposeError, ReadError, Status};
use swarm::Swarm;
use tokio::time::Instant;

const IDS: [u64; 3] = [1, 2, 3];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_member_writes_and_reads() {
    let swarm = Swarm::new(3).await;
    swarm.leader(&IDS).await;
    let mut want = Vec::new();
    for round in 0..10 {
        for writer in IDS {
            want.push(format!("{round}.{writer}"));
            swarm.write(writer, &want[want.len() - 1]).await;
            assert_eq!(swarm.entries(writer), want, "it is applied where it was written");
            for reader in IDS {
                swarm.read(reader).await;
                assert_eq!(swarm.entries(reader), want, "a read at {reader} after a write at {writer}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_leader_decided_is_not_written_by_another() {
    let swarm = Swarm::new(3).await;
    let leader = swarm.leader(&IDS).await;
    let follower = IDS.into_iter().find(|id| *id != leader).unwrap();
    let refused = swarm.raft(follower).propose_as_leader(b"of a leader that was".to_vec()).await;
    assert!(matches!(refused, Err(ProposeError::NoLeader)), "{refused:?}");
    swarm.raft(leader).propose_as_leader(b"of the leader".to_vec()).await.unwrap();
    swarm.read(follower).await;
    assert_eq!(swarm.entries(follower), ["of the leader"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_leads_when_the_leader_is_gone_and_it_comes_back() {
    let mut swarm = Swarm::new(3).await;
    let old = swarm.leader(&IDS).await;
    swarm.write(old, "before").await;
    let rest: Vec<u64> = IDS.into_iter().filter(|id| *id != old).collect();
    swarm.stop(old).await;
    let started = Instant::now();
    let new = swarm.leader(&rest).await;
    println!("another leads after {:?}", started.elapsed());
    assert_ne!(new, old);
    for id in rest {
        swarm.write(id, &format!("after.{id}")).await;
    }
    swarm.start(old).await;
    swarm.leader(&IDS).await;
    swarm.read(old).await;
    assert_eq!(swarm.entries(old).len(), 3);
    assert_eq!(swarm.entries(old), swarm.entries(new));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_cut_off_neither_acknowledges_nor_reads() {
    let swarm = Swarm::new(3).await;
    let old = swarm.leader(&IDS).await;
    let rest: Vec<u64> = IDS.into_iter().filter(|id| *id != old).collect();
    swarm.wires.isolate(old, rest.clone());
    let started = Instant::now();
    let (write, read) =
        tokio::join!(swarm.raft(old).propose(b"lost".to_vec()), swarm.raft(old).read_barrier());
    assert!(matches!(write, Err(ProposeError::Lost | ProposeError::NoLeader)), "{write:?}");
    assert!(matches!(read, Err(ReadError::NoLeader)), "{read:?}");
    assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
    swarm.until(old, "without a majority", |s| !s.is_leader && !s.has_quorum && s.leader.is_none()).await;
    let again = swarm.raft(old).propose(b"refused".to_vec()).await;
    assert!(matches!(again, Err(ProposeError::NoLeader)), "{again:?}");
    let new = swarm.leader(&rest).await;
    swarm.write(new, "kept").await;
    swarm.wires.heal();
    swarm.until(old, "following", |s| s.leader.is_some_and(|leader| leader != old)).await;
    swarm.read(old).await;
    let entries = swarm.entries(old);
    assert!(entries.contains(&"kept".to_owned()) && !entries.contains(&"refused".to_owned()), "{entries:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_change_one_step_at_a_time() {
    let mut swarm = Swarm::new(3).await;
    let leader = swarm.leader(&IDS).await;
    let follower = IDS.into_iter().find(|id| *id != leader).unwrap();
    let refused = swarm.raft(follower).add_learner(4).await;
    assert_eq!(refused, Err(ChangeError::NotLeader));
    swarm.start(4).await;
    let raft = swarm.raft(leader).clone();
    assert_eq!(raft.add_voter(4).await, Err(ChangeError::NotMember { id: 4 }));
    for _ in 0..2 {
        raft.add_learner(4).await.unwrap();
    }
    swarm.until(leader, "with a learner", |s| s.learners.contains(&4)).await;
    for _ in 0..2 {
        raft.add_voter(4).await.unwrap();
    }
    swarm.until(4, "a voter", |s| s.voters.len() == 4 && s.learners.is_empty()).await;
    swarm.write(4, "from the new one").await;
    assert_eq!(raft.remove(leader).await, Err(ChangeError::Leads));
    for _ in 0..2 {
        raft.remove(follower).await.unwrap();
    }
    swarm.until(leader, "without it", |s| s.voters.len() == 3 && !s.voters.contains(&follower)).await;
    swarm.until(follower, "told", |s| s.removed && !s.voters.contains(&follower)).await;
    swarm.write(4, "without the old one").await;
    assert_eq!(raft.remove(99).await, Ok(()), "not a member");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removal_never_costs_the_majority() {
    let mut swarm = Swarm::new(3).await;
    let leader = swarm.leader(&IDS).await;
    let others: Vec<u64> = IDS.into_iter().filter(|id| *id != leader).collect();
    swarm.stop(others[0]).await;
    // It counts as there for a while.
    let deadline = Instant::now() + swarm::LIMIT;
    let silent = || {
        let at = swarm.raft(leader).status().borrow().members[&others[0]].acknowledged;
        at.is_none_or(|at| at.elapsed() > Duration::from_millis(2_100))
    };
    while !silent() {
        assert!(Instant::now() < deadline, "it is still heard");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let refused = swarm.raft(leader).remove(others[1]).await;
    assert_eq!(refused, Err(ChangeError::WouldLoseQuorum { reachable: 1, voters: 2 }));
    swarm.raft(leader).remove(others[0]).await.expect("the one that is down may go");
    swarm.write(others[1], "still there").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_lead_moves_when_asked() {
    let swarm = Swarm::new(3).await;
    for _ in 0..3 {
        let leader = swarm.leader(&IDS).await;
        let to = IDS.into_iter().find(|id| *id != leader).unwrap();
        let started = Instant::now();
        // It is given to nobody whom a new leader has not heard yet.
        let heard = |s: &Status| s.members.get(&to).is_some_and(|member| member.acknowledged.is_some());
        swarm.until(leader, "the other one is heard", heard).await;
        swarm.raft(leader).transfer_leadership(Some(to)).await.unwrap();
        println!("moved in {:?}", started.elapsed());
        swarm.write(leader, "after the move").await;
        println!("written after {:?}", started.elapsed());
        let leader = swarm.leader(&IDS).await;
        swarm.raft(leader).step_down().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_of_five_come_back_with_everything() {
    let mut swarm = Swarm::new(5).await;
    let ids = [1, 2, 3, 4, 5];
    swarm.leader(&ids).await;
    for id in ids {
        swarm.write(id, &format!("by {id}")).await;
    }
    for id in ids {
        swarm.stop(id).await;
    }
    for id in ids {
        swarm.start(id).await;
    }
    swarm.leader(&ids).await;
    for id in ids {
        swarm.read(id).await;
        assert_eq!(swarm.entries(id), ["by 1", "by 2", "by 3", "by 4", "by 5"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_member_begins_with_a_snapshot_and_all_come_back_from_theirs() {
    let mut swarm = Swarm::new(1).await;
    swarm.compaction.every = 400;
    swarm.stop(1).await;
    swarm.start(1).await;
    swarm.leads(1).await;
    let mut writes = tokio::task::JoinSet::new();
    for i in 0..2000 {
        let raft = swarm.raft(1).clone();
        writes.spawn(async move { raft.propose(format!("entry {i}").into_bytes()).await.unwrap() });
    }
    writes.join_all().await;
    for id in [2, 3] {
        swarm.start(id).await;
        swarm.raft(1).add_learner(id).await.unwrap();
        swarm.raft(1).add_voter(id).await.unwrap();
        swarm.read(id).await;
        assert_eq!(swarm.entries(id), swarm.entries(1));
        assert!(swarm.has_snapshot(id), "it did not get the log alone");
    }
    // One that was down for long is brought up by a snapshot over its own older state.
    swarm.stop(3).await;
    let mut writes = tokio::task::JoinSet::new();
    for i in 0..1500 {
        let raft = swarm.raft(1).clone();
        writes.spawn(async move { raft.propose(format!("later {i}").into_bytes()).await.unwrap() });
    }
    writes.join_all().await;
    swarm.start(3).await;
    swarm.leader(&IDS).await;
    swarm.read(3).await;
    assert_eq!(swarm.entries(3).len(), 3500);
    for id in IDS {
        swarm.stop(id).await;
    }
    for id in IDS {
        swarm.start(id).await;
    }
    swarm.leader(&IDS).await;
    swarm.write(3, "after all").await;
    for id in IDS {
        swarm.read(id).await;
        assert_eq!(swarm.entries(id).len(), 3501);
        assert_eq!(swarm.entries(id), swarm.entries(1));
    }
}

/// Text of a mebibyte that no compression makes small.
fn large(number: u64) -> String {
    let mut row = number;
    let words = std::iter::repeat_with(|| skep_raft::sim::random(&mut row));
    // Each character carries 6 of 8 bits.
    words
        .take(128 * 1024)
        .flat_map(|word| (0..8).map(move |i| char::from(48 + (word >> (8 * i)).to_le_bytes()[0] % 64)))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_piece_that_is_lost_is_sent_again_and_no_other() {
    let mut swarm = Swarm::new(1).await;
    for i in 0..8 {
        swarm.write(1, &large(i)).await;
    }
    swarm.stop(1).await;
    swarm.compaction = Compaction { every: 1_000, keep: 0, old_snapshots: 0 };
    swarm.start(1).await;
    swarm.leads(1).await;
    let mut writes = tokio::task::JoinSet::new();
    for i in 0..1_500 {
        let raft = swarm.raft(1).clone();
        writes.spawn(async move { raft.propose(format!("entry {i}").into_bytes()).await.unwrap() });
    }
    writes.join_all().await;
    swarm.wires.lose_large([2, 5]);
    swarm.start(2).await;
    swarm.raft(1).add_learner(2).await.unwrap();
    swarm.until(2, "there", |status| status.applied >= 1_508).await;
    assert_eq!(swarm.entries(2), swarm.entries(1));
    // Eight full ones, and one that is less than full.
    assert_eq!(swarm.wires.n_large(), 8 + 2, "what was lost is sent again, and nothing else");
    let files = swarm.files(2).await;
    assert_eq!(files.iter().filter(|name| name.starts_with("snapshot-")).count(), 1, "{files:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_was_away_for_long_catches_up_while_writes_go_on() {
    let mut swarm = Swarm::new(1).await;
    swarm.compaction = Compaction { every: 300, keep: 50, old_snapshots: 1 };
    swarm.stop(1).await;
    swarm.start(1).await;
    swarm.leads(1).await;
    for id in [2, 3] {
        swarm.start(id).await;
        swarm.raft(1).add_learner(id).await.unwrap();
        swarm.raft(1).add_voter(id).await.unwrap();
    }
    swarm.stop(3).await;
    let writer = swarm.raft(1).clone();
    let (stop, mut stopped) = tokio::sync::oneshot::channel();
    let writing = tokio::spawn(async move {
        let mut n = 0;
        while stopped.try_recv().is_err() {
            let writes = (0..16).map(|i| writer.propose(format!("write {}", n + i).into_bytes()));
            n += futures::future::join_all(writes).await.into_iter().filter(Result::is_ok).count();
        }
        n
    });
    // Two snapshots and what is kept before them.
    swarm.until(1, "well ahead", |status| status.applied > 900).await;
    swarm.start(3).await;
    let ahead = swarm.raft(1).status().borrow().applied;
    swarm.until(3, "near", |status| status.applied > ahead + 100).await;
    stop.send(()).unwrap();
    let n = writing.await.unwrap();
    swarm.read(3).await;
    assert_eq!(swarm.entries(3), swarm.entries(1));
    assert!(swarm.entries(3).len() >= n);
    assert!(swarm.has_snapshot(3), "the log alone does not reach back so far");
    let files = swarm.files(1).await;
    assert_eq!(files.iter().filter(|name| name.ends_with(".snap")).count(), 2, "the newest and one more");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_few_large_entries_are_snapshotted_too() {
    let swarm = Swarm::new(1).await;
    for i in 0..70 {
        swarm.write(1, &large(i)).await;
        if swarm.has_snapshot(1) {
            break;
        }
    }
    // The writing of it goes on beside.
    let deadline = Instant::now() + swarm::LIMIT;
    while !swarm.has_snapshot(1) {
        assert!(Instant::now() < deadline, "70 MiB of log and no snapshot");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
