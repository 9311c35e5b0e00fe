//! One start of a sandbox's agent: what there is here and now, looked at once, and what follows from it.

use std::{
    collections::BTreeMap,
    env,
    ffi::OsString,
    path::{Path, PathBuf},
};

use super::{
    AgentError, Catalog, Definition, FolderPlan, Offered, Person, Resolved, Wanted, folders, keys,
    presence::{self, Absent, Presence},
    resolve,
};
use crate::{
    env::Environment,
    isolation::plan::{Access, HOME, Mount, WORKSPACE},
    sandbox::{
        private::PrivateVariables,
        record::{AgentRecord, MountRecord, Record},
    },
};

/// What follows for one start. It is no part of the record but for what [`Start::enter`] puts there.
#[derive(Debug)]
pub struct Start {
    agent: String,
    definition: Definition,
    resolved: Resolved,
    private: PrivateVariables,
    folders: FolderPlan,
}

/// What of the person's surroundings matters to an agent.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// Their variables.
    pub variables: BTreeMap<String, OsString>,
    /// Whether somebody sits at a terminal.
    pub attended: bool,
}

impl Surroundings {
    /// Those of this process.
    pub fn here(attended: bool) -> Self {
        let variables = env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value)));
        Self { variables: variables.collect(), attended }
    }

    fn path(&self, name: &str) -> Option<PathBuf> {
        self.variables.get(name).map(PathBuf::from).filter(|path| path.is_absolute())
    }
}

impl Start {
    /// Finds everything out, and changes nothing. `used_home` is the home of a sandbox that has been started before and
    /// keeps it.
    pub fn find_out(
        agent: &AgentRecord,
        record: &Record,
        used_home: Option<&Path>,
        here: &Surroundings,
    ) -> Result<Self, AgentError> {
        let catalog = catalog(agent);
        let definition = catalog.agent(&agent.name)?;
        let chosen = agent.provider.as_deref().map(|name| catalog.provider(name)).transpose()?;
        let home = here.path("HOME").unwrap_or_default();
        let moved = definition.moved.clone();
        let person = Person::new(home, &moved, |name| here.path(name));
        let config = definition.config.iter().chain(chosen.and_then(|provider| provider.config.as_ref()));
        let no_home = Path::new("/nonexistent");
        let is_new = used_home.is_none();
        let logins =
            folders::logins(config.flatten(), agent.config, is_new, &person, used_home.unwrap_or(no_home));
        let given = record.env.iter().filter(|(_, value)| !value.is_empty());
        let offered = Offered {
            environment: keys::names(here.variables.iter().map(|(name, value)| (name.into(), value.clone()))),
            given: given.map(|(name, _)| name.clone()).collect(),
            secrets: record.secrets.iter().map(|secret| (secret.name.clone(), secret.file.clone())).collect(),
            logins: logins.inside,
            left: logins.left,
        };
        let wanted = Wanted {
            agent: &agent.name,
            provider: agent.provider.as_deref(),
            prompt: agent.prompt.as_deref(),
            ask: agent.ask,
            arguments: &agent.arguments,
            attended: here.attended,
        };
        let mut resolved = resolve(&catalog, &wanted, &offered)?;
        let private = keys::collect(&resolved.keys, &record.env, |name| here.variables.get(name).cloned())?;
        let folders = folders::plan_for(&resolved.config, &resolved.settings, agent.config, is_new, &person);
        resolved.notes.extend(folders.notes.iter().cloned());
        Ok(Self { agent: agent.name.clone(), definition: definition.clone(), resolved, private, folders })
    }

    /// What a person should know, one line each.
    pub fn notes(&self) -> &[String] {
        &self.resolved.notes
    }

    /// The keys, by the names that the agent knows.
    pub fn private(&self) -> &PrivateVariables {
        &self.private
    }

