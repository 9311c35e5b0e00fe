//! Turns a request for a command into a process, its streams and an exit to come.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, Read},
    os::{
        fd::{AsFd, OwnedFd},
        unix::{
            ffi::{OsStrExt, OsStringExt},
            fs::OpenOptionsExt,
        },
    },
    path::{Path, PathBuf},
    rc::Rc,
};

use agent_protocol::{
    failure::{Failure, FailureKind},
    message::{ExecRequest, Stdio as Wish},
    spec::{InitSpec, User},
};
use rustix::{
    fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create},
    pipe::{PipeFlags, pipe_with},
};

use super::ask::Ends;
use crate::{
    children::{ChildId, Children},
    server::{ReadEnd, WriteEnd},
    session::pty,
    spawn::{Credentials, Limit, SpawnError, SpawnErrorKind, SpawnRequest, Stdio},
};

/// Largest /etc/passwd read to find a user by name.
const MAX_PASSWD_BYTES: u64 = 256 * 1024;

/// The one variable of git's that comes with the request.
pub(crate) const GIT_PROTOCOL: &str = "GIT_PROTOCOL";

/// What is kept of git's standard error, bytes.
pub(crate) const MAX_GIT_ERRORS_BYTES: usize = 1024;

/// Longest name of a repository's folder, bytes.
const MAX_GIT_DIRECTORY_BYTES: usize = 4095;

/// What everything inside starts with.
pub(super) struct Defaults {
    env: BTreeMap<OsString, OsString>,
    workdir: Option<PathBuf>,
    user: Option<Credentials>,
    /// In a machine init could start programs as anybody, root included, and root may reconfigure the kernel.
    nobody_else: bool,
    limits: Vec<Limit>,
    cgroup: Option<Rc<File>>,
}

impl Defaults {
    /// `descriptors` is what children get where init has raised its own limit, `cgroup` where they enter theirs.
    pub(super) fn of(spec: &InitSpec, descriptors: Option<Limit>, cgroup: Option<Rc<File>>) -> Self {
        let mut env: BTreeMap<OsString, OsString> =
            spec.env.iter().map(|(name, value)| (name.into(), value.into())).collect();
        if let Some(user) = &spec.user {
            let mut set = |name: &str, value: &Option<String>| {
                if let Some(value) = value {
                    env.entry(name.into()).or_insert_with(|| value.into());
                }
            };
            set("HOME", &user.home);
            set("USER", &user.name);
            set("LOGNAME", &user.name);
        }
        let processes = spec.limits.pids.map(|pids| Limit::fixed(NPROC, pids));
        let limits = processes.into_iter().chain(descriptors).collect();
        Self {
            env,
            workdir: spec.workdir.as_ref().map(PathBuf::from),
            user: spec.user.as_ref().map(credentials),
            nobody_else: spec.machine.is_some(),
            limits,
            cgroup,
        }
    }

    /// A request on top of the defaults.
    pub(super) fn request<'fd>(
        &self,
        argv: Vec<OsString>,
        env: impl IntoIterator<Item = (OsString, OsString)>,
        workdir: Option<PathBuf>,
        stdio: Stdio<'fd>,
    ) -> SpawnRequest<'fd> {
        let mut all = self.env.clone();
        all.extend(env);
        let mut request = SpawnRequest::sandboxed(argv, all.into_iter().collect(), stdio);
        request.dir = workdir.or_else(|| self.workdir.clone());
        request.user.clone_from(&self.user);
        request.limits.clone_from(&self.limits);
        request.cgroup.clone_from(&self.cgroup);
        request
    }
}

impl Defaults {
    /// Whether everything runs as this user: there is nothing to take on then, and without privileges it would be refused.
    fn is_usual(&self, user: &Credentials) -> bool {
        use rustix::process::{getegid, geteuid};
        let usual = self.user.as_ref().map(|user| (user.uid, user.gid));
        usual.unwrap_or_else(|| (geteuid().as_raw(), getegid().as_raw())) == (user.uid, user.gid)
    }
}

/// Counts processes of the user within its user namespace (getrlimit(2), and user namespaces since Linux 5.14).
const NPROC: i32 = libc::RLIMIT_NPROC.cast_signed();

fn credentials(user: &User) -> Credentials {
    Credentials { uid: user.uid, gid: user.gid, groups: user.groups.clone() }
}

