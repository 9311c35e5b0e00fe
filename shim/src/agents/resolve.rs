//! From an agent's name to the command and the variables of one start. No I/O: what there is, is told.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use serde::Serialize;

use super::{
    AgentError, Catalog, ConfigFile, Definition, ForAgent, KeySet, PromptStyle, Provider, Settings, With,
    error::alternatives, folders::below_home,
};

/// What was asked for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wanted<'a> {
    /// Its name.
    pub agent: &'a str,
    /// Whose models it uses, if that was said.
    pub provider: Option<&'a str>,
    /// What it is to do first.
    pub prompt: Option<&'a str>,
    /// Whether it keeps its own permission prompts.
    pub ask: bool,
    /// Further arguments: those behind two dashes.
    pub arguments: &'a [String],
    /// Whether somebody sits at its terminal from the start, and could log in there.
    pub attended: bool,
}

/// What there is: names, and no values.
#[derive(Clone, Debug, Default)]
pub struct Offered {
    /// Variables that are set in the person's environment, and not empty.
    pub environment: BTreeSet<String>,
    /// Variables that everything inside gets: those of `-e` and `--env-file` that are not empty.
    pub given: BTreeSet<String>,
    /// `--secret NAME=FILE`.
    pub secrets: BTreeMap<String, PathBuf>,
    /// Logins the sandbox has or will have: paths below its home folder.
    pub logins: BTreeSet<String>,
    /// Logins that the person has, and that are not taken along.
    pub left: BTreeSet<String>,
}

/// One start of an agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Resolved {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// How many of the last arguments are the first prompt.
    pub prompt_arguments: usize,
    /// Variables of the agent alone, keys excepted.
    pub variables: BTreeMap<String, String>,
    /// Where its keys come from. Steps, services and commands beside it do not get them.
    pub keys: Vec<KeySource>,
    /// What is set in JSON files of a new home.
    pub settings: Settings,
    /// What of the person's configuration is worth taking along.
    pub config: Vec<ConfigFile>,
    /// Folders that a person may keep elsewhere, and the variable that says where.
    pub moved: BTreeMap<String, String>,
    /// The provider that was chosen, or whose key was there.
    pub provider: Option<String>,
    /// What a person should know, one line each.
    pub notes: Vec<String>,
}

/// A variable of the agent's, and where its value is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KeySource {
    /// What it is called for the agent.
    pub variable: String,
    /// Where the value is.
    pub from: Source,
}

/// Where the value of a variable is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// Among what everything inside gets, under this name.
    Given(String),
    /// In the file of this secret.
    Secret {
        /// Its name.
        name: String,
        /// Its file.
        file: PathBuf,
    },
    /// In the person's environment, under this name.
    Environment(String),
}

/// A provider, and how this agent is told of it.
#[derive(Clone, Copy, Debug)]
struct Served<'a> {
    name: &'a str,
    provider: &'a Provider,
    told: &'a ForAgent,
}

/// Decides how an agent is started.
pub fn resolve(catalog: &Catalog, wanted: &Wanted<'_>, offered: &Offered) -> Result<Resolved, AgentError> {
    let definition = catalog.agent(wanted.agent)?;
    let mut notes = Vec::new();
    let (served, keys) = match wanted.provider {
        Some(name) => {
            let served = find(catalog, wanted.agent, name)?;
            let needs = served.missing(offered);
            if !needs.is_empty() {
                return Err(AgentError::Needs { provider: name.to_owned(), variables: needs });
            }
            (Some(served), chosen(wanted, definition, served, offered)?)
        }
        None => implied(catalog, wanted, definition, offered, &mut notes)?,
    };
    let mut resolved = Resolved {
        argv: command(wanted.agent, definition)?,
        config: definition.config.clone().unwrap_or_default(),
        moved: definition.moved.clone(),
        provider: served.map(|served| served.name.to_owned()),
        notes,
        ..Resolved::default()
    };
    resolved.variables.extend(definition.variables.clone());
    if !wanted.ask {
        resolved.argv.extend(definition.no_prompt.clone().unwrap_or_default());
        resolved.variables.extend(definition.no_prompt_variables.clone());
        set(&mut resolved.settings, &definition.no_prompt_settings);
    }
    if let Some(served) = served {
        resolved.tell(served, &keys);
    }
    // What the person set for everything inside stays, but for the keys below.
    resolved.variables.retain(|name, _| !offered.given.contains(name));
    let also = served.map(|served| served.others(offered)).unwrap_or_default();
    for name in keys.iter().chain(also.iter().filter(|name| !keys.contains(name))) {
        resolved.take(name, served.and_then(|served| served.told.with.get(name)), offered);
    }
    resolved.tell_keys(wanted);
    resolved.argv.extend(wanted.arguments.iter().cloned());
    for path in resolved.config.iter().map(|file| &file.path).chain(resolved.settings.keys()) {
        below_home(path).map_err(|why| AgentError::Path { path: path.clone(), why })?;
    }
    if let Some(prompt) = wanted.prompt {
        let style = definition.prompt.as_ref().unwrap_or(&PromptStyle::Last);
        let arguments = prompt_arguments(wanted.agent, style, prompt)?;
        resolved.prompt_arguments = arguments.len();
        resolved.argv.extend(arguments);
    }
    Ok(resolved)
}