    /// Whether the agent's program is there inside: `tools` is where programs come from.
    pub fn look_for_program(
        &self,
        record: &Record,
        tools: &Environment,
        used_home: Option<&Path>,
        here: &Surroundings,
    ) -> Option<Absent> {
        let mut mounts = tools.mounts.clone();
        let given = |source: &Path, at: &str, read_only: bool| {
            Mount::given(source, at, if read_only { Access::ReadOnly } else { Access::ReadWrite })
        };
        mounts.extend(used_home.map(|home| given(home, HOME, false)));
        mounts.push(given(&record.project, WORKSPACE, false));
        mounts.extend(record.mounts.iter().map(|mount| given(&mount.source, &mount.at, mount.read_only)));
        let path = record
            .env
            .get("PATH")
            .or_else(|| tools.variables.iter().find(|(name, _)| name == "PATH").map(|(_, path)| path));
        let program = self.resolved.argv.first()?;
        let presence = presence::look(&mounts, path.map(String::as_str).unwrap_or_default(), program);
        let elsewhere = here.variables.get("PATH").and_then(|path| presence::on_host(program, path));
        let nix = record.environment != crate::sandbox::record::Environment::Host;
        match presence {
            Presence::Found(_) => None,
            absent => {
                presence::absent(&self.agent, &self.definition, program, &absent, nix, elsewhere.as_deref())
            }
        }
    }

    /// Writes what is no secret into the record of this start: the command, the agent's own variables, its mounts.
    pub fn enter(&self, record: &mut Record) {
        record.command.clone_from(&self.resolved.argv);
        if let Some(agent) = &mut record.agent {
            // It was for this start. A later one goes on with work that may be done.
            agent.prompt = None;
            agent.prompt_arguments = self.resolved.prompt_arguments;
            agent.variables.clone_from(&self.resolved.variables);
            agent.keys = self.private.names().map(str::to_owned).collect();
            agent.mounts = self
                .folders
                .mounts
                .iter()
                .map(|mount| MountRecord {
                    source: mount.source.clone(),
                    at: mount.at.clone(),
                    read_only: true,
                })
                .collect();
        }
    }

    /// Makes the agent's files in the home of a sandbox that is new.
    pub fn fill_home(&self, home: &Path) -> Result<Vec<String>, AgentError> {
        if self.folders.files.is_empty() {
            Ok(Vec::new())
        } else {
            folders::copy::carry_out(&self.folders, home)
        }
    }
}

/// What an agent brings along where its environment is made of packages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tools {
    /// Its preset, for where no other was chosen.
    pub preset: Option<String>,
    /// Its package, for the same case, where it has no preset.
    pub package: Option<String>,
    /// Programs that it calls by name, whatever was chosen.
    pub called: Vec<String>,
}

/// What this agent brings along.
pub fn tools(agent: &AgentRecord) -> Tools {
    let definition = catalog(agent).agents.remove(&agent.name).unwrap_or_default();
    let package = definition.package.filter(|_| definition.preset.is_none());
    Tools { preset: definition.preset, package, called: definition.tools.unwrap_or_default() }
}

/// What there is for this agent, its owner's changes included.
fn catalog(agent: &AgentRecord) -> Catalog {
    let own = agent.definition.iter().map(|definition| (agent.name.clone(), definition.clone())).collect();
    Catalog::builtin().with(&own, &agent.providers)
}

#[cfg(test)]
mod tests {
    use std::{fs, time::SystemTime};

    use super::*;
    use crate::agents::AgentConfig;

    fn record(agent: &AgentRecord) -> Record {
        let mut record = Record::new("web".parse().unwrap(), "/src/web".into(), SystemTime::UNIX_EPOCH);
        record.agent = Some(agent.clone());
        record
    }

