//! Turns a request into a running program, or into an error that says what was wrong with it.
//!
//! "Spawned" means executed: the error of a missing program comes from here, never from an exit code.
//! Programs are searched with the rules of `execvp` in the child's own PATH, from the child's own folder and
//! with its own credentials; the list of candidates is made before there is a child.

use std::ffi::{CString, OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use nix::errno::Errno;
use nix::libc;
use nix::unistd::Pid;

pub use crate::sys::Step;
use crate::sys::{self, CStrings, Ids, Plan, Session, SignalState};

/// A program to start, and everything it starts with.
pub struct SpawnRequest<'fd> {
    /// Program and arguments. A program without a slash is looked up in PATH.
    pub argv: Vec<OsString>,
    /// The whole environment; nothing of init's own is added.
    pub env: Vec<(OsString, OsString)>,
    /// Where it starts; `None` for init's own folder.
    pub dir: Option<PathBuf>,
    /// As whom; `None` for init's own credentials.
    pub user: Option<Credentials>,
    /// Its first three descriptors.
    pub stdio: Stdio<'fd>,
    /// Its session and process group.
    pub placement: Placement,
    /// Resource limits that differ from init's.
    pub limits: Vec<Limit>,
    /// `cgroup.procs` of the cgroup it starts in, if not init's.
    pub cgroup: Option<Rc<File>>,
    /// The file mode mask, if not init's.
    pub umask: Option<u32>,
    /// Mask and dispositions it starts with.
    pub signals: SignalState,
    /// Keep what init itself inherited beyond 0, 1, 2: an entrypoint is transparent, a sandbox is not.
    pub inherit_descriptors: bool,
    /// Hand a file without `#!` to /bin/sh, as `execvp` does.
    pub shell_fallback: bool,
}

impl<'fd> SpawnRequest<'fd> {
    /// A program of a sandbox: its own session, default signals, and no descriptor but its three.
    pub fn sandboxed(argv: Vec<OsString>, env: Vec<(OsString, OsString)>, stdio: Stdio<'fd>) -> Self {
        Self {
            argv,
            env,
            dir: None,
            user: None,
            stdio,
            placement: Placement::NewSession,
            limits: Vec::new(),
            cgroup: None,
            umask: None,
            signals: SignalState::default(),
            inherit_descriptors: false,
            shell_fallback: false,
        }
    }
}

/// Numeric credentials: init never reads a user database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// User.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// The whole list of further groups.
    pub groups: Vec<u32>,
}

/// What a program's descriptors 0, 1 and 2 are.
#[derive(Clone, Copy, Debug)]
pub enum Stdio<'fd> {
    /// Three descriptors, which may be the same one.
    Descriptors([BorrowedFd<'fd>; 3]),
    /// The slave of a PTY, which becomes the controlling terminal; implies a new session.
    Terminal(BorrowedFd<'fd>),
}

/// Where a program stands among the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// Its own session and group.
    ///
    /// In a sandbox always this: a process in init's own session could join init's group, and a group is
    /// something `setpriority` and terminals act upon.
    NewSession,
    /// Its own group, in the foreground of the terminal on descriptor 0 if that is one.
    NewForegroundGroup,
}

/// One resource limit (getrlimit(2)), in the resource's own unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// `RLIMIT_...`
    pub resource: i32,
    /// What is enforced.
    pub soft: u64,
    /// What the soft one can be raised to.
    pub hard: u64,
}

impl Limit {
    /// A limit that cannot be raised.
    pub fn fixed(resource: i32, value: u64) -> Self {
        Self { resource, soft: value, hard: value }
    }
}

/// Starts a program. Only [`crate::children`] calls this, because what was started must be waited for.
pub(crate) fn spawn(request: &SpawnRequest<'_>) -> Result<Pid, SpawnError> {
    let candidates = candidates(request)?;
    match sys::spawn(plan(request, &candidates, &request.argv)?) {
        Ok(pid) => Ok(pid),
        Err(failure) if request.shell_fallback && is_script_without_interpreter(&failure) => {
            // The failed child is left to the reaper; it is nobody's.
            let script = candidates.iter().find(|path| path.exists()).cloned().unwrap_or_default();
            let mut argv: Vec<OsString> = vec!["/bin/sh".into(), script.into_os_string()];
            argv.extend(request.argv.iter().skip(1).cloned());
            let shell = [PathBuf::from("/bin/sh")];
            sys::spawn(plan(request, &shell, &argv)?).map_err(|failure| describe(request, &failure))
        }
        Err(failure) => Err(describe(request, &failure)),
    }
}

/// Why a program was not started.
#[derive(Debug)]
pub struct SpawnError {
    /// What it comes down to.
    pub kind: SpawnErrorKind,
    /// The step that failed.
    pub step: Step,
    /// What the kernel said.
    pub errno: Errno,
    /// What it was about: a program, a folder.
    pub subject: String,
    /// The child that failed before it became a program and still has to be waited for.
    pub(crate) stillborn: Option<Pid>,
}