impl Resolved {
    /// Adds what a provider asks for, `{url}` filled in.
    fn tell(&mut self, served: Served<'_>, keys: &[String]) {
        let url = served.provider.url.as_deref().unwrap_or_default();
        let filled = |text: &String| text.replace("{url}", url);
        let with: Vec<&With> = keys.iter().filter_map(|key| served.told.with.get(key)).collect();
        let arguments = with.iter().filter_map(|with| with.arguments.as_ref());
        self.argv.extend(served.told.arguments.iter().chain(arguments).flatten().map(filled));
        self.variables
            .extend(served.told.variables.iter().map(|(name, value)| (name.clone(), filled(value))));
        set(&mut self.settings, &served.told.settings);
        for with in with {
            set(&mut self.settings, &with.settings);
        }
        self.config.extend(served.provider.config.clone().unwrap_or_default());
    }

    /// What nobody asked for by name is said.
    fn tell_keys(&mut self, wanted: &Wanted<'_>) {
        let outside = self.keys.iter().filter_map(|key| match &key.from {
            Source::Environment(name) => Some(name.as_str()),
            Source::Given(_) | Source::Secret { .. } => None,
        });
        let names: Vec<&str> = outside.collect();
        if wanted.provider.is_some() || names.is_empty() {
            return;
        }
        let names = names.join(" and ");
        let provider =
            self.provider.iter().map(|name| format!(", for the provider `{name}`")).collect::<String>();
        self.notes.push(format!("`{}` gets {names} of your environment{provider}", wanted.agent));
    }

    /// Takes one variable of the person's.
    fn take(&mut self, name: &String, with: Option<&With>, offered: &Offered) {
        let variable = with.and_then(|with| with.name.clone()).unwrap_or_else(|| name.clone());
        let from = if offered.given.contains(name) {
            if variable == *name {
                // It is in the agent's environment already.
                return;
            }
            // An agent that is to see it under another name would take it for another key.
            self.variables.insert(name.clone(), String::new());
            Source::Given(name.clone())
        } else if let Some(file) = offered.secrets.get(name) {
            Source::Secret { name: name.clone(), file: file.clone() }
        } else {
            Source::Environment(name.clone())
        };
        self.variables.remove(&variable);
        self.keys.push(KeySource { variable, from });
    }
}

impl<'a> Served<'a> {
    fn keys(self) -> &'a [KeySet] {
        self.told.keys.as_ref().or(self.provider.keys.as_ref()).map_or(&[], Vec::as_slice)
    }

    fn missing(self, offered: &Offered) -> Vec<String> {
        names([&self.provider.needs, &self.told.needs]).filter(|name| !offered.has(name)).cloned().collect()
    }

    /// What comes along beside the key.
    fn others(self, offered: &Offered) -> Vec<String> {
        let lists = [&self.provider.needs, &self.told.needs, &self.provider.also, &self.told.also];
        let mut others: Vec<String> = names(lists).filter(|name| offered.has(name)).cloned().collect();
        others.sort();
        others.dedup();
        others
    }

    /// Login files that do for this provider.
    fn logins(self, definition: &Definition) -> Vec<String> {
        let own = definition.config.iter().filter(|_| self.told.login == Some(true));
        let logins = own.chain(&self.provider.config).flatten().filter(|file| file.login);
        logins.map(|file| file.path.clone()).collect()
    }
}

impl Offered {
    fn has(&self, name: &str) -> bool {
        self.given.contains(name) || self.secrets.contains_key(name) || self.environment.contains(name)
    }

    /// The variables of the first alternative that is there as a whole.
    fn first(&self, keys: &[KeySet]) -> Option<Vec<String>> {
        let whole = |set: &&KeySet| set.names().iter().all(|name| self.has(name));
        keys.iter().filter(|set| !set.names().is_empty()).find(whole).map(|set| set.names().to_vec())
    }
}

fn find<'a>(catalog: &'a Catalog, agent: &str, name: &'a str) -> Result<Served<'a>, AgentError> {
    let provider = catalog.provider(name)?;
    if let Some(told) = provider.agents.get(agent) {
        return Ok(Served { name, provider, told });
    }
    let serves = |provider: &Provider| provider.agents.contains_key(agent);
    let providers = catalog.providers.iter().filter(|(_, provider)| serves(provider));
    Err(AgentError::NotServed {
        provider: name.to_owned(),
        agent: agent.to_owned(),
        agents: provider.agents.keys().cloned().collect(),
        providers: providers.map(|(name, _)| name.clone()).collect(),
    })
}