    fn here(variables: &[(&str, &str)]) -> Surroundings {
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), OsString::from(value)));
        Surroundings { variables: variables.collect(), attended: false }
    }

    fn named(name: &str) -> AgentRecord {
        AgentRecord { name: name.to_owned(), ..AgentRecord::default() }
    }

    #[test]
    fn a_record_holds_what_is_no_secret() {
        let agent = AgentRecord { prompt: Some("do it".to_owned()), ..named("claude") };
        let mut record = record(&agent);
        let here = here(&[("ANTHROPIC_API_KEY", "s3cret"), ("HOME", "/nowhere")]);
        let start = Start::find_out(&agent, &record, None, &here).unwrap();
        start.enter(&mut record);
        assert_eq!(record.command[..2], ["claude", "--dangerously-skip-permissions"]);
        let agent = record.agent.as_ref().unwrap();
        assert_eq!(agent.variables["IS_SANDBOX"], "1");
        assert_eq!(agent.keys, ["CLAUDE_API_KEY"]);
        assert_eq!((record.command.last().map(String::as_str), &agent.prompt), (Some("do it"), &None));
        // It was for this one: another of its kind beside it begins without.
        let again = record.command_without_prompt();
        assert_eq!([again.as_slice(), &["--".to_owned(), "do it".to_owned()]].concat(), record.command);
        assert_eq!(start.private().reveal()["CLAUDE_API_KEY"], "s3cret");
        let json = serde_json::to_string(&record).unwrap();
        assert!(!json.contains("s3cret") && !format!("{start:?}").contains("s3cret"), "{json}");
    }

    #[test]
    fn the_persons_configuration_comes_as_it_was_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().canonicalize().unwrap();
        fs::create_dir(home.join(".codex")).unwrap();
        fs::write(home.join(".codex/auth.json"), "{}").unwrap();
        fs::write(home.join(".codex/AGENTS.md"), "be kind").unwrap();
        let here = here(&[("HOME", home.to_str().unwrap())]);
        let inside = home.join("inside");
        fs::create_dir(&inside).unwrap();

        let own = named("codex");
        let error = Start::find_out(&own, &record(&own), None, &here).unwrap_err();
        assert!(error.hint().unwrap().contains("--agent-config copy"), "{error}");

        let copy = AgentRecord { config: AgentConfig::Copy, ..named("codex") };
        let start = Start::find_out(&copy, &record(&copy), None, &here).unwrap();
        assert!(start.fill_home(&inside).unwrap().is_empty());
        assert_eq!(fs::read_to_string(inside.join(".codex/AGENTS.md")).unwrap(), "be kind");
        // From now on the login is the sandbox's own.
        Start::find_out(&own, &record(&own), Some(&inside), &here).unwrap();

        let shown = AgentRecord { config: AgentConfig::ReadOnly, ..named("codex") };
        let mut record = record(&shown);
        Start::find_out(&shown, &record, None, &here).unwrap().enter(&mut record);
        let mounts = &record.agent.as_ref().unwrap().mounts;
        assert_eq!((mounts.len(), mounts[0].at.as_str()), (1, "/home/sandbox/.codex/AGENTS.md"));
    }

    #[test]
    fn a_program_is_looked_for_where_it_will_be() {
        let folder = tempfile::tempdir().unwrap();
        let project = folder.path().canonicalize().unwrap();
        fs::write(project.join("tool"), "").unwrap();
        let definition =
            |command: &str| Definition { command: Some(vec![command.to_owned()]), ..Definition::default() };
        let agent = |command| AgentRecord { definition: Some(definition(command)), ..named("mine") };
        let absent = |command| {
            let agent = agent(command);
            let mut record = record(&agent);
            record.project.clone_from(&project);
            let start = Start::find_out(&agent, &record, None, &here(&[])).unwrap();
            start.look_for_program(&record, &Environment::default(), None, &here(&[]))
        };
        assert!(absent("./tool").is_some(), "it cannot be executed");
        fs::set_permissions(project.join("tool"), std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .unwrap();
        assert_eq!(absent("./tool"), None);
        assert!(absent("tool").unwrap().to_string().contains("there is no `tool`"));
    }

    #[test]
    fn what_an_agent_brings_along() {
        let codex = tools(&named("codex"));
        assert_eq!((codex.preset.as_deref(), codex.package), (Some("codex"), None));
        assert!(codex.called.contains(&"gnugrep".to_owned()));
        assert_eq!(tools(&named("mine")), Tools::default());
        let definition = Definition { package: Some("aider-chat".to_owned()), ..Definition::default() };
        let agent = AgentRecord { definition: Some(definition), ..named("aider") };
        let package = Some("aider-chat".to_owned());
        assert_eq!(tools(&agent), Tools { package, ..Tools::default() });
    }
}
