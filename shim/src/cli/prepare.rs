//! From what was said to a sandbox that is made or found, described, and ready to be started.

use std::{
    io::{self, IsTerminal},
    path::Path,
    time::{Duration, SystemTime},
};

use agent_protocol::spec::{OnAgentExit, RestartPolicy};

use super::{
    agree,
    context::Context,
    error::{CliError, Kind},
    image, keep,
    launch_args::LaunchArgs,
    output::{clean, harmless_json, print_line, tell},
    resolve::{self, Place},
    tools, workspace,
};
use crate::{
    agents::start::{Start, Surroundings},
    config::{load::Sources, settings::Settings},
    repo::clone::origin::Origin,
    sandbox::{
        Sandbox, StateError,
        lock::ChangeLock,
        name::Name,
        record::{EnvKind, Record, Workspace},
        run::Run,
        show::{Detail, show},
        start as start_sandbox,
        start::{Cause, Failure, Occasion, StartError, Started},
        tools::{Need, find as find_tools},
    },
};

/// For whoever changes the sandbox, or brings home what it holds, just when it is to start.
const START_PATIENCE: Duration = Duration::from_secs(5);

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
    /// Of an agent that is known by name.
    agent: Option<AgentStart>,
    /// What is still to be cloned into it.
    origin: Option<Origin>,
    lock: ChangeLock,
}

/// What follows for one start of an agent that is known by name.
struct AgentStart {
    start: Start,
    /// Whether the home is empty, and gets the agent's files.
    fills_home: bool,
}

