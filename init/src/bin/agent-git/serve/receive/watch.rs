//! Nothing that the repository is made of may hold a client for ever: a library waits where it finds a pipe for a file.

use std::{
    io::{self, Write},
    process,
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::Duration,
};

use crate::serve::GIVEN_UP;

/// For what is done between hearing a client and answering it: a checkout of a large repository is the longest.
const WORK_WITHIN: Duration = Duration::from_mins(5);

/// Does some work; where it takes too long the process ends, for nothing else would end it.
pub(super) fn in_time<T>(work: impl FnOnce() -> T) -> T {
    let (done, is_done) = mpsc::channel::<()>();
    let watch = thread::spawn(move || {
        if is_done.recv_timeout(WORK_WITHIN) == Err(RecvTimeoutError::Timeout) {
            drop(writeln!(
                io::stderr(),
                "fatal: the repository inside took longer than {} s",
                WORK_WITHIN.as_secs()
            ));
            process::exit(GIVEN_UP.into());
        }
    });
    let made = work();
    drop(done);
    // It has nothing more to do than to see that.
    let _ = watch.join();
    made
}
