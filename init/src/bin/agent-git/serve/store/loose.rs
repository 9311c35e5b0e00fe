//! Objects that are in files of their own: a head in words, and the content, compressed together.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use flate2::read::ZlibDecoder;

use super::{
    super::{file, id::Id, object::Kind},
    pack::corrupt,
};

/// The longest head: a kind and a number.
const MAX_HEAD_BYTES: usize = 32;

/// An object whose head was read; what follows is its content.
pub(crate) struct Loose {
    pub(crate) kind: Kind,
    pub(crate) size: u64,
    content: ZlibDecoder<File>,
}

impl Loose {
    /// Opens an object of a folder; `None` where it is not there.
    pub(crate) fn open(folder: &Path, id: Id) -> io::Result<Option<Self>> {
        let file = match file::open(&path(folder, id)) {
            Ok(file) => file,
            Err(error) if file::is_absent(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut content = ZlibDecoder::new(file);
        let mut head = Vec::with_capacity(MAX_HEAD_BYTES);
        let mut byte = [0];
        loop {
            content.read_exact(&mut byte)?;
            if byte[0] == 0 {
                break;
            }
            head.push(byte[0]);
            if head.len() >= MAX_HEAD_BYTES {
                return Err(corrupt("a loose object that is none"));
            }
        }
        let mut words = head.splitn(2, |byte| *byte == b' ');
        let kind = words.next().and_then(Kind::named);
        let size = words.next().and_then(|size| std::str::from_utf8(size).ok()?.parse().ok());
        let (Some(kind), Some(size)) = (kind, size) else {
            return Err(corrupt("a loose object that is none"));
        };
        Ok(Some(Self { kind, size, content }))
    }

    /// Whether an object is there, as far as one sees without reading it.
    pub(crate) fn is_there(folder: &Path, id: Id) -> io::Result<bool> {
        match std::fs::metadata(path(folder, id)) {
            Ok(found) if found.is_file() => Ok(true),
            Ok(_) => Err(io::Error::new(io::ErrorKind::InvalidInput, "not an ordinary file")),
            Err(error) if file::is_absent(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Its content, piece by piece and not more than it says.
    pub(crate) fn pieces(mut self, take: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        let mut buffer = vec![0; 64 * 1024];
        let mut left = self.size;
        loop {
            let read = self.content.read(&mut buffer)?;
            if read == 0 {
                return if left == 0 { Ok(()) } else { Err(corrupt("a loose object that is too short")) };
            }
            left = left.checked_sub(read as u64).ok_or_else(|| corrupt("a loose object that is too long"))?;
            take(&buffer[..read])?;
        }
    }

    /// All of its content.
    pub(crate) fn read(mut self) -> io::Result<Vec<u8>> {
        let size = usize::try_from(self.size).unwrap_or(usize::MAX);
        let mut content = Vec::new();
        content
            .try_reserve_exact(size.saturating_add(1))
            .map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
        (&mut self.content).take(self.size + 1).read_to_end(&mut content)?;
        if content.len() == size { Ok(content) } else { Err(corrupt("a loose object of another size")) }
    }
}

fn path(folder: &Path, id: Id) -> PathBuf {
    let name = id.to_string();
    folder.join(&name[..2]).join(&name[2..])
}
