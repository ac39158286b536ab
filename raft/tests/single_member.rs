//! The life of a swarm's only member, through the public API alone.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use skep_raft::{
    Alone, BootstrapError, Config, ENTRY_BYTES_MAX, Leadership, OpenError, ProposeError, Raft, ReadError,
    StateMachine, WriteState,
};
use tempfile::TempDir;
use tokio::time::{Instant, timeout};

/// Keeps what was applied; answers how much that is.
#[derive(Default)]
struct Journal(Mutex<Vec<(u64, Vec<u8>)>>);

impl Journal {
    fn entries(&self) -> Vec<String> {
        self.0
            .lock()
            .expect("no test panics while it holds this")
            .iter()
            .map(|(_, e)| String::from_utf8_lossy(e).into_owned())
            .collect()
    }
}

impl StateMachine for Journal {
    fn apply(&self, index: u64, entry: &[u8]) -> Vec<u8> {
        let mut entries = self.0.lock().expect("no test panics while it holds this");
        assert!(entries.last().is_none_or(|(last, _)| *last < index), "in log order, each once");
        entries.push((index, entry.to_vec()));
        entries.len().to_string().into_bytes()
    }

    fn snapshot(&self) -> WriteState {
        unimplemented!("these tests write too little for a snapshot")
    }

    fn restore(&self, _state: &mut (dyn std::io::Read + Send)) -> Result<(), String> {
        unimplemented!("these tests write too little for a snapshot")
    }
}

async fn open(dir: &Path) -> (Raft, Arc<Journal>) {
    let journal = Arc::new(Journal::default());
    let raft = Raft::open(Config::new(dir, u64::MAX - 1), Arc::clone(&journal) as _, Arc::new(Alone)).await;
    let raft = raft.expect("the log opens");
    (raft, journal)
}

async fn leader_term(raft: &Raft) -> u64 {
    let mut leadership = raft.leadership();
    let is_leader = |l: &Leadership| matches!(l, Leadership::Leader { .. });
    let seen = timeout(Duration::from_secs(5), leadership.wait_for(is_leader)).await;
    let seen = *seen.expect("a leader within 5 s").expect("consensus runs");
    match seen {
        Leadership::Leader { term } => term,
        Leadership::Follower => unreachable!("waited for a leader"),
    }
}

#[tokio::test]
async fn proposes_restarts_and_replays_in_order() {
    let dir = TempDir::new().unwrap();
    let mut want = Vec::new();
    let mut term = 0;
    for round in 0..3 {
        let (raft, journal) = open(dir.path()).await;
        assert_eq!(raft.is_initialized().await, round > 0);
        if round == 0 {
            raft.bootstrap().await.unwrap();
        }
        let leads = leader_term(&raft).await;
        assert!(leads > term, "a new term at each start");
        term = leads;
        assert_eq!(journal.entries(), want, "leadership comes after all that was committed is applied");
        for i in 0..20 {
            want.push(format!("{round}.{i}"));
            let response = raft.propose(want[want.len() - 1].clone().into_bytes()).await.unwrap();
            assert_eq!(response, want.len().to_string().into_bytes());
        }
        raft.read_barrier().await.unwrap();
        assert_eq!(journal.entries(), want);
        assert!(matches!(raft.bootstrap().await, Err(BootstrapError::AlreadyInitialized)));
        raft.shutdown().await;
    }
}

