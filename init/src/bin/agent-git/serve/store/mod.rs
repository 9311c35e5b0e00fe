//! The objects of a repository, wherever it has them: in packs, in files of their own, in other repositories.
//!
//! libgit2 gives no access to what packs hold as it is, and making packs anew takes it eighty times as long as git; so
//! packs are read here. Nothing is believed: sizes are bounded before memory is set aside, and whoever gets an object
//! hashes it.

mod delta;
mod loose;
mod pack;

use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, HashSet, VecDeque},
    ffi::OsStr,
    fs, io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    rc::Rc,
};

use super::{
    file,
    id::Id,
    object::{Commit, Kind},
    trouble::{Outcome, Trouble},
};
pub(crate) use loose::Loose;
pub(crate) use pack::{Form, Head, MAX_HEAD_BYTES, Pack};

/// Packs of one repository.
const MAX_PACKS: usize = 4096;

/// Folders of objects: the repository's own, and those that it borrows from.
const MAX_FOLDERS: usize = 64;

/// How far borrowing goes; git has the same bound.
const MAX_BORROWING: usize = 5;

/// Paths of the folders that one borrows from.
const MAX_ALTERNATES_BYTES: u64 = 64 * 1024;

/// Objects that are remembered to be there.
const MAX_SEEN: usize = 65_536;

/// What is made in memory, of a tree, a commit or a tag. Files are passed on in pieces where that is possible.
pub(crate) const MAX_CONTENT_BYTES: u64 = 128 << 20;

/// A file that is only there as a difference, and has to be sent whole.
pub(crate) const MAX_FILE_BYTES: u64 = 1 << 30;

/// Differences of differences; git makes at most 4095.
const MAX_CHAIN: usize = 4096;

/// Objects that others are likely to be differences to.
const CACHE_BYTES: usize = 48 << 20;

/// Where an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// In that pack, at that place.
    Packed { pack: usize, offset: u64 },
    /// In a file of its own in that folder.
    Loose { folder: usize },
}

/// All objects.
pub(crate) struct Store {
    folders: Vec<PathBuf>,
    packs: RefCell<Vec<Rc<Pack>>>,
    /// The packs that were opened.
    known: RefCell<HashSet<PathBuf>>,
    /// The pack in which something was found last: what one asks for next is likely to be there.
    last: Cell<usize>,
    cache: RefCell<Cache>,
    /// Some of what is there: many refs lead to the same object.
    seen: RefCell<HashSet<Id>>,
}

/// An object in memory.
pub(crate) type Content = (Kind, Rc<[u8]>);

impl Store {
    /// The objects of a repository.
    pub(crate) fn open(objects: &Path) -> Outcome<Self> {
        Self::of(&[objects])
    }

    /// The objects of several folders, and of those that they borrow from.
    pub(crate) fn of(first: &[&Path]) -> Outcome<Self> {
        let mut folders = Vec::new();
        for folder in first {
            add_folder(&mut folders, folder, 0)?;
        }
        let store = Self {
            folders,
            packs: RefCell::default(),
            known: RefCell::default(),
            last: Cell::new(0),
            cache: RefCell::default(),
            seen: RefCell::default(),
        };
        store.look_for_packs()?;
        Ok(store)
    }

    /// Where an object is, if it is anywhere.
    pub(crate) fn find(&self, id: Id) -> Outcome<Option<Found>> {
        if let Some(found) = self.find_now(id)? {
            return Ok(Some(found));
        }
        // Git inside may just have packed it.
        if self.look_for_packs()? { self.find_packed(id) } else { Ok(None) }
    }

    /// Whether there is such an object, as far as one can say without looking twice.
    pub(crate) fn has(&self, id: Id) -> Outcome<bool> {
        if self.seen.borrow().contains(&id) {
            return Ok(true);
        }
        let has = self.find_now(id)?.is_some();
        let mut seen = self.seen.borrow_mut();
        if has && seen.len() < MAX_SEEN {
            seen.insert(id);
        }
        Ok(has)
    }

    fn find_now(&self, id: Id) -> Outcome<Option<Found>> {
        if let Some(found) = self.find_packed(id)? {
            return Ok(Some(found));
        }
        for (folder, path) in self.folders.iter().enumerate() {
            match Loose::is_there(path, id) {
                Ok(true) => return Ok(Some(Found::Loose { folder })),
                Ok(false) => {}
                Err(error) => return Err(reading(id, &error)),
            }
        }
        Ok(None)
    }

    fn find_packed(&self, id: Id) -> Outcome<Option<Found>> {
        let packs = self.packs.borrow();
        let last = self.last.get();
        let others = (0..packs.len()).filter(|pack| *pack != last);
        for pack in packs.get(last).map(|_| last).into_iter().chain(others) {
            if let Some(offset) = packs[pack].find(id).map_err(|error| reading(id, &error))? {
                self.last.set(pack);
                return Ok(Some(Found::Packed { pack, offset }));
            }
        }
        Ok(None)
    }

