//! What a launch consists of: a list of steps between clone and exec, and what is executed.
//!
//! The list is prepared before the clone, so the child allocates nothing: it may share memory with threads of a
//! program that embeds us.

use std::{ffi::CString, os::fd::RawFd};

/// One thing the child does before it executes the program.
#[derive(Debug)]
pub(crate) enum Step {
    /// Leave the caller's session and terminal.
    NewSession,
    /// Write down our number as `{"layer-pid": N}`.
    NoteSelf(RawFd),
    /// Be killed when our parent ends, which is the process with this number.
    EndWith(i32),
    /// Work in `/`, and not in whatever folder the caller is in.
    AtTheRoot,
    /// Enter the cgroup whose `cgroup.procs` is open here.
    JoinCgroup(RawFd),
    /// Get a mount table of our own; unmounts on the host still reach it, so that it keeps nothing busy.
    PrivateMounts,
    /// Cover a folder with an empty tmpfs others may only walk through.
    Cover(CString),
    /// Make the file or folder a mount is put on.
    MountPoint { at: CString, folder: bool },
    /// Attach a detached mount.
    Attach { mount: RawFd, at: CString },
    /// Begin in a user and a mount namespace of our own, with our own ids: for mounts without privileges. These are what
    /// goes into the maps. It is made by the clone, wherever this stands, because a process that shares its memory cannot
    /// make it later.
    OwnNamespaces { uid_map: CString, gid_map: CString },
    /// Cover a folder with an empty tmpfs for a tree of packages.
    Ground(CString),
    /// Show a file or folder, and what is mounted in it, at another place too, read-only.
    Graft { from: CString, at: CString },
    /// Make a symbolic link.
    Link { target: CString, at: CString },
    /// Let nothing more be made in this tmpfs.
    Seal(CString),
    /// Give up every group, id and capability for this one id.
    BecomeUser(u32),
    /// Make an open file known under this number, for the program to inherit.
    PassFd { from: RawFd, to: RawFd },
    /// Let nothing above this number through the exec, except what is passed afterwards.
    CloseAbove(RawFd),
}

/// What to execute once the steps are done.
#[derive(Debug)]
pub(crate) struct Program {
    pub(crate) path: CString,
    pub(crate) args: Vec<CString>,
    pub(crate) env: Vec<CString>,
}
