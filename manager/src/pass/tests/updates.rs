//! Rolling updates, their failures, and the way back.

use std::{collections::BTreeSet, time::Duration};

use skep_api::{
    TaskState, Timestamp,
    object::{SeatKey, TaskStatus, UpdateState},
    spec::Availability,
};
use skep_store::{Change, FEATURE_LEVEL};

use super::harness::{Swarm, image, simple, with};

const TWO_AT_ONCE: &str = r#"{"UpdateConfig":{"Parallelism":2,"Monitor":1000000}}"#;

fn all(image: &str, n: u64) -> Vec<(u64, String)> {
    (1..=n).map(|slot| (slot, image.to_owned())).collect()
}

#[test]
fn ten_roll_two_at_a_time() {
    let mut swarm = Swarm::new(3);
    let web = swarm.create(1, with(&simple("web", "ok", 10), TWO_AT_ONCE));
    swarm.seconds(1);
    swarm.n_missing_max = 0;
    swarm.update(web, with(&simple("web", "ok2", 10), TWO_AT_ONCE));
    let began = swarm.now;
    swarm.settle();
    assert_eq!(swarm.update_status(web), Some((UpdateState::Updating, "update in progress".into())));
    let pairs = swarm.tasks(web).iter().filter(|task| task.desired_state == TaskState::Ready).count();
    assert_eq!(pairs, 2);
    swarm.seconds(2);
    assert_eq!(swarm.update_status(web), Some((UpdateState::Completed, "update completed".into())));
    assert_eq!(swarm.images(web), all("ok2", 10));
    assert_eq!(swarm.n_missing_max, 2, "never more than two slots are in flight");
    let view = swarm.view();
    let status = view.service(web).unwrap().update_status.clone().unwrap();
    let took = status.completed_at.unwrap().since(began);
    assert!(took < Duration::from_millis(500), "{took:?}");
}

#[test]
fn delay_and_monitor_are_kept() {
    let mut swarm = Swarm::new(2);
    let slow = r#"{"UpdateConfig":{"Parallelism":1,"Delay":10000000000,"Monitor":3000000000}}"#;
    let web = swarm.create(1, with(&simple("web", "ok", 3), slow));
    swarm.seconds(1);
    swarm.update(web, with(&simple("web", "ok2", 3), slow));
    for n_new in [1, 2, 3] {
        swarm.seconds(9);
        assert_eq!(swarm.images(web).iter().filter(|(_, image)| image == "ok2").count(), n_new);
        swarm.run(Duration::from_millis(1100));
    }
    // The delay of the last slot, and then Swarm watches for one second more than that.
    swarm.seconds(10);
    assert_eq!(swarm.update_status(web).unwrap().0, UpdateState::Updating);
    swarm.seconds(1);
    assert_eq!(swarm.update_status(web).unwrap().0, UpdateState::Completed);
}

#[test]
fn a_failing_update_pauses_and_goes_back_by_hand() {
    let mut swarm = Swarm::new(2);
    // Without a delay the next slot starts as soon as the one before runs, as in Swarm.
    let delay = r#"{"UpdateConfig":{"Parallelism":1,"Delay":1000000000}}"#;
    let web = swarm.create(1, with(&simple("web", "ok", 5), delay));
    swarm.seconds(1);
    swarm.update(web, with(&simple("web", "exit:1:500", 5), delay));
    swarm.seconds(20);
    let (state, message) = swarm.update_status(web).unwrap();
    assert_eq!(state, UpdateState::Paused);
    let failed = swarm.tasks(web).into_iter().find(|task| task.status.state == TaskState::Failed).unwrap();
    assert_eq!(message, format!("update paused due to failure or early termination of task {}", failed.id));
    // The other slots are untouched.
    assert_eq!(swarm.images(web).iter().filter(|(_, image)| image == "ok").count(), 4);
    // Asked once more with nothing changed, it tries again and pauses again.
    swarm.update(web, with(&simple("web", "exit:1:500", 5), delay));
    swarm.settle();
    assert_eq!(swarm.update_status(web).unwrap().0, UpdateState::Updating);
    swarm.seconds(20);
    assert_eq!(swarm.update_status(web).unwrap().0, UpdateState::Paused);
    assert_eq!(swarm.images(web).iter().filter(|(_, image)| image == "ok").count(), 3);
    swarm.update(web, simple("web", "ok", 5));
    swarm.seconds(20);
    swarm.update(web, with(&simple("web", "exit:1:500", 5), delay));
    swarm.seconds(20);
    swarm.n_missing_max = 0;
    swarm.rollback(web);
    swarm.settle();
    assert_eq!(swarm.update_status(web).unwrap().0, UpdateState::RollbackStarted);
    swarm.seconds(20);
    assert_eq!(swarm.update_status(web), Some((UpdateState::RollbackCompleted, "rollback completed".into())));
    assert_eq!(swarm.images(web), all("ok", 5));
    assert_eq!(swarm.n_missing_max, 1);
}

