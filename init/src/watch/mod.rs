//! What the agent does that the host wants to hear of: refs that change, and whether anything is done at all.
//!
//! Both are tasks of their own beside the loop. They ask it for nothing but processor times, and write into the journal.
//! Without a wish for them in the spec there is no task, no watch and no timer.

mod activity;
mod quiet;
mod refs;
mod watches;

use std::{rc::Rc, time::Duration};

use agent_protocol::spec::Watch;
use tokio::sync::mpsc;

pub(crate) use activity::Activity;

use crate::{
    sandbox::{Ask, Shared},
    task,
};

/// Starts what the spec asks for.
pub(crate) fn start(wanted: Option<&Watch>, shared: &Rc<Shared>, asks: &mpsc::Sender<Ask>) {
    let Some(Watch { repository, quiet_ms }) = wanted else { return };
    if let Some(quiet_ms) = quiet_ms {
        shared.activity.begin(Duration::from_millis(*quiet_ms));
        drop(task::start(activity::follow(Rc::clone(shared), asks.clone())));
    }
    if let Some(repository) = repository {
        drop(task::start(refs::follow(Rc::clone(shared), repository.into())));
    }
}
