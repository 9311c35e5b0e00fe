//! A snapshot as files, in an empty folder of the host.
//!
//! Written by ourselves: no filter, no hook, no attribute and no configuration has a say. Everything is made anew and
//! relative to the folder it is in, which is held open, so that nothing outside is reached whatever the trees say and
//! whoever moves things about meanwhile. Links are made last, and none is ever followed.

use std::{
    fs::{self, File},
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{CWD, Mode, OFlags, ResolveFlags, mkdirat, openat, openat2, symlinkat},
    io::Errno,
};

use super::{AtHomeError, objects::Objects};

/// Most files and folders.
const MAX_ENTRIES: u64 = 2_000_000;

/// Most bytes of them together. A tree can name one large file a million times.
const MAX_BYTES: u64 = 64 << 30;

/// Most folders in folders, as when it came home.
const MAX_DEPTH: usize = 512;

/// Longest target of a link, as the kernel has it.
const MAX_TARGET_BYTES: usize = 4095;

/// Files that are named among those left out.
const MAX_NAMED: usize = 100;

/// What was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// Files and links.
    pub files: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// What could not be made: path and reason. From inside: show it sanitised.
    pub left_out: Vec<(Vec<u8>, &'static str)>,
    /// How many more than those.
    pub left_out_more: u64,
    /// Links that lead out of the folder.
    pub leading_out: u64,
}

