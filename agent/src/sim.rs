//! For simulations only: a machine whose containers outlive the daemon, as an engine and a network of the
//! agent. Nothing is waited for but simulated time, nothing leaves the thread.
//!
//! A hollow machine does all at once and keeps nothing: thousands of agents of a benchmark are started on such
//! ones, in real time.
//!
//! An image says by its name what it does: `ok` runs until it is stopped, `stubborn` until it is killed, `missing` is
//! nowhere; by themselves end `bad` with 1 after 200 ms, `done` with 0 after 300 ms, and `flaky` as one or the other.

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use futures::{
    StreamExt as _,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use skep_api::{
    Id, Secret, TaskId,
    id::{IdSource as _, SeededIds},
    wire,
};
use tokio::{sync::watch, task::JoinError, time::sleep};

use crate::{
    Agent, AgentError,
    agent::{Config, Parts},
    engine::{Container, ContainerState, Engine, EngineError, Exit, Image, LogLine, LogWindow, NewContainer},
    network::{Attach, Attached, Network, NetworkError},
    task::container::TASK_ID_LABEL,
};

/// How long a pull, and the making of a container, take at most.
const PULL_MAX_MS: u64 = 400;
const MAKE_MAX_MS: u64 = 40;
/// How long a container takes to heed its signal at most.
const HEED_MAX_MS: u64 = 250;
/// When a `bad` one ends, and a `done` one.
const BAD_AFTER: Duration = Duration::from_millis(200);
const DONE_AFTER: Duration = Duration::from_millis(300);
/// No process of this machine.
const NO_PID: u32 = u32::MAX;

thread_local! {
    static SIMULATED: Cell<bool> = const { Cell::new(false) };
}

/// From now on what agents on this thread do to files is done on it, at once.
pub fn simulate_this_thread() {
    SIMULATED.set(true);
}

pub(crate) fn is_simulated() -> bool {
    SIMULATED.get()
}

/// Does what blocks: beside the runtime, but in a simulation here.
pub(crate) async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, JoinError> {
    if is_simulated() { Ok(work()) } else { tokio::task::spawn_blocking(work).await }
}

/// What a container of a simulated machine is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Its task.
    pub task: TaskId,
    /// By its full name.
    pub image: String,
    /// It was started, and has not ended.
    pub runs: bool,
}

/// Something that a daemon did to a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Done {
    /// It was made.
    Made(TaskId),
    /// Its program runs.
    Started(TaskId),
    /// It was told to stop, or killed, while it ran.
    Stopped(TaskId),
}

struct SimContainer {
    task: TaskId,
    image: String,
    labels: BTreeMap<String, String>,
    state: watch::Sender<ContainerState>,
    /// When it ends by itself, and with which code.
    ends: Option<(Duration, i32)>,
}

#[derive(Default)]
struct State {
    containers: BTreeMap<String, SimContainer>,
    attached: BTreeSet<TaskId>,
    images: BTreeSet<String>,
    mesh: Option<wire::MeshState>,
    done: Vec<Done>,
    random: u64,
}

/// A machine. Clones are the same one.
#[derive(Clone)]
pub struct SimMachine {
    state: Arc<Mutex<State>>,
    now: fn() -> Duration,
    is_hollow: bool,
}

impl std::fmt::Debug for SimMachine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SimMachine").finish_non_exhaustive()
    }
}

impl SimMachine {
    /// A machine without containers; `now` is the time of the simulation, `seed` says how long things take.
    #[must_use]
    pub fn new(seed: u64, now: fn() -> Duration) -> Self {
        Self {
            state: Arc::new(Mutex::new(State { random: seed, ..State::default() })),
            now,
            is_hollow: false,
        }
    }

    /// A machine that has every image and takes no time; what its agent remembers stays in memory.
    #[must_use]
    pub fn hollow(now: fn() -> Duration) -> Self {
        Self { is_hollow: true, ..Self::new(0, now) }
    }

    /// How many of its containers run.
    #[must_use]
    pub fn n_running(&self) -> usize {
        self.lock().containers.values().filter(|container| container.is_running()).count()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = (self.now)();
        for container in state.containers.values_mut() {
            if let Some((_, code)) = container.ends.take_if(|(at, _)| *at <= now) {
                container.end(code);
            }
        }
        state
    }

