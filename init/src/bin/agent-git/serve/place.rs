//! Where a repository has its parts, and whether it is one that we can read.

use std::path::{Path, PathBuf};

use super::{
    file,
    trouble::{Outcome, Trouble},
};

/// A configuration is a page of text; one of a hundred worktrees and remotes fits.
const MAX_CONFIG_BYTES: u64 = 4 << 20;

/// A path and the words before it.
const MAX_LINK_BYTES: u64 = 8192;

/// The folders of a repository, or of one of its worktrees.
#[derive(Debug)]
pub(crate) struct Place {
    /// What a worktree has of its own: `HEAD`, the index.
    pub(crate) own: PathBuf,
    /// What all worktrees share: refs and objects.
    pub(crate) common: PathBuf,
}

impl Place {
    /// Finds the repository of a folder, the way `git upload-pack` does.
    pub(crate) fn find(folder: &Path) -> Outcome<Self> {
        let none = || Trouble::said(format!("'{}' does not appear to be a git repository", folder.display()));
        let own = git_folder(folder)?.ok_or_else(none)?;
        let common = match read(&own.join("commondir"))? {
            Some(path) => own.join(text_path(&path)),
            None => own.clone(),
        };
        if !common.join("objects").is_dir() || !common.join("refs").is_dir() {
            return Err(none());
        }
        let place = Self { own, common };
        place.check_format()?;
        Ok(place)
    }

    /// Refuses what a repository says that it needs and we do not know (gitrepository-layout(5), extensions).
    fn check_format(&self) -> Outcome<()> {
        let path = self.common.join("config");
        let config = file::read(&path, MAX_CONFIG_BYTES)
            .map_err(|error| Trouble::reading("the configuration", &error))?
            .unwrap_or_default();
        let format = Format::of(&config);
        if format.object_format.as_deref().is_some_and(|format| !format.eq_ignore_ascii_case("sha1")) {
            return Err(Trouble::Foreign("names its objects by sha256".to_owned()));
        }
        match format.unknown {
            Some(extension) => Err(Trouble::Foreign(format!("uses `{extension}`"))),
            None => Ok(()),
        }
    }
}

/// The repository's own folder: `.git` in the folder, or what a file of that name leads to, or the folder itself.
fn git_folder(folder: &Path) -> Outcome<Option<PathBuf>> {
    let inner = folder.join(".git");
    if inner.is_dir() {
        return Ok(Some(inner));
    }
    if inner.is_file() {
        let link = read(&inner)?.unwrap_or_default();
        let path = link.strip_prefix(b"gitdir:").map(text_path);
        return Ok(path.map(|path| folder.join(path)));
    }
    Ok((folder.join("HEAD").exists() && folder.join("objects").is_dir()).then(|| folder.to_owned()))
}

fn read(path: &Path) -> Outcome<Option<Vec<u8>>> {
    file::read(path, MAX_LINK_BYTES).map_err(|error| Trouble::reading("a file", &error))
}

fn text_path(bytes: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    PathBuf::from(std::ffi::OsStr::from_bytes(bytes.trim_ascii()))
}

/// What a configuration says about the form of the repository. Nothing else in it has a meaning here, and no file that it
/// includes: git itself does not look into those for this.
#[derive(Debug, Default, PartialEq, Eq)]
struct Format {
    object_format: Option<String>,
    unknown: Option<String>,
}

impl Format {
    fn of(config: &[u8]) -> Self {
        let (mut format, mut section) = (Self::default(), String::new());
        for line in String::from_utf8_lossy(config).lines() {
            let mut line = line.trim();
            if let Some(head) = line.strip_prefix('[') {
                let Some((name, rest)) = head.split_once(']') else { continue };
                section = name.trim().to_ascii_lowercase();
                line = rest.trim();
            }
            let (key, value) = line.split_once('=').unwrap_or((line, "true"));
            let (key, value) = (key.trim().to_ascii_lowercase(), plain(value));
            if key.is_empty() || key.starts_with(['#', ';']) {
                continue;
            }
            match (section.as_str(), key.as_str()) {
                ("extensions", "objectformat") => format.object_format = Some(value),
                // They say what else is read, or how; nothing that we read has another form. Of what a partial clone lacks, the
                // client hears when it asks for it.
                (
                    "extensions",
                    "noop" | "preciousobjects" | "worktreeconfig" | "relativeworktrees" | "partialclone",
                ) => {}
                ("extensions", "refstorage") if value == "files" => {}
                ("extensions", _) => format.unknown = Some(format!("extensions.{key}")),
                ("core", "repositoryformatversion") if !matches!(value.as_str(), "0" | "1") => {
                    format.unknown = Some(format!("{key} {value}"));
                }
                _ => {}
            }
        }
        format
    }
}

/// A value without its quotes and what is said about it.
fn plain(value: &str) -> String {
    let value = value.split(['#', ';']).next().unwrap_or_default();
    value.trim().trim_matches('"').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::testing::Folder;
    use std::fs;

    #[test]
    fn the_form_of_a_repository_is_what_its_configuration_says() {
        let of = |text: &str| Format::of(text.as_bytes());
        assert_eq!(
            of("[core]\n\trepositoryformatversion = 0\n\tbare = false\n[user]\nname = x"),
            Format::default()
        );
        let sha256 = of("[core]\nrepositoryformatversion = 1\n[extensions]\n\tobjectFormat = \"sha256\" ; x");
        assert_eq!(sha256.object_format.unwrap(), "sha256");
        assert_eq!(of("[Extensions] refStorage=reftable").unknown.unwrap(), "extensions.refstorage");
        assert_eq!(of("[extensions]\nnew").unknown.unwrap(), "extensions.new");
        assert_eq!(of("[core]\nrepositoryformatversion = 2").unknown.unwrap(), "repositoryformatversion 2");
        assert_eq!(
            of("[extensions]\nworktreeConfig = true\npartialClone = origin\n# x = y\n"),
            Format::default()
        );
        assert_eq!(of("[extensions \"x\"]\nfoo = 1\n[\u{fffd}\n]"), Format::default());
    }

    #[test]
    fn a_folder_leads_to_its_repository() {
        let folder = Folder::new();
        let at = |path: &str| folder.path().join(path);
        for path in
            ["a/.git/objects", "a/.git/refs", "a/.git/worktrees/w", "bare/objects", "bare/refs", "w", "no"]
        {
            fs::create_dir_all(at(path)).unwrap();
        }
        fs::write(at("bare/HEAD"), "ref: refs/heads/main\n").unwrap();
        fs::write(at("w/.git"), format!("gitdir: {}\n", at("a/.git/worktrees/w").display())).unwrap();
        fs::write(at("a/.git/worktrees/w/commondir"), "../..\n").unwrap();
        assert_eq!(Place::find(&at("a")).unwrap().common, at("a/.git"));
        assert_eq!(Place::find(&at("bare")).unwrap().own, at("bare"));
        let worktree = Place::find(&at("w")).unwrap();
        assert_eq!(worktree.own, at("a/.git/worktrees/w"));
        assert_eq!(worktree.common.canonicalize().unwrap(), at("a/.git").canonicalize().unwrap());
        let Err(Trouble::Said(said)) = Place::find(&at("no")) else { panic!("there is one") };
        assert!(said.ends_with("no' does not appear to be a git repository"), "{said}");
    }
}
