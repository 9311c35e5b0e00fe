//! What holds, key by key, and who said it.

use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};

use super::{
    origin::{Origin, Sourced},
    schema::KEYS,
    settings::{Settings, Variable},
    values,
};

/// One value.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Shown {
    /// Its key; lists have a row for each of their values.
    pub key: &'static str,
    /// Its name, where the key holds several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// As it would be written; absent where nothing was said and what holds follows from the rest.
    pub value: Option<Value>,
    /// What holds where nothing was said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub otherwise: Option<&'static str>,
    /// Who said it.
    pub origin: Origin,
}

impl Shown {
    /// The value as one line of text.
    pub fn text(&self) -> String {
        match &self.value {
            Some(Value::String(text)) => text.clone(),
            Some(value) => value.to_string(),
            None => format!("({})", self.otherwise.unwrap_or("none")),
        }
    }
}

/// Every key, in the order of the documentation.
pub fn rows(settings: &Settings) -> Vec<Shown> {
    KEYS.iter()
        .flat_map(|key| {
            let mut rows = of_key(settings, key.name);
            if rows.is_empty() {
                rows.push((None, None, Origin::Default));
            }
            rows.into_iter().map(|(name, value, origin)| {
                let otherwise = value.is_none().then_some(key.default);
                Shown { key: key.name, name, value, otherwise, origin }
            })
        })
        .collect()
}

type Row = (Option<String>, Option<Value>, Origin);

fn of_key(settings: &Settings, key: &str) -> Vec<Row> {
    let (nix, limits, snapshots) = (&settings.nix, &settings.limits, &settings.snapshots);
    match key {
        "isolation" => one(settings.isolation.as_ref()),
        "env" => one(settings.env.as_ref()),
        "workspace" => one(settings.workspace.as_ref()),
        "branch" => one(settings.branch.as_ref()),
        "all-branches" => one(settings.all_branches.as_ref()),
        "depth" => one(settings.depth.as_ref()),
        "include-dirty" => one(settings.include_dirty.as_ref()),
        "clone-objects" => one(settings.clone_objects.as_ref()),
        "sync" => one(settings.sync.as_ref()),
        "sync-idle" => {
            let idle = settings.sync_idle.as_ref();
            let text = |seconds| humantime::format_duration(Duration::from_secs(seconds)).to_string();
            one(idle.map(|idle| Sourced::new(text(idle.value), idle.origin.clone())).as_ref())
        }
        "network" => one(settings.network.as_ref()),
        "nested" => one(settings.nested.as_ref()),
        "vcpus" => one(settings.vcpus.as_ref()),
        "kernel" => one(settings.kernel.as_ref()),
        "share" => one(settings.share.as_ref()),
        "accel" => one(settings.accel.as_ref()),
        "engine" => one(settings.engine.as_ref()),
        "image" => one(settings.image.as_ref()),
        "store" => one(settings.store.as_ref()),
        "restart" => one(settings.restart.as_ref()),
        "agent" => one(settings.agent.as_ref()),
        "provider" => one(settings.provider.as_ref()),
        "prompt" => one(settings.prompt.as_ref()),
        "ask" => one(settings.ask.as_ref()),
        "agent-config" => one(settings.agent_config.as_ref()),
        "command" => one(settings.command.as_ref()),
        "mounts" => all(&settings.mounts, |mount| {
            let end = if mount.read_only { ":ro" } else { "" };
            (None, json!(format!("{}:{}{end}", mount.source.display(), mount.at)))
        }),
        "secrets" => settings
            .secrets
            .iter()
            .map(|(name, file)| (Some(name.clone()), Some(json!(file.value)), file.origin.clone()))
            .collect(),
        "variables" => settings.variables.iter().filter_map(pair).collect(),
        "env-files" => settings.variables.iter().filter_map(file).collect(),
        "nix.preset" => one(nix.preset.as_ref()),
        "nix.sets" => all(&nix.sets, |set| (None, json!(set))),
        "nix.packages" => all(&nix.packages, |package| (None, json!(package))),
        "nix.exact" => one(nix.exact.as_ref()),
        "nix.nixpkgs" => {
            let nixpkgs = nix.nixpkgs.as_ref();
            one(nixpkgs
                .map(|nixpkgs| Sourced::new(nixpkgs.value.to_string(), nixpkgs.origin.clone()))
                .as_ref())
        }
        "nix.unfree" => one(nix.unfree.as_ref()),
        "limits.memory" => one(limits.memory.as_ref()),
        "limits.cpus" => {
            let cpus = limits.cpus.as_ref();
            one(cpus.map(|cpus| Sourced::new(f64::from(cpus.value) / 1000.0, cpus.origin.clone())).as_ref())
        }
        "limits.pids" => one(limits.pids.as_ref()),
        "snapshots.every" => {
            let words = |every: &Sourced<u32>| Sourced::new(values::pause(every.value), every.origin.clone());
            one(snapshots.every.as_ref().map(words).as_ref())
        }
        "snapshots.ignored" => one(snapshots.ignored.as_ref()),
        "snapshots.keep" => one(snapshots.keep.as_ref()),
        "snapshots.days" => one(snapshots.days.as_ref()),
        "steps" => all(&settings.steps, |step| (Some(step.name.clone()), json!(step.argv))),
        "services" => all(&settings.services, |service| (Some(service.name.clone()), json!(service.argv))),
        "agents" => definitions(settings.agents.iter()),
        "providers" => definitions(settings.providers.iter()),
        _ => Vec::new(),
    }
}

fn one<T: Serialize>(value: Option<&Sourced<T>>) -> Vec<Row> {
    value.map(|value| (None, Some(json!(value.value)), value.origin.clone())).into_iter().collect()
}

fn all<T>(values: &[Sourced<T>], shown: impl Fn(&T) -> (Option<String>, Value)) -> Vec<Row> {
    let row = |value: &Sourced<T>| {
        let (name, shown) = shown(&value.value);
        (name, Some(shown), value.origin.clone())
    };
    values.iter().map(row).collect()
}

fn definitions<'a, T: Serialize + 'a>(all: impl Iterator<Item = (&'a String, &'a Sourced<T>)>) -> Vec<Row> {
    all.map(|(name, one)| (Some(name.clone()), Some(json!(one.value)), one.origin.clone())).collect()
}

fn pair(variable: &Sourced<Variable>) -> Option<Row> {
    match &variable.value {
        Variable::Pair(name, value) => {
            Some((Some(name.clone()), Some(json!(value)), variable.origin.clone()))
        }
        Variable::File(_) => None,
    }
}

fn file(variable: &Sourced<Variable>) -> Option<Row> {
    match &variable.value {
        Variable::File(path) => Some((None, Some(json!(path)), variable.origin.clone())),
        Variable::Pair(..) => None,
    }
}
