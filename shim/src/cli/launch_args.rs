//! Flags that describe a sandbox, for `run` and `start`.

use std::{
    path::{Path, PathBuf},
    time::SystemTime,
};

use agent_protocol::spec::{OnAgentExit, RestartPolicy};

use super::{
    context::Context,
    error::{CliError, Kind},
    output::tell,
    resolve::{self, Place},
    values::{self, MountValue},
};
use crate::sandbox::{
    LOCK_PATIENCE, Sandbox, StateError,
    lock::ChangeLock,
    name::Name,
    record::{Environment, Isolation, MountRecord, Record, SecretRecord, Workspace},
    start as start_sandbox,
    start::{Cause, Failure, Occasion, StartError, Started},
};

// What `run` and `start` have in common. A doc comment would become the help of both.
#[derive(clap::Args, Clone, Debug, Default)]
#[allow(clippy::struct_excessive_bools)] // Flags are independent of each other.
pub(crate) struct LaunchArgs {
    /// The project folder, or the name of a sandbox that is there; the current folder if left out
    #[arg(value_name = "PATH|NAME")]
    pub(crate) place: Option<String>,
    /// Name of a new sandbox; the folder's if left out
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// What keeps it apart from the host
    #[arg(long, value_enum)]
    pub(crate) isolation: Option<Isolation>,
    /// Where its tools come from
    #[arg(long, value_enum, value_name = "ENV")]
    pub(crate) env: Option<Environment>,
    /// How the project gets in
    #[arg(long, value_enum, value_name = "HOW")]
    pub(crate) workspace: Option<Workspace>,
    /// Share the host's network (the default)
    #[arg(long, overrides_with = "no_network")]
    pub(crate) network: bool,
    /// No network but a loopback device of its own
    #[arg(long, overrides_with = "network")]
    pub(crate) no_network: bool,
    /// Mount a further file or folder of the host
    #[arg(long, value_name = "SRC:DST[:ro]", value_parser = values::mount)]
    pub(crate) mount: Vec<MountValue>,
    /// Provide a file as /run/secrets/NAME, readable by the agent
    #[arg(long, value_name = "NAME=FILE", value_parser = values::pair)]
    pub(crate) secret: Vec<(String, String)>,
    /// Set a variable for everything inside
    #[arg(short = 'e', value_name = "NAME=VALUE", value_parser = values::pair)]
    pub(crate) variable: Vec<(String, String)>,
    /// Set the variables in this file, one NAME=VALUE a line
    #[arg(long, value_name = "FILE")]
    pub(crate) env_file: Vec<PathBuf>,
    /// When the agent is started again after it ended
    #[arg(long, value_enum, value_name = "WHEN")]
    pub(crate) restart: Option<RestartValue>,
    /// Most memory, such as 2G
    #[arg(long, value_name = "SIZE", value_parser = values::bytes)]
    pub(crate) memory: Option<u64>,
    /// Most processors, such as 1.5
    #[arg(long, value_name = "NUMBER", value_parser = values::cpus)]
    pub(crate) cpus: Option<u32>,
    /// Most processes and threads
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) pids: Option<u64>,
    /// Discard home, tmp and work of an earlier start
    #[arg(long)]
    pub(crate) fresh: bool,
    /// Remove the sandbox when it has ended
    #[arg(long)]
    pub(crate) rm: bool,
    /// The agent and its arguments
    #[arg(last = true, value_name = "COMMAND")]
    pub(crate) command: Vec<String>,
}

/// When the agent is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum RestartValue {
    /// After every end
    Always,
    /// After an error (the default of `start`)
    OnFailure,
    /// Never (the default of `run`)
    Never,
}

/// What happens to a sandbox when its agent has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stay {
    /// It stays up: `start`.
    Up,
    /// It ends too: `run`.
    UntilAgentEnds,
}

/// A sandbox that was made or found, described, and is ready to be started.
pub(crate) struct Ready {
    pub(crate) sandbox: Sandbox,
    pub(crate) record: Record,
    pub(crate) is_new: bool,
    lock: ChangeLock,
}

impl LaunchArgs {
    /// No flags at all: a sandbox that is there, as it is.
    pub(crate) fn for_name(name: &Name) -> Self {
        Self { place: Some(name.to_string()), ..Self::default() }
    }

    /// Makes or finds the sandbox and writes down what it is to be.
    pub(crate) fn prepare(&self, ctx: &Context, stay: Stay) -> Result<Ready, CliError> {
        let (place, name) = self.what(ctx)?;
        match place {
            Place::Sandbox(sandbox) => self.prepare_existing(ctx, sandbox, stay),
            Place::Project(project) => self.prepare_new(ctx, &project, name, stay),
        }
    }

