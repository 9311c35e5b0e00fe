//! Steps, then services, then the agent.

use super::*;

const TWO_STEPS: &str = r#"{"steps": [{"name": "one", "argv": ["1"]}, {"name": "two", "argv": ["2"], "timeout_ms": 1000}],
                            "agent": {"argv": ["a"]}}"#;

#[test]
fn steps_run_in_order_then_the_agent() {
    let mut scene = Scene::new(TWO_STEPS);
    assert_eq!(scene.phase(), Phase::Setup);
    assert_eq!(scene.started(Step(0)), NOTHING);
    assert_eq!(scene.exited(1, 0), ["start Step(1)"]);
    scene.started(Step(1));
    assert_eq!(scene.exited(2, 0), ["start Agent"]);
    assert_eq!(scene.phase(), Phase::Up);
    assert_eq!(scene.restart(Step(0)), ["refused: `one` has already succeeded"]);
}

#[test]
fn a_failed_step_stops_the_setup_and_restart_goes_on_from_it() {
    let mut scene = Scene::new(TWO_STEPS);
    scene.started(Step(0));
    scene.exited(1, 0);
    scene.started(Step(1));
    assert_eq!(scene.exited(2, 3), NOTHING);
    assert_eq!(scene.phase(), Phase::SetupFailed { reason: "`two`: exit code 3".into() });
    assert_eq!(scene.state(Agent), UnitState::Waiting);
    assert_eq!(scene.restart(Agent), ["start Step(1)"]);
    assert_eq!(scene.phase(), Phase::Setup);
    scene.started(Step(1));
    assert_eq!(scene.exited(3, 0), ["start Agent"]);
}

#[test]
fn a_step_that_takes_too_long_has_failed_whatever_it_returns() {
    let mut scene = Scene::new(TWO_STEPS);
    scene.started(Step(0));
    scene.exited(1, 0);
    scene.started(Step(1));
    assert_eq!(scene.wait(1000).timer(), ["SIGTERM -> 2", "SIGCONT -> 2"]);
    assert_eq!(scene.wait(5000).timer(), ["SIGKILL -> 2"]);
    scene.exited(2, 0);
    assert_eq!(scene.parked(Step(1)), "exit code 0 (timed out)");
}

#[test]
fn restart_is_refused_while_the_setup_is_under_way() {
    let mut scene = Scene::new(TWO_STEPS);
    assert_eq!(scene.restart(Agent), ["refused: `agent` waits for the setup"]);
    assert_eq!(scene.restart(Step(0)), ["refused: `one` is running"]);
    assert_eq!(scene.restart(Step(9)), ["refused: there is no such unit"]);
    assert_eq!(scene.tell(Event::StopUnit { unit: Agent }), ["refused: `agent` is not running"]);
}

const SERVICES: &str = r#"{"services": [{"name": "db", "argv": ["d"], "readiness": "notify"},
                                        {"name": "web", "argv": ["w"], "after": ["db"]}],
                           "agent": {"argv": ["a"]}}"#;

#[test]
fn services_wait_for_those_before_them_and_the_agent_for_all() {
    let mut scene = Scene::new(SERVICES);
    assert_eq!(scene.started(Service(0)), NOTHING);
    assert_eq!(scene.notify(1, Notice::Ready), ["start Service(1)"]);
    assert_eq!(scene.started(Service(1)), ["start Agent"]);
    assert!(scene.announced().contains(&Announcement::SetupDone));
}

#[test]
fn a_service_that_dies_later_stops_nobody() {
    let mut scene = Scene::new(SERVICES);
    scene.started(Service(0));
    scene.notify(1, Notice::Ready);
    scene.exited(1, 1);
    assert_eq!(scene.started(Service(1)), ["start Agent"]);
    assert_eq!(scene.phase(), Phase::Up);
}

#[test]
fn a_service_that_gives_up_before_it_was_ready_stops_the_setup() {
    let mut scene = Scene::new(SERVICES);
    scene.spawn_failed(Service(0), SpawnErrorKind::NotFound);
    assert_eq!(scene.phase(), Phase::SetupFailed { reason: "`db`: command not found: a".into() });
    assert_eq!(scene.restart(Service(1)), ["refused: `web` waits for the setup"]);
    assert_eq!(scene.restart(Agent), ["start Service(0)"]);
    scene.started(Service(0));
    assert_eq!(scene.exited(1, 0), NOTHING);
    let reason = "`db`: exited before it was ready, exit code 0".to_owned();
    assert_eq!(scene.phase(), Phase::SetupFailed { reason });
    assert_eq!(scene.restart(Service(0)), ["start Service(0)"]);
}
