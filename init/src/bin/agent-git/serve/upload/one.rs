//! The first version of the protocol, and the one that only says so before: refs first, then a talk about commits
//! (gitprotocol-pack(5)).

use std::{
    collections::HashSet,
    io::{Read, Write},
};

use super::{
    Refs, Upload,
    depth::{self, Ends},
    request::Wish,
};
use crate::serve::{
    Version,
    band::Width,
    id::Id,
    pkt::{Packet, Reader, Writer},
    trouble::{Outcome, Trouble},
};

/// What we can do, in this version's words.
const CAPABILITIES: &str = "multi_ack_detailed thin-pack side-band side-band-64k ofs-delta shallow deepen-since \
                            deepen-not deepen-relative no-progress include-tag object-format=sha1";

/// What the client can do beyond objects.
#[derive(Default)]
struct Client {
    width: Option<Width>,
    detailed: bool,
}

impl Upload<'_> {
    pub(super) fn one<R: Read, W: Write>(
        &self,
        version: Version,
        reader: &mut Reader<R>,
        writer: &mut Writer<W>,
    ) -> Outcome<()> {
        let refs = Refs::read(self.place)?;
        if version == Version::One {
            writer.line("version 1")?;
        }
        let advertised = self.advertise(&refs, writer)?;
        let (mut wish, mut client) = (Wish::default(), Client::default());
        if !wants(reader, &mut wish, &mut client)? {
            return Ok(());
        }
        for id in &wish.wants {
            if !advertised.contains(id) {
                return Err(Trouble::said(format!("upload-pack: not our ref {id}")));
            }
        }
        let ends = self.history_ends(&refs, &wish, writer)?;
        let common = self.talk(&mut wish, &client, reader, writer)?;
        self.send(&refs, &wish, (&common, &ends), (writer, client.width.unwrap_or(Width::None)))
    }

    fn advertise<W: Write>(&self, refs: &Refs, writer: &mut Writer<W>) -> Outcome<HashSet<Id>> {
        let mut capabilities = CAPABILITIES.to_owned();
        if let (Some(_), Some(target)) = (&refs.head, &refs.head_target) {
            capabilities.push_str(" symref=HEAD:");
            capabilities.push_str(&String::from_utf8_lossy(target));
        }
        capabilities.push_str(" agent=");
        capabilities.push_str(crate::serve::AGENT);
        let mut first = Some(capabilities);
        let mut advertised = HashSet::new();
        let head = refs.head.as_ref().map(|head| (&b"HEAD"[..], head));
        for (name, found) in head.into_iter().chain(refs.all.iter().map(|(name, found)| (&name[..], found))) {
            if !self.store.has(found.id)? {
                continue;
            }
            advertised.insert(found.id);
            let id = found.id.to_string();
            match first.take() {
                Some(capabilities) => {
                    writer.data(&[id.as_bytes(), b" ", name, b"\0", capabilities.as_bytes(), b"\n"])?;
                }
                None => writer.data(&[id.as_bytes(), b" ", name, b"\n"])?,
            }
            if let Some(peeled) = self.peeled(found)? {
                writer.data(&[peeled.to_string().as_bytes(), b" ", name, b"^{}\n"])?;
            }
        }
        if let Some(capabilities) = first {
            writer.data(&[
                Id::ZERO.to_string().as_bytes(),
                b" capabilities^{}\0",
                capabilities.as_bytes(),
                b"\n",
            ])?;
        }
        for id in &self.history.shallow {
            writer.line(&format!("shallow {id}"))?;
        }
        writer.flush();
        writer.send()?;
        Ok(advertised)
    }

    /// Where history is to end. The client hears of it only when it has asked.
    fn history_ends<W: Write>(&self, refs: &Refs, wish: &Wish, writer: &mut Writer<W>) -> Outcome<Ends> {
        if !wish.deepens() {
            return Ok(Ends { cut: wish.shallow.clone(), ..Ends::default() });
        }
        let heads = self.commits_of(&wish.wants)?;
        let ends = depth::ends(&self.history, refs, wish, &heads, &mut || Ok(()))?;
        for line in &ends.lines {
            writer.line(line)?;
        }
        writer.flush();
        writer.send()?;
        Ok(ends)
    }

    /// Hears what the client has, until it says that this is all; what of it is here as well.
    fn talk<R: Read, W: Write>(
        &self,
        wish: &mut Wish,
        client: &Client,
        reader: &mut Reader<R>,
        writer: &mut Writer<W>,
    ) -> Outcome<Vec<Id>> {
        let mut common: Vec<Id> = Vec::new();
        let mut known = HashSet::new();
        let (mut got_common, mut got_other) = (false, false);
        loop {
            match reader.packet()? {
                Packet::Flush => {
                    let is_ready =
                        client.detailed && got_common && !got_other && self.is_enough(wish, &common)?;
                    if let Some(last) = common.last().filter(|_| is_ready) {
                        writer.line(&format!("ACK {last} ready"))?;
                    }
                    if common.is_empty() || client.detailed {
                        writer.line("NAK")?;
                    }
                    writer.send()?;
                    (got_common, got_other) = (false, false);
                }
                Packet::Data(b"done") => {
                    match common.last() {
                        Some(last) if client.detailed => writer.line(&format!("ACK {last}"))?,
                        Some(_) => {}
                        None => writer.line("NAK")?,
                    }
                    return Ok(common);
                }
                Packet::Data(line) => {
                    let before = wish.haves.len();
                    if !line.starts_with(b"have ") || !wish.take(line)? || wish.haves.len() == before {
                        return Err(Trouble::said("git upload-pack: expected SHA1 list"));
                    }
                    let id = wish.haves[before];
                    if self.store.has(id)? {
                        got_common = true;
                        // Said twice, it is still one.
                        if known.insert(id) {
                            common.push(id);
                        }
                        if client.detailed {
                            writer.line(&format!("ACK {id} common"))?;
                        } else if common.len() == 1 {
                            writer.line(&format!("ACK {id}"))?;
                        }
                    } else {
                        got_other = true;
                        if client.detailed && self.is_enough(wish, &common)? {
                            writer.line(&format!("ACK {id} ready"))?;
                        }
                    }
                }
                Packet::Delimiter => return Err(Trouble::said("a section has no place there")),
                // A client that has all it wants goes.
                Packet::End => return Err(Trouble::Gone),
            }
        }
    }
}

