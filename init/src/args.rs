//! The command line, parsed by hand: PID 1 needs a dozen options and starts in microseconds.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs;
use std::io::{self, Read};
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use crate::entrypoint::Options;
use crate::handover;
use crate::signals::Signal;
use crate::sys;

/// What `--help` prints.
pub const HELP: &str = "\
Usage: agent-init [OPTIONS] [--] COMMAND [ARGS...]
       agent-init --spec FILE
       agent-init [--own-id ID] [--lease-fd N] --spec-fd N
       agent-init --handover SOCKET

Run COMMAND as a container's PID 1 would have to: forward signals, reap orphans, exit as it exits.
With a specification instead of a command, be the init of a sandbox.

Options:
  -s            Register as subreaper, to reap orphans without being PID 1
  -g            Send signals to the whole process group of COMMAND
  -e CODE       Exit with 0 where COMMAND exits with CODE; may be repeated
  -p SIGNAL     Receive SIGNAL when the parent dies
  -v            Say more on standard error; may be repeated
  -w            Warn about every orphan that is reaped
  -l            Show the license
  -h, --help    Show this help
  --version     Show the version
  --own-id ID   Be the user and group ID, in a user namespace that has no other
  --lease-fd N  End when the parent does, which holds the other end of this pipe

Environment:
  TINI_SUBREAPER, TINI_KILL_PROCESS_GROUP   Same as -s and -g, whatever the value
  TINI_VERBOSITY                            How much to say; 1 unless set

Exit status: that of COMMAND, 128 + N if signal N killed it, 126 if it cannot be executed,
127 if it is not found, 1 if the options are wrong.
";

/// What `-l` prints.
pub const LICENSE: &str = "agent-init is licensed under MIT OR Apache-2.0, at your option.\n";

/// More than any specification holds; whoever passes more gets a parse error instead of our memory.
const SPEC_BYTES: u64 = 4 * 1024 * 1024;

/// What init was asked to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Mode {
    /// Run one command and be otherwise invisible.
    Entrypoint(Options, Vec<OsString>),
    /// Be the init of a sandbox.
    Sandbox(SpecSource),
    /// Begin anew with these arguments, as this user of a namespace of its own.
    OwnId(u32, Vec<OsString>),
    /// Print a text and exit with 0.
    Print(String),
}

/// Where the specification of a sandbox comes from.
#[derive(Debug, PartialEq, Eq)]
pub enum SpecSource {
    /// A file inside.
    File(PathBuf),
    /// An inherited descriptor, read to its end.
    Descriptor(RawFd),
    /// The same, from a parent with which init is to end.
    Leased {
        /// The specification.
        spec: RawFd,
        /// A pipe of which the parent holds the other end.
        lease: RawFd,
    },
    /// A socket of the host's, which hands over this and every other descriptor that would have been inherited.
    Handover(PathBuf),
}

