//! Writes a pack (gitformat-pack(5)). What is in packs already is copied as it is, in the order it has there; the rest is
//! compressed on its way. Nothing is held in memory but one piece, or one object that is only there as a difference to
//! what is not sent.

use std::{collections::HashMap, io, rc::Rc};

use flate2::{Compress, Compression, FlushCompress, Status};
use sha1::{Digest, Sha1};

use super::{
    id::Id,
    object::Kind,
    select::Selection,
    store::{Form, Found, Head, MAX_FILE_BYTES, Pack, Store},
    trouble::{Outcome, Trouble},
};

/// Forms of entries that are differences: to a distance, and to a name.
const FROM_DISTANCE: u8 = 6;
const FROM_NAME: u8 = 7;

/// From so many objects of one pack on, where entries end is read from its index; below, each one is unfolded to find out.
const MANY: usize = 512;

/// What the other side can take.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Abilities {
    /// Differences to what it has and this pack does not.
    pub(crate) thin: bool,
    /// Differences that say how far back their base is.
    pub(crate) distances: bool,
}

/// Writes a pack of everything that was selected.
pub(crate) fn pack(
    store: &Store,
    selection: &Selection,
    abilities: Abilities,
    sink: &mut dyn FnMut(&[u8]) -> Outcome<()>,
) -> Outcome<()> {
    let mut packed: Vec<Vec<(u64, Id)>> = Vec::new();
    let mut loose = Vec::new();
    for (id, found) in &selection.objects {
        match *found {
            Found::Packed { pack, offset } => {
                if packed.len() <= pack {
                    packed.resize_with(pack + 1, Vec::new);
                }
                packed[pack].push((offset, *id));
            }
            Found::Loose { folder } => loose.push((folder, *id)),
        }
    }
    let mut had = HashMap::new();
    if abilities.thin {
        for id in selection.before.values().filter(|id| !selection.has(**id)) {
            if let Some(Found::Packed { pack, offset }) = store.find(*id)? {
                had.insert((pack, offset), *id);
            }
        }
    }
    let count = u32::try_from(selection.objects.len()).unwrap_or(u32::MAX);
    let mut out =
        Out { sink, hash: Sha1::new(), written: 0, engine: Compress::new(Compression::fast(), true) };
    out.write(&[&b"PACK\0\0\0\x02"[..], &count.to_be_bytes()].concat())?;
    for (folder, id) in loose {
        out.loose(store, folder, id)?;
    }
    for (number, mut entries) in packed.into_iter().enumerate() {
        if entries.is_empty() {
            continue;
        }
        entries.sort_unstable();
        // Two names for one place: no pack of git's has that, and neither has ours.
        let pack = store.pack(number);
        let knows_ends = entries.len() >= MANY;
        let mut copying =
            Copying { store, number, pack, abilities, selection, had: &had, knows_ends, at: HashMap::new() };
        for (offset, id) in &entries {
            copying.at.insert(*offset, (0, *id));
        }
        for (offset, id) in entries {
            copying.entry(offset, id, &mut out)?;
        }
    }
    let name = out.hash.finalize();
    (out.sink)(&name)
}

/// Entries of one pack on their way into another.
struct Copying<'a> {
    store: &'a Store,
    number: usize,
    pack: Rc<Pack>,
    abilities: Abilities,
    selection: &'a Selection,
    /// What the other side has, where it is here.
    had: &'a HashMap<(usize, u64), Id>,
    knows_ends: bool,
    /// Where entries that are sent begin here, and where they begin there; zero until they do.
    at: HashMap<u64, (u64, Id)>,
}

