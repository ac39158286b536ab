//! A process killed while it writes: every entry that it acknowledged is there at the next start.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use skep_raft::{Alone, Config, Raft, StateMachine, WriteState};
use tempfile::TempDir;

/// Set in the process that is to be killed: where its log is.
const CHILD_DIR: &str = "SKEP_RAFT_CRASH_TEST_DIR";
const N_WRITERS: u64 = 8;

#[derive(Default)]
struct Journal(Mutex<Vec<String>>);

impl StateMachine for Journal {
    fn apply(&self, _index: u64, entry: &[u8]) -> Vec<u8> {
        let entry = String::from_utf8_lossy(entry).into_owned();
        self.0.lock().expect("no test panics while it holds this").push(entry);
        Vec::new()
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
    let raft = Raft::open(Config::new(dir, 1), Arc::clone(&journal) as _, Arc::new(Alone)).await;
    (raft.expect("the log opens"), journal)
}

/// Not a test: the process to kill. It proposes without end, and prints what was acknowledged.
#[tokio::test]
#[ignore = "run by the test below, in a process of its own"]
async fn proposes_until_killed() {
    let Ok(dir) = std::env::var(CHILD_DIR) else { return };
    let (raft, _) = open(Path::new(&dir)).await;
    if !raft.is_initialized().await {
        raft.bootstrap().await.unwrap();
    }
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..N_WRITERS {
        let raft = raft.clone();
        let run = std::process::id();
        writers.spawn(async move {
            for i in 0.. {
                let entry = format!("{run}.{writer}.{i}");
                raft.propose(entry.clone().into_bytes()).await.unwrap();
                println!("acknowledged {entry}");
            }
        });
    }
    writers.join_all().await;
}

#[tokio::test]
async fn what_was_acknowledged_survives_a_kill() {
    let dir = TempDir::new().unwrap();
    let mut acknowledged = Vec::new();
    for _ in 0..4 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["proposes_until_killed", "--exact", "--ignored", "--nocapture"])
            .env(CHILD_DIR, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(child.stdout.take().unwrap());
        let enough = acknowledged.len() + 100;
        while acknowledged.len() < enough {
            acknowledged.extend(acknowledgement(&mut said).expect("it runs until it is killed"));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        // What it had said by then.
        while let Some(entry) = acknowledgement(&mut said) {
            acknowledged.extend(entry);
        }
    }
    assert!(acknowledged.len() >= 400);
    let (raft, journal) = open(dir.path()).await;
    raft.read_barrier().await.unwrap();
    let applied = journal.0.lock().unwrap().clone();
    for entry in &acknowledged {
        assert_eq!(applied.iter().filter(|e| *e == entry).count(), 1, "{entry} is applied once");
    }
}

/// The entry that the next line acknowledges, if it does; None at the end, or if the line is not whole.
fn acknowledgement(said: &mut impl BufRead) -> Option<Option<String>> {
    let mut line = String::new();
    said.read_line(&mut line).expect("a pipe can be read");
    let line = line.strip_suffix('\n')?;
    Some(line.split_once("acknowledged ").map(|(_, entry)| entry.to_owned()))
}