impl SpecSource {
    /// Reads the specification to its end.
    pub fn read(&self) -> io::Result<Vec<u8>> {
        let file = match self {
            Self::File(path) => fs::File::open(path)?,
            Self::Descriptor(fd) | Self::Leased { spec: fd, .. } => {
                fs::File::from(sys::adopt_descriptor(*fd)?)
            }
            Self::Handover(socket) => fs::File::from(sys::adopt_descriptor(handover::receive(socket)?)?),
        };
        let mut bytes = Vec::new();
        file.take(SPEC_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

/// Parses what follows the program's name. `env` looks up a variable.
///
/// Options end at the first word that is none, with or without `--`: a command's own options are not ours.
pub fn parse(
    args: impl IntoIterator<Item = OsString>,
    env: impl Fn(&str) -> Option<OsString>,
) -> Result<Mode, UsageError> {
    let mut args = args.into_iter().peekable();
    let mut options = Options::default();
    let mut lease = None;
    while let Some(arg) = args.next_if(|arg| arg.as_bytes().starts_with(b"-") && arg != "-") {
        match arg.as_bytes() {
            b"--" => break,
            b"--help" => return Ok(Mode::Print(HELP.to_owned())),
            b"--version" => return Ok(Mode::Print(version())),
            b"--spec" => {
                let file = value(&mut args, "--spec")?;
                return last(&mut args, Mode::Sandbox(SpecSource::File(file.into())));
            }
            b"--spec-fd" => {
                let spec = descriptor(&mut args, "--spec-fd")?;
                let source =
                    lease.map_or(SpecSource::Descriptor(spec), |lease| SpecSource::Leased { spec, lease });
                return last(&mut args, Mode::Sandbox(source));
            }
            b"--own-id" => {
                let text = value(&mut args, "--own-id")?;
                let id = number(&text).ok_or(UsageError::Invalid("--own-id", text))?;
                return Ok(Mode::OwnId(id, args.collect()));
            }
            b"--lease-fd" => lease = Some(descriptor(&mut args, "--lease-fd")?),
            b"--handover" => {
                let socket = value(&mut args, "--handover")?;
                return last(&mut args, Mode::Sandbox(SpecSource::Handover(socket.into())));
            }
            [b'-', b'-', ..] => return Err(UsageError::Unknown(arg)),
            [_, letters @ ..] => {
                if let Some(text) = short_options(letters, &mut options, &mut args)? {
                    return Ok(Mode::Print(text.to_owned()));
                }
            }
            [] => return Err(UsageError::NoCommand),
        }
    }
    if lease.is_some() {
        return Err(UsageError::MissingValue("--spec-fd"));
    }
    options.read_environment(env);
    let command: Vec<OsString> = args.collect();
    if command.is_empty() {
        return Err(UsageError::NoCommand);
    }
    Ok(Mode::Entrypoint(options, command))
}

/// What is wrong with a command line.
#[derive(Debug, PartialEq, Eq)]
pub enum UsageError {
    /// Nothing to run.
    NoCommand,
    /// Not an option of ours.
    Unknown(OsString),
    /// An option without the value it needs.
    MissingValue(&'static str),
    /// A value that makes no sense for its option.
    Invalid(&'static str, OsString),
    /// Words after a specification.
    Superfluous(OsString),
}

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoCommand => f.write_str("no command given"),
            Self::Unknown(option) => write!(f, "unknown option `{}`", option.display()),
            Self::MissingValue(option) => write!(f, "{option} needs a value"),
            Self::Invalid(option, value) => write!(f, "invalid value for {option}: `{}`", value.display()),
            Self::Superfluous(word) => write!(f, "unexpected argument `{}`", word.display()),
        }
    }
}

impl std::error::Error for UsageError {}

/// One word of letters, as `-sge 143` or `-e143`. Returns a text to print instead of running anything.
fn short_options(
    letters: &[u8],
    options: &mut Options,
    args: &mut impl Iterator<Item = OsString>,
) -> Result<Option<&'static str>, UsageError> {
    let mut rest = letters.iter();
    while let Some(letter) = rest.next() {
        match letter {
            b's' => options.subreaper = true,
            b'g' => options.signal_group = true,
            b'v' => options.verbosity += 1,
            b'w' => options.warn_on_reap = true,
            b'h' => return Ok(Some(HELP)),
            b'l' => return Ok(Some(LICENSE)),
            b'e' => {
                let text = attached_or_next(rest.as_slice(), args, "-e")?;
                options.remap_to_zero(number(&text).ok_or(UsageError::Invalid("-e", text))?);
                return Ok(None);
            }
            b'p' => {
                let text = attached_or_next(rest.as_slice(), args, "-p")?;
                let signal = text.to_str().and_then(Signal::parse);
                options.parent_death_signal = Some(signal.ok_or(UsageError::Invalid("-p", text))?);
                return Ok(None);
            }
            other => {
                return Err(UsageError::Unknown(format!("-{}", char::from(*other)).into()));
            }
        }
    }
    Ok(None)
}

fn attached_or_next(
    attached: &[u8],
    args: &mut impl Iterator<Item = OsString>,
    option: &'static str,
) -> Result<OsString, UsageError> {
    if attached.is_empty() { value(args, option) } else { Ok(OsStr::from_bytes(attached).to_owned()) }
}

fn value(args: &mut impl Iterator<Item = OsString>, option: &'static str) -> Result<OsString, UsageError> {
    args.next().ok_or(UsageError::MissingValue(option))
}

fn descriptor(args: &mut impl Iterator<Item = OsString>, option: &'static str) -> Result<RawFd, UsageError> {
    let text = value(args, option)?;
    number(&text).ok_or(UsageError::Invalid(option, text))
}

fn last(args: &mut impl Iterator<Item = OsString>, mode: Mode) -> Result<Mode, UsageError> {
    args.next().map_or(Ok(mode), |word| Err(UsageError::Superfluous(word)))
}

fn number<T: std::str::FromStr>(text: &OsStr) -> Option<T> {
    text.to_str()?.parse().ok()
}

fn version() -> String {
    format!("agent-init {}\n", env!("CARGO_PKG_VERSION"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Mode, UsageError> {
        parse(line.split_whitespace().map(OsString::from), |_| None)
    }

    fn entrypoint(line: &str) -> (Options, Vec<OsString>) {
        match parsed(line) {
            Ok(Mode::Entrypoint(options, command)) => (options, command),
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn options_end_where_the_command_begins() {
        let (options, command) = entrypoint("-sg ls -l --version");
        assert!(options.subreaper && options.signal_group);
        assert_eq!(command, ["ls", "-l", "--version"]);
        assert_eq!(entrypoint("-v -- -odd-name -s").1, ["-odd-name", "-s"]);
        assert_eq!(entrypoint("- x").1, ["-", "x"]);
    }

    #[test]
    fn values_are_attached_or_follow() {
        let (options, _) = entrypoint("-we143 -e 7 -vp SIGTERM -vv -- true");
        assert!(options.warn_on_reap);
        assert_eq!([7, 143, 8].map(|code| options.exit_code(code)), [0, 0, 8]);
        assert_eq!(options.parent_death_signal, Some(Signal::TERM));
        assert_eq!(options.verbosity, Options::default().verbosity + 3);
    }

    #[test]
    fn the_environment_counts_as_options() {
        let env = |name: &str| match name {
            "TINI_SUBREAPER" | "TINI_KILL_PROCESS_GROUP" => Some(OsString::new()),
            "TINI_VERBOSITY" => Some("3".into()),
            _ => None,
        };
        let Ok(Mode::Entrypoint(options, _)) = parse(["true".into()], env) else { panic!("a command") };
        assert!(options.subreaper && options.signal_group);
        assert_eq!(options.verbosity, 3);
    }

    #[test]
    fn mistakes_are_named() {
        use UsageError::{Invalid, MissingValue, NoCommand, Superfluous, Unknown};
        for (line, error) in [
            ("", NoCommand),
            ("-s --", NoCommand),
            ("-x true", Unknown("-x".into())),
            ("--nothing", Unknown("--nothing".into())),
            ("-e", MissingValue("-e")),
            ("-e 256 true", Invalid("-e", "256".into())),
            ("-e -1 true", Invalid("-e", "-1".into())),
            ("-p SIGNOTHING true", Invalid("-p", "SIGNOTHING".into())),
            ("--spec", MissingValue("--spec")),
            ("--spec-fd x", Invalid("--spec-fd", "x".into())),
            ("--spec a b", Superfluous("b".into())),
            ("--own-id x", Invalid("--own-id", "x".into())),
            ("--lease-fd 5 true", MissingValue("--spec-fd")),
        ] {
            assert_eq!(parsed(line), Err(error), "{line}");
        }
    }

    #[test]
    fn a_specification_replaces_the_command() {
        assert_eq!(
            parsed("--spec /run/spec.json"),
            Ok(Mode::Sandbox(SpecSource::File("/run/spec.json".into())))
        );
        assert_eq!(parsed("--spec-fd 3"), Ok(Mode::Sandbox(SpecSource::Descriptor(3))));
        assert_eq!(
            parsed("--own-id 1000 --spec-fd 4"),
            Ok(Mode::OwnId(1000, vec!["--spec-fd".into(), "4".into()]))
        );
        assert_eq!(
            parsed("--lease-fd 5 --spec-fd 4"),
            Ok(Mode::Sandbox(SpecSource::Leased { spec: 4, lease: 5 }))
        );
        assert_eq!(parsed("--handover /h"), Ok(Mode::Sandbox(SpecSource::Handover("/h".into()))));
        assert_eq!(parsed("--help"), Ok(Mode::Print(HELP.to_owned())));
        assert_eq!(parsed("-vh"), Ok(Mode::Print(HELP.to_owned())));
    }
}
