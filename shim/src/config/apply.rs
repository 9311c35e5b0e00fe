//! From settings to the record of a sandbox. Here the paths that were named are looked at, and files of variables read.

use std::path::{Path, PathBuf};

use clap::ValueEnum;

use super::{
    error::ConfigError,
    file,
    origin::{Origin, Sourced},
    settings::{MountSetting, Settings, Variable},
    units, values,
};
use crate::{
    env::catalog::DEFAULT_PRESET,
    isolation::MachineWishes,
    sandbox::record::{
        AgentRecord, CloneRecord, EnvKind, MountRecord, Record, SecretRecord, SyncMode, Workspace,
    },
};

impl Settings {
    /// Changes a record to what was asked for; what was not mentioned stays. Where the tools come from is not decided
    /// here: that can take a build.
    pub fn apply(&self, record: &mut Record) -> Result<(), ConfigError> {
        fn set<T: Clone>(to: &mut T, value: Option<&Sourced<T>>) {
            if let Some(sourced) = value {
                to.clone_from(&sourced.value);
            }
        }
        units::check(&self.steps, &self.services)?;
        set(&mut record.isolation, self.isolation.as_ref());
        set(&mut record.workspace, self.workspace.as_ref());
        set(&mut record.sync, self.sync.as_ref());
        set(&mut record.sync_idle_s, self.sync_idle.as_ref());
        set(&mut record.network, self.network.as_ref());
        set(&mut record.nested, self.nested.as_ref());
        self.apply_machine(&mut record.machine);
        self.apply_container(record);
        set(&mut record.store, self.store.as_ref());
        set(&mut record.restart, self.restart.as_ref());
        self.apply_agent(record)?;
        if !self.mounts.is_empty() {
            record.mounts = self.mounts.iter().map(mount).collect::<Result<_, _>>()?;
        }
        if !self.secrets.is_empty() {
            record.secrets = self.secrets.iter().map(secret).collect::<Result<_, _>>()?;
        }
        for variable in &self.variables {
            match &variable.value {
                Variable::Pair(name, value) => drop(record.env.insert(name.clone(), value.clone())),
                Variable::File(path) => {
                    let path = existing(path, "read variables from", &variable.origin)?;
                    let read = match &variable.origin {
                        Origin::ProjectFile(_) => values::env_lines(file::agreed(&path)?, &path),
                        _ => values::env_file(&path),
                    };
                    let wrong = |problem: String| ConfigError::failed(at(&variable.origin, &problem));
                    record.env.extend(read.map_err(wrong)?);
                }
            }
        }
        let limits = &mut record.limits;
        set_some(&mut limits.memory_bytes, self.limits.memory.as_ref());
        set_some(&mut limits.milli_cpus, self.limits.cpus.as_ref());
        set_some(&mut limits.pids, self.limits.pids.as_ref());
        let snapshots = &mut record.snapshots;
        set(&mut snapshots.every_s, self.snapshots.every.as_ref());
        set(&mut snapshots.ignored, self.snapshots.ignored.as_ref());
        set(&mut snapshots.keep, self.snapshots.keep.as_ref());
        set(&mut snapshots.days, self.snapshots.days.as_ref());
        if !self.steps.is_empty() {
            record.steps = self.steps.iter().map(|step| step.value.clone()).collect();
        }
        if !self.services.is_empty() {
            record.services = self.services.iter().map(|service| service.value.clone()).collect();
        }
        Ok(())
    }

    /// A configuration may say it for those sandboxes that have work to bring home; who says it on the command line expects
    /// it to work.
    pub fn check_sync(&self, record: &Record) -> Result<(), ConfigError> {
        let is_asked_for = self
            .sync
            .as_ref()
            .is_some_and(|sync| sync.value != SyncMode::Manual && matches!(sync.origin, Origin::Flag(_)));
        if is_asked_for && record.workspace == Workspace::Bind {
            let message = "there is nothing to bring home: the sandbox works in the project's folder itself";
            return Err(ConfigError::written(message)
                .hint("`--workspace clone` gives it a clone of its own, for a git repository"));
        }
        Ok(())
    }

    fn apply_machine(&self, machine: &mut MachineWishes) {
        set_some(&mut machine.vcpus, self.vcpus.as_ref());
        set_some(&mut machine.kernel, self.kernel.as_ref());
        set_some(&mut machine.share, self.share.as_ref());
        machine.accelerator = self.accel.as_ref().map_or(machine.accelerator, |accel| accel.value);
        // Where nobody says anything a machine may: that opens nothing of the host's kernel but KVM.
        if let Some(nested) = self.nested.as_ref().filter(|nested| nested.origin != Origin::Default) {
            machine.no_nested = !nested.value;
        }
    }

