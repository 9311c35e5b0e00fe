//! How layers are laid over each other: single values replace, what has a name replaces its namesake, packages add up.
//!
//! Layers are laid from the lowest to the highest. One that says nothing changes nothing.

use std::collections::BTreeMap;

use super::{
    origin::Sourced,
    settings::{LimitSettings, NixSettings, Settings, SnapshotSettings},
};
use crate::agents::{Definition, Provider};

impl Settings {
    /// All layers as one, the last having the last word.
    pub fn layered(layers: impl IntoIterator<Item = Self>) -> Self {
        layers.into_iter().fold(Self::default(), |lower, upper| upper.over(lower))
    }

    /// This layer on top of a `lower` one.
    #[must_use]
    pub fn over(self, lower: Self) -> Self {
        let (agent, command) = agent_over((self.agent, self.command), (lower.agent, lower.command));
        Self {
            isolation: self.isolation.or(lower.isolation),
            env: self.env.or(lower.env),
            workspace: self.workspace.or(lower.workspace),
            branch: self.branch.or(lower.branch),
            all_branches: self.all_branches.or(lower.all_branches),
            depth: self.depth.or(lower.depth),
            include_dirty: self.include_dirty.or(lower.include_dirty),
            clone_objects: self.clone_objects.or(lower.clone_objects),
            sync: self.sync.or(lower.sync),
            sync_idle: self.sync_idle.or(lower.sync_idle),
            network: self.network.or(lower.network),
            nested: self.nested.or(lower.nested),
            vcpus: self.vcpus.or(lower.vcpus),
            kernel: self.kernel.or(lower.kernel),
            share: self.share.or(lower.share),
            accel: self.accel.or(lower.accel),
            engine: self.engine.or(lower.engine),
            image: self.image.or(lower.image),
            store: self.store.or(lower.store),
            restart: self.restart.or(lower.restart),
            agent,
            provider: self.provider.or(lower.provider),
            prompt: self.prompt.or(lower.prompt),
            ask: self.ask.or(lower.ask),
            agent_config: self.agent_config.or(lower.agent_config),
            command,
            mounts: by_name(lower.mounts, self.mounts, |mount| &mount.at),
            secrets: map_over(self.secrets, lower.secrets),
            variables: joined(lower.variables, self.variables),
            nix: self.nix.over(lower.nix),
            limits: self.limits.over(lower.limits),
            snapshots: self.snapshots.over(lower.snapshots),
            steps: by_name(lower.steps, self.steps, |step| &step.name),
            services: by_name(lower.services, self.services, |service| &service.name),
            agents: definitions_over(self.agents, lower.agents, Definition::or),
            providers: definitions_over(self.providers, lower.providers, Provider::or),
        }
    }
}

impl NixSettings {
    fn over(self, lower: Self) -> Self {
        let lower = match &self.exact {
            // "These and no others" holds against the layers below, or it would mean something else on every machine.
            Some(Sourced { value: true, .. }) => {
                Self { preset: None, sets: Vec::new(), packages: Vec::new(), ..lower }
            }
            _ => lower,
        };
        Self {
            preset: self.preset.or(lower.preset),
            sets: joined(lower.sets, self.sets),
            packages: joined(lower.packages, self.packages),
            exact: self.exact.or(lower.exact),
            nixpkgs: self.nixpkgs.or(lower.nixpkgs),
            unfree: self.unfree.or(lower.unfree),
        }
    }
}

impl LimitSettings {
    fn over(self, lower: Self) -> Self {
        Self {
            memory: self.memory.or(lower.memory),
            cpus: self.cpus.or(lower.cpus),
            pids: self.pids.or(lower.pids),
        }
    }
}

impl SnapshotSettings {
    fn over(self, lower: Self) -> Self {
        Self {
            every: self.every.or(lower.every),
            ignored: self.ignored.or(lower.ignored),
            keep: self.keep.or(lower.keep),
            days: self.days.or(lower.days),
        }
    }
}

type Agent = (Option<Sourced<String>>, Option<Sourced<Vec<String>>>);

/// An agent's name and a command are two answers to one question. Together in a layer the command is the agent's further
/// arguments; either alone in a later layer replaces both.
fn agent_over(upper: Agent, lower: Agent) -> Agent {
    if upper.0.is_some() || upper.1.is_some() { upper } else { lower }
}

fn joined<T>(mut lower: Vec<T>, upper: Vec<T>) -> Vec<T> {
    lower.extend(upper);
    lower
}

/// A namesake takes the place of the one below, so that an order stays what it was.
fn by_name<T>(
    mut lower: Vec<Sourced<T>>,
    upper: Vec<Sourced<T>>,
    name: impl Fn(&T) -> &String,
) -> Vec<Sourced<T>> {
    for new in upper {
        match lower.iter_mut().find(|old| name(&old.value) == name(&new.value)) {
            Some(old) => *old = new,
            None => lower.push(new),
        }
    }
    lower
}

fn map_over<T>(upper: BTreeMap<String, T>, mut lower: BTreeMap<String, T>) -> BTreeMap<String, T> {
    lower.extend(upper);
    lower
}

/// Definitions are merged part by part: who changes one thing of an agent says that one thing.
fn definitions_over<T>(
    upper: BTreeMap<String, Sourced<T>>,
    mut lower: BTreeMap<String, Sourced<T>>,
    or: impl Fn(T, T) -> T,
) -> BTreeMap<String, Sourced<T>> {
    for (name, Sourced { value, origin }) in upper {
        let value = match lower.remove(&name) {
            Some(below) => or(value, below.value),
            None => value,
        };
        lower.insert(name, Sourced::new(value, origin));
    }
    lower
}
