//! Keys that a person presses and that mean us, not the program inside.
//!
//! Pure: bytes in, bytes and [`Action`]s out, no clock. A key that may be the beginning of a sequence is
//! held back until the next one decides. Programs that ask for the extended keyboard protocols change what
//! the same key sends: Ctrl-] is the byte 0x1d, `ESC [ 93 ; 5 u`, or `ESC [ 27 ; 5 ; 93 ~`, and all three are
//! understood where they arrive in one piece, as terminals send them. Pasted text never means us.

use std::{fmt, str::FromStr};

/// What a person asks of us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Leave, and let the program go on.
    Detach,
    /// Take the write lease.
    TakeOver,
    /// Hand the write lease on.
    HandOn,
    /// Show what the keys are.
    Help,
}

/// The sequence of keys that means us, as `--detach-keys` states it: `ctrl-p,ctrl-q`.
///
/// At least two keys, so that none that a program may need means us alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DetachKeys {
    prefix: Vec<u8>,
    commands: Vec<(u8, Command)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Command {
    Do(Action),
    /// Send the prefix itself.
    Literal,
}

/// Why a text is no sequence of keys.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` are no detach keys: {problem}; write two or more keys as in `ctrl-p,ctrl-q`")]
pub struct DetachKeysError {
    text: String,
    problem: &'static str,
}

const CTRL_BRACKET: u8 = 0x1d;
const ESCAPE: u8 = 0x1b;
const PASTE_BEGINS: &[u8] = b"\x1b[200~";
const PASTE_ENDS: &[u8] = b"\x1b[201~";

/// Longest escape sequence that is looked at as a key; longer ones are none.
const MAX_KEY_BYTES: usize = 32;

/// Most keys in a sequence, so that what is held back stays small.
const MAX_KEYS: usize = 8;

impl Default for DetachKeys {
    /// Ctrl-] and then `d` to detach, `t` to take over, `h` to hand on, `?` for help, Ctrl-] for itself.
    fn default() -> Self {
        Self {
            prefix: vec![CTRL_BRACKET],
            commands: vec![
                (b'd', Command::Do(Action::Detach)),
                (b't', Command::Do(Action::TakeOver)),
                (b'h', Command::Do(Action::HandOn)),
                (b'?', Command::Do(Action::Help)),
                (CTRL_BRACKET, Command::Literal),
            ],
        }
    }
}

impl FromStr for DetachKeys {
    type Err = DetachKeysError;

    fn from_str(text: &str) -> Result<Self, DetachKeysError> {
        let error = |problem| DetachKeysError { text: text.escape_debug().collect(), problem };
        let mut keys = text
            .split(',')
            .map(|key| parse_key(key).ok_or_else(|| error("a key is unknown")))
            .collect::<Result<Vec<u8>, _>>()?;
        if keys.len() > MAX_KEYS {
            return Err(error("they are too many"));
        }
        match keys.pop() {
            Some(last) if !keys.is_empty() => {
                Ok(Self { prefix: keys, commands: vec![(last, Command::Do(Action::Detach))] })
            }
            _ => Err(error("one key alone is taken from every program inside")),
        }
    }
}

impl fmt::Display for DetachKeys {
    /// How to detach.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let last = self.commands.iter().find(|(_, command)| *command == Command::Do(Action::Detach));
        for (place, key) in self.prefix.iter().chain(last.map(|(key, _)| key)).enumerate() {
            let comma = if place == 0 { "" } else { "," };
            match key {
                0..0x20 => write!(f, "{comma}ctrl-{}", char::from(key | 0x40).to_ascii_lowercase())?,
                key => write!(f, "{comma}{}", char::from(*key))?,
            }
        }
        Ok(())
    }
}

/// `a` or `ctrl-a`; the control keys are the letters and `@ [ \ ] ^ _`.
fn parse_key(text: &str) -> Option<u8> {
    if let [key @ 0x21..0x7f] = text.as_bytes() {
        return Some(*key);
    }
    match text.strip_prefix("ctrl-")?.as_bytes() {
        [key @ (b'a'..=b'z' | b'A'..=b'Z' | b'@' | b'['..=b'_')] => Some(key & 0x1f),
        _ => None,
    }
}

