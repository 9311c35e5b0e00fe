//! How a sandbox ends.

use super::*;

#[test]
fn stop_asks_kills_sweeps_and_powers_off_even_if_nothing_dies() {
    let mut scene = running_agent(r#", "stop": {"grace_ms": 3000}"#);
    assert_eq!(scene.stop(), STOP_1);
    assert_eq!(scene.wait(3000).timer(), ["SIGKILL -> 1"]);
    assert_eq!(scene.wait(15_999).timer(), NOTHING);
    assert_eq!(scene.wait(1).timer(), ["SIGTERM -> everything"]);
    assert_eq!(scene.wait(500).timer(), ["SIGKILL -> everything"]);
    assert_eq!(scene.wait(500).timer(), ["power off 137"]);
    assert_eq!(scene.phase(), Phase::Off);
    assert_eq!(scene.timer(), NOTHING);
    assert_eq!(scene.restart(Agent), ["refused: the sandbox is stopping"]);
}

#[test]
fn stop_is_over_as_soon_as_nothing_is_left() {
    let mut scene = running_agent("");
    scene.stop();
    assert_eq!(scene.killed(1, "TERM"), ["SIGTERM -> everything"]);
    assert_eq!(scene.tell(Event::AllProcessesGone), ["power off 143"]);
    assert_eq!(scene.status(Agent).last_exit.unwrap().killed_by, KilledBy::Stop);
}

#[test]
fn stop_twice_is_one_stop_and_force_hurries() {
    let mut scene = running_agent("");
    scene.stop();
    assert_eq!(scene.stop(), NOTHING);
    assert_eq!(scene.force(), ["SIGKILL -> everything"]);
    assert_eq!(scene.force(), NOTHING);
    assert_eq!(scene.killed(1, "KILL"), NOTHING);
    assert_eq!(scene.status(Agent).last_exit.unwrap().killed_by, KilledBy::Stop);
    assert_eq!(scene.tell(Event::AllProcessesGone), ["power off 137"]);
}

#[test]
fn restart_is_refused_and_nothing_starts_once_the_end_has_begun() {
    let mut scene = running_agent("");
    scene.stop();
    assert_eq!(scene.restart(Agent), ["refused: the sandbox is stopping"]);
    let unit = Agent;
    assert_eq!(scene.tell(Event::StopUnit { unit }), ["refused: the sandbox is stopping"]);
}

#[test]
fn a_restart_under_way_becomes_a_stop() {
    let mut scene = running_agent("");
    scene.restart(Agent);
    assert_eq!(scene.stop(), NOTHING, "it has its signal already");
    assert_eq!(scene.killed(1, "TERM"), ["SIGTERM -> everything"]);
}

#[test]
fn stop_in_backoff_parked_or_exited_has_nobody_to_wait_for() {
    let mut scene = running_agent("");
    scene.exited(1, 1);
    assert_eq!(scene.stop(), ["SIGTERM -> everything"]);
    assert_eq!(scene.wait(100).timer(), NOTHING, "the backoff is over, and nothing starts");
    assert_eq!(scene.tell(Event::AllProcessesGone), ["power off 1"]);

    let mut scene = Scene::of_agent("");
    scene.spawn_failed(Agent, SpawnErrorKind::NotFound);
    assert_eq!(scene.stop(), ["SIGTERM -> everything"]);
    assert_eq!(scene.tell(Event::AllProcessesGone), ["power off 127"]);
}

#[test]
fn stop_while_it_is_spawned_waits_for_the_answer() {
    let mut scene = Scene::of_agent("");
    assert_eq!(scene.stop(), NOTHING);
    assert_eq!(scene.started(Agent), STOP_1);

    let mut scene = Scene::of_agent("");
    scene.stop();
    assert_eq!(scene.spawn_failed(Agent, SpawnErrorKind::Limit), ["SIGTERM -> everything"]);
}

#[test]
fn a_latecomer_to_the_sweep_is_swept_too() {
    let mut scene = Scene::of_agent("");
    assert_eq!(scene.force(), ["SIGKILL -> everything"]);
    assert!(scene.started(Agent).contains(&"SIGKILL -> everything".to_owned()));
}

#[test]
fn stop_during_setup_stops_the_step_and_starts_nothing() {
    let mut scene = Scene::new(r#"{"steps": [{"name": "s", "argv": ["s"]}], "agent": {"argv": ["a"]}}"#);
    scene.started(Step(0));
    assert_eq!(scene.stop(), STOP_1);
    assert_eq!(scene.exited(1, 0), ["SIGTERM -> everything"]);
    assert_eq!(scene.tell(Event::AllProcessesGone), ["power off 0"]);
}

#[test]
fn the_end_after_a_failed_setup_has_code_1() {
    let mut scene = Scene::new(r#"{"steps": [{"name": "s", "argv": ["s"]}], "agent": {"argv": ["a"]}}"#);
    scene.started(Step(0));
    scene.exited(1, 7);
    scene.stop();
    assert_eq!(scene.tell(Event::AllProcessesGone), ["power off 1"]);
}

fn chain(last: &str) -> Scene {
    // c after b after a; all run, children 1 to 3, and the agent is child 4.
    let mut scene = Scene::new(&format!(
        r#"{{"services": [{{"name": "a", "argv": ["x"]}}, {{"name": "b", "argv": ["x"], "after": ["a"]}},
                          {{"name": "c", "argv": ["x"], "after": ["b"]}}], "agent": {{"argv": ["x"]}}{last}}}"#
    ));
    for unit in [Service(0), Service(1), Service(2), Agent] {
        scene.started(unit);
    }
    scene
}

