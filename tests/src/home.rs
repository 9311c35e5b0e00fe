//! A person with a machine of their own: home, data folder, user id, and nothing else in the environment.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fs,
    io::{Read, Write},
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use tempfile::TempDir;

use crate::{
    Output, agent_shim, copy_program, deadline,
    layer::{PODMAN, layer},
    own_nix,
    podman::Podman,
};

/// The user id of the ordinary person when the tests run as root. It needs no entry in /etc/passwd.
const ORDINARY: u32 = 61_234;

/// Where programs are looked for, unless a test says otherwise.
pub(crate) const SEARCH_PATH: &str = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin";

/// A part of every home's name, set by whoever may have to end what a test leaves.
pub(crate) const TAG: &str = "AGENT_TESTS_TAG";

/// As whom the shim runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// As the tests themselves.
    Myself,
    /// As an ordinary user. The tests' own user, unless that is root.
    Ordinary,
}

/// A person's folders. Removed on drop, unless `KEEP_LOGS` is set.
pub struct Home {
    dir: Option<TempDir>,
    path: PathBuf,
    user: Option<u32>,
    variables: BTreeMap<OsString, OsString>,
    patience: u32,
}

impl Home {
    /// A new person.
    pub fn new(who: Who) -> anyhow::Result<Self> {
        // Short: a path to a socket may have 107 bytes, and tests must not depend on where they run.
        let prefix = format!("as-{}", std::env::var(TAG).unwrap_or_default());
        let dir = tempfile::Builder::new().prefix(&prefix).tempdir_in("/tmp")?;
        let path = dir.path().to_owned();
        let user = (who == Who::Ordinary && nix::unistd::geteuid().is_root()).then_some(ORDINARY);
        let home = Self { dir: Some(dir), path, user, variables: BTreeMap::new(), patience: 1 };
        home.give(&home.path, 0o755)?;
        for folder in ["home", "data", "tmp", "run"] {
            home.folder(folder, 0o700)?;
        }
        Ok(home)
    }

