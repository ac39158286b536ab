//! One simulated manager: the real store behind the real consensus, on a disk that forgets.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use skep_raft::{ChangeError, Compaction, Config, ProposeError, Raft, StateMachine, WriteState};
use skep_store::Store;
use turmoil::net::{TcpListener, TcpStream};

use super::wire::{self, DONE, PORT, PROPOSE, RAFT, READ, REFUSED, UNKNOWN, Wire};
use super::world::World;
use crate::invariants::i01_acknowledged_writes_survive as survive;

/// How often a member looks at what it is asked to do.
const LOOK_EVERY: Duration = Duration::from_millis(25);

/// The store, and what it was made of.
pub(crate) struct Machine {
    id: u64,
    world: World,
    inner: Mutex<Inner>,
}

#[derive(Clone, Default)]
struct Inner {
    store: Store,
    /// A digest of all entries up to now.
    chain: u64,
    /// How often each request changed something, since this start.
    changes: BTreeMap<Vec<u8>, u64>,
}

impl Machine {
    pub(crate) fn store(&self) -> Store {
        self.inner.lock().unwrap().store.clone()
    }

    /// The values that clients wrote, and that are there.
    pub(crate) fn values(&self) -> BTreeSet<u64> {
        let view = self.store().view();
        view.services().map(|service| super::client::value(service)).collect()
    }
}

fn digest(chain: u64, entry: &[u8]) -> u64 {
    let mix = |sum: u64, byte: &u8| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    entry.iter().fold(chain ^ 0xcbf2_9ce4_8422_2325, mix)
}

impl StateMachine for Machine {
    fn apply(&self, index: u64, entry: &[u8]) -> Vec<u8> {
        let mut inner = self.inner.lock().unwrap();
        inner.chain = digest(inner.chain, entry);
        let applied = inner.store.apply(entry);
        let chain = inner.chain;
        let n = inner.changes.entry(entry.to_vec()).or_default();
        *n += u64::from(!applied.changed.is_empty());
        let n = *n;
        drop(inner);
        let mut state = self.world.lock();
        survive::applied(&mut state, self.id, index, chain, n);
        applied.answer
    }

    fn snapshot(&self) -> WriteState {
        let inner = self.inner.lock().unwrap().clone();
        Box::new(move |out| {
            out.write_all(&inner.chain.to_le_bytes())?;
            inner.store.write(out)
        })
    }

    fn compaction(&self) -> Compaction {
        self.world.lock().shape.compaction
    }

    fn restore(&self, state: &mut (dyn Read + Send)) -> Result<(), String> {
        let mut chain = [0; 8];
        state.read_exact(&mut chain).map_err(|e| e.to_string())?;
        let store = Store::restore(state).map_err(|e| e.to_string())?;
        let chain = u64::from_le_bytes(chain);
        let restored = Inner { store, chain, changes: BTreeMap::new() };
        let before = std::mem::replace(&mut *self.inner.lock().unwrap(), restored);
        let mut state = self.world.lock();
        // Not at a start, which begins with its own.
        if state.slots[&self.id].up.is_some() {
            state.figures.installs += 1;
            state.figures.joins += u64::from(before.chain == 0);
        }
        Ok(())
    }
}

/// Runs the member until it is killed.
pub(crate) async fn run(id: u64, world: World) -> turmoil::Result {
    let machine = Arc::new(Machine { id, world: world.clone(), inner: Mutex::default() });
    let disk = world.lock().slots[&id].disk.clone();
    let config = Config::new("unused", id);
    let raft = Raft::open_simulated(config, machine.clone(), Arc::new(Wire), &disk).await?;
    if id == 1 {
        // Only the first time; later it is one already.
        raft.bootstrap().await.ok();
    }
    world.lock().slots.get_mut(&id).unwrap().up = Some((raft.clone(), machine.clone()));
    let listener = TcpListener::bind(("0.0.0.0", PORT)).await?;
    tokio::spawn(converge(id, raft.clone(), world.clone()));
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(serve(stream, raft.clone(), machine.clone()));
    }
}

async fn serve(mut stream: TcpStream, raft: Raft, machine: Arc<Machine>) {
    let Ok((what, body)) = wire::receive(&mut stream).await else { return };
    let mut answering = pin!(answer(what, body, raft, machine));
    let (status, answer) = loop {
        tokio::select! {
            answer = &mut answering => break answer,
            () = tokio::time::sleep(wire::WAIT_EACH) => {
                // What was begun is done, whether or not somebody waits for it.
                wire::send(&mut stream, wire::WAIT, &[]).await.ok();
            }
        }
    };
    // The caller may be gone.
    wire::send(&mut stream, status, &answer).await.ok();
}

async fn answer(what: u8, body: Bytes, raft: Raft, machine: Arc<Machine>) -> (u8, Bytes) {
    match what {
        RAFT => match raft.handle(body).await {
            Ok(answer) => (DONE, answer),
            Err(error) => (UNKNOWN, Bytes::from(error.to_string())),
        },
        PROPOSE => match raft.propose(body.to_vec()).await {
            Ok(answer) => (DONE, answer.into()),
            Err(ProposeError::Lost) => (UNKNOWN, Bytes::new()),
            Err(ProposeError::NoLeader | ProposeError::Stopped | ProposeError::TooLarge { .. }) => {
                (REFUSED, Bytes::new())
            }
        },
        READ => match raft.read_barrier().await {
            Ok(()) => (DONE, super::client::look(&machine.store().view(), &body)),
            Err(_) => (REFUSED, Bytes::new()),
        },
        _ => unreachable!("members send no {what}"),
    }
}

/// On the leader, one step at a time, makes the voters those that they are to be.
async fn converge(id: u64, raft: Raft, world: World) {
    let status = raft.status();
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        if status.has_changed().is_err() {
            return world.lock().trace.fail(format!("consensus of member {id} stopped by itself"));
        }
        let now = status.borrow().clone();
        if !now.is_leader {
            continue;
        }
        let (target, resign) = {
            let mut state = world.lock();
            let resign = state.resign.take_if(|(asked, _)| *asked == id);
            (state.target.clone(), resign)
        };
        let step = if let Some((_, to)) = resign {
            raft.transfer_leadership(to).await.map_err(|e| e.to_string())
        } else if let Some(new) = target.iter().find(|id| !now.voters.contains(id)) {
            if now.learners.contains(new) {
                changed(raft.add_voter(*new).await)
            } else {
                changed(raft.add_learner(*new).await)
            }
        } else if let Some(old) = now.voters.iter().chain(&now.learners).find(|id| !target.contains(id)) {
            match raft.remove(*old).await {
                Err(ChangeError::Leads) => raft.transfer_leadership(None).await.map_err(|e| e.to_string()),
                outcome => changed(outcome),
            }
        } else {
            continue;
        };
        world.note(format!("m{id} changes towards {target:?} from {:?}: {step:?}", now.voters));
    }
}

fn changed(outcome: Result<(), ChangeError>) -> Result<(), String> {
    outcome.map_err(|error| error.to_string())
}