/// Finds the keys that mean us in what a person types.
#[derive(Debug)]
pub struct KeyMatcher {
    keys: DetachKeys,
    /// How many keys of the prefix were pressed.
    matched: usize,
    /// The bytes of those keys.
    held: Vec<u8>,
    paste: Paste,
}

/// Follows the marks around pasted text, which may arrive in pieces.
#[derive(Debug, Default)]
struct Paste {
    inside: bool,
    matched: usize,
}

/// One key as it arrived.
struct Key {
    /// The byte that it stands for, where it is one that can mean us.
    code: Option<u8>,
    bytes: usize,
    /// Nothing was pressed: a key was released, or it was a modifier alone.
    quiet: bool,
}

impl KeyMatcher {
    /// A matcher that has seen no key.
    pub fn new(keys: DetachKeys) -> Self {
        Self { keys, matched: 0, held: Vec::new(), paste: Paste::default() }
    }

    /// The keys that are looked for.
    pub fn keys(&self) -> &DetachKeys {
        &self.keys
    }

    /// Takes bytes off the front of `input` up to the next action. What is for the program goes to `out`.
    pub fn next(&mut self, input: &mut &[u8], out: &mut Vec<u8>) -> Option<Action> {
        while !input.is_empty() {
            let key = next_key(input);
            let (bytes, rest) = input.split_at(key.bytes);
            *input = rest;
            let pasted = self.paste.inside;
            for byte in bytes {
                self.paste.sees(*byte);
            }
            if pasted || self.paste.inside {
                self.give_up(out);
                out.extend_from_slice(bytes);
            } else if key.quiet {
                // The release of a key of the sequence is part of it.
                if self.matched == 0 { &mut *out } else { &mut self.held }.extend_from_slice(bytes);
            } else if let Some(action) = self.press(key.code, bytes, out) {
                return Some(action);
            }
        }
        None
    }

    fn press(&mut self, code: Option<u8>, bytes: &[u8], out: &mut Vec<u8>) -> Option<Action> {
        if self.matched == self.keys.prefix.len() {
            let command = self.keys.commands.iter().find(|(key, _)| Some(*key) == code);
            match command.map(|(_, command)| *command) {
                Some(Command::Do(action)) => {
                    self.forget();
                    return Some(action);
                }
                Some(Command::Literal) => {
                    out.extend_from_slice(bytes);
                    self.forget();
                }
                None => self.mismatch(code, bytes, out),
            }
        } else if code == Some(self.keys.prefix[self.matched]) {
            self.hold(bytes);
        } else {
            self.mismatch(code, bytes, out);
        }
        None
    }

    /// The sequence was none. The key that ended it may begin another.
    fn mismatch(&mut self, code: Option<u8>, bytes: &[u8], out: &mut Vec<u8>) {
        self.give_up(out);
        if code == self.keys.prefix.first().copied() {
            self.hold(bytes);
        } else {
            out.extend_from_slice(bytes);
        }
    }

    fn hold(&mut self, bytes: &[u8]) {
        self.matched += 1;
        self.held.extend_from_slice(bytes);
    }

    fn give_up(&mut self, out: &mut Vec<u8>) {
        out.append(&mut self.held);
        self.matched = 0;
    }

    fn forget(&mut self) {
        self.held.clear();
        self.matched = 0;
    }
}

impl Paste {
    fn sees(&mut self, byte: u8) {
        let mark = if self.inside { PASTE_ENDS } else { PASTE_BEGINS };
        if mark[self.matched] == byte {
            self.matched += 1;
        } else {
            self.matched = usize::from(byte == mark[0]);
        }
        if self.matched == mark.len() {
            self.inside = !self.inside;
            self.matched = 0;
        }
    }
}

