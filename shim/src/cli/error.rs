//! Errors as people see them: what failed, why, what to do; and the exit code for programs.

use std::{
    env,
    error::Error,
    io::{self, IsTerminal, Write},
    process::ExitCode,
};

use super::{Command, context::Color, output::clean};
use crate::{
    client::ConnectionError,
    config::error::{ConfigError, Fault},
    requirement::Requirement,
    sandbox::{
        StateError, chain,
        endpoint::EndpointError,
        name::NameError,
        start::{Cause, Failure, StartError},
        stop::StopError,
    },
};

/// Decides the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// There is no such sandbox.
    NotFound,
    /// It is not in a state in which this can be done.
    WrongState,
    /// It was tried and did not work.
    Failed,
    /// The machine lacks something.
    Requirement,
    /// The person called it off.
    Cancelled,
    /// The command line makes no sense.
    Usage,
    /// The program to be run does not exist.
    CommandNotFound,
    /// It was to be started from an image that does not have it.
    NotInImage,
    /// The program to be run cannot be executed.
    CommandNotExecutable,
    /// A signal ended us while we carried a command's streams.
    Interrupted(u8),
    /// Whoever read our output went away.
    BrokenPipe,
}

/// Which exit codes a subcommand has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// 0 to 5.
    Own,
    /// Those of what it runs, and 125 for a failure of ours: `run` and `exec`.
    OfCommand,
}

/// What is printed when a subcommand fails.
#[derive(Debug)]
pub(crate) struct CliError {
    kind: Kind,
    message: String,
    causes: Vec<String>,
    lines: Vec<String>,
    hint: Option<String>,
}

impl Style {
    pub(super) fn of(command: &Command) -> Self {
        match command {
            Command::Run(_) | Command::Exec(_) => Self::OfCommand,
            _ => Self::Own,
        }
    }
}

impl Kind {
    fn code(self, style: Style) -> u8 {
        match (self, style) {
            (Self::Usage, _) => 64,
            (Self::Cancelled, _) => 5,
            (Self::BrokenPipe, _) => 141,
            (Self::Interrupted(code), _) => code,
            (Self::CommandNotFound | Self::NotInImage, Style::OfCommand) => 127,
            (Self::CommandNotExecutable, Style::OfCommand) => 126,
            (_, Style::OfCommand) => 125,
            (Self::NotFound, Style::Own) => 1,
            (Self::WrongState, Style::Own) => 2,
            (Self::Failed | Self::CommandNotFound | Self::CommandNotExecutable, Style::Own) => 3,
            (Self::Requirement | Self::NotInImage, Style::Own) => 4,
        }
    }
}

impl CliError {
    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), causes: Vec::new(), lines: Vec::new(), hint: None }
    }

    pub(crate) fn because(mut self, error: &dyn Error) -> Self {
        self.causes.extend(chain(error));
        self
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        // There may be nothing to say.
        self.hint = Some(hint.into()).filter(|hint| !hint.is_empty());
        self
    }

    /// Lines of somebody else's text that belong to the message: a place in a file, the end of a log.
    pub(crate) fn lines(mut self, lines: impl IntoIterator<Item = String>) -> Self {
        self.lines.extend(lines);
        self
    }

    /// Puts what was being done in front.
    pub(crate) fn while_doing(mut self, message: impl Into<String>) -> Self {
        if self.kind != Kind::BrokenPipe {
            self.causes.insert(0, std::mem::replace(&mut self.message, message.into()));
        }
        self
    }

    /// The same as something that was tried and did not work.
    pub(crate) fn into_failure(mut self) -> Self {
        if self.kind != Kind::BrokenPipe {
            self.kind = Kind::Failed;
        }
        self
    }

    /// Prints it, and gives the exit code.
    pub(super) fn print(&self, color: Color, style: Style) -> ExitCode {
        if self.kind != Kind::BrokenPipe {
            // Nobody is left to be told where even this fails.
            drop(write!(io::stderr(), "{}", self.text(use_color(color))));
        }
        ExitCode::from(self.kind.code(style))
    }

    fn text(&self, colored: bool) -> String {
        let (red, yellow, plain) = if colored { ("\x1b[1;31m", "\x1b[33m", "\x1b[0m") } else { ("", "", "") };
        let mut text = format!("{red}error:{plain} {}\n", clean(&self.message));
        // A cause that only repeats what stands before it says nothing.
        let mut last = self.message.as_str();
        for cause in &self.causes {
            if !last.contains(cause.as_str()) {
                text.extend(["  caused by: ", &clean(cause), "\n"]);
                last = cause;
            }
        }
        for line in &self.lines {
            text.extend(["  | ", &clean(line), "\n"]);
        }
        if let Some(hint) = &self.hint {
            text.extend([yellow, "hint:", plain, " ", &clean(hint), "\n"]);
        }
        text
    }
}

