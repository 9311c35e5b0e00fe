use serde::{Deserialize, Serialize};

use super::attach::AttachRequest;

/// One more agent beside the main one: a unit with a terminal, a log and a restart policy of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddAgent {
    /// What the unit is called; no other unit has that name.
    pub name: String,
    /// What it is, as a spec would say it: one JSON object ([`crate::spec::Agent`]).
    pub agent: String,
    /// Whether it is the main agent once more: its program where `agent` names none, its variables below those
    /// that `agent` names. So whoever asks need not know what the main agent was given, keys among it.
    pub like_main: bool,
}

/// See and drive the terminal of any agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachTo {
    /// The agent's unit; `agent` is the main one.
    pub unit: String,
    /// The rest is as for the main one.
    pub attach: AttachRequest,
}