impl LaunchArgs {
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
        let lock = sandbox.lock(sandbox.lock_patience().max(START_PATIENCE))?;
        let before = sandbox.record()?;
        if sandbox.is_alive() {
            return Err(CliError::new(
                Kind::WrongState,
                format!("sandbox `{}` is running already", sandbox.name()),
            )
            .hint(format!("`agent-shim attach {}` shows it", sandbox.name())));
        }
        if self.fresh && !self.discard {
            keep::ensure_at_home(
                ctx,
                &sandbox,
                &lock,
                &format!("agent-shim start --fresh --discard {}", sandbox.name()),
            )
            .map_err(|error| error.while_doing(format!("cannot discard the work of `{}`", sandbox.name())))?;
        }
        let mut record = before.clone();
        // A sandbox is what it was made with: only flags change it, so that a file that was edited meanwhile does not.
        let settings = self.flags_alone()?;
        self.describe(&settings, &mut record, stay)?;
        let origin = workspace::decide_again(&settings, &before, &mut record, self.fresh)?;
        settings.check_layer(&record)?;
        settings.check_sync(&record)?;
        if self.fresh && record.workspace == Workspace::Clone {
            // They go with the repository.
            record.worktrees.clear();
        }
        let persons = || {
            let layers = Sources::from_environment(Context::current_folder()?).load(None)?;
            Ok(layers.variables.over(layers.user))
        };
        record.environment =
            tools::of_existing(&settings, &before.environment, record.agent.as_ref(), persons)?;
        let home = sandbox.folder().join("home");
        let used_home = (!self.fresh).then_some(home.as_path());
        // A build can take long, and a key that is missing keeps missing.
        image::ensure(ctx, &mut record)?;
        let start = AgentStart::find_out(&settings, &record, used_home)?;
        let _held = tools::ensure(ctx, &record.environment, &record.project)?;
        let agent = AgentStart::enter(start, ctx, &mut record, used_home)?;
        if ctx.global.dry_run {
            return Ok(Ready { sandbox, record, is_new: false, agent, origin, lock });
        }
        // Before anything goes: a workspace that was discarded is not taken for one that was made.
        if record != before {
            record.write(sandbox.folder())?;
        }
        if self.fresh {
            sandbox.discard_work().map_err(StateError::io("discarding what the agent wrote"))?;
        }
        Ok(Ready { sandbox, record, is_new: false, agent, origin, lock })
    }

    fn prepare_new(
        &self,
        ctx: &Context,
        project: &Path,
        name: Option<Name>,
        stay: Stay,
    ) -> Result<Ready, CliError> {
        if ctx.data.agents().canonicalize().is_ok_and(|agents| project.starts_with(agents)) {
            // Its repository is an agent's, and so is what it is configured with.
            let message = format!("{} is what the agent of a sandbox writes", project.display());
            return Err(CliError::new(Kind::WrongState, message)
                .hint("`agent-shim pull` brings home what is in it, for another sandbox to begin with"));
        }
        let settings = self.all_settings(ctx, project)?;
        let has_image = settings.image.is_some();
        let env = if has_image && settings.env.is_none() && !settings.nix.is_asked_for() {
            // The image's.
            EnvKind::Host
        } else {
            tools::kind(&settings)
        };
        let settings = settings.with_agent_of_preset(env);
        if settings.agent.is_none() && settings.command.is_none() && !has_image {
            return Err(CliError::new(Kind::Usage, "there is no command for the agent").hint(
                "write it behind two dashes: `agent-shim run . -- bash`, or name an agent with `--agent`",
            ));
        }
        let is_given = name.is_some();
        let name = match name {
            Some(name) => name,
            None => Name::for_project(project, |name| ctx.data.sandbox(name).exists()),
        };
        // Everything that can be wrong with what was said is found before anything is made.
        let mut record = Record::new(name, project.to_owned(), SystemTime::now());
        self.describe(&settings, &mut record, stay)?;
        let asked = settings.workspace.as_ref().map(|workspace| workspace.value);
        let origin = workspace::decide(asked, &settings, &mut record)?;
        settings.check_layer(&record)?;
        settings.check_sync(&record)?;
        if record.workspace == Workspace::Bind
            && let Some(file) = Sources::from_environment(Context::current_folder()?).user_file_below(project)
        {
            let file = clean(&file.display().to_string());
            tell(&format!("note: the agent can change your own configuration: the project holds {file}"));
        }
        record.environment = tools::of_new(&settings, env, record.agent.as_ref())?;
        image::ensure(ctx, &mut record)?;
        let start = AgentStart::find_out(&settings, &record, None)?;
        let _held = tools::ensure(ctx, &record.environment, project)?;
        let agent = AgentStart::enter(start, ctx, &mut record, None)?;
        let (sandbox, lock) = loop {
            match Sandbox::create(&ctx.data, &record) {
                // Another command was faster; a name that nobody asked for can be another one.
                Err(StateError::Taken(_) | StateError::Locked { .. }) if !is_given => {
                    record.name = Name::for_project(project, |name| ctx.data.sandbox(name).exists());
                }
                made => break made?,
            }
        };
        Ok(Ready { sandbox, record, is_new: true, agent, origin, lock })
    }

    /// Every layer for a new sandbox of this project.
    pub(crate) fn all_settings(&self, ctx: &Context, project: &Path) -> Result<Settings, CliError> {
        let current = Context::current_folder()?;
        let flags = self.settings(&current)?;
        let sources = Sources::from_environment(current);
        let mut layers = sources.load((!self.no_project_config).then_some(project))?;
        agree::ensure(ctx, &mut layers)?;
        Ok(layers.with(flags))
    }

    /// The flags for a sandbox that is there. An agent or a provider that they name may be one of the person's own.
    fn flags_alone(&self) -> Result<Settings, CliError> {
        let current = Context::current_folder()?;
        let flags = self.settings(&current)?;
        if flags.agent.is_none() && flags.provider.is_none() {
            return Ok(flags);
        }
        let layers = Sources::from_environment(current).load(None)?;
        let all = layers.variables.over(layers.user);
        Ok(flags.over(Settings { agents: all.agents, providers: all.providers, ..Settings::default() }))
    }

    /// Changes a record to what was asked for; what was not mentioned stays.
    fn describe(&self, settings: &Settings, record: &mut Record, stay: Stay) -> Result<(), CliError> {
        let (on_agent_exit, usual) = match stay {
            Stay::Up => (OnAgentExit::Stay, RestartPolicy::OnFailure),
            Stay::UntilAgentEnds => (OnAgentExit::End, RestartPolicy::Never),
        };
        // What was asked for once stays, unless it was for the other way to run it.
        if record.on_agent_exit != on_agent_exit {
            record.restart = usual;
        }
        record.on_agent_exit = on_agent_exit;
        record.remove = self.rm;
        Ok(settings.apply(record)?)
    }
}