    fn apply_container(&self, record: &mut Record) {
        if self.engine.is_some() || self.image.is_some() {
            let container = record.container.get_or_insert_default();
            set_some(&mut container.engine, self.engine.as_ref());
            set_some(&mut container.image, self.image.as_ref());
        }
    }

    /// A configuration may hold what is for one kind of sandbox; who says it on the command line expects it to work.
    pub fn check_layer(&self, record: &Record) -> Result<(), ConfigError> {
        let layer = record.isolation.capabilities();
        // An engine may have others; it is asked at the start.
        if let (None, Err(error)) = (&record.container, record.network.on(layer)) {
            return Err(ConfigError::written(error.to_string()).hint(error.hint().unwrap_or_default()));
        }
        let of_machines = flag(self.vcpus.as_ref())
            .or(flag(self.kernel.as_ref()))
            .or(flag(self.share.as_ref()))
            .or(flag(self.accel.as_ref()));
        if let (Some(flag), true) = (of_machines, layer.shares_kernel) {
            return Err(ConfigError::written(format!(
                "`{flag}` is for a machine, and `{}` makes none",
                layer.name
            ))
            .hint("`--isolation microvm` makes one"));
        }
        let of_containers = flag(self.image.as_ref()).or(flag(self.engine.as_ref()));
        if let (Some(flag), false) = (of_containers, layer.takes_images) {
            let made = if flag == "--image" {
                "an image is for a container"
            } else {
                "`--engine` is for a container"
            };
            return Err(ConfigError::written(format!("{made}, and `{}` makes none", layer.name))
                .hint("`--isolation oci` makes one; an environment of Nix begins with `nix:`"));
        }
        let container = record.container.as_ref().filter(|_| layer.takes_images);
        let Some((engine, image)) = container.and_then(|one| Some((one.engine?, &one.image))) else {
            return Ok(());
        };
        let value = engine.to_possible_value();
        let name = value.as_ref().map_or("it", |value| value.get_name());
        match image {
            Some(image) if !engine.takes_images() => {
                Err(ConfigError::written(format!("{name} takes no image, and `{image}` is one"))
                    .hint("`--engine podman` or `--engine docker` takes one"))
            }
            // A configuration says which one it is to be, where there is an image.
            None if engine.takes_images() && flag(self.engine.as_ref()).is_some() => {
                Err(ConfigError::written(format!("{name} makes containers of images, and there is none"))
                    .hint("name one with `--image`, such as docker.io/library/debian:12"))
            }
            _ => Ok(()),
        }
    }

    /// Changes how a repository is cloned to what was asked for; what was not mentioned stays.
    pub fn apply_clone(&self, clone: &mut CloneRecord) {
        let flag = |value: &Option<Sourced<bool>>, before| value.as_ref().map_or(before, |value| value.value);
        set_some(&mut clone.branch, self.branch.as_ref());
        set_some(&mut clone.depth, self.depth.as_ref());
        set_some(&mut clone.objects, self.clone_objects.as_ref());
        clone.all_branches = flag(&self.all_branches, clone.all_branches);
        clone.include_dirty = flag(&self.include_dirty, clone.include_dirty);
    }

