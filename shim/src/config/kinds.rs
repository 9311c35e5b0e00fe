//! Kinds of values: each is read in one way, wherever it stands.

use std::{collections::BTreeMap, ops::Range, path::PathBuf, time::Duration};

use agent_protocol::spec::RestartPolicy;
use clap::ValueEnum;
use serde::de::DeserializeOwned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

use super::{
    document::Document,
    error::ConfigError,
    origin::Sourced,
    read::{Name, Value, entries, meant, shown},
    settings::MountSetting,
    values,
};
use crate::isolation::NetworkChoice;

impl Document<'_> {
    pub(super) fn sourced<T>(&self, at: &Value<'_>, value: T) -> Sourced<T> {
        Sourced::new(value, self.origin(&at.span()))
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

    pub(super) fn filled(&self, value: &Value<'_>) -> Result<Sourced<String>, ConfigError> {
        let text = self.text(value)?;
        if text.trim().is_empty() {
            return Err(self.wrong(&value.span(), "it is empty"));
        }
        Ok(self.sourced(value, text))
    }

    pub(super) fn boolean(&self, value: &Value<'_>) -> Result<bool, ConfigError> {
        value.get_ref().as_bool().ok_or_else(|| self.expected(value, "true or false, without quotes"))
    }

    pub(super) fn switch(&self, value: &Value<'_>) -> Result<Sourced<bool>, ConfigError> {
        Ok(self.sourced(value, self.boolean(value)?))
    }

    /// A network, or the switch that it was.
    pub(super) fn network(&self, value: &Value<'_>) -> Result<Sourced<NetworkChoice>, ConfigError> {
        if let Some(shared) = value.get_ref().as_bool() {
            return Ok(self.sourced(value, shared.into()));
        }
        let choice =
            self.text(value)?.trim().parse().map_err(|problem: String| self.wrong(&value.span(), problem))?;
        Ok(self.sourced(value, choice))
    }

    pub(super) fn number(&self, value: &Value<'_>) -> Result<u32, ConfigError> {
        let number = value
            .get_ref()
            .as_integer()
            .and_then(|number| u32::from_str_radix(number.as_str(), number.radix()).ok());
        number.ok_or_else(|| self.expected(value, "a number that is not negative"))
    }

    /// A value that flags take as text, and that may be written as a number here.
    pub(super) fn parsed<T>(
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

    pub(super) fn choice<T: ValueEnum>(&self, value: &Value<'_>) -> Result<Sourced<T>, ConfigError> {
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

    pub(super) fn words(&self, value: &Value<'_>) -> Result<Vec<Sourced<String>>, ConfigError> {
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

    pub(super) fn name(&self, name: &Name<'_>) -> Result<String, ConfigError> {
        let text = name.get_ref();
        if text.is_empty() || text.contains(['/', '\0']) || *text == "." || *text == ".." {
            return Err(self.wrong(&name.span(), "it is not the name of a file"));
        }
        Ok(text.to_string())
    }

    /// Relative to the file's own folder; `~` is the person's home.
    pub(super) fn path(&self, text: &str, span: &Range<usize>) -> Result<PathBuf, ConfigError> {
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

    pub(super) fn mount(&self, text: &str, span: &Range<usize>) -> Result<MountSetting, ConfigError> {
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
    pub(super) fn definitions<T: DeserializeOwned>(
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
