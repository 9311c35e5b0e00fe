//! Names that git takes for its own, on this file system or on another one.
//!
//! A tree with such a name in it is refused wherever objects are checked, and everything that came with it. So it is
//! left out, and said.

/// What git reads in a file of this name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Special {
    /// A repository. No tree can hold that name.
    Repository,
    /// Submodules.
    Modules,
    /// Attributes.
    Attributes,
}

/// Longest line of attributes that git reads, bytes.
const MAX_ATTRIBUTE_LINE_BYTES: usize = 2048;

/// What a name means to git, if anything. Looser than git is where it may be looser: what is lost is one odd name.
pub(super) fn special(name: &[u8]) -> Option<Special> {
    // Nearly every name can be told from these without another look.
    let begins = matches!(name.first(), Some(b'.' | b'g' | b'G'));
    if !begins && name.is_ascii() && !name.contains(&b'\\') {
        return None;
    }
    // On Windows a backslash ends a name, too.
    name.split(|byte| *byte == b'\\').find_map(|part| {
        let plain = plain(part);
        if plain == b".git" || plain == b"git~1" {
            Some(Special::Repository)
        } else if plain == b".gitmodules" || is_short(&plain, b"gitmod", b"gi7eba") {
            Some(Special::Modules)
        } else if plain == b".gitattributes" || is_short(&plain, b"gitatt", b"gi7d29") {
            Some(Special::Attributes)
        } else {
            None
        }
    })
}

/// The name as file systems may see it that ignore case, spaces and dots at the end, streams, and what has no width.
fn plain(name: &[u8]) -> Vec<u8> {
    let visible = without_invisible(name);
    let end = visible.iter().position(|byte| *byte == b':').unwrap_or(visible.len());
    let end = visible[..end].iter().rposition(|byte| !matches!(byte, b' ' | b'.')).map_or(0, |last| last + 1);
    visible[..end].to_ascii_lowercase()
}

/// Drops the characters that HFS+ does not see. It reads nothing behind what is not UTF-8.
fn without_invisible(name: &[u8]) -> Vec<u8> {
    if name.is_ascii() {
        return name.to_vec();
    }
    let valid = match std::str::from_utf8(name) {
        Ok(text) => text,
        Err(error) => std::str::from_utf8(&name[..error.valid_up_to()]).unwrap_or_default(),
    };
    let is_seen = |c: &char| !matches!(c, '\u{200c}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{206a}'..='\u{206f}' | '\u{feff}');
    valid.chars().filter(is_seen).collect::<String>().into_bytes()
}

/// A short name that Windows may have made of a long one: eight characters, of which the first may be a digest's.
fn is_short(name: &[u8], beginning: &[u8], digest: &[u8]) -> bool {
    let Some(tilde) = name.iter().position(|byte| *byte == b'~') else { return false };
    let (stem, digits) = (&name[..tilde], &name[tilde + 1..]);
    let counts = !digits.is_empty() && digits[0] != b'0' && digits.iter().all(u8::is_ascii_digit);
    name.len() == 8 && counts && (stem == beginning || digest.starts_with(stem))
}

/// Whether git would take this for a file of submodules. Unsure is no: names and addresses in it are used as paths and
/// arguments.
pub(super) fn is_fine_modules(content: &[u8]) -> bool {
    content.split(|byte| *byte == b'\n').all(|line| {
        let line = line.trim_ascii();
        if let Some(section) = line.strip_prefix(b"[") {
            return !section.contains(&b'\\')
                && !has_dots(section)
                && !section.windows(2).any(|two| two == b"\"\"");
        }
        let Some(at) = line.iter().position(|byte| *byte == b'=') else { return !line.ends_with(b"\\") };
        let key = line[..at].trim_ascii().to_ascii_lowercase();
        let value = line[at + 1..].trim_ascii();
        let value = value.strip_prefix(b"\"").unwrap_or(value);
        if line.contains(&b'\\') {
            return false;
        }
        match &key[..] {
            b"url" => is_fine_url(value),
            b"path" => !value.starts_with(b"-"),
            b"update" => !value.starts_with(b"!"),
            _ => true,
        }
    })
}

