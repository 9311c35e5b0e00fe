//! From TOML to settings, for files and variables alike. Whatever is unknown or of the wrong kind is an error that shows
//! the place.

use std::borrow::Cow;

use agent_protocol::spec::ShareKind;
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    document::Document,
    error::ConfigError,
    origin::Sourced,
    schema::{KEYS, Kind},
    settings::{Settings, Variable},
    values,
};
use crate::env::{nearest::nearest, pin::Nixpkgs};

pub(super) type Value<'a> = Spanned<DeValue<'a>>;
pub(super) type Name<'a> = Spanned<Cow<'a, str>>;

/// Tables that only hold keys of ours.
const TABLES: [&str; 3] = ["nix", "limits", "snapshots"];

/// Why a text for a shell is refused there.
pub(super) const SHELL_BESIDE_AGENT: &str = "beside `agent` it is a list of further arguments";

/// Reads a whole file.
pub(super) fn file(document: &Document<'_>) -> Result<Settings, ConfigError> {
    let whole = DeTable::parse(document.text).map_err(|error| {
        let end = document.text.len()..document.text.len();
        document.wrong(&error.span().unwrap_or(end), error.message().trim())
    })?;
    let mut settings = Settings::default();
    for (name, value) in entries(whole.get_ref()) {
        match TABLES.iter().find(|table| *table == name.get_ref()) {
            Some(table) => {
                for (name, value) in entries(document.table(value)?) {
                    document.set(&mut settings, table, name, value)?;
                }
            }
            None => document.set(&mut settings, "", name, value)?,
        }
    }
    match whole.get_ref().get("command") {
        Some(command) if settings.agent.is_some() && command.get_ref().is_str() => {
            Err(document.wrong(&command.span(), SHELL_BESIDE_AGENT))
        }
        _ => Ok(settings),
    }
}

/// Reads one key's text from a variable: as a flag would be written, or as TOML where there is more to say.
pub(super) fn variable(
    document: &Document<'_>,
    key: &str,
    kind: Kind,
    settings: &mut Settings,
) -> Result<(), ConfigError> {
    let text = document.text;
    let is_toml = match kind {
        Kind::Switch | Kind::Network => ["true", "false"].contains(&text.trim()),
        Kind::Words | Kind::List | Kind::Command => text.trim_start().starts_with('['),
        Kind::Table | Kind::Tables => true,
        Kind::Choice(_) | Kind::Text | Kind::Size | Kind::Number | Kind::Time => false,
    };
    let value = if is_toml {
        DeValue::parse(text.trim())
            .map_err(|error| document.wrong(&error.span().unwrap_or(0..text.len()), error.message().trim()))?
    } else {
        Spanned::new(0..text.len(), DeValue::String(Cow::Borrowed(text)))
    };
    document.value(settings, key, &value)
}

/// What is in a table, in the order of the text.
pub(super) fn entries<'t, 'a>(table: &'t DeTable<'a>) -> Vec<(&'t Name<'a>, &'t Value<'a>)> {
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(name, _)| name.span().start);
    entries
}