impl AgentStart {
    /// Finds out how the agent is started. `used_home` is a home that is kept.
    fn find_out(
        settings: &Settings,
        record: &Record,
        used_home: Option<&Path>,
    ) -> Result<Option<Start>, CliError> {
        let Some(agent) = &record.agent else { return Ok(None) };
        let (agents, providers): (Vec<_>, Vec<_>) =
            (settings.agents.keys().collect(), settings.providers.keys().collect());
        let start = Start::find_out(agent, record, used_home, &Self::here());
        Ok(Some(start.map_err(|error| error.among(&agents, &providers))?))
    }

    fn here() -> Surroundings {
        Surroundings::here(io::stdin().is_terminal())
    }

    /// Looks for its program among the tools, and writes how it is started into the record.
    fn enter(
        start: Option<Start>,
        ctx: &Context,
        record: &mut Record,
        used_home: Option<&Path>,
    ) -> Result<Option<Self>, CliError> {
        let Some(start) = start else { return Ok(None) };
        // Where that cannot be told, the launch itself says why; and what was not built yet cannot be looked into.
        let tools = find_tools(&ctx.data, record, Need::Built);
        // Nor is an image looked into.
        let tools = tools.ok().filter(|_| record.engine().is_none());
        let absent = tools.and_then(|tools| start.look_for_program(record, &tools, used_home, &Self::here()));
        if let Some(absent) = absent {
            // A step may be what installs it.
            if record.steps.is_empty() {
                return Err(absent.into());
            }
            tell(&clean(&format!("note: {absent}")));
        }
        for note in start.notes() {
            tell(&clean(&format!("note: {note}")));
        }
        start.enter(record);
        Ok(Some(Self { start, fills_home: used_home.is_none() }))
    }
}

impl Ready {
    /// The occasion, with the agent's keys.
    fn with_keys(&self, occasion: &Occasion) -> Occasion {
        let keys = self.agent.as_ref().map(|agent| agent.start.private().clone());
        Occasion { private: keys.unwrap_or_else(|| occasion.private.clone()), ..*occasion }
    }

    /// Clones the project where the sandbox has none yet.
    fn fill_work(&mut self, ctx: &Context) -> Result<(), CliError> {
        let Some(origin) = self.origin.take() else { return Ok(()) };
        workspace::make(ctx, &self.sandbox, &mut self.record, &origin).or_else(|error| {
            if self.is_new {
                self.sandbox.remove().map_err(StateError::io("removing what was made"))?;
            }
            Err(self.in_context(error))
        })
    }

    /// Makes the agent's files in an empty home.
    fn fill_home(&self) -> Result<(), CliError> {
        let Some(agent) = self.agent.as_ref().filter(|agent| agent.fills_home) else { return Ok(()) };
        match agent.start.fill_home(&self.sandbox.folder().join("home")) {
            Ok(notes) => notes.iter().for_each(|note| tell(&format!("note: {}", clean(note)))),
            Err(error) => {
                if self.is_new {
                    self.sandbox.remove().map_err(StateError::io("removing what was made"))?;
                }
                return Err(self.in_context(error.into()));
            }
        }
        Ok(())
    }

