//! From TOML to settings, for files and variables alike. Whatever is unknown or of the wrong kind is an error that shows
//! the place.

use std::{borrow::Cow, collections::BTreeMap, ops::Range, path::PathBuf, time::Duration};

use agent_protocol::spec::RestartPolicy;
use clap::ValueEnum;
use serde::de::DeserializeOwned;
use toml::{
    Spanned,
    de::{DeTable, DeValue, ValueDeserializer},
};

use super::{
    document::Document,
    error::ConfigError,
    origin::Sourced,
    schema::{KEYS, Kind},
    settings::{MountSetting, Settings, Variable},
    values,
};
use crate::env::{nearest::nearest, pin::Nixpkgs};

pub(super) type Value<'a> = Spanned<DeValue<'a>>;
pub(super) type Name<'a> = Spanned<Cow<'a, str>>;

/// Tables that only hold keys of ours.
const TABLES: [&str; 2] = ["nix", "limits"];

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
        Kind::Switch => ["true", "false"].contains(&text.trim()),
        Kind::Words | Kind::List | Kind::Command => text.trim_start().starts_with('['),
        Kind::Table | Kind::Tables => true,
        Kind::Choice(_) | Kind::Text | Kind::Size | Kind::Number => false,
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
        match key {
            "isolation" => settings.isolation = Some(self.choice(value)?),
            "env" => settings.env = Some(self.choice(value)?),
            "workspace" => settings.workspace = Some(self.choice(value)?),
            "network" => settings.network = Some(self.switch(value)?),
            "nested" => settings.nested = Some(self.switch(value)?),
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
            "steps" => settings.steps = self.steps(value)?,
            "services" => settings.services = self.services(value)?,
            "agents" => settings.agents = self.definitions(value)?,
            "providers" => settings.providers = self.definitions(value)?,
            _ => return Err(self.wrong(&value.span(), "it is no setting")),
        }
        Ok(())
    }

    fn sourced<T>(&self, at: &Value<'_>, value: T) -> Sourced<T> {
        Sourced::new(value, self.origin(&at.span()))
    }

    /// Names what was probably meant, or what there is.
    pub(super) fn unknown(&self, name: &Name<'_>, known: &[&str]) -> ConfigError {
        let error = self.wrong(&name.span(), format!("unknown key `{}`", shown(name.get_ref())));
        error.hint(meant(name.get_ref(), known))
    }

    pub(super) fn expected(&self, value: &Value<'_>, what: &str) -> ConfigError {
        let found = match value.get_ref() {
            DeValue::String(_) => "text",
            DeValue::Integer(_) | DeValue::Float(_) => "a number",
            DeValue::Boolean(_) => "true or false",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        };
        self.wrong(&value.span(), format!("expected {what}, found {found}"))
    }

    pub(super) fn table<'t, 'a>(&self, value: &'t Value<'a>) -> Result<&'t DeTable<'a>, ConfigError> {
        value.get_ref().as_table().ok_or_else(|| self.expected(value, "a table"))
    }

    /// A list of tables; a single one is a list of one.
    pub(super) fn tables<'t, 'a>(
        &self,
        value: &'t Value<'a>,
    ) -> Result<Vec<(&'t Value<'a>, &'t DeTable<'a>)>, ConfigError> {
        match value.get_ref() {
            DeValue::Array(list) => list.iter().map(|one| Ok((one, self.table(one)?))).collect(),
            _ => Err(self.expected(value, "tables in double brackets")),
        }
    }

    pub(super) fn text(&self, value: &Value<'_>) -> Result<String, ConfigError> {
        match value.get_ref() {
            DeValue::String(text) if text.contains('\0') => {
                Err(self.wrong(&value.span(), "it contains a NUL"))
            }
            DeValue::String(text) => Ok(text.to_string()),
            _ => Err(self.expected(value, "text in quotes")),
        }
    }

    fn filled(&self, value: &Value<'_>) -> Result<Sourced<String>, ConfigError> {
        let text = self.text(value)?;
        if text.trim().is_empty() {
            return Err(self.wrong(&value.span(), "it is empty"));
        }
        Ok(self.sourced(value, text))
    }

    pub(super) fn boolean(&self, value: &Value<'_>) -> Result<bool, ConfigError> {
        value.get_ref().as_bool().ok_or_else(|| self.expected(value, "true or false, without quotes"))
    }

    fn switch(&self, value: &Value<'_>) -> Result<Sourced<bool>, ConfigError> {
        Ok(self.sourced(value, self.boolean(value)?))
    }

    pub(super) fn number(&self, value: &Value<'_>) -> Result<u32, ConfigError> {
        let number = value
            .get_ref()
            .as_integer()
            .and_then(|number| u32::from_str_radix(number.as_str(), number.radix()).ok());
        number.ok_or_else(|| self.expected(value, "a number that is not negative"))
    }

    /// A value that flags take as text, and that may be written as a number here.
    fn parsed<T>(
        &self,
        value: &Value<'_>,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Sourced<T>, ConfigError> {
        let text = match value.get_ref() {
            DeValue::String(text) => text.to_string(),
            DeValue::Integer(number) if number.radix() == 10 => number.as_str().to_owned(),
            DeValue::Float(number) => number.as_str().to_owned(),
            _ => return Err(self.expected(value, "a number or text")),
        };
        match parse(text.trim()) {
            Ok(parsed) => Ok(self.sourced(value, parsed)),
            Err(problem) => Err(self.wrong(&value.span(), problem)),
        }
    }

    fn choice<T: ValueEnum>(&self, value: &Value<'_>) -> Result<Sourced<T>, ConfigError> {
        let known: Vec<(String, &T)> = T::value_variants()
            .iter()
            .filter_map(|one| Some((one.to_possible_value()?.get_name().to_owned(), one)))
            .collect();
        let known: Vec<(&str, T)> = known.iter().map(|(name, one)| (name.as_str(), (*one).clone())).collect();
        Ok(self.sourced(value, self.one_of(value, &known)?))
    }

    pub(super) fn one_of<T: Clone>(&self, value: &Value<'_>, known: &[(&str, T)]) -> Result<T, ConfigError> {
        let text = self.text(value)?;
        if let Some((_, one)) = known.iter().find(|(name, _)| *name == text.trim()) {
            return Ok(one.clone());
        }
        let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
        let error = self.wrong(&value.span(), format!("`{}` is not one of the choices", shown(&text)));
        Err(error.hint(meant(&text, &names)))
    }

    pub(super) fn restart_policy(&self, value: &Value<'_>) -> Result<RestartPolicy, ConfigError> {
        let known = [
            ("always", RestartPolicy::Always),
            ("on-failure", RestartPolicy::OnFailure),
            ("never", RestartPolicy::Never),
        ];
        self.one_of(value, &known)
    }

    /// Texts and where they stand; one text is a list of one.
    pub(super) fn list(&self, value: &Value<'_>) -> Result<Vec<(String, Range<usize>)>, ConfigError> {
        match value.get_ref() {
            DeValue::Array(list) => list.iter().map(|one| Ok((self.text(one)?, one.span()))).collect(),
            DeValue::String(_) => Ok(vec![(self.text(value)?, value.span())]),
            _ => Err(self.expected(value, "a list of texts")),
        }
    }

    fn words(&self, value: &Value<'_>) -> Result<Vec<Sourced<String>>, ConfigError> {
        let list = self.list(value)?;
        Ok(list.into_iter().map(|(text, span)| Sourced::new(text, self.origin(&span))).collect())
    }

    /// Text is for a shell, a list is the program and its arguments.
    pub(super) fn command(&self, value: &Value<'_>) -> Result<Vec<String>, ConfigError> {
        let command = match value.get_ref() {
            DeValue::String(text) if text.trim().is_empty() => Vec::new(),
            DeValue::String(_) => vec!["/bin/sh".to_owned(), "-c".to_owned(), self.text(value)?],
            DeValue::Array(list) => list.iter().map(|one| self.text(one)).collect::<Result<_, _>>()?,
            _ => {
                return Err(
                    self.expected(value, "a list of a program and its arguments, or text for a shell")
                );
            }
        };
        match command.first() {
            Some(program) if !program.is_empty() => Ok(command),
            _ => Err(self.wrong(&value.span(), "it names no program")),
        }
    }

    pub(super) fn variables<'t, 'a>(
        &self,
        value: &'t Value<'a>,
    ) -> Result<Vec<(&'t Name<'a>, String)>, ConfigError> {
        let entries = entries(self.table(value)?);
        let pairs = entries.into_iter().map(|(name, value)| {
            if name.get_ref().is_empty() || name.get_ref().contains(['=', '\0']) {
                return Err(self.wrong(&name.span(), "it is not the name of a variable"));
            }
            Ok((name, self.text(value)?))
        });
        pairs.collect()
    }

    pub(super) fn variable_map(&self, value: &Value<'_>) -> Result<BTreeMap<String, String>, ConfigError> {
        let pairs = self.variables(value)?;
        Ok(pairs.into_iter().map(|(name, value)| (name.get_ref().to_string(), value)).collect())
    }

    fn name(&self, name: &Name<'_>) -> Result<String, ConfigError> {
        let text = name.get_ref();
        if text.is_empty() || text.contains(['/', '\0']) || *text == "." || *text == ".." {
            return Err(self.wrong(&name.span(), "it is not the name of a file"));
        }
        Ok(text.to_string())
    }

    /// Relative to the file's own folder; `~` is the person's home.
    fn path(&self, text: &str, span: &Range<usize>) -> Result<PathBuf, ConfigError> {
        if text.is_empty() || text.contains('\0') {
            return Err(self.wrong(span, "it is not a path"));
        }
        let path = match (text.strip_prefix('~'), self.home) {
            (Some(rest), Some(home)) if rest.is_empty() || rest.starts_with('/') => {
                home.join(rest.trim_start_matches('/'))
            }
            (Some(rest), None) if rest.is_empty() || rest.starts_with('/') => {
                return Err(self.wrong(span, "there is no home folder to put for `~`").hint("set HOME"));
            }
            _ => PathBuf::from(text),
        };
        Ok(self.base.join(path))
    }

    fn mount(&self, text: &str, span: &Range<usize>) -> Result<MountSetting, ConfigError> {
        let mount = values::mount(text).map_err(|problem| self.wrong(span, problem))?;
        let source = self.path(&mount.source, span)?;
        Ok(MountSetting { source, at: mount.at, read_only: mount.read_only })
    }

    /// A time such as `"90s"`, or a number of seconds.
    pub(super) fn time(&self, value: &Value<'_>) -> Result<u64, ConfigError> {
        let time = match value.get_ref() {
            DeValue::Integer(_) => Duration::from_secs(self.number(value)?.into()),
            DeValue::String(text) => {
                values::any_duration(text.trim()).map_err(|problem| self.wrong(&value.span(), problem))?
            }
            _ => return Err(self.expected(value, "a time, such as \"90s\"")),
        };
        u64::try_from(time.as_millis()).map_err(|_| self.wrong(&value.span(), "it is too long"))
    }

    /// `[agents.NAME]` and the like, whose types know their own keys.
    fn definitions<T: DeserializeOwned>(
        &self,
        value: &Value<'_>,
    ) -> Result<BTreeMap<String, Sourced<T>>, ConfigError> {
        let one = |(name, value): (&Name<'_>, &Value<'_>)| {
            self.table(value)?;
            let read = T::deserialize(ValueDeserializer::from(value.clone()));
            let read = read.map_err(|error| self.of_serde(&error, value))?;
            Ok((name.get_ref().to_string(), Sourced::new(read, self.origin(&name.span()))))
        };
        entries(self.table(value)?).into_iter().map(one).collect()
    }

    /// What serde says of an unknown field names all there are, which is how ours are told too.
    fn of_serde(&self, error: &toml::de::Error, value: &Value<'_>) -> ConfigError {
        let span = error.span().unwrap_or_else(|| value.span());
        let mut quoted = error.message().split('`').skip(1).step_by(2);
        match (error.message().starts_with("unknown field"), quoted.next()) {
            (true, Some(field)) => {
                let known: Vec<&str> = quoted.collect();
                self.wrong(&span, format!("unknown key `{}`", shown(field))).hint(meant(field, &known))
            }
            _ => self.wrong(&span, error.message().trim()),
        }
    }
}

fn pids(text: &str) -> Result<u64, String> {
    let number = text.parse().ok().filter(|number| *number > 0);
    number.ok_or_else(|| "write a number above 0".to_owned())
}

/// What was probably meant, or what there is.
pub(super) fn meant(word: &str, known: &[&str]) -> String {
    match nearest(word, known.iter().copied()) {
        Some(nearest) => format!("did you mean `{nearest}`?"),
        None => format!("there are {}", known.join(", ")),
    }
}

/// A word as it may stand in a message.
fn shown(word: &str) -> String {
    word.chars().take(60).collect()
}
