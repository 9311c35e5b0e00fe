//! Agents beside the main one, of the spec and added later.

use agent_protocol::spec::MAX_AGENTS;

use super::super::super::UnitId::Further;
use super::*;

const TWO: &str = r#"{"agent": {"argv": ["a"]}, "on_agent_exit": "end", "linger_ms": 0,
                      "agents": {"fix": {"argv": ["b"], "terminal": {}, "restart": {"policy": "never"}}}}"#;

#[test]
fn agents_of_the_spec_start_together_and_restart_alone() {
    let mut scene = Scene::new(TWO);
    scene.started(Agent);
    scene.started(Further(0));
    assert_eq!(scene.restart(Further(0)), ["SIGTERM -> 2", "SIGCONT -> 2"]);
    assert_eq!(scene.exited(2, 0), ["start Further(0)"]);
    assert_eq!(scene.state(Agent), UnitState::Running);
}

#[test]
fn only_the_main_agents_exit_ends_the_sandbox() {
    let mut scene = Scene::new(TWO);
    scene.started(Agent);
    scene.started(Further(0));
    assert_eq!(scene.exited(2, 3), NOTHING);
    assert_eq!(scene.state(Further(0)), UnitState::Exited);
    assert_eq!(scene.restart(Further(0)), ["start Further(0)"]);
    scene.started(Further(0));
    assert_eq!(scene.exited(1, 0), ["SIGTERM -> 3", "SIGCONT -> 3"]);
    assert_eq!(scene.exited(3, 9), ["SIGTERM -> everything"]);
    assert_eq!(scene.tell(Event::AllProcessesGone), ["power off 0"]);
}

#[test]
fn one_that_is_added_starts_when_the_setup_is_done() {
    let steps = r#"{"steps": [{"name": "one", "argv": ["1"]}], "agent": {"argv": ["a"]}}"#;
    let mut scene = Scene::new(steps);
    scene.started(Step(0));
    assert_eq!(scene.add(0, "fix"), NOTHING);
    assert_eq!(scene.restart(Further(0)), ["refused: `fix` waits for the setup"]);
    assert_eq!(scene.exited(1, 0), ["start Agent", "start Further(0)"]);
    assert_eq!(scene.add(1, "later"), ["start Further(1)"]);
}

#[test]
fn names_are_unique_and_their_number_is_bounded() {
    let mut scene = running_agent("");
    assert_eq!(scene.add(0, "agent"), ["refused: there is a unit `agent` already"]);
    for number in 1..=u32::try_from(MAX_AGENTS).unwrap() {
        assert_eq!(scene.add(number, &format!("a{number}")).len(), 1);
    }
    assert_eq!(scene.add(90, "a1"), ["refused: there is a unit `a1` already"]);
    assert_eq!(scene.add(91, "b"), ["refused: there are 16 further agents already"]);
    scene.spawn_failed(Further(1), SpawnErrorKind::BadDirectory);
    assert_eq!(scene.remove(Further(1), false), NOTHING);
    assert_eq!(scene.add(92, "a1"), ["start Further(92)"]);
}

#[test]
fn one_that_is_removed_has_its_grace_and_is_gone_with_its_process() {
    let mut scene = running_agent("");
    scene.add(0, "fix");
    scene.started(Further(0));
    assert_eq!(scene.remove(Further(0), false), ["SIGTERM -> 2", "SIGCONT -> 2"]);
    assert_eq!(scene.restart(Further(0)), ["refused: `fix` is being removed"]);
    assert_eq!(scene.add(1, "fix"), ["refused: there is a unit `fix` already"]);
    assert_eq!(scene.wait(10_000).timer(), ["SIGHUP -> 2", "SIGCONT -> 2", "SIGKILL -> 2"]);
    scene.announced();
    assert_eq!(scene.killed(2, "KILL"), NOTHING);
    assert!(scene.changes().contains(&Change::Removed));
    assert!(!scene.has(Further(0)));
    assert_eq!(scene.remove(Further(0), false), ["refused: there is no such unit"]);
    assert_eq!(scene.add(1, "fix"), ["start Further(1)"]);
}

#[test]
fn one_that_is_removed_by_force_is_killed_at_once_also_after_it_was_asked() {
    for asked in [false, true] {
        let mut scene = running_agent("");
        scene.add(0, "fix");
        scene.started(Further(0));
        let mut expected = STOP_1.map(|line| line.replace('1', "2")).to_vec();
        expected.push("SIGKILL -> 2".to_owned());
        if asked {
            scene.remove(Further(0), false);
            expected.drain(..2);
        }
        assert_eq!(scene.remove(Further(0), true), expected);
        scene.killed(2, "KILL");
        assert!(!scene.has(Further(0)));
    }
}

#[test]
fn one_that_is_removed_while_it_is_being_started_does_not_stay() {
    let mut scene = running_agent("");
    scene.add(0, "fix");
    assert_eq!(scene.remove(Further(0), false), NOTHING);
    assert!(scene.has(Further(0)));
    assert_eq!(scene.started(Further(0)), ["SIGTERM -> 2", "SIGCONT -> 2"]);
    scene.exited(2, 0);
    assert!(!scene.has(Further(0)));
}

#[test]
fn what_belongs_to_the_spec_is_not_removed_and_nothing_is_while_it_ends() {
    let mut scene = running_agent("");
    assert_eq!(scene.remove(Agent, true), ["refused: `agent` cannot be removed"]);
    scene.add(0, "fix");
    scene.started(Further(0));
    assert_eq!(scene.stop(), ["SIGTERM -> 1", "SIGCONT -> 1", "SIGTERM -> 2", "SIGCONT -> 2"]);
    assert_eq!(scene.remove(Further(0), true), ["refused: the sandbox is stopping"]);
    assert_eq!(scene.add(1, "late"), ["refused: the sandbox is stopping"]);
}

#[test]
fn a_folder_that_is_gone_parks_the_one_agent() {
    let mut scene =
        Scene::new(r#"{"agent": {"argv": ["a"]}, "agents": {"fix": {"argv": ["b"], "terminal": {}}}}"#);
    scene.started(Agent);
    assert_eq!(scene.spawn_failed(Further(0), SpawnErrorKind::BadDirectory), NOTHING);
    assert_eq!(scene.parked(Further(0)), "bad directory: a");
    assert_eq!((scene.state(Agent), scene.phase()), (UnitState::Running, Phase::Up));
}
