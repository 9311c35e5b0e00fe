//! What is said in version 2 of the pack protocol (gitprotocol-v2(5)): our requests as bytes, and a server's answers
//! packet by packet. It can say anything, so each answer has its own small machine that knows what may come next.

use super::{
    object_id::{ObjectFormat, ObjectId},
    pkt::{self, DELIMITER, FLUSH, Packet},
    refs,
};

/// Most lines that a server may describe itself with.
const MAX_CAPABILITIES: usize = 256;

/// Most acknowledgements: each is for something that we said we have.
const MAX_ACKS: usize = 16 * 1024;

/// Why an answer makes no sense, or is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Nonsense {
    /// Something out of its place.
    #[error("it said {0} where that has no place")]
    OutOfPlace(&'static str),
    /// It is too old, or no such server.
    #[error("it does not speak version 2 of git's pack protocol")]
    NotVersionTwo,
    /// It cannot do what we need.
    #[error("it does not offer `{0}`")]
    Lacks(&'static str),
    /// It refuses.
    #[error("it said: {0}")]
    Said(String),
    /// More than anybody needs.
    #[error("it said too much about {0}")]
    TooMuch(&'static str),
}

/// What a server says of itself first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Greeting {
    lines: usize,
    is_two: bool,
    can_list: bool,
    can_fetch: bool,
    format: Option<Vec<u8>>,
}

/// Whether more of an answer is to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Read on.
    More,
    /// That was all.
    Done,
}

impl Greeting {
    /// Takes the next packet.
    pub(crate) fn take(&mut self, packet: Packet<'_>) -> Result<Progress, Nonsense> {
        let data = match packet {
            Packet::Data(data) => pkt::text(data),
            Packet::Flush if self.is_two => return Ok(Progress::Done),
            // Version 0 has nothing but refs to say, and an empty repository not even that.
            Packet::Flush => return Err(Nonsense::NotVersionTwo),
            Packet::Delimiter | Packet::ResponseEnd => {
                return Err(Nonsense::OutOfPlace("the end of a section"));
            }
        };
        said(data)?;
        self.lines += 1;
        if self.lines > MAX_CAPABILITIES {
            return Err(Nonsense::TooMuch("itself"));
        }
        if !self.is_two {
            self.is_two = data == b"version 2";
            return if self.is_two { Ok(Progress::More) } else { Err(Nonsense::NotVersionTwo) };
        }
        let mut parts = data.splitn(2, |byte| *byte == b'=');
        match (parts.next(), parts.next()) {
            (Some(b"ls-refs"), _) => self.can_list = true,
            (Some(b"fetch"), _) => self.can_fetch = true,
            (Some(b"object-format"), Some(format)) => self.format = Some(format.to_vec()),
            // Offers that we take no part in.
            _ => {}
        }
        Ok(Progress::More)
    }

    /// The server's object format, if it can do what is needed. One that says nothing has the first there was.
    pub(crate) fn accept(&self) -> Result<ObjectFormat, Nonsense> {
        if !self.can_list {
            return Err(Nonsense::Lacks("ls-refs"));
        }
        if !self.can_fetch {
            return Err(Nonsense::Lacks("fetch"));
        }
        let format = self.format.as_deref().unwrap_or(b"sha1");
        ObjectFormat::named(format).ok_or(Nonsense::Lacks("an object format that we know"))
    }
}

/// Asks for the refs that we take.
pub(crate) fn list_refs(format: ObjectFormat) -> Vec<u8> {
    let mut out = command("ls-refs", format);
    pkt::line("symrefs", &mut out);
    for prefix in refs::prefixes() {
        pkt::line(format!("ref-prefix {prefix}"), &mut out);
    }
    out.extend_from_slice(FLUSH);
    out
}

/// Asks for objects.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fetch<'a> {
    /// What is wanted.
    pub wants: &'a [ObjectId],
    /// What is here, with everything it reaches.
    pub haves: &'a [ObjectId],
    /// Where history ends here although it goes on.
    pub shallow: &'a [ObjectId],
    /// Whether the pack is to be made from what was said so far.
    pub done: bool,
}