    /// Both kinds of person that the tests can be here: an ordinary one, and root where the tests are root.
    ///
    /// Where a start takes seconds it is the ordinary one alone: as root, on each layer, run all tests that ask for nobody.
    pub fn everyone() -> &'static [Who] {
        let both = nix::unistd::geteuid().is_root() && layer().shares_kernel;
        if both { &[Who::Ordinary, Who::Myself] } else { &[Who::Ordinary] }
    }

    /// The folder that holds everything of this person.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The data folder, where the shim keeps its state.
    pub fn data(&self) -> PathBuf {
        self.path.join("data/agent-shim")
    }

    /// The person's user id.
    pub fn uid(&self) -> u32 {
        self.user.unwrap_or_else(|| nix::unistd::geteuid().as_raw())
    }

    /// A new project folder of this name, owned by the person.
    pub fn project(&self, name: &str) -> anyhow::Result<PathBuf> {
        self.folder(name, 0o700)
    }

    /// A file of the person's with this content.
    pub fn file(&self, name: &str, content: &[u8]) -> anyhow::Result<PathBuf> {
        let path = self.path.join(name);
        fs::write(&path, content)?;
        self.give(&path, 0o600)?;
        Ok(path)
    }

    /// A program of the person's.
    pub fn program(&self, name: &str, script: &str) -> anyhow::Result<PathBuf> {
        let draft = self.file(&format!("{name}.draft"), script.as_bytes())?;
        let path = self.path.join(name);
        copy_program(&draft, &path)?;
        fs::remove_file(draft)?;
        self.give(&path, 0o755)?;
        Ok(path)
    }

    /// Sets a variable for all that this person runs from now on.
    pub fn variable(&mut self, name: impl Into<OsString>, value: impl Into<OsString>) {
        self.variables.insert(name.into(), value.into());
    }

    /// Waits so many times longer for commands, where they are of another layer than the tests' own.
    pub fn wait_longer(&mut self, times: u32) {
        self.patience = times;
    }

    /// Where this person's commands are looked for.
    pub fn search_path(&self) -> String {
        let own = self.variables.get(OsStr::new("PATH"));
        own.map_or_else(|| layer().search_path(SEARCH_PATH), |path| path.to_string_lossy().into_owned())
    }

    /// The shim, run by this person in an environment that holds only what it must.
    pub fn shim<I>(&self, args: I) -> Command
    where
        I: IntoIterator,
        I::Item: AsRef<OsStr>,
    {
        self.command(agent_shim(), args)
    }

    /// Any program, run by this person in the same environment.
    pub fn command<I>(&self, program: impl AsRef<OsStr>, args: I) -> Command
    where
        I: IntoIterator,
        I::Item: AsRef<OsStr>,
    {
        let mut command = match self.user {
            Some(uid) => {
                let mut command = Command::new("setpriv");
                let id = uid.to_string();
                command.args(["--reuid", &id, "--regid", &id, "--clear-groups", "--"]);
                command.arg(program.as_ref());
                command
            }
            None => Command::new(program.as_ref()),
        };
        command.args(args).env_clear().current_dir(&self.path);
        for (name, folder) in
            [("HOME", "home"), ("XDG_DATA_HOME", "data"), ("XDG_RUNTIME_DIR", "run"), ("TMPDIR", "tmp")]
        {
            command.env(name, self.path.join(folder));
        }
        // Not every machine that the tests run on has a Nix; those that are about one say so.
        command.env("AGENT_SHIM_ENV", "host");
        // The same promises on another layer.
        command.envs(layer().variables());
        if *layer() == PODMAN {
            match Podman::of(self.uid()) {
                Ok(podman) => drop(command.envs(podman.variables())),
                // The command says what is missing; this says why.
                Err(error) => eprintln!("{error:#}"),
            }
        }
        command.env("PATH", layer().search_path(SEARCH_PATH)).env("LANG", "C.UTF-8").envs(&self.variables);
        command
    }

    /// Runs the shim to its end, with nothing on standard input.
    pub fn run<I>(&self, args: I) -> anyhow::Result<Output>
    where
        I: IntoIterator,
        I::Item: AsRef<OsStr>,
    {
        self.run_with_input(args, b"")
    }

    /// Runs the shim to its end, with these bytes on standard input.
    pub fn run_with_input<I>(&self, args: I, input: &[u8]) -> anyhow::Result<Output>
    where
        I: IntoIterator,
        I::Item: AsRef<OsStr>,
    {
        finish_within(deadline() * 2 * self.patience, self.shim(args), input)
    }

    /// A folder of the person's, with all above it that is missing.
    pub(crate) fn folder(&self, name: &str, mode: u32) -> anyhow::Result<PathBuf> {
        let path = self.path.join(name);
        fs::create_dir_all(&path)?;
        self.give(&path, mode)?;
        Ok(path)
    }

    /// Makes a path the person's.
    pub(crate) fn give(&self, path: &Path, mode: u32) -> anyhow::Result<()> {
        fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
        if let Some(uid) = self.user {
            chown(path, Some(uid), Some(uid)).with_context(|| format!("giving away {}", path.display()))?;
        }
        Ok(())
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        // What a test that failed left running would outlive its folders.
        for entry in fs::read_dir(self.data().join("agents")).into_iter().flatten().flatten() {
            let name = entry.file_name();
            if let Err(error) = self.run([OsStr::new("destroy"), OsStr::new("--force"), &name]) {
                eprintln!("destroying {}: {error:#}", name.display());
            }
        }
        if std::env::var_os("KEEP_LOGS").is_some()
            && let Some(dir) = self.dir.take()
        {
            eprintln!("kept {}", dir.keep().display());
        } else {
            own_nix::make_removable(&self.path);
        }
    }
}

/// Runs a command to its end, or kills it at the deadline.
pub fn finish(command: Command, input: &[u8]) -> anyhow::Result<Output> {
    finish_within(deadline() * 2, command, input)
}

/// The same with another deadline.
pub fn finish_within(patience: Duration, mut command: Command, input: &[u8]) -> anyhow::Result<Output> {
    let shown = shown(&command);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("starting `{shown}`"))?;
    let stdout = collect(child.stdout.take());
    let stderr = collect(child.stderr.take());
    let stdin = child.stdin.take();
    let input = input.to_owned();
    let feed = thread::spawn(move || {
        // A command that does not read its input has a reason that shows elsewhere.
        stdin.map(|mut stdin| stdin.write_all(&input))
    });
    let status = wait(&mut child, &shown, patience)?;
    drop(feed);
    let stdout = stdout.join().unwrap_or_default();
    let stderr = stderr.join().unwrap_or_default();
    Ok(Output { command: shown, status, stdout, stderr })
}

fn collect(stream: Option<impl Read + Send + 'static>) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut stream) = stream {
            // What was read up to an error is what the test sees.
            let _ = stream.read_to_end(&mut bytes);
        }
        bytes
    })
}

fn wait(child: &mut Child, shown: &str, patience: Duration) -> anyhow::Result<std::process::ExitStatus> {
    let end = Instant::now() + patience;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if Instant::now() > end {
            child.kill()?;
            child.wait()?;
            bail!("`{shown}` did not end");
        }
        thread::sleep(Duration::from_millis(2));
    }
}

fn shown(command: &Command) -> String {
    let mut words: Vec<OsString> = vec![command.get_program().to_owned()];
    words.extend(command.get_args().map(OsStr::to_owned));
    words.iter().map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}