impl Copying<'_> {
    fn entry(&mut self, offset: u64, id: Id, out: &mut Out<'_>) -> Outcome<()> {
        let reading = |error: io::Error| Trouble::reading(&format!("object {id}"), &error);
        let head = self.pack.head(offset).map_err(reading)?;
        let now = out.written;
        let mut start = Vec::new();
        match head.form {
            Form::Whole(kind) => Head::write(kind.number(), head.size, &mut start),
            form => {
                let base = match form {
                    Form::From(base) => Some(base),
                    Form::FromNamed(base) => self.pack.find(base).map_err(reading)?,
                    Form::Whole(_) => None,
                };
                let sent = base.and_then(|base| self.at.get(&base)).copied();
                match sent {
                    // One that comes later has no distance yet.
                    Some((there, _)) if there > 0 && self.abilities.distances => {
                        Head::write(FROM_DISTANCE, head.size, &mut start);
                        Head::write_distance(now - there, &mut start);
                    }
                    Some((_, base)) => named(base, head.size, &mut start),
                    None => match self.had_base(form, base).map_err(reading)? {
                        Some(base) => named(base, head.size, &mut start),
                        None => return self.whole(offset, id, out),
                    },
                }
            }
        }
        let from = offset + head.bytes;
        let to = if self.knows_ends {
            self.pack.end_of(offset).map_err(reading)?
        } else {
            from + self.pack.compressed(from).map_err(reading)?
        };
        out.write(&start)?;
        let mut failed = None;
        let copied = self.pack.copy(from, to, &mut |piece| {
            out.write(piece).map_err(|trouble| {
                failed = Some(trouble);
                io::Error::other("")
            })
        });
        if let Some(trouble) = failed {
            return Err(trouble);
        }
        copied.map_err(reading)?;
        self.at.insert(offset, (now, id));
        Ok(())
    }

    /// The name of a base that is not sent, where the other side has it.
    fn had_base(&self, form: Form, base: Option<u64>) -> io::Result<Option<Id>> {
        if !self.abilities.thin {
            return Ok(None);
        }
        if let Some(known) = base.and_then(|base| self.had.get(&(self.number, base))) {
            return Ok(Some(*known));
        }
        let name = match (form, base) {
            (Form::FromNamed(name), _) => Some(name),
            // The name of a place is only found by sorting all of them.
            (Form::From(base), _) if self.knows_ends => self.pack.name_at(base)?,
            _ => None,
        };
        Ok(name.filter(|name| !self.selection.has(*name) && self.selection.had.contains(name)))
    }

    fn whole(&mut self, offset: u64, id: Id, out: &mut Out<'_>) -> Outcome<()> {
        let found = Found::Packed { pack: self.number, offset };
        let (kind, content) = self.store.read_found(id, found, MAX_FILE_BYTES)?;
        self.at.insert(offset, (out.written, id));
        out.object(kind, &content)
    }
}

fn named(base: Id, size: u64, start: &mut Vec<u8>) {
    Head::write(FROM_NAME, size, start);
    start.extend_from_slice(&base.0);
}

/// The pack on its way.
struct Out<'a> {
    sink: &'a mut dyn FnMut(&[u8]) -> Outcome<()>,
    hash: Sha1,
    written: u64,
    engine: Compress,
}

impl Out<'_> {
    fn write(&mut self, bytes: &[u8]) -> Outcome<()> {
        self.hash.update(bytes);
        self.written += bytes.len() as u64;
        (self.sink)(bytes)
    }

    fn object(&mut self, kind: Kind, content: &[u8]) -> Outcome<()> {
        self.begin(kind, content.len() as u64)?;
        self.compress(content)?;
        self.end()
    }

    fn loose(&mut self, store: &Store, folder: usize, id: Id) -> Outcome<()> {
        let Ok(loose) = store.loose(folder, id) else {
            // Packed in between.
            let (kind, content) = store.read(id, MAX_FILE_BYTES)?.ok_or_else(|| Trouble::missing(id))?;
            return self.object(kind, &content);
        };
        self.begin(loose.kind, loose.size)?;
        let mut failed = None;
        let read = loose.pieces(&mut |piece| {
            self.compress(piece).map_err(|trouble| {
                failed = Some(trouble);
                io::Error::other("")
            })
        });
        if let Some(trouble) = failed {
            return Err(trouble);
        }
        read.map_err(|error| Trouble::reading(&format!("object {id}"), &error))?;
        self.end()
    }

    fn begin(&mut self, kind: Kind, size: u64) -> Outcome<()> {
        let mut start = Vec::new();
        Head::write(kind.number(), size, &mut start);
        self.write(&start)?;
        self.engine.reset();
        Ok(())
    }

    fn compress(&mut self, mut content: &[u8]) -> Outcome<()> {
        let mut made = Vec::with_capacity(32 * 1024);
        while !content.is_empty() {
            let before = self.engine.total_in();
            self.squeeze(content, &mut made, FlushCompress::None)?;
            let used = usize::try_from(self.engine.total_in() - before).unwrap_or(content.len());
            content = &content[used..];
        }
        Ok(())
    }

    fn end(&mut self) -> Outcome<()> {
        let mut made = Vec::with_capacity(32 * 1024);
        while self.squeeze(&[], &mut made, FlushCompress::Finish)? != Status::StreamEnd {}
        Ok(())
    }

    fn squeeze(&mut self, content: &[u8], made: &mut Vec<u8>, how: FlushCompress) -> Outcome<Status> {
        made.clear();
        let status = self.engine.compress_vec(content, made, how);
        self.write(made)?;
        status.map_err(|error| Trouble::said(format!("cannot compress: {error}")))
    }
}