/// Why it was not made.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// There is something in it.
    #[error("{} is not empty", .0.display())]
    NotEmpty(PathBuf),
    /// It cannot be made or opened.
    #[error("using {}", .0.display())]
    Folder(PathBuf, #[source] io::Error),
    /// The disk, most likely. What was made stays.
    #[error("writing {} of the snapshot", String::from_utf8_lossy(.0))]
    Write(Vec<u8>, #[source] io::Error),
    /// It cannot be read.
    #[error(transparent)]
    Read(#[from] AtHomeError),
    /// More than a person would have.
    #[error("it is too large: {0}")]
    TooLarge(&'static str),
}

/// Writes the tree of `commit` into a folder that is empty or not there.
pub fn restore(objects: &mut Objects, commit: &str, into: &Path) -> Result<Restored, RestoreError> {
    let tree = tree_of(objects, commit)?;
    let folder = empty_folder(into)?;
    let mut work = Work {
        objects,
        root: folder,
        path: Vec::new(),
        entries: 0,
        links: Vec::new(),
        done: Restored::default(),
    };
    let root = work.root.try_clone().map_err(|error| RestoreError::Folder(into.to_owned(), error))?;
    work.folder(root.as_fd(), &tree, 0)?;
    work.links()?;
    Ok(work.done)
}

struct Work<'a> {
    objects: &'a mut Objects,
    root: OwnedFd,
    path: Vec<u8>,
    entries: u64,
    /// Links for the end: folder, name, content.
    links: Vec<(Vec<u8>, Vec<u8>, String)>,
    done: Restored,
}

/// An entry of a tree, as git has it.
struct Entry<'t> {
    mode: &'t [u8],
    name: &'t [u8],
    id: String,
}

impl Work<'_> {
    fn folder(&mut self, folder: BorrowedFd<'_>, tree: &str, depth: usize) -> Result<(), RestoreError> {
        let content = self.objects.tree(tree)?;
        let mut rest = &content[..];
        while let Some(entry) = next_entry(&mut rest, self.objects.id_bytes())? {
            self.entries += 1;
            if self.entries > MAX_ENTRIES {
                return Err(RestoreError::TooLarge("more than 2,000,000 files and folders"));
            }
            let Entry { mode, name, id } = entry;
            if !is_name(name) {
                self.leave(name, "its name cannot be that of a file");
                continue;
            }
            match mode {
                b"40000" | b"040000" if depth + 1 < MAX_DEPTH => self.subfolder(folder, name, &id, depth)?,
                b"40000" | b"040000" => self.leave(name, "too deep"),
                b"120000" => self.links.push((self.path.clone(), name.to_vec(), id)),
                b"160000" => {
                    if self.made(name, mkdirat(folder, name, Mode::from_raw_mode(0o777)))? {
                        self.leave(name, "a submodule: it is not in the snapshot");
                    }
                }
                _ if mode.len() == 6 && mode.starts_with(b"100") => self.file(folder, name, mode, &id)?,
                _ => self.leave(name, "of a type that git does not know"),
            }
        }
        Ok(())
    }

    fn subfolder(
        &mut self,
        folder: BorrowedFd<'_>,
        name: &[u8],
        tree: &str,
        depth: usize,
    ) -> Result<(), RestoreError> {
        if !self.made(name, mkdirat(folder, name, Mode::from_raw_mode(0o777)))? {
            return Ok(());
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = openat(folder, name, flags, Mode::empty());
        let inner = opened.map_err(|error| RestoreError::Write(self.full(name), error.into()))?;
        let length = self.path.len();
        self.path.extend_from_slice(name);
        self.path.push(b'/');
        self.folder(inner.as_fd(), tree, depth + 1)?;
        self.path.truncate(length);
        Ok(())
    }

    fn file(
        &mut self,
        folder: BorrowedFd<'_>,
        name: &[u8],
        mode: &[u8],
        id: &str,
    ) -> Result<(), RestoreError> {
        let rights = if mode[3] & 1 == 1 { 0o777 } else { 0o666 };
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = openat(folder, name, flags, Mode::from_raw_mode(rights));
        let mut file = match opened {
            Ok(file) => File::from(file),
            Err(error) => return self.made(name, Err(error)).map(drop),
        };
        let (mut written, most) = (0, MAX_BYTES - self.done.bytes);
        let full = self.full(name);
        let read = self.objects.blob(id, |piece| {
            written += piece.len() as u64;
            if written > most {
                Err(io::ErrorKind::FileTooLarge.into())
            } else {
                io::Write::write_all(&mut file, piece)
            }
        });
        match read {
            Err(AtHomeError::Shown(_)) if written > most => {
                return Err(RestoreError::TooLarge("more than 64 GiB"));
            }
            Err(AtHomeError::Shown(error)) => return Err(RestoreError::Write(full, error)),
            read => self.done.bytes += read?,
        }
        self.done.files += 1;
        Ok(())
    }

    /// Links come when everything else is there. Each is made in a folder that is reached without following any.
    fn links(&mut self) -> Result<(), RestoreError> {
        for (folder, name, id) in std::mem::take(&mut self.links) {
            self.path = folder;
            let Some(target) = self.objects.short_blob(&id, MAX_TARGET_BYTES)? else {
                self.leave(&name, "a link that leads too far");
                continue;
            };
            if target.is_empty() || target.contains(&0) {
                self.leave(&name, "a link that leads nowhere");
                continue;
            }
            let at: &[u8] = if self.path.is_empty() { b"." } else { &self.path };
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
            let opened = openat2(&self.root, at, flags, Mode::empty(), beneath);
            let inner = opened.map_err(|error| RestoreError::Write(self.full(&name), error.into()))?;
            if self.made(&name, symlinkat(&target[..], &inner, &name[..]))? {
                self.done.files += 1;
                self.done.leading_out += u64::from(leads_out(&self.path, &target));
            }
        }
        Ok(())
    }

    /// Whether something new was made. A name that is taken means a file system on which two names are one.
    fn made(&mut self, name: &[u8], made: Result<(), Errno>) -> Result<bool, RestoreError> {
        match made {
            Ok(()) => Ok(true),
            Err(Errno::EXIST) => {
                self.leave(name, "its name is taken here");
                Ok(false)
            }
            Err(Errno::NAMETOOLONG | Errno::INVAL | Errno::ILSEQ) => {
                self.leave(name, "its name cannot be that of a file here");
                Ok(false)
            }
            Err(error) => Err(RestoreError::Write(self.full(name), error.into())),
        }
    }

    fn leave(&mut self, name: &[u8], why: &'static str) {
        if self.done.left_out.len() < MAX_NAMED {
            let path = self.full(name);
            self.done.left_out.push((path, why));
        } else {
            self.done.left_out_more += 1;
        }
    }

    fn full(&self, name: &[u8]) -> Vec<u8> {
        [&self.path, name].concat()
    }
}

fn tree_of(objects: &mut Objects, commit: &str) -> Result<String, RestoreError> {
    let content = objects.commit(commit)?;
    let line = content.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let id = line.strip_prefix(b"tree ").and_then(|id| String::from_utf8(id.to_vec()).ok());
    let is_id =
        |id: &String| id.len() == objects.id_bytes() * 2 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    id.filter(is_id).ok_or(RestoreError::Read(AtHomeError::Answer))
}

/// Makes the folder where there is none, and opens it. The person named it, so links on the way to it are theirs.
fn empty_folder(into: &Path) -> Result<OwnedFd, RestoreError> {
    let failed = |error| RestoreError::Folder(into.to_owned(), error);
    match fs::create_dir(into) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(error)),
        _ => {}
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = openat(CWD, into, flags, Mode::empty()).map_err(|error| failed(error.into()))?;
    let names = rustix::fs::Dir::read_from(&folder).map_err(|error| failed(error.into()))?;
    for name in names {
        let name = name.map_err(|error| failed(error.into()))?;
        if !matches!(name.file_name().to_bytes(), b"." | b"..") {
            return Err(RestoreError::NotEmpty(into.to_owned()));
        }
    }
    Ok(folder)
}

