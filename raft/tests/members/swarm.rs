//! Members in one process: real logs in directories, and a transport in memory that can be cut.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::Read;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use skep_raft::{
    Compaction, Config, Leadership, ProposeError, Raft, ReadError, StateMachine, Status, Transport,
    TransportError, WriteState,
};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

/// How long any one condition may take on a busy machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

/// A message that is a piece of a snapshot, or a large entry.
pub(crate) const LARGE_BYTES: usize = 200 * 1024;

/// Keeps what was applied; answers how much that is.
pub(crate) struct Journal {
    entries: Mutex<Vec<String>>,
    compaction: Compaction,
}

impl Journal {
    pub(crate) fn entries(&self) -> Vec<String> {
        self.entries.lock().expect("no test panics while it holds this").clone()
    }
}

impl StateMachine for Journal {
    fn apply(&self, _index: u64, entry: &[u8]) -> Vec<u8> {
        let mut entries = self.entries.lock().expect("no test panics while it holds this");
        entries.push(String::from_utf8_lossy(entry).into_owned());
        entries.len().to_string().into_bytes()
    }

    fn snapshot(&self) -> WriteState {
        let entries = self.entries();
        Box::new(move |out| entries.iter().try_for_each(|entry| writeln!(out, "{entry}")))
    }

    fn restore(&self, state: &mut (dyn Read + Send)) -> Result<(), String> {
        let mut text = String::new();
        state.read_to_string(&mut text).map_err(|e| e.to_string())?;
        *self.entries.lock().expect("no test panics while it holds this") =
            text.lines().map(str::to_owned).collect();
        Ok(())
    }

    fn compaction(&self) -> Compaction {
        self.compaction
    }
}

/// Who hears whom, and the handles of those that are up.
#[derive(Default)]
pub(crate) struct Wires {
    members: Mutex<BTreeMap<u64, Raft>>,
    /// From, to.
    cut: Mutex<BTreeSet<(u64, u64)>>,
    /// How many messages were large, and which of them are lost, on their way or as an answer.
    large: Mutex<(u64, BTreeSet<u64>)>,
}

impl Wires {
    fn members(&self) -> MutexGuard<'_, BTreeMap<u64, Raft>> {
        self.members.lock().expect("no test panics while it holds this")
    }

    fn is_cut(&self, from: u64, to: u64) -> bool {
        self.cut.lock().expect("no test panics while it holds this").contains(&(from, to))
    }

    /// Cuts `one` off from all others, both ways.
    pub(crate) fn isolate(&self, one: u64, others: impl IntoIterator<Item = u64>) {
        let mut cut = self.cut.lock().expect("no test panics while it holds this");
        others.into_iter().for_each(|other| cut.extend([(one, other), (other, one)]));
    }

    /// Counts messages of more than [`LARGE_BYTES`] from 0 on, and loses these of them.
    pub(crate) fn lose_large(&self, lost: impl IntoIterator<Item = u64>) {
        *self.large.lock().expect("no test panics while it holds this") = (0, lost.into_iter().collect());
    }

    pub(crate) fn n_large(&self) -> u64 {
        self.large.lock().expect("no test panics while it holds this").0
    }

    /// Whether a message is lost on its way, and whether its answer is.
    fn is_lost(&self, body: &Bytes) -> (bool, bool) {
        let mut large = self.large.lock().expect("no test panics while it holds this");
        if body.len() < LARGE_BYTES {
            return (false, false);
        }
        large.0 += 1;
        let number = large.0 - 1;
        let is_lost = large.1.contains(&number);
        (is_lost && number.is_multiple_of(2), is_lost && !number.is_multiple_of(2))
    }

    pub(crate) fn heal(&self) {
        self.cut.lock().expect("no test panics while it holds this").clear();
    }
}

/// One member's end of the wires.
struct Wire {
    from: u64,
    wires: Arc<Wires>,
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire").field("from", &self.from).finish_non_exhaustive()
    }
}

impl Transport for Wire {
    fn call(
        &self,
        to: u64,
        body: Bytes,
        limit: Duration,
    ) -> BoxFuture<'static, Result<Bytes, TransportError>> {
        let (from, wires) = (self.from, Arc::clone(&self.wires));
        Box::pin(async move {
            let silence = async {
                tokio::time::sleep(limit).await;
                Err(TransportError::NoAnswer("cut".to_owned()))
            };
            let (on_its_way, as_an_answer) = wires.is_lost(&body);
            if on_its_way {
                return Err(TransportError::NoAnswer("lost".to_owned()));
            }
            if wires.is_cut(from, to) {
                return silence.await;
            }
            let Some(member) = wires.members().get(&to).cloned() else {
                return Err(TransportError::Unreachable("it is down".to_owned()));
            };
            let answer = member.handle(body).await.map_err(|e| TransportError::NoAnswer(e.to_string()));
            if as_an_answer {
                return Err(TransportError::NoAnswer("its answer is lost".to_owned()));
            }
            if wires.is_cut(to, from) { silence.await } else { answer }
        })
    }
}

/// Members by raft id; a member that is down keeps its directory.
pub(crate) struct Swarm {
    pub(crate) wires: Arc<Wires>,
    pub(crate) up: BTreeMap<u64, (Raft, Arc<Journal>)>,
    dirs: BTreeMap<u64, TempDir>,
    /// When those that are started from now on make snapshots.
    pub(crate) compaction: Compaction,
}

