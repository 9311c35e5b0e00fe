//! Who said something.

use std::{fmt, path::Path, sync::Arc};

use serde::{Serialize, Serializer, ser::SerializeStruct};

/// Who said something. Later ones have the last word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody: it is built in.
    Default,
    /// The person, for everything they do.
    UserFile(Place),
    /// The project.
    ProjectFile(Place),
    /// A variable of this name.
    Variable(String),
    /// A flag of this name.
    Flag(&'static str),
}

/// A line of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub path: Arc<Path>,
    /// Counted from 1.
    pub line: usize,
}

/// A value, and who said it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sourced<T> {
    /// What was said.
    pub value: T,
    /// Who said it.
    pub origin: Origin,
}

impl<T> Sourced<T> {
    /// A value that somebody gave.
    pub fn new(value: T, origin: Origin) -> Self {
        Self { value, origin }
    }
}

impl Origin {
    /// Its layer in a word, for programs.
    pub fn layer(&self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::UserFile(_) => "user",
            Self::ProjectFile(_) => "project",
            Self::Variable(_) => "variable",
            Self::Flag(_) => "flag",
        }
    }

    /// The place in a file, where there is one.
    pub fn place(&self) -> Option<&Place> {
        match self {
            Self::UserFile(place) | Self::ProjectFile(place) => Some(place),
            Self::Default | Self::Variable(_) | Self::Flag(_) => None,
        }
    }

    /// The name of the variable or the flag, where it is one.
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Variable(name) => Some(name),
            Self::Flag(name) => Some(name),
            Self::Default | Self::UserFile(_) | Self::ProjectFile(_) => None,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::UserFile(place) | Self::ProjectFile(place) => {
                write!(f, "{}:{}", place.path.display(), place.line)
            }
            Self::Variable(name) => write!(f, "${name}"),
            Self::Flag(name) => f.write_str(name),
        }
    }
}

impl Serialize for Origin {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut shown = serializer.serialize_struct("Origin", 4)?;
        shown.serialize_field("layer", self.layer())?;
        shown.serialize_field("file", &self.place().map(|place| place.path.display().to_string()))?;
        shown.serialize_field("line", &self.place().map(|place| place.line))?;
        shown.serialize_field("name", &self.name())?;
        shown.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_can_be_found_again() {
        let place = Place { path: Path::new("/p/agent-shim.toml").into(), line: 3 };
        let origin = Origin::ProjectFile(place);
        assert_eq!(origin.to_string(), "/p/agent-shim.toml:3");
        let expected =
            serde_json::json!({ "layer": "project", "file": "/p/agent-shim.toml", "line": 3, "name": null });
        assert_eq!(serde_json::to_value(&origin).unwrap(), expected);
        assert_eq!(Origin::Variable("AGENT_SHIM_ENV".to_owned()).to_string(), "$AGENT_SHIM_ENV");
    }
}