fn has_dots(section: &[u8]) -> bool {
    section.split(|byte| matches!(byte, b'/' | b'"' | b' ')).any(|part| part == b"..")
}

fn is_fine_url(value: &[u8]) -> bool {
    let lower = value.to_ascii_lowercase();
    let escapes = lower.windows(3).any(|three| three == b"%0a" || three == b"%0d");
    let mut rest = &lower[..];
    while let Some(next) = rest.strip_prefix(b"../").or_else(|| rest.strip_prefix(b"./")) {
        rest = next;
    }
    let is_relative = rest.len() != lower.len();
    let begins = rest
        .first()
        .is_some_and(|byte| byte.is_ascii_alphanumeric() || (!is_relative && matches!(byte, b'/' | b'~')));
    let host = rest.windows(3).position(|three| three == b"://").map(|at| &rest[at + 3..]);
    let has_host =
        host.is_none_or(|host| host.first().is_some_and(u8::is_ascii_graphic) && !host.starts_with(b":"));
    !escapes && begins && has_host && value.iter().all(|byte| *byte >= b' ')
}

/// Whether git reads every line of it.
pub(super) fn is_fine_attributes(content: &[u8]) -> bool {
    content.split(|byte| *byte == b'\n').all(|line| line.len() < MAX_ATTRIBUTE_LINE_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_git_takes_for_a_repository_is_known_in_every_disguise() {
        for name in [
            &b".git"[..],
            b".GIT",
            b".Git ",
            b".git. .",
            b"git~1",
            b"GIT~1",
            b".git::$INDEX_ALLOCATION",
            b"a\\.git",
            ".g\u{200c}it".as_bytes(),
            "\u{feff}.GIT".as_bytes(),
            b".git\xff",
            b".git\\x",
        ] {
            assert_eq!(special(name), Some(Special::Repository), "{}", name.escape_ascii());
        }
        for name in [
            &b".gitignore"[..],
            b"git",
            b".gi",
            b".github",
            b"git~2",
            b"x.git",
            b".git-x",
            b"..git",
            b"gitmod~0",
            b"a~1",
        ] {
            assert_eq!(special(name), None, "{}", name.escape_ascii());
        }
    }

    #[test]
    fn so_are_its_other_files() {
        for name in [&b".gitmodules"[..], b".GITMODULES.", b"gitmod~1", b"gi7eba~1", b"GI7EB~10", b"g~123456"]
        {
            assert_eq!(special(name), Some(Special::Modules), "{}", name.escape_ascii());
        }
        for name in [&b".gitattributes"[..], b"gitatt~2", b"gi7d29~1"] {
            assert_eq!(special(name), Some(Special::Attributes), "{}", name.escape_ascii());
        }
    }

    #[test]
    fn submodules_that_a_check_refuses_are_not_fine() {
        let fine =
            b"[submodule \"a/b\"]\n\tpath = a/b\n\turl = https://example.org/x.git\n\tupdate = rebase\n";
        assert!(is_fine_modules(fine));
        assert!(is_fine_modules(b"[submodule \"a\"]\npath=a\nurl = ../other.git\n"));
        for bad in [
            "[submodule \"../x\"]\npath=x\nurl=https://h/x",
            "[submodule \"x\"]\nurl = -x",
            "[submodule \"x\"]\nurl = \"--upload\"",
            "[submodule \"x\"]\nupdate = !touch x",
            "[submodule \"x\"]\npath = -x",
            "[submodule \"x\"]\nurl = https://h/%0ahost=x",
            "[submodule \"x\"]\nurl = ../../:x",
            "[submodule \"x\"]\nURL = http://:80/x",
            "[submodule \"x\"]\nurl = a\\\nb",
        ] {
            assert!(!is_fine_modules(bad.as_bytes()), "{bad}");
        }
    }
}
