//! Version 2 of the protocol: requests that each say everything (gitprotocol-v2(5)).

use std::io::{Read, Write};

use super::{
    Refs, Upload,
    depth::{self, Ends},
    request::Wish,
};
use crate::serve::{
    band::Width,
    id::Id,
    pkt::{Packet, Reader, Writer},
    trouble::{Outcome, Trouble},
};

/// Prefixes of refs that a client may name; more is all of them, as git has it.
const MAX_PREFIXES: usize = 65_536;

/// Bytes of those together.
const MAX_PREFIX_BYTES: usize = 4 << 20;

/// Lines of a request that say nothing to us.
const MAX_OTHER_LINES: usize = 4096;

/// What a client may ask for.
enum Command {
    ListRefs,
    Fetch,
}

/// What a client wants to know of refs.
#[derive(Default)]
struct Listing {
    peel: bool,
    symrefs: bool,
    unborn: bool,
    prefixes: Vec<Vec<u8>>,
    prefix_bytes: usize,
}

impl Upload<'_> {
    pub(super) fn two<R: Read, W: Write>(
        &self,
        reader: &mut Reader<R>,
        writer: &mut Writer<W>,
    ) -> Outcome<()> {
        writer.line("version 2")?;
        writer.line(&format!("agent={}", crate::serve::AGENT))?;
        writer.line("ls-refs=unborn")?;
        writer.line("fetch=shallow wait-for-done")?;
        writer.line("object-format=sha1")?;
        writer.flush();
        writer.send()?;
        loop {
            match command(reader)? {
                None => return Ok(()),
                Some((Command::ListRefs, has_arguments)) => self.list(reader, has_arguments, writer)?,
                Some((Command::Fetch, has_arguments)) => self.fetch(reader, has_arguments, writer)?,
            }
        }
    }

    fn list<R: Read, W: Write>(
        &self,
        reader: &mut Reader<R>,
        has_arguments: bool,
        writer: &mut Writer<W>,
    ) -> Outcome<()> {
        let mut listing = Listing::default();
        if has_arguments {
            arguments(reader, |line| {
                listing.take(line);
                Ok(true)
            })?;
        }
        let refs = Refs::read(self.place)?;
        if listing.wants(b"HEAD") {
            match &refs.head {
                Some(head) if self.store.has(head.id)? => {
                    self.one_ref(&listing, b"HEAD", head, writer)?;
                }
                _ => {
                    if let Some(target) = refs.head_target.as_ref().filter(|_| listing.unborn) {
                        writer.data(&[b"unborn HEAD symref-target:", target, b"\n"])?;
                    }
                }
            }
        }
        for (name, found) in &refs.all {
            // One whose object is not there is none, to git as well.
            if listing.wants(name) && self.store.has(found.id)? {
                self.one_ref(&listing, name, found, writer)?;
            }
        }
        writer.flush();
        writer.send()
    }

    fn one_ref<W: Write>(
        &self,
        listing: &Listing,
        name: &[u8],
        found: &super::Ref,
        writer: &mut Writer<W>,
    ) -> Outcome<()> {
        let id = found.id.to_string();
        let mut line = [id.as_bytes(), b" ", name].concat();
        if let Some(target) = found.target.as_ref().filter(|_| listing.symrefs) {
            line.extend_from_slice(b" symref-target:");
            line.extend_from_slice(target);
        }
        if let Some(peeled) = if listing.peel { self.peeled(found)? } else { None } {
            line.extend_from_slice(format!(" peeled:{peeled}").as_bytes());
        }
        writer.data(&[&line, b"\n"])
    }

    fn fetch<R: Read, W: Write>(
        &self,
        reader: &mut Reader<R>,
        has_arguments: bool,
        writer: &mut Writer<W>,
    ) -> Outcome<()> {
        let mut wish = Wish::default();
        if has_arguments {
            arguments(reader, |line| wish.take(line))?;
        }
        for id in &wish.wants {
            if self.store.find(*id)?.is_none() {
                return Err(Trouble::said(format!("upload-pack: not our ref {id}")));
            }
        }
        if wish.wants.is_empty() && !wish.wait_for_done {
            return Ok(());
        }
        let common = self.common(&wish)?;
        if !wish.haves.is_empty() && !wish.done {
            writer.line("acknowledgments")?;
            if common.is_empty() {
                writer.line("NAK")?;
            }
            for id in &common {
                writer.line(&format!("ACK {id}"))?;
            }
            if wish.wait_for_done || !self.is_enough(&wish, &common)? {
                writer.flush();
                return writer.send();
            }
            writer.line("ready")?;
            writer.delimiter();
        }
        let refs =
            if wish.include_tag || !wish.not.is_empty() { Refs::read(self.place)? } else { Refs::default() };
        let ends = if depth::matters(&self.history, &wish) {
            let heads = self.commits_of(&wish.wants)?;
            let ends = depth::ends(&self.history, &refs, &wish, &heads, &mut || Ok(()))?;
            writer.line("shallow-info")?;
            for line in &ends.lines {
                writer.line(line)?;
            }
            writer.delimiter();
            ends
        } else {
            Ends::default()
        };
        writer.line("packfile")?;
        self.send(&refs, &wish, (&common, &ends), (writer, Width::Large))
    }

    /// What the client has and is here as well.
    pub(super) fn common(&self, wish: &Wish) -> Outcome<Vec<Id>> {
        let mut common = Vec::new();
        for id in &wish.haves {
            if self.store.has(*id)? {
                common.push(*id);
            }
        }
        Ok(common)
    }
}

