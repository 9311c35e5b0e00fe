use std::{
    collections::BTreeMap,
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    process::ExitCode,
};

use serde::Serialize;

use super::{
    context::Context,
    error::{CliError, Kind},
    output::{clean, print_json, print_line, print_table},
};
use crate::{
    agents::{
        AgentError, Catalog, Definition, KeySet, Offered, Person, Provider, Source, Wanted, keys,
        presence::{self, Absent, Presence},
        resolve,
    },
    config::{load::Sources, origin::Sourced},
    env::{Environment, host},
    isolation::Network,
};

/// List agents and providers: what each needs, and what of it is found here
///
/// PROGRAM is where an agent is with `--env host`; with packages it comes from its preset. FOUND is the key that the agent
/// would get if it were started now, or a login that `--agent-config copy` would take along. Values are never shown.
#[derive(clap::Args, Debug)]
pub(crate) struct AgentsArgs {}

/// An agent, as a program reads it.
#[derive(Debug, Serialize)]
struct AgentView {
    about: Option<String>,
    command: Vec<String>,
    package: Option<String>,
    preset: Option<String>,
    /// Where its program is inside, with `--env host`.
    program: Option<PathBuf>,
    /// Why there is none.
    problem: Option<String>,
    /// How to get it.
    hint: Option<String>,
    /// Alternatives, without a provider.
    keys: Vec<Vec<String>>,
    needs_key: bool,
    providers: Vec<String>,
    found: Found,
}

/// A provider, as a program reads it.
#[derive(Debug, Serialize)]
struct ProviderView {
    about: Option<String>,
    url: Option<String>,
    agents: Vec<String>,
    keys: Vec<Vec<String>>,
    /// Files below the home folder that do as well.
    logins: Vec<String>,
    needs: Vec<String>,
    found: Found,
    /// Of what it needs, what is not there.
    missing: Vec<String>,
}

/// What there is to be let in with.
#[derive(Debug, Default, Serialize)]
struct Found {
    /// Variables of the person's.
    keys: Vec<String>,
    /// The provider they are for.
    provider: Option<String>,
    /// A file below the person's home folder.
    login: Option<String>,
}

#[derive(Debug, Serialize)]
struct View {
    agents: BTreeMap<String, AgentView>,
    providers: BTreeMap<String, ProviderView>,
}

pub(crate) fn run(ctx: &Context, _: &AgentsArgs) -> Result<ExitCode, CliError> {
    let view = Looking::here(catalog()?)?.view();
    if ctx.global.json {
        print_json(&view)?;
        return Ok(ExitCode::SUCCESS);
    }
    let head = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    let mut agents: Vec<Vec<String>> = vec![head(&["AGENT", "PROGRAM", "FOUND", "PROVIDERS"])];
    agents.extend(view.agents.iter().map(|(name, agent)| agent.row(name)));
    print_table(&agents)?;
    print_line("")?;
    let mut providers: Vec<Vec<String>> = vec![head(&["PROVIDER", "FOUND", "AGENTS", "KEYS"])];
    providers.extend(view.providers.iter().map(|(name, provider)| provider.row(name)));
    print_table(&providers)?;
    Ok(ExitCode::SUCCESS)
}

/// The built-in ones with the person's own. What a project's file says counts for its own sandboxes.
fn catalog() -> Result<Catalog, CliError> {
    fn plain<T: Clone>(from: &BTreeMap<String, Sourced<T>>) -> BTreeMap<String, T> {
        from.iter().map(|(name, sourced)| (name.clone(), sourced.value.clone())).collect()
    }
    let layers = Sources::from_environment(Context::current_folder()?).load(None)?;
    let own = layers.variables.over(layers.user);
    Ok(Catalog::builtin().with(&plain(&own.agents), &plain(&own.providers)))
}

/// What this machine and its person have.
struct Looking {
    catalog: Catalog,
    offered: Offered,
    home: Option<PathBuf>,
    tools: Environment,
    path: OsString,
}

impl Looking {
    fn here(catalog: Catalog) -> Result<Self, CliError> {
        let tools = host::environment(Path::new("/"), &Network::Host)
            .map_err(|error| CliError::new(Kind::Failed, "cannot read the host's tools").because(&error))?;
        Ok(Self {
            catalog,
            offered: Offered { environment: keys::names(env::vars_os()), ..Offered::default() },
            home: env::var_os("HOME").map(PathBuf::from).filter(|home| home.is_absolute()),
            tools,
            path: env::var_os("PATH").unwrap_or_default(),
        })
    }

    fn view(&self) -> View {
        let agents = self.catalog.agents.iter().map(|(name, agent)| (name.clone(), self.agent(name, agent)));
        let providers = self.catalog.providers.iter().map(|(name, one)| (name.clone(), self.provider(one)));
        View { agents: agents.collect(), providers: providers.collect() }
    }

