//! The first process of a machine of its own: there is a kernel, and in memory a file system with init, its spec and the
//! kernel's modules. All else is made here, in the order of `boot`; then it goes on as everywhere.
//!
//! If this process ended the kernel would panic. So whatever happens is told, on the console and to the host, and then
//! the machine is switched off.

pub(crate) mod cgroup;
pub(crate) mod clock;
pub(crate) mod files;
mod modules;
mod mounts;
pub(crate) mod network;
mod power;
mod share;

use std::{
    env,
    fs::File,
    io::{self, Write},
    os::unix::fs::FileExt,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    time::Duration,
};

use agent_protocol::spec::{InitSpec, Machine, User};
use anyhow::{Context, Result};
use nix::{
    time::ClockId,
    unistd::{Gid, Uid, setfsgid, setfsuid},
};
use rustix::{
    fs::Mode,
    process::{Resource, Rlimit, setrlimit, umask},
};

use self::power::Report;
use crate::{args::SpecSource, boot};

/// Where the host puts the spec into the initial file system.
const SPEC: &str = "/agent/spec.json";

/// Init failed before anything ran in the machine.
const INIT_FAILED: u8 = 125;

/// What a program may have open: what most systems give their services, where the kernel alone gives 4096.
const DESCRIPTORS: Rlimit = Rlimit { current: Some(1024), maximum: Some(512 * 1024) };

/// Whether this is the first process of a machine, and nobody has made the world it finds.
///
/// A container's first process may be called so too, but it finds the process table.
pub fn is_here() -> bool {
    std::process::id() == 1
        && env::args_os().next().is_some_and(|name| name == "/init")
        && !Path::new("/proc/self").exists()
}

/// Boots the machine, runs the sandbox in it and switches it off.
pub fn run() -> ! {
    let began = uptime();
    let mut report = None;
    let ended = catch_unwind(AssertUnwindSafe(|| live(began, &mut report)));
    let code = match ended {
        Ok(Ok(code)) => code,
        Ok(Err(error)) => {
            complain(&format!("{error:#}"));
            INIT_FAILED
        }
        Err(_) => {
            complain("init met a fault of its own");
            INIT_FAILED
        }
    };
    power::off(code, report)
}

/// What the machine goes on needing once it is up.
pub(crate) struct Running {
    /// Keeps the clock right. Absent where the machine has none that goes on while it stands still.
    pub(crate) clock: Option<clock::Keeper>,
    /// Keeps what the kernel remembers of the host's files below the host's bound. Absent where there is none.
    pub(crate) files: Option<files::Forgetter>,
    /// Keeps the address that the network gave. Absent where it gives none.
    pub(crate) address: Option<network::Keeper>,
    /// What of it a person should know.
    pub(crate) warnings: Vec<String>,
    took: Took,
    haste: Option<Haste>,
    report: Option<Report>,
}

/// While it lasts, the kernel interrupts all processors where it would else wait until each has come by: what is mounted, and the
/// control groups, make it wait ten milliseconds at a time (Documentation/admin-guide/kernel-parameters.txt, rcu_expedited).
struct Haste(File);

impl Haste {
    /// None where the kernel has no such choice.
    fn begin() -> Option<Self> {
        let mut file = File::options().write(true).open("/sys/kernel/rcu_expedited").ok()?;
        file.write_all(b"1").ok()?;
        Some(Self(file))
    }
}

impl Drop for Haste {
    fn drop(&mut self) {
        // It was taken a moment ago. If not now, more is interrupted than need be, and nothing is wrong.
        let _ = self.0.write_at(b"0", 0);
    }
}

/// When something was done, since the kernel began.
#[derive(Clone, Copy)]
struct Took {
    began: Duration,
    drivers: Duration,
    files: Duration,
}

impl Running {
    /// Tells the host that init listens, and the console how long that took.
    pub(crate) fn tell_ready(&mut self) {
        if let Some(report) = &mut self.report {
            report.tell_ready();
        }
        self.haste = None;
        // Written whatever the log level is: who wonders why a machine came up late looks here.
        let _ = writeln!(io::stderr(), "agent-init: {}", self.took.words(uptime()));
    }
}

impl Took {
    /// What each part of the way took until `now`.
    fn words(self, now: Duration) -> String {
        let ms = |from: Duration, to: Duration| to.saturating_sub(from).as_secs_f64() * 1e3;
        format!(
            "the machine is up: kernel {:.1} ms, init {:.1} ms, of these drivers {:.1}, files {:.1}",
            ms(Duration::ZERO, self.began),
            ms(self.began, now),
            ms(self.began, self.drivers),
            ms(self.drivers, self.files),
        )
    }
}

fn live(began: Duration, report: &mut Option<Report>) -> Result<u8> {
    // Permissions are as they are written down here; programs get the mask that was asked for, at the end.
    umask(Mode::empty());
    mounts::for_booting()?;
    let haste = Haste::begin();
    let spec = boot::read_spec(&SpecSource::File(SPEC.into()))
        .inspect_err(|_| *report = Report::open(power::REPORT_WITHOUT_SPEC).ok())?;
    let machine = spec.machine.as_ref().context("the spec describes no machine")?;
    if let Some(path) = &machine.report {
        *report = Some(Report::open(path).with_context(|| format!("opening {path} for the report"))?);
    }
    boot::log_to_stderr(spec.log_level);
    let token = boot::read_token(&spec)?;
    let mut running = boot(&spec, machine, began)?;
    running.haste = haste;
    running.report = report.as_ref().map(Report::share).transpose().context("sharing the report")?;
    boot::start(spec, token, Some(running))
}

/// Makes the machine ready; everything that needs privileges is done here.
fn boot(spec: &InitSpec, machine: &Machine, began: Duration) -> Result<Running> {
    power::heed_the_host();
    modules::load(&machine.modules)?;
    modules::close();
    let drivers = uptime();
    let clock = clock::Keeper::open();
    let files = files::Forgetter::open(machine.root.most_files);
    let mut address = network::start(machine.network.as_ref(), &spec.name)?;
    let has_kvm = Path::new("/dev/kvm").exists();
    share::mount_root(&machine.root)?;
    mounts::switch_root()?;
    let user = spec.user.clone().unwrap_or_default();
    mounts::make(&machine.mounts, &user, has_kvm)?;
    let took = Took { began, drivers, files: uptime() };
    rustix::system::sethostname(spec.name.as_bytes()).context("setting the host name")?;
    setrlimit(Resource::Nofile, DESCRIPTORS).context("setting the limit of descriptors")?;
    // Last: the network has had all this time to answer.
    let warnings = address.as_mut().map(network::Keeper::wait).unwrap_or_default();
    umask(Mode::from_raw_mode(machine.umask));
    Ok(Running { clock, files, address, warnings, took, haste: None, report: None })
}

/// From here on files are opened and made as this user would, by init too: what it makes for programs (pipes,
/// terminals, sockets) is theirs, and what it reads for them is what they could read.
///
/// To the kernel init stays root in all else. What is root's alone was opened before.
pub(crate) fn share_files_with(user: &User) {
    setfsgid(Gid::from_raw(user.gid));
    setfsuid(Uid::from_raw(user.uid));
}

fn uptime() -> Duration {
    ClockId::CLOCK_BOOTTIME.now().map(Duration::from).unwrap_or_default()
}

fn complain(text: &str) {
    let _ = writeln!(io::stderr(), "agent-init: error: {text}");
}
