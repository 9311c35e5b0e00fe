//! An agent that is known by name, and what of the person's configuration of it gets in.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::MountRecord;
use crate::agents::{Definition, Provider};

/// An agent that is known by name, and how it is to be started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentRecord {
    /// Its name.
    pub name: String,
    /// Further arguments.
    #[serde(default)]
    pub arguments: Vec<String>,
    /// Whose models it uses, if that was said.
    #[serde(default)]
    pub provider: Option<String>,
    /// What it is to do first.
    #[serde(default)]
    pub prompt: Option<String>,
    /// How many of the command's last arguments are the first prompt of its last start.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub prompt_arguments: usize,
    /// Whether it keeps its own permission prompts.
    #[serde(default)]
    pub ask: bool,
    /// What of the person's configuration of it gets in.
    #[serde(default)]
    pub config: AgentConfig,
    /// What was configured about it, on top of what is built in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub definition: Option<Definition>,
    /// What was configured about providers, on top of what is built in.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub providers: BTreeMap<String, Provider>,
    /// Variables it got at its last start, keys excepted.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub variables: BTreeMap<String, String>,
    /// The names of the keys it got; their values are nowhere.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<String>,
    /// What of the person's configuration was mounted, as it was found at its last start.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<MountRecord>,
}

/// What of a person's configuration of an agent enters a sandbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum AgentConfig {
    /// Nothing: the agent has its own, kept in the sandbox's home
    #[default]
    Own,
    /// A copy, made when the sandbox is new
    Copy,
    /// The files themselves, read-only; a copy of those that the agent must replace
    ReadOnly,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde calls it with a reference to the field.
fn is_zero(number: &usize) -> bool {
    *number == 0
}
