//! The end of a machine: told to the host, written to the disks, and off.

use std::{
    fs::File,
    io::{self, Write},
    os::fd::AsFd,
    os::unix::fs::OpenOptionsExt,
    thread::sleep,
    time::{Duration, Instant},
};

use rustix::{
    system::{RebootCommand, reboot},
    termios::{OptionalActions, tcgetattr, tcsetattr},
};

use crate::sys;

/// Where the end is told when the spec that names the place cannot be read: the second serial port. Without one there,
/// nobody is told.
pub(super) const REPORT_WITHOUT_SPEC: &str = "/dev/ttyS1";

/// For files of the host's to be written. It may stand still itself.
const SYNC_WITHIN: Duration = Duration::from_secs(3);

/// For the report to leave a serial port.
const REPORT_WITHIN: Duration = Duration::from_secs(1);

/// For what was sent last over vsock to leave the machine: the kernel does that in the background and tells nobody.
/// Nothing else runs any more.
const LAST_WORDS: Duration = Duration::from_millis(30);

/// Where the end is told.
pub(super) struct Report(File);

impl Report {
    pub(super) fn open(path: &str) -> io::Result<Self> {
        let flags = libc::O_NOCTTY | libc::O_NONBLOCK | libc::O_CLOEXEC;
        let file = File::options().write(true).custom_flags(flags).open(path)?;
        // Bytes as they are: a terminal ends lines in another way.
        if let Ok(mut modes) = tcgetattr(&file) {
            modes.make_raw();
            let _ = tcsetattr(&file, OptionalActions::Now, &modes);
        }
        Ok(Self(file))
    }

    /// The same place, for who says that init listens.
    pub(super) fn share(&self) -> io::Result<Self> {
        Ok(Self(self.0.try_clone()?))
    }

    /// Says that init listens: before that, nobody has to call.
    pub(super) fn tell_ready(&mut self) {
        // Without it the host gives up after a while, which it would have to in any case.
        let _ = self.0.write_all(b"{\"ready\": true}\n");
    }

    fn tell(&mut self, code: u8) {
        let _ = self.0.write_all(line(code).as_bytes());
        let end = Instant::now() + REPORT_WITHIN;
        while sys::unsent_bytes(self.0.as_fd()).is_ok_and(|bytes| bytes > 0) && Instant::now() < end {
            sleep(Duration::from_millis(1));
        }
    }
}

/// The keys that restart a machine ask init to end it instead.
pub(super) fn heed_the_host() {
    let _ = reboot(RebootCommand::CadOff);
}

/// Ends everything that runs, tells the host, and switches the machine off. Each wait has an end.
pub(super) fn off(code: u8, report: Option<Report>) -> ! {
    // After an orderly end nobody is left; after a fault of ours somebody may be.
    let _ = sys::kill(-1, libc::SIGKILL);
    write_back();
    if let Some(mut report) = report {
        report.tell(code);
    }
    sleep(LAST_WORDS);
    // Where the host takes a restart for the end, which is how every machine can say it.
    let error = reboot(RebootCommand::Restart);
    // The kernel panics now, and is told to restart then.
    super::complain(&format!("switching off: {error:?}"));
    std::process::exit(code.into())
}

/// In a process of its own, because nothing can interrupt it.
fn write_back() {
    let Ok(writer) = sys::write_back_apart() else { return };
    let end = Instant::now() + SYNC_WITHIN;
    // Whatever else has ended is taken along.
    while sys::wait_any().is_none_or(|ended| ended.pid != writer) {
        if Instant::now() > end {
            super::complain("the host does not take what was written last");
            return;
        }
        sleep(Duration::from_millis(1));
    }
}

fn line(code: u8) -> String {
    format!("{{\"exit-code\": {code}}}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_is_one_line_of_json() {
        let text = line(125);
        assert!(text.ends_with("}\n") && text.lines().count() == 1);
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value, serde_json::json!({ "exit-code": 125 }));
    }
}
