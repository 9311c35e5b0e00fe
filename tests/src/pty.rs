//! A person's terminal: the test is the screen and the keyboard.

use std::{
    fs::File,
    io::{Read, Write},
    os::fd::{AsFd, OwnedFd},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::{
    fs::{Mode, OFlags},
    pty::OpenptFlags,
    termios::{Winsize, tcsetwinsize},
};

use crate::until;

/// A terminal on which one program runs, as the leader of a session of its own.
pub struct Pty {
    master: Option<Arc<File>>,
    /// For a look at the settings when nothing else has the terminal open.
    slave: Option<OwnedFd>,
    /// What runs there.
    pub child: Child,
    shown: Arc<Mutex<Vec<u8>>>,
    /// How often there was nothing to read.
    idle: Arc<AtomicU64>,
}

impl Pty {
    /// Runs a command on a new terminal of 100 by 30.
    pub fn spawn(command: &Command) -> anyhow::Result<Self> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = rustix::pty::openpt(flags)?;
        rustix::pty::grantpt(&master)?;
        rustix::pty::unlockpt(&master)?;
        let name = rustix::pty::ptsname(&master, Vec::new())?;
        let slave = rustix::fs::open(&name, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())?;
        tcsetwinsize(&slave, Winsize { ws_row: 30, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 })?;
        // setsid(1) makes standard input the controlling terminal.
        let mut on_terminal = Command::new("setsid");
        on_terminal
            .args(["--ctty", "--wait"])
            .arg(command.get_program())
            .args(command.get_args())
            .env_clear();
        on_terminal.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        if let Some(folder) = command.get_current_dir() {
            on_terminal.current_dir(folder);
        }
        on_terminal.env("TERM", "xterm-256color");
        let stdio = || slave.try_clone().map(Stdio::from);
        let child = on_terminal.stdin(stdio()?).stdout(stdio()?).stderr(stdio()?).spawn()?;
        let (shown, idle) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicU64::new(0)));
        let master = Arc::new(File::from(master));
        thread::spawn({
            let (screen, shown, idle) = (Arc::downgrade(&master), Arc::clone(&shown), Arc::clone(&idle));
            move || show(&screen, &shown, &idle)
        });
        Ok(Self { master: Some(master), slave: Some(slave), child, shown, idle })
    }

    /// Everything that was shown.
    pub fn shown(&self) -> String {
        String::from_utf8_lossy(&self.shown.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }

    /// Waits until this was shown.
    pub fn wait_for(&self, text: &str) -> anyhow::Result<()> {
        let found =
            until(&format!("`{text}` on the terminal"), || Ok(self.shown().contains(text).then_some(())));
        found.map_err(|error| error.context(format!("shown was {:?}", self.shown())))
    }

    /// Types something.
    pub fn type_in(&self, text: &str) -> anyhow::Result<()> {
        Ok((&mut self.master()?).write_all(text.as_bytes())?)
    }

    /// Makes the window another size.
    pub fn resize(&self, columns: u16, rows: u16) -> anyhow::Result<()> {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        Ok(tcsetwinsize(self.master()?, size)?)
    }

    /// Closes the window: the terminal is gone, what runs there may notice.
    pub fn close(&mut self) {
        self.slave = None;
        self.master = None;
    }

    fn master(&self) -> anyhow::Result<&File> {
        self.master.as_deref().ok_or_else(|| anyhow::anyhow!("the window is closed"))
    }

    /// The exit code of what runs there, once it has ended and all it said is shown.
    pub fn ended(&mut self) -> anyhow::Result<i32> {
        let status = until("the program on the terminal to end", || Ok(self.child.try_wait()?))?;
        let idle = self.idle.load(Ordering::SeqCst);
        // The second time that there is nothing to read began after the end.
        until("what it said last", || {
            let seen = self.master.is_none() || self.idle.load(Ordering::SeqCst) >= idle + 2;
            Ok(seen.then_some(()))
        })?;
        status.code().ok_or_else(|| anyhow::anyhow!("{status}"))
    }

    /// The settings of the terminal, as stty(1) prints them.
    pub fn settings(&self) -> anyhow::Result<String> {
        let slave = self.slave.as_ref().ok_or_else(|| anyhow::anyhow!("hung up"))?;
        let output = Command::new("stty").arg("-a").stdin(slave.try_clone()?).output()?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

impl Drop for Pty {
    fn drop(&mut self) {
        self.close();
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Collects what is shown for as long as the window is open.
fn show(screen: &Weak<File>, shown: &Mutex<Vec<u8>>, idle: &AtomicU64) {
    let mut buf = [0; 4096];
    while let Some(screen) = screen.upgrade() {
        let mut fds = [PollFd::new(screen.as_fd(), PollFlags::POLLIN)];
        if !matches!(poll(&mut fds, PollTimeout::from(10u8)), Ok(1..)) {
            idle.fetch_add(1, Ordering::SeqCst);
            continue;
        }
        if let Ok(read @ 1..) = (&*screen).read(&mut buf) {
            shown.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&buf[..read]);
        } else {
            // Nothing has it open any more, for now.
            idle.fetch_add(1, Ordering::SeqCst);
            thread::sleep(Duration::from_millis(1));
        }
    }
}
