//! What a unit wrote, as it wrote it: `logs/UNIT.log`, and the part before in `logs/UNIT.log.1`.
//!
//! `logs/UNIT.at` tells which offset of init's stream the file's first byte would have, so that a new monitor
//! asks for what is missing and nothing twice.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use super::atomic::{self, Survives};

/// The folder for all of a sandbox's logs.
pub(crate) const LOGS: &str = "logs";

/// At this size a log becomes the old one, and the one before is dropped: 16 MiB per unit at most.
const ROTATE_BYTES: u64 = 8 * 1024 * 1024;

/// Writes one unit's log. One process at a time does, the one that holds the monitor's lock.
#[derive(Debug)]
pub(crate) struct UnitLog {
    logs: PathBuf,
    unit: String,
    file: File,
    bytes: u64,
    /// Stream offset of byte 0 of the file. Negative where earlier starts or marks stand before the stream's first byte.
    origin: i64,
}

/// Paths of a unit's log, the older first.
pub(crate) fn paths(folder: &Path, unit: &str) -> [PathBuf; 2] {
    let logs = folder.join(LOGS);
    [logs.join(format!("{unit}.log.1")), logs.join(format!("{unit}.log"))]
}

/// Removes a unit's log. What cannot be removed is overwritten by the next one of that name.
pub(crate) fn remove(folder: &Path, unit: &str) {
    let [old, new] = paths(folder, unit);
    for path in [old, new, folder.join(LOGS).join(format!("{unit}.at"))] {
        drop(fs::remove_file(path));
    }
}

/// Whether a unit's name, which comes from inside, can be a part of a file name.
pub(crate) fn is_fit_for_a_file(unit: &str) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    unit.len() <= 63
        && unit.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric)
        && unit.bytes().all(fits)
}

impl UnitLog {
    /// Goes on with the log of a stream that was being written.
    pub(crate) fn resume(folder: &Path, unit: &str) -> io::Result<Self> {
        let logs = folder.join(LOGS);
        let path = logs.join(format!("{unit}.log"));
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
        let bytes = file.metadata()?.len();
        let noted = fs::read_to_string(logs.join(format!("{unit}.at"))).ok();
        let origin = noted.and_then(|text| text.trim().parse().ok()).unwrap_or(-signed(bytes));
        Ok(Self { logs, unit: unit.to_owned(), file, bytes, origin })
    }

    /// Begins with a new stream behind what is there.
    pub(crate) fn begin(folder: &Path, unit: &str) -> io::Result<Self> {
        let mut log = Self::resume(folder, unit)?;
        log.origin = -signed(log.bytes);
        log.note_origin()?;
        Ok(log)
    }

    /// The stream offset to go on at.
    pub(crate) fn next_offset(&self) -> u64 {
        u64::try_from(self.origin.saturating_add(signed(self.bytes))).unwrap_or(0)
    }

    /// Appends what the stream has at `offset`. What is there already is passed over; a gap is marked.
    pub(crate) fn append(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let next = self.next_offset();
        if offset > next {
            let mark = format!("\r\n[agent-shim: {} bytes were not recorded]\r\n", offset - next);
            self.write(mark.as_bytes())?;
            self.origin = signed(offset).saturating_sub(signed(self.bytes));
            self.note_origin()?;
        }
        let known = usize::try_from(next.saturating_sub(offset)).unwrap_or(usize::MAX);
        let Some(new) = bytes.get(known..) else { return Ok(()) };
        self.write(new)?;
        if self.bytes >= ROTATE_BYTES { self.rotate() } else { Ok(()) }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if let Err(error) = self.file.write_all(bytes) {
            // A full disk can take a part, which would stand there twice once it is sent again.
            drop(self.file.set_len(self.bytes));
            return Err(error);
        }
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        let path = self.logs.join(format!("{}.log", self.unit));
        match fs::rename(&path, self.logs.join(format!("{}.log.1", self.unit))) {
            // The last try came so far.
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        self.file = OpenOptions::new().append(true).create(true).mode(0o600).open(&path)?;
        self.origin = self.origin.saturating_add(signed(self.bytes));
        self.bytes = 0;
        self.note_origin()
    }

    fn note_origin(&self) -> io::Result<()> {
        let name = format!("{}.at", self.unit);
        atomic::replace(&self.logs, &name, self.origin.to_string().as_bytes(), Survives::Kill)
    }
}

/// Offsets come from inside: absurd ones are cut, and then the log is merely wrong.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::testing::TempDir;