/// The key at the front of bytes that are not empty.
fn next_key(bytes: &[u8]) -> Key {
    let plain = Key { code: Some(bytes[0]), bytes: 1, quiet: false };
    if bytes[0] != ESCAPE || bytes.get(1) != Some(&b'[') {
        return plain;
    }
    let body = &bytes[2..bytes.len().min(MAX_KEY_BYTES)];
    let Some(len) = body.iter().position(|byte| !matches!(byte, b'0'..=b'9' | b';' | b':')) else {
        return plain;
    };
    let numbers = parse_numbers(&body[..len]);
    let (code, modifiers, event) = match (body[len], numbers.as_slice()) {
        // ESC [ code : alternatives ; modifiers : event u
        (b'u', [code]) => (code[0], 1, 1),
        (b'u', [code, modifiers, ..]) => {
            (code[0], modifiers[0].max(1), modifiers.get(1).copied().unwrap_or(1))
        }
        // ESC [ 27 ; modifiers ; code ~
        (b'~', [kind, modifiers, code]) if kind[0] == 27 => (code[0], modifiers[0].max(1), 1),
        _ => return Key { code: None, bytes: 2 + len + 1, quiet: false },
    };
    Key { code: byte_of(code, modifiers - 1), bytes: 2 + len + 1, quiet: event == 3 || is_modifier(code) }
}

/// Parameters and their parts; what is left out counts as 0.
fn parse_numbers(text: &[u8]) -> Vec<Vec<u32>> {
    let number = |digits: &[u8]| std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok());
    text.split(|byte| *byte == b';')
        .map(|parts| parts.split(|byte| *byte == b':').map(|part| number(part).unwrap_or(0)).collect())
        .collect()
}

/// The byte that a plain terminal sends for a key with these modifiers (1 shift, 4 control), if there is one.
fn byte_of(code: u32, modifiers: u32) -> Option<u8> {
    const CONTROL: u32 = 4;
    const LOCKS: u32 = 64 | 128;
    const SHIFT: u32 = 1;
    let code = u8::try_from(code).ok().filter(u8::is_ascii)?;
    match modifiers & !LOCKS {
        0 => Some(code),
        // `?` is what a shifted key sends, or the key itself with a shift: which one it is depends on the layout.
        SHIFT => Some(if code == b'/' { b'?' } else { code }),
        CONTROL if (0x40..0x7f).contains(&code) => Some(code & 0x1f),
        _ => None,
    }
}

