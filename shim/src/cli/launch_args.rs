//! Flags that describe a sandbox, for `run` and `start`: the last layer of its settings.

use std::path::{Path, PathBuf};

use agent_protocol::spec::{RestartPolicy, ShareKind};

use super::{env_args::EnvArgs, error::CliError};
use crate::{
    config::{
        origin::{Origin, Sourced},
        settings::{LimitSettings, MountSetting, Settings, SnapshotSettings, Variable},
        values::{self, MountValue},
    },
    isolation::{Accelerator, NetworkChoice},
    sandbox::{
        name::Name,
        record::{AgentConfig, CloneObjects, Engine, EnvKind, Isolation, Store, SyncMode, Workspace},
    },
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
    /// The agent: claude, codex, gemini, opencode, or one from the configuration
    #[arg(short, long, value_name = "NAME")]
    pub(crate) agent: Option<String>,
    /// Whose models the agent uses, such as anthropic
    #[arg(short, long, value_name = "NAME")]
    pub(crate) provider: Option<String>,
    /// What the agent is to do first
    #[arg(long, value_name = "TEXT")]
    pub(crate) prompt: Option<String>,
    /// Let the agent ask before it does something, as it does outside
    #[arg(long, overrides_with = "no_ask")]
    pub(crate) ask: bool,
    /// Do not let it ask (the default)
    #[arg(long, overrides_with = "ask")]
    pub(crate) no_ask: bool,
    /// What of your own configuration of the agent gets in
    #[arg(long, value_enum, value_name = "HOW")]
    pub(crate) agent_config: Option<AgentConfig>,
    /// What keeps it apart from the host
    #[arg(long, value_enum)]
    pub(crate) isolation: Option<Isolation>,
    /// Where its tools come from; from Nix if that is installed
    #[arg(long, value_enum, value_name = "ENV")]
    pub(crate) env: Option<EnvKind>,
    #[command(flatten)]
    pub(crate) nix: EnvArgs,
    /// What it sees of the Nix store
    #[arg(long, value_enum, value_name = "WHAT")]
    pub(crate) store: Option<Store>,
    /// How the project gets in; a clone, if it is a git repository
    #[arg(long, value_enum, value_name = "HOW")]
    pub(crate) workspace: Option<Workspace>,
    /// Clone this branch instead of what is checked out
    #[arg(long, value_name = "BRANCH")]
    pub(crate) branch: Option<String>,
    /// Clone every branch and tag
    #[arg(long, overrides_with = "no_all_branches")]
    pub(crate) all_branches: bool,
    /// Clone one branch alone (the default)
    #[arg(long, overrides_with = "all_branches")]
    pub(crate) no_all_branches: bool,
    /// Clone no more than so many of the last commits
    #[arg(long, value_name = "NUMBER", value_parser = values::depth)]
    pub(crate) depth: Option<u32>,
    /// Take changes that are not committed along into the clone, as a commit on top
    #[arg(long, overrides_with = "no_include_dirty")]
    pub(crate) include_dirty: bool,
    /// Leave them outside (the default)
    #[arg(long, overrides_with = "include_dirty")]
    pub(crate) no_include_dirty: bool,
    /// How a clone gets its objects
    #[arg(long, value_enum, value_name = "HOW")]
    pub(crate) clone_objects: Option<CloneObjects>,
    /// When its work is brought home, for a clone
    #[arg(long, value_enum, value_name = "WHEN")]
    pub(crate) sync: Option<SyncMode>,
    /// How long the agent has to be quiet for `--sync auto-idle`, such as 30s
    #[arg(long, value_name = "TIME", value_parser = values::seconds)]
    pub(crate) sync_idle: Option<u64>,
    /// What of the network it reaches: host, none, nat or bridge=NAME; the host's if left out, nat for a machine
    #[arg(long, value_name = "WHAT", overrides_with = "no_network")]
    pub(crate) network: Option<NetworkChoice>,
    /// No network but a loopback device of its own, as `--network none`
    #[arg(long, overrides_with = "network")]
    pub(crate) no_network: bool,
    /// Let programs inside make user namespaces, as agents that sandbox their own tools must; a machine may make machines
    #[arg(long, overrides_with = "no_nested")]
    pub(crate) nested: bool,
    /// Do not let them (the default, but for a machine)
    #[arg(long, overrides_with = "nested")]
    pub(crate) no_nested: bool,
    /// How many processors a machine has
    #[arg(long, value_name = "NUMBER", value_parser = values::vcpus)]
    pub(crate) vcpus: Option<u32>,
    /// A machine's kernel: its image, or a folder with boot and lib/modules in it
    #[arg(long, value_name = "PATH")]
    pub(crate) kernel: Option<PathBuf>,
    /// How a machine reaches files of the host
    #[arg(long, value_enum, value_name = "HOW")]
    pub(crate) share: Option<ShareValue>,
    /// What carries out a machine's instructions
    #[arg(long, value_enum, value_name = "WHAT")]
    pub(crate) accel: Option<Accelerator>,
    /// What runs a container
    #[arg(long, value_enum, value_name = "PROGRAM")]
    pub(crate) engine: Option<Engine>,
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
    /// Keep the work in progress this long after the last time, such as 5m; or `off`
    #[arg(long, value_name = "TIME|off", value_parser = values::every)]
    pub(crate) snapshot_every: Option<u32>,
    /// Keep what git ignores as well
    #[arg(long)]
    pub(crate) snapshot_ignored: bool,
    /// Pass over the project's agent-shim.toml
    #[arg(long)]
    pub(crate) no_project_config: bool,
    /// Discard home, tmp and work of an earlier start; refused while a clone has work that is nowhere else
    #[arg(long)]
    pub(crate) fresh: bool,
    /// With --fresh: discard that as well
    #[arg(long, requires = "fresh")]
    pub(crate) discard: bool,
    /// Remove the sandbox when it has ended; the work of a clone is pulled first
    #[arg(long)]
    pub(crate) rm: bool,
    /// The agent and its arguments; with --agent, further arguments for it
    #[arg(last = true, value_name = "COMMAND")]
    pub(crate) command: Vec<String>,
}

