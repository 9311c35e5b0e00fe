//! What a repository says is not worth keeping, read only where somebody asks.

use std::{
    cell::OnceCell,
    fs,
    os::fd::{AsFd, BorrowedFd},
    path::{Path, PathBuf},
};

use git2::Repository;
use rustix::{
    fs::{FileType, Mode, OFlags, fstat, openat},
    io::read,
};

use super::{
    files::as_path,
    index::{Marks, Moment, digest},
    pattern::Pattern,
};

/// Largest file of patterns that is read, bytes. Of a larger one no pattern counts, so that nothing is lost by it.
const MAX_PATTERNS_BYTES: usize = 4 * 1024 * 1024;

/// The name of a folder's own patterns.
pub(super) const GITIGNORE: &[u8] = b".gitignore";

/// A repository's view of its files: what it tracks, and patterns that apply to all of it.
pub(super) struct Owner {
    /// Where its files begin, as a length of paths.
    pub base: usize,
    repository: Option<Repository>,
    files: Vec<PathBuf>,
    patterns: OnceCell<Vec<Vec<Pattern>>>,
    index: OnceCell<Option<git2::Index>>,
    head: Option<git2::Oid>,
    /// Differs if anything of this has changed.
    pub rules: u64,
}

/// What becomes of a file or folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Taken,
    /// A folder that is ignored, with files in it that are not.
    TrackedOnly,
    Ignored,
}

/// The patterns of one folder, and those of the folders around it.
pub(super) struct Level<'a> {
    pub parent: Option<&'a Level<'a>>,
    /// The folder, where it has patterns of its own.
    pub folder: Option<BorrowedFd<'a>>,
    /// Length of its path, with the slash at its end.
    pub base: usize,
    pub patterns: OnceCell<Vec<Pattern>>,
}

impl Owner {
    /// Of a repository whose files begin at `base`; of none, nothing is tracked and all is taken.
    /// `began`: what changes later might not show.
    pub(super) fn new(repository: Option<Repository>, base: usize, began: Moment) -> Self {
        let files = repository.as_ref().map(pattern_files).unwrap_or_default();
        let head = repository.as_ref().and_then(head_tree);
        let index = repository.as_ref().map(|repository| repository.path().join("index"));
        let mut rules = digest(base as u64, head.as_ref().map_or(&[], git2::Oid::as_bytes));
        for file in files.iter().chain(&index) {
            rules = match rustix::fs::stat(file) {
                Ok(stat) => Marks::of(&stat).rules(rules, began),
                Err(_) => digest(rules, b"none"),
            };
        }
        Self { base, repository, files, patterns: OnceCell::new(), index: OnceCell::new(), head, rules }
    }

    /// The tree of the commit that is checked out.
    pub(super) fn head_tree(&self) -> Option<git2::Oid> {
        self.head
    }

    /// The commit of a submodule that is in the checked-out commit at this path.
    pub(super) fn submodule(&self, path: &[u8]) -> Option<git2::Oid> {
        let entry = self.entry(path)?;
        (entry.kind() == Some(git2::ObjectType::Commit)).then(|| entry.id())
    }