    fn what(&self, ctx: &Context) -> Result<(Place, Option<Name>), CliError> {
        let name = self.name.as_deref().map(str::parse::<Name>).transpose()?;
        match (resolve::place(ctx, self.place.as_deref())?, name) {
            (Place::Sandbox(sandbox), Some(name)) if *sandbox.name() != name => {
                Err(CliError::new(Kind::Usage, format!("`{}` is a sandbox already", sandbox.name()))
                    .hint("for a folder of that name, write ./ in front"))
            }
            // Inside a project, `start` alone means the sandbox that it has.
            (Place::Project(project), None) if self.place.is_none() && self.command.is_empty() => {
                let sandbox = resolve::sandbox(ctx, None).ok();
                Ok((sandbox.map_or(Place::Project(project), Place::Sandbox), None))
            }
            (place, name) => Ok((place, name)),
        }
    }

    fn prepare_existing(&self, ctx: &Context, sandbox: Sandbox, stay: Stay) -> Result<Ready, CliError> {
        let lock = sandbox.lock(LOCK_PATIENCE)?;
        let before = sandbox.record()?;
        if sandbox.is_alive() {
            return Err(CliError::new(
                Kind::WrongState,
                format!("sandbox `{}` is running already", sandbox.name()),
            )
            .hint(format!("`agent-shim attach {}` shows it", sandbox.name())));
        }
        let mut record = before.clone();
        self.apply(&mut record, stay)?;
        if ctx.global.dry_run {
            return Ok(Ready { sandbox, record, is_new: false, lock });
        }
        if self.fresh {
            sandbox.discard_work().map_err(StateError::io("discarding what the agent wrote"))?;
        }
        if record != before {
            record.write(sandbox.folder())?;
        }
        Ok(Ready { sandbox, record, is_new: false, lock })
    }

    fn prepare_new(
        &self,
        ctx: &Context,
        project: &Path,
        name: Option<Name>,
        stay: Stay,
    ) -> Result<Ready, CliError> {
        if self.command.is_empty() {
            return Err(CliError::new(Kind::Usage, "there is no command for the agent")
                .hint("write it behind two dashes: `agent-shim run . -- bash`"));
        }
        let is_given = name.is_some();
        let name = match name {
            Some(name) => name,
            None => Name::for_project(project, |name| ctx.data.sandbox(name).exists()),
        };
        // Everything that can be wrong with the flags is found before anything is made.
        let mut record = Record::new(name, project.to_owned(), SystemTime::now());
        self.apply(&mut record, stay)?;
        let (sandbox, lock) = loop {
            match Sandbox::create(&ctx.data, &record) {
                // Another command was faster; a name that nobody asked for can be another one.
                Err(StateError::Taken(_) | StateError::Locked { .. }) if !is_given => {
                    record.name = Name::for_project(project, |name| ctx.data.sandbox(name).exists());
                }
                made => break made?,
            }
        };
        Ok(Ready { sandbox, record, is_new: true, lock })
    }

    /// Changes a record to what was asked for; what was not mentioned stays.
    fn apply(&self, record: &mut Record, stay: Stay) -> Result<(), CliError> {
        fn set<T>(to: &mut T, value: Option<T>) {
            if let Some(value) = value {
                *to = value;
            }
        }
        set(&mut record.isolation, self.isolation);
        set(&mut record.environment, self.env);
        set(&mut record.workspace, self.workspace);
        set(&mut record.network, (self.network || self.no_network).then_some(self.network));
        set(&mut record.command, (!self.command.is_empty()).then(|| self.command.clone()));
        if !self.mount.is_empty() {
            record.mounts = self.mount.iter().map(mount).collect::<Result<_, _>>()?;
        }
        if !self.secret.is_empty() {
            record.secrets = self.secret.iter().map(secret).collect::<Result<_, _>>()?;
        }
        for file in &self.env_file {
            record.env.extend(values::env_file(file).map_err(|error| CliError::new(Kind::Failed, error))?);
        }
        record.env.extend(self.variable.iter().cloned());
        let limits = &mut record.limits;
        limits.memory_bytes = self.memory.or(limits.memory_bytes);
        limits.milli_cpus = self.cpus.or(limits.milli_cpus);
        limits.pids = self.pids.or(limits.pids);
        let (on_agent_exit, usual) = match stay {
            Stay::Up => (OnAgentExit::Stay, RestartPolicy::OnFailure),
            Stay::UntilAgentEnds => (OnAgentExit::End, RestartPolicy::Never),
        };
        record.restart = match self.restart {
            Some(RestartValue::Always) => RestartPolicy::Always,
            Some(RestartValue::OnFailure) => RestartPolicy::OnFailure,
            Some(RestartValue::Never) => RestartPolicy::Never,
            // What was asked for once stays, unless it was for the other way to run it.
            None if record.on_agent_exit == on_agent_exit => record.restart,
            None => usual,
        };
        record.on_agent_exit = on_agent_exit;
        record.remove = self.rm;
        Ok(())
    }
}

