//! Programs of Nix: where they are, and running one of them to its end.

use std::{
    env,
    ffi::{CString, OsStr, OsString},
    fs::File,
    io::{self, Read},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd},
        unix::{ffi::OsStrExt, fs::PermissionsExt},
    },
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    pipe::{PipeFlags, pipe_with},
    process::{WaitOptions, kill_process_group, waitpid},
};

use crate::{
    client::signals::SignalWatch,
    sys::{self, Program, SpawnError, Step},
};

/// Where Nix puts its programs, for those whose shell has not heard of it yet; `~` is the person's home.
const USUAL_PLACES: [&str; 4] = [
    "~/.nix-profile/bin",
    "~/.local/state/nix/profile/bin",
    "/nix/var/nix/profiles/default/bin",
    "/run/current-system/sw/bin",
];

/// How long Nix may take to end once it was asked to. It ends its builders, and takes back what it has begun.
const END_PATIENCE: Duration = Duration::from_secs(10);

/// How often progress is shown while nothing is heard.
const TICK: Duration = Duration::from_millis(200);

/// What of the person's variables does not reach Nix: they change what the same expression means.
const WITHHELD: &str = "NIXPKGS_";

/// Folders in which programs of Nix are looked for: those of PATH, then the usual ones.
pub fn places() -> Vec<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let home = env::var_os("HOME").map(PathBuf::from);
    env::split_paths(&path)
        .filter(|folder| folder.is_absolute())
        .chain(usual_places(home.as_deref()))
        .collect()
}

/// The folders in which Nix's programs are where it is installed, for a person with this home.
pub fn usual_places(home: Option<&Path>) -> impl Iterator<Item = PathBuf> {
    USUAL_PLACES.iter().filter_map(move |place| match place.strip_prefix("~/") {
        Some(rest) => home.map(|home| home.join(rest)),
        None => Some(PathBuf::from(place)),
    })
}

/// Finds a program of Nix.
pub fn find(name: &str, places: &[PathBuf]) -> Option<PathBuf> {
    let is_program = |path: &PathBuf| {
        path.metadata().is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    };
    places.iter().map(|folder| folder.join(name)).find(is_program)
}

/// What a running program is heard to say.
#[derive(Debug)]
pub(super) enum Heard<'a> {
    /// On its standard output.
    Output(&'a [u8]),
    /// On its standard error.
    Error(&'a [u8]),
    /// Nothing, for a while.
    Nothing,
}

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// By itself; the code is 128 + N for signal N.
    Code(i32),
    /// This signal was sent to us, and we ended it.
    Cancelled(Signal),
    /// The deadline had passed, and we ended it.
    Late,
}

