//! The values of an agent's keys, fetched for one start and written nowhere.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    fs::File,
    io::{self, Read},
    path::Path,
};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};

use super::{AgentError, KeySource, Source};
use crate::sandbox::private::PrivateVariables;

/// Longest key. Service accounts are JSON of a few kilobytes; init takes no variable above 128 KiB.
const MAX_KEY_BYTES: u64 = 64 * 1024;

/// The names of those variables that say something.
pub fn names(variables: impl IntoIterator<Item = (OsString, OsString)>) -> BTreeSet<String> {
    let said = variables.into_iter().filter(|(_, value)| !value.is_empty());
    said.filter_map(|(name, _)| name.into_string().ok()).collect()
}

/// Fetches the values: from the person's environment, from a secret's file, or from what everything inside is `given`.
pub fn collect(
    sources: &[KeySource],
    given: &BTreeMap<String, String>,
    environment: impl Fn(&str) -> Option<OsString>,
) -> Result<PrivateVariables, AgentError> {
    let value = |source: &KeySource| match &source.from {
        Source::Given(name) => given.get(name).cloned().ok_or_else(|| variable(name, "is not given")),
        Source::Environment(name) => {
            let value = environment(name).ok_or_else(|| variable(name, "is not set any more"))?;
            value.into_string().map_err(|_| variable(name, "is not text"))
        }
        Source::Secret { name, file } => read(file).map_err(|error| AgentError::Secret {
            name: name.clone(),
            file: file.clone(),
            why: error.to_string(),
        }),
    };
    let one = |source: &KeySource| value(source).map(|value| (source.variable.clone(), value));
    sources.iter().map(one).collect()
}

fn variable(name: &str, why: &'static str) -> AgentError {
    AgentError::Variable { name: name.to_owned(), why }
}

/// Reads a key. Its path was resolved when it was given: a link in it by now is not the person's.
fn read(file: &Path) -> io::Result<String> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = File::from(openat2(CWD, file, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS)?);
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    let mut text = String::new();
    file.take(MAX_KEY_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_KEY_BYTES {
        return Err(io::Error::other(format!("it is larger than {MAX_KEY_BYTES} bytes")));
    }
    // Editors and `echo` end a file with a line end, and no key holds one.
    let key = text.trim_end_matches(['\n', '\r']);
    if key.is_empty() {
        return Err(io::Error::other("it is empty"));
    }
    if key.contains('\0') {
        return Err(io::Error::other("it holds a NUL"));
    }
    Ok(key.to_owned())
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::ffi::OsStringExt, os::unix::fs::symlink, path::PathBuf};

    use super::*;

    fn source(variable: &str, from: Source) -> KeySource {
        KeySource { variable: variable.to_owned(), from }
    }

    fn secret(file: PathBuf) -> KeySource {
        source("KEY", Source::Secret { name: "key".to_owned(), file })
    }

    #[test]
    fn each_value_comes_from_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().canonicalize().unwrap().join("key");
        fs::write(&file, "from a file\n").unwrap();
        let sources = [
            source("A", Source::Environment("SA".to_owned())),
            source("B", Source::Given("SB".to_owned())),
            secret(file),
        ];
        let given = BTreeMap::from([("SB".to_owned(), "given".to_owned())]);
        let environment = |name: &str| (name == "SA").then(|| OsString::from("from outside"));
        let values = collect(&sources, &given, environment).unwrap();
        let expected = [("A", "from outside"), ("B", "given"), ("KEY", "from a file")];
        assert_eq!(values, expected.map(|(k, v)| (k.to_owned(), v.to_owned())).into_iter().collect());
    }

    #[test]
    fn what_cannot_be_a_key_is_named_and_never_shown() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().canonicalize().unwrap();
        let path = |name: &str| folder.join(name);
        fs::write(path("empty"), "\n").unwrap();
        fs::write(path("nul"), "a\0b").unwrap();
        fs::write(path("binary"), [0xff, 0xfe]).unwrap();
        let most = "x".repeat(usize::try_from(MAX_KEY_BYTES).unwrap());
        fs::write(path("large"), format!("{most}x")).unwrap();
        fs::write(path("good"), "s3cret").unwrap();
        symlink("good", path("link")).unwrap();
        for name in ["empty", "nul", "binary", "large", "link", "absent", "."] {
            let error = collect(&[secret(path(name))], &BTreeMap::new(), |_| None).unwrap_err().to_string();
            assert!(error.contains("`key`") && !error.contains("s3cret"), "{name}: {error}");
        }
        fs::write(path("exact"), most).unwrap();
        assert!(collect(&[secret(path("exact"))], &BTreeMap::new(), |_| None).is_ok());
        let gone = source("A", Source::Environment("A".to_owned()));
        let gone = collect(&[gone], &BTreeMap::new(), |_| None).unwrap_err();
        assert_eq!(gone.to_string(), "the variable A is not set any more");
        let binary = source("A", Source::Environment("A".to_owned()));
        let binary =
            collect(&[binary], &BTreeMap::new(), |_| Some(OsString::from_vec(vec![0xff]))).unwrap_err();
        assert_eq!(binary.to_string(), "the variable A is not text");
    }

    #[test]
    fn an_empty_variable_is_as_good_as_none() {
        let variables = [("A", "1"), ("B", "")].map(|(name, value)| (name.into(), value.into()));
        assert_eq!(names(variables), BTreeSet::from(["A".to_owned()]));
    }
}