    /// Shows what would be launched, and takes back what was made for it.
    pub(crate) fn show(self, ctx: &Context, occasion: &Occasion) -> Result<(), CliError> {
        let occasion = &self.with_keys(occasion);
        let detail = match (ctx.global.json, ctx.global.verbose) {
            (true, _) => Detail::Json,
            (false, 0) => Detail::Command,
            (false, _) => Detail::Everything,
        };
        let shown = show(&ctx.data, &self.sandbox, &self.record, occasion, detail);
        if self.is_new {
            self.sandbox.remove().map_err(StateError::io("removing what was made to look at"))?;
        }
        let text = shown.map_err(|failure| self.in_context(failure.into()))?;
        if let Some(origin) = &self.origin {
            workspace::show(origin);
        }
        print_line(&if ctx.global.json { harmless_json(&text) } else { text })
    }

    /// Starts it, and waits until the agent runs.
    pub(crate) fn start(
        mut self,
        ctx: &Context,
        occasion: &Occasion,
    ) -> Result<(Sandbox, Started), CliError> {
        let occasion = &self.with_keys(occasion);
        self.fill_work(ctx)?;
        self.fill_home()?;
        if ctx.global.debug {
            match show(&ctx.data, &self.sandbox, &self.record, occasion, Detail::Command) {
                Ok(text) => tell(&text),
                // The start itself says the same.
                Err(_) => ctx.say("the launch cannot be shown"),
            }
        }
        let starting = start_sandbox::begin(&ctx.data, &self.sandbox, &self.lock, self.is_new, occasion)
            .map_err(|error| self.in_context(error.into()))?;
        ctx.say(format_args!("starting `{}` in {}", self.sandbox.name(), self.sandbox.folder().display()));
        match starting.wait(&self.sandbox) {
            Ok(started) => {
                warn_of_the_first(&self.sandbox);
                Ok((self.sandbox, started))
            }
            Err(error) => Err(self.in_context(cancelled_or(error))),
        }
    }

    fn in_context(&self, error: CliError) -> CliError {
        error.while_doing(format!("cannot start sandbox `{}`", self.sandbox.name()))
    }
}

