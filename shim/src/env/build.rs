//! Building an environment: once, however many ask for it, and whole or not at all.

use std::{
    ffi::OsStr,
    fs::File,
    os::fd::AsFd,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

use nix::sys::signal::Signal;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{
    cache::{Built, Files, Lock, MAX_CLOSURE_BYTES, StoredSpec},
    closure::is_store_path,
    error::{BuildFailure, EnvError},
    expression::{expression, neighbours},
    listener::Listener,
    nearest,
    nix_command::{self, Ended, Heard},
    nix_log::{Lines, plain},
    problem::{Problem, classify},
    progress::{Report, elapsed},
    spec::{CanonicalSpec, EnvId, EnvSpec},
};
use crate::{client::signals::SignalWatch, sandbox::paths::DataDir};

/// Signals that call a build off.
pub(super) const CANCELLING: [Signal; 3] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];

/// How often one who waits for another's build looks whether it is over.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How long the store may take to list a closure.
const CLOSURE_PATIENCE: Duration = Duration::from_mins(2);

/// How long finding names like a wrong one may take; the answer is only better with them.
const NAMES_PATIENCE: Duration = Duration::from_secs(20);

/// Most bytes of names that are looked through: nixpkgs has some two megabytes.
const MAX_NAMES_BYTES: usize = 16 * 1024 * 1024;

/// Most names that are proposed for a wrong one.
const NEAR_NAMES: usize = 3;

/// Errors that are remembered, in bytes.
pub(crate) const MAX_ERROR_BYTES: usize = 256 * 1024;

/// What is asked of Nix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// What is there will do.
    Cached,
    /// What changes under its name (a folder, a branch) is looked at again.
    Rebuilt,
}

/// Builds it, unless somebody else does meanwhile.
pub(super) fn build(
    data: &DataDir,
    spec: &EnvSpec,
    freshness: Freshness,
    report: &mut dyn Report,
) -> Result<Built, EnvError> {
    let canonical = spec.canonical()?;
    canonical.nixpkgs.check()?;
    let id = canonical.id();
    let places = nix_command::places();
    let program = |program| nix_command::find(program, &places).ok_or(EnvError::NoNix { program });
    let tools = Tools { build: program("nix-build")?, store: program("nix-store")?, places: places.clone() };
    let files = Files::new(data);
    files.ensure()?;
    let signals =
        SignalWatch::new(&CANCELLING).map_err(|error| EnvError::io("blocking signals")(error.into()))?;
    let lock = wait_for_lock(&files, &id, &signals, report)?;
    let built = match files.find(&id).filter(|_| freshness == Freshness::Cached) {
        // Somebody else was faster.
        Some(built) => built,
        None => {
            Build { files: &files, id: &id, spec, canonical: &canonical, tools: &tools, signals: &signals }
                .run(freshness, report)?
        }
    };
    // From building it to using it without a moment in which it could be removed.
    lock.lock_shared().map_err(EnvError::io("locking the environment"))?;
    Ok(built.keep(lock))
}

struct Tools {
    build: PathBuf,
    store: PathBuf,
    places: Vec<PathBuf>,
}

struct Build<'a> {
    files: &'a Files,
    id: &'a EnvId,
    spec: &'a EnvSpec,
    canonical: &'a CanonicalSpec,
    tools: &'a Tools,
    signals: &'a SignalWatch,
}

/// Waits for whoever builds the same now. The kernel drops the lock of one that was killed, so the wait ends with it.
fn wait_for_lock(
    files: &Files,
    id: &EnvId,
    signals: &SignalWatch,
    report: &mut dyn Report,
) -> Result<File, EnvError> {
    let started = Instant::now();
    let mut was_told = false;
    loop {
        if let Some(lock) =
            files.try_lock(id, Lock::Exclusive).map_err(EnvError::io("locking the environment"))?
        {
            report.done();
            return Ok(lock);
        }
        if !was_told {
            report.say(&format!("environment {id}: another agent-shim is building it; waiting for that"));
            was_told = true;
        }
        let now = Instant::now();
        report.show(&format!("waiting ({})", elapsed(now.saturating_duration_since(started))), now);
        let mut fds = [PollFd::from_borrowed_fd(signals.as_fd(), PollFlags::IN)];
        let timeout = Timespec::try_from(LOOK_EVERY).unwrap_or_default();
        // Whatever it answers, the lock is tried again.
        let _ = poll(&mut fds, Some(&timeout));
        if let Some(signal) = signals.next() {
            report.done();
            return Err(EnvError::Cancelled(signal));
        }
    }
}

