//! The `.git` of a clone, written by hand: nothing gets in that is not here.

use std::{
    collections::BTreeSet,
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    time::Instant,
};

use super::{BASE, error::CloneError, origin::Head};
use crate::isolation::plan::OBJECTS;
use crate::repo::{
    host_git::{GitError, HostGit, Running},
    object_id::{ObjectFormat, ObjectId},
    refs::RefName,
};

/// Longest configuration that is read for a name.
const MAX_CONFIG_BYTES: usize = 64 * 1024;

/// What git inside passes over: folders that further worktrees are made in.
const EXCLUDED: &str = "/.worktrees/\n";

/// The repository of a clone.
pub(super) struct Layout {
    pub(super) git_dir: PathBuf,
    format: ObjectFormat,
}

/// Who commits inside, being asked for.
pub(super) struct Person {
    asked: Running,
}

/// Who commits inside: the person whose agent it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) name: Option<String>,
    pub(super) email: Option<String>,
}

impl Layout {
    /// An empty repository in the folder `work`.
    pub(super) fn make(work: &Path, format: ObjectFormat) -> Result<Self, CloneError> {
        let git_dir = work.join(".git");
        let make = || {
            ["", "refs", "refs/heads", "refs/tags", "info", "objects", "objects/info", "objects/pack"]
                .iter()
                .try_for_each(|folder| fs::create_dir(git_dir.join(folder)))
        };
        make().map_err(CloneError::io("making the clone's repository"))?;
        Ok(Self { git_dir, format })
    }

    pub(super) fn objects(&self) -> PathBuf {
        self.git_dir.join("objects")
    }

    pub(super) fn packs(&self) -> PathBuf {
        self.objects().join("pack")
    }

    pub(super) fn index(&self) -> PathBuf {
        self.git_dir.join("index")
    }

    /// Its configuration, and what git passes over.
    pub(super) fn write_config(&self, identity: &Identity) -> Result<(), CloneError> {
        let written = fs::write(self.git_dir.join("config"), config(self.format, identity))
            .and_then(|()| fs::write(self.git_dir.join("info/exclude"), EXCLUDED));
        written.map_err(CloneError::io("writing the clone's repository"))
    }

    /// What it has branches for, and what is checked out: `tip`, on top of what the host has as `base`.
    pub(super) fn write_refs(
        &self,
        head: &Head,
        base: Option<&ObjectId>,
        tip: Option<&ObjectId>,
        refs: &[(ObjectId, RefName)],
    ) -> Result<(), CloneError> {
        let mut lines: Vec<(&ObjectId, &[u8])> = Vec::new();
        let current = match head {
            Head::Branch(name) => Some(name),
            Head::Detached => None,
        };
        for (id, name) in refs.iter().filter(|(_, name)| Some(name) != current) {
            lines.push((id, name.as_bytes()));
        }
        lines.extend(tip.zip(current).map(|(tip, name)| (tip, name.as_bytes())));
        lines.extend(base.map(|base| (base, BASE.as_bytes())));
        let packed: Vec<u8> = lines
            .iter()
            .flat_map(|(id, name)| [id.as_str().as_bytes(), b" ", *name, b"\n"].concat())
            .collect();
        let head = match (current, tip) {
            (Some(name), _) => [b"ref: ", name.as_bytes(), b"\n"].concat(),
            (None, Some(commit)) => format!("{commit}\n").into_bytes(),
            (None, None) => b"ref: refs/heads/main\n".to_vec(),
        };
        let written = fs::write(self.git_dir.join("packed-refs"), packed)
            .and_then(|()| fs::write(self.git_dir.join("HEAD"), head));
        written.map_err(CloneError::io("writing the clone's repository"))
    }

    /// Where its objects are inside, beside its own. Only now: on the host nothing is at those places.
    pub(super) fn write_alternates(&self, folders: usize) -> Result<(), CloneError> {
        if folders == 0 {
            return Ok(());
        }
        let text: String = (0..folders).map(|number| format!("{OBJECTS}/{number}\n")).collect();
        let written = fs::write(self.objects().join("info/alternates"), text);
        written.map_err(CloneError::io("writing the clone's repository"))
    }

