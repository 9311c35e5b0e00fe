//! The host's own git, run so that nothing in any configuration runs anything: no file of configuration but the
//! repository's own, no hooks, no helpers, no network, and an end to every wait.

use std::{
    env,
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, Read, Seek},
    os::{
        fd::AsFd,
        unix::{
            ffi::OsStrExt,
            fs::FileExt,
            process::{CommandExt, ExitStatusExt},
        },
    },
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::{
    event::PollFlags,
    fs::MemfdFlags,
    process::{Pid, PidfdFlags, Resource, Rlimit, pidfd_open, prlimit},
};

use crate::{
    client::interrupt::{Interrupt, wait_for},
    programs::is_program,
};

/// The oldest git that does all we ask: `GIT_CONFIG_COUNT`, `--config-env` and `rev-parse --path-format` came with it.
pub(crate) const OLDEST: (u32, u32) = (2, 31);

/// What is read of a command's complaint, bytes.
const MAX_COMPLAINT_BYTES: u64 = 8 * 1024;

/// A person's name and address, bytes.
const MAX_IDENTITY_BYTES: usize = 16 * 1024;

/// What every run is configured with; it stands above what a repository says.
const CONFIGURATION: [(&str, &str); 15] = [
    ("core.hooksPath", "/dev/null"),
    ("core.fsmonitor", "false"),
    ("core.untrackedCache", "false"),
    ("core.attributesFile", "/dev/null"),
    ("core.excludesFile", "/dev/null"),
    ("core.alternateRefsCommand", "true"),
    ("core.pager", "cat"),
    ("core.bigFileThreshold", "32m"),
    ("core.packedGitWindowSize", "32m"),
    ("core.packedGitLimit", "1g"),
    ("gc.auto", "0"),
    ("maintenance.auto", "false"),
    ("protocol.allow", "never"),
    ("safe.directory", "*"),
    ("log.showSignature", "false"),
];

/// The variable that holds what `core.hooksPath` is.
const NO_HOOKS: &str = "AGENT_SHIM_NO_HOOKS";

/// Why git did not do what it was to.
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    /// There is none.
    #[error("there is no git on this machine")]
    Missing,
    /// It is too old.
    #[error("git {found} is too old; {needed} or newer is needed")]
    TooOld {
        /// What it calls itself.
        found: String,
        /// What it should be.
        needed: String,
    },
    /// It could not be run.
    #[error("running `git {what}`")]
    Run {
        /// The subcommand.
        what: &'static str,
        /// The reason.
        source: io::Error,
    },
    /// It refused. What it says may quote what came from inside.
    #[error("git {what}: {said}")]
    Refused {
        /// The subcommand.
        what: &'static str,
        /// Its words.
        said: String,
    },
    /// It took too long.
    #[error("git {what} did not end in time")]
    Deadline {
        /// The subcommand.
        what: &'static str,
    },
}

/// The host's git.
#[derive(Clone, Debug)]
pub(crate) struct HostGit {
    program: PathBuf,
    path: OsString,
    memory_bytes: u64,
    interrupt: Option<Interrupt>,
    /// Whether its runs are out of reach of the terminal's signals.
    is_apart: bool,
}

/// A run of it. Killed on drop, if it has not ended.
#[derive(Debug)]
pub(crate) struct Running {
    what: &'static str,
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Option<ChildStdout>,
    complaint: File,
    ended: bool,
    until: Instant,
    interrupt: Option<Interrupt>,
}