    /// A pack that something was found in.
    pub(crate) fn pack(&self, number: usize) -> Rc<Pack> {
        Rc::clone(&self.packs.borrow()[number])
    }

    /// An object that is in a file of its own.
    pub(crate) fn loose(&self, folder: usize, id: Id) -> Outcome<Loose> {
        let found = self.folders.get(folder).map(|path| Loose::open(path, id));
        match found {
            Some(Ok(Some(loose))) => Ok(loose),
            Some(Err(error)) => Err(reading(id, &error)),
            _ => Err(Trouble::missing(id)),
        }
    }

    /// An object in memory, if there is one.
    pub(crate) fn read(&self, id: Id, most: u64) -> Outcome<Option<Content>> {
        match self.find(id)? {
            Some(found) => self.read_found(id, found, most).map(Some),
            None => Ok(None),
        }
    }

    /// An object that has to be there.
    pub(crate) fn get(&self, id: Id, kind: Kind) -> Outcome<Rc<[u8]>> {
        match self.read(id, MAX_CONTENT_BYTES)? {
            Some((found, content)) if found == kind => Ok(content),
            Some(_) => Err(Trouble::corrupt(id)),
            None => Err(Trouble::missing(id)),
        }
    }

    /// A commit; `None` where there is none, or something else.
    pub(crate) fn commit(&self, id: Id) -> Outcome<Option<Commit>> {
        match self.read(id, MAX_CONTENT_BYTES)? {
            Some((Kind::Commit, content)) => {
                Commit::parse(&content).map(Some).ok_or_else(|| Trouble::corrupt(id))
            }
            _ => Ok(None),
        }
    }

    /// What kind of object it is; `None` where there is none.
    pub(crate) fn kind(&self, id: Id) -> Outcome<Option<Kind>> {
        match self.find(id)? {
            Some(Found::Loose { folder }) => Ok(Some(self.loose(folder, id)?.kind)),
            Some(Found::Packed { pack, offset }) => {
                let pack = self.pack(pack);
                let chain = chain(&pack, offset).map_err(|error| reading(id, &error))?;
                Ok(Some(chain.kind))
            }
            None => Ok(None),
        }
    }

    /// The size of what stands for an object in its place, a difference or all of it.
    pub(crate) fn stored_size(&self, id: Id, found: Found) -> Outcome<u64> {
        match found {
            Found::Loose { folder } => Ok(self.loose(folder, id)?.size),
            Found::Packed { pack, offset } => {
                self.pack(pack).head(offset).map(|head| head.size).map_err(|error| reading(id, &error))
            }
        }
    }

    /// An object that was found.
    pub(crate) fn read_found(&self, id: Id, found: Found, most: u64) -> Outcome<Content> {
        match found {
            Found::Loose { folder } => {
                let loose = self.loose(folder, id)?;
                if loose.size > most {
                    return Err(too_large(id));
                }
                let kind = loose.kind;
                Ok((kind, loose.read().map_err(|error| reading(id, &error))?.into()))
            }
            Found::Packed { pack, offset } => match self.unpack(pack, offset, most) {
                Ok(Some(content)) => Ok(content),
                Ok(None) => Err(too_large(id)),
                Err(error) => Err(reading(id, &error)),
            },
        }
    }

    /// Follows differences to their base and makes the object of them; `None` where it is too large.
    fn unpack(&self, number: usize, offset: u64, most: u64) -> io::Result<Option<Content>> {
        let pack = self.pack(number);
        let mut deltas = Vec::new();
        let mut at = offset;
        let (kind, mut content) = loop {
            if let Some(cached) = self.cache.borrow().get(number, at) {
                break cached;
            }
            let head = pack.head(at)?;
            if head.size > most {
                return Ok(None);
            }
            match head.form {
                Form::Whole(kind) => {
                    let content = pack.inflate(at + head.bytes, to_usize(head.size))?;
                    let content = Rc::<[u8]>::from(content);
                    self.cache.borrow_mut().add(number, at, (kind, Rc::clone(&content)));
                    break (kind, content);
                }
                form => {
                    if deltas.len() >= MAX_CHAIN {
                        return Err(pack::corrupt("differences without an end"));
                    }
                    deltas.push((at, at + head.bytes, head.size));
                    at = base(&pack, form)?;
                }
            }
        };
        for (at, compressed, size) in deltas.into_iter().rev() {
            let difference = pack.inflate(compressed, to_usize(size))?;
            let made = delta::apply(&content, &difference, most)
                .ok_or_else(|| pack::corrupt("a difference that does not fit"))?;
            content = made.into();
            self.cache.borrow_mut().add(number, at, (kind, Rc::clone(&content)));
        }
        Ok(Some((kind, content)))
    }

