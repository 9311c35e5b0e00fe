//! Bubblewrap: namespaces of the host's own kernel, without privileges and without a daemon.
//!
//! The caller's process starts bwrap; bwrap makes the namespaces, becomes init's parent and stays only
//! to record its exit. Init lives on when bwrap is killed. Root takes one more step first, see `stage`.

mod args;
mod explain;
mod stage;
mod tree;

use std::ffi::{CString, OsStr};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::error::IsolationError;
use super::limits::Cgroups;
use super::plan::{Caller, Content, INIT, LaunchPlan, Namespaces};
use super::process::Process;
use super::{
    Capabilities, Handles, Launched, Layer, Reach, Remains, Report, Request, ids, memory, shape, store,
};
use crate::requirement::{Answer, Question};
use crate::sys::{self, Program, SpawnError, Step};

pub(crate) use explain::{explain, switched_off_by};
pub(super) use stage::maps_to_itself;

/// The first version with `--disable-userns`.
const OLDEST: &str = "0.8.0";

/// How long bwrap may take to say its version, where a launch failed and that may be why.
const VERSION_WITHIN: Duration = Duration::from_secs(5);

const CAPABILITIES: Capabilities = Capabilities {
    name: "bwrap",
    reach: Reach::InheritedListener,
    passes_descriptors: true,
    shares_kernel: true,
};

/// The layer, with the bwrap it will use.
#[derive(Clone, Debug)]
pub struct Bubblewrap {
    program: PathBuf,
}

impl Bubblewrap {
    /// Looks for bwrap in a list of folders like `PATH`.
    pub fn find(search: &OsStr) -> Result<Bubblewrap, IsolationError> {
        let is_program =
            |path: &PathBuf| path.is_file() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok();
        std::env::split_paths(search)
            .map(|folder| folder.join("bwrap"))
            .find(is_program)
            // Root runs it as an id that may not get through a link in its home.
            .and_then(|found| found.canonicalize().ok())
            .map(|program| Bubblewrap { program })
            .ok_or_else(|| IsolationError::BwrapMissing { searched: search.to_string_lossy().into_owned() })
    }

    /// Its version, for `doctor` and for a launch that failed; asking costs a millisecond.
    pub fn version(&self) -> Option<String> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let question = Question {
            program: &self.program,
            args: vec!["--version".into()],
            variables: vec![(OsStr::new("PATH"), &path)],
            user: None,
            patience: VERSION_WITHIN,
        };
        let Answer::Ended { stdout, .. } = question.ask() else { return None };
        stdout.trim().strip_prefix("bubblewrap ").map(str::to_owned)
    }
}

