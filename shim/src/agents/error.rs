//! Why an agent cannot be started as it was asked for: all of it is said before anything starts.

use std::path::PathBuf;

use crate::env;

/// What is wrong with an agent, its provider or its keys.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AgentError {
    /// No such agent or provider.
    #[error("there is no {kind} `{}`", .name.escape_debug())]
    Unknown {
        /// `agent` or `provider`.
        kind: &'static str,
        /// What was asked for.
        name: String,
        /// The name that was probably meant.
        nearest: Option<String>,
        /// All there are.
        known: Vec<String>,
    },
    /// The provider does not serve the agent.
    #[error("the provider `{provider}` does not serve the agent `{agent}`")]
    NotServed {
        /// Which provider.
        provider: String,
        /// Which agent.
        agent: String,
        /// The agents it serves.
        agents: Vec<String>,
        /// The providers that serve this agent.
        providers: Vec<String>,
    },
    /// There is no key and no login.
    #[error("the agent `{agent}`{} has no key: {}", by(.provider.as_deref()), none_of(.keys, .logins))]
    NoKey {
        /// Which agent.
        agent: String,
        /// By which provider, if one was chosen.
        provider: Option<String>,
        /// Alternatives, each with the variables that it takes.
        keys: Vec<Vec<String>>,
        /// Files below the home folder that would do as well.
        logins: Vec<String>,
        /// Of these, one that the person has and that was not taken along.
        left: Option<String>,
    },
    /// Something beside the key is missing.
    #[error("the provider `{provider}` needs {}, which {} not set", .variables.join(" and "), if .variables.len() == 1 { "is" } else { "are" })]
    Needs {
        /// Which provider.
        provider: String,
        /// The variables.
        variables: Vec<String>,
    },
    /// The agent takes no first prompt.
    #[error("the agent `{0}` takes no first prompt")]
    NoPrompt(String),
    /// The prompt would be read as one of its options.
    #[error("the agent `{0}` would take this first prompt for an option, because it begins with a dash")]
    PromptIsOption(String),
    /// The agent has no command.
    #[error("the agent `{0}` has an empty command")]
    NoCommand(String),
    /// A key's file is of no use.
    #[error("the secret `{name}` cannot be read from {}: {why}", .file.display())]
    Secret {
        /// The secret's name.
        name: String,
        /// Its file.
        file: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A variable went away, or holds what no variable can.
    #[error("the variable {name} {why}")]
    Variable {
        /// Its name.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A path in a definition leads somewhere else.
    #[error("`{path}` in the configuration of an agent: {why}")]
    Path {
        /// The path.
        path: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A file of the person's configuration is of no use, or too large.
    #[error("{} cannot be copied into the sandbox: {why}", .path.display())]
    Copy {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

impl AgentError {
    /// The same where there are more agents and providers than those that are built in.
    #[must_use]
    pub fn among(mut self, agents: &[&String], providers: &[&String]) -> Self {
        if let Self::Unknown { kind, name, nearest, known } = &mut self {
            let more = if *kind == "agent" { agents } else { providers };
            known.extend(more.iter().map(|name| (*name).clone()));
            known.sort();
            known.dedup();
            *nearest = env::nearest::nearest(name, known.iter().map(String::as_str)).map(str::to_owned);
        }
        self
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Unknown { kind, nearest, known, .. } => {
                let all = format!("the {kind}s are {}", known.join(", "));
                Some(
                    nearest
                        .as_ref()
                        .map_or(all.clone(), |nearest| format!("did you mean `{nearest}`? {all}")),
                )
            }
            Self::NotServed { provider, agents, providers, .. } => {
                let also = if providers.is_empty() { "none".to_owned() } else { providers.join(", ") };
                Some(format!("`{provider}` serves {}; this agent is served by {also}", agents.join(", ")))
            }
            Self::NoKey { left: Some(login), .. } => {
                Some(format!("there is a login in ~/{login}: `--agent-config copy` takes it along"))
            }
            Self::NoKey { keys, .. } if keys.is_empty() => {
                Some("log in on the host, and take the login along with `--agent-config copy`".to_owned())
            }
            Self::NoKey { keys, logins, .. } => {
                let simplest = keys.iter().min_by_key(|names| names.len()).and_then(|names| names.first());
                let simplest = simplest.map_or("NAME", String::as_str);
                let login =
                    if logins.is_empty() { "" } else { "; or log in inside, in the agent's own terminal" };
                Some(format!("set it, or give it from a file: `--secret {simplest}=FILE`{login}"))
            }
            Self::Needs { variables, .. } => Some(format!(
                "set it, or give it: `-e {}=VALUE`",
                variables.first().map_or("NAME", String::as_str)
            )),
            Self::NoPrompt(_) => {
                Some("write what it is to do as its own arguments, behind two dashes".to_owned())
            }
            Self::Copy { .. } => Some("`--agent-config own` starts without your configuration".to_owned()),
            Self::PromptIsOption(_) => Some("begin it with something else".to_owned()),
            Self::NoCommand(name) => {
                Some(format!("name its program in `[agents.{name}]`: `command = [\"PROGRAM\"]`"))
            }
            Self::Secret { name, .. } => Some(format!("`--secret {name}=FILE` names another file")),
            Self::Variable { name, .. } => {
                Some(format!("set it, or give it from a file: `--secret {name}=FILE`"))
            }
            Self::Path { .. } => Some("write it as in `.tool/settings.json`".to_owned()),
        }
    }
}

/// Alternatives in words: `A, or B and C`.
pub(crate) fn alternatives<S: AsRef<[String]>>(keys: &[S]) -> String {
    keys.iter().map(|names| names.as_ref().join(" and ")).collect::<Vec<_>>().join(", or ")
}

fn by(provider: Option<&str>) -> String {
    provider.map(|provider| format!(" with the provider `{provider}`")).unwrap_or_default()
}

fn none_of(keys: &[Vec<String>], logins: &[String]) -> String {
    let logins = logins.iter().map(|login| format!("~/{login}")).collect::<Vec<_>>().join(" or ");
    match (keys.is_empty(), logins.is_empty()) {
        (false, true) => format!("{} is not set", alternatives(keys)),
        (false, false) => format!("{} is not set, and there is no login in {logins}", alternatives(keys)),
        (true, _) => format!("there is no login in {logins}"),
    }
}