#[tokio::test]
async fn a_handle_that_is_dropped_frees_the_directory() {
    let dir = TempDir::new().unwrap();
    let (raft, _) = open(dir.path()).await;
    let second = Raft::open(Config::new(dir.path(), 2), Arc::<Journal>::default(), Arc::new(Alone)).await;
    assert!(matches!(second, Err(OpenError::Locked { .. })));
    raft.bootstrap().await.unwrap();
    raft.propose(b"kept".to_vec()).await.unwrap();
    drop(raft);
    let deadline = Instant::now() + Duration::from_secs(5);
    let journal = Arc::new(Journal::default());
    let raft = loop {
        match Raft::open(Config::new(dir.path(), u64::MAX - 1), Arc::clone(&journal) as _, Arc::new(Alone))
            .await
        {
            Ok(raft) => break raft,
            Err(OpenError::Locked { .. }) if Instant::now() < deadline => tokio::task::yield_now().await,
            Err(error) => panic!("{error}"),
        }
    };
    raft.read_barrier().await.unwrap();
    assert_eq!(journal.entries(), ["kept"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_proposals_at_once_are_all_applied_once() {
    let dir = TempDir::new().unwrap();
    let (raft, journal) = open(dir.path()).await;
    raft.bootstrap().await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for i in 0..200 {
        let raft = raft.clone();
        tasks.spawn(async move { raft.propose(format!("{i:03}").into_bytes()).await.unwrap() });
    }
    tasks.join_all().await;
    let applied = journal.entries();
    raft.shutdown().await;
    let mut sorted = applied.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, (0..200).map(|i| format!("{i:03}")).collect::<Vec<_>>());
    let (raft, journal) = open(dir.path()).await;
    raft.read_barrier().await.unwrap();
    assert_eq!(journal.entries(), applied, "the same order after a restart");
}

#[tokio::test]
async fn refuses_within_a_second_where_there_is_no_leader() {
    let dir = TempDir::new().unwrap();
    let (raft, _) = open(dir.path()).await;
    let started = Instant::now();
    let (propose, read) = tokio::join!(raft.propose(b"x".to_vec()), raft.read_barrier());
    assert!(matches!(propose, Err(ProposeError::NoLeader)), "{propose:?}");
    assert!(matches!(read, Err(ReadError::NoLeader)), "{read:?}");
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
}

#[tokio::test]
async fn large_entries_up_to_the_limit() {
    let dir = TempDir::new().unwrap();
    let (raft, journal) = open(dir.path()).await;
    raft.bootstrap().await.unwrap();
    let over = raft.propose(vec![b'a'; ENTRY_BYTES_MAX + 1]).await;
    assert!(matches!(over, Err(ProposeError::TooLarge { .. })), "{over:?}");
    // Several at once: they do not fit in one segment.
    let big = || raft.propose(vec![b'a'; ENTRY_BYTES_MAX]);
    let (a, b, c) = tokio::join!(big(), big(), big());
    assert!(a.is_ok() && b.is_ok() && c.is_ok());
    assert_eq!(journal.entries().len(), 3);
    raft.shutdown().await;
    let (raft, journal) = open(dir.path()).await;
    raft.read_barrier().await.unwrap();
    assert!(journal.entries().iter().all(|e| e.len() == ENTRY_BYTES_MAX));
    assert_eq!(journal.entries().len(), 3);
}

#[tokio::test]
async fn after_a_shutdown_everything_says_so() {
    let dir = TempDir::new().unwrap();
    let (raft, _) = open(dir.path()).await;
    raft.bootstrap().await.unwrap();
    leader_term(&raft).await;
    tokio::join!(raft.shutdown(), raft.shutdown());
    assert_eq!(*raft.leadership().borrow(), Leadership::Follower);
    assert!(matches!(raft.propose(b"x".to_vec()).await, Err(ProposeError::Stopped)));
    assert!(matches!(raft.read_barrier().await, Err(ReadError::Stopped)));
    assert!(!raft.is_initialized().await);
}

#[tokio::test]
async fn leads_soon_after_a_start() {
    let dir = TempDir::new().unwrap();
    for round in 0..3 {
        let started = Instant::now();
        let (raft, _) = open(dir.path()).await;
        let opened = started.elapsed();
        if round == 0 {
            raft.bootstrap().await.unwrap();
        }
        leader_term(&raft).await;
        println!("open {opened:?}, leading after {:?}", started.elapsed());
        // Far below the election timeout would be 250 ms; the limit is generous, as machines are busy.
        assert!(started.elapsed() < Duration::from_secs(3));
        raft.shutdown().await;
    }
}