impl Fetch<'_> {
    /// Its bytes.
    pub(crate) fn request(&self, format: ObjectFormat) -> Vec<u8> {
        let mut out = command("fetch", format);
        // No thin pack: what is saved on a local socket is added again to what is kept (`index-pack --fix-thin`).
        for word in ["no-progress", "ofs-delta"] {
            pkt::line(word, &mut out);
        }
        for (word, ids) in [("shallow", self.shallow), ("want", self.wants), ("have", self.haves)] {
            for id in ids {
                pkt::line(format!("{word} {id}"), &mut out);
            }
        }
        if self.done {
            pkt::line("done", &mut out);
        }
        out.extend_from_slice(FLUSH);
        out
    }
}

/// Ends the conversation.
pub(crate) fn farewell() -> &'static [u8] {
    FLUSH
}

fn command(name: &str, format: ObjectFormat) -> Vec<u8> {
    let mut out = Vec::new();
    pkt::line(format!("command={name}"), &mut out);
    pkt::line(concat!("agent=agent-shim/", env!("CARGO_PKG_VERSION")), &mut out);
    pkt::line(format!("object-format={}", format.name()), &mut out);
    out.extend_from_slice(DELIMITER);
    out
}

/// A server's answer to a [`Fetch`].
#[derive(Debug)]
pub(crate) struct Answer {
    section: Section,
    /// Whether it was told that nothing more will be asked, so that a pack must come.
    done: bool,
    format: ObjectFormat,
    acks: usize,
    ready: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Section {
    /// A headline is due.
    None,
    Acknowledgments,
    Shallow,
    Pack,
    Over,
}

/// What a packet of an answer means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Piece<'a> {
    /// Nothing to be done.
    Nothing,
    /// The server has this too.
    Ack(ObjectId),
    /// Bytes of the pack.
    Pack(&'a [u8]),
    /// The end: the pack is whole, or the server wants to hear more.
    End {
        /// Which of both.
        has_pack: bool,
    },
}

impl Answer {
    /// The answer to come.
    pub(crate) fn to(fetch: &Fetch<'_>, format: ObjectFormat) -> Self {
        Self { section: Section::None, done: fetch.done, format, acks: 0, ready: false }
    }

    /// Takes the next packet.
    pub(crate) fn take<'a>(&mut self, packet: Packet<'a>) -> Result<Piece<'a>, Nonsense> {
        match (self.section, packet) {
            (Section::Over, _) => Err(Nonsense::OutOfPlace("more")),
            (_, Packet::ResponseEnd) => Err(Nonsense::OutOfPlace("the end of a response")),
            (Section::None, Packet::Data(data)) => self.headline(pkt::text(data)),
            (Section::Acknowledgments, Packet::Data(data)) => self.acknowledgment(pkt::text(data)),
            // Where its history ends is no affair of ours: what is missing then, is missed when it is looked for.
            (Section::Shallow, Packet::Data(data)) => said(data).map(|()| Piece::Nothing),
            (Section::Pack, Packet::Data(data)) => pack(data),
            (Section::Acknowledgments, Packet::Delimiter) if self.ready => self.next_section(),
            (Section::Shallow, Packet::Delimiter) => self.next_section(),
            (Section::Acknowledgments, Packet::Flush) if !self.ready && !self.done => {
                self.section = Section::Over;
                Ok(Piece::End { has_pack: false })
            }
            (Section::Pack, Packet::Flush) => {
                self.section = Section::Over;
                Ok(Piece::End { has_pack: true })
            }
            (_, Packet::Delimiter) => Err(Nonsense::OutOfPlace("the end of a section")),
            (_, Packet::Flush) => Err(Nonsense::OutOfPlace("the end")),
        }
    }

    #[allow(clippy::unnecessary_wraps, reason = "an arm among others")]
    fn next_section<'a>(&mut self) -> Result<Piece<'a>, Nonsense> {
        self.section = Section::None;
        Ok(Piece::Nothing)
    }

    fn headline<'a>(&mut self, data: &[u8]) -> Result<Piece<'a>, Nonsense> {
        said(data)?;
        self.section = match data {
            b"acknowledgments" if !self.done && self.acks == 0 && !self.ready => Section::Acknowledgments,
            b"shallow-info" if self.done || self.ready => Section::Shallow,
            b"packfile" if self.done || self.ready => Section::Pack,
            _ => return Err(Nonsense::OutOfPlace("something else")),
        };
        Ok(Piece::Nothing)
    }

    fn acknowledgment<'a>(&mut self, data: &[u8]) -> Result<Piece<'a>, Nonsense> {
        said(data)?;
        self.acks += 1;
        if self.acks > MAX_ACKS {
            return Err(Nonsense::TooMuch("what it has"));
        }
        match data {
            b"NAK" => Ok(Piece::Nothing),
            b"ready" => {
                self.ready = true;
                Ok(Piece::Nothing)
            }
            _ => {
                let id = data.strip_prefix(b"ACK ").and_then(|id| ObjectId::parse(id, self.format));
                id.map(Piece::Ack).ok_or(Nonsense::OutOfPlace("something else"))
            }
        }
    }
}

