//! What is said with git's receive-pack (gitprotocol-pack(5), the first version, for there is no other to send with): its
//! refs, our commands, and its report. It runs inside and can say anything.

use std::collections::BTreeMap;

use super::{
    dialogue::Nonsense,
    object_id::{ObjectFormat, ObjectId},
    pkt::{self, FLUSH, Packet},
    refs::{HEAD, MAX_REFS, RefName},
};

/// Most objects that it may say it has without a ref of its own.
const MAX_HAVES: usize = 1024;

/// Lines of what it says beside the report that are kept.
const MAX_SAID_LINES: usize = 50;

/// Bytes of them.
const MAX_SAID_BYTES: usize = 8 * 1024;

/// Bytes of a reason.
const MAX_REASON_BYTES: usize = 500;

/// What it says of itself first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Greeting {
    /// Its refs.
    pub(crate) refs: BTreeMap<RefName, ObjectId>,
    /// What else it has.
    pub(crate) haves: Vec<ObjectId>,
    format: Option<ObjectFormat>,
    abilities: Vec<Vec<u8>>,
    lines: usize,
}

impl Greeting {
    /// Takes the next packet; whether that was the last.
    pub(crate) fn take(&mut self, packet: Packet<'_>) -> Result<bool, Nonsense> {
        let line = match packet {
            Packet::Data(data) => pkt::text(data),
            Packet::Flush if self.lines > 0 => return Ok(true),
            _ => return Err(Nonsense::OutOfPlace("the end of a message")),
        };
        error(line)?;
        self.lines += 1;
        if self.lines > MAX_REFS {
            return Err(Nonsense::TooMuch("its refs"));
        }
        let line = if self.lines == 1 { self.take_abilities(line)? } else { line };
        if line.starts_with(b"shallow ") {
            return Ok(false);
        }
        let format = self.format();
        let (id, name) = split(line).ok_or(Nonsense::OutOfPlace("a line that names no ref"))?;
        // In place of a ref where there is none.
        if name == b"capabilities^{}" {
            return Ok(false);
        }
        let id = ObjectId::parse(id, format).ok_or(Nonsense::OutOfPlace("an object that cannot be"))?;
        if name == b".have" {
            self.haves.extend((self.haves.len() < MAX_HAVES).then_some(id));
            return Ok(false);
        }
        let name = RefName::parse(name).ok_or(Nonsense::OutOfPlace("a ref that cannot be"))?;
        if name.as_bytes() != HEAD.as_bytes() && self.refs.insert(name, id).is_some() {
            return Err(Nonsense::OutOfPlace("a ref twice"));
        }
        Ok(false)
    }

    /// What it names objects with.
    pub(crate) fn format(&self) -> ObjectFormat {
        self.format.unwrap_or(ObjectFormat::Sha1)
    }

    /// Behind the first ref and a zero byte.
    fn take_abilities<'a>(&mut self, line: &'a [u8]) -> Result<&'a [u8], Nonsense> {
        let end = line.iter().position(|byte| *byte == 0).ok_or(Nonsense::Lacks("report-status"))?;
        for word in line[end + 1..].split(|byte| *byte == b' ').filter(|word| !word.is_empty()) {
            if let Some(format) = word.strip_prefix(b"object-format=") {
                let format = ObjectFormat::named(format);
                self.format = Some(format.ok_or(Nonsense::Lacks("an object format that we know"))?);
            }
            self.abilities.push(word.to_vec());
        }
        for needed in ["report-status", "side-band-64k"] {
            if !self.can(needed) {
                return Err(Nonsense::Lacks(needed));
            }
        }
        Ok(&line[..end])
    }

    fn can(&self, ability: &str) -> bool {
        self.abilities.iter().any(|word| word == ability.as_bytes())
    }
}

/// A ref that is to change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Command {
    /// Its name inside.
    pub(crate) name: RefName,
    /// What it points to there.
    pub(crate) old: Option<ObjectId>,
    /// What it is to point to.
    pub(crate) new: ObjectId,
}

/// Our commands as bytes. `shallow` is where history ends here although it goes on.
pub(crate) fn commands(greeting: &Greeting, commands: &[Command], shallow: &[ObjectId]) -> Vec<u8> {
    let mut out = Vec::new();
    for id in shallow {
        pkt::line(format!("shallow {id}"), &mut out);
    }
    let none = greeting.format().null();
    for (number, command) in commands.iter().enumerate() {
        let old = command.old.as_ref().map_or(none.as_str(), ObjectId::as_str);
        let mut line = format!("{old} {} ", command.new).into_bytes();
        line.extend_from_slice(command.name.as_bytes());
        if number == 0 {
            line.extend_from_slice(b"\0report-status side-band-64k");
            for ability in ["quiet", "atomic"] {
                if greeting.can(ability) {
                    line.push(b' ');
                    line.extend_from_slice(ability.as_bytes());
                }
            }
            line.extend_from_slice(format!(" object-format={}", greeting.format().name()).as_bytes());
            line.extend_from_slice(concat!(" agent=agent-shim/", env!("CARGO_PKG_VERSION")).as_bytes());
        }
        pkt::line(line, &mut out);
    }
    out.extend_from_slice(FLUSH);
    out
}

