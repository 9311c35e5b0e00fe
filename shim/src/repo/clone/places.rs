//! Where the objects of a repository lie: in its own folder, and wherever that says that there are more.

use std::{
    ffi::OsStr,
    fs, io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use super::{
    error::CloneError,
    origin::{Origin, is_bare},
};

/// Most folders of objects that are shared with a sandbox.
pub(crate) const MAX_SHARED: usize = 16;

/// How git begins a line that is no path (gitrepository-layout(5)).
const COMMENT: u8 = b'#';

impl Origin {
    /// Every folder of its objects, without links in their paths.
    ///
    /// An agent that works in a project's folder may name any folder there. Only what looks like the objects of a repository
    /// is taken, and whoever shares them is told which they are.
    pub fn places(&self) -> Result<Vec<PathBuf>, CloneError> {
        let own = self.objects();
        if own.canonicalize().map_err(CloneError::io("looking at the repository"))? != own {
            return Err(CloneError::NotObjects(own));
        }
        let mut places = vec![own];
        let mut next = 0;
        while let Some(place) = places.get(next).cloned() {
            next += 1;
            for other in alternates(&place).map_err(CloneError::io("reading where objects are"))? {
                // One that is not there holds nothing, which is no error for git either.
                let Ok(other) = other.canonicalize() else { continue };
                if other.file_name() != Some(OsStr::new("objects")) || !other.parent().is_some_and(is_bare) {
                    return Err(CloneError::NotObjects(other));
                }
                if !places.contains(&other) {
                    places.push(other);
                }
                if places.len() > MAX_SHARED {
                    return Err(CloneError::TooManyPlaces);
                }
            }
        }
        Ok(places)
    }
}

fn alternates(objects: &Path) -> io::Result<Vec<PathBuf>> {
    let text = match fs::read(objects.join("info/alternates")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        text => text?,
    };
    let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty() && line[0] != COMMENT);
    Ok(lines.map(|line| objects.join(OsStr::from_bytes(&unquoted(line)))).collect())
}

/// A path in quotes stands for one with bytes that lines cannot hold.
fn unquoted(line: &[u8]) -> Vec<u8> {
    let Some(quoted) = line.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")) else {
        return line.to_vec();
    };
    let mut path = Vec::new();
    let mut bytes = quoted.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        if byte != b'\\' {
            path.push(byte);
            continue;
        }
        let mut digits = 0u32;
        let mut count = 0;
        while let (Some(digit @ b'0'..=b'7'), true) = (bytes.peek().copied(), count < 3) {
            digits = digits * 8 + u32::from(digit - b'0');
            count += 1;
            bytes.next();
        }
        match (count, u8::try_from(digits)) {
            (0, _) => path.extend(bytes.next().map(|byte| match byte {
                b'n' => b'\n',
                b't' => b'\t',
                other => other,
            })),
            (_, Ok(byte)) => path.push(byte),
            (_, Err(_)) => {}
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_in_quotes() {
        assert_eq!(unquoted(b"/a b"), b"/a b");
        assert_eq!(unquoted(b"\"/a\\\"\\\\ \\012b\\n\\303\\274\""), "/a\"\\ \nb\n\u{fc}".as_bytes());
    }
}