    /// Where its history ends although it goes on elsewhere.
    pub(super) fn write_ends(&self, ends: &BTreeSet<ObjectId>) -> Result<(), CloneError> {
        if ends.is_empty() {
            return Ok(());
        }
        let text: String = ends.iter().map(|id| format!("{id}\n")).collect();
        let written = fs::write(self.git_dir.join("shallow"), text);
        written.map_err(CloneError::io("writing the clone's repository"))
    }
}

impl Person {
    /// Begins to ask: what the person's own configuration says in that folder.
    pub(super) fn ask(git: &HostGit, folder: &Path, until: Instant) -> Result<Self, GitError> {
        let args = ["config", "--null", "--get-regexp", "^user\\.(name|email)$"];
        Ok(Self { asked: git.start(git.persons(folder, &args), "config", until)? })
    }

    /// What it says. Nobody has to have a name.
    pub(super) fn answer(self) -> Result<Identity, GitError> {
        let (said, _) = self.asked.output_and_end(MAX_CONFIG_BYTES)?;
        Ok(identity(&said))
    }
}

/// The last value of each counts, as for git.
fn identity(said: &[u8]) -> Identity {
    let mut identity = Identity::default();
    for entry in said.split(|byte| *byte == 0) {
        let text = String::from_utf8_lossy(entry);
        match text.split_once('\n') {
            Some(("user.name", name)) => identity.name = Some(name.to_owned()),
            Some(("user.email", email)) => identity.email = Some(email.to_owned()),
            _ => {}
        }
    }
    identity
}

fn config(format: ObjectFormat, identity: &Identity) -> String {
    let version = match format {
        ObjectFormat::Sha1 => 0,
        ObjectFormat::Sha256 => 1,
    };
    let mut lines = vec![
        "[core]".to_owned(),
        format!("\trepositoryformatversion = {version}"),
        "\tfilemode = true".to_owned(),
        "\tbare = false".to_owned(),
        "\tlogallrefupdates = true".to_owned(),
    ];
    if version == 1 {
        lines.extend(["[extensions]".to_owned(), format!("\tobjectformat = {}", format.name())]);
    }
    let user = [("name", &identity.name), ("email", &identity.email)];
    if *identity != Identity::default() {
        lines.push("[user]".to_owned());
        let value = |(key, value): (&str, &Option<String>)| {
            value.as_ref().map(|value| format!("\t{key} = {}", quoted(value)))
        };
        lines.extend(user.into_iter().filter_map(value));
    }
    lines.join("\n") + "\n"
}

/// A value for a file of git's configuration (git-config(1), Syntax).
fn quoted(value: &str) -> String {
    let mut text = String::from("\"");
    for c in value.chars() {
        match c {
            '"' | '\\' => text.extend(['\\', c]),
            '\n' => text += "\\n",
            '\t' => text += "\\t",
            // No name has any of these, and git has no way to write them.
            c if c.is_control() => {}
            c => text.push(c),
        }
    }
    text + "\""
}

/// A folder for nobody else.
pub(super) fn make_private(folder: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_what_git_says_last_and_cannot_add_to_the_configuration() {
        let said = b"user.name\nA\0user.email\na@b\0user.name\nB \"x\"\n[alias]\n\tst = !evil\\\0";
        let identity = identity(said);
        assert_eq!(identity.email.as_deref(), Some("a@b"));
        let text = config(ObjectFormat::Sha1, &identity);
        assert!(text.contains("\tname = \"B \\\"x\\\"\\n[alias]\\n\\tst = !evil\\\\\"\n"), "{text}");
        assert!(!text.contains("\n[alias]"), "{text}");
    }

    #[test]
    fn nobody_has_no_name() {
        let text = config(ObjectFormat::Sha256, &Identity::default());
        assert!(!text.contains("user") && text.contains("repositoryformatversion = 1"), "{text}");
    }
}