/// Takes the next entry off a tree.
fn next_entry<'t>(rest: &mut &'t [u8], id_bytes: usize) -> Result<Option<Entry<'t>>, AtHomeError> {
    if rest.is_empty() {
        return Ok(None);
    }
    let take = |text: &'t [u8]| {
        let space = text.iter().position(|byte| *byte == b' ')?;
        let end = space + text[space..].iter().position(|byte| *byte == 0)?;
        let (id, after) = text[end + 1..].split_at_checked(id_bytes)?;
        let id = id.iter().map(|byte| format!("{byte:02x}")).collect();
        Some((Entry { mode: &text[..space], name: &text[space + 1..end], id }, after))
    };
    let (entry, after) = take(rest).ok_or(AtHomeError::Answer)?;
    *rest = after;
    Ok(Some(entry))
}

/// Whether a file may have that name. What git would take for a repository is none: its configuration is code.
fn is_name(name: &[u8]) -> bool {
    let seen: String = String::from_utf8_lossy(name)
        .chars()
        .filter(|c| {
            !matches!(c, '\u{200c}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{206a}'..='\u{206f}' | '\u{feff}')
        })
        .collect();
    let stem = seen.split([':', '\\']).next().unwrap_or_default().trim_end_matches([' ', '.']);
    let is_repository = stem.eq_ignore_ascii_case(".git") || stem.eq_ignore_ascii_case("git~1");
    !name.is_empty() && !matches!(name, b"." | b"..") && !name.contains(&b'/') && !is_repository
}

/// Whether a link in the folder `path` (with a slash at its end) leads out of the whole.
fn leads_out(path: &[u8], target: &[u8]) -> bool {
    let mut depth = path.split(|byte| *byte == b'/').count().saturating_sub(1);
    target.starts_with(b"/")
        || target.split(|byte| *byte == b'/').any(|part| match part {
            b".." if depth == 0 => true,
            b".." => {
                depth -= 1;
                false
            }
            b"" | b"." => false,
            _ => {
                depth += 1;
                false
            }
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_leads_elsewhere_or_is_a_repository() {
        for name in [
            &b""[..],
            b".",
            b"..",
            b"a/b",
            b".git",
            b".GIT ",
            b"git~1",
            b".git::$DATA",
            ".g\u{200c}it".as_bytes(),
        ] {
            assert!(!is_name(name), "{}", name.escape_ascii());
        }
        for name in [&b".gitignore"[..], b"...", b"a b", b"\xff", b".github", b"a\\b", b" "] {
            assert!(is_name(name), "{}", name.escape_ascii());
        }
    }

    #[test]
    fn links_that_lead_out_are_known() {
        for (path, target) in
            [("", ".."), ("", "/x"), ("a/", "../../x"), ("a/b/", "../.././../x"), ("", "x/../../y")]
        {
            assert!(leads_out(path.as_bytes(), target.as_bytes()), "{path} {target}");
        }
        for (path, target) in [("", "x"), ("a/", "../x"), ("a/b/", "../../x"), ("", "x/../y"), ("", "..x")] {
            assert!(!leads_out(path.as_bytes(), target.as_bytes()), "{path} {target}");
        }
    }

    #[test]
    fn a_tree_is_read_to_its_end_or_not_at_all() {
        let tree = [b"100644 a\0".as_slice(), &[1; 20], b"40000 b\0", &[2; 20]].concat();
        let mut rest = &tree[..];
        let first = next_entry(&mut rest, 20).unwrap().unwrap();
        assert_eq!((first.mode, first.name, first.id), (&b"100644"[..], &b"a"[..], "01".repeat(20)));
        assert!(next_entry(&mut rest, 20).unwrap().is_some() && next_entry(&mut rest, 20).unwrap().is_none());
        for end in (1..tree.len()).filter(|end| *end != 29) {
            let mut rest = &tree[..end];
            let read = (next_entry(&mut rest, 20), next_entry(&mut rest, 20));
            assert!(read.0.is_err() || read.1.is_err(), "{end}");
        }
    }
}