#[test]
fn a_ratio_of_failures_is_tolerated() {
    for (ratio, expect) in [("0.5", UpdateState::Completed), ("0.4", UpdateState::Paused)] {
        let mut swarm = Swarm::new(1);
        let config = format!(
            r#"{{"UpdateConfig":{{"Parallelism":1,"MaxFailureRatio":{ratio},"Monitor":200000000}}}}"#
        );
        let web = swarm.create(1, with(&simple("web", "ok", 2), &config));
        swarm.seconds(1);
        // Each new task fails; two of two are more than any ratio below one.
        let failing = with(&simple("web", "missing", 2), &config);
        swarm.update(web, failing);
        swarm.seconds(1);
        let state = swarm.update_status(web).unwrap().0;
        let tasks = swarm.tasks(web);
        let failed = tasks.iter().filter(|task| task.status.state == TaskState::Rejected);
        let n_new = failed.map(|task| task.slot).collect::<BTreeSet<_>>().len();
        if expect == UpdateState::Completed {
            assert_eq!(
                (state, n_new),
                (UpdateState::Paused, 2),
                "one of two is within {ratio}, two of two are not"
            );
        } else {
            assert_eq!((state, n_new), (UpdateState::Paused, 1), "one of two is more than {ratio}");
        }
    }
}

#[test]
fn continue_does_not_look() {
    let mut swarm = Swarm::new(1);
    let config = r#"{"UpdateConfig":{"Parallelism":1,"FailureAction":"continue"}}"#;
    let web = swarm.create(1, with(&simple("web", "ok", 3), config));
    swarm.seconds(1);
    swarm.update(web, with(&simple("web", "exit:1:100", 3), config));
    swarm.seconds(6);
    assert_eq!(swarm.update_status(web).unwrap().0, UpdateState::Completed);
}

#[test]
fn a_new_update_takes_over_where_the_old_one_stands() {
    let mut swarm = Swarm::new(2);
    let web = swarm.create(1, with(&simple("web", "ok", 6), TWO_AT_ONCE));
    swarm.seconds(1);
    swarm.update(web, with(&simple("web", "ok2", 6), TWO_AT_ONCE));
    swarm.run(Duration::from_millis(35));
    swarm.update(web, with(&simple("web", "ok3", 6), TWO_AT_ONCE));
    swarm.seconds(2);
    assert_eq!(swarm.images(web), all("ok3", 6));
    assert_eq!(swarm.update_status(web).unwrap().0, UpdateState::Completed);
}