/// Prints what clap has to say: help and versions are no errors.
pub(super) fn usage(error: &clap::Error) -> ExitCode {
    // A pipe that nobody reads is no failure of ours.
    drop(error.print());
    if error.use_stderr() { ExitCode::from(64) } else { ExitCode::SUCCESS }
}

fn use_color(color: Color) -> bool {
    match color {
        Color::Always => true,
        Color::Never => false,
        Color::Auto => {
            io::stderr().is_terminal()
                && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
                && env::var_os("TERM").is_none_or(|term| term != "dumb")
        }
    }
}

impl From<StateError> for CliError {
    fn from(error: StateError) -> Self {
        let with = |kind, hint: &str| {
            let made = Self::new(kind, error.to_string());
            let made =
                error.source().map_or(Self::new(kind, error.to_string()), |source| made.because(source));
            if hint.is_empty() { made } else { made.hint(hint) }
        };
        match &error {
            StateError::NotFound(_) => with(Kind::NotFound, "`agent-shim list` shows those that are there"),
            StateError::Taken(name) => with(
                Kind::WrongState,
                &format!("choose another `--name`, or `agent-shim start {name}` to start that one"),
            ),
            StateError::Locked { .. } => with(Kind::WrongState, "try again in a moment"),
            StateError::Unfinished { folder } => {
                let name = folder.file_name().unwrap_or_default().to_string_lossy();
                with(Kind::Failed, &format!("`agent-shim destroy {name}` removes what is left of it"))
            }
            StateError::Damaged { path, .. } => with(
                Kind::Failed,
                &format!(
                    "repair {} by hand, or remove the sandbox with `agent-shim destroy --force`; its project is untouched",
                    path.display()
                ),
            ),
            StateError::Foreign { .. } => with(Kind::Failed, &Requirement::DataFolderForeign.hint()),
            StateError::Newer { .. } => with(Kind::Failed, "use the newer agent-shim that wrote it"),
            StateError::NoDataDir => with(Kind::Requirement, &Requirement::DataFolderUnknown.hint()),
            StateError::NotWritable { .. } => {
                with(Kind::Requirement, &Requirement::DataFolderNotWritable.hint())
            }
            StateError::Io { source, .. } => with(Kind::Failed, io_hint(source)),
        }
    }
}

fn io_hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "free some space; nothing was changed",
        _ => "",
    }
}

impl From<ConfigError> for CliError {
    fn from(error: ConfigError) -> Self {
        let kind = match error.fault {
            Fault::Written => Kind::Usage,
            Fault::Failed => Kind::Failed,
        };
        let mut made = Self::new(kind, error.message).lines(error.excerpt);
        made.hint = error.hint;
        error.source.iter().fold(made, |made, source| made.because(source))
    }
}

impl From<NameError> for CliError {
    fn from(error: NameError) -> Self {
        Self::new(Kind::Usage, error.to_string())
    }
}

impl From<Failure> for CliError {
    fn from(failure: Failure) -> Self {
        let kind = match failure.cause {
            Cause::Requirement => Kind::Requirement,
            Cause::AgentNotFound => Kind::CommandNotFound,
            Cause::NotInImage => Kind::NotInImage,
            Cause::AgentNotExecutable => Kind::CommandNotExecutable,
            Cause::Cancelled => Kind::Cancelled,
            Cause::Request | Cause::Other => Kind::Failed,
        };
        let mut messages = failure.messages.into_iter();
        let mut error = Self::new(kind, messages.next().unwrap_or_default());
        error.causes = messages.collect();
        error.hint = failure.hint;
        error
    }
}

impl From<StartError> for CliError {
    fn from(error: StartError) -> Self {
        match error {
            StartError::Running => Self::new(Kind::WrongState, error.to_string()),
            StartError::State(error) => error.into(),
            StartError::Failed(failure) => failure.into(),
        }
    }
}

