//! Where the tools of a sandbox come from: chosen from what was said, and built where Nix has to.

use std::path::Path;

use super::{
    context::Context,
    error::CliError,
    output::{clean, tell},
};
use crate::{
    agents::start::tools,
    config::settings::Settings,
    env::{
        self, Built,
        choice::{EnvChoice, EnvDefaults},
        pin::Nixpkgs,
        progress::StandardError,
        spec::{EnvSpec, SpecError},
    },
    sandbox::record::{AgentRecord, EnvKind, Environment},
};

/// From Nix if that is installed, where nobody said otherwise.
pub(crate) fn kind(settings: &Settings) -> EnvKind {
    match &settings.env {
        Some(env) => env.value,
        // Whoever names packages for this very sandbox wants them, and is told what is missing.
        None if settings.nix.is_asked_for() || env::nix_is_here() => EnvKind::Nix,
        None => {
            tell("using the host's tools: Nix is not installed (`--env host` says so without asking)");
            EnvKind::Host
        }
    }
}

/// The environment of a new sandbox.
pub(crate) fn of_new(
    settings: &Settings,
    kind: EnvKind,
    agent: Option<&AgentRecord>,
) -> Result<Environment, CliError> {
    match kind {
        EnvKind::Host => Ok(Environment::Host),
        EnvKind::Nix => named(spec(settings, agent)?),
    }
}

/// The packages that were asked for, and those that the agent brings.
pub(crate) fn spec(settings: &Settings, agent: Option<&AgentRecord>) -> Result<EnvSpec, SpecError> {
    with_agent(settings.nix.choice(), agent).to_spec(&EnvDefaults::default())
}

/// The environment of a sandbox that is there: what it was made with, unless flags change that. `persons` is what a
/// person's own configuration says, for a sandbox that was made without Nix.
pub(crate) fn of_existing(
    flags: &Settings,
    before: &Environment,
    agent: Option<&AgentRecord>,
    persons: impl FnOnce() -> Result<Settings, CliError>,
) -> Result<Environment, CliError> {
    let asked_for = flags.nix.is_asked_for() || flags.nix.nixpkgs.is_some() || flags.nix.unfree.is_some();
    match (flags.env.as_ref().map(|env| env.value), before) {
        (Some(EnvKind::Host), _) => Ok(Environment::Host),
        (None, Environment::Host) if !asked_for => Ok(Environment::Host),
        (_, Environment::Nix { spec, .. }) => {
            named(flags.nix.choice().over(choice_of(spec)).to_spec(&EnvDefaults::default())?)
        }
        (_, Environment::Host) => {
            let nixpkgs = persons()?.nix.choice().nixpkgs;
            let choice = flags.nix.choice().over(EnvChoice { nixpkgs, ..EnvChoice::default() });
            named(with_agent(choice, agent).to_spec(&EnvDefaults::default())?)
        }
    }
}

/// Builds an environment that is not there. What is returned keeps it until the record that names it is written.
///
/// Packages that lie in the project are the agent's to change, and whoever builds them does outside what they say.
pub(crate) fn ensure(
    ctx: &Context,
    environment: &Environment,
    project: &Path,
) -> Result<Option<Built>, CliError> {
    match environment {
        Environment::Nix { id, spec } if !ctx.global.dry_run => {
            if let Nixpkgs::Path(path) = &spec.nixpkgs
                && path.starts_with(project)
                && env::lookup(&ctx.data, id)?.is_none()
            {
                let path = clean(&path.display().to_string());
                tell(&format!(
                    "note: Nix does outside of the sandbox what {path} says, which the agent can change"
                ));
            }
            Ok(Some(env::ensure(&ctx.data, spec, &mut StandardError::new())?))
        }
        _ => Ok(None),
    }
}

fn named(spec: EnvSpec) -> Result<Environment, CliError> {
    Ok(Environment::Nix { id: spec.id()?, spec })
}