impl Ready {
    /// Shows what would be launched, and takes back what was made for it.
    pub(crate) fn show(self, ctx: &Context, occasion: &Occasion) -> Result<(), CliError> {
        let shown = start_sandbox::show(&ctx.data, &self.sandbox, &self.record, occasion, ctx.global.json);
        if self.is_new {
            self.sandbox.remove().map_err(StateError::io("removing what was made to look at"))?;
        }
        super::output::print_line(&shown.map_err(|failure| self.in_context(failure.into()))?)
    }

    /// Starts it, and waits until the agent runs.
    pub(crate) fn start(self, ctx: &Context, occasion: &Occasion) -> Result<(Sandbox, Started), CliError> {
        if ctx.global.debug {
            match start_sandbox::show(&ctx.data, &self.sandbox, &self.record, occasion, false) {
                Ok(text) => tell(&text),
                // The start itself says the same.
                Err(_) => ctx.say("the launch cannot be shown"),
            }
        }
        let starting = start_sandbox::begin(&ctx.data, &self.sandbox, &self.lock, self.is_new, occasion)
            .map_err(|error| self.in_context(error.into()))?;
        ctx.say(format_args!("starting `{}` in {}", self.sandbox.name(), self.sandbox.folder().display()));
        match starting.wait(&self.sandbox) {
            Ok(started) => Ok((self.sandbox, started)),
            Err(error) => Err(self.in_context(cancelled_or(error))),
        }
    }

    fn in_context(&self, error: CliError) -> CliError {
        error.while_doing(format!("cannot start sandbox `{}`", self.sandbox.name()))
    }
}

fn cancelled_or(error: StartError) -> CliError {
    match error {
        StartError::Failed(Failure { cause: Cause::Cancelled, .. }) => {
            CliError::new(Kind::Cancelled, "it was called off; everything was undone")
        }
        other => other.into(),
    }
}

fn mount(value: &MountValue) -> Result<MountRecord, CliError> {
    let source = existing(&value.source, "mount")?;
    Ok(MountRecord { source, at: value.at.clone(), read_only: value.read_only })
}

fn secret((name, file): &(String, String)) -> Result<SecretRecord, CliError> {
    Ok(SecretRecord { name: name.clone(), file: existing(file, "provide the secret from")? })
}

fn existing(path: &str, what: &str) -> Result<PathBuf, CliError> {
    PathBuf::from(path)
        .canonicalize()
        .map_err(|error| CliError::new(Kind::Failed, format!("cannot {what} {path}")).because(&error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        launch: LaunchArgs,
    }

    fn args(line: &[&str]) -> LaunchArgs {
        Line::try_parse_from([&["x"], line].concat()).unwrap().launch
    }

    fn record() -> Record {
        Record::new("web".parse().unwrap(), "/src".into(), SystemTime::UNIX_EPOCH)
    }

    #[test]
    fn flags_become_the_record() {
        let args = args(&[
            "--no-network",
            "-e",
            "A=B=C",
            "--memory",
            "1G",
            "--cpus",
            "0.5",
            "--pids",
            "9",
            "--mount",
            "/usr:/opt/usr:ro",
            "--secret",
            "k=/etc/passwd",
            "--restart",
            "always",
            "--rm",
            "--",
            "a",
            "-b",
        ]);
        let mut record = record();
        args.apply(&mut record, Stay::Up).unwrap();
        assert!(!record.network && record.remove && record.mounts[0].read_only);
        assert_eq!(record.env["A"], "B=C");
        assert_eq!(record.limits.milli_cpus, Some(500));
        assert_eq!(record.restart, RestartPolicy::Always);
        assert_eq!(record.command, ["a", "-b"]);
        assert_eq!(record.secrets[0].file, PathBuf::from("/etc/passwd"));
    }

    #[test]
    fn what_is_not_mentioned_stays() {
        let mut first = record();
        args(&["--no-network", "--pids", "9", "--", "a"]).apply(&mut first, Stay::Up).unwrap();
        let mut second = first.clone();
        args(&[]).apply(&mut second, Stay::Up).unwrap();
        assert_eq!(first, second);
        args(&["--network"]).apply(&mut second, Stay::Up).unwrap();
        assert!(second.network);
    }

    #[test]
    fn run_ends_with_the_agent_and_start_stays() {
        let mut record = record();
        args(&[]).apply(&mut record, Stay::UntilAgentEnds).unwrap();
        assert_eq!((record.on_agent_exit, record.restart), (OnAgentExit::End, RestartPolicy::Never));
        args(&[]).apply(&mut record, Stay::Up).unwrap();
        assert_eq!((record.on_agent_exit, record.restart), (OnAgentExit::Stay, RestartPolicy::OnFailure));
    }

    #[test]
    fn a_missing_source_is_named() {
        let error = args(&["--mount", "/nowhere:/x"]).apply(&mut record(), Stay::Up).unwrap_err();
        assert!(format!("{error:?}").contains("/nowhere"));
    }
}
