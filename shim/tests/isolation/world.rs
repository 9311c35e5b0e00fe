//! A sandbox to try things in, with a script in the place of init.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use agent_shim::env::host;
use agent_shim::isolation::bwrap::Bubblewrap;
use agent_shim::isolation::{
    Caller, Handles, Launched, Layer, Limits, MachineWishes, Network, Process, Request,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Signal;

/// Longer than anything here takes on a loaded machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);
/// An id no system gives to anybody.
pub(crate) const SOMEBODY: u32 = 64_123;

pub(crate) type Outcome = Result<(), Box<dyn std::error::Error>>;

/// Runs the test, and again as an ordinary user when this is root.
pub(crate) fn each_user(name: &str, test: fn(&mut World) -> Outcome) {
    if let Err(error) = test(&mut World::new()) {
        panic!("as uid {}: {error}", rustix::process::getuid().as_raw());
    }
    if !rustix::process::getuid().is_root() {
        return;
    }
    // The test program may lie where an ordinary user cannot get.
    let open_to_all = fs::Permissions::from_mode(0o755);
    let folder = tempfile::Builder::new().permissions(open_to_all.clone()).tempdir().unwrap();
    let program = folder.path().join("test");
    // By another process: a child that some other test forks meanwhile would keep our copy open for writing.
    let copied =
        Command::new("cp").args([std::env::current_exe().unwrap(), program.clone()]).status().unwrap();
    assert!(copied.success());
    fs::set_permissions(&program, open_to_all).unwrap();
    let mut again = Command::new(&program);
    again
        .args(["--exact", name, "--nocapture"])
        .uid(SOMEBODY)
        .gid(SOMEBODY)
        .current_dir("/")
        .env("TMPDIR", "/tmp");
    let output = again.output().unwrap();
    let ran_it = String::from_utf8_lossy(&output.stdout).contains(" 1 passed");
    assert!(
        output.status.success() && ran_it,
        "as uid {SOMEBODY}:\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A private folder with a project, a home and a script for PID 1.
pub(crate) struct World {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) request: Request,
    started: Vec<Process>,
}

impl World {
    pub(crate) fn new() -> World {
        // Private, so that root's case proves that a folder only root can enter works.
        let private = fs::Permissions::from_mode(0o700);
        let folder = tempfile::Builder::new().prefix("isolation-").permissions(private).tempdir().unwrap();
        let path = folder.path().canonicalize().unwrap();
        for name in ["home", "tmp", "project"] {
            fs::create_dir(path.join(name)).unwrap();
        }
        let request = Request {
            name: "web".to_owned(),
            folder: path.clone(),
            workspace: path.join("project"),
            objects: vec![],
            environment: host::environment(Path::new("/"), &Network::None).unwrap(),
            mounts: vec![],
            secrets: vec![],
            hidden: vec![],
            network: Network::None,
            nested_namespaces: false,
            limits: Limits::default(),
            init: path.join("init"),
            git: path.join("init"),
            init_args: vec![],
            init_env: vec![("PATH".to_owned(), "/usr/local/bin:/usr/bin:/bin".to_owned())],
            fds: vec![],
            machine: MachineWishes::default(),
            caller: Caller::detect(&path).unwrap(),
            dies_with_parent: false,
        };
        World { folder, request, started: vec![] }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn launch(
        &mut self,
        script: &str,
        promised: Vec<(&'static str, OwnedFd)>,
    ) -> io::Result<(Launched, Output)> {
        fs::write(self.path("init"), format!("#!/bin/sh\n{script}\n"))?;
        fs::set_permissions(self.path("init"), fs::Permissions::from_mode(0o755))?;
        let (read, write) = io::pipe()?;
        let layer = layer();
        let plan = layer.plan(&self.request).map_err(io::Error::other)?;
        let stdout = write.try_clone()?.into();
        let handles = Handles { promised, stdout, stderr: write.into() };
        let launched = layer.launch(&plan, handles).map_err(io::Error::other)?;
        self.started.extend(Process::now(launched.supervisor.id().pid)?);
        Ok((launched, Output { pipe: File::from(OwnedFd::from(read)), seen: Vec::new() }))
    }

    /// Runs a script as PID 1 and returns what it printed.
    pub(crate) fn run(&mut self, script: &str) -> io::Result<String> {
        let (launched, mut output) = self.launch(script, vec![])?;
        let printed = output.all()?;
        reap(&launched)?;
        Ok(printed)
    }

    pub(crate) fn init(&self) -> io::Result<Process> {
        let pid = layer().report(self.folder.path())?.init_pid.ok_or(io::ErrorKind::NotFound)?;
        Process::now(pid)?.ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // The pid is still init's where bwrap has not recorded its end.
        let report = layer().report(self.folder.path()).unwrap_or_default();
        if report.exit_code.is_none()
            && self.started.iter().any(|bwrap| bwrap.alive().unwrap_or(false))
            && let Ok(init) = self.init()
        {
            let _ = init.signal(Signal::KILL);
        }
        for bwrap in &self.started {
            let _ = bwrap.signal(Signal::KILL);
            // Our child: nobody else may reap it where the host's PID 1 does not.
            let pid = rustix::process::Pid::from_raw(bwrap.id().pid);
            if bwrap.exited_within(DEADLINE).unwrap_or(false) {
                let _ = rustix::process::waitpid(pid, rustix::process::WaitOptions::empty());
            }
        }
    }
}

/// The other end of a sandbox's stdout and stderr, read with a deadline.
pub(crate) struct Output {
    pipe: File,
    seen: Vec<u8>,
}

impl Output {
    fn until(&mut self, enough: impl Fn(&[u8]) -> bool) -> io::Result<String> {
        let deadline = Instant::now() + DEADLINE;
        while !enough(&self.seen) {
            let left = Timespec::try_from(deadline.saturating_duration_since(Instant::now())).unwrap();
            if poll(&mut [PollFd::new(&self.pipe, PollFlags::IN)], Some(&left))? == 0 {
                let seen = String::from_utf8_lossy(&self.seen).into_owned();
                return Err(io::Error::new(io::ErrorKind::TimedOut, format!("after printing: {seen}")));
            }
            let mut chunk = [0; 4096];
            match self.pipe.read(&mut chunk)? {
                0 => break,
                n => self.seen.extend(&chunk[..n]),
            }
        }
        Ok(String::from_utf8_lossy(&self.seen).into_owned())
    }

    pub(crate) fn all(&mut self) -> io::Result<String> {
        self.until(|_| false)
    }

    pub(crate) fn line(&mut self, line: &str) -> io::Result<String> {
        let wanted = format!("{line}\n").into_bytes();
        let seen = self.until(|seen| seen.windows(wanted.len()).any(|window| window == wanted))?;
        if seen.contains(line) { Ok(seen) } else { Err(io::Error::other(format!("no `{line}` in: {seen}"))) }
    }
}

pub(crate) fn layer() -> Bubblewrap {
    Bubblewrap::find("/usr/local/bin:/usr/bin:/bin".as_ref()).expect("bubblewrap is needed for these tests")
}

pub(crate) fn reap(launched: &Launched) -> io::Result<i32> {
    if !launched.supervisor.exited_within(DEADLINE)? {
        return Err(io::ErrorKind::TimedOut.into());
    }
    let pid = rustix::process::Pid::from_raw(launched.supervisor.id().pid);
    let status = rustix::process::waitpid(pid, rustix::process::WaitOptions::empty())?;
    Ok(status.and_then(|(_, status)| status.exit_status()).unwrap_or(-1))
}

pub(crate) fn expect(printed: &str, wanted: &[&str]) -> Outcome {
    for line in wanted {
        if !printed.lines().any(|printed| printed == *line) {
            return Err(format!("expected the line `{line}` in:\n{printed}").into());
        }
    }
    Ok(())
}
