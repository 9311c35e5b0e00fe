use std::{
    ffi::OsString,
    io::Write,
    os::unix::ffi::OsStringExt,
    process::ExitCode,
    time::{Duration, Instant},
};

use agent_protocol::message::{ExecRequest, Stdio};

use super::{
    context::Context,
    error::{CliError, Kind},
    output::{clean, print_json, print_line},
    resolve, worktree,
};
use crate::{
    client::{
        ConnectionError,
        exec::{self, ExecError, ExecOptions, START_PATIENCE, Streams},
    },
    config::values,
    sandbox::Sandbox,
};

/// How long init may take to accept the connection.
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);

/// Run a command inside a running sandbox
///
/// Exits with the command's status, 128 + N for signal N; 125 if agent-shim failed, 126 if the command cannot be executed,
/// 127 if it does not exist.
#[derive(clap::Args, Debug)]
#[allow(clippy::struct_excessive_bools)] // Flags are independent of each other.
pub(crate) struct ExecArgs {
    /// The sandbox; the project's if left out
    name: Option<String>,
    /// Pass standard input on
    #[arg(short, long)]
    interactive: bool,
    /// Give the command a terminal
    #[arg(short, long)]
    tty: bool,
    /// Set a variable for the command
    #[arg(short = 'e', long = "env", value_name = "NAME=VALUE", value_parser = values::pair)]
    variable: Vec<(String, String)>,
    /// Start in this folder
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<OsString>,
    /// Start in this branch's worktree
    #[arg(long, value_name = "BRANCH", conflicts_with = "workdir")]
    worktree: Option<String>,
    /// Run as this user inside: NAME, UID or UID:GID
    #[arg(short, long)]
    user: Option<String>,
    /// End the command and all it started after this time, such as 90s
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    timeout: Option<Duration>,
    /// Do not wait; its output is thrown away
    #[arg(long, conflicts_with_all = ["interactive", "tty"])]
    detach: bool,
    /// The command and its arguments
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

pub(crate) fn run(ctx: &Context, args: ExecArgs) -> Result<ExitCode, CliError> {
    let sandbox = resolve::sandbox(ctx, args.name.as_deref())?;
    let (detach, tty) = (args.detach, args.tty);
    if ctx.global.dry_run {
        print_line(&format!("would run {} in `{}`", clean(&format!("{:?}", args.command)), sandbox.name()))?;
        return Ok(ExitCode::SUCCESS);
    }
    let worktree = args.worktree.as_ref().map(|branch| worktree::named(ctx, &sandbox, branch)).transpose()?;
    let mut request = request(args);
    if let Some(branch) = worktree {
        request.directory = Some(branch.path().into_bytes());
    }
    let connection = sandbox
        .connect(Instant::now() + CONNECT_PATIENCE)
        .map_err(|error| cannot(&sandbox, &ExecError::Connection(error)))?;
    sandbox.ensure_monitored();
    if detach {
        let started = exec::run_detached(connection, request, Instant::now() + START_PATIENCE)
            .map_err(|error| cannot(&sandbox, &error))?;
        if ctx.global.json {
            print_json(&serde_json::json!({ "exec": started.exec, "pid": started.pid }))?;
        } else {
            print_line(&started.pid.to_string())?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let options =
        ExecOptions { request, terminal: tty, streams: Streams::inherited(), start_patience: START_PATIENCE };
    match exec::run(connection, options) {
        Ok(outcome) => {
            if let Some(error) = &outcome.input_error {
                // The command saw the end of its input and has its own exit code.
                drop(writeln!(std::io::stderr(), "agent-shim: reading standard input: {error}"));
            }
            Ok(ExitCode::from(outcome.exit.how.shell_code()))
        }
        Err(error) => Err(cannot(&sandbox, &error)),
    }
}

fn request(args: ExecArgs) -> ExecRequest {
    let bytes = |(name, value): (String, String)| (name.into_bytes(), value.into_bytes());
    let mut env: Vec<_> = Vec::new();
    // The command draws on the person's own terminal, so that one's type is the right one.
    if args.tty
        && let Some(term) = std::env::var_os("TERM")
    {
        env.push((b"TERM".to_vec(), term.into_vec()));
    }
    env.extend(args.variable.into_iter().map(bytes));
    ExecRequest {
        argv: args.command.into_iter().map(OsString::into_vec).collect(),
        env,
        directory: args.workdir.map(OsString::into_vec),
        user: args.user,
        stdin: args.interactive,
        stdio: Stdio::Frames,
        timeout_ms: args.timeout.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
    }
}

fn cannot(sandbox: &Sandbox, error: &ExecError) -> CliError {
    let kind = match (error, error.shell_code()) {
        (ExecError::Interrupted(_), code) => Kind::Interrupted(code),
        (ExecError::Output { source, .. }, _) if source.kind() == std::io::ErrorKind::BrokenPipe => {
            return CliError::new(Kind::BrokenPipe, "");
        }
        (_, 127) => Kind::CommandNotFound,
        (_, 126) => Kind::CommandNotExecutable,
        _ => Kind::Failed,
    };
    let made = CliError::new(kind, format!("cannot run the command in `{}`", sandbox.name())).because(error);
    match error {
        ExecError::Connection(ConnectionError::NotRunning) => {
            made.hint(format!("`agent-shim start {}` starts it", sandbox.name()))
        }
        ExecError::Connection(error) if error.is_stuck() => match sandbox.diagnose().stuck {
            Some(place) => made.because(&std::io::Error::other(place)),
            None => made,
        },
        _ => made,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        exec: ExecArgs,
    }

    #[test]
    fn flags_become_the_request() {
        let line =
            ["x", "web", "-i", "-e", "A=1", "-w", "/tmp", "-u", "0", "--timeout", "2s", "--", "a", "-b"];
        let request = request(Line::try_parse_from(line).unwrap().exec);
        assert_eq!(request.argv, [b"a".to_vec(), b"-b".to_vec()]);
        assert_eq!(request.env, [(b"A".to_vec(), b"1".to_vec())]);
        assert_eq!(request.directory.as_deref(), Some(&b"/tmp"[..]));
        assert_eq!((request.stdin, request.timeout_ms), (true, Some(2000)));
        assert_eq!(request.user.as_deref(), Some("0"));
    }

    #[test]
    fn a_command_is_needed() {
        assert!(Line::try_parse_from(["x", "web"]).is_err());
        assert!(Line::try_parse_from(["x", "--"]).is_err());
    }
}
