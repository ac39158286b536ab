//! Streams of logs, towards a manager of the test's own.

use super::*;

/// An agent that runs a task of 600 lines, and its session.
async fn stage_with(a: TaskId) -> (Stage, Agent, Talk) {
    let mut stage = Stage::new().await;
    let agent = stage.agent().await;
    let (mut talk, _) = stage.talk().await;
    talk.welcome(1000).await;
    talk.assign(true, 0, 4, vec![assignment(a, T::Running)]).await;
    talk.stores_until(a, T::Running).await;
    (stage, agent, talk)
}

#[tokio::test]
async fn logs_are_streamed_to_whom_wants_them() {
    let (mut stage, _agent, talk) = stage_with(task(1)).await;
    let wanted = |id: &str, follow| wire::LogsWanted {
        id: id.to_owned(),
        task_ids: vec![task(1).to_bytes(), task(99).to_bytes()],
        follow,
        tail: 600,
        stdout: true,
        stderr: true,
        ..Default::default()
    };
    talk.say(Message::LogsWanted(wanted("x", false))).await;
    let mut lines = Vec::new();
    loop {
        let batch = stage.log().await.unwrap();
        assert_eq!((batch.id.as_str(), batch.error.as_str()), ("x", ""));
        lines.extend(batch.lines);
        if batch.end {
            break;
        }
    }
    assert_eq!(lines.len(), 600);
    assert_eq!((lines[599].data.as_slice(), lines[599].stderr), (b"line 599\n".as_slice(), true));
    assert_eq!(stage.log().await, None, "and it is over");

    // Another manager's address is dialled; what is followed goes on until nobody wants it.
    let follow = wire::LogsWanted { manager: stage.addr.clone(), ..wanted("y", true) };
    talk.say(Message::LogsWanted(follow)).await;
    let mut n_lines = 0;
    while n_lines < 600 {
        n_lines += stage.log().await.unwrap().lines.len();
    }
    talk.say(Message::LogsUnwanted(wire::LogsUnwanted { id: "y".into() })).await;
    assert_eq!(stage.log().await, None);
}

#[tokio::test]
async fn a_stream_of_logs_goes_on_after_its_connection_ended() {
    let (mut stage, _agent, talk) = stage_with(task(1)).await;
    stage.breaks.store(2, Ordering::SeqCst);
    let wanted = wire::LogsWanted {
        id: "x".to_owned(),
        task_ids: vec![task(1).to_bytes()],
        tail: 600,
        stdout: true,
        stderr: true,
        ..Default::default()
    };
    talk.say(Message::LogsWanted(wanted)).await;
    let mut lines = Vec::new();
    loop {
        let batch = stage.log().await.unwrap();
        let at = usize::try_from(batch.first).unwrap();
        assert!(at <= lines.len(), "a gap at {at} of {}", lines.len());
        let known = lines.len() - at;
        lines.extend(batch.lines.into_iter().skip(known).map(|line| String::from_utf8(line.data).unwrap()));
        if batch.end {
            break;
        }
    }
    let expect: Vec<String> = (0..600).map(|n| format!("line {n}\n")).collect();
    assert_eq!(lines, expect);
    assert_eq!(stage.breaks.load(Ordering::SeqCst), 0);
    assert_eq!(stage.log().await, None, "and it is over");
}
