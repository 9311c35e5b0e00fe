//! What a program switched on in the person's terminal, and how to switch it off when we leave.

/// Parameters of a control sequence beyond this are not looked at.
const MAX_PARAMETER_BYTES: usize = 64;

/// DEC private modes that show another screen in the place of the one with the scrollback.
const ALTERNATE_SCREENS: [&[u8]; 3] = [b"47", b"1047", b"1049"];

/// What is switched off in any case: every terminal ignores what it does not know of this, and nothing of it
/// moves the cursor.
///
/// Attributes, character set, insert mode, newline mode; cursor keys, reverse video, autowrap, mouse and focus
/// reports, bracketed paste, synchronised output, colour and size reports; keypad; cursor shown.
const PLAIN: &[u8] = b"\x1b[0m\x0f\x1b(B\x1b[4l\x1b[20l\x1b[?1l\x1b[?5l\x1b[?7h\
    \x1b[?9l\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1004l\x1b[?1005l\x1b[?1006l\x1b[?1015l\x1b[?1016l\
    \x1b[?2004l\x1b[?2026l\x1b[?2031l\x1b[?2048l\x1b>\x1b[?25h";

/// Where the person's shell goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prompt {
    /// Where the program left the cursor, as if it had run without us.
    AtCursor,
    /// On the line below the cursor: the program was left in the middle of something. What it showed further
    /// down goes; who attaches again sees it again.
    Below,
}

/// Follows what is written to a terminal, as far as leaving it needs to know.
#[derive(Debug, Default)]
pub struct ModeTracker {
    state: State,
    parameters: Vec<u8>,
    alternate: bool,
    /// Rows or columns are kept from scrolling.
    margins: bool,
    /// Positions count from the margins.
    origin: bool,
    used: [bool; 4],
}

/// What not every terminal ignores, so that it is undone only where it was used.
#[derive(Clone, Copy, Debug)]
enum Used {
    /// The kitty keyboard protocol. Its flags are kept for each screen apart.
    Keyboard,
    /// xterm's modifyOtherKeys.
    OtherKeys,
    CursorShape,
    /// A hyperlink, a palette or another string command.
    Strings,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Ground,
    /// Behind `ESC`.
    Escape,
    /// Behind `ESC (` and the like: one byte follows.
    Designation,
    /// Behind `ESC [`.
    Sequence,
    /// In a command that a string terminator ends: OSC, DCS, APC, PM, SOS.
    Text,
    /// Behind an `ESC` in such a command.
    TextEscape,
}

