//! What came of an attempt, and how it is told.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsRawFd;

use nix::libc::{self, c_int, c_long};

/// What came of an attempt.
pub(crate) enum Outcome {
    /// It was refused, and by what.
    Closed(String),
    /// It worked.
    Open(String),
    /// It failed without having been refused, so it proves nothing.
    Odd(String),
}

/// What becomes of an attempt below a PID 1 in a plain bubblewrap, which shows what it is that closes it.
#[derive(Clone, Copy)]
pub(crate) enum Plain {
    /// It works.
    Open,
    /// Namespaces or missing capabilities close it there as well: here it is a second look.
    Closed,
    /// It depends on how the kernel was built or set up.
    Depends,
}

/// Name, control, attempt.
pub(crate) type Attempt = (&'static str, Plain, fn() -> Outcome);

pub(crate) fn closed(why: impl Into<String>) -> Outcome {
    Outcome::Closed(why.into())
}

pub(crate) fn open(how: impl Into<String>) -> Outcome {
    Outcome::Open(how.into())
}

/// Judges the result of a system call.
pub(crate) fn refused(result: c_long) -> Outcome {
    refused_with(result, &[])
}

/// The same, where other errors than the usual ones are a refusal too.
pub(crate) fn refused_with(result: c_long, also: &[c_int]) -> Outcome {
    if result >= 0 {
        return open(format!("it returned {result}"));
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error().unwrap_or(0) {
        libc::EPERM => closed("EPERM"),
        libc::EACCES => closed("EACCES"),
        libc::ENOSYS => closed("ENOSYS"),
        libc::EROFS => closed("EROFS"),
        other if also.contains(&other) => closed(error.to_string()),
        _ => Outcome::Odd(error.to_string()),
    }
}

/// Open where any of several ways is; else the last.
pub(crate) fn any(outcomes: impl IntoIterator<Item = (String, Outcome)>) -> Outcome {
    let (mut ways, mut odd, mut last) = (Vec::new(), Vec::new(), String::from("nothing was tried"));
    for (name, outcome) in outcomes {
        match outcome {
            Outcome::Open(how) => ways.push(format!("{name} ({how})")),
            Outcome::Odd(why) => odd.push(format!("{name} ({why})")),
            Outcome::Closed(why) => last = why,
        }
    }
    if !ways.is_empty() {
        open(ways.join(", "))
    } else if !odd.is_empty() {
        Outcome::Odd(odd.join(", "))
    } else {
        closed(last)
    }
}

/// Makes every attempt in a process of its own, and prints a line for each.
pub(crate) fn run_all(attempts: &[Attempt]) {
    println!("attempts {}", attempts.len());
    for (name, plain, attempt) in attempts {
        let plain = match plain {
            Plain::Open => "open",
            Plain::Closed => "closed",
            Plain::Depends => "depends",
        };
        let status = in_child(|| tell(name, plain, &attempt()));
        if libc::WIFSIGNALED(status) {
            let outcome = match libc::WTERMSIG(status) {
                libc::SIGSYS => closed("killed by the system call filter"),
                // A kernel without this interface.
                libc::SIGSEGV => closed("SIGSEGV"),
                signal => Outcome::Odd(format!("killed by signal {signal}")),
            };
            tell(name, plain, &outcome);
        }
    }
}

fn tell(name: &str, plain: &str, outcome: &Outcome) {
    let (word, detail) = match outcome {
        Outcome::Closed(why) => ("closed", why),
        Outcome::Open(how) => ("OPEN", how),
        Outcome::Odd(why) => ("ODD", why),
    };
    // One write, because the process may be one of several.
    let line = format!("{name}\t{word}\t{}\t{plain}\n", detail.replace(['\n', '\t'], " "));
    let _ = io::stdout().write_all(line.as_bytes());
}

/// Runs something in a child with a deadline; its wait status.
pub(crate) fn in_child(action: impl FnOnce()) -> c_int {
    const DEADLINE_SECONDS: u32 = 20;
    let _ = io::stdout().flush();
    unsafe {
        let pid = libc::fork();
        if pid == 0 {
            libc::alarm(DEADLINE_SECONDS);
            action();
            let _ = io::stdout().flush();
            libc::_exit(0);
        }
        let mut status = 0;
        while libc::waitpid(pid, &raw mut status, 0) == -1 {}
        status
    }
}

/// Runs something with its output in a file that appears under this name when it is complete.
pub(crate) fn to_file(path: &str, action: impl FnOnce()) {
    let part = format!("{path}.part");
    let file = File::create(&part).expect("a report");
    unsafe {
        let kept = libc::dup(1);
        libc::dup2(file.as_raw_fd(), 1);
        action();
        let _ = io::stdout().flush();
        libc::dup2(kept, 1);
        libc::close(kept);
    }
    std::fs::rename(&part, path).expect("a finished report");
}

/// Prints the outcome of an attempt that is not in the table.
pub(crate) fn print(name: &str, outcome: &Outcome) {
    tell(name, "depends", outcome);
}
