//! The init of any container: runs one command, forwards signals to it, reaps what it leaves behind.
//!
//! Behaves as tini does, whose letters the options have, so that one can stand in for the other. Where it
//! differs, on purpose: options end at the command; a signal that may not be forwarded is a warning, not the
//! end of the container; a file in a path that is none is "not found" (127), what cannot be executed for
//! any other reason is 126; messages go to standard error only; and an ignored SIGCHLD does not lose the exit code.

use std::collections::BTreeSet;
use std::env;
use std::ffi::OsString;
use std::io;
use std::os::fd::AsFd;

use anyhow::{Context, Result};
use nix::sys::prctl;
use nix::unistd::Pid;

use crate::children::{Batch, ChildId, Children, Exit, SignalError};
use crate::signals::{self, BlockingSignals, Received, Role, Signal};
use crate::spawn::{Placement, SpawnRequest, Stdio};

/// The options of an entrypoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Adopt orphans without being PID 1.
    pub subreaper: bool,
    /// Forward signals to the command's process group instead of the command alone.
    pub signal_group: bool,
    /// The signal to get when the parent dies.
    pub parent_death_signal: Option<Signal>,
    /// 0: errors; 1: warnings; 2: what happens; 3: every signal and every process.
    pub verbosity: u32,
    /// Warn about every orphan.
    pub warn_on_reap: bool,
    remapped: BTreeSet<u8>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            subreaper: false,
            signal_group: false,
            parent_death_signal: None,
            verbosity: 1,
            warn_on_reap: false,
            remapped: BTreeSet::new(),
        }
    }
}

impl Options {
    /// Exit with 0 in place of `code`.
    pub fn remap_to_zero(&mut self, code: u8) {
        self.remapped.insert(code);
    }

    /// The code to exit with when the command exits with `code`.
    pub fn exit_code(&self, code: u8) -> u8 {
        if self.remapped.contains(&code) { 0 } else { code }
    }

    /// Where a command line cannot be changed, variables can.
    pub fn read_environment(&mut self, env: impl Fn(&str) -> Option<OsString>) {
        self.subreaper |= env("TINI_SUBREAPER").is_some();
        self.signal_group |= env("TINI_KILL_PROCESS_GROUP").is_some();
        if let Some(text) = env("TINI_VERBOSITY") {
            self.verbosity = text.to_str().and_then(|text| text.parse().ok()).unwrap_or(0);
        }
    }
}

/// Runs the command and returns the code to exit with.
pub fn run(options: &Options, command: Vec<OsString>) -> Result<u8> {
    let set = signals::take_over(Role::Entrypoint).context("blocking signals")?;
    let mut signals = BlockingSignals::new(&set).context("opening a descriptor for signals")?;
    prepare(options)?;

    let mut init = Entrypoint { options, children: Children::unmarked() };
    let child = match init.start(command) {
        Ok(child) => child,
        Err(code) => return Ok(code),
    };
    loop {
        let received = signals.wait().context("reading a signal")?;
        if received.signal != Signal::CHLD {
            init.forward(child, received);
        }
        // After every signal: SIGCHLDs merge, and one may hide behind another signal.
        if let Some(exit) = init.reap(child) {
            return Ok(options.exit_code(exit.shell_code()));
        }
    }
}

fn prepare(options: &Options) -> Result<()> {
    if let Some(signal) = options.parent_death_signal {
        // Real-time signals have no name in nix, and no use here.
        let named = nix::sys::signal::Signal::try_from(signal.number()).context("reading -p")?;
        prctl::set_pdeathsig(named).context("asking for a signal when the parent dies")?;
    }
    if options.subreaper {
        prctl::set_child_subreaper(true).context("registering as subreaper")?;
    }
    if Pid::this().as_raw() != 1 && !prctl::get_child_subreaper().unwrap_or(false) {
        options.warn("not running as PID 1 and not a subreaper: orphans will not be reaped here; see -s");
    }
    Ok(())
}

struct Entrypoint<'a> {
    options: &'a Options,
    children: Children,
}

impl Entrypoint<'_> {
    /// The error is the code to exit with.
    fn start(&mut self, command: Vec<OsString>) -> Result<ChildId, u8> {
        let (input, output, errors) = (io::stdin(), io::stdout(), io::stderr());
        let stdio = Stdio::Descriptors([input.as_fd(), output.as_fd(), errors.as_fd()]);
        let mut request = SpawnRequest::sandboxed(command, env::vars_os().collect(), stdio);
        // All that a sandbox would not get: this init is to be invisible.
        request.placement = Placement::NewForegroundGroup;
        request.signals = signals::given();
        request.inherit_descriptors = true;
        request.shell_fallback = true;
        match self.children.spawn(request) {
            Ok(child) => {
                self.options.info(&format!("started process {}", child.pid()));
                Ok(child)
            }
            Err(error) => {
                report(&format!("error: {error}"));
                Err(error.kind.exit_code())
            }
        }
    }

    fn forward(&self, child: ChildId, received: Received) {
        let Received { signal, pid, .. } = received;
        // Sent by our own writing: to nobody, or from the background.
        let own = pid == std::process::id();
        if own || [Signal::TTIN, Signal::TTOU].contains(&signal) {
            return;
        }
        self.options.debug(&format!("forwarding {signal}"));
        let sent = if self.options.signal_group {
            self.children.signal_group(child, signal)
        } else {
            self.children.signal(child, signal)
        };
        match sent {
            Ok(()) => {}
            Err(SignalError::Gone) => self.options.warn(&format!("the command ended before {signal} came")),
            Err(error @ SignalError::Refused(_)) => {
                self.options.warn(&format!("forwarding {signal}: {error}"));
            }
        }
    }

    /// How the command ended, if it did.
    fn reap(&mut self, child: ChildId) -> Option<Exit> {
        loop {
            let Batch { exits, orphans, more } = self.children.reap();
            for pid in orphans {
                let text = format!("reaped orphan {pid}");
                if self.options.warn_on_reap { self.options.warn(&text) } else { self.options.debug(&text) }
            }
            if let Some(reaped) = exits.iter().find(|reaped| reaped.child == child) {
                self.options.info(&format!("the command ended: {:?}", reaped.exit));
                return Some(reaped.exit);
            }
            if !more {
                return None;
            }
        }
    }
}

impl Options {
    fn warn(&self, text: &str) {
        if self.verbosity >= 1 {
            report(&format!("warning: {text}"));
        }
    }

    fn info(&self, text: &str) {
        if self.verbosity >= 2 {
            report(text);
        }
    }

    fn debug(&self, text: &str) {
        if self.verbosity >= 3 {
            report(text);
        }
    }
}

/// Not `eprintln!`, which panics where standard error is closed.
fn report(text: &str) {
    use std::io::Write;
    let _ = writeln!(io::stderr(), "agent-init: {text}");
}