/// How a machine reaches files of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum ShareValue {
    /// By virtiofsd
    Virtiofs,
    /// By qemu itself
    #[value(name = "9p")]
    Plan9,
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

impl LaunchArgs {
    /// No flags at all: a sandbox that is there, as it is.
    pub(crate) fn for_name(name: &Name) -> Self {
        Self { place: Some(name.to_string()), ..Self::default() }
    }

    /// The flags as a layer of settings; paths are relative to `base`.
    pub(crate) fn settings(&self, base: &Path) -> Result<Settings, CliError> {
        fn given<T>(name: &'static str, value: Option<T>) -> Option<Sourced<T>> {
            value.map(|value| Sourced::new(value, Origin::Flag(name)))
        }
        let switch = |names: [&'static str; 2], on: bool, off: bool| {
            given(if on { names[0] } else { names[1] }, (on || off).then_some(on))
        };
        let mounts = self.mount.iter().map(|mount| {
            let MountValue { source, at, read_only } = mount.clone();
            let setting = MountSetting { source: base.join(source), at, read_only };
            Sourced::new(setting, Origin::Flag("--mount"))
        });
        let secrets = self
            .secret
            .iter()
            .map(|(name, file)| (name.clone(), Sourced::new(base.join(file), Origin::Flag("--secret"))));
        let files = self
            .env_file
            .iter()
            .map(|file| Sourced::new(Variable::File(base.join(file)), Origin::Flag("--env-file")));
        let pairs = self
            .variable
            .iter()
            .cloned()
            .map(|(name, value)| Sourced::new(Variable::Pair(name, value), Origin::Flag("-e")));
        Ok(Settings {
            isolation: given("--isolation", self.isolation),
            env: given("--env", self.env),
            workspace: given("--workspace", self.workspace),
            branch: given("--branch", self.branch.clone()),
            all_branches: switch(
                ["--all-branches", "--no-all-branches"],
                self.all_branches,
                self.no_all_branches,
            ),
            depth: given("--depth", self.depth),
            include_dirty: switch(
                ["--include-dirty", "--no-include-dirty"],
                self.include_dirty,
                self.no_include_dirty,
            ),
            clone_objects: given("--clone-objects", self.clone_objects),
            sync: given("--sync", self.sync),
            sync_idle: given("--sync-idle", self.sync_idle),
            network: if self.no_network {
                given("--no-network", Some(false.into()))
            } else {
                given("--network", self.network.clone())
            },
            nested: switch(["--nested", "--no-nested"], self.nested, self.no_nested),
            vcpus: given("--vcpus", self.vcpus),
            kernel: given("--kernel", self.kernel.as_ref().map(|kernel| base.join(kernel))),
            share: given("--share", self.share.map(ShareKind::from)),
            accel: given("--accel", self.accel),
            engine: given("--engine", self.engine),
            image: given("--image", self.nix.container_image()?),
            store: given("--store", self.store),
            restart: given("--restart", self.restart.map(RestartPolicy::from)),
            agent: given("--agent", self.agent.clone()),
            provider: given("--provider", self.provider.clone()),
            prompt: given("--prompt", self.prompt.clone()),
            ask: switch(["--ask", "--no-ask"], self.ask, self.no_ask),
            agent_config: given("--agent-config", self.agent_config),
            command: given("--", (!self.command.is_empty()).then(|| self.command.clone())),
            mounts: mounts.collect(),
            secrets: secrets.collect(),
            variables: files.chain(pairs).collect(),
            nix: self.nix.of_nix().settings(base)?,
            limits: LimitSettings {
                memory: given("--memory", self.memory),
                cpus: given("--cpus", self.cpus),
                pids: given("--pids", self.pids),
            },
            snapshots: SnapshotSettings {
                every: given("--snapshot-every", self.snapshot_every),
                ignored: given("--snapshot-ignored", self.snapshot_ignored.then_some(true)),
                ..SnapshotSettings::default()
            },
            ..Settings::default()
        })
    }
}

