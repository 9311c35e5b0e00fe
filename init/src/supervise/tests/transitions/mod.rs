//! Each transition, one promise at a time.

mod further;
mod readiness_and_health;
mod restarts;
mod setup;
mod the_end;

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
