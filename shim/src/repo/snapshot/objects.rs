//! Objects of the person's repository, from one `git cat-file` that answers one question after the other.

use std::io;

use super::AtHomeError;
use crate::repo::host_git::{GitError, Running};

/// A line of an answer, bytes.
const MAX_LINE_BYTES: usize = 256;

/// A commit or a tree, bytes. The largest folder that anybody works in is far below.
const MAX_HELD_BYTES: u64 = 256 << 20;

/// What is read at a time, bytes.
const PIECE_BYTES: usize = 64 * 1024;

/// Somebody who reads objects.
#[derive(Debug)]
pub struct Objects {
    running: Running,
    digits: usize,
    read: Vec<u8>,
    at: usize,
}

impl Objects {
    pub(super) fn new(running: Running, digits: usize) -> Self {
        Self { running, digits, read: Vec::new(), at: 0 }
    }

    /// Bytes in the name of an object, in a tree.
    pub(super) fn id_bytes(&self) -> usize {
        self.digits / 2
    }

    /// A commit's content.
    pub(super) fn commit(&mut self, id: &str) -> Result<Vec<u8>, AtHomeError> {
        self.held(id, "commit")
    }

    /// A tree's content.
    pub(super) fn tree(&mut self, id: &str) -> Result<Vec<u8>, AtHomeError> {
        self.held(id, "tree")
    }

    /// A short blob's content; `None` if it has more than `most` bytes.
    pub(super) fn short_blob(&mut self, id: &str, most: usize) -> Result<Option<Vec<u8>>, AtHomeError> {
        let mut content = Vec::new();
        let size = self.blob(id, |piece| {
            if content.len() <= most {
                content.extend_from_slice(piece);
            }
            Ok(())
        })?;
        Ok((size <= most as u64).then_some(content))
    }

    /// Passes a blob's content on, and says how large it is. What fails in `take` is told when all has been read.
    pub(super) fn blob(
        &mut self,
        id: &str,
        mut take: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<u64, AtHomeError> {
        let size = self.ask(id, "blob")?;
        let (mut left, mut failed) = (size, None);
        while left > 0 {
            let piece = self.piece(left)?;
            left -= piece.len() as u64;
            if failed.is_none() {
                failed = take(piece).err();
            }
        }
        self.end()?;
        failed.map_or(Ok(size), |error| Err(AtHomeError::Shown(error)))
    }

    fn held(&mut self, id: &str, kind: &str) -> Result<Vec<u8>, AtHomeError> {
        let size = self.ask(id, kind)?;
        if size > MAX_HELD_BYTES {
            return Err(AtHomeError::Answer);
        }
        let mut content = Vec::new();
        let mut left = size;
        while left > 0 {
            let piece = self.piece(left)?;
            left -= piece.len() as u64;
            content.extend_from_slice(piece);
        }
        self.end()?;
        Ok(content)
    }

    /// Asks for an object, and says how large it is.
    fn ask(&mut self, id: &str, kind: &str) -> Result<u64, AtHomeError> {
        self.running.write(format!("{id}\n").as_bytes())?;
        let mut line = Vec::new();
        loop {
            let byte = self.piece(1)?[0];
            match byte {
                b'\n' => break,
                _ if line.len() >= MAX_LINE_BYTES => return Err(AtHomeError::Answer),
                _ => line.push(byte),
            }
        }
        let line = String::from_utf8(line).map_err(|_| AtHomeError::Answer)?;
        let mut words = line.split(' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some(name), Some(found), Some(size), None) if name == id && found == kind => {
                size.parse().map_err(|_| AtHomeError::Answer)
            }
            (Some(name), Some("missing"), None, None) if name == id => {
                let said = format!("the {kind} {id} is missing");
                Err(GitError::Refused { what: "cat-file", said }.into())
            }
            _ => Err(AtHomeError::Answer),
        }
    }

    fn end(&mut self) -> Result<(), AtHomeError> {
        if self.piece(1)? == b"\n" { Ok(()) } else { Err(AtHomeError::Answer) }
    }

    /// At least one byte of what comes, and at most this many.
    fn piece(&mut self, most: u64) -> Result<&[u8], AtHomeError> {
        if self.at == self.read.len() {
            self.read.resize(PIECE_BYTES, 0);
            let count = self.running.read(&mut self.read)?;
            self.read.truncate(count);
            self.at = 0;
            if count == 0 {
                self.running.wait()?;
                return Err(AtHomeError::Answer);
            }
        }
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        let end = self.read.len().min(self.at.saturating_add(most));
        let piece = &self.read[self.at..end];
        self.at = end;
        Ok(piece)
    }
}