impl HostGit {
    /// The first `git` of the caller's PATH.
    pub(crate) fn find(memory_bytes: u64) -> Result<Self, GitError> {
        let path = env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into());
        // What lies in the current folder may be the agent's.
        let mut places = env::split_paths(&path).filter(|place| place.is_absolute());
        let program = places
            .find_map(|place| Some(place.join("git")).filter(|git| is_program(git)))
            .ok_or(GitError::Missing)?;
        Ok(Self { program, path, memory_bytes, interrupt: None, is_apart: false })
    }

    /// The same, whose runs end when it is called off. A terminal's signals are not theirs then.
    pub(crate) fn interrupted_by(self, interrupt: Option<&Interrupt>) -> Self {
        Self { interrupt: interrupt.cloned(), is_apart: interrupt.is_some(), ..self }
    }

    /// The same, whose runs are waited for, whoever calls it off.
    pub(crate) fn insistent(&self) -> Self {
        Self { interrupt: None, ..self.clone() }
    }

    /// Whether it was called off.
    pub(crate) fn is_called_off(&self) -> bool {
        self.interrupt.as_ref().is_some_and(Interrupt::is_set)
    }

    /// Asks where a repository is, the way that a person would: with their configuration, which may say that they
    /// do not trust its owner.
    pub(crate) fn as_person(
        &self,
        folder: &Path,
        args: &[&str],
        until: Instant,
    ) -> Result<Vec<u8>, GitError> {
        let command = self.persons(folder, args);
        self.start(command, "rev-parse", until)?.output(usize::MAX)
    }

    /// Who the person is: `GIT_AUTHOR_IDENT` or `GIT_COMMITTER_IDENT` (git-var(1)).
    pub(crate) fn identity(&self, folder: &Path, which: &str, until: Instant) -> Result<Vec<u8>, GitError> {
        let mut command = self.persons(folder, &["var", which]);
        for name in ["GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL", "GIT_COMMITTER_DATE"].into_iter().chain([
            "GIT_AUTHOR_NAME",
            "GIT_AUTHOR_EMAIL",
            "GIT_AUTHOR_DATE",
            "EMAIL",
            "USER",
            "LOGNAME",
        ]) {
            match env::var_os(name) {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        self.start(command, "var", until)?.output(MAX_IDENTITY_BYTES)
    }

    /// The same with no more memory than this.
    pub(crate) fn within_memory(&self, memory_bytes: u64) -> Self {
        Self { memory_bytes: memory_bytes.min(self.memory_bytes), ..self.clone() }
    }

    /// Has git look after the objects of a repository, as it does after each `git fetch` and as the person wants it (`gc.auto`,
    /// git-maintenance(1)); only hooks are not run. How much memory it takes is the person's affair, too.
    pub(crate) fn maintain(&self, git_dir: &Path, until: Instant) -> Result<(), GitError> {
        let flag = format!("--config-env=core.hooksPath={NO_HOOKS}");
        let mut command = self.persons(Path::new("/"), &[&flag, "maintenance", "run", "--auto", "--quiet"]);
        command.env(NO_HOOKS, "/dev/null").env("GIT_DIR", git_dir).env_remove("GIT_OPTIONAL_LOCKS");
        let git = Self { memory_bytes: u64::MAX, ..self.clone() };
        git.start(command, "maintenance", until)?.output(1024).map(drop)
    }

    /// A command in a folder with a person's configuration. It may only ask.
    pub(crate) fn persons(&self, folder: &Path, args: &[&str]) -> Command {
        let mut command = self.bare();
        for name in ["HOME", "XDG_CONFIG_HOME"] {
            if let Some(value) = env::var_os(name) {
                command.env(name, value);
            }
        }
        command.env_remove("GIT_CONFIG_NOSYSTEM").env_remove("GIT_CONFIG_GLOBAL");
        command.arg("-C").arg(folder).args(args).stdin(Stdio::null());
        command
    }

    /// A command on the repository at `git_dir`.
    pub(crate) fn on(&self, git_dir: &Path) -> Command {
        self.on_with(git_dir, &[])
    }

    /// The same, configured further.
    pub(crate) fn on_with(&self, git_dir: &Path, more: &[(&str, &str)]) -> Command {
        let mut command = self.bare();
        command.env("GIT_DIR", git_dir).env("HOME", "/nonexistent").current_dir("/");
        // A git that does not know this flag would not know the variables below either, and must not go on.
        command.env(NO_HOOKS, "/dev/null").arg(format!("--config-env=core.hooksPath={NO_HOOKS}"));
        command.env("GIT_CONFIG_COUNT", (CONFIGURATION.len() + more.len()).to_string());
        for (number, (name, value)) in CONFIGURATION.iter().chain(more).enumerate() {
            command.env(format!("GIT_CONFIG_KEY_{number}"), name);
            command.env(format!("GIT_CONFIG_VALUE_{number}"), value);
        }
        command
    }

    pub(crate) fn bare(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.env_clear().env("PATH", &self.path).env("LC_ALL", "C");
        command.stdin(Stdio::null()).stdout(Stdio::null());
        for (name, value) in [
            ("GIT_CONFIG_NOSYSTEM", "1"),
            ("GIT_CONFIG_GLOBAL", "/dev/null"),
            ("GIT_ATTR_NOSYSTEM", "1"),
            ("GIT_TERMINAL_PROMPT", "0"),
            ("GIT_OPTIONAL_LOCKS", "0"),
            ("GIT_NO_LAZY_FETCH", "1"),
            ("GIT_NO_REPLACE_OBJECTS", "1"),
            ("GIT_PROTOCOL_FROM_USER", "0"),
            ("GIT_PAGER", "cat"),
            // Reflogs say who moved a ref.
            ("GIT_COMMITTER_NAME", "agent-shim"),
            ("GIT_COMMITTER_EMAIL", "agent-shim@localhost"),
        ] {
            command.env(name, value);
        }
        command
    }

    /// Starts a command whose output we read, and whose input we write where `stdin` was asked to be a pipe.
    pub(crate) fn start(
        &self,
        mut command: Command,
        what: &'static str,
        until: Instant,
    ) -> Result<Running, GitError> {
        let failed = |source| GitError::Run { what, source };
        let flags = MemfdFlags::CLOEXEC;
        let complaint: File =
            rustix::fs::memfd_create(c"git", flags).map_err(|error| failed(error.into()))?.into();
        let its_complaint = complaint.try_clone().map_err(failed)?;
        command.stdout(Stdio::piped()).stderr(its_complaint);
        if self.is_apart {
            command.process_group(0);
        }
        let mut child = command.spawn().map_err(failed)?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let interrupt = self.interrupt.clone();
        let running = Running { what, child, stdin, stdout, complaint, ended: false, until, interrupt };
        // Private memory only: the packs that it maps are no cost.
        let most = Some(self.memory_bytes);
        let pid = i32::try_from(running.child.id()).ok().and_then(Pid::from_raw);
        // One that has ended already needs none.
        let _ = prlimit(pid, Resource::Data, Rlimit { current: most, maximum: most });
        let _ = prlimit(pid, Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
        if let Some(stdin) = &running.stdin {
            rustix::io::ioctl_fionbio(stdin, true).map_err(|error| failed(error.into()))?;
        }
        if let Some(stdout) = &running.stdout {
            rustix::io::ioctl_fionbio(stdout, true).map_err(|error| failed(error.into()))?;
        }
        Ok(running)
    }

    /// Refuses a git that is too old. Asked when something has failed: an older one does not understand what we ask
    /// it first.
    pub(crate) fn check_version(&self, until: Instant) -> Result<(), GitError> {
        let mut command = self.bare();
        command.arg("version");
        let said = self.start(command, "version", until)?.output(4096)?;
        let said = String::from_utf8_lossy(&said).trim().to_owned();
        match version(&said) {
            Some(version) if version >= OLDEST => Ok(()),
            _ => Err(GitError::TooOld {
                found: said.strip_prefix("git version ").unwrap_or(&said).to_owned(),
                needed: format!("{}.{}", OLDEST.0, OLDEST.1),
            }),
        }
    }
}

fn version(said: &str) -> Option<(u32, u32)> {
    let mut numbers = said.strip_prefix("git version ")?.split('.').map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

impl Running {
    /// Writes to its standard input. One that has stopped reading says why when it is waited for.
    pub(crate) fn write(&mut self, mut bytes: &[u8]) -> Result<(), GitError> {
        let what = self.what;
        let failed = |error: rustix::io::Errno| GitError::Run { what, source: error.into() };
        while let (Some(stdin), false) = (&self.stdin, bytes.is_empty()) {
            match rustix::io::write(stdin, bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => {
                    if !wait_for(stdin.as_fd(), PollFlags::OUT, Some(self.until), self.interrupt.as_ref())
                        .map_err(failed)?
                    {
                        return Err(GitError::Deadline { what });
                    }
                }
                Err(rustix::io::Errno::PIPE) => {
                    self.stdin = None;
                    return self.wait();
                }
                Err(error) => return Err(failed(error)),
            }
        }
        Ok(())
    }

    /// From here on it is waited for, whoever calls it off.
    pub(crate) fn insist(&mut self) {
        self.interrupt = None;
    }

    /// Ends its standard input.
    pub(crate) fn end_input(&mut self) {
        self.stdin = None;
    }

    /// Reads what it says next; 0 is the end.
    pub(crate) fn read(&mut self, into: &mut [u8]) -> Result<usize, GitError> {
        let what = self.what;
        let failed = |error: rustix::io::Errno| GitError::Run { what, source: error.into() };
        let Some(stdout) = &self.stdout else { return Ok(0) };
        loop {
            match rustix::io::read(stdout, &mut *into) {
                Ok(count) => return Ok(count),
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => {
                    if !wait_for(stdout.as_fd(), PollFlags::IN, Some(self.until), self.interrupt.as_ref())
                        .map_err(failed)?
                    {
                        return Err(GitError::Deadline { what });
                    }
                }
                Err(error) => return Err(failed(error)),
            }
        }
    }

    /// Reads one line without its end; `None` where it ended before.
    pub(crate) fn line(&mut self) -> Result<Option<Vec<u8>>, GitError> {
        let mut line = Vec::new();
        let mut byte = [0];
        while self.read(&mut byte)? == 1 {
            if byte[0] == b'\n' {
                return Ok(Some(line));
            }
            line.push(byte[0]);
        }
        Ok(None)
    }

    /// All that it says, once it has ended well. More than `most` bytes are an error.
    pub(crate) fn output(self, most: usize) -> Result<Vec<u8>, GitError> {
        let (output, ended) = self.output_and_end(most)?;
        ended.map(|()| output)
    }

    /// All that it says, and how it ended.
    pub(crate) fn output_and_end(mut self, most: usize) -> Result<(Vec<u8>, Result<(), GitError>), GitError> {
        let mut output = Vec::new();
        let mut piece = vec![0; 64 * 1024];
        loop {
            match self.read(&mut piece)? {
                0 => break,
                count => output.extend_from_slice(&piece[..count]),
            }
            if output.len() > most {
                return Err(GitError::Refused { what: self.what, said: "it says too much".to_owned() });
            }
        }
        let ended = self.wait();
        Ok((output, ended))
    }

    /// Waits until it has ended well, and calls `each` with what it said last about how far it is, every now and then.
    /// Where that fails, git is ended.
    pub(crate) fn wait_watched<E: From<GitError>>(
        &mut self,
        every: Duration,
        mut each: impl FnMut(&str) -> Result<(), E>,
    ) -> Result<(), E> {
        let what = self.what;
        self.stdin = None;
        let failed = |source| GitError::Run { what, source };
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let pidfd = pidfd_open(pid, PidfdFlags::empty()).map_err(|error| failed(error.into()))?;
            loop {
                let now = Instant::now();
                let next = (now + every).min(self.until);
                let ended = wait_for(pidfd.as_fd(), PollFlags::IN, Some(next), self.interrupt.as_ref());
                if ended.map_err(|error| failed(error.into()))? {
                    break;
                }
                if now >= self.until {
                    return Err(GitError::Deadline { what }.into());
                }
                each(&self.progress())?;
            }
        }
        let ended = self.wait();
        // Whoever called us off called git off too.
        each("")?;
        Ok(ended?)
    }

    /// The last line of how far it is, where it was asked to tell.
    fn progress(&self) -> String {
        let mut bytes = [0; 512];
        let length = self.complaint.metadata().map_or(0, |found| found.len());
        let from = length.saturating_sub(bytes.len() as u64);
        // Read at a place of its own: git writes where the descriptor that it shares with us stands.
        let count = self.complaint.read_at(&mut bytes, from).unwrap_or(0);
        let text = String::from_utf8_lossy(&bytes[..count]);
        let mut lines = text.trim_end().rsplit(['\r', '\n']);
        lines.next().unwrap_or_default().trim().to_owned()
    }

    /// Waits until it has ended well.
    pub(crate) fn wait(&mut self) -> Result<(), GitError> {
        let what = self.what;
        self.stdin = None;
        let failed = |source| GitError::Run { what, source };
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let (Some(pid), false) = (pid, self.ended) {
            let pidfd = pidfd_open(pid, PidfdFlags::empty()).map_err(|error| failed(error.into()))?;
            let ended = wait_for(pidfd.as_fd(), PollFlags::IN, Some(self.until), self.interrupt.as_ref());
            if !ended.map_err(|error| failed(error.into()))? {
                return Err(GitError::Deadline { what });
            }
        }
        let status = self.child.wait().map_err(failed)?;
        self.ended = true;
        if status.success() {
            return Ok(());
        }
        let mut said = self.complaint();
        if let (true, Some(signal)) = (said.is_empty(), status.signal()) {
            said = format!("killed by signal {signal}");
        } else if said.is_empty() {
            said = format!("exit status {}", status.code().unwrap_or(-1));
        }
        Err(GitError::Refused { what, said })
    }

    /// What it wrote to its standard error so far.
    fn complaint(&mut self) -> String {
        let mut bytes = Vec::new();
        // What cannot be read is not told; that it failed is.
        let _ = self.complaint.rewind();
        let _ = (&self.complaint).take(MAX_COMPLAINT_BYTES).read_to_end(&mut bytes);
        words(&String::from_utf8_lossy(&bytes))
    }
}

/// What git says when it gives up, on one line and without its own marks.
fn words(said: &str) -> String {
    // How far it got stands in front, each line over the one before.
    let lines = said.lines().map(|line| line.rsplit('\r').next().unwrap_or_default());
    let lines = lines.map(|line| line.trim_start_matches("fatal: ").trim_start_matches("error: ").trim());
    // What it would have us do next time, and how far it got, is not why.
    let lines = lines.filter(|line| !line.starts_with("hint:") && !line.ends_with(", done."));
    lines.filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ")
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.ended {
            // It may have ended meanwhile.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// A path as an entry of git's lists of alternates: in quotes, so that every byte can stand in it.
pub(crate) fn quoted(path: &Path) -> OsString {
    let mut text = b"\"".to_vec();
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b'"' | b'\\' => text.extend([b'\\', *byte]),
            0x20..=0x7e | 0x80..=0xff => text.push(*byte),
            _ => text.extend(format!("\\{byte:03o}").bytes()),
        }
    }
    text.push(b'"');
    OsStr::from_bytes(&text).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        assert_eq!(version("git version 2.39.5"), Some((2, 39)));
        assert_eq!(version("git version 2.50.1 (Apple Git-155)"), Some((2, 50)));
        assert_eq!(version("git version 3.x"), None);
        assert!(version("git version 2.9.1").unwrap() < OLDEST);
    }

    #[test]
    fn a_complaint_is_told_without_what_is_around_it() {
        let said = "hint: a\nCounting: 50%\rCounting: 100% (2/2), done.\nfatal: bad\n\nerror: worse\n";
        assert_eq!(words(said), "bad; worse");
    }

    #[test]
    fn any_path_can_be_an_alternate() {
        assert_eq!(quoted(Path::new("/a b/\"c\\\n:é")), "\"/a b/\\\"c\\\\\\012:é\"");
    }
}