impl Layer for Bubblewrap {
    fn capabilities(&self) -> &'static Capabilities {
        &CAPABILITIES
    }

    fn plan(&self, request: &Request) -> Result<LaunchPlan, IsolationError> {
        shape::check_sources(request)?;
        let limits = if request.limits == super::Limits::default() {
            super::limits::LimitPlan::default()
        } else {
            let cgroups = Cgroups::here().map_err(|source| IsolationError::Step {
                doing: "reading the table of cgroups".to_owned(),
                source,
            })?;
            // Two users, or two data folders, can have sandboxes of one name.
            let folder = ids::fnv1a(request.folder.as_os_str().as_bytes());
            cgroups.plan(&request.limits, &format!("{}-{folder:08x}", request.name))?
        };
        let mut command = vec![INIT.to_owned()];
        command.extend(request.init_args.iter().cloned());
        let mut mounts = shape::mounts(request)?;
        let facts = store::Facts { landlock_abi: sys::landlock_abi(), nested: request.nested_namespaces };
        let readable = store::leave_to_init(&mut mounts, facts);
        Ok(LaunchPlan {
            layer: CAPABILITIES.name,
            program: self.program.clone(),
            hostname: request.name.clone(),
            folder: request.folder.clone(),
            caller: request.caller,
            mounts,
            readable,
            namespaces: Namespaces { network: request.network, nested: request.nested_namespaces },
            env: request.init_env.clone(),
            fds: request.fds.clone(),
            command,
            limits,
            dies_with_parent: request.dies_with_parent,
        })
    }

    fn to_shell(&self, plan: &LaunchPlan) -> String {
        args::to_shell(plan)
    }

    fn launch(&self, plan: &LaunchPlan, handles: Handles) -> Result<Launched, IsolationError> {
        let rendered = args::render(plan);
        let mut passed = Passed::new(rendered.status_fd + i32::try_from(rendered.files.len()).unwrap_or(0));
        let null = File::open("/dev/null").map_err(|source| step("opening /dev/null", source))?;
        passed.add(null.into(), 0)?;
        passed.add(handles.stdout, 1)?;
        passed.add(handles.stderr, 2)?;
        let mut promised = handles.promised;
        for fd in &plan.fds {
            let given = promised.iter().position(|(name, _)| *name == fd.name);
            let given =
                given.ok_or_else(|| IsolationError::Plan(format!("no descriptor for `{}`", fd.name)))?;
            passed.add(promised.swap_remove(given).1, fd.number)?;
        }
        passed.add(open_record(&plan.folder)?, rendered.status_fd)?;
        for (number, content) in &rendered.files {
            passed.add(in_memory(content)?, *number)?;
        }

        let mut steps = vec![Step::NewSession];
        let detached = match plan.caller {
            Caller::Ordinary => Vec::new(),
            Caller::Root { runs_as } => stage::detach(&rendered.staged, runs_as)?,
        };
        let trees = tree::steps(plan.caller, &rendered.trees)?;
        let cgroup = plan.limits.cgroup.as_ref().map(|cgroup| cgroup.create().map(|procs| (cgroup, procs)));
        let cgroup = cgroup.transpose()?;
        if let Some((_, procs)) = &cgroup {
            steps.push(Step::JoinCgroup(procs.as_raw_fd()));
        }
        if let Caller::Root { .. } = plan.caller {
            steps.push(Step::PrivateMounts);
            steps.push(Step::Cover(c_string(args::STAGE)?));
            for (staged, detached) in rendered.staged.iter().zip(&detached) {
                let at = c_string(&staged.at)?;
                steps.push(Step::MountPoint { at: at.clone(), folder: detached.folder });
                steps.push(Step::Attach { mount: detached.mount.as_raw_fd(), at });
            }
        }
        steps.extend(trees);
        if let Caller::Root { runs_as } = plan.caller {
            steps.push(Step::BecomeUser(runs_as));
        }
        steps.extend(passed.steps());

        let program = Program {
            path: c_string(&self.program)?,
            args: rendered.args.iter().map(c_string).collect::<Result<_, _>>()?,
            env: plan.env.iter().map(|(k, v)| c_string(format!("{k}={v}"))).collect::<Result<_, _>>()?,
        };
        let remains = Remains { cgroup: cgroup.as_ref().map(|(cgroup, _)| cgroup.folder.clone()) };
        let child = sys::spawn(&steps, &program).map_err(|error| {
            let _ = remains.clean();
            self.spawn_failed(&steps, &rendered.trees, error)
        })?;
        let supervisor = Process::holding(child.pid.as_raw_nonzero().get(), child.pidfd)
            .map_err(|source| step("looking at bwrap's process", source))?;
        Ok(Launched { supervisor, remains })
    }

    fn report(&self, folder: &Path) -> io::Result<Report> {
        match fs::read_to_string(record_path(folder)) {
            Ok(record) => Ok(parse_record(&record)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Report::default()),
            Err(error) => Err(error),
        }
    }

    fn explain(&self, printed: &str) -> IsolationError {
        explain(printed, setting, || self.version())
    }
}

impl Bubblewrap {
    fn spawn_failed(&self, steps: &[Step], trees: &[args::Tree<'_>], error: SpawnError) -> IsolationError {
        let switch = || explain::switched_off_by(setting);
        match error {
            SpawnError::Clone(source) if tree::needs_namespaces(steps) => {
                IsolationError::NoUserNamespaces { switch: switch(), said: source.to_string() }
            }
            SpawnError::Clone(source) => step("making a process", source),
            SpawnError::Exec(source) => step(format!("executing {}", self.program.display()), source),
            SpawnError::Step(at, source) => tree::explain(steps, at, source, trees, switch)
                .unwrap_or_else(|source| step(format!("preparing bwrap ({:?})", steps[at]), source)),
        }
    }
}

/// A file below /proc/sys.
fn setting(name: &str) -> Option<String> {
    fs::read_to_string(Path::new("/proc/sys").join(name)).ok()
}

/// Descriptors on their way into bwrap, each with the number it will have there.
struct Passed {
    fds: Vec<(OwnedFd, RawFd)>,
    last: RawFd,
}

impl Passed {
    fn new(last: RawFd) -> Passed {
        Passed { fds: Vec::new(), last }
    }

