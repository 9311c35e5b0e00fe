//! A process of ours between the monitor and a layer's program: what such launchers have in common.
//!
//! Each is told what to do by a job, a file without a name, and works in a user and a mount namespace of its own, with no
//! rights outside.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::RawFd;
use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde::de::DeserializeOwned;

use crate::sys;

/// Steps that fail where user namespaces are switched off.
pub(super) const NAMESPACE_STEPS: [&str; 2] = ["making a user namespace", "mapping ids"];

/// Longest job read.
const MAX_JOB_BYTES: u64 = 64 * 1024 * 1024;

/// A step that failed.
#[derive(Debug, thiserror::Error)]
#[error("{doing}: {source}")]
pub(super) struct Failed {
    pub(super) doing: String,
    pub(super) source: io::Error,
}

pub(super) fn failed(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Failed {
    move |source| Failed { doing: doing.into(), source }
}

pub(super) fn os(doing: &'static str) -> impl FnOnce(nix::Error) -> Failed {
    move |error| failed(doing)(error.into())
}

/// The number of the job, where we were called to be the launcher of this name.
pub(super) fn job(args: &[OsString], launcher: &str) -> Option<RawFd> {
    match args {
        [_, name, number] if name == launcher => number.to_str()?.parse().ok(),
        _ => None,
    }
}

/// Reads the job from the file inherited under this number.
pub(super) fn read<J: DeserializeOwned>(job: RawFd) -> Result<J, Failed> {
    let mut text = Vec::new();
    file(job)
        .map_err(failed("taking the job"))?
        .take(MAX_JOB_BYTES)
        .read_to_end(&mut text)
        .map_err(failed("reading the job"))?;
    serde_json::from_slice(&text).map_err(io::Error::from).map_err(failed("reading the job"))
}

/// What our parent has put under this number.
pub(super) fn file(number: RawFd) -> io::Result<File> {
    sys::inherited(number).map(File::from)
}

/// A user namespace whose only id is the caller's, and is `id` there, with a mount table of its own. What we execute keeps
/// its rights within if `id` is 0.
pub(super) fn enter_namespaces(id: u32) -> Result<(), Failed> {
    let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS).map_err(os("making a user namespace"))?;
    for (map, text) in [
        ("setgroups", "deny".to_owned()),
        ("uid_map", format!("{id} {uid} 1")),
        ("gid_map", format!("{id} {gid} 1")),
    ] {
        fs::write(Path::new("/proc/self").join(map), text).map_err(failed("mapping ids"))?;
    }
    // What is unmounted on the host goes here too, so that it keeps nothing busy; nothing goes the other way.
    let slave = MsFlags::MS_REC | MsFlags::MS_SLAVE;
    mount(None::<&str>, "/", None::<&str>, slave, None::<&str>).map_err(os("parting from the host's mounts"))
}