impl Document<'_> {
    fn set(
        &self,
        settings: &mut Settings,
        table: &str,
        name: &Name<'_>,
        value: &Value<'_>,
    ) -> Result<(), ConfigError> {
        let full =
            if table.is_empty() { name.get_ref().to_string() } else { format!("{table}.{}", name.get_ref()) };
        if full.contains('.') != table.is_empty() && KEYS.iter().any(|key| key.name == full) {
            return self.value(settings, &full, value);
        }
        let inside = |key: &'static str| match key.split_once('.') {
            Some((of, rest)) => (of == table).then_some(rest),
            None => table.is_empty().then_some(key),
        };
        let tables = TABLES.into_iter().filter(|_| table.is_empty());
        let known: Vec<&str> = KEYS.iter().filter_map(|key| inside(key.name)).chain(tables).collect();
        let error = self.unknown(name, &known);
        // A key that is known, in another table.
        let elsewhere = KEYS
            .iter()
            .find(|key| key.name == *name.get_ref() || key.name.rsplit('.').next() == Some(name.get_ref()));
        Err(match elsewhere {
            Some(key) => error.hint(match key.name.split_once('.') {
                Some((table, _)) => format!("it belongs into the table [{table}]"),
                None => "it belongs above the first table".to_owned(),
            }),
            None => error,
        })
    }

    /// Sets one key. The names are those of [`KEYS`]; a test holds that each is here.
    fn value(&self, settings: &mut Settings, key: &str, value: &Value<'_>) -> Result<(), ConfigError> {
        let (nix, limits) = (&mut settings.nix, &mut settings.limits);
        let snapshots = &mut settings.snapshots;
        match key {
            "isolation" => settings.isolation = Some(self.choice(value)?),
            "env" => settings.env = Some(self.choice(value)?),
            "workspace" => settings.workspace = Some(self.choice(value)?),
            "branch" => settings.branch = Some(self.filled(value)?),
            "all-branches" => settings.all_branches = Some(self.switch(value)?),
            "depth" => settings.depth = Some(self.parsed(value, values::depth)?),
            "include-dirty" => settings.include_dirty = Some(self.switch(value)?),
            "clone-objects" => settings.clone_objects = Some(self.choice(value)?),
            "sync" => settings.sync = Some(self.choice(value)?),
            "sync-idle" => settings.sync_idle = Some(self.parsed(value, values::seconds)?),
            "network" => settings.network = Some(self.network(value)?),
            "nested" => settings.nested = Some(self.switch(value)?),
            "vcpus" => settings.vcpus = Some(self.parsed(value, values::vcpus)?),
            "kernel" => {
                let kernel = self.path(&self.filled(value)?.value, &value.span())?;
                settings.kernel = Some(self.sourced(value, kernel));
            }
            "share" => {
                let known = [("virtiofs", ShareKind::Virtiofs), ("9p", ShareKind::Plan9)];
                settings.share = Some(self.sourced(value, self.one_of(value, &known)?));
            }
            "accel" => settings.accel = Some(self.choice(value)?),
            "engine" => settings.engine = Some(self.choice(value)?),
            "image" => settings.image = Some(self.parsed(value, values::image)?),
            "store" => settings.store = Some(self.choice(value)?),
            "restart" => settings.restart = Some(self.sourced(value, self.restart_policy(value)?)),
            "agent" => settings.agent = Some(self.filled(value)?),
            "provider" => settings.provider = Some(self.filled(value)?),
            "prompt" => settings.prompt = Some(self.filled(value)?),
            "ask" => settings.ask = Some(self.switch(value)?),
            "agent-config" => settings.agent_config = Some(self.choice(value)?),
            "command" => settings.command = Some(self.sourced(value, self.command(value)?)),
            "mounts" => {
                for (text, span) in self.list(value)? {
                    let mount = self.mount(&text, &span)?;
                    if settings.mounts.iter().any(|other| other.value.at == mount.at) {
                        return Err(self.wrong(&span, format!("`{}` is there twice", mount.at)));
                    }
                    settings.mounts.push(Sourced::new(mount, self.origin(&span)));
                }
            }
            "secrets" => {
                for (name, text) in entries(self.table(value)?) {
                    let file = self.path(&self.text(text)?, &text.span())?;
                    settings.secrets.insert(self.name(name)?, Sourced::new(file, self.origin(&name.span())));
                }
            }
            "variables" => {
                for (name, value) in self.variables(value)? {
                    let origin = self.origin(&name.span());
                    let pair = Variable::Pair(name.get_ref().to_string(), value);
                    settings.variables.push(Sourced::new(pair, origin));
                }
            }
            "env-files" => {
                let files = self.list(value)?.into_iter().map(|(text, span)| {
                    Ok(Sourced::new(Variable::File(self.path(&text, &span)?), self.origin(&span)))
                });
                // What is said one by one has the last word over what is said in a file, wherever it stands.
                let files = files.collect::<Result<Vec<_>, ConfigError>>()?;
                settings.variables.splice(0..0, files);
            }
            "nix.preset" => nix.preset = Some(self.filled(value)?),
            "nix.sets" => nix.sets = self.words(value)?,
            "nix.packages" => nix.packages = self.words(value)?,
            "nix.exact" => nix.exact = Some(self.switch(value)?),
            "nix.nixpkgs" => {
                let nixpkgs = Nixpkgs::parse(&self.text(value)?, self.base)
                    .map_err(|error| self.wrong(&value.span(), error.to_string()).hint(error.hint()))?;
                nix.nixpkgs = Some(self.sourced(value, nixpkgs));
            }
            "nix.unfree" => nix.unfree = Some(self.switch(value)?),
            "limits.memory" => limits.memory = Some(self.parsed(value, values::bytes)?),
            "limits.cpus" => limits.cpus = Some(self.parsed(value, values::cpus)?),
            "limits.pids" => limits.pids = Some(self.parsed(value, pids)?),
            "snapshots.every" => snapshots.every = Some(self.parsed(value, values::every)?),
            "snapshots.ignored" => snapshots.ignored = Some(self.switch(value)?),
            "snapshots.keep" => snapshots.keep = Some(self.parsed(value, |text| up_to(text, 1000))?),
            "snapshots.days" => snapshots.days = Some(self.parsed(value, |text| up_to(text, 365))?),
            "steps" => settings.steps = self.steps(value)?,
            "services" => settings.services = self.services(value)?,
            "agents" => settings.agents = self.definitions(value)?,
            "providers" => settings.providers = self.definitions(value)?,
            _ => return Err(self.wrong(&value.span(), "it is no setting")),
        }
        Ok(())
    }

    /// Names what was probably meant, or what there is.
    pub(super) fn unknown(&self, name: &Name<'_>, known: &[&str]) -> ConfigError {
        let error = self.wrong(&name.span(), format!("unknown key `{}`", shown(name.get_ref())));
        error.hint(meant(name.get_ref(), known))
    }
}

fn pids(text: &str) -> Result<u64, String> {
    let number = text.parse().ok().filter(|number| *number > 0);
    number.ok_or_else(|| "write a number above 0".to_owned())
}

fn up_to(text: &str, most: u32) -> Result<u32, String> {
    let number = text.parse().ok().filter(|number| (1..=most).contains(number));
    number.ok_or_else(|| format!("write a number from 1 to {most}"))
}

/// What was probably meant, or what there is.
pub(super) fn meant(word: &str, known: &[&str]) -> String {
    match nearest(word, known.iter().copied()) {
        Some(nearest) => format!("did you mean `{nearest}`?"),
        None => format!("there are {}", known.join(", ")),
    }
}

/// A word as it may stand in a message.
pub(super) fn shown(word: &str) -> String {
    word.chars().take(60).collect()
}
