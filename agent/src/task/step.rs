//! What is next for a task, from what is wanted of it and what this node knows of it.
//!
//! Pure: no clock, no engine. `now` is the time since the task's runner began.
//! Invariant: the state only goes forward, and a task is started at most once: past READY a container that
//! is not there is lost, never made again.

use std::time::Duration;

use skep_api::TaskState;

use crate::engine::Exit;

/// How long a stopping task waits to be out of every node's tables when nobody says that it is.
pub(crate) const DRAIN_MAX: Duration = Duration::from_secs(2);

/// An engine that was away did not hear of the kill: it is told again after this.
const KILL_RETRY: Duration = Duration::from_secs(5);

/// What the manager wants of a task.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    pub(crate) desired: TaskState,
    /// Not this node's business any more: stop it and leave no trace.
    pub(crate) is_removed: bool,
    /// Other nodes may send it connections.
    pub(crate) is_in_mesh: bool,
    /// No node does so any more.
    pub(crate) is_drained: bool,
    /// Its network and container are made when it starts, not before: the task that it follows may have its
    /// ports of this node until then.
    pub(crate) is_made_late: bool,
    /// Between the stop signal and SIGKILL.
    pub(crate) stop_grace: Duration,
}

impl Wanted {
    pub(crate) fn is_stop(&self) -> bool {
        self.is_removed || self.desired >= TaskState::Shutdown
    }
}

/// What this node knows of a task's container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Container {
    /// There is none, or it was lost.
    Missing,
    Created,
    Running,
    Exited(Exit),
}

/// How far a stop is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stopping {
    No,
    Draining { since: Duration },
    Signalled { since: Duration },
    Killed { since: Duration },
}

/// What this node knows of a task.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    /// As last reported.
    pub(crate) state: TaskState,
    pub(crate) container: Container,
    pub(crate) is_attached: bool,
    pub(crate) stopping: Stopping,
}

/// The next thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Report ACCEPTED.
    Accept,
    /// Fetch what it needs: image, network, container.
    Prepare,
    /// Start its container.
    Start,
    /// It was found running: report RUNNING.
    Resume,
    /// It is to stop, but the other nodes are given time to hear of it.
    Drain,
    /// Send the stop signal.
    Signal,
    /// It had its time.
    Kill,
    /// It came to its end.
    Finish(End),
    /// Its network is of no use any more.
    Detach,
    /// Its container is of no use any more.
    RemoveContainer,
    /// Nothing is left: forget it.
    Forget,
    /// Nothing to do until something changes, its container ends, or that time has come.
    Wait { until: Option<Duration> },
}

/// How a task ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    /// By itself, with success.
    Complete,
    /// By itself, with an error.
    Failed(Exit),
    /// By us; never started if there is no exit.
    Shutdown(Option<Exit>),
    /// It had been started, and its container is gone.
    Lost,
}

/// Names the next step.
pub(crate) fn step(wanted: &Wanted, facts: &Facts, now: Duration) -> Step {
    if facts.state.is_terminal() {
        return wind_up(wanted, facts, now);
    }
    match &facts.container {
        // Its end counts however little was written down before it.
        Container::Exited(exit) if wanted.is_stop() => Step::Finish(End::Shutdown(Some(exit.clone()))),
        Container::Exited(exit) if exit.code == 0 => Step::Finish(End::Complete),
        Container::Exited(exit) => Step::Finish(End::Failed(exit.clone())),
        Container::Running if wanted.is_stop() => stop(wanted, facts, now),
        Container::Running if facts.state < TaskState::Running => Step::Resume,
        Container::Running => Step::Wait { until: None },
        Container::Missing | Container::Created if wanted.is_stop() => Step::Finish(End::Shutdown(None)),
        Container::Missing | Container::Created if facts.state > TaskState::Ready => Step::Finish(End::Lost),
        Container::Missing | Container::Created => begin(wanted, facts),
    }
}

/// Before the start.
fn begin(wanted: &Wanted, facts: &Facts) -> Step {
    if wanted.desired < TaskState::Ready {
        Step::Wait { until: None }
    } else if facts.state < TaskState::Accepted {
        Step::Accept
    } else if facts.state < TaskState::Ready || facts.container == Container::Missing && !wanted.is_made_late
    {
        Step::Prepare
    } else if wanted.desired < TaskState::Running {
        Step::Wait { until: None }
    } else {
        Step::Start
    }
}

