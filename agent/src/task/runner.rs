//! Carries a task's steps out: one runner a task, the only one who touches its container and its network.
//!
//! Every wait ends as soon as the manager wants something else, the container ends, or the daemon stops;
//! nothing is asked again and again. A daemon that stops lets the step under way finish and leaves the
//! rest as it is: the next one resumes it.

mod clean;
mod image;
mod listen;

use std::{future::pending, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use skep_api::{TaskId, TaskState, convert, wire};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::{Instant, sleep_until, timeout},
};

use clean::{PATIENT_TRIES, QUICK_TRIES};

use super::{
    container::{SpecError, Whereabouts, container_id, new_container, new_sandbox},
    files, signal,
    step::{Container, End, Facts, Step, Stopping, Wanted, step},
};
use crate::{
    assignment::Assignment,
    engine::{ContainerState, Engine, EngineError, Exit, chain},
    network::{Attach, Network, NetworkError},
    records::Records,
    reporter::Reporter,
};

/// Tasks prepared or started at the same time: enough to keep two cores busy through their waits for disk
/// and kernel, few enough that the first ones are not slowed by the last.
pub(crate) const STARTS_MAX: usize = 8;
/// A task on the ingress network waits so long for its node to be on it.
const INGRESS_WAIT_MAX: Duration = Duration::from_secs(5);

/// What all runners of this node use.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) network: Arc<dyn Network>,
    pub(crate) reporter: Reporter,
    pub(crate) records: Arc<Records>,
    /// Unix nanoseconds.
    pub(crate) clock: fn() -> i64,
    pub(crate) node_id: String,
    /// For placeholders in specs.
    pub(crate) node_name: String,
    pub(crate) starts: Arc<Semaphore>,
    /// The mesh revision that this node has applied; zero before the first.
    pub(crate) mesh_applied: watch::Sender<u64>,
    /// Whether that mesh puts this node on the ingress network.
    pub(crate) has_ingress: watch::Sender<bool>,
}

/// What a runner is told.
#[derive(Debug, Clone)]
pub(crate) struct Order {
    pub(crate) assignment: Arc<Assignment>,
    /// Nobody has the task any more.
    pub(crate) is_removed: bool,
}

impl Order {
    fn wanted(&self) -> Wanted {
        let assignment = &self.assignment;
        Wanted {
            desired: assignment.desired,
            is_removed: self.is_removed,
            is_in_mesh: assignment.is_in_mesh(),
            is_drained: assignment.drained,
            is_made_late: assignment.has_host_ports(),
            stop_grace: assignment.stop_grace(),
        }
    }
}

