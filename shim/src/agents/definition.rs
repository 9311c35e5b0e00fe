//! What an agent or a provider is, as data: the built-in ones and `[agents.NAME]` of a configuration are the same types.
//!
//! Everything is optional, so that a person who changes one thing of a built-in agent writes that one thing.
//!
//! None of it is harmless in a stranger's hands: keys and files name what is taken from the person, a command receives it,
//! and a variable may say where it is sent. So whatever a project's own file says here needs the person's consent.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// An agent: what starts it, and what it needs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Definition {
    /// What it is, in a few words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub about: Option<String>,
    /// The Nix attribute that holds its program.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub package: Option<String>,
    /// The Nix preset that holds it together with the tools it likes to have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preset: Option<String>,
    /// Nix attributes of programs that it calls by name and no preset has. They come along with its preset or package.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tools: Option<Vec<String>>,
    /// How a person installs it on a host, as a command to show.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub install: Option<String>,
    /// Its program, and arguments that it always gets. Its name alone if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
    /// Arguments that switch its own permission prompts off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub no_prompt: Option<Vec<String>>,
    /// Variables that switch them off, where that takes variables.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub no_prompt_variables: BTreeMap<String, String>,
    /// What keeps it from asking on its first start, such as whether the folder is trusted: by JSON file below the home
    /// folder, what is set in it. Written into a new home only.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub no_prompt_settings: Settings,
    /// How it takes a first prompt and stays in its terminal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt: Option<PromptStyle>,
    /// Variables it always gets, which `-e` can change.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub variables: BTreeMap<String, String>,
    /// Keys it takes under their own names when no provider is chosen: the first of these that is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keys: Option<Vec<KeySet>>,
    /// The providers that are tried after that: the first whose key is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub providers: Option<Vec<String>>,
    /// Whether it is of no use without a key or a login (the default).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub needs_key: Option<bool>,
    /// What of its configuration is worth having in a sandbox, and its login.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config: Option<Vec<ConfigFile>>,
    /// Folders below the home folder, and the variable by which a person keeps each elsewhere on the host.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub moved: BTreeMap<String, String>,
}

/// A provider: whose models an agent uses, and by which key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Provider {
    /// What it is, in a few words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub about: Option<String>,
    /// Where it answers: `{url}` in the variables and arguments below stands for this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Keys on the person's side: the first of these that is there. None needed if empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keys: Option<Vec<KeySet>>,
    /// Variables of the person's that come along if they are set, such as a region.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub also: Option<Vec<String>>,
    /// Variables of the person's without which it cannot work, such as the name of a project.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub needs: Option<Vec<String>>,
    /// Files below the home folder that belong to it, such as a login of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config: Option<Vec<ConfigFile>>,
    /// The agents it serves, by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub agents: BTreeMap<String, ForAgent>,
}

/// How one agent is told of a provider.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct ForAgent {
    /// Further arguments.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arguments: Option<Vec<String>>,
    /// Further variables, the address of the provider among them.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub variables: BTreeMap<String, String>,
    /// As [`Definition::no_prompt_settings`], in every case.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub settings: Settings,
    /// The keys this agent can use, where they are not all of the provider's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keys: Option<Vec<KeySet>>,
    /// As [`Provider::also`], further ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub also: Option<Vec<String>>,
    /// As [`Provider::needs`], further ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub needs: Option<Vec<String>>,
    /// By variable of the person's: what is different, or needed besides, if that one is used.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub with: BTreeMap<String, With>,
    /// Whether the agent's own login is one for this provider.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub login: Option<bool>,
}

/// What comes with one variable of the person's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct With {
    /// What it is called for the agent; the same if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Further arguments.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arguments: Option<Vec<String>>,
    /// As [`Definition::no_prompt_settings`], in every case.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub settings: Settings,
}

/// By JSON file below the home folder: an object that is merged into it.
pub type Settings = BTreeMap<String, Value>;

/// How an agent takes a first prompt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PromptStyle {
    /// It takes none.
    None,
    /// As its last argument.
    Last,
    /// As its last argument, behind `--`, so that a prompt may begin with a dash.
    AfterDashes,
    /// Behind this flag; in the same argument if the flag ends in `=`.
    Flag(String),
}

/// Variables that together let an agent in: one name, or a list of which each is needed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "KeyText", into = "KeyText")]
pub struct KeySet(Vec<String>);