impl Build<'_> {
    fn run(&self, freshness: Freshness, report: &mut dyn Report) -> Result<Built, EnvError> {
        let packages: Vec<String> = self.canonical.packages.keys().map(ToString::to_string).collect();
        let count = packages.len();
        let stored = StoredSpec {
            version: 1,
            spec: self.spec.clone(),
            packages,
            built_at: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
        };
        self.files.describe(self.id, &expression(self.canonical), &stored)?;
        let started = Instant::now();
        let word = if count == 1 { "package" } else { "packages" };
        report.say(&format!("environment {}: building {count} {word} with Nix", self.id));
        let before = self.files.find(self.id);
        if let Some(before) = &before {
            self.keep_previous(&before.store_path)?;
        }
        let done = self.nix_build(freshness, report).and_then(|()| self.closure(report)).and_then(
            |(path, closure)| self.files.finish(self.id, &path, &closure).map(|()| (path, closure)),
        );
        report.done();
        let (store_path, closure) = done.inspect_err(|error| self.clean_up(error))?;
        if before.is_some_and(|before| before.store_path == store_path) {
            self.files.remove_previous(self.id).map_err(EnvError::io("removing the previous environment"))?;
        }
        let took = elapsed(started.elapsed());
        report.say(&format!("environment {}: built in {took}, {} store paths", self.id, closure.len()));
        // What Nix has built is missing where something else than Nix took it away.
        let missing = || Problem::StoreDamaged(store_path.display().to_string());
        self.files.find(self.id).ok_or_else(|| self.failure(missing(), Vec::new()))
    }

    /// Leaves nothing of an environment that could not be built, but for a log that says why. What was there before
    /// stays.
    fn clean_up(&self, error: &EnvError) {
        let is_told_in_the_log = matches!(error, EnvError::Build(failure) if failure.has_more_to_say());
        if self.files.find(self.id).is_none() && !is_told_in_the_log {
            // What cannot be removed is seen as unfinished, and removed by `env gc`.
            drop(self.files.remove(self.id));
        }
    }

    /// Has the store keep what this name means now: sandboxes that run use it, whatever the name means later.
    fn keep_previous(&self, store_path: &Path) -> Result<(), EnvError> {
        let previous = self.files.previous(self.id);
        let args = [
            OsStr::new("--add-root"),
            previous.as_os_str(),
            OsStr::new("--indirect"),
            OsStr::new("--realise"),
            store_path.as_os_str(),
        ];
        let mut errors = Vec::new();
        let deadline = Instant::now() + CLOSURE_PATIENCE;
        let ended = nix_command::run(&self.tools.store, &args, self.signals, Some(deadline), |heard| {
            if let Heard::Error(bytes) = heard {
                append(&mut errors, bytes, MAX_ERROR_BYTES);
            }
        });
        match ended.map_err(EnvError::io(format!("running {}", self.tools.store.display())))? {
            Ended::Code(0) => Ok(()),
            Ended::Cancelled(signal) => Err(EnvError::Cancelled(signal)),
            Ended::Code(_) | Ended::Late => {
                let errors = plain(&String::from_utf8_lossy(&errors));
                Err(self.failure(classify(&errors, &[]), Vec::new()))
            }
        }
    }

    fn failure(&self, problem: Problem, tail: Vec<String>) -> EnvError {
        EnvError::Build(Box::new(BuildFailure {
            id: self.id.clone(),
            problem,
            tail,
            log: self.files.log(self.id),
        }))
    }

    fn nix_build(&self, freshness: Freshness, report: &mut dyn Report) -> Result<(), EnvError> {
        let log_path = self.files.log(self.id);
        let log = File::create(&log_path).map_err(EnvError::io(format!("writing {}", log_path.display())))?;
        let (expression, link) = (self.files.expression(self.id), self.files.link(self.id));
        let mut args: Vec<&OsStr> = vec![expression.as_os_str()];
        // The link is what keeps the collector away; Nix makes it once everything is built.
        args.extend([OsStr::new("--out-link"), link.as_os_str()]);
        args.extend(["--log-format", "internal-json"].map(OsStr::new));
        if freshness == Freshness::Rebuilt {
            args.extend(["--option", "tarball-ttl", "0"].map(OsStr::new));
        }
        let mut listener = Listener::new(log, Instant::now());
        let mut lines = Lines::default();
        let ended = nix_command::run(&self.tools.build, &args, self.signals, None, |heard| {
            // The path on its standard output is what the link says too.
            if let Heard::Error(bytes) = heard {
                lines.feed(bytes, |line| listener.hear(line));
            }
            let now = Instant::now();
            report.show(&listener.progress.line(now), now);
        });
        lines.finish(|line| listener.hear(line));
        report.done();
        match ended.map_err(EnvError::io(format!("running {}", self.tools.build.display())))? {
            Ended::Code(0) => Ok(()),
            Ended::Cancelled(signal) => Err(EnvError::Cancelled(signal)),
            Ended::Code(_) | Ended::Late => {
                let mut problem = listener.problem();
                if let Problem::Unknown(names) = &mut problem {
                    report.show("looking for names like it", Instant::now());
                    self.add_near_names(names);
                    report.done();
                }
                let tail = match &problem {
                    Problem::Builder(derivation) => listener.tail_of(derivation),
                    _ => Vec::new(),
                };
                Err(self.failure(problem, tail))
            }
        }
    }

    /// Asks the store for everything the environment needs.
    fn closure(&self, report: &mut dyn Report) -> Result<(PathBuf, Vec<PathBuf>), EnvError> {
        let wrong = |why: String| self.failure(Problem::Other(why), Vec::new());
        let link = self.files.link(self.id);
        let store_path =
            self.files.target(self.id).ok_or_else(|| wrong(format!("it made no {}", link.display())))?;
        report.show("listing what it needs", Instant::now());
        let args = [OsStr::new("-qR"), store_path.as_os_str()];
        let deadline = Instant::now() + CLOSURE_PATIENCE;
        let (mut output, mut errors) = (Vec::new(), Vec::new());
        let most = usize::try_from(MAX_CLOSURE_BYTES).unwrap_or(usize::MAX);
        let ended =
            nix_command::run(&self.tools.store, &args, self.signals, Some(deadline), |heard| match heard {
                Heard::Output(bytes) => append(&mut output, bytes, most),
                Heard::Error(bytes) => append(&mut errors, bytes, MAX_ERROR_BYTES),
                Heard::Nothing => {}
            });
        match ended.map_err(EnvError::io(format!("running {}", self.tools.store.display())))? {
            Ended::Code(0) if output.len() < most => {}
            Ended::Cancelled(signal) => return Err(EnvError::Cancelled(signal)),
            Ended::Late => return Err(wrong("the store did not list the closure in time".to_owned())),
            Ended::Code(_) => {
                let errors = plain(&String::from_utf8_lossy(&errors));
                return Err(self.failure(classify(&errors, &[]), Vec::new()));
            }
        }
        let text = String::from_utf8(output).map_err(|_| wrong("the closure is not UTF-8".to_owned()))?;
        let mut closure: Vec<PathBuf> = text.lines().map(PathBuf::from).collect();
        closure.sort();
        let store_dir = store_path.parent().unwrap_or(Path::new("/"));
        match closure.iter().find(|path| !is_store_path(path, store_dir)) {
            Some(path) => Err(wrong(format!("{} is in no store", path.display()))),
            None => Ok((store_path, closure)),
        }
    }

    /// Finds names like those that do not exist. A failure leaves them without.
    fn add_near_names(&self, unknown: &mut [(Vec<String>, Vec<String>)]) {
        let Some(program) = nix_command::find("nix-instantiate", &self.tools.places) else { return };
        let paths: Vec<Vec<String>> = unknown.iter().map(|(path, _)| path.clone()).collect();
        let expression = neighbours(self.canonical, &paths);
        let args = ["--eval", "--strict", "--json", "-E", &expression].map(OsStr::new);
        let deadline = Instant::now() + NAMES_PATIENCE;
        let mut output = Vec::new();
        let ended = nix_command::run(&program, &args, self.signals, Some(deadline), |heard| {
            if let Heard::Output(bytes) = heard {
                append(&mut output, bytes, MAX_NAMES_BYTES);
            }
        });
        let Ok(Ended::Code(0)) = ended else { return };
        let Ok(known) = serde_json::from_slice::<Vec<Beside>>(&output) else { return };
        for ((path, near), beside) in unknown.iter_mut().zip(known) {
            let wrong = path.get(beside.depth).map_or("", String::as_str);
            let names = nearest::several(wrong, beside.names.iter().map(String::as_str), NEAR_NAMES);
            let whole =
                |name: &str| [&path[..beside.depth.min(path.len())], &[name.to_owned()]].concat().join(".");
            *near = names.into_iter().map(whole).collect();
        }
    }
}

/// The names in the last set on the way to a package that is not there.
#[derive(serde::Deserialize)]
struct Beside {
    /// How many attributes of the path exist.
    depth: usize,
    names: Vec<String>,
}

fn append(buffer: &mut Vec<u8>, bytes: &[u8], most: usize) {
    let room = most.saturating_sub(buffer.len());
    buffer.extend_from_slice(&bytes[..bytes.len().min(room)]);
}
