//! Waiting for something that a test names, with a deadline.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::bail;

use crate::layer::layer;

/// How long anything may take on a busy machine before a test gives up on it.
const DEADLINE: Duration = Duration::from_secs(30);

/// The same on the layer of this process: the only place where a layer's pace is taken into account.
pub fn deadline() -> Duration {
    DEADLINE * layer().patience
}

/// Asks `look` until it has an answer. `what` completes the sentence "gave up waiting for ...".
///
/// For what announces itself by an event, wait for the event; this is for what only shows from outside, such
/// as a process that is gone.
pub fn until<T>(what: &str, look: impl FnMut() -> anyhow::Result<Option<T>>) -> anyhow::Result<T> {
    until_within(deadline(), what, look)
}

/// The same for what may take longer still, such as a machine that boots.
pub fn until_within<T>(
    patience: Duration,
    what: &str,
    mut look: impl FnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let end = Instant::now() + patience;
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if Instant::now() > end {
            bail!("gave up waiting for {what}");
        }
        sleep(Duration::from_millis(10));
    }
}
