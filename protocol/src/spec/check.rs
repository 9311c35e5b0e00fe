//! What a well-formed document must also be. Every problem is found, each with the place it stands at.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::{
    Agent, Control, Hardening, Health, InitSpec, Listen, Readiness, Restart, Service, Step, Stop,
    TokenSource, User,
};

/// How many steps, and how many services: more is a program, and belongs into one step.
pub const MAX_UNITS: usize = 64;
/// How many agents beside the main one. Each has a terminal, which takes init some 2 MiB.
pub const MAX_AGENTS: usize = 16;
/// Paths that can be read of one folder. The closure of a whole operating system has some ten thousand, which take init
/// 20 milliseconds, and the document holds this many with paths of 250 bytes.
pub const MAX_READABLE: usize = 16 * 1024;
/// Arguments of one command.
const MAX_ARGS: usize = 4096;
/// Variables of one environment.
const MAX_ENV: usize = 4096;
/// One argument or `NAME=value`, as the kernel bounds it (32 pages, with the final NUL).
const MAX_STRING_BYTES: usize = 128 * 1024 - 1;
/// One path, as the kernel bounds it.
const MAX_PATH_BYTES: usize = 4095;
/// A name; it becomes a host name and a part of file names.
const MAX_NAME_BYTES: usize = 63;
/// The kernel takes 65,536 groups; nobody has more than a few.
const MAX_GROUPS: usize = 1024;
/// A path that fits `sockaddr_un`.
const MAX_SOCKET_PATH_BYTES: usize = 107;
/// No wait is longer than 30 days, so sums of a few of them cannot overflow.
const MAX_MS: u64 = 30 * 24 * 3600 * 1000;
/// A shorter interval would be a busy loop.
const MIN_INTERVAL_MS: u64 = 10;

/// A shorter time without output is no quiet: programs think for that long between two lines.
const MIN_QUIET_MS: u64 = 1000;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where, as in `services[2].after`.
    pub at: String,
    /// What.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.at, self.what)
    }
}