    /// Moves the descriptor above all target numbers, so that putting one in place cannot close another.
    fn add(&mut self, fd: OwnedFd, number: RawFd) -> Result<(), IsolationError> {
        let taken = self.fds.iter().any(|(_, other)| *other == number);
        if taken || number < 0 || number > self.last {
            return Err(IsolationError::Plan(format!("descriptor number {number} cannot be used")));
        }
        let fd = if fd.as_raw_fd() > self.last {
            fd
        } else {
            rustix::io::fcntl_dupfd_cloexec(&fd, self.last + 1)
                .map_err(|error| step("moving a descriptor", error.into()))?
        };
        self.fds.push((fd, number));
        Ok(())
    }

    fn steps(&self) -> impl Iterator<Item = Step> {
        // Everything else goes at exec: first without exception, then the promised ones lose the mark by dup2.
        let pass = self.fds.iter().map(|(fd, number)| Step::PassFd { from: fd.as_raw_fd(), to: *number });
        std::iter::once(Step::CloseAbove(2)).chain(pass)
    }
}

fn record_path(folder: &Path) -> PathBuf {
    folder.join("bwrap.status")
}

/// bwrap appends to it by itself, so that an exit is recorded although everything of ours is gone.
fn open_record(folder: &Path) -> Result<OwnedFd, IsolationError> {
    let path = record_path(folder);
    // A new file for each launch: a bwrap of an earlier one may still hold the old one.
    match fs::remove_file(&path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            return Err(step(format!("removing {}", path.display()), source));
        }
        _ => {}
    }
    let open = OpenOptions::new().append(true).create_new(true).mode(0o600).open(&path);
    open.map(OwnedFd::from).map_err(|source| step(format!("creating {}", path.display()), source))
}

/// `{ "child-pid": 7, ... }` at the start and `{ "exit-code": 0 }` at the end, one object a line.
fn parse_record(record: &str) -> Report {
    let mut report = Report::default();
    for line in record.lines() {
        // The last line may be cut short: bwrap is writing it.
        let Ok(object) = serde_json::from_str::<serde_json::Value>(line) else { continue };
        let number = |key: &str| object[key].as_i64().and_then(|number| i32::try_from(number).ok());
        report.init_pid = report.init_pid.or(number("child-pid"));
        report.exit_code = report.exit_code.or(number("exit-code"));
    }
    report
}

/// Puts a file's content where bwrap can read it and nobody can find or change it.
fn in_memory(content: &Content) -> Result<OwnedFd, IsolationError> {
    match content {
        Content::Text(text) => {
            memory::sealed(text.as_bytes()).map_err(|source| step("keeping a text in memory", source))
        }
        Content::Of(path) => memory::sealed_copy(path)
            .map_err(|source| step(format!("copying {} to memory", path.display()), source)),
        Content::Given(path) => memory::sealed_copy_without_links(path)
            .map_err(|source| step(format!("copying {} to memory", path.display()), source)),
    }
}

fn c_string(text: impl AsRef<OsStr>) -> Result<CString, IsolationError> {
    let text = text.as_ref();
    CString::new(text.to_owned().into_vec())
        .map_err(|_| IsolationError::Plan(format!("{} has a zero byte in it", text.to_string_lossy())))
}

fn step(doing: impl Into<String>, source: io::Error) -> IsolationError {
    IsolationError::Step { doing: doing.into(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_record_is_read_as_far_as_it_was_written() {
        assert_eq!(parse_record(""), Report::default());
        let started = "{ \"child-pid\": 77, \"ipc-namespace\": 4026532263 }\n";
        assert_eq!(parse_record(started), Report { init_pid: Some(77), exit_code: None });
        assert_eq!(
            parse_record(&format!("{started}{{ \"exit-c")),
            Report { init_pid: Some(77), exit_code: None }
        );
        let ended = format!("{started}{{ \"exit-code\": 143 }}\n");
        assert_eq!(parse_record(&ended), Report { init_pid: Some(77), exit_code: Some(143) });
    }

    #[test]
    fn a_missing_bwrap_names_where_it_was_looked_for() {
        let error = Bubblewrap::find(OsStr::new("/no/bin:/no/sbin")).unwrap_err();
        assert_eq!(error.to_string(), "bubblewrap is not installed: there is no `bwrap` in /no/bin:/no/sbin");
        assert_eq!(error.kind(), super::super::ErrorKind::Requirement);
    }

    #[test]
    fn a_number_cannot_be_promised_twice() {
        let null = || OwnedFd::from(File::open("/dev/null").unwrap());
        let mut passed = Passed::new(5);
        passed.add(null(), 3).unwrap();
        assert!(passed.add(null(), 3).is_err());
        assert!(passed.add(null(), 6).is_err());
        assert!(passed.fds[0].0.as_raw_fd() > 5);
    }
}
