//! What happened to a sandbox, one JSON object a line: `events.jsonl`.
//!
//! Lines have a sequence number of their own that goes on through restarts of the sandbox and of the monitor. Lines about
//! what init said carry init's number too, so that a new monitor knows where to go on.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use agent_protocol::message::{Event, What};
use serde_json::{Map, Value, json};

use super::view::{ExitView, rfc3339, unit_kind};

pub(crate) const EVENTS_FILE: &str = "events.jsonl";
pub(crate) const OLD_EVENTS_FILE: &str = "events.jsonl.1";

/// At this size the file becomes the old one, and the one before is dropped: 16 MiB of events at most.
const ROTATE_BYTES: u64 = 8 * 1024 * 1024;

/// How far back a new monitor looks for the last lines. A line has a few kilobytes at most.
const TAIL_BYTES: u64 = 256 * 1024;

/// Writes the journal. One process at a time does, the one that holds the monitor's lock.
#[derive(Debug)]
pub(crate) struct Journal {
    folder: PathBuf,
    file: File,
    bytes: u64,
    next: u64,
    /// Init's number of the last event that is in the journal; 0 where init has said nothing in this start.
    last_of_init: u64,
}

impl Journal {
    /// Opens the journal and finds its end. A line that a kill cut short is taken off.
    pub(crate) fn open(folder: &Path) -> io::Result<Self> {
        let path = folder.join(EVENTS_FILE);
        let mut file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(&path)?;
        let (tail, bytes) = whole_lines(&mut file)?;
        let mut end = End::of(&tail);
        if end.seq.is_none()
            && let Ok(mut old) = File::open(folder.join(OLD_EVENTS_FILE))
        {
            end = End::of(&tail_of(&mut old)?);
        }
        let next = end.seq.unwrap_or(0) + 1;
        Ok(Self { folder: folder.to_owned(), file, bytes, next, last_of_init: end.of_init })
    }

    /// Init's number of the last event of this start.
    pub(crate) fn last_of_init(&self) -> u64 {
        self.last_of_init
    }

    /// Notes something that happened on the host.
    pub(crate) fn note(&mut self, unix_ms: u64, event: &str, details: Value) -> io::Result<()> {
        if event == STARTING {
            self.last_of_init = 0;
        }
        self.append(unix_ms, event, details, None)
    }

    /// Notes what init said. What is there already is passed over; a gap is noted as one.
    pub(crate) fn note_event(&mut self, event: &Event) -> io::Result<()> {
        if event.seq <= self.last_of_init {
            return Ok(());
        }
        let lost = event.seq - self.last_of_init - 1;
        if lost > 0 {
            self.append(event.unix_ms, "events-lost", json!({ "count": lost }), None)?;
        }
        let (name, details) = describe(&event.what);
        self.append(event.unix_ms, name, details, Some(event.seq))?;
        self.last_of_init = event.seq;
        Ok(())
    }

    fn append(&mut self, unix_ms: u64, event: &str, details: Value, of_init: Option<u64>) -> io::Result<()> {
        self.rotate_when_full()?;
        let mut line = Map::new();
        line.insert("seq".to_owned(), self.next.into());
        line.insert("time".to_owned(), rfc3339(unix_ms).into());
        line.insert("event".to_owned(), event.into());
        if let Value::Object(details) = details {
            line.extend(details);
        }
        if let Some(number) = of_init {
            line.insert(OF_INIT.to_owned(), number.into());
        }
        let mut bytes = serde_json::to_vec(&line)?;
        bytes.push(b'\n');
        // One write: a kill in between leaves whole lines.
        if let Err(error) = self.file.write_all(&bytes) {
            // A full disk took a part of it, which would spoil the next line.
            self.file.set_len(self.bytes)?;
            return Err(error);
        }
        self.bytes += bytes.len() as u64;
        self.next += 1;
        Ok(())
    }