pub(super) fn join(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

pub(super) fn validate(spec: &InitSpec) -> Result<(), Vec<Problem>> {
    let mut check = Check::default();
    check.spec(spec);
    if check.problems.is_empty() { Ok(()) } else { Err(check.problems) }
}

pub(super) fn further(name: &str, agent: &Agent) -> Result<(), Vec<Problem>> {
    let mut check = Check::default();
    check.further("agents", name, agent);
    if check.problems.is_empty() { Ok(()) } else { Err(check.problems) }
}

fn folder_of(path: &str) -> Option<&str> {
    path.rfind('/').map(|end| &path[..end])
}

/// Whether it is absolute, and has one way only to be written.
fn is_plain(path: &str) -> bool {
    let mut parts = path.split('/');
    parts.next() == Some("") && parts.all(|part| !matches!(part, "" | "." | "..") && !part.contains('\0'))
}

#[derive(Default)]
struct Check {
    problems: Vec<Problem>,
}

impl Check {
    fn problem(&mut self, at: impl Into<String>, what: impl Into<String>) {
        self.problems.push(Problem { at: at.into(), what: what.into() });
    }

    fn require(&mut self, holds: bool, at: impl Into<String>, what: &str) {
        if !holds {
            self.problem(at, what);
        }
    }

    fn spec(&mut self, spec: &InitSpec) {
        if spec.version == 0 || spec.version > super::VERSION {
            self.problem("version", format!("is {}, only {} is known", spec.version, super::VERSION));
        }
        self.name("name", &spec.name);
        if let Some(control) = &spec.control {
            self.control(control);
        }
        if !spec.readable.is_empty() {
            self.readable(&spec.readable, &spec.hardening);
        }
        self.env("env", &spec.env);
        self.workdir("workdir", spec.workdir.as_deref());
        if let Some(user) = &spec.user {
            self.user(user);
        }
        if let Some(machine) = &spec.machine {
            for (at, what) in machine.problems(spec.user.as_ref()) {
                self.problem(at, what);
            }
        }
        if let Some(agent) = &spec.agent {
            self.agent("agent", agent);
        }
        self.count("agents", spec.agents.len(), MAX_AGENTS);
        for (name, agent) in spec.agents.iter().take(MAX_AGENTS) {
            self.further("agents", name, agent);
        }
        self.wait("linger_ms", spec.linger_ms, 0);
        self.wait("shutdown.total_ms", spec.shutdown.total_ms, 1);
        if let Some(watch) = &spec.watch {
            if let Some(repository) = &watch.repository {
                self.path("watch.repository", repository);
            }
            if let Some(quiet_ms) = watch.quiet_ms {
                self.wait("watch.quiet_ms", quiet_ms, MIN_QUIET_MS);
            }
        }
        self.count("steps", spec.steps.len(), MAX_UNITS);
        self.count("services", spec.services.len(), MAX_UNITS);
        for (i, step) in spec.steps.iter().take(MAX_UNITS).enumerate() {
            self.step(&format!("steps[{i}]"), step);
        }
        let services = &spec.services[..spec.services.len().min(MAX_UNITS)];
        for (i, service) in services.iter().enumerate() {
            self.service(&format!("services[{i}]"), service);
        }
        self.unique_names(spec);
        self.order(services);
        let limits = [
            ("limits.pids", spec.limits.pids),
            ("limits.memory_bytes", spec.limits.memory_bytes),
            ("limits.cpus_milli", spec.limits.cpus_milli),
        ];
        for (at, limit) in limits {
            self.require(limit != Some(0), at, "is 0; leave it out for no limit");
        }
        if let Some(files) = spec.limits.memory_files {
            let at = "limits.memory_files";
            let fds = [files.events, files.high, files.current, files.stat];
            self.require(fds.iter().all(|fd| *fd > 2), at, "names a standard descriptor");
            self.require(
                spec.limits.memory_bytes.is_some(),
                at,
                "is of no use without `limits.memory_bytes`",
            );
        }
    }

    fn control(&mut self, control: &Control) {
        let mut listen_fd = None;
        match &control.listen {
            Listen::Fd(fd) => {
                self.require(*fd > 2, "control.listen.fd", "is a standard descriptor");
                listen_fd = Some(*fd);
            }
            Listen::VsockPort(port) => {
                self.require(*port != 0 && *port != u32::MAX, "control.listen.vsock_port", "is not a port");
                // A process inside can dial the local CID.
                self.require(control.token.is_some(), "control.token", "is needed with a vsock port");
            }
            Listen::Unix(path) => {
                self.path("control.listen.unix", path);
                let fits = path.len() <= MAX_SOCKET_PATH_BYTES;
                self.require(fits, "control.listen.unix", "is longer than a socket path can be");
                // A path inside is a door for everyone inside.
                self.require(control.token.is_some(), "control.token", "is needed with a socket path");
            }
        }
        match &control.token {
            None => {}
            Some(TokenSource::File(path)) => self.path("control.token.file", path),
            Some(TokenSource::Fd(fd)) => {
                self.require(*fd > 2, "control.token.fd", "is a standard descriptor");
                self.require(listen_fd != Some(*fd), "control.token.fd", "is the listening socket");
            }
        }
    }

    fn readable(&mut self, paths: &[String], hardening: &Hardening) {
        let at = "readable";
        // What enforces it forbids mount(2), and that is what nested namespaces are for.
        let alone = !hardening.nested_user_namespaces;
        self.require(alone, at, "cannot be combined with `hardening.nested_user_namespaces`");
        self.count(at, paths.len(), MAX_READABLE);
        let folder = paths.first().and_then(|path| folder_of(path)).unwrap_or_default();
        let in_it = |path: &String| !folder.is_empty() && folder_of(path) == Some(folder);
        let sound = |path: &String| in_it(path) && is_plain(path) && path.len() <= MAX_PATH_BYTES;
        let what = "are not absolute paths in one folder other than `/`, without `.` and `..`";
        self.require(paths.iter().all(sound), at, what);
    }

    fn user(&mut self, user: &User) {
        self.count("user.groups", user.groups.len(), MAX_GROUPS);
        let ids = [user.uid, user.gid].into_iter().chain(user.groups.iter().copied());
        // The kernel takes it for "leave as it is".
        self.require(ids.into_iter().all(|id| id != u32::MAX), "user", "has an id of 4294967295");
        if let Some(home) = &user.home {
            self.path("user.home", home);
        }
        if let Some(name) = &user.name {
            self.name("user.name", name);
        }
    }

    fn agent(&mut self, at: &str, agent: &Agent) {
        self.command(at, &agent.argv, &agent.env, agent.workdir.as_deref());
        self.restart(&format!("{at}.restart"), &agent.restart);
        self.readiness(at, &agent.readiness, agent.ready_timeout_ms);
        self.health(&format!("{at}.health"), agent.health.as_ref());
        self.wait(&format!("{at}.watchdog_ms"), agent.watchdog_ms, 0);
        self.stop(&format!("{at}.stop"), &agent.stop);
        if let Some(terminal) = &agent.terminal {
            let at = format!("{at}.terminal");
            self.require(terminal.cols > 0 && terminal.rows > 0, &at, "has no room");
            let sound = !terminal.term.is_empty() && terminal.term.len() <= MAX_NAME_BYTES;
            let plain = terminal.term.bytes().all(|b| b.is_ascii_graphic());
            self.require(sound && plain, format!("{at}.term"), "is not the name of a terminal type");
        }
    }

    fn further(&mut self, at: &str, name: &str, agent: &Agent) {
        self.unit_name(at, name);
        let at = format!("{at}.{name}");
        self.agent(&at, agent);
        // Init's own standard streams are one agent's at most.
        self.require(agent.terminal.is_some(), format!("{at}.terminal"), "is missing");
    }

    fn step(&mut self, at: &str, step: &Step) {
        self.unit_name(at, &step.name);
        self.command(at, &step.argv, &step.env, step.workdir.as_deref());
        self.wait(&format!("{at}.timeout_ms"), step.timeout_ms, 1);
    }

    fn service(&mut self, at: &str, service: &Service) {
        self.unit_name(at, &service.name);
        self.command(at, &service.argv, &service.env, service.workdir.as_deref());
        self.count(&format!("{at}.after"), service.after.len(), MAX_UNITS);
        self.restart(&format!("{at}.restart"), &service.restart);
        self.readiness(at, &service.readiness, service.ready_timeout_ms);
        self.health(&format!("{at}.health"), service.health.as_ref());
        self.wait(&format!("{at}.watchdog_ms"), service.watchdog_ms, 0);
        self.stop(&format!("{at}.stop"), &service.stop);
    }

    fn restart(&mut self, at: &str, restart: &Restart) {
        let backoff = &restart.backoff;
        self.wait(&format!("{at}.backoff.initial_ms"), backoff.initial_ms, 1);
        self.wait(&format!("{at}.backoff.max_ms"), backoff.max_ms, backoff.initial_ms.max(1));
        let factor = format!("{at}.backoff.factor");
        self.require((1..=100).contains(&backoff.factor), factor, "is not between 1 and 100");
        let jitter = format!("{at}.backoff.jitter_percent");
        self.require(backoff.jitter_percent <= 100, jitter, "is more than 100");
        self.wait(&format!("{at}.stable_ms"), restart.stable_ms, 0);
        self.wait(&format!("{at}.fast_fail.within_ms"), restart.fast_fail.within_ms, 0);
        self.require(restart.fast_fail.count <= 1000, format!("{at}.fast_fail.count"), "is more than 1000");
    }

    fn readiness(&mut self, at: &str, readiness: &Readiness, timeout_ms: u64) {
        self.wait(&format!("{at}.ready_timeout_ms"), timeout_ms, 0);
        let at = format!("{at}.readiness");
        match readiness {
            Readiness::None | Readiness::FirstOutput | Readiness::Notify => {}
            Readiness::DelayMs(delay) => {
                self.wait(&at, *delay, 0);
                let in_time = timeout_ms == 0 || *delay < timeout_ms;
                self.require(in_time, at, "comes no earlier than ready_timeout_ms");
            }
            Readiness::Command(command) => {
                self.argv(&format!("{at}.command.argv"), &command.argv);
                self.wait(&format!("{at}.command.interval_ms"), command.interval_ms, MIN_INTERVAL_MS);
                self.wait(&format!("{at}.command.timeout_ms"), command.timeout_ms, 1);
            }
        }
    }

    fn health(&mut self, at: &str, health: Option<&Health>) {
        let Some(health) = health else { return };
        self.argv(&format!("{at}.argv"), &health.argv);
        self.wait(&format!("{at}.interval_ms"), health.interval_ms, MIN_INTERVAL_MS);
        self.wait(&format!("{at}.timeout_ms"), health.timeout_ms, 1);
        self.wait(&format!("{at}.start_delay_ms"), health.start_delay_ms, 0);
        let retries = format!("{at}.retries");
        self.require((1..=1000).contains(&health.retries), retries, "is not between 1 and 1000");
    }

    fn stop(&mut self, at: &str, stop: &Stop) {
        self.wait(&format!("{at}.grace_ms"), stop.grace_ms, 0);
    }

    fn command(&mut self, at: &str, argv: &[String], env: &BTreeMap<String, String>, workdir: Option<&str>) {
        self.argv(&format!("{at}.argv"), argv);
        self.env(&format!("{at}.env"), env);
        self.workdir(&format!("{at}.workdir"), workdir);
    }

    fn argv(&mut self, at: &str, argv: &[String]) {
        self.require(argv.first().is_some_and(|program| !program.is_empty()), at, "names no program");
        self.count(at, argv.len(), MAX_ARGS);
        self.require(argv.iter().all(|arg| !arg.contains('\0')), at, "contains a NUL");
        self.require(
            argv.iter().all(|arg| arg.len() <= MAX_STRING_BYTES),
            at,
            "has an argument of over 128 KiB",
        );
    }

    fn env(&mut self, at: &str, env: &BTreeMap<String, String>) {
        self.count(at, env.len(), MAX_ENV);
        let sound = |name: &String| !name.is_empty() && !name.contains(['=', '\0']);
        self.require(env.keys().all(sound), at, "has a name that is empty or contains `=` or a NUL");
        self.require(env.values().all(|value| !value.contains('\0')), at, "has a value that contains a NUL");
        let fits = env.iter().all(|(name, value)| name.len() + 1 + value.len() <= MAX_STRING_BYTES);
        self.require(fits, at, "has a variable of over 128 KiB");
    }

    fn workdir(&mut self, at: &str, workdir: Option<&str>) {
        if let Some(workdir) = workdir {
            self.path(at, workdir);
        }
    }

    fn path(&mut self, at: &str, path: &str) {
        self.require(path.starts_with('/'), at, "is not an absolute path");
        self.require(!path.contains('\0'), at, "contains a NUL");
        self.require(path.len() <= MAX_PATH_BYTES, at, "is longer than a path can be");
    }

    fn unit_name(&mut self, at: &str, name: &str) {
        let at = format!("{at}.name");
        self.name(&at, name);
        // `restart agent` must mean one thing.
        self.require(name != "agent", at, "is the agent's own");
    }

    fn name(&mut self, at: &str, name: &str) {
        let first = name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
        let rest = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
        let what = "is not 1 to 63 letters, digits, `-`, `_` or `.`, beginning with a letter or digit";
        self.require(first && rest && name.len() <= MAX_NAME_BYTES, at, what);
    }

    fn count(&mut self, at: &str, count: usize, max: usize) {
        if count > max {
            self.problem(at, format!("has {count} entries, more than {max}"));
        }
    }

    fn wait(&mut self, at: &str, ms: u64, min: u64) {
        if !(min..=MAX_MS).contains(&ms) {
            self.problem(at, format!("is {ms}, not between {min} and {MAX_MS}"));
        }
    }

    fn unique_names(&mut self, spec: &InitSpec) {
        let mut seen = BTreeSet::new();
        let services = spec.services.iter().map(|service| &service.name);
        let names = spec
            .steps
            .iter()
            .map(|step| &step.name)
            .chain(services)
            .chain(spec.agents.iter().map(|(name, _)| name));
        for name in names {
            if !seen.insert(name) {
                self.problem("steps, services, agents", format!("`{name}` is there twice"));
            }
        }
    }

    /// `after` names known services and goes round in no circle.
    fn order(&mut self, services: &[Service]) {
        let known: BTreeSet<&str> = services.iter().map(|service| service.name.as_str()).collect();
        for (i, service) in services.iter().enumerate() {
            for name in service.after.iter().filter(|name| !known.contains(name.as_str())) {
                self.problem(format!("services[{i}].after"), format!("`{name}` is not a service"));
            }
        }
        // Whatever can start is taken away; what is left at the end waits for itself.
        let mut left: Vec<&Service> = services.iter().collect();
        loop {
            let waiting: BTreeSet<&str> = left.iter().map(|service| service.name.as_str()).collect();
            let before = left.len();
            left.retain(|service| service.after.iter().any(|name| waiting.contains(name.as_str())));
            if left.len() == before {
                break;
            }
        }
        if !left.is_empty() {
            let names: Vec<_> = left.iter().map(|service| format!("`{}`", service.name)).collect();
            self.problem("services", format!("{} wait for each other by `after`", names.join(", ")));
        }
    }
}