/// Its answer to them.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// Packets of the report, which come in pieces.
    bytes: Vec<u8>,
    unpacked: Option<Result<(), String>>,
    refs: BTreeMap<RefName, Result<(), String>>,
    ended: bool,
    said: Vec<u8>,
}

/// Longest report, bytes.
const MAX_REPORT_BYTES: usize = 1024 * 1024;

impl Report {
    /// Takes the next packet; whether that was the last.
    pub(crate) fn take(&mut self, packet: Packet<'_>) -> Result<bool, Nonsense> {
        let data = match packet {
            Packet::Data(data) => data,
            Packet::Flush => return Ok(true),
            _ => return Err(Nonsense::OutOfPlace("the end of a section")),
        };
        error(pkt::text(data))?;
        match data.split_first() {
            Some((1, rest)) => {
                if self.bytes.len() + rest.len() > MAX_REPORT_BYTES {
                    return Err(Nonsense::TooMuch("what became of it"));
                }
                self.bytes.extend_from_slice(rest);
                self.take_report()?;
            }
            Some((2, rest)) => {
                let room = MAX_SAID_BYTES.saturating_sub(self.said.len());
                self.said.extend_from_slice(&rest[..rest.len().min(room)]);
            }
            Some((3, rest)) => return Err(Nonsense::Said(text(rest))),
            // Nothing but a sign of life.
            None => {}
            Some(_) => return Err(Nonsense::OutOfPlace("bytes of no band")),
        }
        Ok(false)
    }

    fn take_report(&mut self) -> Result<(), Nonsense> {
        let bytes = std::mem::take(&mut self.bytes);
        let mut rest = &bytes[..];
        let malformed = |_| Nonsense::OutOfPlace("bytes that are no packet");
        while let Some((packet, used)) = pkt::decode(rest).map_err(malformed)? {
            match packet {
                Packet::Data(data) if !self.ended => self.take_line(pkt::text(data))?,
                Packet::Flush if !self.ended => self.ended = true,
                _ => return Err(Nonsense::OutOfPlace("more than its report")),
            }
            rest = &rest[used..];
        }
        self.bytes = rest.to_vec();
        Ok(())
    }

    fn take_line(&mut self, line: &[u8]) -> Result<(), Nonsense> {
        let odd = Nonsense::OutOfPlace("a line that reports nothing");
        if let Some(result) = line.strip_prefix(b"unpack ") {
            let result = if result == b"ok" { Ok(()) } else { Err(text(result)) };
            return match self.unpacked.replace(result) {
                None => Ok(()),
                Some(_) => Err(odd),
            };
        }
        let (name, result) = if let Some(name) = line.strip_prefix(b"ok ") {
            (name, Ok(()))
        } else {
            let (name, why) = line.strip_prefix(b"ng ").and_then(split).ok_or(odd.clone())?;
            (name, Err(text(why)))
        };
        match RefName::parse(name) {
            Some(name) if self.refs.len() < MAX_REFS => {
                self.refs.insert(name, result);
                Ok(())
            }
            _ => Err(odd),
        }
    }

    /// Whether everything was done. Where something was not: of which ref, if it is one's, and why.
    pub(crate) fn accept(&self, commands: &[Command]) -> Result<(), (Option<RefName>, String)> {
        match &self.unpacked {
            None => return Err((None, "it did not say what became of it".to_owned())),
            Some(Err(why)) => return Err((None, why.clone())),
            Some(Ok(())) => {}
        }
        let failed = |command: &Command, why: &str| Err((Some(command.name.clone()), why.to_owned()));
        for command in commands {
            match self.refs.get(&command.name) {
                // Of several that go together, the others only say that one did not.
                Some(Err(why)) if why.starts_with("atomic") && commands.len() > 1 => {}
                Some(Err(why)) => return failed(command, why),
                _ => {}
            }
        }
        for command in commands {
            match self.refs.get(&command.name) {
                Some(Ok(())) => {}
                Some(Err(why)) => return failed(command, why),
                None => return failed(command, "it did not say what became of it"),
            }
        }
        Ok(())
    }

    /// What it said beside that, such as the words of its hooks. From inside: show it sanitised.
    pub(crate) fn said(&self) -> Vec<String> {
        let text = String::from_utf8_lossy(&self.said);
        let lines = text.split(['\n', '\r']).map(str::trim_end).filter(|line| !line.is_empty());
        lines.take(MAX_SAID_LINES).map(str::to_owned).collect()
    }
}

fn error(line: &[u8]) -> Result<(), Nonsense> {
    line.strip_prefix(b"ERR ").map_or(Ok(()), |why| Err(Nonsense::Said(text(why))))
}