/// An agent brings its preset where none was chosen, or its package; and the programs that it calls.
fn with_agent(mut choice: EnvChoice, agent: Option<&AgentRecord>) -> EnvChoice {
    let Some(agent) = agent else { return choice };
    if choice.exact != Some(true) {
        let brought = tools(agent);
        if choice.preset.is_none() {
            choice.preset = brought.preset;
            choice.packages.extend(brought.package);
        }
        choice.packages.extend(brought.called);
    }
    choice
}

/// What a spec says, to be changed by what is said on top of it.
fn choice_of(spec: &EnvSpec) -> EnvChoice {
    let EnvSpec { preset, sets, packages, nixpkgs, unfree } = spec.clone();
    let exact = Some(preset.is_none());
    EnvChoice { preset, sets, packages, exact, nixpkgs: Some(nixpkgs), unfree: Some(unfree) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::origin::{Origin, Sourced},
        env::pin::Nixpkgs,
    };

    fn said<T>(value: T) -> Sourced<T> {
        Sourced::new(value, Origin::Flag("--flag"))
    }

    fn agent(name: &str) -> AgentRecord {
        AgentRecord { name: name.to_owned(), ..AgentRecord::default() }
    }

    #[allow(clippy::unnecessary_wraps)] // A stand-in for what reads files.
    fn nothing() -> Result<Settings, CliError> {
        Ok(Settings::default())
    }

    fn spec_of(environment: Environment) -> EnvSpec {
        match environment {
            Environment::Nix { spec, .. } => spec,
            Environment::Host => panic!("the host's tools"),
        }
    }

    #[test]
    fn an_agent_brings_its_preset_unless_another_was_chosen_or_packages_are_exact() {
        let mut settings = Settings::default();
        let preset = |settings: &Settings| {
            spec_of(of_new(settings, EnvKind::Nix, Some(&agent("codex"))).unwrap()).preset
        };
        assert_eq!(preset(&settings).as_deref(), Some("codex"));
        settings.nix.preset = Some(said("gemini".to_owned()));
        assert_eq!(preset(&settings).as_deref(), Some("gemini"));
        settings.nix.preset = None;
        settings.nix.exact = Some(said(true));
        settings.nix.packages = vec![said("jq".to_owned())];
        assert_eq!(preset(&settings), None);
    }

    #[test]
    fn flags_add_to_what_a_sandbox_was_made_with() {
        let mut flags = Settings::default();
        let before = of_new(&flags, EnvKind::Nix, None).unwrap();
        assert_eq!(of_existing(&flags, &before, None, nothing).unwrap(), before);
        flags.nix.sets = vec![said("go".to_owned())];
        let after = of_existing(&flags, &before, None, nothing).unwrap();
        assert_ne!(after.id(), before.id());
        let after = spec_of(after);
        assert_eq!((after.preset.as_deref(), after.sets), (Some("claude"), vec!["go".to_owned()]));
    }

    #[test]
    fn a_sandbox_changes_sides_only_when_told_to() {
        let mut flags = Settings::default();
        assert_eq!(of_existing(&flags, &Environment::Host, None, nothing).unwrap(), Environment::Host);
        flags.nix.packages = vec![said("jq".to_owned())];
        let nix = of_existing(&flags, &Environment::Host, None, nothing).unwrap();
        assert!(nix.id().is_some());
        // Where packages come from is the person's to say once for all.
        let mut own = Settings::default();
        own.nix.nixpkgs = Some(said(Nixpkgs::Path("/nixpkgs".into())));
        own.nix.sets = vec![said("go".to_owned())];
        let of_own = spec_of(of_existing(&flags, &Environment::Host, None, || Ok(own)).unwrap());
        assert_eq!((of_own.nixpkgs, of_own.sets), (Nixpkgs::Path("/nixpkgs".into()), Vec::new()));
        flags.env = Some(said(EnvKind::Host));
        assert_eq!(of_existing(&flags, &nix, None, nothing).unwrap(), Environment::Host);
    }
}