    /// The flag of this command line that only a clone has a use for.
    pub fn flag_for_clones(&self) -> Option<&'static str> {
        let origins = [
            self.branch.as_ref().map(|value| &value.origin),
            self.all_branches.as_ref().map(|value| &value.origin),
            self.depth.as_ref().map(|value| &value.origin),
            self.include_dirty.as_ref().map(|value| &value.origin),
            self.clone_objects.as_ref().map(|value| &value.origin),
        ];
        origins.into_iter().flatten().find_map(|origin| match origin {
            Origin::Flag(name) => Some(*name),
            _ => None,
        })
    }

    fn apply_agent(&self, record: &mut Record) -> Result<(), ConfigError> {
        let command = self.command.as_ref().map(|command| command.value.clone());
        match (&self.agent, command) {
            (Some(agent), arguments) => {
                let before = record.agent.take().filter(|before| before.name == agent.value);
                record.agent = Some(AgentRecord {
                    arguments: arguments.unwrap_or_default(),
                    ..before.unwrap_or_else(|| AgentRecord {
                        name: agent.value.clone(),
                        ..AgentRecord::default()
                    })
                });
                record.command.clear();
            }
            (None, Some(command)) => {
                record.agent = None;
                record.command = command;
            }
            (None, None) => {}
        }
        let Some(agent) = &mut record.agent else {
            return self.needs_no_agent();
        };
        let owned = |value: &Sourced<String>| Some(value.value.clone());
        agent.provider = self.provider.as_ref().map_or(agent.provider.take(), owned);
        agent.prompt = self.prompt.as_ref().map_or(agent.prompt.take(), owned);
        agent.ask = self.ask.as_ref().map_or(agent.ask, |ask| ask.value);
        agent.config = self.agent_config.as_ref().map_or(agent.config, |config| config.value);
        if let Some(definition) = self.agents.get(&agent.name) {
            agent.definition = Some(definition.value.clone());
        }
        for (name, provider) in &self.providers {
            agent.providers.insert(name.clone(), provider.value.clone());
        }
        Ok(())
    }

    /// A configuration may hold what only some sandboxes have a use for; who says it on the command line expects it to work.
    fn needs_no_agent(&self) -> Result<(), ConfigError> {
        let origins = [
            self.provider.as_ref().map(|provider| &provider.origin),
            self.prompt.as_ref().map(|prompt| &prompt.origin),
            self.ask.as_ref().map(|ask| &ask.origin),
            self.agent_config.as_ref().map(|config| &config.origin),
        ];
        match origins.into_iter().flatten().find_map(|origin| match origin {
            Origin::Flag(name) => Some(name),
            _ => None,
        }) {
            Some(flag) => {
                Err(ConfigError::written(format!("`{flag}` is for an agent with a name, and there is none"))
                    .hint("name it with `--agent`"))
            }
            None => Ok(()),
        }
    }

    /// The agent, as far as its packages go.
    pub fn agent_alone(&self) -> Option<AgentRecord> {
        let name = self.agent.as_ref()?.value.clone();
        let definition = self.agents.get(&name).map(|definition| definition.value.clone());
        Some(AgentRecord { name, definition, ..AgentRecord::default() })
    }

    /// The agent that comes with the packages, where nobody named one or gave a command: each preset is called as the agent
    /// in it.
    #[must_use]
    pub fn with_agent_of_preset(mut self, env: EnvKind) -> Self {
        if env == EnvKind::Nix && self.agent.is_none() && self.command.is_none() {
            let exact = self.nix.exact.as_ref().is_some_and(|exact| exact.value);
            let default = || (!exact).then(|| Sourced::new(DEFAULT_PRESET.to_owned(), Origin::Default));
            self.agent = self.nix.preset.clone().or_else(default);
        }
        self
    }
}

/// The flag of this command line that said it.
fn flag<T>(value: Option<&Sourced<T>>) -> Option<&'static str> {
    match value?.origin {
        Origin::Flag(name) => Some(name),
        _ => None,
    }
}

fn set_some<T: Clone>(to: &mut Option<T>, value: Option<&Sourced<T>>) {
    if let Some(sourced) = value {
        *to = Some(sourced.value.clone());
    }
}

fn mount(mount: &Sourced<MountSetting>) -> Result<MountRecord, ConfigError> {
    let MountSetting { source, at, read_only } = &mount.value;
    let source = existing(source, "mount", &mount.origin)?;
    Ok(MountRecord { source, at: at.clone(), read_only: *read_only })
}

fn secret((name, file): (&String, &Sourced<PathBuf>)) -> Result<SecretRecord, ConfigError> {
    let source = existing(&file.value, "provide the secret from", &file.origin)?;
    Ok(SecretRecord { name: name.clone(), file: source })
}

fn existing(path: &Path, what: &str, origin: &Origin) -> Result<PathBuf, ConfigError> {
    let there = path.canonicalize().map_err(|error| {
        ConfigError::failed(at(origin, &format!("cannot {what} {}", path.display()))).because(error)
    })?;
    match origin {
        // A person agreed to this very path; the agent can turn a folder of the project into a link.
        Origin::ProjectFile(_) if there != path => {
            let message = format!("cannot {what} {}: it leads to {} by now", path.display(), there.display());
            Err(ConfigError::failed(at(origin, &message)).hint("run it again, and look at what is asked"))
        }
        _ => Ok(there),
    }
}

/// Puts the place in front; of what was typed just now nobody needs to be told.
fn at(origin: &Origin, message: &str) -> String {
    match origin {
        Origin::Flag(_) => message.to_owned(),
        other => format!("{other}: {message}"),
    }
}