/// The keys for a provider that the person chose; a login does as well.
fn chosen(
    wanted: &Wanted<'_>,
    definition: &Definition,
    served: Served<'_>,
    offered: &Offered,
) -> Result<Vec<String>, AgentError> {
    let logins = served.logins(definition);
    let keys = served.keys();
    if let Some(names) = offered.first(keys) {
        return Ok(names);
    }
    if (keys.is_empty() && logins.is_empty()) || logins.iter().any(|login| offered.logins.contains(login)) {
        return Ok(Vec::new());
    }
    Err(no_key(wanted, Some(served.name), keys, logins, offered))
}

/// Without a provider: the login, else the first key there is, by the agent itself or by one of its providers.
fn implied<'a>(
    catalog: &'a Catalog,
    wanted: &Wanted<'_>,
    definition: &'a Definition,
    offered: &Offered,
    notes: &mut Vec<String>,
) -> Result<(Option<Served<'a>>, Vec<String>), AgentError> {
    let logins: Vec<String> =
        definition.config.iter().flatten().filter(|file| file.login).map(|file| file.path.clone()).collect();
    if logins.iter().any(|login| offered.logins.contains(login)) {
        return Ok((None, Vec::new()));
    }
    let own = definition.keys.as_deref().unwrap_or_default();
    if let Some(names) = offered.first(own) {
        return Ok((None, names));
    }
    let mut usual = own.to_vec();
    for name in definition.providers.iter().flatten() {
        let served = find(catalog, wanted.agent, name)?;
        if let Some(names) = offered.first(served.keys()).filter(|_| served.missing(offered).is_empty()) {
            return Ok((Some(served), names));
        }
        usual.extend(served.keys().iter().cloned());
    }
    let needs_one = definition.needs_key.unwrap_or(true) && !(usual.is_empty() && logins.is_empty());
    if needs_one {
        let error = no_key(wanted, None, &usual, logins, offered);
        if !wanted.attended {
            return Err(error);
        }
        let login = match &error {
            AgentError::NoKey { left: Some(_), .. } => error.hint().unwrap_or_default(),
            _ => {
                format!("it will ask for a login in its terminal; {} would do", alternatives(&lists(&usual)))
            }
        };
        notes.push(format!("`{}` has no key and no login yet: {login}", wanted.agent));
    }
    Ok((None, Vec::new()))
}

fn no_key(
    wanted: &Wanted<'_>,
    provider: Option<&str>,
    keys: &[KeySet],
    logins: Vec<String>,
    offered: &Offered,
) -> AgentError {
    AgentError::NoKey {
        agent: wanted.agent.to_owned(),
        provider: provider.map(str::to_owned),
        keys: lists(keys),
        left: logins.iter().find(|login| offered.left.contains(*login)).cloned(),
        logins,
    }
}

fn command(name: &str, definition: &Definition) -> Result<Vec<String>, AgentError> {
    match &definition.command {
        None => Ok(vec![name.to_owned()]),
        Some(command) if command.first().is_some_and(|program| !program.is_empty()) => Ok(command.clone()),
        Some(_) => Err(AgentError::NoCommand(name.to_owned())),
    }
}

fn prompt_arguments(agent: &str, style: &PromptStyle, prompt: &str) -> Result<Vec<String>, AgentError> {
    let prompt = prompt.to_owned();
    match style {
        // A project's file may say what an agent does first, and not with which options.
        _ if is_option(style, &prompt) => Err(AgentError::PromptIsOption(agent.to_owned())),
        PromptStyle::None => Err(AgentError::NoPrompt(agent.to_owned())),
        PromptStyle::Last => Ok(vec![prompt]),
        PromptStyle::AfterDashes => Ok(vec!["--".to_owned(), prompt]),
        PromptStyle::Flag(flag) if flag.ends_with('=') => Ok(vec![flag.clone() + &prompt]),
        PromptStyle::Flag(flag) => Ok(vec![flag.clone(), prompt]),
    }
}

fn is_option(style: &PromptStyle, prompt: &str) -> bool {
    let is_read = match style {
        PromptStyle::Last => true,
        PromptStyle::Flag(flag) => !flag.ends_with('='),
        PromptStyle::AfterDashes | PromptStyle::None => false,
    };
    is_read && prompt.starts_with('-')
}

/// Merges what is to be set; two that name the same file are both heard.
fn set(settings: &mut Settings, more: &Settings) {
    for (path, object) in more {
        super::settings::merge(settings.entry(path.clone()).or_default(), object);
    }
}

fn lists(keys: &[KeySet]) -> Vec<Vec<String>> {
    keys.iter().map(|set| set.names().to_vec()).collect()
}

fn names<'a>(lists: impl IntoIterator<Item = &'a Option<Vec<String>>>) -> impl Iterator<Item = &'a String> {
    lists.into_iter().flatten().flatten()
}

#[cfg(test)]
mod tests;