#[test]
fn services_stop_after_those_that_need_them() {
    let mut scene = chain("");
    assert_eq!(scene.stop(), ["SIGTERM -> 4", "SIGCONT -> 4"]);
    assert_eq!(scene.exited(4, 0), ["SIGTERM -> 3", "SIGCONT -> 3"]);
    assert_eq!(scene.exited(3, 0), ["SIGTERM -> 2", "SIGCONT -> 2"]);
    assert_eq!(scene.exited(2, 0), STOP_1);
    assert_eq!(scene.exited(1, 0), ["SIGTERM -> everything"]);
}

#[test]
fn a_dependent_that_is_down_already_holds_nobody_up() {
    let mut scene = chain("");
    scene.exited(2, 1);
    scene.exited(3, 1);
    scene.exited(4, 0);
    // b and c are in backoff, and a is told in the same breath.
    assert_eq!(scene.stop(), STOP_1);
}

#[test]
fn a_service_that_dies_during_the_end_is_not_started_again() {
    let mut scene = chain("");
    scene.exited(1, 1);
    scene.stop();
    assert_eq!(scene.state(Service(0)), UnitState::Exited, "it was in backoff");
    scene.exited(2, 1);
    assert_eq!(scene.state(Service(1)), UnitState::Exited, "it was running and needed");
    assert_eq!(scene.wait(1000).timer(), NOTHING);
}

#[test]
fn the_agents_exit_ends_the_sandbox_once_a_viewer_saw_it() {
    let mut scene = chain(r#", "on_agent_exit": "end", "linger_ms": 700"#);
    assert_eq!(
        scene.tell_all(Event::Exited { child: ChildId(4), ended: Ended::Code(0), oom: false }),
        ["wake 0.700s"]
    );
    assert_eq!(scene.phase(), Phase::Lingering { until: at(700) });
    assert_eq!(scene.tell(Event::ViewerSawExit), ["SIGTERM -> 3", "SIGCONT -> 3"]);
}

#[test]
fn the_agents_exit_ends_the_sandbox_with_its_code_when_nobody_looks() {
    let mut scene = Scene::new(
        r#"{"agent": {"argv": ["a"], "restart": {"policy": "never"}}, "on_agent_exit": "end", "linger_ms": 700}"#,
    );
    scene.started(Agent);
    assert_eq!(scene.exited(1, 9), NOTHING);
    assert_eq!(scene.wait(700).timer(), ["SIGTERM -> everything"]);
    assert_eq!(scene.tell(Event::AllProcessesGone), ["power off 9"]);
}

#[test]
fn without_linger_the_end_begins_in_the_same_breath() {
    let mut scene = Scene::new(r#"{"agent": {"argv": ["a"]}, "on_agent_exit": "end", "linger_ms": 0}"#);
    scene.started(Agent);
    assert_eq!(scene.exited(1, 0), ["SIGTERM -> everything"]);
}

#[test]
fn a_restart_takes_the_lingering_back() {
    let mut scene = Scene::new(r#"{"agent": {"argv": ["a"]}, "on_agent_exit": "end"}"#);
    scene.started(Agent);
    scene.exited(1, 0);
    assert_eq!(scene.restart(Agent), ["start Agent"]);
    assert_eq!(scene.phase(), Phase::Up);
    assert_eq!(scene.wait(100_000).timer(), NOTHING);
}

#[test]
fn a_parked_agent_keeps_its_sandbox() {
    let mut scene = Scene::new(r#"{"agent": {"argv": ["a"]}, "on_agent_exit": "end"}"#);
    scene.spawn_failed(Agent, SpawnErrorKind::NotFound);
    assert_eq!(scene.phase(), Phase::Up);
    assert_eq!(scene.wait(100_000).timer(), NOTHING);
}

#[test]
fn a_shell_on_a_terminal_is_hung_up_once_it_had_its_chance() {
    let mut scene = running_agent(r#", "terminal": {}"#);
    assert_eq!(scene.stop(), ["SIGTERM -> 1", "SIGCONT -> 1"]);
    assert_eq!(scene.wait(499).timer(), NOTHING);
    assert_eq!(scene.wait(1).timer(), ["SIGHUP -> 1", "SIGCONT -> 1"]);
}

#[test]
fn what_survives_sigkill_is_said_once() {
    let mut scene = running_agent(r#", "stop": {"grace_ms": 0}"#);
    scene.restart(Agent);
    assert_eq!(scene.timer(), ["SIGKILL -> 1"]);
    scene.announced();
    scene.wait(5000).timer();
    assert_eq!(scene.changes(), [Change::Stuck]);
    assert_eq!(scene.wait(500_000).tell_all(Event::Timer), NOTHING);
}

#[test]
fn signals_from_outside_are_passed_on_to_a_living_agent() {
    let forward = |signal: &str| Event::Forward { signal: signal.parse().unwrap(), group: false };
    let mut scene = Scene::of_agent(r#", "restart": {"policy": "never"}"#);
    assert_eq!(scene.tell(forward("INT")), NOTHING, "nobody is there yet");
    scene.started(Agent);
    assert_eq!(scene.tell(forward("INT")), ["SIGINT -> 1 alone"]);
    scene.killed(1, "INT");
    assert_eq!(scene.status(Agent).last_exit.unwrap().killed_by, KilledBy::Stop);
    assert_eq!(scene.tell(forward("INT")), NOTHING, "nobody is there any more");
}