#[test]
fn only_what_tasks_are_made_of_is_rolled() {
    let mut swarm = Swarm::new(2);
    let web = swarm.create(1, simple("web", "ok", 2));
    swarm.seconds(1);
    let before: Vec<_> = swarm.running(web).iter().map(|task| task.id).collect();
    swarm.update(web, with(&simple("web", "ok", 2), r#"{"Labels":{"a":"b"}}"#));
    swarm.seconds(1);
    // Other placement alone keeps tasks whose node satisfies it.
    let placed = r#"{"TaskTemplate":{"Placement":{"Constraints":["node.role==worker"]}}}"#;
    swarm.update(web, with(&simple("web", "ok", 2), placed));
    swarm.seconds(1);
    assert_eq!(swarm.running(web).iter().map(|task| task.id).collect::<Vec<_>>(), before);
    assert_eq!(swarm.update_status(web), None);
    swarm.update(web, with(&simple("web", "ok", 2), r#"{"TaskTemplate":{"ForceUpdate":1}}"#));
    swarm.seconds(20);
    assert!(swarm.running(web).iter().all(|task| !before.contains(&task.id)));
    swarm.update(web, with(&simple("web", "ok", 2), r#"{"EndpointSpec":{"Ports":[{"TargetPort":80}]}}"#));
    swarm.seconds(20);
    assert!(swarm.running(web).iter().all(|task| task.ingress_addr.is_some()));
}

#[test]
fn an_update_of_tasks_that_never_ran_goes_through() {
    let mut swarm = Swarm::new(2);
    let nowhere = r#"{"TaskTemplate":{"Placement":{"Constraints":["node.hostname==nowhere"]}}}"#;
    let web = swarm.create(1, with(&simple("web", "ok", 4), nowhere));
    swarm.seconds(1);
    assert_eq!(swarm.running(web).len(), 0);
    swarm.update(web, simple("web", "ok", 4));
    swarm.seconds(20);
    assert_eq!(swarm.images(web), all("ok", 4));
    assert_eq!(swarm.update_status(web).unwrap().0, UpdateState::Completed);
}

#[test]
fn what_is_in_flight_and_what_failed_is_known_without_history() {
    for limit in [0, 1, 5] {
        let mut swarm = Swarm::new(2);
        swarm.keep_history(limit);
        let config = r#"{"UpdateConfig":{"Parallelism":1,"MaxFailureRatio":0.5,"Monitor":1000000000,
            "Delay":500000000},"TaskTemplate":{"RestartPolicy":{"Delay":10000000}}}"#;
        let web = swarm.create(1, with(&simple("web", "ok", 4), config));
        swarm.seconds(1);
        swarm.n_missing_max = 0;
        // Each restarts often while the others have their turn; three of four are more than half.
        swarm.update(web, with(&simple("web", "exit:1:400", 4), config));
        swarm.seconds(30);
        assert_eq!(swarm.update_status(web).unwrap().0, UpdateState::Paused, "history {limit}");
        let status = swarm.view().service(web).unwrap().update_status.clone().unwrap();
        assert_eq!((status.slots, status.failed), (4, 3), "history {limit}");
        assert_eq!(swarm.images(web).iter().filter(|(_, image)| image == "ok").count(), 1);
    }
}

#[test]
fn a_clock_that_is_ahead_holds_no_update_up() {
    let mut swarm = Swarm::new(2);
    let slow = r#"{"UpdateConfig":{"Parallelism":1,"Delay":2000000000,"Monitor":1000000000}}"#;
    let web = swarm.create(1, with(&simple("web", "ok", 2), slow));
    swarm.seconds(1);
    swarm.update(web, with(&simple("web", "ok2", 2), slow));
    swarm.settle();
    // The leader's clock was an hour ahead, and another one leads.
    swarm.now = swarm.now.after(Duration::from_secs(3600));
    swarm.run(Duration::from_millis(100));
    swarm.now = Timestamp(swarm.now.0 - 3_600_000_000_000);
    swarm.change_leader();
    swarm.seconds(60);
    assert_eq!(swarm.images(web), all("ok2", 2));
    assert_eq!(swarm.update_status(web).unwrap().0, UpdateState::Completed);
}

#[test]
fn what_a_wrong_clock_told_of_is_watched_all_the_same() {
    // How far off the times are that are told when it runs, and when it fails, in seconds.
    for (runs, fails) in [(30, 30), (-30, -30), (-30, 0), (30, 0), (0, -30)] {
        let mut swarm = Swarm::new(1);
        let watched = r#"{"UpdateConfig":{"Parallelism":0,"Monitor":1000000000,"FailureAction":"rollback"}}"#;
        let web = swarm.create(1, with(&simple("web", "ok", 1), watched));
        swarm.seconds(60);
        swarm.update(web, with(&simple("web", "ok2", 1), watched));
        swarm.held.insert((web, SeatKey::Slot(1)), TaskState::Preparing);
        swarm.run(Duration::from_millis(200));
        let tell = |swarm: &mut Swarm, state, off: i64| {
            let task = swarm.tasks(web).into_iter().find(|task| image(task) == "ok2").unwrap();
            let at = Timestamp(swarm.now.0 + off * 1_000_000_000);
            let running_at = if state == TaskState::Running { at } else { task.status.running_at };
            let status = TaskStatus { state, timestamp: at, running_at, ..task.status.clone() };
            swarm.apply(vec![Change::TaskStatus(task.id, status)]);
        };
        tell(&mut swarm, TaskState::Running, runs);
        swarm.run(Duration::from_millis(500));
        assert_eq!(swarm.update_status(web).unwrap().0, UpdateState::Updating, "{runs}, {fails}");
        swarm.held.clear();
        tell(&mut swarm, TaskState::Failed, fails);
        swarm.seconds(12);
        assert_eq!(swarm.images(web), all("ok", 1), "{runs}, {fails}");
        assert_eq!(swarm.update_status(web).unwrap().0, UpdateState::RollbackCompleted, "{runs}, {fails}");
    }
}

#[test]
fn a_clock_that_is_behind_cuts_no_watch_short() {
    let mut swarm = Swarm::new(1);
    let watched = r#"{"UpdateConfig":{"Parallelism":0,"Monitor":5000000000,"FailureAction":"rollback"}}"#;
    let web = swarm.create(1, with(&simple("web", "ok", 1), watched));
    swarm.seconds(60);
    // Another one leads, whose clock shows less than what is stored.
    swarm.behind = Duration::from_secs(10);
    swarm.change_leader();
    swarm.update(web, with(&simple("web", "ok2", 1), watched));
    swarm.held.insert((web, SeatKey::Slot(1)), TaskState::Preparing);
    swarm.seconds(12);
    let tell = |swarm: &mut Swarm, state| {
        let task = swarm.tasks(web).into_iter().find(|task| image(task) == "ok2").unwrap();
        let at = Timestamp(swarm.now.0 - 10_000_000_000);
        let running_at = if state == TaskState::Running { at } else { task.status.running_at };
        let status = TaskStatus { state, timestamp: at, running_at, ..task.status.clone() };
        swarm.apply(vec![Change::TaskStatus(task.id, status)]);
    };
    tell(&mut swarm, TaskState::Running);
    swarm.seconds(2);
    assert_eq!(swarm.update_status(web).unwrap().0, UpdateState::Updating);
    swarm.held.clear();
    tell(&mut swarm, TaskState::Failed);
    swarm.seconds(12);
    assert_eq!(swarm.images(web), all("ok", 1));
    assert_eq!(swarm.update_status(web).unwrap().0, UpdateState::RollbackCompleted);
}

#[test]
fn a_drain_in_the_middle_does_not_stop_it() {
    let mut swarm = Swarm::new(3);
    let web = swarm.create(1, with(&simple("web", "ok", 6), TWO_AT_ONCE));
    swarm.seconds(1);
    swarm.update(web, with(&simple("web", "ok2", 6), TWO_AT_ONCE));
    swarm.run(Duration::from_millis(25));
    swarm.set_availability(1, Availability::Drain);
    swarm.seconds(3);
    assert_eq!(swarm.images(web), all("ok2", 6));
    assert_eq!(swarm.update_status(web).unwrap().0, UpdateState::Completed);
}

#[test]
fn a_better_image_is_tried_at_once() {
    let mut swarm = Swarm::new(2);
    let web = swarm.create(1, simple("web", "missing", 3));
    swarm.seconds(7);
    swarm.update(web, simple("web", "ok", 3));
    // One after the other, but for no delay.
    swarm.run(Duration::from_millis(200));
    assert_eq!(swarm.images(web), all("ok", 3));
}

#[test]
fn an_update_that_began_before_serials_goes_on_as_it_began() {
    let mut swarm = Swarm::at_level(2, 1);
    let web = swarm.create(1, simple("web", "ok", 4));
    swarm.seconds(1);
    swarm.held.insert((web, SeatKey::Slot(1)), TaskState::Preparing);
    swarm.update(web, simple("web", "ok2", 4));
    swarm.seconds(1);
    swarm.edit_cluster(|cluster| cluster.feature_level = FEATURE_LEVEL);
    swarm.seconds(30);
    let n_new = swarm.tasks(web).iter().filter(|task| image(task) == "ok2").count();
    assert_eq!(n_new, 1, "the first one still is in flight");
    swarm.held.clear();
    swarm.seconds(30);
    assert_eq!(swarm.images(web), all("ok2", 4));
    assert_eq!(swarm.update_status(web).unwrap().0, UpdateState::Completed);
}
