//! Making files in a sandbox's home, which an earlier agent may have filled with links to anywhere.
//!
//! Nothing is opened through a link there and nothing is replaced: a name that is taken stays as it is. What is copied
//! is counted before the first byte is written, so that too much of it leaves nothing half done.

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, Read, Write},
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
    rc::Rc,
};

use rustix::{
    fs::{CWD, Dir, DirEntry, FileType, Mode, OFlags, ResolveFlags, Stat, fstat, mkdirat, openat2},
    io::Errno,
};
use serde_json::Value;

use super::{Carried, FolderPlan, is_public};
use crate::agents::{AgentError, settings};

/// Most files of a person's configuration; skills and commands are tens.
const MAX_FILES: usize = 2_000;
/// Most bytes of them together.
const MAX_BYTES: u64 = 32 * 1024 * 1024;
/// Deepest folder looked into. Links can make a loop, which ends here.
const MAX_DEPTH: usize = 16;

/// What a copy left out, one line each for the person.
pub type Notes = Vec<String>;

/// Makes what the plan lists in the home folder of a sandbox.
pub fn carry_out(plan: &FolderPlan, home: &Path) -> Result<Notes, AgentError> {
    let mut notes = Notes::new();
    let mut found = Found::default();
    for carried in &plan.files {
        let source =
            carried.source.as_deref().map(|source| found.look(source, carried, &mut notes)).transpose();
        source.map_err(|error| failed(carried.source.as_deref().unwrap_or(home), &error))?;
    }
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
    let folder = openat2(CWD, home, flags, Mode::empty(), ResolveFlags::empty())
        .map_err(|error| failed(home, &error.into()))?;
    for copy in &found.copies {
        copy.make(&folder).map_err(|error| failed(&copy.shown, &error))?;
    }
    for carried in &plan.files {
        if let Some(note) =
            write_settings(carried, &folder).map_err(|error| failed(&home.join(&carried.at), &error))?
        {
            notes.push(note);
        }
    }
    Ok(notes)
}

fn failed(path: &Path, error: &io::Error) -> AgentError {
    let why = match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::LOOP) => {
            "there is a symbolic link in its place; `--fresh` starts with an empty home".to_owned()
        }
        Some(Errno::NOTDIR) => "there is a file where its folder is to be".to_owned(),
        _ => error.to_string(),
    };
    AgentError::Copy { path: path.to_owned(), why }
}

/// What is to be copied.
#[derive(Debug, Default)]
struct Found {
    copies: Vec<OneFile>,
    bytes: u64,
}

/// One file, found and counted.
#[derive(Debug)]
struct OneFile {
    /// The listed folder it was found in, or the file itself.
    root: Rc<OwnedFd>,
    /// Where it is in there; empty for the file itself.
    below: PathBuf,
    /// Where it goes, below the home folder.
    at: PathBuf,
    /// For messages.
    shown: PathBuf,
}

impl Found {
    fn look(&mut self, source: &Path, carried: &Carried, notes: &mut Notes) -> io::Result<()> {
        // Found without a link on the way when the plan was made.
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let root = openat2(CWD, source, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS)?;
        let stat = fstat(&root)?;
        match FileType::from_raw_mode(stat.st_mode) {
            // It is read as JSON when it is written.
            FileType::RegularFile if carried.reads_json() => self.count(&stat),
            FileType::RegularFile => {
                self.count(&stat)?;
                let root = openat2(CWD, source, readable(), Mode::empty(), ResolveFlags::NO_SYMLINKS)?;
                self.copies.push(OneFile {
                    root: Rc::new(root),
                    below: PathBuf::new(),
                    at: carried.at.clone().into(),
                    shown: source.to_owned(),
                });
                Ok(())
            }
            FileType::Directory => {
                let root = Rc::new(root);
                let at = Path::new(&carried.at);
                let place = Place { root: &root, source, at, public: carried.public };
                self.look_into(&place, Path::new(""), 0, notes)
            }
            _ => Ok(()),
        }
    }

    /// A link is followed as long as it stays in the folder that is listed.
    fn look_into(
        &mut self,
        place: &Place<'_>,
        below: &Path,
        depth: usize,
        notes: &mut Notes,
    ) -> io::Result<()> {
        let shown = place.source.join(below);
        if depth == MAX_DEPTH {
            notes.push(format!("not copied, because it lies too deep: {}", shown.display()));
            return Ok(());
        }
        let folder = open_below(place.root, below, readable() | OFlags::DIRECTORY)?;
        let entries = Dir::read_from(&folder)?;
        let named = |entry: DirEntry| OsStr::from_bytes(entry.file_name().to_bytes()).to_owned();
        let mut names = entries.map(|entry| entry.map(named)).collect::<Result<Vec<_>, _>>()?;
        names.retain(|name| name != "." && name != "..");
        names.sort();
        for name in names {
            let below = below.join(&name);
            let shown = place.source.join(&below);
            let stat = match open_below(place.root, &below, OFlags::PATH | OFlags::CLOEXEC).and_then(fstat_of)
            {
                Ok(stat) => stat,
                Err(error) => {
                    let leads_out = error.raw_os_error() == Some(Errno::XDEV.raw_os_error());
                    let why =
                        if leads_out { "it leads out of the folder".to_owned() } else { error.to_string() };
                    notes.push(format!("not copied, because {why}: {}", shown.display()));
                    continue;
                }
            };
            let kind = FileType::from_raw_mode(stat.st_mode);
            if place.public && !is_public(stat.st_mode, kind == FileType::Directory) {
                notes.push(format!("not copied, because not everyone may read it: {}", shown.display()));
                continue;
            }
            match kind {
                FileType::Directory => self.look_into(place, &below, depth + 1, notes)?,
                FileType::RegularFile => {
                    self.count(&stat)?;
                    let at = place.at.join(&below);
                    self.copies.push(OneFile { root: Rc::clone(place.root), below, at, shown });
                }
                _ => notes.push(format!("not copied, because it is no file: {}", shown.display())),
            }
        }
        Ok(())
    }