    /// What is in the checked-out commit at this path.
    pub(super) fn entry(&self, path: &[u8]) -> Option<git2::TreeEntry<'static>> {
        let repository = self.repository.as_ref()?;
        let tree = repository.find_tree(self.head?).ok()?;
        Some(tree.get_path(as_path(path)).ok()?.to_owned())
    }

    /// Its checked-out commit.
    pub(super) fn commit(&self) -> Option<git2::Oid> {
        self.repository.as_ref()?.head().ok()?.peel_to_commit().ok().map(|commit| commit.id())
    }

    /// Whether something is under version control although patterns say otherwise.
    fn is_tracked(&self, path: &[u8], is_folder: bool) -> bool {
        let Some(repository) = &self.repository else { return false };
        let open = || git2::Index::open(&repository.path().join("index")).ok();
        let by_index = self.index.get_or_init(open).as_ref().is_some_and(|index| {
            if is_folder {
                let mut prefix = path.to_vec();
                prefix.push(b'/');
                index.find_prefix(as_path(&prefix)).is_ok()
            } else {
                index.get_path(as_path(path), 0).is_some()
            }
        });
        by_index || self.entry(path).is_some()
    }

    fn patterns(&self) -> &[Vec<Pattern>] {
        self.patterns.get_or_init(|| self.files.iter().map(|file| read_patterns(file)).collect())
    }

    /// What patterns say of a path, and whether it is tracked all the same. `inside`: its folder is ignored.
    pub(super) fn verdict(
        &self,
        level: &Level<'_>,
        (path, name): (&[u8], &[u8]),
        is_folder: bool,
        inside: bool,
    ) -> Verdict {
        if !inside && !self.is_named(level, path, name, is_folder) {
            return Verdict::Taken;
        }
        match (self.is_tracked(&path[self.base..], is_folder), is_folder) {
            (true, false) => Verdict::Taken,
            (true, true) => Verdict::TrackedOnly,
            (false, _) => Verdict::Ignored,
        }
    }

    /// The innermost patterns first, and the last of each file: the first that is about it decides.
    fn is_named(&self, level: &Level<'_>, path: &[u8], name: &[u8], is_folder: bool) -> bool {
        let mut next = Some(level);
        while let Some(level) = next {
            if let Some(found) = decided(level.patterns(), &path[level.base..], name, is_folder) {
                return found;
            }
            next = level.parent;
        }
        let path = &path[self.base..];
        self.patterns().iter().find_map(|patterns| decided(patterns, path, name, is_folder)).unwrap_or(false)
    }
}

impl Level<'_> {
    fn patterns(&self) -> &[Pattern] {
        self.patterns.get_or_init(|| {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let file = self.folder.and_then(|folder| openat(folder, GITIGNORE, flags, Mode::empty()).ok());
            let content = file.and_then(|file| read_file(file.as_fd())).unwrap_or_default();
            Pattern::parse_all(&content)
        })
    }
}

fn decided(patterns: &[Pattern], path: &[u8], name: &[u8], is_folder: bool) -> Option<bool> {
    let last = patterns.iter().rev().find(|pattern| pattern.matches(path, name, is_folder))?;
    Some(!last.negated)
}

/// The patterns that apply to a whole repository: its own, then the user's.
fn pattern_files(repository: &Repository) -> Vec<PathBuf> {
    let own = repository.commondir().join("info/exclude");
    let named =
        repository.config().and_then(|mut config| config.snapshot()?.get_path("core.excludesfile")).ok();
    let users = named.or_else(|| {
        let config =
            std::env::var_os("XDG_CONFIG_HOME").filter(|config| !config.is_empty()).map(PathBuf::from);
        let config = config.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".config")));
        Some(config?.join("git/ignore"))
    });
    [own].into_iter().chain(users).collect()
}

fn read_patterns(file: &Path) -> Vec<Pattern> {
    // A pipe in its place would be waited for.
    let is_file =
        fs::metadata(file).is_ok_and(|found| found.is_file() && found.len() <= MAX_PATTERNS_BYTES as u64);
    let content = if is_file { fs::read(file).unwrap_or_default() } else { Vec::new() };
    Pattern::parse_all(&content)
}

fn read_file(file: BorrowedFd<'_>) -> Option<Vec<u8>> {
    let found = fstat(file).ok()?;
    if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile {
        return None;
    }
    let mut content = Vec::new();
    let mut piece = [0; 8 * 1024];
    loop {
        match read(file, &mut piece[..]) {
            Ok(0) => return Some(content),
            Ok(_) if content.len() > MAX_PATTERNS_BYTES => return None,
            Ok(count) => content.extend_from_slice(&piece[..count]),
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return None,
        }
    }
}

fn head_tree(repository: &Repository) -> Option<git2::Oid> {
    Some(repository.head().ok()?.peel_to_tree().ok()?.id())
}
