//! Bytes from inside, made safe to show on the person's terminal.
//!
//! What could move the cursor, change the terminal's state, answer for the person or pass one text off as
//! another becomes a visible escape: `\x1b`, `\u{202e}`. Backslashes stay as they are, because what is
//! shown is for people and is never read back.

use std::{
    fmt::{self, Write as _},
    io,
};

/// Longest colour sequence that is let through. Programs write a dozen bytes.
const MAX_COLOUR_BYTES: usize = 64;

/// Shows bytes safely on one line: line ends and tabs are escaped too.
#[derive(Clone, Copy, Debug)]
pub struct Sanitized<'a>(&'a [u8]);

/// Shows a text or bytes safely on one line.
pub fn sanitized(bytes: &(impl AsRef<[u8]> + ?Sized)) -> Sanitized<'_> {
    Sanitized(bytes.as_ref())
}

impl fmt::Display for Sanitized<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = self.0;
        while !bytes.is_empty() {
            let (step, used) = next(bytes, true);
            match step {
                Step::Char(c) if c == '\n' || c == '\t' || is_harmful(c) => escape_char(c, f)?,
                Step::Char(c) => f.write_char(c)?,
                Step::Bytes(bad) => bad.iter().try_for_each(|byte| write!(f, "\\x{byte:02x}"))?,
                Step::More => break,
            }
            bytes = &bytes[used..];
        }
        Ok(())
    }
}

/// A writer that passes safe text on and escapes the rest; line ends and tabs stay.
///
/// It holds back the beginning of a character or colour that another write may complete; [`finish`]
/// writes it out.
///
/// [`finish`]: Self::finish
#[derive(Debug)]
pub struct SanitizingWriter<W: io::Write> {
    inner: W,
    colours: bool,
    held: Vec<u8>,
}

impl<W: io::Write> SanitizingWriter<W> {
    /// A writer in front of `inner`.
    pub fn new(inner: W) -> Self {
        Self { inner, colours: false, held: Vec::new() }
    }

    /// Lets colours and other text attributes through (`ESC [ ... m`), and nothing else that begins with `ESC`.
    #[must_use]
    pub fn keep_colours(mut self) -> Self {
        self.colours = true;
        self
    }

    /// Writes what is held back, puts attributes back to normal where colours are kept, and flushes.
    pub fn finish(mut self) -> io::Result<W> {
        let held = std::mem::take(&mut self.held);
        let mut out = String::new();
        self.sanitize(&held, true, &mut out);
        if self.colours {
            out.push_str("\x1b[0m");
        }
        self.inner.write_all(out.as_bytes())?;
        self.inner.flush()?;
        Ok(self.inner)
    }

    /// Appends what is safe of `bytes` to `out`; returns how many bytes were used.
    fn sanitize(&self, bytes: &[u8], last: bool, out: &mut String) -> usize {
        let mut at = 0;
        while at < bytes.len() {
            let rest = &bytes[at..];
            if self.colours && rest[0] == 0x1b {
                match colour(rest) {
                    Colour::Whole(used) => {
                        out.extend(rest[..used].iter().map(|byte| char::from(*byte)));
                        at += used;
                        continue;
                    }
                    Colour::More if !last => break,
                    Colour::More | Colour::Other => {}
                }
            }
            let (step, used) = next(rest, last);
            match step {
                Step::Char(c) if c != '\n' && c != '\t' && is_harmful(c) => {
                    // Writing into a string never fails.
                    let _always = escape_char(c, out);
                }
                Step::Char(c) => out.push(c),
                Step::Bytes(bad) => {
                    for byte in bad {
                        let _always = write!(out, "\\x{byte:02x}");
                    }
                }
                Step::More => break,
            }
            at += used;
        }
        at
    }
}