/// What kind of failure it is that a sandbox cannot be reached, and what to do about it; nothing where there is no hint.
pub(crate) fn of_endpoint(error: &EndpointError) -> (Kind, String) {
    match error {
        EndpointError::State(StateError::Locked { .. }) => {
            (Kind::WrongState, "try again when that command has ended".to_owned())
        }
        EndpointError::Failed(failure) => {
            let kind = match failure.cause {
                Cause::Requirement => Kind::Requirement,
                _ => Kind::Failed,
            };
            (kind, failure.hint.clone().unwrap_or_default())
        }
        EndpointError::State(_) | EndpointError::Keeper(_) => (Kind::Failed, String::new()),
    }
}

impl From<StopError> for CliError {
    fn from(error: StopError) -> Self {
        match error {
            StopError::State(error) => error.into(),
            StopError::Stuck | StopError::Refused(_) => Self::new(Kind::Failed, error.to_string()),
        }
    }
}

impl From<ConnectionError> for CliError {
    fn from(error: ConnectionError) -> Self {
        let kind = match error {
            ConnectionError::NotRunning => Kind::WrongState,
            _ => Kind::Failed,
        };
        let made = Self::new(kind, error.to_string());
        error.source().map_or(Self::new(kind, error.to_string()), |source| made.because(source))
    }
}

/// What happens when our own output cannot be written.
impl From<io::Error> for CliError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::new(Kind::BrokenPipe, ""),
            _ => Self::new(Kind::Failed, "cannot write the output").because(&error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::lock::LockError;

    fn code(error: impl Into<CliError>, style: Style) -> u8 {
        error.into().kind.code(style)
    }

    fn failure(cause: Cause) -> Failure {
        Failure { cause, messages: vec!["x".to_owned()], hint: None }
    }

    #[test]
    fn the_codes_of_our_own_subcommands() {
        let own = |error: CliError| code(error, Style::Own);
        let name = || "web".parse().unwrap();
        assert_eq!(own(StateError::NotFound(name()).into()), 1);
        assert_eq!(own(StateError::Taken(name()).into()), 2);
        assert_eq!(own(StateError::Locked { name: name(), source: LockError::Gone }.into()), 2);
        assert_eq!(own(StartError::Running.into()), 2);
        assert_eq!(own(ConnectionError::NotRunning.into()), 2);
        assert_eq!(own(StopError::Stuck.into()), 3);
        assert_eq!(own(StateError::Newer { path: "/x".into(), found: 2, known: 1 }.into()), 3);
        assert_eq!(own(failure(Cause::AgentNotFound).into()), 3);
        assert_eq!(own(failure(Cause::Requirement).into()), 4);
        assert_eq!(own(failure(Cause::Cancelled).into()), 5);
        assert_eq!(own("A".parse::<crate::sandbox::name::Name>().unwrap_err().into()), 64);
    }

    #[test]
    fn the_codes_of_run_and_exec() {
        let of_command = |error: CliError| code(error, Style::OfCommand);
        assert_eq!(of_command(failure(Cause::AgentNotFound).into()), 127);
        assert_eq!(of_command(failure(Cause::AgentNotExecutable).into()), 126);
        assert_eq!(of_command(failure(Cause::Requirement).into()), 125);
        assert_eq!(of_command(StateError::NotFound("web".parse().unwrap()).into()), 125);
        assert_eq!(of_command(failure(Cause::Cancelled).into()), 5);
        assert_eq!(of_command(CliError::new(Kind::Usage, "x")), 64);
    }

    #[test]
    fn a_broken_pipe_is_quiet() {
        let error = CliError::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!(error.kind, Kind::BrokenPipe);
        assert_eq!(error.while_doing("listing").kind, Kind::BrokenPipe);
    }

    #[test]
    fn an_error_reads_as_in_the_style_guide() {
        let error = CliError::new(Kind::Failed, "bwrap exited with status 1")
            .because(&io::Error::other("Permission denied"))
            .while_doing("cannot start sandbox `web`")
            .hint("try again");
        let expected = "error: cannot start sandbox `web`\n  caused by: bwrap exited with status 1\n  \
                        caused by: Permission denied\nhint: try again\n";
        assert_eq!(error.text(false), expected);
    }

    #[test]
    fn nothing_from_inside_reaches_the_terminal_as_it_is() {
        let error = CliError::new(Kind::Failed, "evil \x1b]0;title\x07");
        assert!(!error.text(false).contains(['\x1b', '\x07']));
    }
}
