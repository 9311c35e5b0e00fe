//! One Landlock domain around init and all that it will start: what they reach by signals and abstract sockets, and,
//! where only a part of a folder may be used, which files they can read.
//!
//! Processes inside may signal, trace and reach each other: they share the domain. It is one layer, so that fifteen are
//! left for programs that confine themselves.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use agent_protocol::spec::Readable;
use anyhow::{Context, Result, ensure};
use rustix::fs::{FileType, Mode, OFlags, fstat, open, openat};

use super::Policy;
use crate::sys::{self, LandlockRuleset};

const ABSTRACT_UNIX_SOCKET: u64 = 1;
const SIGNAL: u64 = 2;
const FIRST_ABI_WITH_SCOPES: i64 = 6;

const EXECUTE: u64 = 1;
const READ_FILE: u64 = 1 << 2;
const READ_DIR: u64 = 1 << 3;
/// To rename and link from one folder to another. Any domain with file rules denies it where no rule grants it, and
/// before this version none could.
const REFER: u64 = 1 << 13;
const FIRST_ABI_WITH_REFER: i64 = 2;

/// What can be granted for a file that is no folder.
const OF_A_FILE: u64 = EXECUTE | READ_FILE;
const ALL: u64 = OF_A_FILE | READ_DIR | REFER;

/// Enters the domain; whether it has scopes.
pub(super) fn confine(policy: &Policy) -> Result<bool> {
    let abi = sys::landlock_abi();
    let scoped = match abi {
        ..FIRST_ABI_WITH_SCOPES => 0,
        _ if policy.host_abstract_sockets => SIGNAL,
        _ => SIGNAL | ABSTRACT_UNIX_SOCKET,
    };
    // Rules for files would forbid mount(2) to everything below, so without need there are none.
    let files = if policy.readable.is_some() { ALL } else { 0 };
    if files | scoped == 0 {
        return Ok(false);
    }
    ensure!(
        files == 0 || abi >= FIRST_ABI_WITH_REFER,
        "this kernel cannot keep a part of a folder from being read: it needs Landlock's second version, Linux 5.19"
    );
    let ruleset = LandlockRuleset::new(files, scoped).context("making a Landlock domain")?;
    if let Some(readable) = &policy.readable {
        allow_all_but(&ruleset, readable)?;
    }
    ruleset.enter().context("entering a Landlock domain")?;
    Ok(scoped != 0)
}

/// Grants everything in the file system except the folder and what leads to it, and of the folder its entries.
///
/// A rule holds for all that is below: so each folder on the way gets none, and everything beside the way gets one.
fn allow_all_but(ruleset: &LandlockRuleset, readable: &Readable) -> Result<()> {
    let mut level = Path::new("/").to_owned();
    for part in Path::new(&readable.folder).components().skip(1) {
        let entries = std::fs::read_dir(&level).with_context(|| format!("listing {}", level.display()))?;
        let folder = open_folder(&level)?;
        for entry in entries {
            let name = entry.with_context(|| format!("listing {}", level.display()))?.file_name();
            if name != part.as_os_str() {
                let allowed = allow(ruleset, &folder, &name);
                allowed.with_context(|| format!("allowing {}", level.join(&name).display()))?;
            }
        }
        level.push(part);
    }
    let folder = open_folder(&level)?;
    for name in &readable.entries {
        let allowed = allow(ruleset, &folder, OsStr::new(name));
        allowed.with_context(|| format!("allowing {}", level.join(name).display()))?;
    }
    Ok(())
}

fn open_folder(path: &Path) -> Result<File> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = open(path, flags, Mode::empty()).with_context(|| format!("opening {}", path.display()))?;
    Ok(opened.into())
}

fn allow(ruleset: &LandlockRuleset, folder: impl AsFd, name: &OsStr) -> io::Result<()> {
    let entry = openat(folder, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    match FileType::from_raw_mode(fstat(&entry)?.st_mode) {
        // What counts is where it leads, and reading the link itself is free.
        FileType::Symlink => Ok(()),
        FileType::Directory => Ok(ruleset.allow_below(entry.as_fd(), ALL)?),
        _ => Ok(ruleset.allow_below(entry.as_fd(), OF_A_FILE)?),
    }
}