    fn rotate_when_full(&mut self) -> io::Result<()> {
        if self.bytes < ROTATE_BYTES {
            return Ok(());
        }
        let path = self.folder.join(EVENTS_FILE);
        match fs::rename(&path, self.folder.join(OLD_EVENTS_FILE)) {
            // The last try came so far.
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        self.file = OpenOptions::new().append(true).create(true).mode(0o600).open(&path)?;
        self.bytes = 0;
        Ok(())
    }
}

/// The event that begins a start: init counts anew behind it.
pub(crate) const STARTING: &str = "sandbox-starting";

const OF_INIT: &str = "init_seq";

/// What the last lines say.
#[derive(Debug, Default, PartialEq, Eq)]
struct End {
    seq: Option<u64>,
    of_init: u64,
}

impl End {
    fn of(tail: &[u8]) -> Self {
        let mut end = Self::default();
        for line in tail.split(|byte| *byte == b'\n').rev().filter(|line| !line.is_empty()) {
            let Ok(value) = serde_json::from_slice::<Value>(line) else { continue };
            end.seq = end.seq.or(value["seq"].as_u64());
            if let Some(number) = value[OF_INIT].as_u64() {
                end.of_init = number;
                break;
            }
            if value["event"] == STARTING {
                break;
            }
        }
        end
    }
}

fn whole_lines(file: &mut File) -> io::Result<(Vec<u8>, u64)> {
    let mut tail = tail_of(file)?;
    let torn = tail.iter().rev().take_while(|byte| **byte != b'\n').count();
    let bytes = file.metadata()?.len() - torn as u64;
    if torn > 0 {
        file.set_len(bytes)?;
        tail.truncate(tail.len() - torn);
    }
    Ok((tail, bytes))
}

fn tail_of(file: &mut File) -> io::Result<Vec<u8>> {
    let len = file.metadata()?.len();
    file.seek(SeekFrom::Start(len.saturating_sub(TAIL_BYTES)))?;
    let mut tail = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut tail)?;
    Ok(tail)
}