/// Two parts with a space between.
fn split(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = line.iter().position(|byte| *byte == b' ')?;
    Some((&line[..at], &line[at + 1..]))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(MAX_REASON_BYTES)]).trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(digit: char) -> ObjectId {
        ObjectId::parse(digit.to_string().repeat(40).as_bytes(), ObjectFormat::Sha1).unwrap()
    }

    fn name(text: &str) -> RefName {
        RefName::parse(text.as_bytes()).unwrap()
    }

    const ABLE: &str = "\0report-status side-band-64k quiet atomic object-format=sha1";

    fn greet(lines: &[String]) -> Result<Greeting, Nonsense> {
        let mut greeting = Greeting::default();
        for line in lines {
            assert!(!greeting.take(Packet::Data(line.as_bytes()))?);
        }
        assert!(greeting.take(Packet::Flush)?);
        Ok(greeting)
    }

    #[test]
    fn what_it_has_and_can_do() {
        let greeting = greet(&[
            format!("{} HEAD{ABLE}\n", id('1')),
            format!("{} .have\n", id('2')),
            format!("{} refs/heads/main\n", id('1')),
        ])
        .unwrap();
        assert_eq!(greeting.refs.into_iter().collect::<Vec<_>>(), [(name("refs/heads/main"), id('1'))]);
        assert_eq!(greeting.haves, [id('2')]);
        assert!(greet(&[format!("{} capabilities^{{}}{ABLE}", "0".repeat(40))]).unwrap().refs.is_empty());
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let one = || format!("{} refs/heads/a{ABLE}", id('1'));
        for lines in [
            vec![],
            vec![format!("{} refs/heads/a", id('1'))],
            vec![format!("{} refs/heads/a\0report-status", id('1'))],
            vec![format!("{} refs/heads/a{ABLE} object-format=md5", id('1'))],
            vec![format!("ERR no{ABLE}")],
            vec![one(), one().split('\0').next().unwrap().to_owned()],
            vec![one(), format!("{} refs/heads/../x", id('1'))],
            vec![one(), "x refs/heads/b".to_owned()],
            vec![one(), "nothing".to_owned()],
        ] {
            assert!(greet(&lines).is_err(), "{lines:?}");
        }
    }

    #[test]
    fn our_commands_are_exact() {
        let greeting = greet(&[format!("{} HEAD{ABLE}", id('1'))]).unwrap();
        let wanted = [
            Command { name: name("refs/heads/a"), old: None, new: id('2') },
            Command { name: name("refs/heads/b"), old: Some(id('1')), new: id('2') },
        ];
        let bytes = String::from_utf8(commands(&greeting, &wanted, &[])).unwrap();
        let first =
            format!("{} {} refs/heads/a\0report-status side-band-64k quiet atomic", "0".repeat(40), id('2'));
        assert!(bytes[4..].starts_with(&first), "{bytes}");
        assert!(bytes.ends_with(&format!("{} {} refs/heads/b\n0000", id('1'), id('2'))), "{bytes}");
    }

    fn report(lines: &[&str]) -> Report {
        let mut inner = Vec::new();
        for line in lines {
            pkt::line(line, &mut inner);
        }
        inner.extend_from_slice(FLUSH);
        let mut report = Report::default();
        // However it is cut.
        for piece in inner.chunks(7) {
            assert!(!report.take(Packet::Data(&[&[1], piece].concat())).unwrap());
        }
        assert!(report.take(Packet::Flush).unwrap());
        report
    }

    #[test]
    fn only_a_report_of_everything_is_success() {
        let wanted = [Command { name: name("refs/heads/a"), old: None, new: id('2') }];
        report(&["unpack ok", "ok refs/heads/a"]).accept(&wanted).unwrap();
        let refused = |lines: &[&str]| report(lines).accept(&wanted).unwrap_err();
        let why = |(name, why): (Option<RefName>, String)| (name.is_some(), why);
        assert_eq!(
            why(refused(&["unpack ok", "ng refs/heads/a no way\x1b"])),
            (true, "no way\x1b".to_owned())
        );
        assert_eq!(why(refused(&["unpack index-pack failed"])), (false, "index-pack failed".to_owned()));
        assert!(refused(&["unpack ok"]).0.is_some());
        assert!(refused(&["unpack ok", "ok refs/heads/b"]).0.is_some());
        assert!(refused(&["ok refs/heads/a"]).0.is_none());
    }

    #[test]
    fn what_is_said_beside_is_bounded() {
        let mut report = Report::default();
        for _ in 0..10_000 {
            report.take(Packet::Data(b"\x02one\n\x1b[2Jtwo\r")).unwrap();
        }
        assert!(report.said.len() <= MAX_SAID_BYTES);
        assert_eq!(report.said().len(), MAX_SAID_LINES);
        assert!(matches!(report.take(Packet::Data(b"\x03fatal")), Err(Nonsense::Said(_))));
        assert!(Report::default().take(Packet::Data(b"\x07x")).is_err());
    }

    proptest! {
        #[test]
        fn whatever_it_says_is_taken_or_refused(lines in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..60), 0..10)) {
            let (mut greeting, mut report) = (Greeting::default(), Report::default());
            for line in &lines {
                let _ = greeting.take(Packet::Data(line));
                let _ = report.take(Packet::Data(line));
                let _ = report.take(Packet::Data(&[&[1], &line[..]].concat()));
            }
            let _ = report.accept(&[]);
        }
    }
}
