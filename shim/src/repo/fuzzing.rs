//! What a fuzzer calls: everything that reads what a server says, without a process and without a wait. A panic is a finding.

use super::{
    dialogue::{self, Answer, Fetch, Greeting, Piece, Progress},
    object_id::{ObjectFormat, ObjectId},
    pkt::{self, MAX_PACKET_BYTES, Packet},
    plan::{Choice, Plan},
    refs::{self, Advertised, MAX_REFS, RefName},
};
use crate::terminal::sanitize::{is_harmful, sanitized};

/// Turns of a conversation: ours has two at most, and no server may make it longer.
const TURNS: usize = 2;

/// Whose work it would be.
const NAME: &str = "web";

/// A whole conversation: the first byte says what we are like, the rest is all that the server says.
pub fn conversation(data: &[u8]) {
    let Some((&first, said)) = data.split_first() else { return };
    let mut server = Server { said };
    let mut greeting = Greeting::default();
    let Some(()) = server.until_done(|packet| greeting.take(packet).map_err(|error| error.to_string()))
    else {
        return;
    };
    let Ok(format) = greeting.accept() else { return };
    pkts(&dialogue::list_refs(format));
    let mut refs = Advertised::default();
    let listed = server.until_done(|packet| match packet {
        Packet::Data(data) => {
            let before = refs.refs.len();
            let added = refs.add(pkt::text(data), format);
            assert!(refs.refs.len() <= before + 1 && refs.refs.len() <= MAX_REFS);
            added.map(|()| Progress::More).map_err(|error| error.to_string())
        }
        Packet::Flush => Ok(Progress::Done),
        _ => Err("out of place".to_owned()),
    });
    if listed.is_none() || refs.check().is_err() {
        return;
    }
    let wants = planned(&refs, first & 1 != 0);
    let has_haves = first & 2 != 0 && !wants.is_empty();
    let mut fetch =
        Fetch { wants: &wants, haves: if has_haves { &wants } else { &[] }, shallow: &[], done: !has_haves };
    for turn in 0.. {
        assert!(turn < TURNS, "a server has made us ask {turn} times");
        pkts(&fetch.request(format));
        match server.answer(&fetch, format) {
            Some(false) => fetch.done = true,
            Some(true) | None => return,
        }
    }
}

/// Packets alone: however the bytes are cut, they are the same.
pub fn packets(data: &[u8]) {
    let mut rest = data;
    while let Ok(Some((packet, used))) = pkt::decode(rest) {
        assert!((4..=MAX_PACKET_BYTES).contains(&used) && used <= rest.len());
        assert_eq!(pkt::decode(&rest[..used]), Ok(Some((packet, used))));
        for short in [0, 3, used - 1] {
            assert_eq!(pkt::decode(&rest[..short.min(used - 1)]), Ok(None));
        }
        rest = &rest[used..];
    }
    // An error stays one, and what is short is not waited for without an end.
    match pkt::decode(rest) {
        Ok(None) => assert!(rest.len() < MAX_PACKET_BYTES),
        Ok(Some(_)) => unreachable!("the loop ends with something else"),
        Err(_) => assert!(pkt::decode(&rest[..4]).is_err()),
    }
}

/// A name of a ref, and where it goes.
pub fn name(data: &[u8]) {
    let Some(name) = RefName::parse(data) else { return };
    assert!(git2::Reference::is_valid_name(&String::from_utf8_lossy(data)), "git would not make {name}");
    assert!(!name.to_string().chars().any(is_harmful));
    if let Some(at_home) = name.at_home(&namespace()) {
        is_at_home(&at_home);
    }
}

/// What is left of what a server says.
struct Server<'a> {
    said: &'a [u8],
}

impl Server<'_> {
    fn next(&mut self) -> Option<Packet<'_>> {
        let (packet, used) = pkt::decode(self.said).ok()??;
        self.said = &self.said[used..];
        Some(packet)
    }

    /// Takes packets until one is the last; nothing where the server ends first, or is refused.
    fn until_done(&mut self, mut take: impl FnMut(Packet<'_>) -> Result<Progress, String>) -> Option<()> {
        loop {
            match take(self.next()?) {
                Ok(Progress::More) => {}
                Ok(Progress::Done) => return Some(()),
                Err(said) => {
                    complained(&said);
                    return None;
                }
            }
        }
    }

    /// Whether a pack came.
    fn answer(&mut self, fetch: &Fetch<'_>, format: ObjectFormat) -> Option<bool> {
        let mut answer = Answer::to(fetch, format);
        let mut pack_bytes = 0;
        loop {
            match answer.take(self.next()?) {
                Ok(Piece::Nothing) => {}
                Ok(Piece::Ack(id)) => assert!(!fetch.done && id.as_str().len() == format.null().len()),
                Ok(Piece::Pack(bytes)) => pack_bytes += bytes.len(),
                Ok(Piece::End { has_pack }) => {
                    assert!(has_pack || (pack_bytes == 0 && !fetch.done));
                    assert!(answer.take(Packet::Flush).is_err(), "it goes on behind its end");
                    return Some(has_pack);
                }
                Err(error) => {
                    complained(&error.to_string());
                    return None;
                }
            }
        }
    }
}

/// Everything that would change is the sandbox's own, and git could make all of it at once.
fn planned(refs: &Advertised, prune: bool) -> Vec<ObjectId> {
    let plan = Plan::new(refs, &[], &namespace(), &Choice { prune, ..Choice::default() });
    let mut names: Vec<&RefName> = plan.changes.iter().map(|change| &change.name).collect();
    assert!(plan.in_the_way.is_empty() && plan.gone.is_empty(), "nothing was there");
    for name in &names {
        is_at_home(name);
    }
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count, "two refs have the same place");
    for name in &names {
        let is_there = |folder: &[u8]| names.binary_search_by(|other| other.as_bytes().cmp(folder)).is_ok();
        assert!(!refs::folders(name.as_bytes()).any(is_there), "{name} is in the way");
    }
    assert!(plan.wants.len() <= refs.refs.len());
    plan.wants
}

fn namespace() -> String {
    refs::namespace(&NAME.parse().expect("a name"))
}

fn is_at_home(name: &RefName) {
    let rest = name.as_bytes().strip_prefix(namespace().as_bytes());
    let rest = rest.unwrap_or_else(|| panic!("{name} is not in its place"));
    assert!(
        rest.split(|byte| *byte == b'/').all(|part| !part.is_empty() && !part.starts_with(b".")),
        "{name}"
    );
    assert!(!name.as_bytes().iter().any(|byte| byte.is_ascii_control() || *byte == b' '), "{name}");
}

/// What is shown of it harms no terminal.
fn complained(said: &str) {
    assert!(said.len() < 4096, "{} bytes of words", said.len());
    assert!(!sanitized(said).to_string().chars().any(is_harmful));
}

/// What we say is made of packets.
fn pkts(bytes: &[u8]) {
    let mut rest = bytes;
    while let Ok(Some((_, used))) = pkt::decode(rest) {
        rest = &rest[used..];
    }
    assert!(rest.is_empty());
}
