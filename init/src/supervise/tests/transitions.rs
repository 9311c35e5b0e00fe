//! Each transition, one promise at a time.

use std::time::Duration;

use super::super::UnitId::{Agent, Service, Step};
use super::super::{
    Announcement, Change, ChildId, Ended, Event, Instant, KilledBy, Notice, Phase, ProbeId, SpawnErrorKind,
    UnitState,
};
use super::scene::Scene;

const NOTHING: [&str; 0] = [];
/// What a polite stop of child 1 looks like.
const STOP_1: [&str; 2] = ["SIGTERM -> 1", "SIGCONT -> 1"];

fn at(ms: u64) -> Instant {
    Instant(Duration::from_millis(ms))
}

fn running_agent(fields: &str) -> Scene {
    let mut scene = Scene::of_agent(fields);
    assert_eq!(scene.started(Agent), NOTHING);
    scene
}

mod restarts {
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
        assert_eq!(scene.status(Agent).last_exit.unwrap().killed_by, KilledBy::Stop);
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
}

mod readiness_and_health {
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
            let mut scene =
                Scene::new(&format!(r#"{{"agent": {{"argv": ["a"], "readiness": {readiness}}}}}"#));
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
        let mut scene =
            Scene::new(r#"{"agent": {"argv": ["a"], "readiness": "notify", "watchdog_ms": 1000}}"#);
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
}

mod setup {
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
}

mod the_end {
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
    fn a_shell_on_a_terminal_is_hung_up_too() {
        let mut scene = running_agent(r#", "terminal": {}"#);
        assert_eq!(scene.stop(), ["SIGTERM -> 1", "SIGHUP -> 1", "SIGCONT -> 1"]);
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
}
