//! Says when refs change: at once for the first change, and less and less often while they go on changing.

use std::{path::PathBuf, rc::Rc, time::Duration};

use agent_protocol::message::What;
use tokio::time::sleep;

use super::watches::{News, Watches};
use crate::{journal::unix_ms, sandbox::Shared};

/// One command of git changes several files; what it is about is told once.
const SETTLE: Duration = Duration::from_millis(10);

/// After what is no change of refs: whoever writes other files all day wakes us this often and no more.
const BREATH: Duration = Duration::from_millis(50);

/// Between one change told and the next, at first.
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);

/// The same while changes go on and on.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Where not everything can be watched, refs count as changed this often.
const RECHECK: Duration = Duration::from_mins(1);

/// Follows the refs of the repository in a folder for as long as init lives.
pub(super) async fn follow(shared: Rc<Shared>, repository: PathBuf) {
    let mut watches = None;
    let mut pause = SHORTEST_PAUSE;
    loop {
        if watches.is_none() {
            // One for each sandbox: the kernel has a bound on them for all processes of the person together.
            match Watches::new() {
                Ok(mut made) => {
                    made.look(&repository);
                    watches = Some(made);
                }
                Err(error) => tracing::warn!(%error, "watching refs"),
            }
        }
        let mut news = watches.as_mut().map_or_else(News::default, Watches::take);
        if news == News::default() {
            pause = SHORTEST_PAUSE;
            if wait(watches.as_ref()).await {
                sleep(SETTLE).await;
                news = watches.as_mut().map_or_else(News::default, Watches::take);
            } else {
                news = News { changed: true, moved: true };
            }
        }
        if news.moved
            && let Some(watches) = &mut watches
        {
            // Before it is told: what comes behind the look is news again.
            watches.look(&repository);
        }
        if news.changed {
            shared.journal.borrow_mut().add(unix_ms(), What::RefsChanged);
            sleep(pause).await;
            pause = next_pause(pause);
        } else {
            sleep(BREATH).await;
        }
    }
}

/// Waits for news; false where the time has come to take it for granted.
async fn wait(watches: Option<&Watches>) -> bool {
    match watches {
        Some(watches) if watches.is_whole() => watches.news().await.is_ok(),
        Some(watches) => tokio::select! {
            news = watches.news() => news.is_ok(),
            () = sleep(RECHECK) => false,
        },
        None => {
            sleep(RECHECK).await;
            false
        }
    }
}

fn next_pause(pause: Duration) -> Duration {
    (pause * 2).min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storm_of_changes_is_told_less_and_less_often() {
        let mut pause = SHORTEST_PAUSE;
        let mut told = 0;
        let mut passed = Duration::ZERO;
        while passed < Duration::from_mins(1) {
            told += 1;
            passed += pause;
            pause = next_pause(pause);
        }
        assert!(told < 40, "{told}");
    }
}
