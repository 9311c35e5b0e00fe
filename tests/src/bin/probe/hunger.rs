//! Programs that want memory.

use std::{
    env,
    hint::black_box,
    os::unix::process::ExitStatusExt,
    process::{Command, exit},
};

use nix::libc;

/// Takes this many mebibytes, one by one.
pub(crate) fn eat(mebibytes: &str) {
    black_box(&taken(mebibytes));
}

/// Takes some itself, then starts programs that eat more than there is, one after the other. Its exit code says how many of
/// them were killed.
pub(crate) fn family(own: &str, times: &str) {
    let own = taken(own);
    let program = env::current_exe().expect("this program");
    let times: i32 = times.parse().expect("a number");
    let killed = (0..times).filter(|_| {
        let status = Command::new(&program).args(["eat", "4096"]).status().expect("a child");
        status.signal() == Some(libc::SIGKILL)
    });
    let killed = i32::try_from(killed.count()).expect("few");
    black_box(&own);
    exit(killed);
}

fn taken(mebibytes: &str) -> Vec<Vec<u8>> {
    let mebibytes: u64 = mebibytes.parse().expect("a number");
    // Written to, all of it: what is only asked for is not taken.
    (0..mebibytes).map(|at| vec![at as u8 | 1; 1 << 20]).collect()
}