/// The first byte says what the others are.
fn pack(data: &[u8]) -> Result<Piece<'_>, Nonsense> {
    match data.split_first() {
        Some((1, bytes)) => Ok(Piece::Pack(bytes)),
        Some((2, _)) => Ok(Piece::Nothing),
        Some((3, message)) => Err(words(message)),
        _ => Err(Nonsense::OutOfPlace("something else")),
    }
}

/// `ERR` can stand anywhere.
fn said(data: &[u8]) -> Result<(), Nonsense> {
    data.strip_prefix(b"ERR ").map_or(Ok(()), |message| Err(words(message)))
}

fn words(message: &[u8]) -> Nonsense {
    const MOST_BYTES: usize = 500;
    let message = pkt::text(&message[..message.len().min(MOST_BYTES)]);
    Nonsense::Said(String::from_utf8_lossy(message).into_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef01234567";

    fn id() -> ObjectId {
        ObjectId::parse(ID.as_bytes(), ObjectFormat::Sha1).unwrap()
    }

    fn answer(done: bool) -> Answer {
        Answer::to(&Fetch { wants: &[id()], haves: &[], shallow: &[], done }, ObjectFormat::Sha1)
    }

    fn data(text: &str) -> Packet<'_> {
        Packet::Data(text.as_bytes())
    }

    #[test]
    fn a_greeting_says_what_it_can() {
        let mut greeting = Greeting::default();
        for line in ["version 2\n", "agent=git/2", "ls-refs=unborn", "fetch=shallow", "object-format=sha256"]
        {
            assert_eq!(greeting.take(data(line)), Ok(Progress::More));
        }
        assert_eq!(greeting.take(Packet::Flush), Ok(Progress::Done));
        assert_eq!(greeting.accept(), Ok(ObjectFormat::Sha256));
    }

    #[test]
    fn old_servers_and_others_are_told_apart_from_ours() {
        let first = |text: &str| Greeting::default().take(data(text));
        assert_eq!(first(&format!("{ID} HEAD\0caps")), Err(Nonsense::NotVersionTwo));
        assert_eq!(first("version 1"), Err(Nonsense::NotVersionTwo));
        assert_eq!(first("ERR no\n"), Err(Nonsense::Said("no".to_owned())));
        assert_eq!(Greeting::default().take(Packet::Flush), Err(Nonsense::NotVersionTwo));
        let mut endless = Greeting::default();
        endless.take(data("version 2")).unwrap();
        assert!((0..MAX_CAPABILITIES).any(|_| endless.take(data("x=y")).is_err()));
    }

    #[test]
    fn bytes_of_a_request() {
        let fetch = Fetch { wants: &[id()], haves: &[id()], shallow: &[], done: true };
        let text = String::from_utf8(fetch.request(ObjectFormat::Sha1)).unwrap();
        assert!(text.starts_with("0012command=fetch\n"));
        assert!(text.ends_with(&format!("0032want {ID}\n0032have {ID}\n0009done\n0000")), "{text}");
    }

    #[test]
    fn a_pack_comes_at_once_where_the_server_has_heard_enough() {
        let mut answer = answer(false);
        assert_eq!(answer.take(data("acknowledgments\n")), Ok(Piece::Nothing));
        assert_eq!(answer.take(data(&format!("ACK {ID}\n"))), Ok(Piece::Ack(id())));
        assert_eq!(answer.take(data("ready\n")), Ok(Piece::Nothing));
        assert_eq!(answer.take(Packet::Delimiter), Ok(Piece::Nothing));
        assert_eq!(answer.take(data("packfile\n")), Ok(Piece::Nothing));
        assert_eq!(answer.take(data("\x01PACK")), Ok(Piece::Pack(b"PACK")));
        assert_eq!(answer.take(data("\x02counting")), Ok(Piece::Nothing));
        assert_eq!(answer.take(Packet::Flush), Ok(Piece::End { has_pack: true }));
        assert!(answer.take(Packet::Flush).is_err());
    }

    #[test]
    fn a_server_that_wants_to_hear_more_gets_another_turn_and_no_second_one() {
        let mut first = answer(false);
        first.take(data("acknowledgments")).unwrap();
        first.take(data("NAK")).unwrap();
        assert_eq!(first.take(Packet::Flush), Ok(Piece::End { has_pack: false }));
        let mut last = answer(true);
        assert!(last.take(data("acknowledgments")).is_err());
        assert!(answer(true).take(Packet::Flush).is_err());
    }

    #[test]
    fn what_has_no_place_ends_it() {
        assert!(answer(false).take(data("packfile")).is_err(), "not asked for yet");
        for wrong in ["packfile-uris", "wanted-refs", "", "PACK"] {
            assert!(answer(true).take(data(wrong)).is_err(), "{wrong}");
        }
        let mut answer = answer(true);
        answer.take(data("packfile")).unwrap();
        assert_eq!(answer.take(data("\x03fatal: x\n")), Err(Nonsense::Said("fatal: x".to_owned())));
        assert!(answer.take(data("\x04")).is_err() && answer.take(data("")).is_err());
    }

    fn packets() -> impl Strategy<Value = Vec<u8>> {
        let words = [
            "acknowledgments\n",
            "packfile\n",
            "shallow-info\n",
            "ready\n",
            "NAK\n",
            "\x01PACK",
            "version 2\n",
        ];
        let known = prop::sample::select(words.to_vec()).prop_map(|word| {
            let mut out = format!("{:04x}", word.len() + 4).into_bytes();
            out.extend(word.bytes());
            out
        });
        let special =
            prop::sample::select(vec!["0000", "0001", "0002", "0004"]).prop_map(std::convert::Into::into);
        let noise = prop::collection::vec(any::<u8>(), 0..12);
        prop::collection::vec(prop_oneof![known, special, noise], 0..20).prop_map(|parts| parts.concat())
    }

    proptest! {
        #[test]
        fn whatever_a_server_says_ends_or_is_refused(bytes in packets(), done in any::<bool>()) {
            let (mut answer, mut greeting) = (answer(done), Greeting::default());
            let mut rest = &bytes[..];
            let mut had_pack = false;
            while let Ok(Some((packet, used))) = pkt::decode(rest) {
                let _ = greeting.take(packet);
                match answer.take(packet) {
                    Ok(Piece::Pack(_)) => had_pack = true,
                    Ok(Piece::End { has_pack }) => {
                        prop_assert!(has_pack || !had_pack);
                        break;
                    }
                    Ok(_) => {}
                    Err(_) => break,
                }
                rest = &rest[used..];
            }
        }
    }
}
