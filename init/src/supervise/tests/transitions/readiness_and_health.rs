//! When a unit counts as ready, and when as broken.

use super::*;

#[test]
fn each_kind_of_readiness() {
    let table = [
        ("\"none\"", "started"),
        ("\"first-output\"", "output"),
        ("\"notify\"", "notice"),
        (r#"{"delay_ms": 300}"#, "timer"),
        (r#"{"command": {"argv": ["p"]}}"#, "probe"),
    ];
    for (readiness, by) in table {
        let mut scene = Scene::new(&format!(r#"{{"agent": {{"argv": ["a"], "readiness": {readiness}}}}}"#));
        scene.started(Agent);
        let mut ready = Vec::new();
        let mut check = |scene: &Scene, what| {
            if scene.status(Agent).ready {
                ready.push(what);
            }
        };
        check(&scene, "started");
        scene.tell(Event::FirstOutput { child: ChildId(1) });
        check(&scene, "output");
        scene.wait(300).timer();
        check(&scene, "timer");
        if by == "probe" {
            scene.probed(Agent, true);
        }
        check(&scene, "probe");
        scene.notify(1, Notice::Ready);
        check(&scene, "notice");
        assert_eq!(ready[0], by, "{readiness}");
    }
}

#[test]
fn a_readiness_command_is_repeated_and_killed_when_it_hangs() {
    let mut scene = Scene::new(
        r#"{"agent": {"argv": ["a"], "readiness": {"command": {"argv": ["p"], "interval_ms": 200, "timeout_ms": 1000}}}}"#,
    );
    assert_eq!(scene.started(Agent), ["probe Readiness of Agent"]);
    assert_eq!(scene.probed(Agent, false), NOTHING);
    assert_eq!(scene.wait(200).timer(), ["probe Readiness of Agent"]);
    assert_eq!(scene.wait(1000).timer(), ["kill probe of Agent"]);
    // There is no second one before the first is gone.
    assert_eq!(scene.wait(200).timer(), NOTHING);
    assert_eq!(scene.probed(Agent, true), ["probe Readiness of Agent"], "a killed one proves nothing");
    scene.probed(Agent, true);
    assert!(scene.status(Agent).ready);
}

#[test]
fn not_ready_in_time_is_a_failed_run() {
    let mut scene = running_agent(r#", "ready_timeout_ms": 2000"#);
    // Readiness `none` was settled at once, so nothing is owed.
    assert_eq!(scene.wait(5000).timer(), NOTHING);
    let mut scene =
        Scene::new(r#"{"agent": {"argv": ["a"], "readiness": "notify", "ready_timeout_ms": 2000}}"#);
    scene.started(Agent);
    assert_eq!(scene.wait(2000).timer(), STOP_1);
    scene.exited(1, 0);
    assert_eq!(scene.status(Agent).last_exit.unwrap().killed_by, KilledBy::Timeout);
    assert!(matches!(scene.state(Agent), UnitState::Backoff { .. }));
}

#[test]
fn a_silent_watchdog_aborts_then_kills() {
    let mut scene = running_agent(r#", "watchdog_ms": 1000, "stop": {"grace_ms": 300}"#);
    scene.wait(900).notify(1, Notice::Watchdog);
    assert_eq!(scene.wait(999).timer(), NOTHING);
    assert_eq!(scene.wait(1).timer(), ["SIGABRT -> 1", "SIGCONT -> 1"]);
    assert_eq!(scene.wait(300).timer(), ["SIGKILL -> 1"]);
    scene.killed(1, "KILL");
    assert_eq!(scene.status(Agent).last_exit.unwrap().killed_by, KilledBy::Watchdog);
    assert!(matches!(scene.state(Agent), UnitState::Backoff { .. }));
}

#[test]
fn the_watchdog_begins_with_ready_or_its_first_word() {
    let mut scene = Scene::new(r#"{"agent": {"argv": ["a"], "readiness": "notify", "watchdog_ms": 1000}}"#);
    scene.started(Agent);
    assert_eq!(scene.wait(50_000).timer(), NOTHING);
    scene.notify(1, Notice::Watchdog);
    assert_eq!(scene.wait(1000).timer(), ["SIGABRT -> 1", "SIGCONT -> 1"]);
}

#[test]
fn a_unit_that_finds_itself_broken_is_aborted() {
    let mut scene = running_agent("");
    assert_eq!(scene.notify(1, Notice::WatchdogTrigger), ["SIGABRT -> 1", "SIGCONT -> 1"]);
}

#[test]
fn failed_health_commands_in_a_row_end_the_run() {
    let mut scene = running_agent(
        r#", "health": {"argv": ["h"], "interval_ms": 100, "timeout_ms": 50, "retries": 2, "start_delay_ms": 500}"#,
    );
    assert_eq!(scene.wait(500).timer(), ["probe Health of Agent"]);
    assert_eq!(scene.probed(Agent, false), NOTHING);
    assert_eq!(scene.wait(100).timer(), ["probe Health of Agent"]);
    assert_eq!(scene.probed(Agent, true), NOTHING, "one success forgets the failure");
    assert_eq!(scene.wait(100).timer(), ["probe Health of Agent"]);
    assert_eq!(scene.probed(Agent, false), NOTHING);
    assert_eq!(scene.wait(100).timer(), ["probe Health of Agent"]);
    assert_eq!(scene.wait(50).timer(), ["kill probe of Agent", "SIGTERM -> 1", "SIGCONT -> 1"]);
    scene.exited(1, 0);
    assert_eq!(scene.status(Agent).last_exit.unwrap().killed_by, KilledBy::Health);
    assert!(matches!(scene.state(Agent), UnitState::Backoff { .. }), "exit code 0 is no success here");
}

#[test]
fn a_probe_dies_with_its_run_and_its_late_result_is_not_the_next_runs() {
    let health = r#", "health": {"argv": ["h"], "retries": 1}"#;
    let mut scene = Scene::of_agent(health);
    assert_eq!(scene.started(Agent), ["probe Health of Agent"]);
    assert_eq!(scene.exited(1, 1), ["kill probe of Agent"]);
    scene.wait(100).timer();
    assert_eq!(scene.started(Agent), NOTHING, "the old probe is still there");
    assert_eq!(scene.probed(Agent, false), ["probe Health of Agent"]);
    let never_started = Event::ProbeResult { unit: Agent, probe: ProbeId(77), ok: false };
    assert_eq!(scene.tell(never_started), NOTHING);
}

#[test]
fn one_that_says_it_is_leaving_is_not_asked_for_its_health() {
    let mut scene = running_agent(r#", "health": {"argv": ["h"], "start_delay_ms": 100}"#);
    scene.notify(1, Notice::Stopping);
    assert_eq!(scene.wait(1000).tell_all(Event::Timer), NOTHING);
    assert_eq!(scene.changes().last(), Some(&Change::Leaving));
}

#[test]
fn a_flood_of_words_is_announced_once_a_second() {
    let mut scene = running_agent("");
    scene.announced();
    for i in 0..1000 {
        scene.notify(1, Notice::Status(format!("at {i}")));
    }
    assert_eq!(scene.changes(), [Change::Status { text: "at 0".into() }]);
    assert_eq!(scene.status(Agent).text.as_deref(), Some("at 999"));
    scene.wait(1000).notify(1, Notice::Status("later".into()));
    assert_eq!(scene.changes(), [Change::Status { text: "later".into() }]);
}
