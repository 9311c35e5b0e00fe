//! What is on this machine: the floor, the peers, the kernel's view of processes.

use std::{
    collections::HashMap,
    env,
    ffi::OsStr,
    fs,
    io::Read,
    os::{fd::AsFd, unix::fs::symlink},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A program of the host's.
pub(crate) fn find(name: &str) -> anyhow::Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into());
    env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|candidate| candidate.is_file())
        .with_context(|| format!("{name} is not installed"))
}

/// A command that leaves our streams alone.
pub(crate) fn quiet(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// Runs it to its end, which must be a success, and tells how long that took.
pub(crate) fn timed(command: &mut Command) -> anyhow::Result<Duration> {
    let began = Instant::now();
    let status = command.status().with_context(|| format!("starting {command:?}"))?;
    let took = began.elapsed();
    ensure!(status.success(), "{command:?}: {status}");
    Ok(took)
}

/// As milliseconds.
pub(crate) fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// As microseconds.
pub(crate) fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

/// A folder for everything that a run needs, with the floor in it.
pub(crate) struct Workshop {
    folder: TempDir,
}

impl Workshop {
    /// Compiles the floor.
    pub(crate) fn new() -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("bench-").tempdir_in("/tmp")?;
        let workshop = Self { folder };
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/bench/floor.c");
        let mut compile = Command::new("cc");
        compile.args(["-O2", "-static", "-Wall", "-o"]).arg(workshop.floor()).arg(source);
        ensure!(compile.status().context("starting cc")?.success(), "the floor cannot be compiled");
        Ok(workshop)
    }

    /// The program that does what a row of the table does, and nothing else.
    pub(crate) fn floor(&self) -> PathBuf {
        self.folder.path().join("floor")
    }

    /// The folder.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A place in the folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The floor, asked to do this.
    pub(crate) fn floor_command<I: IntoIterator<Item: AsRef<OsStr>>>(&self, args: I) -> Command {
        let mut command = quiet(self.floor());
        command.args(args);
        command
    }

    /// A server that executes programs, and the path to it.
    pub(crate) fn server(&self) -> anyhow::Result<(Guard, PathBuf)> {
        let path = self.path("floor.sock");
        // One left by an earlier row.
        let _ = fs::remove_file(&path);
        let server = Guard(self.floor_command(["serve".as_ref(), path.as_os_str()]).spawn()?);
        wait_until("the floor's server", || path.exists())?;
        Ok((server, path))
    }
}

/// The reading end of a pipe with a name, for whoever wants to say that it runs.
pub(crate) struct Fifo {
    file: fs::File,
}