    fn agent(&self, name: &str, definition: &Definition) -> AgentView {
        let command = definition.command.clone().unwrap_or_else(|| vec![name.to_owned()]);
        let program = command.first().map_or(name, String::as_str);
        let inside = self.tools.variables.iter().find(|(name, _)| name == "PATH");
        let inside = inside.map(|(_, path)| path.as_str()).unwrap_or_default();
        let presence = presence::look(&self.tools.mounts, inside, program);
        let elsewhere = presence::on_host(program, &self.path);
        let absent = presence::absent(name, definition, program, &presence, false, elsewhere.as_deref());
        let serves = |(_, provider): &(&String, &Provider)| provider.agents.contains_key(name);
        let (problem, hint) = absent.map(|Absent { what, hint }| (what, hint)).unzip();
        let wanted = Wanted { agent: name, attended: true, ..Wanted::default() };
        let mut found = Found::default();
        if let Ok(resolved) = resolve(&self.catalog, &wanted, &self.offered) {
            let name = |source: &Source| match source {
                Source::Environment(name) | Source::Given(name) | Source::Secret { name, .. } => name.clone(),
            };
            found.keys = resolved.keys.iter().map(|key| name(&key.from)).collect();
            found.provider = resolved.provider;
        }
        found.login = self.login(definition);
        AgentView {
            about: definition.about.clone(),
            package: definition.package.clone(),
            preset: definition.preset.clone(),
            program: match presence {
                Presence::Found(at) => Some(at),
                Presence::Missing | Presence::NoInterpreter { .. } => None,
            },
            problem,
            hint,
            keys: alternatives(definition.keys.as_deref()),
            needs_key: definition.needs_key.unwrap_or(true),
            providers: self.catalog.providers.iter().filter(serves).map(|(name, _)| name.clone()).collect(),
            found,
            command,
        }
    }

    fn login(&self, definition: &Definition) -> Option<String> {
        let person =
            Person::new(self.home.clone()?, &definition.moved, |name| env::var_os(name).map(PathBuf::from));
        let mut logins = definition.config.iter().flatten().filter(|file| file.login);
        logins.find(|file| person.place(&file.path).is_file()).map(|file| file.path.clone())
    }

    fn provider(&self, provider: &Provider) -> ProviderView {
        let there = |name: &String| self.offered.environment.contains(name);
        let keys = alternatives(provider.keys.as_deref());
        let needs = provider.needs.clone().unwrap_or_default();
        let files = provider.config.iter().flatten().filter(|file| file.login);
        let logins: Vec<String> = files.map(|file| file.path.clone()).collect();
        let is_there = |login: &&String| self.home.as_ref().is_some_and(|home| home.join(login).is_file());
        ProviderView {
            about: provider.about.clone(),
            url: provider.url.clone(),
            agents: provider.agents.keys().cloned().collect(),
            found: Found {
                keys: keys.iter().find(|names| names.iter().all(there)).cloned().unwrap_or_default(),
                provider: None,
                login: logins.iter().find(is_there).cloned(),
            },
            missing: needs.iter().filter(|name| !there(name)).cloned().collect(),
            keys,
            logins,
            needs,
        }
    }
}

impl AgentView {
    fn row(&self, name: &str) -> Vec<String> {
        let program = self.program.as_ref().map_or("-".to_owned(), |path| path.display().to_string());
        [name, &program, &self.found.words(), &self.providers.join(", ")].map(clean).to_vec()
    }
}

impl ProviderView {
    fn row(&self, name: &str) -> Vec<String> {
        let names = self.keys.iter().map(|names| names.join(" + "));
        let logins = self.logins.iter().map(|login| format!("~/{login}"));
        let mut keys = names.chain(logins).collect::<Vec<_>>().join(" | ");
        if keys.is_empty() {
            "none".clone_into(&mut keys);
        }
        if !self.needs.is_empty() {
            keys = format!("{keys}; {}", self.needs.join(", "));
        }
        [name, &self.found.words(), &self.agents.join(", "), &keys].map(clean).to_vec()
    }
}

impl Found {
    fn words(&self) -> String {
        match (self.keys.is_empty(), &self.login) {
            (false, _) => self.keys.join(" + "),
            (true, Some(login)) => format!("~/{login}"),
            (true, None) => "-".to_owned(),
        }
    }
}

fn alternatives(keys: Option<&[KeySet]>) -> Vec<Vec<String>> {
    keys.unwrap_or_default().iter().map(|set| set.names().to_vec()).collect()
}

impl From<AgentError> for CliError {
    fn from(error: AgentError) -> Self {
        let kind = match error {
            AgentError::Unknown { .. }
            | AgentError::NotServed { .. }
            | AgentError::NoPrompt(_)
            | AgentError::PromptIsOption(_)
            | AgentError::NoCommand(_)
            | AgentError::Path { .. } => Kind::Usage,
            AgentError::NoKey { .. } | AgentError::Needs { .. } => Kind::Requirement,
            AgentError::Secret { .. } | AgentError::Variable { .. } | AgentError::Copy { .. } => Kind::Failed,
        };
        let made = Self::new(kind, error.to_string());
        match error.hint() {
            Some(hint) => made.hint(hint),
            None => made,
        }
    }
}

impl From<Absent> for CliError {
    fn from(absent: Absent) -> Self {
        Self::new(Kind::CommandNotFound, absent.what).hint(absent.hint)
    }
}
