//! One Landlock domain around init and all that it will start: what they reach by signals and abstract sockets, and,
//! where only a part of a folder may be used, which files they can read.
//!
//! Processes inside may signal, trace and reach each other: they share the domain. It is one layer, so that fifteen are
//! left for programs that confine themselves.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use rustix::fs::{FileType, Mode, OFlags, fstat, open};

use super::Policy;
use crate::sys::{self, LandlockRuleset};

const ABSTRACT_UNIX_SOCKET: u64 = 1;
const SIGNAL: u64 = 2;
const FIRST_ABI_WITH_SCOPES: i64 = 6;

const EXECUTE: u64 = 1;
const READ_FILE: u64 = 1 << 2;
// To list a folder is not among them: a rule holds for all that is below, so a domain in which `ls /` works is one in which
// everything can be listed, and one in which it does not is no place to work in. Names are told, what is in files is not.
/// To rename and link from one folder to another. Any domain with file rules denies it where no rule grants it, and
/// before this version none could.
const REFER: u64 = 1 << 13;
const FIRST_ABI_WITH_REFER: i64 = 2;

/// What can be granted for a file that is no folder.
const OF_A_FILE: u64 = EXECUTE | READ_FILE;
const ALL: u64 = OF_A_FILE | REFER;

/// Enters the domain; whether it has scopes.
pub(super) fn confine(policy: &Policy) -> Result<bool> {
    let abi = sys::landlock_abi();
    let scoped = match abi {
        ..FIRST_ABI_WITH_SCOPES => 0,
        _ if policy.host_abstract_sockets => SIGNAL,
        _ => SIGNAL | ABSTRACT_UNIX_SOCKET,
    };
    // Rules for files would forbid mount(2) to everything below, so without need there are none.
    let files = if policy.readable.is_empty() { 0 } else { ALL };
    if files | scoped == 0 {
        return Ok(false);
    }
    ensure!(
        files == 0 || abi >= FIRST_ABI_WITH_REFER,
        "this kernel cannot keep a part of a folder from being read: it needs Landlock's second version, Linux 5.19"
    );
    restrict(files, scoped, &policy.readable).context("entering a Landlock domain")?;
    Ok(scoped != 0)
}

fn restrict(files: u64, scoped: u64, readable: &[String]) -> io::Result<()> {
    let ruleset = LandlockRuleset::new(files, scoped)?;
    if let Some(first) = readable.first() {
        allow_all_beside(&ruleset, Path::new(first))?;
    }
    for path in readable {
        allow(&ruleset, Path::new(path))?;
    }
    Ok(ruleset.enter()?)
}

/// Grants everything in the file system except the folder that this path is in, and what leads there.
///
/// A rule holds for all that is below: so each folder on the way gets none, and all that lies beside the way gets one.
fn allow_all_beside(ruleset: &LandlockRuleset, path: &Path) -> io::Result<()> {
    for way in path.ancestors().skip(1) {
        let Some(level) = way.parent() else { break };
        for entry in fs::read_dir(level)? {
            let beside = entry?.path();
            if beside != way {
                allow(ruleset, &beside)?;
            }
        }
    }
    Ok(())
}

/// Grants the use of a path and all that is below it.
fn allow(ruleset: &LandlockRuleset, path: &Path) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let entry = open(path, flags, Mode::empty())
        .map_err(|error| io::Error::other(format!("{}: {error}", path.display())))?;
    let granted = match FileType::from_raw_mode(fstat(&entry)?.st_mode) {
        // What counts is where it leads, and reading the link itself is free.
        FileType::Symlink => return Ok(()),
        FileType::Directory => ALL,
        _ => OF_A_FILE,
    };
    Ok(ruleset.allow_below(entry.as_fd(), granted)?)
}