    /// Its containers.
    #[must_use]
    pub fn containers(&self) -> Vec<Seen> {
        let runs = |state: &ContainerState| matches!(state, ContainerState::Running { .. });
        let seen =
            |c: &SimContainer| Seen { task: c.task, image: c.image.clone(), runs: runs(&c.state.borrow()) };
        self.lock().containers.values().map(seen).collect()
    }

    /// What daemons did since the last call.
    #[must_use]
    pub fn take_done(&self) -> Vec<Done> {
        std::mem::take(&mut self.lock().done)
    }

    /// The mesh as the daemon applied it last.
    #[must_use]
    pub fn mesh(&self) -> Option<wire::MeshState> {
        self.lock().mesh.clone()
    }

    /// The power is cut: nothing runs any more.
    pub fn power_off(&self) {
        let mut state = self.lock();
        state.attached.clear();
        state.mesh = None;
        state.containers.values_mut().for_each(|container| container.end(137));
    }

    async fn take_time(&self, below_ms: u64) {
        if !self.is_hollow {
            sleep(self.chance(below_ms)).await;
        }
    }

    /// For [`SimMachine::take_done`]; nobody asks a hollow machine.
    fn note(&self, done: impl IntoIterator<Item = Done>) {
        if !self.is_hollow {
            self.lock().done.extend(done);
        }
    }

    fn chance(&self, below_ms: u64) -> Duration {
        let mut state = self.lock();
        let mut ids = SeededIds(state.random);
        let Id(id) = ids.next_id();
        state.random = ids.0;
        Duration::from_millis(u64::try_from(id % u128::from(below_ms)).unwrap_or_default())
    }

    fn with<T>(&self, id: &str, what: impl FnOnce(&mut SimContainer) -> T) -> Result<T, EngineError> {
        let mut state = self.lock();
        state.containers.get_mut(id).map(what).ok_or_else(|| failed("no such container"))
    }
}

impl SimContainer {
    fn is_running(&self) -> bool {
        matches!(*self.state.borrow(), ContainerState::Running { .. })
    }

    fn end(&mut self, code: i32) {
        self.ends = None;
        if self.is_running() {
            self.state.send_replace(ContainerState::Exited(Exit { code, oom_killed: false, error: None }));
        }
    }

    /// After what time, and with which code; one that may end either way does so as `is_good` says.
    fn ends_by_itself(&self, is_good: bool) -> Option<(Duration, i32)> {
        let is_flaky = self.is_called("flaky");
        if self.is_called("done") || (is_flaky && is_good) {
            Some((DONE_AFTER, 0))
        } else {
            (is_flaky || self.is_called("bad")).then_some((BAD_AFTER, 1))
        }
    }

    fn is_called(&self, name: &str) -> bool {
        self.image.rsplit('/').next().is_some_and(|last| last.starts_with(name))
    }
}

fn failed(words: &str) -> EngineError {
    EngineError::Failed(words.into())
}

#[async_trait]
impl Engine for SimMachine {
    async fn find_image(&self, image: &str) -> Result<Option<Image>, EngineError> {
        Ok((self.is_hollow || self.lock().images.contains(image)).then(Image::default))
    }

    async fn pull(&self, image: &str, _auth: &Secret) -> Result<(), EngineError> {
        self.take_time(PULL_MAX_MS).await;
        if image.contains("missing") {
            return Err(EngineError::NotPulled { image: image.to_owned(), reason: "not found".to_owned() });
        }
        self.lock().images.insert(image.to_owned());
        Ok(())
    }

    async fn create(&self, container: NewContainer) -> Result<(), EngineError> {
        self.take_time(MAKE_MAX_MS).await;
        let task = container.labels.get(TASK_ID_LABEL).and_then(|id| id.parse().ok());
        let task = task.ok_or_else(|| failed("a container without a task"))?;
        let made = SimContainer {
            task,
            image: container.image,
            labels: container.labels,
            state: watch::Sender::new(ContainerState::Created),
            ends: None,
        };
        let mut state = self.lock();
        if state.containers.contains_key(&container.id) {
            return Err(failed("there is one of that name"));
        }
        state.containers.insert(container.id, made);
        drop(state);
        self.note([Done::Made(task)]);
        Ok(())
    }