/// The kinds of [`SpawnError`] a caller may want to tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpawnErrorKind {
    /// No such program, or its interpreter is missing.
    NotFound,
    /// There, but not to be executed: a folder, no permission, `noexec`, an unknown format.
    NotExecutable,
    /// The working directory is missing, not a folder, or not accessible.
    BadDirectory,
    /// Something other than the program or the folder was not permitted.
    Permission,
    /// No more processes, memory or descriptors.
    Limit,
    /// The terminal could not be made the controlling one.
    Pty,
    /// User or groups could not be taken on.
    Credentials,
    /// The request itself is wrong: no program, or a NUL byte in a string.
    BadRequest,
    /// The child got stuck before it executed.
    Timeout,
    /// Anything else.
    Other,
}

impl SpawnErrorKind {
    /// The exit code a shell or `env` would give: 127 not found, 126 not executable, 125 our own failure.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::NotFound => 127,
            Self::NotExecutable => 126,
            Self::BadDirectory
            | Self::Permission
            | Self::Limit
            | Self::Pty
            | Self::Credentials
            | Self::BadRequest
            | Self::Timeout
            | Self::Other => 125,
        }
    }
}

impl fmt::Display for SpawnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { subject, errno, .. } = self;
        let reason = errno.desc();
        match (self.kind, self.step) {
            // The file is there, so it must be what its first line names.
            (SpawnErrorKind::NotFound, _) if Path::new(subject).is_file() => {
                write!(f, "cannot execute `{subject}`: its interpreter is missing")
            }
            (SpawnErrorKind::NotFound, _) => write!(f, "command not found: `{subject}`"),
            (SpawnErrorKind::NotExecutable, _) => write!(f, "cannot execute `{subject}`: {reason}"),
            (SpawnErrorKind::BadDirectory, _) => write!(f, "cannot start in `{subject}`: {reason}"),
            (SpawnErrorKind::BadRequest, _) => write!(f, "cannot start `{subject}`: invalid request"),
            (SpawnErrorKind::Timeout, _) => {
                write!(f, "cannot start `{subject}`: stuck before it was executed")
            }
            (_, step) => write!(f, "cannot start `{subject}`: {}: {reason}", step_name(step)),
        }
    }
}

impl std::error::Error for SpawnError {}

/// glibc's own answer when there is no PATH.
const DEFAULT_PATH: &[u8] = b"/bin:/usr/bin";

fn candidates(request: &SpawnRequest<'_>) -> Result<Vec<PathBuf>, SpawnError> {
    let Some(program) = request.argv.first() else { return Err(bad_request("")) };
    if program.is_empty() {
        return Err(not_found());
    }
    if program.as_bytes().contains(&b'/') {
        return Ok(vec![program.into()]);
    }
    let path = request.env.iter().find(|(name, _)| name == "PATH").map(|(_, value)| value.as_bytes());
    Ok(search(path.unwrap_or(DEFAULT_PATH), program))
}

/// An empty entry means the current folder; it is spelled out so that the result has a slash.
fn search(path: &[u8], program: &OsStr) -> Vec<PathBuf> {
    path.split(|byte| *byte == b':')
        .map(|dir| if dir.is_empty() { b".".as_slice() } else { dir })
        .map(|dir| Path::new(OsStr::from_bytes(dir)).join(program))
        .collect()
}

fn plan(request: &SpawnRequest<'_>, candidates: &[PathBuf], argv: &[OsString]) -> Result<Plan, SpawnError> {
    let program = request.argv.first().map(|program| program.to_string_lossy()).unwrap_or_default();
    let bad = |_| bad_request(&program);
    let strings = |texts: Vec<Vec<u8>>| -> Result<CStrings, SpawnError> {
        Ok(CStrings::new(texts.into_iter().map(CString::new).collect::<Result<_, _>>().map_err(bad)?))
    };
    let env = request.env.iter().map(|(name, value)| {
        let mut entry = name.as_bytes().to_vec();
        entry.push(b'=');
        entry.extend_from_slice(value.as_bytes());
        entry
    });
    let (stdio, terminal) = match request.stdio {
        Stdio::Descriptors(fds) => (fds.map(|fd| fd.as_raw_fd()), false),
        Stdio::Terminal(slave) => ([slave.as_raw_fd(); 3], true),
    };
    let foreground = request.placement == Placement::NewForegroundGroup;
    Ok(Plan {
        paths: strings(candidates.iter().map(|path| path.as_os_str().as_bytes().to_vec()).collect())?,
        argv: strings(argv.iter().map(|arg| arg.clone().into_vec()).collect())?,
        env: strings(env.collect())?,
        dir: match &request.dir {
            Some(dir) => Some(CString::new(dir.as_os_str().as_bytes()).map_err(bad)?),
            None => None,
        },
        stdio,
        session: if foreground && !terminal { Session::NewGroup } else { Session::New },
        controlling_terminal: terminal,
        foreground,
        limits: request
            .limits
            .iter()
            .map(|limit| (limit.resource, libc::rlimit64 { rlim_cur: limit.soft, rlim_max: limit.hard }))
            .collect(),
        cgroup: request.cgroup.as_ref().map(AsRawFd::as_raw_fd),
        user: request.user.as_ref().map(|user| Ids {
            uid: user.uid,
            gid: user.gid,
            groups: user.groups.clone(),
        }),
        umask: request.umask,
        close_other_descriptors: !request.inherit_descriptors,
        signals: request.signals,
    })
}

