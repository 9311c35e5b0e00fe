//! One pattern of a .gitignore (gitignore(5)).

/// A line of a file of patterns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pattern {
    glob: Vec<u8>,
    /// It takes back what an earlier one ignored.
    pub negated: bool,
    folders_only: bool,
    /// It is about a path from where the file lies, not about a name anywhere below.
    anchored: bool,
    kind: Kind,
}

/// How it is compared. Most patterns are plain, and every name is compared with every pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Literal,
    /// `*` and then no other wildcard.
    Ending,
    Glob,
}

impl Pattern {
    /// All patterns of a file.
    pub(super) fn parse_all(content: &[u8]) -> Vec<Self> {
        let content = content.strip_prefix(b"\xef\xbb\xbf").unwrap_or(content);
        content.split(|byte| *byte == b'\n').filter_map(Self::parse).collect()
    }

    fn parse(line: &[u8]) -> Option<Self> {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.starts_with(b"#") {
            return None;
        }
        let line = trimmed(line);
        let (negated, line) = line.strip_prefix(b"!").map_or((false, line), |rest| (true, rest));
        let (folders_only, line) = match line.strip_suffix(b"/") {
            Some(rest) if !rest.is_empty() => (true, rest),
            _ => (false, line),
        };
        if line.is_empty() {
            return None;
        }
        let anchored = line.contains(&b'/');
        let glob = line.strip_prefix(b"/").unwrap_or(line).to_vec();
        let has_wildcard = |text: &[u8]| text.iter().any(|byte| matches!(byte, b'*' | b'?' | b'[' | b'\\'));
        let kind = if !has_wildcard(&glob) {
            Kind::Literal
        } else if !anchored && glob[0] == b'*' && !has_wildcard(&glob[1..]) {
            Kind::Ending
        } else {
            Kind::Glob
        };
        Some(Self { glob, negated, folders_only, anchored, kind })
    }

    /// Whether it is about this path, which is relative to the folder of its file.
    pub(super) fn matches(&self, path: &[u8], name: &[u8], is_folder: bool) -> bool {
        if self.folders_only && !is_folder {
            return false;
        }
        let text = if self.anchored { path } else { name };
        match self.kind {
            Kind::Literal => self.glob == text,
            Kind::Ending => text.ends_with(&self.glob[1..]),
            Kind::Glob => wild(&self.glob, text, true),
        }
    }
}

/// Spaces at the end do not count, unless a backslash says so.
fn trimmed(line: &[u8]) -> &[u8] {
    let mut end = 0;
    let mut at = 0;
    while at < line.len() {
        match line[at] {
            b' ' => at += 1,
            b'\\' => {
                at = (at + 2).min(line.len());
                end = at;
            }
            _ => {
                at += 1;
                end = at;
            }
        }
    }
    &line[..end]
}

/// Whether a text matches a glob in which only `**` crosses a slash. `start`: a folder may begin here.
fn wild(glob: &[u8], text: &[u8], start: bool) -> bool {
    let Some(first) = glob.first() else { return text.is_empty() };
    match first {
        b'*' => {
            let stars = glob.iter().take_while(|byte| **byte == b'*').count();
            let rest = &glob[stars..];
            let whole =
                stars > 1 && start && (rest.is_empty() || rest[0] == b'/' || rest.starts_with(b"\\/"));
            if whole {
                if rest.is_empty() {
                    return true;
                }
                // Any folders, or none of them.
                let below = if rest[0] == b'/' { &rest[1..] } else { &rest[2..] };
                return wild(below, text, true)
                    || text
                        .iter()
                        .enumerate()
                        .any(|(at, byte)| *byte == b'/' && wild(below, &text[at + 1..], true));
            }
            let name = text.iter().position(|byte| *byte == b'/').unwrap_or(text.len());
            if rest.is_empty() {
                return name == text.len();
            }
            (0..=name).any(|at| wild(rest, &text[at..], false))
        }
        b'?' => text.first().is_some_and(|byte| *byte != b'/') && wild(&glob[1..], &text[1..], false),
        b'[' => match (text.first(), class(&glob[1..], text.first().copied().unwrap_or_default())) {
            (Some(byte), Some((true, rest))) if *byte != b'/' => wild(rest, &text[1..], false),
            _ => false,
        },
        b'\\' => match (glob.get(1), text.first()) {
            (Some(wanted), Some(byte)) => wanted == byte && wild(&glob[2..], &text[1..], *byte == b'/'),
            _ => false,
        },
        wanted => text.first() == Some(wanted) && wild(&glob[1..], &text[1..], *wanted == b'/'),
    }
}

/// Whether a byte is in the class that begins here, and what follows it. `None`: it never ends.
fn class(glob: &[u8], byte: u8) -> Option<(bool, &[u8])> {
    let negated = matches!(glob.first(), Some(b'!' | b'^'));
    let mut rest = if negated { &glob[1..] } else { glob };
    let (mut found, mut first) = (false, true);
    loop {
        let next = *rest.first()?;
        if next == b']' && !first {
            return Some((found != negated, &rest[1..]));
        }
        first = false;
        if let (b'[', Some(b':')) = (next, rest.get(1)) {
            let end = rest.windows(2).skip(2).position(|two| two == b":]");
            if let Some(end) = end {
                found |= is_in(&rest[2..end + 2], byte)?;
                rest = &rest[end + 4..];
                continue;
            }
        }
        let (low, after) = single(rest)?;
        match (after.first(), after.get(1)) {
            (Some(b'-'), Some(end)) if *end != b']' => {
                let (high, after) = single(&after[1..])?;
                found |= (low..=high).contains(&byte);
                rest = after;
            }
            _ => {
                found |= low == byte;
                rest = after;
            }
        }
    }
}

/// One byte of a class, which a backslash may stand before.
fn single(rest: &[u8]) -> Option<(u8, &[u8])> {
    match rest {
        [b'\\', byte, after @ ..] | [byte, after @ ..] => Some((*byte, after)),
        [] => None,
    }
}

/// Classes that have a name.
fn is_in(name: &[u8], byte: u8) -> Option<bool> {
    Some(match name {
        b"alnum" => byte.is_ascii_alphanumeric(),
        b"alpha" => byte.is_ascii_alphabetic(),
        b"blank" => matches!(byte, b' ' | b'\t'),
        b"cntrl" => byte.is_ascii_control(),
        b"digit" => byte.is_ascii_digit(),
        b"graph" => byte.is_ascii_graphic(),
        b"lower" => byte.is_ascii_lowercase(),
        b"print" => byte.is_ascii_graphic() || byte == b' ',
        b"punct" => byte.is_ascii_punctuation(),
        b"space" => byte.is_ascii_whitespace() || byte == 0x0b,
        b"upper" => byte.is_ascii_uppercase(),
        b"xdigit" => byte.is_ascii_hexdigit(),
        _ => return None,
    })
}