    fn sandbox() -> TempDir {
        let temp = TempDir::new();
        fs::create_dir(temp.path().join(LOGS)).unwrap();
        temp
    }

    fn content(temp: &TempDir) -> String {
        fs::read_to_string(&paths(temp.path(), "agent")[1]).unwrap()
    }

    #[test]
    fn a_new_monitor_goes_on_at_the_last_byte() {
        let temp = sandbox();
        let mut log = UnitLog::begin(temp.path(), "agent").unwrap();
        log.append(0, b"hello ").unwrap();
        drop(log);
        let mut log = UnitLog::resume(temp.path(), "agent").unwrap();
        assert_eq!(log.next_offset(), 6);
        log.append(3, b"lo world").unwrap();
        log.append(0, b"hel").unwrap();
        assert_eq!(content(&temp), "hello world");
    }

    #[test]
    fn the_next_start_has_a_stream_of_its_own() {
        let temp = sandbox();
        UnitLog::begin(temp.path(), "agent").unwrap().append(0, b"one\n").unwrap();
        let mut log = UnitLog::begin(temp.path(), "agent").unwrap();
        assert_eq!(log.next_offset(), 0);
        log.append(0, b"two\n").unwrap();
        drop(log);
        assert_eq!(UnitLog::resume(temp.path(), "agent").unwrap().next_offset(), 4);
        assert_eq!(content(&temp), "one\ntwo\n");
    }

    #[test]
    fn a_gap_is_marked_and_the_stream_goes_on_behind_it() {
        let temp = sandbox();
        let mut log = UnitLog::begin(temp.path(), "agent").unwrap();
        log.append(0, b"a").unwrap();
        log.append(100, b"b").unwrap();
        assert_eq!(content(&temp), "a\r\n[agent-shim: 99 bytes were not recorded]\r\nb");
        drop(log);
        assert_eq!(UnitLog::resume(temp.path(), "agent").unwrap().next_offset(), 101);
    }

    #[test]
    fn a_rotation_that_came_half_way_is_taken_up_again() {
        let temp = sandbox();
        let mut log = UnitLog::begin(temp.path(), "agent").unwrap();
        log.append(0, b"old").unwrap();
        let [old, new] = paths(temp.path(), "agent");
        fs::rename(&new, &old).unwrap();
        log.rotate().unwrap();
        log.append(3, b"new").unwrap();
        assert_eq!(fs::read(&new).unwrap(), b"new");
        assert_eq!(UnitLog::resume(temp.path(), "agent").unwrap().next_offset(), 6);
    }

    #[test]
    fn a_full_log_becomes_the_old_one() {
        let temp = sandbox();
        let mut log = UnitLog::begin(temp.path(), "agent").unwrap();
        let chunk = vec![b'x'; 1 << 20];
        for number in 0..17 {
            log.append(number << 20, &chunk).unwrap();
        }
        let sizes = paths(temp.path(), "agent").map(|path| path.metadata().unwrap().len());
        assert_eq!(sizes, [8 << 20, 1 << 20]);
        drop(log);
        assert_eq!(UnitLog::resume(temp.path(), "agent").unwrap().next_offset(), 17 << 20);
    }

    #[test]
    fn absurd_offsets_do_no_harm() {
        let temp = sandbox();
        let mut log = UnitLog::begin(temp.path(), "agent").unwrap();
        for offset in [u64::MAX, 0, u64::MAX / 2, 7] {
            log.append(offset, b"x").unwrap();
        }
    }

    #[test]
    fn names_from_inside_are_no_paths() {
        for good in ["agent", "db-1", "a.b_c"] {
            assert!(is_fit_for_a_file(good));
        }
        for bad in ["", ".", "..", "../x", "a/b", "\0", &"x".repeat(64)] {
            assert!(!is_fit_for_a_file(bad), "{bad:?}");
        }
    }
}