impl<W: io::Write> io::Write for SanitizingWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut all = std::mem::take(&mut self.held);
        all.extend_from_slice(bytes);
        let mut out = String::with_capacity(all.len());
        let used = self.sanitize(&all, false, &mut out);
        all.drain(..used);
        self.held = all;
        self.inner.write_all(out.as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// The next thing in some bytes.
enum Step<'a> {
    Char(char),
    /// No character; shown byte by byte.
    Bytes(&'a [u8]),
    /// The beginning of a character whose end has not come.
    More,
}

/// The next thing in bytes that are not empty, and how many bytes it takes.
fn next(bytes: &[u8], last: bool) -> (Step<'_>, usize) {
    if bytes[0].is_ascii() {
        return (Step::Char(char::from(bytes[0])), 1);
    }
    let head = &bytes[..bytes.len().min(4)];
    let valid = match std::str::from_utf8(head) {
        Ok(text) => text,
        Err(error) if error.valid_up_to() > 0 => {
            std::str::from_utf8(&head[..error.valid_up_to()]).unwrap_or_default()
        }
        Err(error) => {
            return match error.error_len() {
                Some(bad) => (Step::Bytes(&head[..bad]), bad),
                None if last => (Step::Bytes(head), head.len()),
                None => (Step::More, 0),
            };
        }
    };
    match valid.chars().next() {
        Some(c) => (Step::Char(c), c.len_utf8()),
        None => (Step::Bytes(&bytes[..1]), 1),
    }
}

/// Whether a character could harm when it is shown.
pub(crate) fn is_harmful(c: char) -> bool {
    const LINE_ENDS: [char; 2] = ['\u{2028}', '\u{2029}'];
    // C0, DEL and C1: `char::is_control` covers all three.
    c.is_control() || LINE_ENDS.contains(&c) || turns_text(c) || hides(c)
}

/// Direction marks, embeddings, overrides and isolates make a text read as another one.
fn turns_text(c: char) -> bool {
    matches!(c, '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{206f}')
}

/// Invisible characters make two texts look equal, and tags spell text that nobody sees. Joiners stay:
/// scripts and emoji need them.
fn hides(c: char) -> bool {
    matches!(c, '\u{200b}' | '\u{2060}'..='\u{2064}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}')
        || matches!(c, '\u{e0000}'..='\u{e007f}')
}

fn escape_char(c: char, out: &mut impl fmt::Write) -> fmt::Result {
    match c {
        '\n' => out.write_str("\\n"),
        '\r' => out.write_str("\\r"),
        '\t' => out.write_str("\\t"),
        c if c.is_ascii() => write!(out, "\\x{:02x}", c as u32),
        c => write!(out, "{}", c.escape_unicode()),
    }
}

enum Colour {
    Whole(usize),
    More,
    Other,
}

/// Whether bytes that begin with `ESC` are a text attribute: `ESC [`, digits, `;` and `:`, then `m`.
fn colour(bytes: &[u8]) -> Colour {
    let Some(introducer) = bytes.get(1) else { return Colour::More };
    if *introducer != b'[' {
        return Colour::Other;
    }
    for (at, byte) in bytes.iter().enumerate().take(MAX_COLOUR_BYTES).skip(2) {
        match byte {
            b'm' => return Colour::Whole(at + 1),
            b'0'..=b'9' | b';' | b':' => {}
            _ => return Colour::Other,
        }
    }
    if bytes.len() >= MAX_COLOUR_BYTES { Colour::Other } else { Colour::More }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;

    fn through(pieces: &[&[u8]], colours: bool) -> String {
        let mut writer = SanitizingWriter::new(Vec::new());
        writer.colours = colours;
        for piece in pieces {
            writer.write_all(piece).unwrap();
        }
        String::from_utf8(writer.finish().unwrap()).unwrap()
    }

    #[test]
    fn evil_bytes_become_visible() {
        for (evil, shown) in [
            (&b"\x1b]0;title\x07"[..], r"\x1b]0;title\x07"),
            (b"\x1b[2J\x1b[H", r"\x1b[2J\x1b[H"),
            (b"a\rb\x08c\x7f", r"a\rb\x08c\x7f"),
            // The one-byte CSI: alone it is no UTF-8, encoded it is a C1 character.
            (b"\x9b31m", r"\x9b31m"),
            ("\u{9b}31m\u{85}".as_bytes(), r"\u{9b}31m\u{85}"),
            ("user\u{202e}txt.exe".as_bytes(), r"user\u{202e}txt.exe"),
            ("a\u{200b}b\u{feff}\u{e0041}".as_bytes(), r"a\u{200b}b\u{feff}\u{e0041}"),
            (b"\xff\xc3(\xe2\x82", r"\xff\xc3(\xe2\x82"),
            // An overlong ESC and half of a surrogate pair are no characters.
            (b"\xc0\x9b\xed\xa0\x80", r"\xc0\x9b\xed\xa0\x80"),
            (b"\0", r"\x00"),
        ] {
            assert_eq!(sanitized(evil).to_string(), shown);
            assert_eq!(through(&[evil], false), shown);
        }
    }

    #[test]
    fn good_text_stays() {
        let text = "Grüße, 世界 👩‍👩‍👧 a\\b";
        assert_eq!(sanitized(text).to_string(), text);
        assert_eq!(through(&[b"one\n\ttwo ", text.as_bytes()], false), format!("one\n\ttwo {text}"));
        assert_eq!(sanitized("one\n\ttwo").to_string(), r"one\n\ttwo");
    }

    #[test]
    fn colours_pass_only_where_asked_for_and_nothing_else_does() {
        let text = b"\x1b[1;38:5:9mred\x1b[0m\x1b[2J\x1b[?25l\x1b[31";
        assert_eq!(through(&[text], true), "\x1b[1;38:5:9mred\x1b[0m\\x1b[2J\\x1b[?25l\\x1b[31\x1b[0m");
        assert_eq!(through(&[b"\x1b", b"[3", b"1mred"], true), "\x1b[31mred\x1b[0m");
        assert_eq!(through(&[b"\x1b[31m"], false), r"\x1b[31m");
        let endless = [b"\x1b[".as_slice(), &[b'1'; 10_000]].concat();
        let mut writer = SanitizingWriter::new(Vec::new()).keep_colours();
        writer.write_all(&endless).unwrap();
        assert!(writer.held.is_empty());
    }

    proptest! {
        #[test]
        fn nothing_harmful_comes_out_however_the_bytes_are_cut(
            bytes in prop::collection::vec(prop_oneof![any::<u8>(), prop::sample::select(&b"\x1b[\xc2\x9b\xe2\x80\xaem;1\n\t"[..])], 0..200),
            cuts in prop::collection::vec(0usize..200, 0..5),
        ) {
            let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let pieces: Vec<_> = cuts.windows(2).map(|cut| &bytes[cut[0]..cut[1]]).collect();
            let shown = through(&pieces, false);
            prop_assert!(shown.chars().all(|c| c == '\n' || c == '\t' || !is_harmful(c)), "{shown:?}");
            prop_assert_eq!(&shown, &through(&[&bytes], false));
            prop_assert!(sanitized(&bytes).to_string().chars().all(|c| !is_harmful(c)));

            let coloured = through(&pieces, true);
            for (at, _) in coloured.match_indices('\x1b') {
                prop_assert!(matches!(colour(&coloured.as_bytes()[at..]), Colour::Whole(_)));
            }
            prop_assert!(coloured.chars().all(|c| matches!(c, '\n' | '\t' | '\x1b') || !is_harmful(c)));
        }
    }
}
