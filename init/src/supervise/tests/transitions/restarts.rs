//! What follows an exit.

use super::*;

#[test]
fn a_failed_agent_is_started_again_after_its_backoff() {
    let mut scene = running_agent("");
    assert_eq!(scene.wait(1000).tell_all(exit_of_1()), ["wake 1.100s"]);
    assert_eq!(scene.state(Agent), UnitState::Backoff { until: at(1100) });
    assert_eq!(scene.wait(99).tell_all(Event::Timer), ["wake 1.100s"]);
    assert_eq!(scene.wait(1).timer(), ["start Agent"]);
    assert_eq!(scene.status(Agent).restarts, 1);
}

fn exit_of_1() -> Event {
    Event::Exited { child: ChildId(1), ended: Ended::Code(1), oom: false }
}

#[test]
fn policies_decide_by_the_exit() {
    let table = [
        ("always", 0, true),
        ("always", 1, true),
        ("on-failure", 0, false),
        ("on-failure", 1, true),
        ("never", 0, false),
        ("never", 1, false),
    ];
    for (policy, code, again) in table {
        let mut scene = running_agent(&format!(r#", "restart": {{"policy": "{policy}"}}"#));
        scene.wait(100).exited(1, code);
        let backs_off = matches!(scene.state(Agent), UnitState::Backoff { .. });
        assert_eq!(backs_off, again, "{policy} after {code}");
        assert_eq!(scene.state(Agent) == UnitState::Exited, !again, "{policy} after {code}");
    }
}

#[test]
fn three_exits_at_once_park_it_and_a_person_revives_it() {
    let mut scene = running_agent("");
    for child in 1..=3 {
        scene.wait(600).exited(child, 1);
        if child < 3 {
            scene.wait(200).timer();
            scene.started(Agent);
        }
    }
    assert_eq!(scene.parked(Agent), "exited 3 times within 1.6 s, last: exit code 1");
    assert_eq!(scene.wait(100_000).timer(), NOTHING);
    assert_eq!(scene.restart(Agent), ["start Agent"]);
    scene.started(Agent);
    // The ladder was forgotten: one more exit does not park it.
    scene.exited(4, 1);
    assert!(matches!(scene.state(Agent), UnitState::Backoff { .. }));
}

#[test]
fn a_stable_run_starts_the_ladder_anew() {
    let mut scene = running_agent(r#", "restart": {"stable_ms": 5000}"#);
    scene.exited(1, 1);
    scene.wait(100).timer();
    scene.started(Agent);
    scene.exited(2, 1);
    scene.wait(200).timer();
    scene.started(Agent);
    scene.wait(5000).exited(3, 1);
    assert_eq!(scene.state(Agent), UnitState::Backoff { until: at(5400) });
}

#[test]
fn what_cannot_be_started_is_judged_by_kind_and_policy() {
    use SpawnErrorKind::{BadDirectory, Limit, NotExecutable, NotFound};
    let table = [
        ("on-failure", NotFound, "Parked { reason: \"command not found: a\" }", 127),
        ("on-failure", NotExecutable, "Parked { reason: \"command not executable: a\" }", 126),
        ("on-failure", BadDirectory, "Parked { reason: \"bad directory: a\" }", 126),
        ("on-failure", Limit, "Backoff", 125),
        ("always", NotFound, "Backoff", 127),
        ("never", NotFound, "Exited", 127),
    ];
    for (policy, kind, state, code) in table {
        let mut scene = Scene::of_agent(&format!(r#", "restart": {{"policy": "{policy}"}}"#));
        assert_eq!(scene.spawn_failed(Agent, kind), NOTHING);
        let found = format!("{:?}", scene.state(Agent));
        assert!(found.starts_with(state), "{policy}, {kind:?}: {found}");
        assert_eq!(scene.status(Agent).last_exit.unwrap().ended.shell_code(), code);
    }
}

#[test]
fn failures_to_start_count_on_the_ladder() {
    let mut scene = Scene::of_agent("");
    for _ in 0..2 {
        scene.spawn_failed(Agent, SpawnErrorKind::Limit);
        scene.wait(500).timer();
    }
    scene.spawn_failed(Agent, SpawnErrorKind::Limit);
    let reason = scene.parked(Agent);
    assert_eq!(reason, "exited 3 times within 1.0 s, last: not started: out of resources: a");
}

#[test]
fn a_person_restarts_what_runs_waits_or_has_exited() {
    let mut scene = running_agent("");
    assert_eq!(scene.restart(Agent), STOP_1);
    assert_eq!(scene.restart(Agent), NOTHING, "it is on its way");
    assert_eq!(scene.killed(1, "TERM"), ["start Agent"]);
    assert_eq!(scene.status(Agent).last_exit.unwrap().killed_by, KilledBy::Restart);
    assert_eq!(scene.restart(Agent), NOTHING, "it is being started");
    scene.started(Agent);
    scene.exited(2, 1);
    assert_eq!(scene.restart(Agent), ["start Agent"], "out of the backoff");
    scene.started(Agent);
    scene.exited(3, 0);
    assert_eq!(scene.restart(Agent), ["start Agent"], "after the last exit");
}

#[test]
fn exits_and_words_of_earlier_runs_are_ignored() {
    let mut scene = running_agent("");
    scene.exited(1, 1);
    scene.wait(100).timer();
    scene.started(Agent);
    assert_eq!(scene.exited(1, 0), NOTHING);
    assert_eq!(scene.exited(77, 0), NOTHING);
    scene.notify(1, Notice::Status("old".into()));
    assert_eq!(scene.tell(Event::FirstOutput { child: ChildId(1) }), NOTHING);
    assert_eq!(scene.status(Agent).text, None);
    assert_eq!(scene.state(Agent), UnitState::Running);
}

#[test]
fn a_process_that_nobody_waits_for_is_killed() {
    let mut scene = running_agent("");
    let stale = super::super::super::Attempt(99);
    let event = Event::Started { unit: Agent, attempt: stale, child: ChildId(50) };
    assert_eq!(scene.tell(event), ["SIGKILL -> 50"]);
    assert_eq!(scene.state(Agent), UnitState::Running);
}

#[test]
fn a_unit_stopped_on_request_stays_down_until_restarted() {
    let mut scene = running_agent("");
    assert_eq!(scene.tell(Event::StopUnit { unit: Agent }), STOP_1);
    scene.exited(1, 0);
    assert_eq!(scene.parked(Agent), "stopped on request");
    assert_eq!(scene.restart(Agent), ["start Agent"]);
    // Asked while it is being started.
    assert_eq!(scene.tell(Event::StopUnit { unit: Agent }), NOTHING);
    assert_eq!(scene.started(Agent), ["SIGTERM -> 2", "SIGCONT -> 2"]);
    // A restart overrides it.
    assert_eq!(scene.restart(Agent), NOTHING);
    assert_eq!(scene.exited(2, 0), ["start Agent"]);
}