/// [`KeySet`] as it is written.
#[derive(Serialize, Deserialize)]
#[serde(untagged, expecting = "expected the name of a variable, or a list of names")]
enum KeyText {
    One(String),
    All(Vec<String>),
}

/// A file or folder of an agent's configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "FileText", into = "FileText")]
pub struct ConfigFile {
    /// Where it is, below the home folder: the person's on the host, the sandbox's own inside.
    pub path: String,
    /// It holds the login, which takes the place of a key.
    pub login: bool,
    /// The agent writes it anew or replaces it, so that it can be copied but not mounted.
    pub replaced: bool,
    /// Of a JSON file, only these top-level keys. All if empty.
    pub only: Vec<String>,
}

/// [`ConfigFile`] as it is written.
#[derive(Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a path, or a table with `path`, `login`, `replaced` and `only`")]
enum FileText {
    Path(String),
    Table(FileTable),
}

#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct FileTable {
    path: String,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    login: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    replaced: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    only: Vec<String>,
}

impl Definition {
    /// This, and what it does not say from `below`. Lists replace each other; variables are merged by name.
    pub fn or(mut self, below: Definition) -> Definition {
        merge(&mut self.no_prompt_variables, below.no_prompt_variables);
        merge(&mut self.variables, below.variables);
        merge(&mut self.moved, below.moved);
        merge(&mut self.no_prompt_settings, below.no_prompt_settings);
        Definition {
            about: self.about.or(below.about),
            package: self.package.or(below.package),
            preset: self.preset.or(below.preset),
            tools: self.tools.or(below.tools),
            install: self.install.or(below.install),
            command: self.command.or(below.command),
            no_prompt: self.no_prompt.or(below.no_prompt),
            prompt: self.prompt.or(below.prompt),
            keys: self.keys.or(below.keys),
            providers: self.providers.or(below.providers),
            needs_key: self.needs_key.or(below.needs_key),
            config: self.config.or(below.config),
            ..self
        }
    }
}

impl Provider {
    /// This, and what it does not say from `below`; agents are merged one by one.
    pub fn or(mut self, below: Provider) -> Provider {
        for (name, for_agent) in below.agents {
            let ours = self.agents.remove(&name).unwrap_or_default();
            self.agents.insert(name, ours.or(for_agent));
        }
        Provider {
            about: self.about.or(below.about),
            url: self.url.or(below.url),
            keys: self.keys.or(below.keys),
            also: self.also.or(below.also),
            needs: self.needs.or(below.needs),
            config: self.config.or(below.config),
            agents: self.agents,
        }
    }
}

impl ForAgent {
    fn or(mut self, below: ForAgent) -> ForAgent {
        merge(&mut self.variables, below.variables);
        merge(&mut self.settings, below.settings);
        merge(&mut self.with, below.with);
        ForAgent {
            arguments: self.arguments.or(below.arguments),
            keys: self.keys.or(below.keys),
            also: self.also.or(below.also),
            needs: self.needs.or(below.needs),
            login: self.login.or(below.login),
            ..self
        }
    }
}

impl KeySet {
    /// One variable.
    pub fn one(name: impl Into<String>) -> Self {
        Self(vec![name.into()])
    }

    /// The variables that are needed together.
    pub fn names(&self) -> &[String] {
        &self.0
    }
}

fn merge<T>(ours: &mut BTreeMap<String, T>, below: BTreeMap<String, T>) {
    for (name, value) in below {
        ours.entry(name).or_insert(value);
    }
}

impl From<KeyText> for KeySet {
    fn from(text: KeyText) -> Self {
        match text {
            KeyText::One(name) => Self(vec![name]),
            KeyText::All(names) => Self(names),
        }
    }
}

impl From<KeySet> for KeyText {
    fn from(KeySet(mut names): KeySet) -> Self {
        if names.len() == 1 { Self::One(names.remove(0)) } else { Self::All(names) }
    }
}

impl From<FileText> for ConfigFile {
    fn from(text: FileText) -> Self {
        match text {
            FileText::Path(path) => Self { path, ..Self::default() },
            FileText::Table(FileTable { path, login, replaced, only }) => {
                Self { path, login, replaced, only }
            }
        }
    }
}

impl From<ConfigFile> for FileText {
    fn from(ConfigFile { path, login, replaced, only }: ConfigFile) -> Self {
        if login || replaced || !only.is_empty() {
            Self::Table(FileTable { path, login, replaced, only })
        } else {
            Self::Path(path)
        }
    }
}
