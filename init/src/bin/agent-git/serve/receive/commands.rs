//! What a client wants to be done with refs.

use std::io::Read;

use crate::serve::{
    id::Id,
    pkt::{Packet, Reader},
    refs,
    trouble::{Outcome, Trouble},
};

/// Refs that are changed at once; each is locked, and has a line in the answer.
const MAX_COMMANDS: usize = 100_000;

/// Lines about where a client's history ends; whether anything is missing is found out otherwise.
const MAX_SHALLOW_LINES: usize = 1_000_000;

/// A ref that is to be made, moved or deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Command {
    pub(super) old: Id,
    pub(super) new: Id,
    pub(super) name: Vec<u8>,
}

/// What a client asks for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) commands: Vec<Command>,
    pub(super) report: bool,
    pub(super) bands: bool,
    pub(super) atomic: bool,
}

impl Request {
    /// Hears all of it, up to the pack.
    pub(super) fn hear<R: Read>(reader: &mut Reader<R>) -> Outcome<Self> {
        let mut request = Self::default();
        let mut shallow = 0;
        loop {
            match reader.packet()? {
                Packet::End if request.commands.is_empty() => return Ok(request),
                Packet::End => return Err(Trouble::Gone),
                Packet::Flush => return Ok(request),
                Packet::Delimiter => return Err(Trouble::said("a section has no place there")),
                Packet::Data(line) if line.starts_with(b"shallow ") => {
                    shallow += 1;
                    if shallow > MAX_SHALLOW_LINES {
                        return Err(Trouble::said("too many shallow commits"));
                    }
                }
                Packet::Data(line) => request.take(line)?,
            }
        }
    }

    fn take(&mut self, line: &[u8]) -> Outcome<()> {
        let (line, abilities) = match line.iter().position(|byte| *byte == 0) {
            Some(at) if self.commands.is_empty() => (&line[..at], &line[at + 1..]),
            _ => (line, &b""[..]),
        };
        for ability in abilities.split(|byte| *byte == b' ') {
            match ability {
                b"report-status" => self.report = true,
                b"side-band-64k" => self.bands = true,
                b"atomic" => self.atomic = true,
                b"object-format=sha256" => {
                    return Err(Trouble::said("mismatched object format: the repository inside has sha1"));
                }
                _ => {}
            }
        }
        let command = Command::parse(line).ok_or_else(|| {
            let line = String::from_utf8_lossy(&line[..line.len().min(200)]).into_owned();
            Trouble::said(format!("protocol error: expected old/new/ref, got '{line}'"))
        })?;
        if self.commands.len() >= MAX_COMMANDS {
            return Err(Trouble::said(format!("more than {MAX_COMMANDS} refs at once")));
        }
        self.commands.push(command);
        Ok(())
    }

    /// Whether objects follow: not where everything is deleted.
    pub(super) fn has_pack(&self) -> bool {
        self.commands.iter().any(|command| !command.is_delete())
    }
}

impl Command {
    fn parse(line: &[u8]) -> Option<Self> {
        let (old, rest) = line.split_at_checked(40)?;
        let (new, name) = rest.strip_prefix(b" ")?.split_at_checked(40)?;
        let name = name.strip_prefix(b" ")?.to_vec();
        Some(Self { old: Id::from_hex(old)?, new: Id::from_hex(new)?, name })
    }

    pub(super) fn is_delete(&self) -> bool {
        self.new.is_zero()
    }

    /// The name as the library takes it, where git would take it at all.
    pub(super) fn reference(&self) -> Result<&str, String> {
        let name = std::str::from_utf8(&self.name).map_err(|_| "funny refname".to_owned())?;
        if refs::is_valid(&self.name) { Ok(name) } else { Err("funny refname".to_owned()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "1111111111111111111111111111111111111111";

    #[test]
    fn commands_are_understood_or_refused() {
        let zero = Id::ZERO;
        let mut request = Request::default();
        let first = format!("{zero} {ONE} refs/heads/x\0 report-status side-band-64k agent=x");
        request.take(first.as_bytes()).unwrap();
        assert!(request.report && request.bands && !request.atomic && request.has_pack());
        request.take(format!("{ONE} {zero} refs/heads/y").as_bytes()).unwrap();
        assert!(request.commands[1].is_delete());
        for wrong in
            ["", "x", ONE, &format!("{ONE} {ONE}"), &format!("{ONE} {ONE}x"), &format!("{ONE}-{ONE} x")]
        {
            assert!(request.take(wrong.as_bytes()).is_err(), "{wrong}");
        }
        let funny = Command { old: zero, new: zero, name: b"refs/../x".to_vec() };
        assert_eq!(funny.reference(), Err("funny refname".to_owned()));
    }
}