/// Runs a program in a session of its own, so that what a terminal sends to us does not reach it too.
pub(super) fn run(
    program: &Path,
    args: &[&OsStr],
    signals: &SignalWatch,
    deadline: Option<Instant>,
    mut hear: impl FnMut(Heard<'_>),
) -> io::Result<Ended> {
    let nothing = File::open("/dev/null")?;
    let (mut output, output_end) = pipe()?;
    let (mut errors, errors_end) = pipe()?;
    let steps = [
        Step::NewSession,
        // Nix calls git for some references, and git does what the settings of the repository say that it is in: in a
        // project, those are the agent's.
        Step::AtTheRoot,
        Step::CloseAbove(2),
        Step::PassFd { from: nothing.as_raw_fd(), to: 0 },
        Step::PassFd { from: output_end.as_raw_fd(), to: 1 },
        Step::PassFd { from: errors_end.as_raw_fd(), to: 2 },
    ];
    let child = sys::spawn(&steps, &program_of(program, args)?).map_err(|error| match error {
        SpawnError::Clone(error) | SpawnError::Step(_, error) | SpawnError::Exec(error) => error,
    })?;
    drop((output_end, errors_end));

    let mut ending: Option<(Ended, Instant)> = None;
    let end = |how: Ended, ending: &mut Option<(Ended, Instant)>| {
        // Asked a second time, it is not asked again.
        let (signal, by) = match ending {
            None => (rustix::process::Signal::TERM, Instant::now() + END_PATIENCE),
            Some(_) => (rustix::process::Signal::KILL, Instant::now() + END_PATIENCE),
        };
        // It may be gone already, which the next wait shows.
        let _ = kill_process_group(child.pid, signal);
        *ending = Some((ending.map_or(how, |(how, _)| how), by));
    };
    let mut open = [true, true];
    loop {
        let ready = wait(&[output.as_fd(), errors.as_fd(), signals.as_fd(), child.pidfd.as_fd()], open)?;
        // Read before the end is looked at: what was written before it is there by now.
        for (index, is_ready) in ready[..2].iter().enumerate() {
            if *is_ready {
                let pipe = if index == 0 { &mut output } else { &mut errors };
                open[index] = drain(pipe, |bytes| {
                    hear(if index == 0 { Heard::Output(bytes) } else { Heard::Error(bytes) });
                })?;
            }
        }
        if let Some(signal) = signals.next() {
            end(Ended::Cancelled(signal), &mut ending);
        }
        let now = Instant::now();
        match ending {
            None if deadline.is_some_and(|deadline| now >= deadline) => end(Ended::Late, &mut ending),
            Some((how, by)) if now >= by => end(how, &mut ending),
            _ => {}
        }
        if ready[3] {
            break;
        }
        hear(Heard::Nothing);
    }
    for (index, pipe) in [&mut output, &mut errors].into_iter().enumerate() {
        if open[index] {
            drain(pipe, |bytes| hear(if index == 0 { Heard::Output(bytes) } else { Heard::Error(bytes) }))?;
        }
    }
    let status = waitpid(Some(child.pid), WaitOptions::empty())?.map(|(_, status)| status);
    let code = status
        .and_then(|status| status.exit_status().or(status.terminating_signal().map(|signal| 128 + signal)));
    Ok(ending.map_or(Ended::Code(code.unwrap_or(-1)), |(how, _)| how))
}

fn pipe() -> io::Result<(File, File)> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
    // Only our end: the program expects a pipe that waits.
    rustix::fs::fcntl_setfl(&read, rustix::fs::OFlags::NONBLOCK)?;
    Ok((read.into(), write.into()))
}

fn program_of(program: &Path, args: &[&OsStr]) -> io::Result<Program> {
    let invalid = |_| io::Error::from(io::ErrorKind::InvalidInput);
    let path = CString::new(program.as_os_str().as_bytes()).map_err(invalid)?;
    let args: Result<Vec<_>, _> = args.iter().map(|arg| CString::new(arg.as_bytes())).collect();
    let variables = env::vars_os().filter(|(name, _)| !name.as_bytes().starts_with(WITHHELD.as_bytes()));
    // Nix wants to know who builds, and asks nobody else where the user has no entry in /etc/passwd.
    let nameless = env::var_os("USER").is_none();
    let user = nameless.then(|| ("USER".into(), rustix::process::getuid().as_raw().to_string().into()));
    let variables = variables.chain(user);
    let env: Result<Vec<_>, _> = variables
        .map(|(name, value)| {
            let mut variable: OsString = name;
            variable.push("=");
            variable.push(value);
            CString::new(variable.as_bytes())
        })
        .collect();
    let args = [vec![path.clone()], args.map_err(invalid)?].concat();
    Ok(Program { path, args, env: env.map_err(invalid)? })
}