    async fn start(&self, id: &str) -> Result<u32, EngineError> {
        self.take_time(MAKE_MAX_MS).await;
        let now = (self.now)();
        let is_good = self.chance(2).is_zero();
        let task = self.with(id, |container| {
            if *container.state.borrow() != ContainerState::Created {
                return Err(failed("it was started before"));
            }
            container.state.send_replace(ContainerState::Running { pid: NO_PID });
            container.ends = container.ends_by_itself(is_good).map(|(after, code)| (now + after, code));
            Ok(container.task)
        })??;
        self.note([Done::Started(task)]);
        Ok(NO_PID)
    }

    fn wait(&self, id: &str) -> BoxFuture<'static, Result<Exit, EngineError>> {
        let (machine, id) = (self.clone(), id.to_owned());
        Box::pin(async move {
            let mut state = machine.with(&id, |container| container.state.subscribe())?;
            loop {
                let ends = machine.with(&id, |container| container.ends)?;
                if let ContainerState::Exited(exit) = &*state.borrow_and_update() {
                    return Ok(exit.clone());
                }
                let ending = async {
                    match ends {
                        Some((at, _)) => sleep(at.saturating_sub((machine.now)())).await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    biased;
                    changed = state.changed() => if changed.is_err() { return Err(failed("gone")) },
                    () = ending => sleep(Duration::from_millis(1)).await,
                }
            }
        })
    }

    async fn kill(&self, id: &str, signal: i32) -> Result<(), EngineError> {
        let takes = if self.is_hollow { Duration::ZERO } else { self.chance(HEED_MAX_MS) };
        let heeds = (self.now)() + takes;
        let stopped = self.with(id, |container| {
            let was_running = container.is_running();
            match signal {
                9 => container.end(137),
                _ if container.is_called("stubborn") => {}
                _ if was_running => {
                    container.ends = Some((heeds, 0));
                    // Whoever waits looks again.
                    container.state.send_modify(|_| {});
                }
                _ => {}
            }
            was_running.then_some(container.task)
        })?;
        self.note(stopped.map(Done::Stopped));
        Ok(())
    }

    async fn remove(&self, id: &str) -> Result<(), EngineError> {
        let mut state = self.lock();
        if state.containers.get(id).is_some_and(SimContainer::is_running) {
            return Err(failed("it runs"));
        }
        state.containers.remove(id);
        Ok(())
    }

    async fn list(&self) -> Result<Vec<Container>, EngineError> {
        let container = |(id, container): (&String, &SimContainer)| Container {
            id: id.clone(),
            labels: container.labels.clone(),
            state: container.state.borrow().clone(),
        };
        Ok(self.lock().containers.iter().map(container).collect())
    }

    async fn logs(&self, _: &str, _: LogWindow) -> Result<BoxStream<'static, LogLine>, EngineError> {
        Ok(stream::empty().boxed())
    }
}

#[async_trait]
impl Network for SimMachine {
    async fn attach(&self, task: TaskId, attach: Attach) -> Result<Attached, NetworkError> {
        self.lock().attached.insert(task);
        let netns = PathBuf::from("/netns").join(task.to_string());
        Ok(Attached { netns, bridge_addr: Ipv4Addr::new(172, 30, 0, 2), host_ports: attach.host_ports })
    }

    async fn detach(&self, task: TaskId) -> Result<(), NetworkError> {
        self.lock().attached.remove(&task);
        Ok(())
    }

    async fn attached(&self) -> Result<Vec<TaskId>, NetworkError> {
        Ok(self.lock().attached.iter().copied().collect())
    }

    async fn apply(&self, mesh: &wire::MeshState) -> Result<(), NetworkError> {
        self.take_time(MAKE_MAX_MS).await;
        if !self.is_hollow {
            self.lock().mesh = Some(mesh.clone());
        }
        Ok(())
    }

    async fn teardown(&self) -> Result<(), NetworkError> {
        self.lock().mesh = None;
        Ok(())
    }
}

impl Agent {
    /// Starts the agent of a simulated machine.
    ///
    /// # Errors
    /// As [`Agent::start`].
    pub async fn start_simulated(config: Config, machine: &SimMachine) -> Result<Self, AgentError> {
        let (engine, network) = (Arc::new(machine.clone()), Arc::new(machine.clone()));
        Self::start_with(config, Parts { engine, network, keeps_records: !machine.is_hollow }).await
    }
}