/// Name and details of an event, as they are in the journal and in `events --json`.
fn describe(what: &What) -> (&'static str, Value) {
    let exit = |exit| serde_json::to_value(ExitView::from(exit)).unwrap_or_default();
    match what {
        What::Booted => ("booted", json!({})),
        What::UnitStarted { unit, kind, pid, attempt } => (
            "unit-started",
            json!({ "unit": unit, "kind": unit_kind(*kind), "pid": pid, "attempt": attempt }),
        ),
        What::UnitFailed { unit, reason } => ("unit-failed", json!({ "unit": unit, "reason": reason })),
        What::UnitReady { unit } => ("unit-ready", json!({ "unit": unit })),
        What::UnitStatusText { unit, text } => ("unit-status", json!({ "unit": unit, "text": text })),
        What::UnitUnhealthy { unit, failures } => {
            ("unit-unhealthy", json!({ "unit": unit, "failures": failures }))
        }
        What::UnitExited { unit, exit: how } => ("unit-exited", json!({ "unit": unit, "exit": exit(how) })),
        What::UnitBackoff { unit, delay_ms } => {
            ("unit-backoff", json!({ "unit": unit, "delay_ms": delay_ms }))
        }
        What::UnitParked { unit, reason } => ("unit-parked", json!({ "unit": unit, "reason": reason })),
        What::SetupDone => ("setup-done", json!({})),
        What::SetupFailed { reason } => ("setup-failed", json!({ "reason": reason })),
        What::SessionStarted { session } => ("session-started", json!({ "session": session })),
        What::ViewerAttached { viewer } => ("viewer-attached", json!({ "viewer": viewer })),
        What::ViewerDetached { viewer } => ("viewer-detached", json!({ "viewer": viewer })),
        What::LeaseChanged { holder } => ("lease-changed", json!({ "holder": holder })),
        What::ExecStarted { exec, pid, command } => {
            ("exec-started", json!({ "exec": exec, "pid": pid, "command": command }))
        }
        What::ExecExited { exec, exit: how } => ("exec-exited", json!({ "exec": exec, "exit": exit(how) })),
        What::OrphansReaped { count } => ("orphan-reaped", json!({ "count": count })),
        What::Stopping { force } => ("stopping", json!({ "force": force })),
        What::Warning { message } => ("warning", json!({ "message": message })),
        What::Ended { code } => ("ended", json!({ "code": code })),
        What::UnitRemoved { unit } => ("unit-removed", json!({ "unit": unit })),
        What::RefsChanged => ("refs-changed", json!({})),
        What::Quiet { idle_ms } => ("quiet", json!({ "idle_ms": idle_ms })),
        What::Active => ("active", json!({})),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::testing::TempDir;

    fn event(seq: u64) -> Event {
        Event { seq, unix_ms: 0, what: What::UnitReady { unit: "agent".to_owned() } }
    }

    fn lines(folder: &Path) -> Vec<Value> {
        let text = fs::read_to_string(folder.join(EVENTS_FILE)).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn a_line_is_an_object_with_number_time_and_kebab_case_name() {
        let temp = TempDir::new();
        let mut journal = Journal::open(temp.path()).unwrap();
        journal.note_event(&event(1)).unwrap();
        let expected = json!({ "seq": 1, "time": "1970-01-01T00:00:00.000Z", "event": "unit-ready",
                               "unit": "agent", "init_seq": 1 });
        assert_eq!(lines(temp.path()), [expected]);
    }

    #[test]
    fn a_new_monitor_goes_on_where_the_old_one_was_killed() {
        let temp = TempDir::new();
        let mut journal = Journal::open(temp.path()).unwrap();
        journal.note(0, STARTING, json!({})).unwrap();
        for seq in 1..=3 {
            journal.note_event(&event(seq)).unwrap();
        }
        journal.note(0, "monitor-note", json!({})).unwrap();
        drop(journal);
        // The kill came in the middle of a line.
        let mut file = OpenOptions::new().append(true).open(temp.path().join(EVENTS_FILE)).unwrap();
        file.write_all(b"{\"seq\":6,\"ti").unwrap();

        let mut journal = Journal::open(temp.path()).unwrap();
        assert_eq!(journal.last_of_init(), 3);
        for seq in 2..=4 {
            journal.note_event(&event(seq)).unwrap();
        }
        let seqs: Vec<_> = lines(temp.path()).iter().map(|line| line["seq"].as_u64().unwrap()).collect();
        assert_eq!(seqs, [1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn the_next_start_counts_init_anew_and_its_own_numbers_on() {
        let temp = TempDir::new();
        let mut journal = Journal::open(temp.path()).unwrap();
        journal.note_event(&event(1)).unwrap();
        drop(journal);
        let mut journal = Journal::open(temp.path()).unwrap();
        journal.note(0, STARTING, json!({})).unwrap();
        assert_eq!(journal.last_of_init(), 0);
        drop(journal);
        let mut journal = Journal::open(temp.path()).unwrap();
        assert_eq!(journal.last_of_init(), 0);
        journal.note_event(&event(1)).unwrap();
        assert_eq!(lines(temp.path()).last().unwrap()["seq"], 3);
    }

    #[test]
    fn what_was_lost_is_said() {
        let temp = TempDir::new();
        let mut journal = Journal::open(temp.path()).unwrap();
        journal.note_event(&event(5)).unwrap();
        assert_eq!(lines(temp.path())[0]["event"], "events-lost");
        assert_eq!(lines(temp.path())[0]["count"], 4);
    }

    #[test]
    fn a_rotation_that_came_half_way_is_taken_up_again() {
        let temp = TempDir::new();
        let mut journal = Journal::open(temp.path()).unwrap();
        journal.note_event(&event(1)).unwrap();
        journal.bytes = ROTATE_BYTES;
        fs::rename(temp.path().join(EVENTS_FILE), temp.path().join(OLD_EVENTS_FILE)).unwrap();
        journal.note_event(&event(2)).unwrap();
        assert_eq!(lines(temp.path())[0]["seq"], 2);
    }

    #[test]
    fn a_full_journal_becomes_the_old_one() {
        let temp = TempDir::new();
        let mut journal = Journal::open(temp.path()).unwrap();
        journal.note_event(&event(1)).unwrap();
        journal.bytes = ROTATE_BYTES;
        drop((journal.note_event(&event(2)), journal));
        assert!(temp.path().join(OLD_EVENTS_FILE).exists());
        assert_eq!(lines(temp.path())[0]["seq"], 2);
        // Nothing was written since the rotation: the old file still has the numbers.
        fs::write(temp.path().join(EVENTS_FILE), "").unwrap();
        let journal = Journal::open(temp.path()).unwrap();
        assert_eq!((journal.next, journal.last_of_init()), (2, 1));
    }
}
