//! `git-remote-agent`: what git runs for addresses such as `agent::web` (gitremote-helpers(7)).
//!
//! It only connects. Git itself speaks with the git inside, with the checks and limits that its own configuration says.

use std::{
    ffi::{OsStr, OsString},
    io::{self, BufRead, Write},
    os::{fd::AsFd, unix::ffi::OsStrExt},
    path::Path,
    process::ExitCode,
    time::{Duration, Instant},
};

use agent_protocol::{
    failure::FailureKind,
    message::{GitRequest, GitService},
};

use super::source::{ANSWER_PATIENCE, ENDPOINT_PATIENCE, FIRST_BYTE_WITHIN};
use crate::{
    client::{ConnectionError, git},
    sandbox::{
        Sandbox, StateError, chain,
        endpoint::{Endpoint, EndpointError},
        name::NameError,
        paths::DataDir,
    },
    terminal::sanitize::sanitized,
};

/// What git looks for where an address begins with `agent::`.
pub const NAME: &str = "git-remote-agent";

/// For a sign of life from either side; git inside may count and compress for long before it says a word.
const SILENCE_PATIENCE: Duration = Duration::from_mins(30);

/// Longest line git may say to a helper, bytes.
const MAX_LINE_BYTES: u64 = 64 * 1024;

/// What git exits with when it gives up.
const GIVEN_UP: u8 = 128;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
enum HelperError {
    #[error("`{NAME}` is run by git, for addresses such as agent::NAME")]
    Usage,
    #[error(transparent)]
    Name(#[from] NameError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error("cannot reach the sandbox `{0}`")]
    Endpoint(String, #[source] EndpointError),
    #[error("cannot reach the sandbox `{0}`")]
    Connection(String, #[source] ConnectionError),
    #[error("there is no git inside `{0}`: its environment needs one")]
    NoGit(String),
    #[error("no sign of life from `{0}`")]
    Silent(String),
    #[error("speaking with git")]
    Io(#[from] io::Error),
}

/// Whether the program was called by that name.
pub fn is_called(program: Option<&OsString>) -> bool {
    program.and_then(|program| Path::new(program).file_name()) == Some(OsStr::new(NAME))
}

/// The whole helper. `args` are the name of the remote, or its address once more, and the address behind `agent::`.
pub fn main(args: &[OsString]) -> ExitCode {
    match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let causes = chain(&error).join(": ");
            // Nobody is left to be told where even this fails.
            drop(writeln!(io::stderr(), "fatal: {}", sanitized(&causes)));
            ExitCode::from(GIVEN_UP)
        }
    }
}

fn run(args: &[OsString]) -> Result<(), HelperError> {
    let [_, address] = args else { return Err(HelperError::Usage) };
    let (name, directory) = place(address.as_bytes()).ok_or(HelperError::Usage)?;
    let data = DataDir::from_environment()?;
    let sandbox = Sandbox::find(&data, &name.parse()?)?;
    let mut stdin = io::stdin().lock();
    let mut stdout = io::stdout().lock();
    loop {
        let mut line = String::new();
        if io::Read::take(&mut stdin, MAX_LINE_BYTES).read_line(&mut line)? == 0 {
            return Ok(());
        }
        match line.trim_end_matches('\n') {
            "" => return Ok(()),
            "capabilities" => stdout.write_all(b"connect\n\n")?,
            "connect git-upload-pack" => return connect(&data, &sandbox, GitService::UploadPack, directory),
            "connect git-receive-pack" => {
                return connect(&data, &sandbox, GitService::ReceivePack, directory);
            }
            // What we cannot connect to, git says itself.
            line if line.starts_with("connect ") => stdout.write_all(b"fallback\n")?,
            _ => return Err(HelperError::Usage),
        }
        stdout.flush()?;
    }
}

/// `NAME`, or `NAME/FOLDER` for a repository elsewhere in the workspace.
fn place(address: &[u8]) -> Option<(String, Option<Vec<u8>>)> {
    let (name, folder) = match address.iter().position(|byte| *byte == b'/') {
        Some(at) => (&address[..at], Some(&address[at + 1..])),
        None => (address, None),
    };
    let folder = folder.map(|folder| folder.strip_suffix(b"/").unwrap_or(folder));
    let name = String::from_utf8(name.to_vec()).ok()?;
    Some((name, folder.filter(|folder| !folder.is_empty()).map(<[u8]>::to_vec)))
}

fn connect(
    data: &DataDir,
    sandbox: &Sandbox,
    service: GitService,
    directory: Option<Vec<u8>>,
) -> Result<(), HelperError> {
    let name = || sandbox.name().to_string();
    let unreachable = |error| match error {
        ConnectionError::Refused(refusal) if refusal.kind == FailureKind::NotFound => {
            HelperError::NoGit(name())
        }
        error => HelperError::Connection(name(), error),
    };
    // Only fetching has a second version; a client of the first one understands its answer all the same.
    let version = if service == GitService::UploadPack { 2 } else { 0 };
    let endpoint = Endpoint::open(data, sandbox, ENDPOINT_PATIENCE)
        .map_err(|error| HelperError::Endpoint(name(), error))?;
    let connection = endpoint.connect(Instant::now() + ANSWER_PATIENCE).map_err(unreachable)?;
    let asked = git::ask(connection, GitRequest { service, directory, version }).map_err(unreachable)?;
    let stream = asked.stream(Instant::now() + FIRST_BYTE_WITHIN).map_err(unreachable)?;
    let mut stdout = io::stdout().lock();
    stdout.write_all(b"\n")?;
    stdout.flush()?;
    match stream.relay(io::stdin().as_fd(), stdout.as_fd(), SILENCE_PATIENCE) {
        Err(error) if error.kind() == io::ErrorKind::TimedOut => Err(HelperError::Silent(name())),
        relayed => Ok(relayed?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_sandbox_and_perhaps_a_folder() {
        let parts = |address: &str| place(address.as_bytes());
        assert_eq!(parts("web"), Some(("web".to_owned(), None)));
        assert_eq!(parts("web/"), Some(("web".to_owned(), None)));
        assert_eq!(parts("web/.worktrees/x"), Some(("web".to_owned(), Some(b".worktrees/x".to_vec()))));
        assert_eq!(place(b"\xff"), None);
    }

    #[test]
    fn the_program_knows_when_git_calls_it() {
        assert!(is_called(Some(&"/usr/bin/git-remote-agent".into())));
        assert!(!is_called(Some(&"agent-shim".into())) && !is_called(None));
    }
}
