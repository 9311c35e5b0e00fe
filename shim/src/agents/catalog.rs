//! The agents and providers there are: the built-in ones, and on top of them a person's own.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{AgentError, Definition, Provider};
use crate::env::nearest::nearest;

/// The same file format, with the same types, as `[agents]` and `[providers]` of a configuration: whatever the built-in
/// ones need, a person can write.
const BUILTIN: &str = include_str!("builtin.toml");

/// Every agent and every provider, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Catalog {
    /// Every agent.
    pub agents: BTreeMap<String, Definition>,
    /// Every provider.
    pub providers: BTreeMap<String, Provider>,
}

impl Catalog {
    /// The built-in ones.
    pub fn builtin() -> Self {
        // Part of the program, and held by a test.
        toml::from_str(BUILTIN).unwrap_or_default()
    }

    /// Adds a person's own, which may change a part of a built-in one.
    pub fn with(
        mut self,
        agents: &BTreeMap<String, Definition>,
        providers: &BTreeMap<String, Provider>,
    ) -> Self {
        for (name, ours) in agents {
            let below = self.agents.remove(name).unwrap_or_default();
            self.agents.insert(name.clone(), ours.clone().or(below));
        }
        for (name, ours) in providers {
            let below = self.providers.remove(name).unwrap_or_default();
            self.providers.insert(name.clone(), ours.clone().or(below));
        }
        self
    }

    /// The agent of that name.
    pub fn agent(&self, name: &str) -> Result<&Definition, AgentError> {
        self.agents.get(name).ok_or_else(|| unknown("agent", name, self.agents.keys()))
    }

    /// The provider of that name.
    pub fn provider(&self, name: &str) -> Result<&Provider, AgentError> {
        self.providers.get(name).ok_or_else(|| unknown("provider", name, self.providers.keys()))
    }
}