/// Why a step failed; the words are the task's `Err`.
#[derive(Debug, thiserror::Error)]
enum StepError {
    #[error(transparent)]
    Spec(#[from] SpecError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error("network")]
    Network(#[from] NetworkError),
}

/// What a wait ended with.
enum Woken {
    /// Look again.
    Changed,
    /// The daemon stops.
    Closing,
}

type ExitFuture = BoxFuture<'static, Result<Exit, EngineError>>;

/// What a daemon found of a task when it came back, or nothing.
#[derive(Debug, Clone, Default)]
pub(crate) struct Found {
    pub(crate) status: Option<wire::TaskStatus>,
    pub(crate) container: Option<ContainerState>,
    pub(crate) is_attached: bool,
}

/// A task's runner.
pub(crate) struct Runner {
    host: Arc<Host>,
    task: TaskId,
    orders: watch::Receiver<Order>,
    status: watch::Sender<wire::TaskStatus>,
    facts: Facts,
    found: Option<ContainerState>,
    exit: Option<ExitFuture>,
    image_stop_signal: Option<String>,
    has_pulled: bool,
    began: Instant,
}

impl Runner {
    /// A runner for a task; `status` is where others see how far it is.
    pub(crate) fn new(
        host: Arc<Host>,
        orders: watch::Receiver<Order>,
        status: watch::Sender<wire::TaskStatus>,
        found: &Found,
    ) -> Self {
        let task = orders.borrow().assignment.task;
        let state = TaskState::from_number(status.borrow().state).unwrap_or(TaskState::New);
        let container = match &found.container {
            None => Container::Missing,
            Some(ContainerState::Created) => Container::Created,
            Some(ContainerState::Running { .. }) => Container::Running,
            Some(ContainerState::Exited(exit)) => Container::Exited(exit.clone()),
        };
        Self {
            host,
            task,
            orders,
            status,
            facts: Facts { state, container, is_attached: found.is_attached, stopping: Stopping::No },
            found: found.container.clone(),
            exit: None,
            image_stop_signal: None,
            has_pulled: false,
            began: Instant::now(),
        }
    }

    /// Runs until the task is forgotten (true) or the daemon stops (false).
    pub(crate) async fn run(mut self) -> bool {
        self.take_up().await;
        loop {
            if self.orders.has_changed().is_err() {
                return false;
            }
            let order = self.orders.borrow_and_update().clone();
            let next = step(&order.wanted(), &self.facts, self.began.elapsed());
            if next == Step::Forget {
                self.host.records.remove(self.task);
                self.host.reporter.forget(self.task);
                return true;
            }
            let woken = if let Step::Wait { until } = next {
                self.wait(until).await
            } else {
                self.carry_out(next, &order.assignment).await
            };
            if matches!(woken, Woken::Closing) {
                return false;
            }
        }
    }

    /// A container that ran on while no daemon looked after it gets its network held again.
    /// One that was made and not started is made anew: nobody knows how far its network had come.
    async fn take_up(&mut self) {
        if self.found == Some(ContainerState::Created) {
            self.remove_container().await;
        }
        let Some(ContainerState::Running { pid }) = self.found else { return };
        let assignment = Arc::clone(&self.orders.borrow().assignment);
        self.exit = Some(self.host.engine.wait(&container_id(self.task)));
        self.facts.is_attached = true;
        let attach =
            Attach { ingress: assignment.ingress, host_ports: assignment.host_ports(), pid: Some(pid) };
        if let Err(e) = self.host.network.attach(self.task, attach).await {
            tracing::error!(task.id = %self.task, err = chain(&e),
                "the network of a running task cannot be taken up again");
        }
        let shown = self.host.engine.shown_id(&container_id(self.task));
        self.status.send_modify(|status| {
            status.pid = pid;
            status.container_id = shown;
        });
    }

    async fn carry_out(&mut self, next: Step, assignment: &Assignment) -> Woken {
        match next {
            Step::Accept => self.advance(TaskState::Accepted, Some("accepted"), None),
            Step::Prepare => return self.prepare(assignment).await,
            Step::Start => return self.start(assignment).await,
            Step::Resume => self.advance(TaskState::Running, Some("started"), None),
            Step::Drain => self.facts.stopping = Stopping::Draining { since: self.began.elapsed() },
            Step::Signal => {
                // The time of grace begins with the signal, however long its way takes.
                let since = self.began.elapsed();
                let signal = self.stop_signal(assignment).await;
                self.kill(signal).await;
                self.facts.stopping = Stopping::Signalled { since };
            }
            Step::Kill => {
                let since = self.began.elapsed();
                self.kill(signal::SIGKILL).await;
                self.facts.stopping = Stopping::Killed { since };
            }
            Step::Finish(end) => self.finish(end, assignment).await,
            Step::Detach => {
                self.detach(PATIENT_TRIES).await;
                // What cannot be removed must not hold the task for ever; the log names it.
                self.facts.is_attached = false;
            }
            Step::RemoveContainer => self.remove_container().await,
            Step::Forget | Step::Wait { .. } => {}
        }
        Woken::Changed
    }

    /// The one place where a task's state changes; it never goes back.
    fn advance(&mut self, to: TaskState, message: Option<&str>, err: Option<String>) {
        let from = self.facts.state;
        if to < from {
            return;
        }
        self.facts.state = to;
        let now = (self.host.clock)();
        self.status.send_modify(|status| {
            status.state = to.number();
            status.timestamp = now;
            if let Some(message) = message {
                message.clone_into(&mut status.message);
            }
            status.err = err.unwrap_or_default();
            if to == TaskState::Running && status.running_at == 0 {
                status.running_at = now;
            }
            if to.is_terminal() {
                status.pid = 0;
            }
        });
        let status = self.status.borrow().clone();
        tracing::info!(task.id = %self.task, task.state.from = %from, task.state.to = %to, reason = status.err,
            "task state changed");
        self.host.records.put_status(self.task, status.clone());
        self.host.reporter.push(self.task, status);
    }

    /// A turn among those that prepare or start; an error if something else is wanted first.
    async fn turn(&mut self) -> Result<OwnedSemaphorePermit, Woken> {
        let starts = Arc::clone(&self.host.starts);
        tokio::select! {
            biased;
            changed = self.orders.changed() => Err(woken(&changed)),
            permit = starts.acquire_owned() => Ok(permit.expect("the semaphore is never closed")),
        }
    }

    async fn prepare(&mut self, assignment: &Assignment) -> Woken {
        self.advance(TaskState::Preparing, Some("preparing"), None);
        // First what fails most often: the manager replaces the task the sooner.
        let mut done = match self.check(assignment).await {
            Ok(None) => Ok(()),
            Ok(Some(absent)) => return self.pull(&absent, &assignment.registry_auth).await,
            Err(e) => Err(e),
        };
        if done.is_ok() && !assignment.has_host_ports() {
            if assignment.ingress.is_some()
                && let Err(woken) = self.await_ingress().await
            {
                return woken;
            }
            let permit = match self.turn().await {
                Ok(permit) => permit,
                Err(woken) => return woken,
            };
            done = self.make(assignment).await;
            drop(permit);
        }
        match done {
            Ok(()) => self.advance(TaskState::Ready, Some("prepared"), None),
            Err(e) => self.advance(TaskState::Rejected, None, Some(chain(&e))),
        }
        Woken::Changed
    }

    /// The task's network and container.
    async fn make(&mut self, assignment: &Assignment) -> Result<(), StepError> {
        self.facts.is_attached = true;
        let node = Whereabouts { id: &self.host.node_id, name: &self.host.node_name };
        let sandbox = self.host.engine.sandbox(new_sandbox(assignment, node)?).await?;
        let (pid, hostname) = sandbox.map(|sandbox| (sandbox.pid, sandbox.hostname)).unzip();
        let attach = Attach { ingress: assignment.ingress, host_ports: assignment.host_ports(), pid };
        let network = self.host.network.attach(self.task, attach).await?;
        let resolv_conf = files::host_resolv_conf().await;
        let container = new_container(assignment, node, hostname, &network, resolv_conf)?;
        self.host.engine.create(container).await?;
        self.facts.container = Container::Created;
        let host_ports = convert::ports_out(&network.host_ports);
        let shown = self.host.engine.shown_id(&container_id(self.task));
        self.status.send_modify(|status| {
            status.container_id = shown;
            status.host_ports = host_ports;
        });
        Ok(())
    }

    /// The node may be put on the ingress network by the same decision that gave it this task, and hear of
    /// it a little later. An error if something else is wanted first.
    async fn await_ingress(&mut self) -> Result<(), Woken> {
        let mut is_there = self.host.has_ingress.subscribe();
        tokio::select! {
            biased;
            changed = self.orders.changed() => return Err(woken(&changed)),
            // If it does not come, the network says so in its own words.
            _ = timeout(INGRESS_WAIT_MAX, is_there.wait_for(|is_there| *is_there)) => {}
        }
        Ok(())
    }

    async fn start(&mut self, assignment: &Assignment) -> Woken {
        if assignment.has_host_ports()
            && assignment.ingress.is_some()
            && let Err(woken) = self.await_ingress().await
        {
            return woken;
        }
        let permit = match self.turn().await {
            Ok(permit) => permit,
            Err(woken) => return woken,
        };
        self.advance(TaskState::Starting, Some("starting"), None);
        match self.try_start(assignment).await {
            Ok(pid) => {
                self.exit = Some(self.host.engine.wait(&container_id(self.task)));
                self.facts.container = Container::Running;
                self.status.send_modify(|status| status.pid = pid);
                drop(permit);
                listen::listens(pid, &assignment.published_tcp_ports()).await;
                self.advance(TaskState::Running, Some("started"), None);
            }
            Err(e) => self.advance(TaskState::Failed, None, Some(chain(&e))),
        }
        Woken::Changed
    }

    async fn try_start(&mut self, assignment: &Assignment) -> Result<u32, StepError> {
        if self.facts.container == Container::Missing {
            self.make(assignment).await?;
        }
        Ok(self.host.engine.start(&container_id(self.task)).await?)
    }

    /// The spec's signal, or the image's, or SIGTERM.
    async fn stop_signal(&mut self, assignment: &Assignment) -> i32 {
        let spec = assignment.container();
        if let Some(signal) = spec.and_then(|spec| spec.stop_signal.as_deref()).and_then(signal::parse) {
            return signal;
        }
        let of_image = match (&self.image_stop_signal, spec, &self.found) {
            (None, Some(spec), Some(_)) => {
                let image = self.host.engine.find_image(&spec.image).await;
                image.ok().flatten().and_then(|image| image.stop_signal)
            }
            (known, _, _) => known.clone(),
        };
        of_image.as_deref().and_then(signal::parse).unwrap_or(signal::SIGTERM)
    }

    async fn kill(&mut self, signal: i32) {
        if let Err(e) = self.host.engine.kill(&container_id(self.task), signal).await {
            // It may have ended just now, which its exit tells.
            tracing::warn!(task.id = %self.task, signal, err = chain(&e), "the task could not be signalled");
        }
    }

    async fn finish(&mut self, end: End, assignment: &Assignment) {
        // Whoever hears of the end may take its host ports: they are free by then.
        if self.facts.is_attached && assignment.has_host_ports() {
            self.facts.is_attached = !self.detach(QUICK_TRIES).await;
        }
        let (to, message, err, exit) = match end {
            End::Complete => (TaskState::Complete, Some("finished"), None, Some(0)),
            End::Failed(exit) => {
                let code = exit.code;
                (TaskState::Failed, None, Some(exit_error(exit)), Some(code))
            }
            End::Shutdown(exit) => (TaskState::Shutdown, Some("shutdown"), None, exit.map(|exit| exit.code)),
            End::Lost => (TaskState::Failed, None, Some("task lost".to_owned()), None),
        };
        self.status.send_modify(|status| status.exit_code = exit);
        self.advance(to, message, err);
    }

    /// Waits for a change of what is wanted, the container's end, or a time since the runner began.
    async fn wait(&mut self, until: Option<Duration>) -> Woken {
        let limit = async {
            match until {
                Some(until) => sleep_until(self.began + until).await,
                None => pending().await,
            }
        };
        let exit = async {
            match &mut self.exit {
                Some(exit) => exit.await,
                None => pending().await,
            }
        };
        tokio::select! {
            ended = exit => {
                self.exit = None;
                match ended {
                    Ok(exit) => self.facts.container = Container::Exited(exit),
                    Err(e) => {
                        tracing::error!(task.id = %self.task, err = chain(&e), "the task's end cannot be told");
                        self.kill(signal::SIGKILL).await;
                        self.facts.container = Container::Missing;
                    }
                }
                Woken::Changed
            }
            changed = self.orders.changed() => woken(&changed),
            () = limit => Woken::Changed,
        }
    }
}

/// What a change of the orders means: that there is one, or that nobody gives any more.
fn woken(changed: &Result<(), watch::error::RecvError>) -> Woken {
    if changed.is_err() { Woken::Closing } else { Woken::Changed }
}

/// Swarm's words, and the kernel's reason where it killed for want of memory.
fn exit_error(exit: Exit) -> String {
    let why = match (exit.oom_killed, exit.error) {
        (true, _) => ": OOMKilled".to_owned(),
        (false, Some(error)) => format!(": {error}"),
        (false, None) => String::new(),
    };
    format!("task: non-zero exit ({}){why}", exit.code)
}

#[cfg(test)]
#[path = "runner_tests.rs"]
mod tests;