impl ModeTracker {
    /// Looks at bytes that are written to the terminal.
    pub fn feed(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            if self.state == State::Ground {
                let Some(escape) = rest.iter().position(|byte| *byte == 0x1b) else { return };
                rest = &rest[escape + 1..];
                self.state = State::Escape;
                continue;
            }
            self.step(rest[0]);
            rest = &rest[1..];
        }
    }

    /// Whether the program is on the alternate screen.
    pub fn is_alternate(&self) -> bool {
        self.alternate
    }

    /// What puts the terminal back as a shell wants it. Behind an alternate screen the cursor is where it was
    /// before.
    pub fn restore(&mut self, rows: u16, prompt: Prompt) -> Vec<u8> {
        let mut out = Vec::with_capacity(512);
        if self.state != State::Ground {
            // CAN and a string terminator end whatever was begun.
            out.extend_from_slice(b"\x18\x1b\\");
        }
        if self.has_used(Used::Strings) {
            // No hyperlink; palette, foreground, background and cursor colour as configured.
            out.extend_from_slice(b"\x1b]8;;\x1b\\\x1b]104\x1b\\\x1b]110\x1b\\\x1b]111\x1b\\\x1b]112\x1b\\");
        }
        let keyboard = |out: &mut Vec<u8>| out.extend_from_slice(b"\x1b[=0;1u");
        if self.has_used(Used::Keyboard) {
            keyboard(&mut out);
        }
        if self.has_used(Used::OtherKeys) {
            out.extend_from_slice(b"\x1b[>4m");
        }
        if self.has_used(Used::CursorShape) {
            out.extend_from_slice(b"\x1b[0 q");
        }
        out.extend_from_slice(PLAIN);
        match (self.margins, self.origin) {
            (false, false) => {}
            // The cursor goes home with the margins. Saving it would save origin mode as well.
            (_, true) => out.extend_from_slice(b"\x1b[?6l\x1b[?69l\x1b[r"),
            (true, false) if self.alternate => out.extend_from_slice(b"\x1b[?69l\x1b[r"),
            (true, false) => out.extend_from_slice(b"\x1b7\x1b[?69l\x1b[r\x1b8"),
        }
        if self.alternate {
            out.extend_from_slice(b"\x1b[?1049l");
            if self.has_used(Used::Keyboard) {
                keyboard(&mut out);
            }
        } else if self.origin {
            out.extend_from_slice(format!("\x1b[{rows};1H\r\n").as_bytes());
        }
        if prompt == Prompt::Below {
            out.extend_from_slice(b"\r\n\x1b[J");
        }
        *self = Self::default();
        out
    }

    fn has_used(&self, what: Used) -> bool {
        self.used[what as usize]
    }

    fn step(&mut self, byte: u8) {
        self.state = match (self.state, byte) {
            // CAN and SUB abort everything; another ESC begins anew, except that it may end a text.
            (_, 0x18 | 0x1a) | (State::Text, 0x07) => State::Ground,
            (State::Text, 0x1b) => State::TextEscape,
            (_, 0x1b) => State::Escape,
            (State::Escape | State::TextEscape, b'[') => {
                self.parameters.clear();
                State::Sequence
            }
            (State::Escape | State::TextEscape, b']' | b'P' | b'X' | b'^' | b'_') => {
                self.used[Used::Strings as usize] = true;
                State::Text
            }
            (State::Escape | State::TextEscape, b'c') => {
                // A full reset undoes all of it.
                *self = Self::default();
                State::Ground
            }
            (State::Escape | State::TextEscape, 0x20..=0x2f) => State::Designation,
            (State::Sequence, 0x40..=0x7e) => {
                self.sequence(byte);
                State::Ground
            }
            (State::Sequence, _) => {
                if self.parameters.len() < MAX_PARAMETER_BYTES {
                    self.parameters.push(byte);
                }
                State::Sequence
            }
            (State::Text, _) => State::Text,
            (State::Ground | State::Designation | State::Escape | State::TextEscape, _) => State::Ground,
        };
    }

    fn sequence(&mut self, last: u8) {
        match (self.parameters.split_first(), last) {
            (Some((b'?', modes)), b'h' | b'l') => {
                let on = last == b'h';
                for mode in modes.split(|byte| *byte == b';') {
                    match mode {
                        b"6" => self.origin = on,
                        // Which of the two kinds of margins is set does not matter here.
                        b"69" if on => self.margins = true,
                        mode if ALTERNATE_SCREENS.contains(&mode) => self.alternate = on,
                        _ => {}
                    }
                }
            }
            (Some((b'0'..=b'9' | b';', _)), b'r') => self.margins = true,
            (Some((b'!', [])), b'p') => (self.margins, self.origin) = (false, false),
            (Some((b'>' | b'=', _)), b'u') => self.used[Used::Keyboard as usize] = true,
            (Some((b'>', [b'4', ..])), b'm') => self.used[Used::OtherKeys as usize] = true,
            (Some(_), b'q') if self.parameters.ends_with(b" ") => {
                self.used[Used::CursorShape as usize] = true;
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn after(pieces: &[&[u8]]) -> ModeTracker {
        let mut tracker = ModeTracker::default();
        for piece in pieces {
            tracker.feed(piece);
        }
        tracker
    }

    fn restored(bytes: &[u8]) -> String {
        String::from_utf8(after(&[bytes]).restore(24, Prompt::AtCursor)).unwrap()
    }

    #[test]
    fn the_alternate_screen_is_followed() {
        for on in [&b"\x1b[?1049h"[..], b"\x1b[?47h", b"\x1b[?25;1047h", b"\x1b]0;\x1b[31m\x1b[?1049h"] {
            assert!(after(&[on]).is_alternate(), "{}", on.escape_ascii());
        }
        for off in [
            &b"\x1b[?1049h\x1b[?1049l"[..],
            b"\x1b[?1049h\x1bc",
            b"\x1b[1049h",
            b"\x1b[?10490h",
            b"\x1b]\x1b\x1b?1049h",
            b"\x1b[?104\x189h",
            b"\x1b(\x1b?1049h",
        ] {
            assert!(!after(&[off]).is_alternate(), "{}", off.escape_ascii());
        }
        assert!(after(&[b"\x1b", b"[?10", b"49", b"h"]).is_alternate());
    }

    #[test]
    fn only_what_was_used_is_undone_where_terminals_differ() {
        let plain = restored(b"hello");
        assert!(!plain.contains("1049") && !plain.contains('u') && plain.ends_with("\x1b[?25h"));
        let full = restored(b"\x1b[?1049h\x1b[>1u\x1b[>4;2m\x1b[5 q\x1b]8;;x\x07");
        assert!(full.ends_with("\x1b[?1049l\x1b[=0;1u"));
        for part in ["\x1b[=0;1u", "\x1b[>4m", "\x1b[0 q", "\x1b]8;;\x1b\\", "\x1b[?2004l", "\x1b[?25h"] {
            assert!(full.contains(part), "{part:?}");
        }
    }

    #[test]
    fn the_cursor_stays_where_the_program_left_it() {
        assert!(restored(b"\x1b[2;5r").ends_with("\x1b7\x1b[?69l\x1b[r\x1b8"));
        assert!(restored(b"\x1b[2;5r\x1b[?6h").ends_with("\x1b[24;1H\r\n"));
        assert!(restored(b"\x1b[2;5r\x1b[!p").ends_with("\x1b[?25h"));
        assert!(restored(b"\x1b[?1049h\x1b[2;5r").ends_with("\x1b[?69l\x1b[r\x1b[?1049l"));
        let left = String::from_utf8(after(&[b"$ "]).restore(24, Prompt::Below)).unwrap();
        assert!(left.ends_with("\x1b[?25h\r\n\x1b[J"));
    }

    #[test]
    fn what_was_begun_is_ended_first() {
        for begun in [&b"\x1b"[..], b"\x1b[?10", b"\x1b]0;title", b"\x1bPdata\x1b"] {
            assert!(restored(begun).starts_with("\x18\x1b\\"), "{}", begun.escape_ascii());
        }
    }

    proptest! {
        #[test]
        fn cuts_do_not_matter_and_memory_is_bounded(
            bytes in prop::collection::vec(prop::sample::select(&b"\x1b[]?1049hlr6!p;P\\\x07\x18c(Bx"[..]), 0..300),
            cut in 0usize..300,
        ) {
            let cut = cut.min(bytes.len());
            let (mut whole, mut cut) = (after(&[&bytes]), after(&[&bytes[..cut], &bytes[cut..]]));
            prop_assert!(whole.parameters.len() <= MAX_PARAMETER_BYTES);
            prop_assert_eq!(whole.restore(24, Prompt::Below), cut.restore(24, Prompt::Below));
        }
    }
}