/// What is to be known of a sandbox is told when it is new. After that `status` tells it.
fn warn_of_the_first(sandbox: &Sandbox) {
    if let Some(run) = Run::read(sandbox.folder()).filter(|run| run.number == 1) {
        for warning in &run.warnings {
            tell(&clean(&format!("note: {warning}")));
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    use crate::isolation::NetworkChoice;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        launch: LaunchArgs,
    }

    fn apply(line: &[&str], record: &mut Record, stay: Stay) -> Result<(), CliError> {
        let args = Line::try_parse_from([&["x"], line].concat()).unwrap().launch;
        let settings = args.settings(Path::new("/"))?;
        args.describe(&settings, record, stay)
    }

    #[test]
    fn what_a_layer_does_not_have_is_told() {
        for (line, said) in [
            ("--vcpus 2", "`--vcpus` is for a machine, and `bwrap` makes none"),
            ("--isolation oci --kernel /k", "`--kernel` is for a machine"),
            ("--image debian:12", "an image is for a container, and `bwrap` makes none"),
            ("--engine podman --isolation microvm", "`--engine` is for a container"),
            ("--isolation oci --engine crun --image debian:12", "crun takes no image"),
            ("--isolation oci --engine podman", "podman makes containers of images, and there is none"),
            ("--network nat", "`--isolation bwrap` has no network `nat`"),
            ("--isolation microvm --network host", "`--isolation microvm` has no network `host`"),
        ] {
            let args = Line::try_parse_from(["x"].into_iter().chain(line.split(' '))).unwrap().launch;
            let settings = args.settings(Path::new("/")).unwrap();
            let mut record = record();
            args.describe(&settings, &mut record, Stay::Up).unwrap();
            let error = settings.check_layer(&record).unwrap_err();
            assert!(error.message.starts_with(said) && error.hint.is_some(), "{line}: {}", error.message);
        }
        let line =
            "--isolation microvm --vcpus 2 --network none --no-nested --accel tcg --share 9p --kernel /k";
        let args = Line::try_parse_from(["x"].into_iter().chain(line.split(' '))).unwrap().launch;
        let settings = args.settings(Path::new("/")).unwrap();
        let mut record = record();
        args.describe(&settings, &mut record, Stay::Up).unwrap();
        settings.check_layer(&record).unwrap();
        let machine = &record.machine;
        assert_eq!((machine.vcpus, machine.no_nested), (Some(2), true));
        assert_eq!(machine.kernel.as_deref(), Some(Path::new("/k")));
        settings.check_layer(&record).unwrap();
    }

    fn record() -> Record {
        Record::new("web".parse().unwrap(), "/src".into(), SystemTime::UNIX_EPOCH)
    }

    #[test]
    fn flags_become_the_record() {
        let line = "--no-network -e A=B=C --memory 1G --cpus 0.5 --pids 9 --mount usr:/opt/usr:ro --secret k=etc/passwd \
                    --restart always --rm --nested --store closure -- a -b";
        let mut record = record();
        apply(&line.split_whitespace().collect::<Vec<_>>(), &mut record, Stay::Up).unwrap();
        assert!(record.network.is_none() && record.remove && record.mounts[0].read_only && record.nested);
        assert_eq!(record.env["A"], "B=C");
        assert_eq!(record.limits.milli_cpus, Some(500));
        assert_eq!(record.restart, RestartPolicy::Always);
        assert_eq!(record.command, ["a", "-b"]);
        assert_eq!(record.secrets[0].file, Path::new("/etc/passwd"));
        assert_eq!(record.store, crate::sandbox::record::Store::Closure);
    }

    #[test]
    fn what_is_not_mentioned_stays() {
        let mut first = record();
        apply(&["--no-network", "--pids", "9", "--", "a"], &mut first, Stay::Up).unwrap();
        let mut second = first.clone();
        apply(&[], &mut second, Stay::Up).unwrap();
        assert_eq!(first, second);
        apply(&["--network", "auto"], &mut second, Stay::Up).unwrap();
        assert_eq!(second.network, NetworkChoice::Auto);
    }

    #[test]
    fn run_ends_with_the_agent_and_start_stays() {
        let mut record = record();
        apply(&[], &mut record, Stay::UntilAgentEnds).unwrap();
        assert_eq!((record.on_agent_exit, record.restart), (OnAgentExit::End, RestartPolicy::Never));
        apply(&[], &mut record, Stay::Up).unwrap();
        assert_eq!((record.on_agent_exit, record.restart), (OnAgentExit::Stay, RestartPolicy::OnFailure));
    }

    #[test]
    fn a_missing_source_is_named() {
        let error = apply(&["--mount", "/nowhere:/x"], &mut record(), Stay::Up).unwrap_err();
        assert!(format!("{error:?}").contains("/nowhere"));
    }

    #[test]
    fn an_agent_and_a_command_replace_each_other() {
        let mut record = record();
        apply(&["-a", "codex", "--prompt", "hi", "--", "--fast"], &mut record, Stay::Up).unwrap();
        let agent = record.agent.clone().unwrap();
        assert_eq!((agent.name.as_str(), agent.prompt.as_deref()), ("codex", Some("hi")));
        assert_eq!((agent.arguments.as_slice(), record.command.len()), (&["--fast".to_owned()][..], 0));
        apply(&["--ask"], &mut record, Stay::Up).unwrap();
        assert!(record.agent.as_ref().is_some_and(|agent| agent.ask && agent.prompt.is_some()));
        apply(&["--", "bash"], &mut record, Stay::Up).unwrap();
        assert_eq!((&record.agent, record.command.as_slice()), (&None, &["bash".to_owned()][..]));
        let error = apply(&["--prompt", "hi"], &mut record, Stay::Up).unwrap_err();
        assert!(format!("{error:?}").contains("`--prompt`"));
    }
}