impl Fifo {
    /// A new one, `ready` in this folder.
    pub(crate) fn new(folder: &Path) -> anyhow::Result<Self> {
        let path = folder.join("ready");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::from_bits_truncate(0o600))?;
        // Open for both, so that neither side ever waits for the other to open it.
        Ok(Self { file: fs::OpenOptions::new().read(true).write(true).open(&path)? })
    }

    /// Waits until somebody says that it runs.
    pub(crate) fn wait(&self) -> anyhow::Result<()> {
        ensure!(self.is_told(Duration::from_mins(1))?, "nobody says that it runs");
        Ok(())
    }

    /// Whether somebody says so in this time.
    pub(crate) fn is_told(&self, patience: Duration) -> anyhow::Result<bool> {
        let mut fds = [PollFd::new(self.file.as_fd(), PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
        Ok(poll(&mut fds, timeout)? == 1 && (&self.file).read(&mut [0; 1])? == 1)
    }
}

/// A process that is killed at the end.
pub(crate) struct Guard(pub(crate) Child);

impl Guard {
    /// Its process id.
    pub(crate) fn pid(&self) -> i32 {
        self.0.id().cast_signed()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits for something that shows from outside only.
pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) -> anyhow::Result<()> {
    let end = Instant::now() + Duration::from_secs(30);
    while !is_so() {
        if Instant::now() > end {
            bail!("gave up waiting for {what}");
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// A container of crun's that runs until it is dropped.
pub(crate) struct Container {
    crun: PathBuf,
    bundle: PathBuf,
    id: String,
}

impl Container {
    /// Starts one: the host's /usr, a folder mounted at /workspace, and this program.
    pub(crate) fn start(
        workshop: &Workshop,
        id: &str,
        project: &Path,
        args: &[&str],
    ) -> anyhow::Result<Self> {
        let crun = find("crun")?;
        ensure!(nix::unistd::geteuid().is_root(), "crun needs root here");
        let bundle = workshop.path(&format!("bundle-{id}"));
        prepare_bundle(&crun, &bundle, project, args)?;
        let container = Self { crun, bundle, id: format!("agent-shim-bench-{}-{id}", std::process::id()) };
        container.run()?;
        Ok(container)
    }

    fn run(&self) -> anyhow::Result<()> {
        let mut command = quiet(&self.crun);
        command.args(["--cgroup-manager=disabled", "run", "--detach", "--pid-file"]);
        command.arg(self.bundle.join("pid")).arg("--bundle").arg(&self.bundle).arg(&self.id);
        timed(&mut command).map(drop)
    }

    /// Ends it and starts it again, without the end being part of the time.
    pub(crate) fn rerun(&self) -> anyhow::Result<()> {
        self.run()
    }

    /// Ends it.
    pub(crate) fn end(&self) {
        // It may never have run.
        let _ = quiet(&self.crun).args(["delete", "--force", &self.id]).status();
    }

    /// `crun exec`, these options first.
    pub(crate) fn exec(&self, options: &[&str], command: &[&str]) -> Command {
        let mut exec = quiet(&self.crun);
        exec.arg("exec").args(options).arg(&self.id).args(command);
        exec
    }

    /// Its first process, as the host sees it.
    pub(crate) fn pid(&self) -> anyhow::Result<String> {
        Ok(fs::read_to_string(self.bundle.join("pid"))?.trim().to_owned())
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        self.end();
    }
}

fn prepare_bundle(crun: &Path, bundle: &Path, project: &Path, args: &[&str]) -> anyhow::Result<()> {
    if bundle.exists() {
        fs::remove_dir_all(bundle)?;
    }
    let root = bundle.join("rootfs");
    for folder in ["usr", "proc", "dev", "sys", "tmp", "workspace"] {
        fs::create_dir_all(root.join(folder))?;
    }
    for link in ["bin", "sbin", "lib", "lib64"] {
        symlink(format!("usr/{link}"), root.join(link))?;
    }
    ensure!(quiet(crun).arg("spec").current_dir(bundle).status()?.success(), "crun spec failed");
    let path = bundle.join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path)?)?;
    config["process"]["terminal"] = json!(false);
    config["process"]["args"] = json!(args);
    let mounts = config["mounts"].as_array_mut().context("crun spec wrote no mounts")?;
    for (source, at) in [(Path::new("/usr"), "/usr"), (project, "/workspace")] {
        mounts.push(json!({ "destination": at, "type": "bind", "source": source, "options": ["rbind"] }));
    }
    Ok(fs::write(&path, serde_json::to_vec(&config)?)?)
}

/// Plain bubblewrap with what a sandbox of ours has: the host's /usr, /proc, /dev, a tmp, the project.
pub(crate) fn plain_bwrap(project: &Path) -> anyhow::Result<Command> {
    let mut command = quiet(find("bwrap")?);
    command.args(["--unshare-all", "--as-pid-1", "--die-with-parent", "--ro-bind", "/usr", "/usr"]);
    for link in ["bin", "sbin", "lib", "lib64"] {
        command.args(["--symlink", &format!("usr/{link}"), &format!("/{link}")]);
    }
    command.args(["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--bind"]);
    command.arg(project).args(["/workspace", "--chdir", "/workspace", "--"]);
    Ok(command)
}

/// A process that this program runs as PID 1 of a namespace of its own.
pub(crate) fn as_pid_1(init: &Path, args: &[&OsStr]) -> anyhow::Result<Guard> {
    let mut command = quiet(find("unshare")?);
    if !nix::unistd::geteuid().is_root() {
        command.arg("--map-root-user");
    }
    command.args(["--pid", "--fork", "--kill-child", "--mount-proc", "--"]).arg(init).args(args);
    Ok(Guard(command.spawn()?))
}

/// The host's processes, as far as a benchmark needs them.
pub(crate) mod processes {
    use super::{Context, HashMap, Pid, Signal, fs, kill};

    /// The children of a process.
    pub(crate) fn children(pid: i32) -> Vec<i32> {
        let path = format!("/proc/{pid}/task/{pid}/children");
        let text = fs::read_to_string(path).unwrap_or_default();
        text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
    }

    /// A process and everything below it.
    pub(crate) fn tree(pid: i32) -> Vec<i32> {
        let mut all = vec![pid];
        let mut next = 0;
        while let Some(pid) = all.get(next) {
            all.extend(children(*pid));
            next += 1;
        }
        all
    }

    /// What the kernel calls it.
    pub(crate) fn name(pid: i32) -> String {
        fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim_end().to_owned()
    }

    /// Its parent.
    pub(crate) fn parent(pid: i32) -> anyhow::Result<i32> {
        number(&status(pid)?, "PPid")
    }

    /// How many of its children ended and were not waited for.
    pub(crate) fn zombies(pid: i32) -> usize {
        children(pid).into_iter().filter(|child| is_zombie(*child)).count()
    }

    fn is_zombie(pid: i32) -> bool {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // The name in parentheses may hold anything.
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('Z'))
    }

    /// Its share of the memory, in kB: shared pages count in part.
    pub(crate) fn pss_kb(pid: i32) -> anyhow::Result<i32> {
        let path = format!("/proc/{pid}/smaps_rollup");
        let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
        number(&fields(&text), "Pss")
    }

    /// How many threads it has.
    pub(crate) fn threads(pid: i32) -> anyhow::Result<i32> {
        number(&status(pid)?, "Threads")
    }

    /// How often it went to sleep by itself: a process that does nothing never wakes up to do so.
    pub(crate) fn sleeps(pid: i32) -> anyhow::Result<i32> {
        number(&status(pid)?, "voluntary_ctxt_switches")
    }

    fn status(pid: i32) -> anyhow::Result<HashMap<String, String>> {
        let path = format!("/proc/{pid}/status");
        Ok(fields(&fs::read_to_string(&path).with_context(|| format!("reading {path}"))?))
    }

    fn fields(text: &str) -> HashMap<String, String> {
        let pairs = text.lines().filter_map(|line| line.split_once(':'));
        pairs.map(|(key, value)| (key.to_owned(), value.trim().to_owned())).collect()
    }

    fn number(fields: &HashMap<String, String>, key: &str) -> anyhow::Result<i32> {
        let value = fields.get(key).with_context(|| format!("there is no {key}"))?;
        let digits = value.split_whitespace().next().unwrap_or_default();
        digits.parse().with_context(|| format!("{key} is {value}"))
    }

    /// Ends a process that we started through others.
    pub(crate) fn end(pid: i32) {
        // It may be gone already.
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
}
