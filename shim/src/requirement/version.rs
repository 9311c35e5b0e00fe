//! Versions, as programs print them.

use std::fmt;

use serde::{Serialize, Serializer};

/// A version by its first three numbers; those that are missing are 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version(pub(super) u32, pub(super) u32, pub(super) u32);

impl Version {
    /// The first word in the first line that begins with a digit.
    pub(super) fn printed(text: &str) -> Option<Version> {
        text.lines().next()?.split_whitespace().find_map(Version::parse)
    }

    /// Nix's, which stands behind a name that may have numbers in it.
    pub(super) fn of_nix(text: &str) -> Option<Version> {
        let line = text.lines().next()?;
        Version::printed(line.rsplit_once(") ").map_or(line, |(_, rest)| rest))
    }

    /// The kernel's release, such as `6.1.0-13-amd64`.
    pub(super) fn parse(word: &str) -> Option<Version> {
        if !word.starts_with(|first: char| first.is_ascii_digit()) {
            return None;
        }
        let mut numbers = word.split('.').map_while(|part| {
            let digits = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
            part[..digits].parse().ok()
        });
        let mut next = || numbers.next().unwrap_or(0);
        Some(Version(next(), next(), next()))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

impl Serialize for Version {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_programs_of_several_distributions_print() {
        for (text, expected) in [
            ("bubblewrap 0.4.1\n", (0, 4, 1)),
            ("bubblewrap 0.11.0", (0, 11, 0)),
            (
                "QEMU emulator version 7.2.13 (Debian 1:7.2+dfsg-7+deb12u7)\nCopyright (c) 2003-2022 x",
                (7, 2, 13),
            ),
            ("QEMU emulator version 9.1.2 (qemu-9.1.2-1.fc41)\n", (9, 1, 2)),
            ("QEMU emulator version 10.0.0\n", (10, 0, 0)),
            ("crun version 1.8.1\ncommit: f8a096be060b22ccd3d5f3ebe44108517fbf6c30\nspec: 1.0.0", (1, 8, 1)),
            ("crun version 0.17\ncommit: 0e9229ae34caaebcb86f1fde18de3acaf18c6d9a", (0, 17, 0)),
            ("runc version 1.1.5+ds1\ncommit: 1.1.5+ds1-1+deb12u1\nspec: 1.0.2-dev", (1, 1, 5)),
            ("runc version 1.0.0~rc93+ds1\n", (1, 0, 0)),
            ("git version 2.39.5\n", (2, 39, 5)),
            ("git version 2.39.5 (Apple Git-154)\n", (2, 39, 5)),
            ("virtiofsd 1.13.2\n", (1, 13, 2)),
            ("virtiofsd backend 1.4.0\n", (1, 4, 0)),
            (
                "virtiofsd version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)\nCopyright (c) 2003-2022 x",
                (7, 2, 22),
            ),
            ("vhost-device-vsock 0.2.0\n", (0, 2, 0)),
            ("pasta 2024_09_06.6b38f07\n", (2024, 6, 0)),
        ] {
            let (major, minor, patch) = expected;
            assert_eq!(Version::printed(text), Some(Version(major, minor, patch)), "{text}");
        }
        assert_eq!(Version::printed(""), None);
        assert_eq!(Version::printed("usage: bwrap [OPTIONS]\nversion 7"), None);
    }

    #[test]
    fn nix_and_what_calls_itself_so() {
        for (text, expected) in [
            ("nix-build (Nix) 2.8.0\n", Version(2, 8, 0)),
            ("nix-build (Nix) 2.3.7\n", Version(2, 3, 7)),
            ("nix-build (Nix) 2.4pre20210823_af94b54\n", Version(2, 4, 0)),
            ("nix-store (Nix) 2.24.9\n", Version(2, 24, 9)),
            ("nix-build (Lix, like Nix) 2.91.1\n", Version(2, 91, 1)),
            ("nix-build (Determinate Nix 3.6.2) 2.29.0\n", Version(2, 29, 0)),
        ] {
            assert_eq!(Version::of_nix(text), Some(expected), "{text}");
        }
    }

    #[test]
    fn releases_of_kernels() {
        assert_eq!(Version::parse("6.1.0-13-amd64"), Some(Version(6, 1, 0)));
        assert_eq!(Version::parse("5.10.0-28-cloud-amd64"), Some(Version(5, 10, 0)));
        assert_eq!(Version::parse("5.15.167.4-microsoft-standard-WSL2"), Some(Version(5, 15, 167)));
        assert_eq!(Version::parse("6.12-rc3"), Some(Version(6, 12, 0)));
        assert!(Version(5, 11, 0) > Version(5, 10, 250));
        assert_eq!(Version::parse("x"), None);
    }
}