impl From<ShareValue> for ShareKind {
    fn from(value: ShareValue) -> Self {
        match value {
            ShareValue::Virtiofs => Self::Virtiofs,
            ShareValue::Plan9 => Self::Plan9,
        }
    }
}

impl From<RestartValue> for RestartPolicy {
    fn from(value: RestartValue) -> Self {
        match value {
            RestartValue::Always => Self::Always,
            RestartValue::OnFailure => Self::OnFailure,
            RestartValue::Never => Self::Never,
        }
    }
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

    fn settings(line: &[&str]) -> Settings {
        let args = Line::try_parse_from([&["x"], line].concat()).unwrap().launch;
        args.settings(Path::new("/base")).unwrap()
    }

    #[test]
    fn no_flags_say_nothing() {
        assert!(settings(&[]).is_empty());
        assert!(settings(&["--fresh", "--rm", "--name", "x", "/src"]).is_empty());
    }

    #[test]
    fn a_switch_can_be_set_either_way_and_the_last_one_counts() {
        let network = |line: &[&str]| settings(line).network.map(|network| network.value.to_string());
        assert_eq!(network(&["--no-network"]).as_deref(), Some("none"));
        assert_eq!(network(&["--no-network", "--network", "host"]).as_deref(), Some("host"));
        assert_eq!(network(&["--network", "bridge=br0", "--no-network"]).as_deref(), Some("none"));
        assert!(Line::try_parse_from(["x", "--network", "moon"]).is_err());
        assert_eq!(settings(&["--ask", "--no-ask"]).ask.unwrap().origin, Origin::Flag("--no-ask"));
    }

    #[test]
    fn an_image_is_one_of_nix_or_one_of_a_container() {
        let settings = settings(&["-I", "debian:12", "-I", "nix:sets=go", "--engine", "podman"]);
        assert_eq!(settings.image.unwrap().value, "debian:12");
        assert_eq!(settings.nix.sets[0].value, "go");
        let two = Line::try_parse_from(["x", "-I", "debian:12", "-I", "debian:13"]).unwrap().launch;
        assert!(two.settings(Path::new("/")).is_err());
        let odd = Line::try_parse_from(["x", "--image=--privileged"]).unwrap().launch;
        assert!(odd.settings(Path::new("/")).is_err());
    }

    #[test]
    fn flags_for_a_machine() {
        let line =
            ["--vcpus", "4", "--kernel", "k/vmlinuz", "--share", "9p", "--accel", "tcg", "--no-nested"];
        let settings = settings(&line);
        assert_eq!((settings.vcpus.unwrap().value, settings.share.unwrap().value), (4, ShareKind::Plan9));
        assert_eq!(settings.kernel.unwrap().value, Path::new("/base/k/vmlinuz"));
        assert_eq!(settings.accel.unwrap().value, Accelerator::Tcg);
        assert!(!settings.nested.unwrap().value);
    }

    #[test]
    fn paths_are_relative_to_where_we_are() {
        let settings = settings(&["--mount", "a:/b:ro", "--secret", "k=f", "--env-file", "e", "-e", "A=1"]);
        assert_eq!(settings.mounts[0].value.source, Path::new("/base/a"));
        assert_eq!(settings.secrets["k"].value, Path::new("/base/f"));
        // What is said one by one has the last word over what is said in a file.
        assert_eq!(settings.variables[0].value, Variable::File("/base/e".into()));
    }

    #[test]
    fn an_environment_is_known_by_the_flag_that_named_it() {
        let nix = settings(&["-I", "nix:packages=jq", "--nix-sets", "go", "--unfree"]).nix;
        assert_eq!(nix.packages[0].origin, Origin::Flag("--image"));
        assert_eq!(nix.sets[0].origin, Origin::Flag("--nix-sets"));
        assert!(nix.exact.unwrap().value && nix.unfree.unwrap().value);
    }
}