fn unknown<'a>(kind: &'static str, name: &str, known: impl Iterator<Item = &'a String>) -> AgentError {
    let known: Vec<String> = known.cloned().collect();
    let nearest = nearest(name, known.iter().map(String::as_str)).map(str::to_owned);
    AgentError::Unknown { kind, name: name.to_owned(), nearest, known }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        agents::{KeySet, PromptStyle},
        env::catalog::preset,
    };

    #[test]
    fn the_built_in_ones_are_well_formed() {
        let catalog: Catalog = toml::from_str(BUILTIN).unwrap();
        assert_eq!(catalog, Catalog::builtin());
        let names: Vec<&str> = catalog.agents.keys().map(String::as_str).collect();
        assert_eq!(names, ["claude", "codex", "gemini", "opencode"]);
        for (name, agent) in &catalog.agents {
            assert!(agent.package.is_some() && agent.install.is_some() && agent.about.is_some(), "{name}");
            assert!(agent.no_prompt.is_some() && agent.prompt.is_some(), "{name}");
            assert!(agent.config.iter().flatten().any(|file| file.login), "{name}");
            let preset = preset(agent.preset.as_deref().unwrap()).unwrap();
            assert!(preset.packages.contains(&agent.package.as_deref().unwrap()), "{name}");
            for provider in agent.providers.iter().flatten() {
                assert!(catalog.providers[provider].agents.contains_key(name), "{name} {provider}");
            }
        }
        for (name, provider) in &catalog.providers {
            assert!(provider.about.is_some() && provider.keys.is_some(), "{name}");
            for (agent, told) in &provider.agents {
                assert!(catalog.agents.contains_key(agent), "{name} {agent}");
                let text = toml::to_string(told).unwrap();
                assert!(!text.contains("{url}") || provider.url.is_some(), "{name} {agent}");
                // What comes with a variable is of use only for one that is taken.
                let keys = told.keys.as_ref().or(provider.keys.as_ref());
                let taken: Vec<&String> = keys
                    .into_iter()
                    .flatten()
                    .flat_map(KeySet::names)
                    .chain(
                        [&provider.also, &provider.needs, &told.also, &told.needs]
                            .into_iter()
                            .flatten()
                            .flatten(),
                    )
                    .collect();
                assert!(told.with.keys().all(|variable| taken.contains(&variable)), "{name} {agent}");
            }
        }
    }

    #[test]
    fn every_path_lies_below_the_home_folder() {
        let catalog = Catalog::builtin();
        let files = catalog.agents.values().filter_map(|agent| agent.config.as_ref());
        let files = files.chain(catalog.providers.values().filter_map(|provider| provider.config.as_ref()));
        for file in files.flatten() {
            assert_eq!(crate::agents::folders::below_home(&file.path), Ok(()), "{}", file.path);
        }
    }

    #[test]
    fn a_person_changes_one_thing_and_keeps_the_rest() {
        let own: Catalog = toml::from_str(
            r#"
            [agents.claude]
            no-prompt = ["--permission-mode", "auto"]
            variables = { DISABLE_AUTOUPDATER = "0", MINE = "1" }
            [agents.aider]
            command = ["aider", "--dark-mode"]
            prompt = { flag = "--message" }
            keys = ["OPENAI_API_KEY", ["A", "B"]]
            [providers.openrouter.agents.claude.variables]
            ANTHROPIC_MODEL = "some/model"
            [providers.house]
            url = "http://house"
            agents.aider = { variables = { OPENAI_BASE_URL = "{url}" } }
            "#,
        )
        .unwrap();
        let catalog = Catalog::builtin().with(&own.agents, &own.providers);
        let claude = catalog.agent("claude").unwrap();
        assert_eq!(claude.no_prompt.as_deref().unwrap(), ["--permission-mode", "auto"]);
        assert_eq!(
            (claude.variables["DISABLE_AUTOUPDATER"].as_str(), claude.variables["MINE"].as_str()),
            ("0", "1")
        );
        assert_eq!(
            (claude.variables["IS_SANDBOX"].as_str(), claude.package.as_deref()),
            ("1", Some("claude-code"))
        );
        let aider = catalog.agent("aider").unwrap();
        assert_eq!(aider.prompt, Some(PromptStyle::Flag("--message".to_owned())));
        assert_eq!(aider.keys.as_ref().unwrap()[1].names(), ["A", "B"]);
        let told = &catalog.provider("openrouter").unwrap().agents["claude"];
        assert_eq!(told.variables["ANTHROPIC_BASE_URL"], "{url}");
        assert_eq!(told.variables["ANTHROPIC_MODEL"], "some/model");
    }

    #[test]
    fn a_written_definition_is_read_as_it_was() {
        for (name, agent) in Catalog::builtin().agents {
            let text = toml::to_string(&agent).unwrap();
            assert_eq!(toml::from_str::<Definition>(&text).unwrap(), agent, "{name}: {text}");
        }
        for (name, provider) in Catalog::builtin().providers {
            let text = toml::to_string(&provider).unwrap();
            assert_eq!(toml::from_str::<Provider>(&text).unwrap(), provider, "{name}: {text}");
        }
    }

    #[test]
    fn what_is_not_in_the_format_is_refused() {
        for (text, part) in [
            ("comand = ['x']", "unknown field `comand`"),
            ("keys = [1]", "expected the name of a variable"),
            ("config = [{ path = 'x', lgoin = true }]", "expected a path, or a table"),
            ("prompt = 'first'", "unknown variant `first`"),
        ] {
            let error = toml::from_str::<Definition>(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn a_misspelt_name_is_answered_with_the_nearest() {
        let catalog = Catalog::builtin();
        let error = catalog.agent("cluade").unwrap_err();
        assert_eq!(error.to_string(), "there is no agent `cluade`");
        let hint = "did you mean `claude`? the agents are claude, codex, gemini, opencode";
        assert_eq!(error.hint().unwrap(), hint);
        let error = catalog.agent("emacs").unwrap_err();
        assert!(error.hint().unwrap().starts_with("the agents are claude"), "{error:?}");
        let error = catalog.provider("antropic").unwrap_err();
        assert!(error.hint().unwrap().starts_with("did you mean `anthropic`?"), "{error:?}");
    }
}
