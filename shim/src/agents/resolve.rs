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
        resolved.argv.extend(prompt_arguments(wanted.agent, style, prompt)?);
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
        PromptStyle::None => Err(AgentError::NoPrompt(agent.to_owned())),
        PromptStyle::Last => Ok(vec![prompt]),
        PromptStyle::AfterDashes => Ok(vec!["--".to_owned(), prompt]),
        PromptStyle::Flag(flag) if flag.ends_with('=') => Ok(vec![flag.clone() + &prompt]),
        PromptStyle::Flag(flag) => Ok(vec![flag.clone(), prompt]),
    }
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
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn names_of(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn environment(names: &[&str]) -> Offered {
        Offered { environment: names_of(names), ..Offered::default() }
    }

    fn want(agent: &str) -> Wanted<'_> {
        Wanted { agent, attended: true, ..Wanted::default() }
    }

    fn resolved(wanted: &Wanted<'_>, offered: &Offered) -> Resolved {
        resolve(&Catalog::builtin(), wanted, offered).unwrap()
    }

    fn refused(wanted: &Wanted<'_>, offered: &Offered) -> AgentError {
        resolve(&Catalog::builtin(), wanted, offered).unwrap_err()
    }

    /// `variable < place` for each key.
    fn keys(resolved: &Resolved) -> Vec<String> {
        let one = |key: &KeySource| match &key.from {
            Source::Environment(name) => format!("{} < {name}", key.variable),
            Source::Secret { file, .. } => format!("{} < {}", key.variable, file.display()),
            Source::Given(name) => format!("{} < -e {name}", key.variable),
        };
        resolved.keys.iter().map(one).collect()
    }

    #[test]
    fn the_four_start_without_questions_and_with_what_they_are_to_do() {
        let offered = environment(&["OPENROUTER_API_KEY", "GEMINI_API_KEY"]);
        let prompt = |agent| resolved(&Wanted { prompt: Some("-x"), ..want(agent) }, &offered);
        assert_eq!(prompt("claude").argv, ["claude", "--dangerously-skip-permissions", "--", "-x"]);
        assert_eq!(prompt("gemini").argv, ["gemini", "--yolo", "--prompt-interactive=-x"]);
        assert_eq!(prompt("opencode").argv, ["opencode", "--auto", "--prompt=-x"]);
        let codex = prompt("codex").argv;
        assert_eq!(
            codex[..4],
            [
                "codex",
                "-c",
                "check_for_update_on_startup=false",
                "--dangerously-bypass-approvals-and-sandbox"
            ]
        );
        assert_eq!(codex[codex.len() - 2..], ["--", "-x"]);
        let claude = prompt("claude");
        assert_eq!(claude.variables["IS_SANDBOX"], "1");
        assert_eq!(
            claude.settings[".claude.json"]["projects"]["/workspace"],
            json!({ "hasTrustDialogAccepted": true })
        );
    }

    #[test]
    fn asked_for_the_agents_own_prompts_stay() {
        let gemini = resolved(&Wanted { ask: true, ..want("gemini") }, &environment(&[]));
        assert_eq!(gemini.argv, ["gemini"]);
        assert!(gemini.variables.is_empty() && gemini.settings.is_empty());
        let claude = resolved(&Wanted { ask: true, ..want("claude") }, &environment(&[]));
        assert_eq!(claude.argv, ["claude"]);
        assert!(claude.settings.is_empty() && claude.variables.contains_key("DISABLE_AUTOUPDATER"));
    }

    #[test]
    fn further_arguments_stand_before_the_prompt() {
        let arguments = ["--model".to_owned(), "x".to_owned()];
        let wanted = Wanted { arguments: &arguments, prompt: Some("do"), ask: true, ..want("claude") };
        assert_eq!(resolved(&wanted, &environment(&[])).argv, ["claude", "--model", "x", "--", "do"]);
    }

    #[test]
    fn without_a_provider_the_first_key_there_is_chooses_it() {
        let claude = resolved(&want("claude"), &environment(&["CLAUDE_CODE_OAUTH_TOKEN", "OPENAI_API_KEY"]));
        assert_eq!(keys(&claude), ["CLAUDE_CODE_OAUTH_TOKEN < CLAUDE_CODE_OAUTH_TOKEN"]);
        assert_eq!(claude.provider.as_deref(), Some("anthropic"));
        assert_eq!(
            claude.notes,
            ["`claude` gets CLAUDE_CODE_OAUTH_TOKEN of your environment, for the provider `anthropic`"]
        );
        let opencode = resolved(&want("opencode"), &environment(&["DEEPSEEK_API_KEY", "OPENAI_API_KEY"]));
        assert_eq!(keys(&opencode), ["OPENAI_API_KEY < OPENAI_API_KEY"]);
        // A part of a pair is nothing, and the other keys are nobody's business.
        let claude = resolved(&want("claude"), &environment(&["ANTHROPIC_AUTH_TOKEN"]));
        assert!(claude.keys.is_empty());
    }

    #[test]
    fn a_key_that_an_agent_would_ask_about_comes_under_another_name() {
        let claude = resolved(&want("claude"), &environment(&["ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL"]));
        assert_eq!(
            keys(&claude),
            ["CLAUDE_API_KEY < ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL < ANTHROPIC_BASE_URL"]
        );
        assert!(
            claude.argv.contains(&r#"{"apiKeyHelper":"echo $CLAUDE_API_KEY"}"#.to_owned()),
            "{:?}",
            claude.argv
        );
        let opencode = resolved(&want("opencode"), &environment(&["ANTHROPIC_API_KEY"]));
        assert_eq!(keys(&opencode), ["ANTHROPIC_API_KEY < ANTHROPIC_API_KEY"]);
    }

    #[test]
    fn a_provider_tells_the_agent_where_it_is() {
        let wanted = Wanted { provider: Some("openrouter"), ..want("claude") };
        let claude = resolved(&wanted, &environment(&["OPENROUTER_API_KEY", "ANTHROPIC_API_KEY"]));
        assert_eq!(keys(&claude), ["ANTHROPIC_AUTH_TOKEN < OPENROUTER_API_KEY"]);
        assert_eq!(claude.variables["ANTHROPIC_BASE_URL"], "https://openrouter.ai/api");
        assert_eq!(claude.variables["ANTHROPIC_API_KEY"], "");
        let codex = resolved(&Wanted { agent: "codex", ..wanted }, &environment(&["OPENROUTER_API_KEY"]));
        assert!(
            codex.argv.iter().any(|part| part.contains("base_url=\"https://openrouter.ai/api/v1\"")),
            "{:?}",
            codex.argv
        );
        let wanted = Wanted { provider: Some("ollama"), attended: false, ..want("claude") };
        assert_eq!(resolved(&wanted, &environment(&[])).variables["ANTHROPIC_AUTH_TOKEN"], "ollama");
    }

    #[test]
    fn what_a_provider_needs_besides_comes_along_or_is_missed() {
        let wanted = Wanted { provider: Some("bedrock"), ..want("claude") };
        let error = refused(&wanted, &environment(&["AWS_BEARER_TOKEN_BEDROCK"]));
        assert_eq!(error.to_string(), "the provider `bedrock` needs AWS_REGION, which is not set");
        let all =
            ["AWS_ACCESS_KEY_ID", "AWS_REGION", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_OTHER"];
        let claude = resolved(&wanted, &environment(&all));
        let names: BTreeSet<&str> = claude.keys.iter().map(|key| key.variable.as_str()).collect();
        assert_eq!(names, all[..4].iter().copied().collect());
        assert_eq!(claude.variables["CLAUDE_CODE_USE_BEDROCK"], "1");
        // A value of the person's goes before one of ours.
        let wanted = Wanted { provider: Some("vertex"), ..want("claude") };
        let mut offered = environment(&["ANTHROPIC_VERTEX_PROJECT_ID"]);
        offered.logins = names_of(&[".config/gcloud/application_default_credentials.json"]);
        assert_eq!(resolved(&wanted, &offered).variables["CLOUD_ML_REGION"], "global");
        offered.environment.insert("CLOUD_ML_REGION".to_owned());
        let claude = resolved(&wanted, &offered);
        assert!(!claude.variables.contains_key("CLOUD_ML_REGION"));
        assert!(keys(&claude).contains(&"CLOUD_ML_REGION < CLOUD_ML_REGION".to_owned()));
    }

    #[test]
    fn the_nearest_place_of_a_key_counts() {
        let wanted = Wanted { provider: Some("openai"), ..want("codex") };
        let mut offered = environment(&["OPENAI_API_KEY"]);
        offered.secrets.insert("OPENAI_API_KEY".to_owned(), "/keys/openai".into());
        assert_eq!(keys(&resolved(&wanted, &offered)), ["OPENAI_API_KEY < /keys/openai"]);
        // What everything inside has need not be fetched.
        offered.given.insert("OPENAI_API_KEY".to_owned());
        assert!(resolved(&wanted, &offered).keys.is_empty());
        let claude = resolved(
            &want("claude"),
            &Offered { given: names_of(&["ANTHROPIC_API_KEY"]), ..Offered::default() },
        );
        assert_eq!(keys(&claude), ["CLAUDE_API_KEY < -e ANTHROPIC_API_KEY"]);
        assert_eq!(claude.variables["ANTHROPIC_API_KEY"], "");
    }

    #[test]
    fn what_the_person_sets_for_everything_stays() {
        let offered = Offered { given: names_of(&["DISABLE_AUTOUPDATER"]), ..Offered::default() };
        assert!(!resolved(&want("claude"), &offered).variables.contains_key("DISABLE_AUTOUPDATER"));
    }

    #[test]
    fn a_login_is_used_unless_a_provider_is_chosen() {
        let mut offered = environment(&["OPENAI_API_KEY"]);
        offered.logins = names_of(&[".codex/auth.json"]);
        let codex = resolved(&Wanted { attended: false, ..want("codex") }, &offered);
        assert!(codex.keys.is_empty() && codex.provider.is_none());
        let wanted = Wanted { provider: Some("openai"), ..want("codex") };
        assert_eq!(keys(&resolved(&wanted, &offered)), ["OPENAI_API_KEY < OPENAI_API_KEY"]);
        offered.environment.clear();
        let codex = resolved(&wanted, &offered);
        assert!(codex.keys.is_empty() && !codex.argv.iter().any(|part| part.contains("model_provider")));
        // Nobody else takes that login.
        assert!(matches!(
            refused(&Wanted { provider: Some("openrouter"), ..want("codex") }, &offered),
            AgentError::NoKey { .. }
        ));
    }

    #[test]
    fn a_missing_key_is_an_error_where_nobody_could_log_in() {
        let nothing = Offered::default();
        let error = refused(&Wanted { attended: false, ..want("gemini") }, &nothing);
        assert_eq!(
            error.to_string(),
            "the agent `gemini` has no key: GEMINI_API_KEY, or GOOGLE_GENERATIVE_AI_API_KEY is not set, and there is no login in \
             ~/.gemini/oauth_creds.json or ~/.gemini/gemini-credentials.json"
        );
        assert!(error.hint().unwrap().contains("--secret GEMINI_API_KEY=FILE"));
        let error = refused(&Wanted { provider: Some("deepseek"), ..want("claude") }, &nothing);
        assert_eq!(
            error.to_string(),
            "the agent `claude` with the provider `deepseek` has no key: DEEPSEEK_API_KEY is not set"
        );
        let left = Offered { left: names_of(&[".gemini/oauth_creds.json"]), ..Offered::default() };
        let error = refused(&Wanted { attended: false, ..want("gemini") }, &left);
        assert_eq!(
            error.hint().unwrap(),
            "there is a login in ~/.gemini/oauth_creds.json: `--agent-config copy` takes it along"
        );
        // At a terminal it is worth a note, and an agent that needs none says nothing.
        let gemini = resolved(&want("gemini"), &nothing);
        assert!(gemini.notes[0].contains("will ask for a login"), "{:?}", gemini.notes);
        assert!(resolved(&Wanted { attended: false, ..want("opencode") }, &nothing).notes.is_empty());
    }

    #[test]
    fn a_provider_for_other_agents_is_named_as_that() {
        let error = refused(&Wanted { provider: Some("deepseek"), ..want("gemini") }, &Offered::default());
        assert_eq!(error.to_string(), "the provider `deepseek` does not serve the agent `gemini`");
        assert_eq!(
            error.hint().unwrap(),
            "`deepseek` serves claude, opencode; this agent is served by gemini, vertex"
        );
    }

    #[test]
    fn an_agent_of_ones_own_needs_no_more_than_a_name() {
        let own: Catalog = toml::from_str(
            "[agents.mine]\n[agents.mute]\nprompt = 'none'\n[agents.empty]\ncommand = ['']\n\
             [agents.far]\nconfig = ['../x']\n[agents.keyed]\nkeys = ['K', ['A', 'B']]\n",
        )
        .unwrap();
        let catalog = Catalog::builtin().with(&own.agents, &own.providers);
        let prompt = |agent| Wanted { prompt: Some("do"), attended: false, ..want(agent) };
        let nothing = Offered::default();
        assert_eq!(resolve(&catalog, &prompt("mine"), &nothing).unwrap().argv, ["mine", "do"]);
        assert!(matches!(resolve(&catalog, &prompt("mute"), &nothing), Err(AgentError::NoPrompt(_))));
        assert!(matches!(resolve(&catalog, &want("empty"), &nothing), Err(AgentError::NoCommand(_))));
        assert!(matches!(resolve(&catalog, &want("far"), &nothing), Err(AgentError::Path { .. })));
        let keyed = resolve(&catalog, &want("keyed"), &environment(&["A", "B"])).unwrap();
        assert_eq!(keys(&keyed), ["A < A", "B < B"]);
        let error = resolve(&catalog, &prompt("keyed"), &environment(&["B"])).unwrap_err();
        assert_eq!(error.to_string(), "the agent `keyed` has no key: K, or A and B is not set");
    }

    proptest! {
        /// Whatever is there, an agent gets nothing that its provider or itself does not name, and each name once.
        #[test]
        fn only_what_is_named_is_taken(
            agent in prop_oneof!["claude", "codex", "gemini", "opencode"],
            provider in proptest::option::of(prop_oneof![
                "anthropic", "openai", "gemini", "openrouter", "deepseek", "bedrock", "vertex", "ollama"
            ]),
            mask in any::<u64>(),
            login in any::<bool>(),
            ask in any::<bool>(),
            attended in any::<bool>(),
        ) {
            let catalog = Catalog::builtin();
            let mut known: Vec<String> = catalog.providers.values().flat_map(|provider| {
                let keys = provider.keys.iter().flatten().flat_map(KeySet::names);
                keys.chain(names([&provider.also, &provider.needs])).cloned().collect::<Vec<_>>()
            }).collect();
            known.extend(["SSH_AUTH_SOCK".to_owned(), "GITHUB_TOKEN".to_owned()]);
            known.sort();
            known.dedup();
            let environment = known.iter().enumerate().filter(|(at, _)| mask >> (at % 64) & 1 == 1);
            let mut offered =
                Offered { environment: environment.map(|(_, name)| name.clone()).collect(), ..Offered::default() };
            if login {
                let files = catalog.agents[&agent].config.iter().flatten().filter(|file| file.login);
                offered.logins = files.map(|file| file.path.clone()).collect();
            }
            let wanted = Wanted { agent: &agent, provider: provider.as_deref(), ask, attended, ..Wanted::default() };
            if let Ok(resolved) = resolve(&catalog, &wanted, &offered) {
                let mut taken = BTreeSet::new();
                for key in &resolved.keys {
                    let Source::Environment(name) = &key.from else { panic!("{key:?}") };
                    prop_assert!(offered.environment.contains(name) && taken.insert(key.variable.clone()));
                    prop_assert!(!["SSH_AUTH_SOCK", "GITHUB_TOKEN"].contains(&name.as_str()));
                    prop_assert!(!resolved.variables.contains_key(&key.variable));
                }
                prop_assert!(resolved.provider.is_some() || resolved.keys.is_empty());
                prop_assert_eq!(&resolved.argv[0], &agent);
                let unfilled = format!("{resolved:?}").contains("{url}");
                prop_assert!(!unfilled);
            }
        }
    }
}
