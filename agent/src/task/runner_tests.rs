//! Tasks from their assignment to their end, on a fake engine and in paused time.

use skep_api::TaskState as T;
use tokio::time::Instant;

use super::STARTS_MAX;
use crate::{
    engine::{ContainerState, Exit},
    rig::{IMAGE, Remembered, Rig, Ways, assignment, fakes, in_mesh, port, set, task},
    worker::Command,
};
use skep_api::wire;
use std::{sync::atomic::Ordering, time::Duration};

const A: u128 = 1;

#[tokio::test(start_paused = true)]
async fn a_task_runs_and_ends_in_swarms_words() {
    for (code, oom, state, message, err) in [
        (0, false, T::Complete, "finished", ""),
        (3, false, T::Failed, "started", "task: non-zero exit (3)"),
        (137, true, T::Failed, "started", "task: non-zero exit (137): OOMKilled"),
    ] {
        let rig = Rig::new().await;
        let a = task(A);
        rig.put(assignment(a, T::Running)).await;
        let running = rig.until(a, T::Running).await;
        assert_eq!((running.message.as_str(), running.pid), ("started", 42));
        assert_eq!(running.container_id.len(), 64);
        assert_eq!(running.running_at, running.timestamp);
        assert_eq!(rig.board.n_live(), 1);
        rig.engine.end(a, code, oom);
        let ended = rig.until(a, state).await;
        assert_eq!((ended.message.as_str(), ended.err.as_str()), (message, err));
        assert_eq!((ended.exit_code, ended.pid), (Some(code), 0));
        assert_eq!(ended.running_at, running.running_at);
        rig.when("the network is gone", |rig| rig.network.attached.lock().unwrap().is_empty()).await;
        assert!(rig.engine.state(a).is_some(), "its log can still be read");
        rig.remove(a).await;
        rig.when("forgotten", |rig| rig.board.status(a).is_none()).await;
        assert_eq!(rig.calls(), ["attach", "create", "start", "detach", "remove"]);
        assert!(rig.engine.state(a).is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn what_fails_before_the_start_is_rejected_and_after_it_failed() {
    let a = task(A);
    let absent = wire::Assignment {
        spec: br#"{"ContainerSpec":{"Image":"nope:2"}}"#.to_vec(),
        ..assignment(a, T::Running)
    };
    let unreadable = wire::Assignment { spec: b"{".to_vec(), ..assignment(a, T::Running) };
    type Break = fn(&Rig);
    let cases: [(wire::Assignment, Break, T, &str, &str); 5] = [
        (absent, |_| {}, T::Rejected, "preparing", "No such image: nope:2: not for you"),
        (unreadable, |_| {}, T::Rejected, "preparing", "the task's spec cannot be read: "),
        (
            assignment(a, T::Running),
            |rig| rig.engine.ways.lock().unwrap().create_error = Some("no space".into()),
            T::Rejected,
            "preparing",
            "no space",
        ),
        (
            assignment(a, T::Running),
            |rig| *rig.network.attach_error.lock().unwrap() = Some("no address".into()),
            T::Rejected,
            "preparing",
            "network: no address",
        ),
        (
            assignment(a, T::Running),
            |rig| rig.engine.ways.lock().unwrap().start_error = Some("no such file".into()),
            T::Failed,
            "starting",
            "no such file",
        ),
    ];
    for (assignment, make_fail, state, message, err) in cases {
        let rig = Rig::new().await;
        make_fail(&rig);
        let begun = Instant::now();
        rig.put(assignment).await;
        let status = rig.until(a, state).await;
        assert_eq!(status.message, message);
        assert!(status.err.starts_with(err), "{}", status.err);
        assert_eq!(begun.elapsed(), Duration::ZERO, "told at once");
        rig.when("the network is gone", |rig| rig.network.attached.lock().unwrap().is_empty()).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_absent_image_is_pulled_with_the_services_credentials() {
    let rig = Rig::new().await;
    let a = task(A);
    let wanted = wire::Assignment {
        spec: br#"{"ContainerSpec":{"Image":"far:2"}}"#.to_vec(),
        registry_auth: b"let me in".to_vec(),
        ..assignment(a, T::Running)
    };
    rig.put(wanted).await;
    assert_eq!(rig.until(a, T::Running).await.message, "started");
    assert_eq!(rig.calls(), ["pull far:2", "pulled", "attach", "create", "start"]);
}

#[tokio::test(start_paused = true)]
async fn a_pull_that_hangs_is_told_and_ends_with_the_task() {
    let rig = Rig::new().await;
    rig.engine.ways.lock().unwrap().pull_time = Duration::from_secs(3600);
    let a = task(A);
    let with = |desired, drained| wire::Assignment {
        spec: br#"{"ContainerSpec":{"Image":"far:2"}}"#.to_vec(),
        drained,
        ..assignment(a, desired)
    };
    rig.put(with(T::Running, false)).await;
    let message = "preparing: pulling far:2";
    rig.when("told", |rig| rig.board.status(a).is_some_and(|s| s.borrow().message == message)).await;
    // What does not end the task does not begin the pull anew.
    rig.put(with(T::Running, true)).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    rig.put(with(T::Shutdown, true)).await;
    let status = rig.until(a, T::Shutdown).await;
    assert_eq!((status.message.as_str(), status.err.as_str()), ("shutdown", ""));
    assert_eq!(rig.calls(), ["pull far:2"]);
}

#[tokio::test(start_paused = true)]
async fn a_ready_task_waits_and_may_be_called_off() {
    let rig = Rig::new().await;
    let (a, b) = (task(A), task(2));
    rig.assign(set(true, vec![assignment(a, T::Ready), assignment(b, T::Ready)])).await;
    rig.until(a, T::Ready).await;
    rig.until(b, T::Ready).await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(rig.engine.state(a), Some(ContainerState::Created));
    rig.put(assignment(a, T::Running)).await;
    rig.put(assignment(b, T::Shutdown)).await;
    rig.until(a, T::Running).await;
    let called_off = rig.until(b, T::Shutdown).await;
    assert_eq!((called_off.message.as_str(), called_off.exit_code), ("shutdown", None));
    assert_eq!(rig.engine.state(b), Some(ContainerState::Created), "never started");
}

#[tokio::test(start_paused = true)]
async fn a_stop_takes_as_long_as_the_task_and_at_most_its_grace() {
    let image_signal = Ways { stop_signal: Some("SIGQUIT".into()), ..Ways::default() };
    let deaf = Ways { stops_with: None, ..Ways::default() };
    let own = format!(
        r#"{{"ContainerSpec":{{"Image":"{IMAGE}","StopSignal":"INT","StopGracePeriod":3000000000}}}}"#
    );
    for (ways, spec, took, code, calls) in [
        (Ways::default(), None, 0, 0, vec!["kill 15"]),
        (image_signal, None, 0, 0, vec!["kill 3"]),
        (deaf.clone(), None, 10, 137, vec!["kill 15", "kill 9"]),
        (deaf, Some(own), 3, 137, vec!["kill 2", "kill 9"]),
    ] {
        let rig = Rig::new().await;
        *rig.engine.ways.lock().unwrap() = ways;
        let a = task(A);
        let mut wanted = assignment(a, T::Running);
        if let Some(spec) = spec {
            wanted.spec = spec.into_bytes();
        }
        rig.put(wanted.clone()).await;
        rig.until(a, T::Running).await;
        let begun = Instant::now();
        rig.put(wire::Assignment { desired_state: T::Shutdown.number(), ..wanted }).await;
        let status = rig.until(a, T::Shutdown).await;
        assert_eq!(begun.elapsed(), Duration::from_secs(took));
        assert_eq!((status.exit_code, status.message.as_str()), (Some(code), "shutdown"));
        rig.when("detached", |rig| rig.network.attached.lock().unwrap().is_empty()).await;
        assert_eq!(rig.calls()[3..rig.calls().len() - 1], calls);
    }
}

#[tokio::test(start_paused = true)]
async fn a_task_in_the_mesh_is_drained_first() {
    for (drained_after, took) in [(None, 2000), (Some(300), 300)] {
        let rig = Rig::new().await;
        let a = task(A);
        rig.put(in_mesh(a, T::Running)).await;
        rig.until(a, T::Running).await;
        let begun = Instant::now();
        rig.put(in_mesh(a, T::Shutdown)).await;
        if let Some(after) = drained_after {
            tokio::time::sleep(Duration::from_millis(after)).await;
            assert!(matches!(rig.engine.state(a), Some(ContainerState::Running { .. })));
            rig.put(wire::Assignment { drained: true, ..in_mesh(a, T::Shutdown) }).await;
        }
        rig.until(a, T::Shutdown).await;
        assert_eq!(begun.elapsed(), Duration::from_millis(took));
    }
}

#[tokio::test(start_paused = true)]
async fn ports_of_the_node_are_taken_at_the_start_and_free_when_the_end_is_told() {
    let rig = Rig::new().await;
    let a = task(A);
    let with = |desired| wire::Assignment { ports: vec![port("host", 80)], ..assignment(a, desired) };
    rig.put(with(T::Ready)).await;
    rig.until(a, T::Ready).await;
    assert!(rig.calls().is_empty());
    rig.put(with(T::Running)).await;
    let running = rig.until(a, T::Running).await;
    assert_eq!(running.host_ports, [port("host", 80)]);
    rig.put(with(T::Shutdown)).await;
    rig.until(a, T::Shutdown).await;
    assert_eq!(rig.calls(), ["attach", "create", "start", "kill 15", "detach"]);
}

#[tokio::test(start_paused = true)]
async fn few_are_made_at_a_time_and_all_come_to_run() {
    let rig = Rig::new().await;
    rig.engine.ways.lock().unwrap().create_time = Duration::from_millis(100);
    let tasks: Vec<_> = (1..=50).map(task).collect();
    rig.assign(set(true, tasks.iter().map(|task| assignment(*task, T::Running)).collect())).await;
    for task in tasks {
        rig.until(task, T::Running).await;
    }
    assert_eq!(rig.engine.creating_most.load(Ordering::SeqCst), STARTS_MAX);
}

#[tokio::test(start_paused = true)]
async fn running_tasks_are_resumed_by_the_next_daemon() {
    let (engine, network) = fakes();
    let (running, ended, lost, unwritten) = (task(1), task(2), task(3), task(4));
    let exit = Exit { code: 5, oom_killed: false, error: None };
    engine.leave(running, ContainerState::Running { pid: 7 });
    engine.leave(ended, ContainerState::Exited(exit));
    // The record lags: the daemon was killed before it could write that it had started this one.
    engine.leave(unwritten, ContainerState::Running { pid: 8 });
    network.attached.lock().unwrap().extend([running, ended, task(77)]);
    let status =
        |state: T| Some(wire::TaskStatus { state: state.number(), running_at: 5, ..Default::default() });
    let remembered = Remembered::from([
        (running, (assignment(running, T::Running), status(T::Running))),
        (ended, (assignment(ended, T::Running), status(T::Running))),
        (lost, (assignment(lost, T::Running), status(T::Starting))),
        (unwritten, (assignment(unwritten, T::Running), None)),
    ]);
    let rig = Rig::adopting(engine, network, remembered).await;
    let status = rig.until(ended, T::Failed).await;
    assert_eq!((status.err.as_str(), status.exit_code), ("task: non-zero exit (5)", Some(5)));
    assert_eq!(rig.until(lost, T::Failed).await.err, "task lost");
    assert_eq!(rig.until(unwritten, T::Running).await.pid, 8);
    let status = rig.until(running, T::Running).await;
    assert_eq!((status.pid, status.running_at), (7, 5));
    assert!(!rig.calls().iter().any(|call| call == "start" || call == "create"), "{:?}", rig.calls());
    assert_eq!(rig.calls().iter().filter(|call| *call == "attach found").count(), 2);
    assert!(!rig.network.attached.lock().unwrap().contains(&task(77)), "no task's network");
    // It is watched as if nothing had been.
    rig.engine.end(running, 0, false);
    rig.until(running, T::Complete).await;
}

#[tokio::test(start_paused = true)]
async fn what_had_not_started_waits_for_the_managers_word() {
    let (engine, network) = fakes();
    let a = task(A);
    engine.leave(a, ContainerState::Created);
    let status = wire::TaskStatus { state: T::Ready.number(), ..Default::default() };
    let remembered = Remembered::from([(a, (assignment(a, T::Running), Some(status)))]);
    let rig = Rig::adopting(engine, network, remembered).await;
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert_eq!(rig.calls(), ["remove"], "what was half made is made anew");
    rig.assign(set(true, vec![assignment(a, T::Running)])).await;
    rig.until(a, T::Running).await;
    assert_eq!(rig.calls(), ["remove", "attach", "create", "start"]);
}

#[tokio::test(start_paused = true)]
async fn a_task_of_the_mesh_waits_for_its_node_to_be_on_it() {
    let rig = Rig::new().await;
    let (a, b) = (task(A), task(2));
    rig.host.has_ingress.send_replace(false);
    rig.assign(set(true, vec![in_mesh(a, T::Running), in_mesh(b, T::Running)])).await;
    rig.until(a, T::Preparing).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    rig.put(in_mesh(b, T::Shutdown)).await;
    rig.until(b, T::Shutdown).await;
    assert!(rig.calls().is_empty());
    rig.host.has_ingress.send_replace(true);
    rig.until(a, T::Running).await;
}

#[tokio::test(start_paused = true)]
async fn containers_without_a_record_wait_for_the_managers_word() {
    let (engine, network) = fakes();
    let (known, stray) = (task(1), task(2));
    engine.leave(known, ContainerState::Running { pid: 7 });
    engine.leave(stray, ContainerState::Running { pid: 8 });
    network.attached.lock().unwrap().extend([known, stray]);
    let rig = Rig::adopting(engine, network, Remembered::new()).await;
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert!(rig.calls().is_empty());
    let stored = wire::Assignment { state: T::Running.number(), ..assignment(known, T::Running) };
    rig.assign(set(true, vec![stored])).await;
    rig.until(known, T::Running).await;
    rig.when("the stray is gone", |rig| rig.engine.state(stray).is_none()).await;
    assert_eq!(*rig.network.attached.lock().unwrap(), [known].into());
    assert!(!rig.calls().iter().any(|call| call == "start"));
}

#[tokio::test(start_paused = true)]
async fn a_manager_that_lost_a_status_is_told_again() {
    let rig = Rig::new().await;
    let a = task(A);
    rig.put(assignment(a, T::Running)).await;
    rig.until(a, T::Running).await;
    let batch = rig.host.reporter.take_batch(0).unwrap();
    rig.host.reporter.stored(batch.sequence);
    assert!(rig.host.reporter.take_batch(0).is_none());
    rig.assign(set(true, vec![assignment(a, T::Running)])).await;
    rig.when("queued again", |rig| *rig.host.reporter.backlog().borrow() == 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_daemon_that_stops_leaves_its_tasks_and_one_that_leaves_the_swarm_does_not() {
    for is_leaving in [false, true] {
        let rig = Rig::new().await;
        let (a, b) = (task(A), task(2));
        rig.assign(set(true, vec![in_mesh(a, T::Running), assignment(b, T::Ready)])).await;
        rig.until(a, T::Running).await;
        rig.until(b, T::Ready).await;
        rig.command(if is_leaving { Command::Leave } else { Command::Stop }).await;
        let left = (rig.engine.state(a), rig.engine.state(b), rig.network.attached.lock().unwrap().len());
        if is_leaving {
            assert_eq!(left, (None, None, 0));
        } else {
            assert_eq!(left, (Some(ContainerState::Running { pid: 42 }), Some(ContainerState::Created), 2));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_removed_task_is_not_started_again_by_a_late_assignment() {
    let rig = Rig::new().await;
    rig.engine.ways.lock().unwrap().stops_with = None;
    let a = task(A);
    rig.put(assignment(a, T::Running)).await;
    rig.until(a, T::Running).await;
    rig.remove(a).await;
    rig.put(assignment(a, T::Running)).await;
    rig.when("forgotten", |rig| rig.board.status(a).is_none()).await;
    assert_eq!(rig.calls().iter().filter(|call| *call == "start").count(), 1);
    assert!(rig.engine.state(a).is_none());
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_was_away_leaves_nothing_behind() {
    let rig = Rig::new().await;
    let a = task(A);
    rig.put(assignment(a, T::Running)).await;
    rig.until(a, T::Running).await;
    // Longer than the time of grace: neither the signal nor the kill is heard.
    rig.engine.ways.lock().unwrap().away_until = Some(Instant::now() + Duration::from_secs(14));
    rig.put(assignment(a, T::Shutdown)).await;
    rig.until(a, T::Shutdown).await;
    assert_eq!(rig.calls()[3..6], ["kill 15", "kill 9", "kill 9"]);
    rig.engine.ways.lock().unwrap().away_until = Some(Instant::now() + Duration::from_secs(30));
    rig.remove(a).await;
    rig.when("forgotten", |rig| rig.board.status(a).is_none()).await;
    assert!(rig.engine.state(a).is_none(), "its container is gone too");
}
