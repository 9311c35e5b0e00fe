//! Variables for the agent that no file of ours ever holds: keys, taken from the person's environment for one start.
//!
//! They travel from the command to the monitor, and from there to init, in files without a name. `/proc/PID/environ` and
//! the command line show nothing of them, and what is printed of a launch names them only.

use std::{
    collections::BTreeMap,
    fmt,
    fs::File,
    io::{self, Read, Seek, Write},
    os::fd::{AsFd, OwnedFd},
};

use rustix::fs::{MemfdFlags, memfd_create};

/// Most bytes of all of them together. The kernel takes no more than about 2 MiB for a program's whole environment.
const MAX_PRIVATE_BYTES: u64 = 1024 * 1024;

/// Variables that only the agent gets.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct PrivateVariables(BTreeMap<String, String>);

impl PrivateVariables {
    /// Their names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// The values, for whoever hands them on.
    pub(crate) fn reveal(&self) -> &BTreeMap<String, String> {
        &self.0
    }

    /// The same names, with a text for people in place of each value.
    pub(crate) fn hidden(&self) -> Self {
        self.names().map(|name| (name.to_owned(), "(not shown)".to_owned())).collect()
    }

    /// As a file without a name, to be inherited; `None` where there are no variables.
    pub(super) fn to_file(&self) -> io::Result<Option<OwnedFd>> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let json = serde_json::to_vec(&self.0)?;
        if json.len() as u64 > MAX_PRIVATE_BYTES {
            return Err(io::Error::other(format!(
                "the agent's keys take more than {MAX_PRIVATE_BYTES} bytes"
            )));
        }
        let mut file = File::from(memfd_create("agent-shim-keys", MemfdFlags::CLOEXEC)?);
        file.write_all(&json)?;
        file.rewind()?;
        Ok(Some(file.into()))
    }

    /// Reads what [`Self::to_file`] made; an empty file holds none.
    pub(super) fn from_file(file: impl AsFd) -> io::Result<Self> {
        let mut json = Vec::new();
        File::from(file.as_fd().try_clone_to_owned()?).take(MAX_PRIVATE_BYTES).read_to_end(&mut json)?;
        if json.is_empty() { Ok(Self::default()) } else { Ok(Self(serde_json::from_slice(&json)?)) }
    }
}

impl FromIterator<(String, String)> for PrivateVariables {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(variables: I) -> Self {
        Self(variables.into_iter().collect())
    }
}

/// Names only: what is debugged is logged sooner or later.
impl fmt::Debug for PrivateVariables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.names()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> PrivateVariables {
        [("API_KEY".to_owned(), "s3cret".to_owned())].into_iter().collect()
    }

    #[test]
    fn they_arrive_as_they_were() {
        let file = keys().to_file().unwrap().unwrap();
        assert_eq!(PrivateVariables::from_file(&file).unwrap(), keys());
    }

    #[test]
    fn none_are_an_empty_file() {
        assert!(PrivateVariables::default().to_file().unwrap().is_none());
        let null = File::open("/dev/null").unwrap();
        assert_eq!(PrivateVariables::from_file(null).unwrap(), PrivateVariables::default());
    }

    #[test]
    fn more_than_a_program_can_take_is_refused() {
        let many: PrivateVariables = [("K".to_owned(), "x".repeat(1024 * 1024))].into_iter().collect();
        assert!(many.to_file().unwrap_err().to_string().contains("more than 1048576"));
    }

    #[test]
    fn nothing_printed_holds_a_value() {
        assert_eq!(format!("{:?}", keys()), r#"{"API_KEY"}"#);
        assert_eq!(keys().hidden().reveal()["API_KEY"], "(not shown)");
    }
}
