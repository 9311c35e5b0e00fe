//! The archive that the kernel unpacks into its first file system: `newc`, as in
//! `Documentation/driver-api/early-userspace/buffer-format.rst`.

use std::io::{self, Write};

/// Archives follow one another only at multiples of four. A block of 512 is what everybody pads to.
const BLOCK_BYTES: usize = 512;

/// What the kernel calls the end of an archive.
const END: &str = "TRAILER!!!";

/// Writes one archive.
#[derive(Debug)]
pub(super) struct Archive<W> {
    to: W,
    written: usize,
    /// Numbers of files. Two files of one number could be taken for one.
    last: u32,
}

/// What an entry is, with its permissions.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Folder(u32),
    File(u32),
    /// A device of characters: permissions, major and minor number.
    Device(u32, u32, u32),
}

impl<W: Write> Archive<W> {
    pub(super) fn new(to: W) -> Archive<W> {
        Archive { to, written: 0, last: 0 }
    }

    /// Adds an entry of root's, with no time of its own: the same content makes the same archive.
    pub(super) fn add(&mut self, path: &str, kind: Kind, content: &[u8]) -> io::Result<()> {
        self.last += 1;
        self.entry(path, kind, content)
    }

    /// Ends it and gives back what it was written to.
    pub(super) fn finish(mut self) -> io::Result<W> {
        self.last = 0;
        self.entry(END, Kind::File(0), b"")?;
        self.pad(BLOCK_BYTES)?;
        Ok(self.to)
    }

    fn entry(&mut self, path: &str, kind: Kind, content: &[u8]) -> io::Result<()> {
        let too_large = || io::Error::other(format!("{path} is too large for an archive"));
        let size = u32::try_from(content.len()).map_err(|_| too_large())?;
        let name_size = u32::try_from(path.len() + 1).map_err(|_| too_large())?;
        let (mode, major, minor) = match kind {
            Kind::Folder(mode) => (0o040_000 | mode, 0, 0),
            Kind::File(0) => (0, 0, 0),
            Kind::File(mode) => (0o100_000 | mode, 0, 0),
            Kind::Device(mode, major, minor) => (0o020_000 | mode, major, minor),
        };
        // Number, mode, uid, gid, links, time, size, device the file was on (two), device it is (two), name, sum.
        let fields = [self.last, mode, 0, 0, 1, 0, size, 0, 0, major, minor, name_size, 0];
        let header = fields.iter().fold("070701".to_owned(), |header, field| format!("{header}{field:08X}"));
        self.write(header.as_bytes())?;
        self.write(path.as_bytes())?;
        self.write(b"\0")?;
        self.pad(4)?;
        self.write(content)?;
        self.pad(4)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.written += bytes.len();
        self.to.write_all(bytes)
    }

    fn pad(&mut self, to: usize) -> io::Result<()> {
        let missing = self.written.next_multiple_of(to) - self.written;
        self.write(&[0; BLOCK_BYTES][..missing])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_are_those_of_the_format() {
        let mut archive = Archive::new(Vec::new());
        archive.add("dev", Kind::Folder(0o755), b"").unwrap();
        archive.add("dev/console", Kind::Device(0o600, 5, 1), b"").unwrap();
        archive.add("init", Kind::File(0o755), b"hello").unwrap();
        let bytes = archive.finish().unwrap();
        let text = String::from_utf8(bytes).unwrap().replace('\0', "~");
        let folder = "070701000000010000\
                      41ED000000000000000000000001000000000000000000000000000000000000000000000000\
                      0000000400000000dev~~~";
        assert_eq!(&text[..116], folder);
        assert!(text.contains("0000000500000001"), "the console's numbers");
        assert!(
            text.contains("init~~hello~~~070701"),
            "a name with its zero byte and a content end at a multiple of four"
        );
        assert!(text.trim_end_matches('~').ends_with(END));
        assert_eq!(text.len() % BLOCK_BYTES, 0);
    }
}