impl Swarm {
    /// A swarm of the voters 1 to `n`.
    pub(crate) async fn new(n: u64) -> Swarm {
        let mut swarm = Swarm {
            wires: Arc::default(),
            up: BTreeMap::new(),
            dirs: BTreeMap::new(),
            compaction: Compaction::default(),
        };
        swarm.start(1).await;
        swarm.raft(1).bootstrap().await.expect("it is new");
        swarm.leads(1).await;
        for id in 2..=n {
            swarm.start(id).await;
            swarm.raft(1).add_learner(id).await.expect("the leader adds a learner");
            swarm.raft(1).add_voter(id).await.expect("it catches up");
        }
        swarm
    }

    /// Opens the member in its directory, new or old.
    pub(crate) async fn start(&mut self, id: u64) {
        let dir = self.dirs.entry(id).or_insert_with(|| TempDir::new().expect("a directory can be made"));
        let journal = Arc::new(Journal { entries: Mutex::default(), compaction: self.compaction });
        let wire = Arc::new(Wire { from: id, wires: Arc::clone(&self.wires) });
        let raft = Raft::open(Config::new(dir.path(), id), Arc::clone(&journal) as _, wire).await;
        let raft = raft.expect("the log opens");
        self.wires.members().insert(id, raft.clone());
        self.up.insert(id, (raft, journal));
    }

    /// Ends the member without a word to the others.
    pub(crate) async fn stop(&mut self, id: u64) {
        self.wires.members().remove(&id);
        let (raft, _) = self.up.remove(&id).expect("it is up");
        raft.shutdown().await;
    }

    pub(crate) fn raft(&self, id: u64) -> &Raft {
        &self.up[&id].0
    }

    pub(crate) fn entries(&self, id: u64) -> Vec<String> {
        self.up[&id].1.entries()
    }

    /// Ends the member, and says which files it left.
    pub(crate) async fn files(&mut self, id: u64) -> Vec<String> {
        self.stop(id).await;
        let files = std::fs::read_dir(self.dirs[&id].path()).expect("the directory can be read");
        files.flatten().map(|file| file.file_name().to_string_lossy().into_owned()).collect()
    }

    /// Whether the member has a snapshot on disk.
    pub(crate) fn has_snapshot(&self, id: u64) -> bool {
        let files = std::fs::read_dir(self.dirs[&id].path()).expect("the directory can be read");
        files.flatten().any(|file| file.path().extension().is_some_and(|extension| extension == "snap"))
    }

    /// Waits until the member's status is as wanted.
    pub(crate) async fn until(&self, id: u64, what: &str, wanted: impl FnMut(&Status) -> bool) -> Status {
        until(&mut self.raft(id).status(), id, what, wanted).await
    }

    pub(crate) async fn leads(&self, id: u64) {
        let mut leadership = self.raft(id).leadership();
        let leads = leadership.wait_for(|l| matches!(l, Leadership::Leader { .. }));
        timeout(LIMIT, leads).await.expect("it leads in time").expect("it runs");
    }

    /// Waits until one of the members `among` leads, and all of them know it.
    pub(crate) async fn leader(&self, among: &[u64]) -> u64 {
        let deadline = Instant::now() + LIMIT;
        loop {
            let known = |id: &u64| self.raft(*id).status().borrow().leader;
            let leaders: BTreeSet<Option<u64>> = among.iter().map(known).collect();
            if let (1, Some(Some(leader))) = (leaders.len(), leaders.first())
                && among.contains(leader)
                && self.raft(*leader).status().borrow().is_leader
            {
                return *leader;
            }
            assert!(Instant::now() < deadline, "no leader of {among:?}: {leaders:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Writes through a member until it is acknowledged. On a busy machine the lead may move at any time: a
    /// write that nobody took is sent again.
    pub(crate) async fn write(&self, id: u64, entry: &str) {
        let deadline = Instant::now() + LIMIT;
        loop {
            match self.raft(id).propose(entry.as_bytes().to_vec()).await {
                Err(ProposeError::NoLeader) if Instant::now() < deadline => self.leader_known(id).await,
                outcome => break drop(outcome.expect("a write with a leader there")),
            }
        }
    }

    /// Waits until all that was acknowledged before is seen at `id`.
    pub(crate) async fn read(&self, id: u64) {
        let deadline = Instant::now() + LIMIT;
        loop {
            match self.raft(id).read_barrier().await {
                Err(ReadError::NoLeader) if Instant::now() < deadline => self.leader_known(id).await,
                outcome => break outcome.expect("a read with a leader there"),
            }
        }
    }

    async fn leader_known(&self, id: u64) {
        self.until(id, "led", |status| status.leader.is_some()).await;
    }
}

async fn until(
    status: &mut watch::Receiver<Status>,
    id: u64,
    what: &str,
    wanted: impl FnMut(&Status) -> bool,
) -> Status {
    match timeout(LIMIT, status.wait_for(wanted)).await {
        Ok(status) => status.expect("consensus runs").clone(),
        Err(_) => panic!("member {id}: not {what}"),
    }
}
