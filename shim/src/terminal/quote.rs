//! Words of a command that a person may copy into a shell.

use std::fmt::Write as _;

use super::sanitize::is_harmful;

/// Quotes for bash. What would control the terminal or read as something else comes out escaped, so that it can be printed.
pub(crate) fn quoted(bytes: &[u8]) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"/._-=:,+@%".contains(byte);
    if !bytes.is_empty() && bytes.iter().all(plain) {
        return String::from_utf8_lossy(bytes).into_owned();
    }
    let printable = |c: char| !is_harmful(c) && c != char::REPLACEMENT_CHARACTER;
    match std::str::from_utf8(bytes) {
        Ok(text) if text.chars().all(printable) => format!("'{}'", text.replace('\'', r"'\''")),
        _ => {
            bytes.iter().fold("$'".to_owned(), |mut out, byte| {
                match byte {
                    b'\n' => out.push_str("\\n"),
                    b'\'' | b'\\' => out.extend(['\\', *byte as char]),
                    0x20..=0x7e => out.push(*byte as char),
                    _ => {
                        // Writing to a string cannot fail.
                        let _ = write!(out, "\\x{byte:02x}");
                    }
                }
                out
            }) + "'"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_quoted_ends_its_word_or_acts_on_a_terminal() {
        for (word, expected) in [
            ("/srv/web", "/srv/web"),
            ("", "''"),
            ("a; b", "'a; b'"),
            ("it's", r"'it'\''s'"),
            ("a\n'b", r"$'a\n\'b'"),
            ("\x1b[2J", r"$'\x1b[2J'"),
            ("\u{9b}2J", r"$'\xc2\x9b2J'"),
            ("\u{202e}x", r"$'\xe2\x80\xaex'"),
        ] {
            assert_eq!(quoted(word.as_bytes()), expected, "{word:?}");
        }
    }
}