/// What the client wants; `false` where it wants nothing.
fn wants<R: Read>(reader: &mut Reader<R>, wish: &mut Wish, client: &mut Client) -> Outcome<bool> {
    loop {
        match reader.packet()? {
            Packet::End | Packet::Flush if wish.wants.is_empty() => return Ok(false),
            Packet::Flush => return Ok(true),
            Packet::End => return Err(Trouble::Gone),
            Packet::Delimiter => return Err(Trouble::said("a section has no place there")),
            Packet::Data(line) => {
                let is_first = wish.wants.is_empty() && line.starts_with(b"want ");
                // What the client can do stands behind the first object.
                let end = if is_first { line.len().min("want ".len() + 40) } else { line.len() };
                let (line, abilities) = line.split_at(end);
                for ability in abilities.split(|byte| *byte == b' ') {
                    match ability {
                        b"side-band-64k" => client.width = Some(Width::Large),
                        b"side-band" if client.width.is_none() => client.width = Some(Width::Small),
                        b"multi_ack_detailed" => client.detailed = true,
                        b"object-format=sha256" => {
                            return Err(Trouble::said(
                                "mismatched object format: the repository inside has sha1",
                            ));
                        }
                        other => drop(wish.ability(other)),
                    }
                }
                let is_known =
                    ["want ", "shallow ", "deepen"].iter().any(|word| line.starts_with(word.as_bytes()));
                if !is_known || !wish.take(line)? {
                    let said = String::from_utf8_lossy(&line[..line.len().min(200)]).into_owned();
                    return Err(Trouble::said(format!(
                        "git upload-pack: protocol error, expected to get oid, not '{said}'"
                    )));
                }
            }
        }
    }
}