/// While it runs and should not.
fn stop(wanted: &Wanted, facts: &Facts, now: Duration) -> Step {
    // Who is not assigned to us any more is not told of its drain either.
    let drains = wanted.is_in_mesh && !wanted.is_drained && !wanted.is_removed;
    match facts.stopping {
        Stopping::No if drains && facts.state == TaskState::Running => Step::Drain,
        Stopping::No => Step::Signal,
        Stopping::Draining { since } if drains && now < since + DRAIN_MAX => {
            Step::Wait { until: Some(since + DRAIN_MAX) }
        }
        Stopping::Draining { .. } => Step::Signal,
        Stopping::Signalled { since } => {
            let until = since.saturating_add(wanted.stop_grace);
            if now < until { Step::Wait { until: Some(until) } } else { Step::Kill }
        }
        Stopping::Killed { since } => {
            let until = since + KILL_RETRY;
            if now < until { Step::Wait { until: Some(until) } } else { Step::Kill }
        }
    }
}

/// After its end: the process and the network go at once, the container stays for its log until nobody
/// has the task any more.
fn wind_up(wanted: &Wanted, facts: &Facts, now: Duration) -> Step {
    if facts.container == Container::Running {
        return stop(wanted, facts, now);
    }
    if facts.is_attached {
        return Step::Detach;
    }
    let has_container = facts.container != Container::Missing;
    if has_container && (wanted.is_removed || wanted.desired >= TaskState::Remove) {
        return Step::RemoveContainer;
    }
    if wanted.is_removed { Step::Forget } else { Step::Wait { until: None } }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: fn(u64) -> Duration = Duration::from_secs;
    const OK: Exit = Exit { code: 0, oom_killed: false, error: None };
    const BAD: Exit = Exit { code: 3, oom_killed: false, error: None };

    fn wanted(desired: TaskState) -> Wanted {
        Wanted {
            desired,
            is_removed: false,
            is_in_mesh: false,
            is_drained: false,
            is_made_late: false,
            stop_grace: S(10),
        }
    }

    fn facts(state: TaskState, container: Container) -> Facts {
        Facts { state, container, is_attached: false, stopping: Stopping::No }
    }

    #[test]
    fn the_way_up_and_the_ends() {
        use Container::{Created, Exited, Missing, Running};
        use TaskState as T;
        const REST: Step = Step::Wait { until: None };
        for (desired, state, container, expect) in [
            (T::Assigned, T::Accepted, Missing, REST),
            (T::Running, T::Assigned, Missing, Step::Accept),
            (T::Running, T::Accepted, Missing, Step::Prepare),
            (T::Running, T::Preparing, Missing, Step::Prepare),
            (T::Ready, T::Ready, Created, REST),
            (T::Running, T::Ready, Created, Step::Start),
            (T::Complete, T::Ready, Created, Step::Start),
            // The container was lost before its start: it can be made again.
            (T::Running, T::Ready, Missing, Step::Prepare),
            // After it, never.
            (T::Running, T::Starting, Missing, Step::Finish(End::Lost)),
            (T::Running, T::Starting, Created, Step::Finish(End::Lost)),
            (T::Running, T::Running, Missing, Step::Finish(End::Lost)),
            // Found by a restarted daemon, whatever it had written down.
            (T::Running, T::Preparing, Running, Step::Resume),
            (T::Running, T::Ready, Exited(BAD), Step::Finish(End::Failed(BAD))),
            (T::Running, T::Running, Running, REST),
            (T::Running, T::Running, Exited(OK), Step::Finish(End::Complete)),
            (T::Running, T::Running, Exited(BAD), Step::Finish(End::Failed(BAD))),
            (T::Shutdown, T::Running, Exited(BAD), Step::Finish(End::Shutdown(Some(BAD)))),
            (T::Shutdown, T::Assigned, Missing, Step::Finish(End::Shutdown(None))),
            (T::Shutdown, T::Ready, Created, Step::Finish(End::Shutdown(None))),
            (T::Remove, T::Running, Running, Step::Signal),
            (T::Shutdown, T::Failed, Exited(BAD), REST),
            (T::Remove, T::Failed, Exited(BAD), Step::RemoveContainer),
            (T::Running, T::Rejected, Missing, REST),
        ] {
            let facts = facts(state, container);
            assert_eq!(step(&wanted(desired), &facts, S(0)), expect, "{desired} {facts:?}");
        }
    }

    #[test]
    fn a_task_with_ports_of_the_node_is_made_when_it_starts() {
        let late = |desired| Wanted { is_made_late: true, ..wanted(desired) };
        let ready = facts(TaskState::Ready, Container::Missing);
        assert_eq!(step(&late(TaskState::Ready), &ready, S(0)), Step::Wait { until: None });
        assert_eq!(step(&late(TaskState::Running), &ready, S(0)), Step::Start);
        let started = facts(TaskState::Starting, Container::Missing);
        assert_eq!(step(&late(TaskState::Running), &started, S(0)), Step::Finish(End::Lost));
    }

    #[test]
    fn a_stop_drains_then_signals_then_kills() {
        use Stopping::{Draining, Killed, No, Signalled};
        let until = |at| Step::Wait { until: Some(S(at)) };
        for (mesh, drained, removed, stopping, now, expect) in [
            (false, false, false, No, 0, Step::Signal),
            (true, false, false, No, 0, Step::Drain),
            (true, true, false, No, 0, Step::Signal),
            (true, false, true, No, 0, Step::Signal),
            (true, false, false, Draining { since: S(5) }, 6, until(7)),
            (true, true, false, Draining { since: S(5) }, 6, Step::Signal),
            (true, false, false, Draining { since: S(5) }, 7, Step::Signal),
            (true, false, false, Signalled { since: S(5) }, 14, until(15)),
            (true, false, false, Signalled { since: S(5) }, 15, Step::Kill),
            (false, false, false, Killed { since: S(20) }, 21, until(25)),
            (false, false, false, Killed { since: S(20) }, 25, Step::Kill),
        ] {
            let wanted = Wanted {
                is_in_mesh: mesh,
                is_drained: drained,
                is_removed: removed,
                ..wanted(TaskState::Shutdown)
            };
            let facts = Facts { stopping, ..facts(TaskState::Running, Container::Running) };
            assert_eq!(step(&wanted, &facts, S(now)), expect, "{stopping:?} at {now}");
        }
    }

    #[test]
    fn after_its_end_only_the_container_stays_until_removed() {
        let ended = facts(TaskState::Complete, Container::Exited(OK));
        let gone = Wanted { is_removed: true, ..wanted(TaskState::Running) };
        let attached = Facts { is_attached: true, ..ended.clone() };
        assert_eq!(step(&wanted(TaskState::Running), &attached, S(0)), Step::Detach);
        assert_eq!(step(&gone, &attached, S(0)), Step::Detach);
        assert_eq!(step(&gone, &ended, S(0)), Step::RemoveContainer);
        let bare = Facts { container: Container::Missing, ..ended };
        assert_eq!(step(&gone, &bare, S(0)), Step::Forget);
        // A process that outlived its record is stopped.
        let stray = Facts { container: Container::Running, ..ended };
        assert_eq!(step(&wanted(TaskState::Running), &stray, S(0)), Step::Signal);
    }

    #[test]
    fn every_stop_comes_to_rest() {
        // From any state, following the steps as the runner would, a removed task is forgotten.
        for state in TaskState::ALL {
            for container in
                [Container::Missing, Container::Created, Container::Running, Container::Exited(BAD)]
            {
                let wanted = Wanted { is_removed: true, is_in_mesh: true, ..wanted(TaskState::Running) };
                let mut facts = Facts { is_attached: true, ..facts(state, container.clone()) };
                let mut now = S(0);
                let mut steps = 0;
                loop {
                    steps += 1;
                    assert!(steps < 20, "{state} {container:?}");
                    match step(&wanted, &facts, now) {
                        Step::Signal => facts.stopping = Stopping::Signalled { since: now },
                        Step::Kill => facts.container = Container::Exited(BAD),
                        Step::Wait { until } => now = until.expect("a stop always has a limit"),
                        Step::Finish(_) => facts.state = TaskState::Shutdown,
                        Step::Detach => facts.is_attached = false,
                        Step::RemoveContainer => facts.container = Container::Missing,
                        Step::Forget => break,
                        other @ (Step::Accept | Step::Prepare | Step::Start | Step::Resume | Step::Drain) => {
                            panic!("{other:?} of a removed task")
                        }
                    }
                }
            }
        }
    }
}