/// Waits until something is there to be read, or a moment has passed. Closed pipes are left out.
fn wait(fds: &[BorrowedFd<'_>; 4], open: [bool; 2]) -> io::Result<[bool; 4]> {
    let asked = [open[0], open[1], true, true];
    let mut polled: Vec<PollFd<'_>> = fds
        .iter()
        .zip(asked)
        .filter(|(_, asked)| *asked)
        .map(|(fd, _)| PollFd::from_borrowed_fd(*fd, PollFlags::IN))
        .collect();
    let timeout = Timespec::try_from(TICK).map_err(|_| io::ErrorKind::InvalidInput)?;
    match poll(&mut polled, Some(&timeout)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    let mut answers = polled.iter().map(|fd| !fd.revents().is_empty());
    Ok(asked.map(|asked| asked && answers.next().unwrap_or(false)))
}

/// Reads what is there. Returns whether more can come.
fn drain(pipe: &mut File, mut each: impl FnMut(&[u8])) -> io::Result<bool> {
    let mut buffer = [0; 16 * 1024];
    loop {
        match pipe.read(&mut buffer) {
            Ok(0) => return Ok(false),
            Ok(count) => each(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, deadline: Option<Duration>, signals: &[Signal]) -> (Ended, String, String) {
        let (mut output, mut errors) = (Vec::new(), Vec::new());
        let watch = SignalWatch::new(signals).unwrap();
        let args = [OsStr::new("-c"), OsStr::new(script)];
        let deadline = deadline.map(|patience| Instant::now() + patience);
        let ended = run(Path::new("/bin/sh"), &args, &watch, deadline, |heard| match heard {
            Heard::Output(bytes) => output.extend_from_slice(bytes),
            Heard::Error(bytes) => errors.extend_from_slice(bytes),
            Heard::Nothing => {}
        });
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (ended.unwrap(), text(output), text(errors))
    }

    #[test]
    fn both_streams_and_the_code_arrive() {
        let (ended, output, errors) = shell("echo out; echo err >&2; exit 3", None, &[]);
        assert_eq!((ended, output.as_str(), errors.as_str()), (Ended::Code(3), "out\n", "err\n"));
        assert_eq!(shell("kill -KILL $$", None, &[]).0, Ended::Code(137));
        assert_eq!(shell("head -c 1000000 /dev/zero | tr '\\0' x", None, &[]).1.len(), 1_000_000);
    }

    #[test]
    fn nothing_is_looked_for_where_the_person_is() {
        assert_ne!(env::current_dir().unwrap(), Path::new("/"));
        assert_eq!(shell("pwd", None, &[]).1, "/\n");
        assert_ne!(env::current_dir().unwrap(), Path::new("/"));
    }

    #[test]
    fn a_program_that_has_closed_its_output_is_waited_for() {
        assert_eq!(shell("exec >&- 2>&-; sleep 0.1; exit 4", None, &[]).0, Ended::Code(4));
    }

    #[test]
    fn a_late_program_is_ended_with_all_its_processes() {
        let (ended, output, _) = shell("sleep 1000 & echo $!; wait", Some(Duration::from_millis(100)), &[]);
        assert_eq!(ended, Ended::Late);
        let sleeper = Path::new("/proc").join(output.trim());
        let end = Instant::now() + Duration::from_secs(10);
        let state = || std::fs::read_to_string(sleeper.join("stat")).unwrap_or_default();
        while sleeper.exists() && !state().contains(") Z ") {
            assert!(Instant::now() < end, "{}", state());
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_signal_to_us_ends_it() {
        use nix::sys::pthread::{pthread_kill, pthread_self};
        let watch = SignalWatch::new(&[Signal::SIGUSR2]).unwrap();
        let me = pthread_self();
        let args = [OsStr::new("-c"), OsStr::new("echo; sleep 1000")];
        let ended = run(Path::new("/bin/sh"), &args, &watch, None, |heard| {
            if matches!(heard, Heard::Output(_)) {
                pthread_kill(me, Signal::SIGUSR2).unwrap();
            }
        });
        assert_eq!(ended.unwrap(), Ended::Cancelled(Signal::SIGUSR2));
    }

    #[test]
    fn programs_are_found_in_order() {
        let places = ["/nowhere".into(), "/usr/bin".into(), "/bin".into()];
        assert_eq!(find("sh", &places), Some("/usr/bin/sh".into()));
        assert_eq!(find("no-such-program", &places), None);
        assert_eq!(find(".", &places), None);
        assert!(super::places().contains(&"/nix/var/nix/profiles/default/bin".into()));
    }
}
