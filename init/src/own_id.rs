//! An id of its own, where what starts init can only start it as root of a user namespace: one below that, in which it is
//! an ordinary user and nobody else is anybody.

use std::env;
use std::ffi::{CString, OsString};
use std::fs;
use std::os::unix::ffi::OsStringExt;

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{execv, getegid, geteuid};

use crate::harden;

/// Executes this program again, with these arguments, as user and group `id` of a new user namespace. It owns nothing there
/// that was made before: no mount, no table of processes, no network.
pub fn begin_anew(id: u32, args: &[OsString]) -> Result<u8> {
    let (uid, gid) = (geteuid(), getegid());
    unshare(CloneFlags::CLONE_NEWUSER).context("making a user namespace")?;
    let maps = [
        ("setgroups", "deny".to_owned()),
        ("uid_map", format!("{id} {uid} 1")),
        ("gid_map", format!("{id} {gid} 1")),
    ];
    for (map, text) in maps {
        fs::write(format!("/proc/self/{map}"), text).with_context(|| format!("writing {map}"))?;
    }
    // Executing something takes all rights in the namespace but those of the bounding set.
    harden::give_up_capabilities()?;
    let name = env::args_os().next().unwrap_or_else(|| "agent-init".into());
    let words = std::iter::once(&name).chain(args).cloned();
    let words: Vec<CString> = words
        .map(|word| CString::new(word.into_vec()))
        .collect::<Result<_, _>>()
        .context("reading arguments")?;
    match execv(c"/proc/self/exe", &words) {
        Err(errno) => bail!("executing init again: {errno}"),
    }
}