    /// Opens the packs that are new; whether there are any.
    fn look_for_packs(&self) -> Outcome<bool> {
        let mut new = false;
        for folder in &self.folders {
            let entries = match fs::read_dir(folder.join("pack")) {
                Ok(entries) => entries,
                Err(error) if file::is_absent(&error) => continue,
                Err(error) => return Err(Trouble::reading("the packs", &error)),
            };
            for entry in entries {
                let path = entry.map_err(|error| Trouble::reading("the packs", &error))?.path();
                if path.extension() != Some(OsStr::new("idx")) || self.known.borrow().contains(&path) {
                    continue;
                }
                if self.packs.borrow().len() >= MAX_PACKS {
                    return Err(Trouble::said(format!(
                        "the repository inside has more than {MAX_PACKS} packs: `git gc` there makes one of them"
                    )));
                }
                match Pack::open(&path) {
                    Ok(pack) => self.packs.borrow_mut().push(Rc::new(pack)),
                    // Git inside has removed it in between: what was in it is in another one.
                    Err(error) if file::is_absent(&error) => continue,
                    Err(error) => {
                        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                        return Err(Trouble::reading(&name, &error));
                    }
                }
                self.known.borrow_mut().insert(path);
                new = true;
            }
        }
        Ok(new)
    }
}

/// The chain of differences that ends in an object's kind.
struct Chain {
    kind: Kind,
}

fn chain(pack: &Pack, offset: u64) -> io::Result<Chain> {
    let mut at = offset;
    for _ in 0..=MAX_CHAIN {
        match pack.head(at)?.form {
            Form::Whole(kind) => return Ok(Chain { kind }),
            form => at = base(pack, form)?,
        }
    }
    Err(pack::corrupt("differences without an end"))
}

/// Where the base of a difference is. A pack on a disk has all of them itself.
fn base(pack: &Pack, form: Form) -> io::Result<u64> {
    match form {
        Form::From(offset) => Ok(offset),
        Form::FromNamed(id) => {
            pack.find(id)?.ok_or_else(|| pack::corrupt("a difference to what is not in its pack"))
        }
        Form::Whole(_) => Err(pack::corrupt("a difference that is none")),
    }
}

/// A folder, and those that it borrows from.
fn add_folder(folders: &mut Vec<PathBuf>, folder: &Path, borrowed: usize) -> Outcome<()> {
    // Those that borrow from each other in a circle are known by where they really are. Git follows no further, either.
    let folder = &folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    if borrowed > MAX_BORROWING || folders.contains(folder) {
        return Ok(());
    }
    if folders.len() >= MAX_FOLDERS {
        return Err(Trouble::said("the repository inside borrows objects from too many others"));
    }
    folders.push(folder.to_owned());
    let list = file::read(&folder.join("info/alternates"), MAX_ALTERNATES_BYTES)
        .map_err(|error| Trouble::reading("info/alternates", &error))?;
    for line in list.unwrap_or_default().split(|byte| *byte == b'\n') {
        if !line.is_empty() && !line.starts_with(b"#") {
            let other = folder.join(OsStr::from_bytes(line));
            // One that is not there lends nothing.
            if other.is_dir() {
                add_folder(folders, &other, borrowed + 1)?;
            }
        }
    }
    Ok(())
}

fn reading(id: Id, error: &io::Error) -> Trouble {
    Trouble::reading(&format!("object {id}"), error)
}

fn too_large(id: Id) -> Trouble {
    Trouble::said(format!("object {id} of the repository inside is larger than can be served"))
}

fn to_usize(size: u64) -> usize {
    usize::try_from(size).unwrap_or(usize::MAX)
}

/// Objects of packs that were unfolded last.
#[derive(Default)]
struct Cache {
    objects: HashMap<(usize, u64), Content>,
    order: VecDeque<(usize, u64)>,
    bytes: usize,
}

impl Cache {
    fn get(&self, pack: usize, offset: u64) -> Option<Content> {
        self.objects.get(&(pack, offset)).cloned()
    }

    /// Files are hardly ever asked for twice.
    fn add(&mut self, pack: usize, offset: u64, content: Content) {
        let bytes = content.1.len();
        if content.0 == Kind::Blob || bytes > CACHE_BYTES / 16 {
            return;
        }
        if self.objects.insert((pack, offset), content).is_none() {
            self.order.push_back((pack, offset));
            self.bytes += bytes;
        }
        while self.bytes > CACHE_BYTES {
            let Some(oldest) = self.order.pop_front() else { return };
            if let Some((_, content)) = self.objects.remove(&oldest) {
                self.bytes -= content.len();
            }
        }
    }
}