/// Starts a command. What it is given to read and write is made here, fresh, and belongs to nobody outside:
/// whatever is passed into a sandbox can be reopened there through /proc/self/fd.
pub(super) fn start(
    children: &mut Children,
    defaults: &Defaults,
    request: ExecRequest,
    git: Option<OwnedFd>,
) -> Result<(ChildId, Ends), Failure> {
    if request.argv.is_empty() {
        return Err(Failure::new(FailureKind::BadRequest, "no command was given"));
    }
    let user = request.user.as_deref().map(find_user).transpose()?.filter(|user| !defaults.is_usual(user));
    if user.is_some() && defaults.nobody_else {
        let text = "taking on its user and groups: everything in this machine runs as one user";
        return Err(Failure::new(FailureKind::Credentials, text));
    }
    let mut argv: Vec<_> = request.argv.into_iter().map(OsString::from_vec).collect();
    let env =
        request.env.into_iter().map(|(name, value)| (OsString::from_vec(name), OsString::from_vec(value)));
    let is_git = git.is_some();
    let directory = if is_git {
        let repository = git_directory(defaults.workdir.as_deref(), request.directory.as_deref())?;
        argv.push(repository.clone().into_os_string());
        Some(repository)
    } else {
        request.directory.map(|path| PathBuf::from(OsString::from_vec(path)))
    };
    let spawn = |children: &mut Children, stdio: Stdio<'_>| {
        let mut spawn = defaults.request(argv, env, directory, stdio);
        if is_git {
            // A variable for the agent's git, such as GIT_DIR, is not meant for this one.
            spawn
                .env
                .retain(|(name, _)| name == GIT_PROTOCOL || !name.as_encoded_bytes().starts_with(b"GIT_"));
        }
        if let Some(user) = user {
            spawn.user = Some(user);
        }
        children.spawn(spawn).map_err(|error| refused(&error))
    };
    if let Some(client) = git {
        let errors = git_errors().map_err(|error| internal(&error))?;
        let stdio = Stdio::Descriptors([client.as_fd(), client.as_fd(), errors.as_fd()]);
        return Ok((spawn(children, stdio)?, Ends::Git { errors }));
    }
    match request.stdio {
        Wish::Terminal(size) => {
            let (master, slave) = pty::open(size)
                .map_err(|error| Failure::new(FailureKind::Pty, format!("opening a terminal: {error}")))?;
            let child = spawn(children, Stdio::Terminal(slave.as_fd()))?;
            Ok((child, Ends::Terminal(master)))
        }
        Wish::Detached => {
            let null = null()?;
            let fd = null.as_fd();
            Ok((spawn(children, Stdio::Descriptors([fd, fd, fd]))?, Ends::Detached))
        }
        Wish::Descriptors | Wish::Frames => {
            let (stdout, its_stdout) = pipe()?;
            let (stderr, its_stderr) = pipe()?;
            let (its_stdin, stdin) = if request.stdin {
                let (reader, writer) = pipe()?;
                (reader, Some(writer))
            } else {
                (null()?, None)
            };
            let stdio = Stdio::Descriptors([its_stdin.as_fd(), its_stdout.as_fd(), its_stderr.as_fd()]);
            let child = spawn(children, stdio)?;
            if request.stdio == Wish::Descriptors {
                return Ok((child, Ends::Handed { stdin, stdout, stderr }));
            }
            let ends = || -> io::Result<Ends> {
                Ok(Ends::Pipes {
                    stdin: stdin.map(WriteEnd::new).transpose()?,
                    stdout: ReadEnd::new(stdout)?,
                    stderr: ReadEnd::new(stderr)?,
                })
            };
            // Where that fails the command sees its streams closed, as if its client had gone.
            Ok((child, ends().map_err(|error| internal(&error))?))
        }
    }
}

/// What git complains about goes into memory that cannot grow, whoever inside gets hold of it.
fn git_errors() -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let errors = memfd_create(c"git", flags)?;
    ftruncate(&errors, MAX_GIT_ERRORS_BYTES as u64)?;
    fcntl_add_seals(&errors, SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)?;
    Ok(errors)
}

/// A folder below the working directory, as its name has it: where links lead is the sandbox's affair.
fn git_directory(workdir: Option<&Path>, name: Option<&[u8]>) -> Result<PathBuf, Failure> {
    let mut directory = workdir.unwrap_or(Path::new("/")).to_owned();
    if let Some(name) = name {
        let leaves = name.starts_with(b"/") || name.split(|byte| *byte == b'/').any(|part| part == b"..");
        if leaves || name.len() > MAX_GIT_DIRECTORY_BYTES {
            return Err(Failure::new(
                FailureKind::BadRequest,
                "a repository's folder is named from the workspace",
            ));
        }
        directory.push(OsStr::from_bytes(name));
    }
    Ok(directory)
}

/// A request that could not be executed, as the client is told.
pub(super) fn refused(error: &SpawnError) -> Failure {
    let kind = match error.kind {
        SpawnErrorKind::NotFound => FailureKind::NotFound,
        SpawnErrorKind::NotExecutable => FailureKind::NotExecutable,
        SpawnErrorKind::BadDirectory => FailureKind::BadDirectory,
        SpawnErrorKind::Permission => FailureKind::Permission,
        SpawnErrorKind::Limit => FailureKind::Limit,
        SpawnErrorKind::Pty => FailureKind::Pty,
        SpawnErrorKind::Credentials => FailureKind::Credentials,
        SpawnErrorKind::BadRequest => FailureKind::BadRequest,
        SpawnErrorKind::Timeout => FailureKind::Deadline,
        SpawnErrorKind::Other => FailureKind::Internal,
    };
    Failure::new(kind, error.to_string())
}