    fn count(&mut self, stat: &Stat) -> io::Result<()> {
        self.bytes = self.bytes.saturating_add(u64::try_from(stat.st_size).unwrap_or(u64::MAX));
        if self.bytes > MAX_BYTES {
            return Err(io::Error::other(format!("the configuration has more than {MAX_BYTES} bytes")));
        }
        if self.copies.len() >= MAX_FILES {
            return Err(io::Error::other(format!("the configuration has more than {MAX_FILES} files")));
        }
        Ok(())
    }
}

/// A listed folder: where it is, and where it goes.
struct Place<'a> {
    root: &'a Rc<OwnedFd>,
    source: &'a Path,
    at: &'a Path,
    /// Only what everyone may read.
    public: bool,
}

impl OneFile {
    fn make(&self, home: &OwnedFd) -> io::Result<()> {
        let opened;
        let file = if self.below.as_os_str().is_empty() {
            &*self.root
        } else {
            opened = open_below(&self.root, &self.below, readable())?;
            &opened
        };
        let stat = fstat(file)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(io::Error::other("it is no file any more"));
        }
        let executable = stat.st_mode & 0o100 != 0;
        let Some(mut to) = create(home, &self.at, executable)? else { return Ok(()) };
        // It may have grown since it was counted.
        let mut from = File::from(file.try_clone()?).take(MAX_BYTES + 1);
        if io::copy(&mut from, &mut to)? > MAX_BYTES {
            return Err(io::Error::other(format!("it has more than {MAX_BYTES} bytes")));
        }
        Ok(())
    }
}

impl Carried {
    /// Whether more than its bytes matter.
    fn reads_json(&self) -> bool {
        !self.only.is_empty() || self.set.is_some()
    }
}

/// Makes a JSON file of what of the person's is listed, and of what is to be set in it.
fn write_settings(carried: &Carried, home: &OwnedFd) -> io::Result<Option<String>> {
    if !carried.reads_json() {
        return Ok(None);
    }
    let shown = carried.source.as_ref().map(|source| source.display().to_string()).unwrap_or_default();
    let bytes = carried.source.as_deref().map(read_json).transpose()?.unwrap_or_else(|| b"{}".to_vec());
    let (bytes, note) = match serde_json::from_slice(&bytes) {
        Ok(Value::Object(object)) => {
            let kept = if carried.only.is_empty() { object } else { settings::only(&object, &carried.only) };
            let mut whole = Value::Object(kept);
            if let Some(set) = &carried.set {
                settings::merge(&mut whole, set);
            }
            (serde_json::to_vec_pretty(&whole)?, None)
        }
        // What is not understood is not searched for what may enter.
        Ok(_) | Err(_) if !carried.only.is_empty() => {
            let set = carried.set.clone().unwrap_or_else(|| Value::Object(serde_json::Map::new()));
            (
                serde_json::to_vec_pretty(&set)?,
                Some(format!("not copied, because it is no JSON object: {shown}")),
            )
        }
        // Some agents allow comments; it is theirs to understand.
        Ok(_) | Err(_) => (bytes, Some(format!("copied as it is, because it is no JSON object: {shown}"))),
    };
    if let Some(mut file) = create(home, Path::new(&carried.at), false)? {
        file.write_all(&bytes)?;
    }
    Ok(note)
}

fn read_json(source: &Path) -> io::Result<Vec<u8>> {
    let file = File::from(openat2(CWD, source, readable(), Mode::empty(), ResolveFlags::NO_SYMLINKS)?);
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(io::Error::other(format!("it has more than {MAX_BYTES} bytes")));
    }
    Ok(bytes)
}

/// Makes a file for its owner alone, and the folders it lies in. `None` if the name is taken.
fn create(home: &OwnedFd, at: &Path, executable: bool) -> io::Result<Option<File>> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let mut folder = home.try_clone()?;
    for part in at.parent().into_iter().flat_map(Path::components) {
        match mkdirat(&folder, part.as_os_str(), Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        folder = openat2(&folder, part.as_os_str(), flags, Mode::empty(), resolve)?;
    }
    let name = at.file_name().ok_or_else(|| io::Error::other("it has no name"))?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mode = if executable { Mode::RWXU } else { Mode::RUSR | Mode::WUSR };
    match openat2(&folder, name, flags, mode, resolve) {
        Ok(file) => Ok(Some(file.into())),
        Err(Errno::EXIST) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn readable() -> OFlags {
    OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC
}

fn open_below(root: &OwnedFd, below: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let below = if below.as_os_str().is_empty() { Path::new(".") } else { below };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    Ok(openat2(root, below, flags, Mode::empty(), resolve)?)
}

#[allow(clippy::needless_pass_by_value)] // It is closed here.
fn fstat_of(file: OwnedFd) -> io::Result<Stat> {
    Ok(fstat(&file)?)
}

#[cfg(test)]
mod tests;