impl Listing {
    fn take(&mut self, line: &[u8]) {
        match line {
            b"peel" => self.peel = true,
            b"symrefs" => self.symrefs = true,
            b"unborn" => self.unborn = true,
            _ => {
                if let Some(prefix) = line.strip_prefix(b"ref-prefix ") {
                    self.prefix_bytes += prefix.len();
                    if self.prefixes.len() < MAX_PREFIXES && self.prefix_bytes < MAX_PREFIX_BYTES {
                        self.prefixes.push(prefix.to_vec());
                    } else {
                        self.prefix_bytes = MAX_PREFIX_BYTES;
                    }
                }
            }
        }
    }

    fn wants(&self, name: &[u8]) -> bool {
        self.prefixes.is_empty()
            || self.prefix_bytes >= MAX_PREFIX_BYTES
            || self.prefixes.iter().any(|prefix| name.starts_with(prefix))
    }
}

/// The next request, and whether arguments follow; `None` at the end of the conversation.
fn command<R: Read>(reader: &mut Reader<R>) -> Outcome<Option<(Command, bool)>> {
    let mut command = None;
    for _ in 0..MAX_OTHER_LINES {
        match reader.packet()? {
            Packet::End | Packet::Flush if command.is_none() => return Ok(None),
            Packet::End => return Err(Trouble::Gone),
            Packet::Flush => return Ok(command.map(|command| (command, false))),
            Packet::Delimiter => {
                let command = command.ok_or_else(|| Trouble::said("no command requested"))?;
                return Ok(Some((command, true)));
            }
            Packet::Data(b"command=ls-refs") if command.is_none() => command = Some(Command::ListRefs),
            Packet::Data(b"command=fetch") if command.is_none() => command = Some(Command::Fetch),
            Packet::Data(line) if line.starts_with(b"command=") => {
                let line = String::from_utf8_lossy(&line[..line.len().min(200)]).into_owned();
                return Err(Trouble::said(format!("invalid command '{}'", &line["command=".len()..])));
            }
            Packet::Data(line) if line.starts_with(b"object-format=") && line != b"object-format=sha1" => {
                return Err(Trouble::said("mismatched object format: the repository inside has sha1"));
            }
            // Who the client is.
            Packet::Data(_) => {}
        }
    }
    Err(Trouble::said("too many capabilities"))
}

/// The arguments of a request. `take` says whether one was understood.
fn arguments<R: Read>(reader: &mut Reader<R>, mut take: impl FnMut(&[u8]) -> Outcome<bool>) -> Outcome<()> {
    loop {
        match reader.packet()? {
            Packet::Flush => return Ok(()),
            Packet::Data(line) => {
                if !take(line)? {
                    let line = String::from_utf8_lossy(&line[..line.len().min(200)]).into_owned();
                    return Err(Trouble::said(format!("unexpected line: '{line}'")));
                }
            }
            Packet::Delimiter => return Err(Trouble::said("a section has no place there")),
            Packet::End => return Err(Trouble::Gone),
        }
    }
}
