//! What a child is to be, and why it did not come to be: laid out before it exists, because it must not allocate.

use std::ffi::{CString, c_char, c_int};
use std::os::fd::RawFd;
use std::ptr;

use nix::errno::Errno;
use nix::unistd::Pid;

use super::SignalState;

/// Everything a child needs, laid out before it exists: the child itself must not allocate.
pub(crate) struct Plan {
    /// Paths to try in order, with the rules of `execvp`.
    pub(crate) paths: CStrings,
    pub(crate) argv: CStrings,
    pub(crate) env: CStrings,
    pub(crate) dir: Option<CString>,
    /// What becomes 0, 1 and 2.
    pub(crate) stdio: [RawFd; 3],
    pub(crate) session: Session,
    /// Make descriptor 0 the controlling terminal; needs a new session.
    pub(crate) controlling_terminal: bool,
    /// Take the foreground of the terminal on descriptor 0, if it is one.
    pub(crate) foreground: bool,
    pub(crate) limits: Vec<(c_int, libc::rlimit64)>,
    /// `cgroup.procs` of the cgroup to enter.
    pub(crate) cgroup: Option<RawFd>,
    pub(crate) user: Option<Ids>,
    pub(crate) umask: Option<libc::mode_t>,
    pub(crate) close_other_descriptors: bool,
    pub(crate) signals: SignalState,
}

/// Whom a child shares its session and group with.
pub(crate) enum Session {
    /// Nobody.
    New,
    /// The session with init, the group with nobody.
    NewGroup,
}

/// Numeric credentials; names are resolved by whoever wrote the request.
pub(crate) struct Ids {
    pub(crate) uid: libc::uid_t,
    pub(crate) gid: libc::gid_t,
    pub(crate) groups: Vec<libc::gid_t>,
}

/// Where between `clone` and the new program a child failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Step {
    /// Creating the process.
    Clone = 1,
    /// `setsid` or `setpgid`.
    Session,
    /// Writing to `cgroup.procs`.
    Cgroup,
    /// Moving descriptors to 0, 1 and 2.
    Stdio,
    /// Making descriptor 0 the controlling terminal, or taking its foreground.
    Terminal,
    /// `setrlimit`.
    Limits,
    /// `setgroups`, `setresgid`, `setresuid`.
    Credentials,
    /// `chdir`.
    Dir,
    /// `execve`.
    Exec,
    /// The child neither executed nor failed in time.
    Deadline,
}

/// Why no program was started. A child that came to life and failed still has to be waited for.
pub(crate) struct Failure {
    pub(crate) step: Step,
    pub(crate) errno: Errno,
    pub(crate) child: Option<Pid>,
}

/// C strings with the null-terminated pointer array that `execve` reads.
pub(crate) struct CStrings {
    // The pointers point into these, which are never changed again.
    _strings: Vec<CString>,
    pub(super) pointers: Vec<*const c_char>,
}

impl CStrings {
    pub(crate) fn new(strings: Vec<CString>) -> Self {
        let pointers = strings.iter().map(|s| s.as_ptr()).chain([ptr::null()]).collect();
        Self { _strings: strings, pointers }
    }
}

impl Step {
    pub(super) fn from_number(number: u32) -> Option<Self> {
        use Step::{Cgroup, Clone, Credentials, Deadline, Dir, Exec, Limits, Session, Stdio, Terminal};
        [Clone, Session, Cgroup, Stdio, Terminal, Limits, Credentials, Dir, Exec, Deadline]
            .into_iter()
            .find(|step| *step as u32 == number)
    }
}