/// /dev/null, opened anew for whoever gets it.
pub(super) fn null() -> Result<OwnedFd, Failure> {
    let file = File::options().read(true).write(true).open("/dev/null");
    Ok(file.map_err(|error| internal(&error))?.into())
}

/// A pipe: the reading and the writing end.
pub(super) fn pipe() -> Result<(OwnedFd, OwnedFd), Failure> {
    pipe_with(PipeFlags::CLOEXEC).map_err(|error| internal(&error.into()))
}

fn internal(error: &io::Error) -> Failure {
    let no_room = matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM));
    let kind = if no_room { FailureKind::Limit } else { FailureKind::Internal };
    Failure::new(kind, format!("making the command's streams: {error}"))
}

/// `UID`, `UID:GID`, or a name from the /etc/passwd inside.
fn find_user(text: &str) -> Result<Credentials, Failure> {
    let mut passwd = String::new();
    if !text.starts_with(|first: char| first.is_ascii_digit()) {
        passwd = read_passwd(Path::new("/etc/passwd")).map_err(|error| {
            Failure::new(FailureKind::Credentials, format!("reading /etc/passwd: {error}"))
        })?;
    }
    parse_user(text, &passwd)
        .ok_or_else(|| Failure::new(FailureKind::Credentials, format!("there is no user `{text}` inside")))
}

/// What stands there may be of the sandbox's own making: a pipe must not keep the loop waiting for a writer.
fn read_passwd(path: &Path) -> io::Result<String> {
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("not a file"));
    }
    let mut passwd = String::new();
    file.take(MAX_PASSWD_BYTES).read_to_string(&mut passwd)?;
    Ok(passwd)
}

fn parse_user(text: &str, passwd: &str) -> Option<Credentials> {
    // The kernel takes the highest number for "leave as it is", and that would be init's own.
    let id = |text: &str| text.parse::<u32>().ok().filter(|id| *id != u32::MAX);
    let only = |uid, gid| Credentials { uid, gid, groups: Vec::new() };
    let (user, group) = text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
    let group = match group {
        Some(group) => Some(id(group)?),
        None => None,
    };
    if user.starts_with(|first: char| first.is_ascii_digit()) {
        let uid = id(user)?;
        return Some(only(uid, group.unwrap_or(uid)));
    }
    let mut lines = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let entry = lines.find(|fields| fields.len() >= 4 && fields[0] == user)?;
    Some(only(id(entry[2])?, group.or_else(|| id(entry[3]))?))
}

/// A command as one line for people: cut, and without anything a terminal would obey.
pub(super) fn shown(argv: &[Vec<u8>]) -> String {
    const MOST_BYTES: usize = 256;
    let mut line = String::new();
    for argument in argv {
        if !line.is_empty() {
            line.push(' ');
        }
        line.extend(OsStr::to_string_lossy(&OsString::from_vec(argument.clone())).escape_debug());
        if line.len() > MOST_BYTES {
            line.truncate(line.floor_char_boundary(MOST_BYTES));
            line.push('…');
            break;
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_numbers_or_names_inside() {
        let passwd = "root:x:0:0::/root:/bin/sh\nsandbox:x:1000:1001:,,,:/home/sandbox:/bin/bash\nbroken\n";
        let found = |text| parse_user(text, passwd).map(|user| (user.uid, user.gid));
        assert_eq!(found("sandbox"), Some((1000, 1001)));
        assert_eq!(found("sandbox:5"), Some((1000, 5)));
        assert_eq!(found("7"), Some((7, 7)));
        assert_eq!(found("7:8"), Some((7, 8)));
        for wrong in ["", "nobody", "broken", "7:", "7:x", "-1", "4294967295", "7:4294967295", "4294967296"] {
            assert_eq!(found(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_repository_is_looked_for_below_the_working_directory_only() {
        let found = |name: &[u8]| git_directory(Some(Path::new("/work")), Some(name)).ok();
        assert_eq!(git_directory(Some(Path::new("/work")), None).unwrap(), Path::new("/work"));
        assert_eq!(found(b".worktrees/x"), Some("/work/.worktrees/x".into()));
        assert_eq!(found(b"-x"), Some("/work/-x".into()));
        for wrong in [&b"/etc"[..], b"..", b"a/../../b", &[b'a'; 5000]] {
            assert_eq!(found(wrong), None);
        }
    }

    #[test]
    fn a_pipe_in_place_of_the_users_is_not_waited_for() {
        let path = std::env::temp_dir().join(format!("agent-init-passwd-{}", std::process::id()));
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let read = read_passwd(&path);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(read.unwrap_err().to_string(), "not a file");
    }

    #[test]
    fn a_command_is_shown_without_what_a_terminal_would_obey() {
        assert_eq!(shown(&[b"echo".to_vec(), b"\x1b[2J\xff".to_vec()]), "echo \\u{1b}[2J\u{fffd}");
        assert!(shown(&[vec![b'a'; 10_000]]).len() < 300);
    }
}
