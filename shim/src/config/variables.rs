//! The layer of the environment: `AGENT_SHIM_*`.

use std::{ffi::OsString, path::Path};

use super::{
    document::{Document, Source},
    error::ConfigError,
    read,
    schema::{KEYS, Kind, OTHER_VARIABLES, PREFIX},
    settings::Settings,
};
use crate::env::nearest::nearest;

/// Reads the variables of ours among these. Paths in them are relative to `base`. One that is empty counts as not set.
pub fn settings(
    variables: impl IntoIterator<Item = (OsString, OsString)>,
    base: &Path,
    home: Option<&Path>,
) -> Result<Settings, ConfigError> {
    let mut ours: Vec<(String, OsString)> = variables
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
        .filter(|(name, _)| name.starts_with(PREFIX) && !OTHER_VARIABLES.contains(&name.as_str()))
        .collect();
    // Whatever order they come in, the same one is complained about.
    ours.sort();
    let mut settings = Settings::default();
    let mut shell_command = None;
    for (name, value) in ours {
        let Some(key) = KEYS.iter().find(|key| key.variable() == name) else { return Err(unknown(&name)) };
        let Some(text) = value.to_str() else {
            return Err(ConfigError::written(format!("${name}: it is not UTF-8")));
        };
        let document = Document { source: Source::Variable(name), text, base, home };
        read::variable(&document, key.name, key.kind, &mut settings)?;
        if key.kind == Kind::Command && !text.trim_start().starts_with('[') {
            shell_command = Some(document.wrong(&(0..text.len()), read::SHELL_BESIDE_AGENT));
        }
    }
    match (shell_command, &settings.agent) {
        (Some(error), Some(_)) => Err(error),
        _ => Ok(settings),
    }
}

fn unknown(name: &str) -> ConfigError {
    let known: Vec<String> =
        KEYS.iter().map(super::schema::Key::variable).chain(OTHER_VARIABLES.map(str::to_owned)).collect();
    // All begin alike, which would make any two of them similar.
    let rest = |name: &'_ str| name.get(PREFIX.len()..).unwrap_or_default().to_owned();
    let rests: Vec<String> = known.iter().map(|name| rest(name)).collect();
    let error = ConfigError::written(format!("${name}: there is no such setting"));
    error.hint(match nearest(&rest(name), rests.iter().map(String::as_str)) {
        Some(meant) => format!("did you mean `{PREFIX}{meant}`? An unset or empty variable sets nothing"),
        None => {
            format!("unset it; those there are begin with {PREFIX} and are named after the keys of a file")
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{origin::Origin, settings::Variable};

    fn read(variables: &[(&str, &str)]) -> Result<Settings, ConfigError> {
        let variables = variables.iter().map(|(name, value)| (name.into(), value.into()));
        settings(variables, Path::new("/base"), Some(Path::new("/home/me")))
    }

    #[test]
    fn a_variable_is_written_as_the_flag_is_or_as_toml() {
        let settings = read(&[
            ("AGENT_SHIM_ENV", "host"),
            ("AGENT_SHIM_NETWORK", "false"),
            ("AGENT_SHIM_KERNEL", "~/k/vmlinuz"),
            ("AGENT_SHIM_NIX_SETS", "go, rust"),
            ("AGENT_SHIM_NIX_PACKAGES", "[\"jq\", \"fd\"]"),
            ("AGENT_SHIM_LIMITS_MEMORY", "2G"),
            ("AGENT_SHIM_MOUNTS", "~/a:/a:ro"),
            ("AGENT_SHIM_VARIABLES", "{ A = \"1\" }"),
            ("AGENT_SHIM_STEPS", "[{ name = \"x\", command = \"y\" }]"),
            ("AGENT_SHIM_PROMPT", "[fix it]"),
            ("AGENT_SHIM_COMMAND", "echo hi"),
            ("PATH", "/bin"),
            ("AGENT_SHIM_DATA", "/data"),
            ("AGENT_SHIM_AGENT", ""),
        ])
        .unwrap();
        let env = settings.env.unwrap();
        assert_eq!(
            (env.value, env.origin),
            (crate::sandbox::record::EnvKind::Host, Origin::Variable("AGENT_SHIM_ENV".to_owned()))
        );
        assert!(settings.network.unwrap().value.is_none());
        assert_eq!(settings.kernel.unwrap().value, Path::new("/home/me/k/vmlinuz"));
        assert_eq!((settings.nix.sets.len(), settings.nix.packages.len()), (1, 2));
        assert_eq!(settings.limits.memory.unwrap().value, 2 << 30);
        assert_eq!(settings.mounts[0].value.source, Path::new("/home/me/a"));
        assert_eq!(settings.variables[0].value, Variable::Pair("A".to_owned(), "1".to_owned()));
        assert_eq!((settings.steps.len(), settings.agent), (1, None));
        assert_eq!(settings.prompt.unwrap().value, "[fix it]");
        assert_eq!(settings.command.unwrap().value, ["/bin/sh", "-c", "echo hi"]);
    }

    #[test]
    fn what_is_wrong_is_told_with_the_variables_name() {
        let error = |name: &str, value: &str| read(&[(name, value)]).unwrap_err();
        let unknown = error("AGENT_SHIM_NETWRK", "1");
        assert_eq!(unknown.message, "$AGENT_SHIM_NETWRK: there is no such setting");
        assert!(unknown.hint.unwrap().contains("`AGENT_SHIM_NETWORK`"));
        assert!(error("AGENT_SHIM_DATE", "1").hint.unwrap().contains("`AGENT_SHIM_DATA`"));
        assert!(error("AGENT_SHIM_XYZZY", "1").hint.unwrap().contains("unset it"));
        assert!(error("AGENT_SHIM_NETWORK", "yes").message.contains("write auto, host, none"));
        let wrong = error("AGENT_SHIM_ENV", "hots");
        assert_eq!(wrong.hint.as_deref(), Some("did you mean `host`?"));
        assert_eq!(wrong.excerpt, ["hots", "^^^^"]);
        assert!(error("AGENT_SHIM_STEPS", "[{").message.starts_with("$AGENT_SHIM_STEPS: "));
    }

    #[test]
    fn further_arguments_of_an_agent_are_no_text_for_a_shell() {
        assert!(read(&[("AGENT_SHIM_AGENT", "claude"), ("AGENT_SHIM_COMMAND", "--x")]).is_err());
        assert!(read(&[("AGENT_SHIM_AGENT", "claude"), ("AGENT_SHIM_COMMAND", "[\"--x\"]")]).is_ok());
    }
}