/// Shift, Control and the like pressed alone, as the most talkative keyboard mode reports them.
fn is_modifier(code: u32) -> bool {
    matches!(code, 57358..=57360 | 57441..=57454)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Feeds pieces; returns what the program gets and what is asked of us.
    fn feed(keys: &DetachKeys, pieces: &[&[u8]]) -> (Vec<u8>, Vec<Action>) {
        let mut matcher = KeyMatcher::new(keys.clone());
        let (mut out, mut actions) = (Vec::new(), Vec::new());
        for piece in pieces {
            let mut input = *piece;
            while !input.is_empty() {
                actions.extend(matcher.next(&mut input, &mut out));
            }
        }
        (out, actions)
    }

    fn check(keys: &DetachKeys, typed: &[u8], out: &[u8], actions: &[Action]) {
        let expected = (out.to_vec(), actions.to_vec());
        assert_eq!(feed(keys, &[typed]), expected, "{:?}", typed.escape_ascii().to_string());
    }

    #[test]
    fn the_default_keys_do_what_they_say() {
        let keys = DetachKeys::default();
        check(&keys, b"ls\r\x1dd", b"ls\r", &[Action::Detach]);
        check(&keys, b"\x1dt\x1dh\x1d?", b"", &[Action::TakeOver, Action::HandOn, Action::Help]);
        check(&keys, b"\x1d\x1dd", b"\x1dd", &[]);
        check(&keys, b"\x1dx\x1d", b"\x1dx", &[]);
        assert_eq!(feed(&keys, &[b"\x1d", b"d"]), (vec![], vec![Action::Detach]));
        assert_eq!(keys.to_string(), "ctrl-],d");
    }

    #[test]
    fn keys_of_ones_own_only_detach() {
        let keys: DetachKeys = "ctrl-p,ctrl-q".parse().unwrap();
        check(&keys, b"a\x10\x11", b"a", &[Action::Detach]);
        check(&keys, b"\x10t\x10\x10\x11", b"\x10t\x10", &[Action::Detach]);
        check(&keys, b"\x1dd", b"\x1dd", &[]);
        let keys: DetachKeys = "ctrl-a,a,d".parse().unwrap();
        check(&keys, b"\x01ad\x01ax\x01d", b"\x01ax\x01d", &[Action::Detach]);
        assert_eq!(keys.to_string(), "ctrl-a,a,d");
    }

    #[test]
    fn one_key_and_unknown_keys_are_refused() {
        for text in ["", "d", "ctrl-p", "ctrl-p,", "ctrl-1,a", "alt-x,y", "ab,c", "a,b,c,d,e,f,g,h,i", "ä,b"]
        {
            assert!(text.parse::<DetachKeys>().is_err(), "{text:?}");
        }
        assert_eq!("ctrl-@,ctrl-_".parse::<DetachKeys>().unwrap().to_string(), "ctrl-@,ctrl-_");
    }

    #[test]
    fn extended_keyboards_are_understood() {
        let keys = DetachKeys::default();
        check(&keys, b"\x1b[93;5ud", b"", &[Action::Detach]);
        check(&keys, b"\x1b[27;5;93~d", b"", &[Action::Detach]);
        check(&keys, b"\x1b[93;69u\x1b[100u", b"", &[Action::Detach]);
        check(&keys, b"\x1b[93;5:1u\x1b[93;5:3u\x1b[57442;1:3u\x1b[100;1:1u", b"", &[Action::Detach]);
        check(&keys, b"\x1b[93;5u\x1b[47:63;2u", b"", &[Action::Help]);
        // Something else keeps all its bytes.
        check(&keys, b"\x1b[93;5u\x1b[A", b"\x1b[93;5u\x1b[A", &[]);
        check(&keys, b"\x1b[93;6u", b"\x1b[93;6u", &[]);
        check(&keys, b"\x1b\x1b[Ax", b"\x1b\x1b[Ax", &[]);
    }

    #[test]
    fn pasted_text_never_means_us() {
        let keys = DetachKeys::default();
        let pasted = b"\x1b[200~a\x1dd b\x1b[201~";
        check(&keys, pasted, pasted, &[]);
        let (out, actions) = feed(&keys, &[b"\x1b[20", b"0~\x1d", b"d\x1b[2", b"01~\x1dd"]);
        assert_eq!(
            (out.as_slice(), actions.as_slice()),
            (&b"\x1b[200~\x1dd\x1b[201~"[..], &[Action::Detach][..])
        );
    }

    proptest! {
        #[test]
        fn bytes_that_are_no_prefix_pass_unchanged(
            typed in prop::collection::vec(any::<u8>().prop_filter("prefix", |byte| *byte != CTRL_BRACKET), 0..300)
        ) {
            // The escape sequences of the same key are the only other way to say it.
            prop_assume!(!typed.windows(3).any(|some| some == b"93;"));
            prop_assume!(!typed.windows(3).any(|some| some == b"93~"));
            prop_assert_eq!(feed(&DetachKeys::default(), &[&typed]), (typed, vec![]));
        }

        #[test]
        fn no_input_is_lost_but_for_what_was_asked_of_us(typed in prop::collection::vec(prop::sample::select(&b"\x1dx\x1b[93;5u"[..]), 0..100)) {
            let (out, actions) = feed(&DetachKeys::default(), &[&typed]);
            prop_assert_eq!(actions, vec![]);
            prop_assert!(out.len() <= typed.len());
        }
    }
}