fn is_script_without_interpreter(failure: &sys::Failure) -> bool {
    failure.step == Step::Exec && failure.errno == Errno::ENOEXEC
}

fn describe(request: &SpawnRequest<'_>, failure: &sys::Failure) -> SpawnError {
    let subject = match (failure.step, &request.dir) {
        (Step::Dir, Some(dir)) => dir.as_os_str(),
        _ => request.argv.first().map_or(OsStr::new(""), OsString::as_os_str),
    };
    SpawnError {
        kind: kind_of(failure.step, failure.errno),
        step: failure.step,
        errno: failure.errno,
        subject: subject.to_string_lossy().into_owned(),
        stillborn: failure.child,
    }
}

fn kind_of(step: Step, errno: Errno) -> SpawnErrorKind {
    match (step, errno) {
        (Step::Deadline, _) => SpawnErrorKind::Timeout,
        // A user with too many processes gets EAGAIN from execve, not from setuid.
        (_, Errno::EAGAIN | Errno::ENOMEM | Errno::EMFILE | Errno::ENFILE) => SpawnErrorKind::Limit,
        (Step::Exec, Errno::ENOENT | Errno::ENOTDIR) => SpawnErrorKind::NotFound,
        (Step::Exec, _) => SpawnErrorKind::NotExecutable,
        (Step::Dir, _) => SpawnErrorKind::BadDirectory,
        (Step::Terminal, _) => SpawnErrorKind::Pty,
        (Step::Credentials, _) => SpawnErrorKind::Credentials,
        (_, Errno::EPERM | Errno::EACCES) => SpawnErrorKind::Permission,
        (Step::Clone | Step::Session | Step::Cgroup | Step::Stdio | Step::Limits, _) => SpawnErrorKind::Other,
    }
}

fn step_name(step: Step) -> &'static str {
    match step {
        Step::Clone => "creating a process",
        Step::Session => "creating a session",
        Step::Cgroup => "entering its cgroup",
        Step::Stdio => "placing its descriptors",
        Step::Terminal => "taking the terminal",
        Step::Limits => "setting its limits",
        Step::Credentials => "taking on its user and groups",
        Step::Dir => "changing the folder",
        Step::Exec => "executing it",
        Step::Deadline => "waiting for it",
    }
}

fn bad_request(subject: &str) -> SpawnError {
    SpawnError {
        kind: SpawnErrorKind::BadRequest,
        step: Step::Clone,
        errno: Errno::EINVAL,
        subject: subject.to_owned(),
        stillborn: None,
    }
}

fn not_found() -> SpawnError {
    SpawnError { kind: SpawnErrorKind::NotFound, errno: Errno::ENOENT, step: Step::Exec, ..bad_request("") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_is_searched_in_order_and_an_empty_entry_is_the_current_folder() {
        let found = search(b"/a::b/", OsStr::new("x"));
        assert_eq!(found, ["/a/x", "./x", "b/x"].map(PathBuf::from));
    }

    #[test]
    fn kinds_follow_from_step_and_errno() {
        use SpawnErrorKind as Kind;
        for (step, errno, kind) in [
            (Step::Exec, Errno::ENOENT, Kind::NotFound),
            (Step::Exec, Errno::EACCES, Kind::NotExecutable),
            (Step::Exec, Errno::ENOEXEC, Kind::NotExecutable),
            (Step::Exec, Errno::EAGAIN, Kind::Limit),
            (Step::Clone, Errno::EAGAIN, Kind::Limit),
            (Step::Dir, Errno::ENOENT, Kind::BadDirectory),
            (Step::Dir, Errno::EACCES, Kind::BadDirectory),
            (Step::Terminal, Errno::EPERM, Kind::Pty),
            (Step::Credentials, Errno::EPERM, Kind::Credentials),
            (Step::Limits, Errno::EPERM, Kind::Permission),
            (Step::Deadline, Errno::ETIMEDOUT, Kind::Timeout),
        ] {
            assert_eq!(kind_of(step, errno), kind, "{step:?} {errno}");
        }
    }
}
