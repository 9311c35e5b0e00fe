//! Names of objects, as text that can only be one.

use std::fmt;

/// What names are made of (`extensions.objectFormat`, git-config(1)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectFormat {
    /// 40 digits.
    Sha1,
    /// 64 digits.
    Sha256,
}

impl ObjectFormat {
    /// The format of that name.
    pub fn named(name: &[u8]) -> Option<Self> {
        match name {
            b"sha1" => Some(Self::Sha1),
            b"sha256" => Some(Self::Sha256),
            _ => None,
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha1 => "sha1",
            Self::Sha256 => "sha256",
        }
    }

    /// The name in which no object has: in a change of a ref it means that there is none.
    pub fn null(self) -> String {
        "0".repeat(self.digits())
    }

    fn digits(self) -> usize {
        match self {
            Self::Sha1 => 40,
            Self::Sha256 => 64,
        }
    }
}

/// The name of an object.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectId(String);

impl ObjectId {
    /// Lowercase hexadecimal digits, as many as the format has, not all zero.
    pub fn parse(text: &[u8], format: ObjectFormat) -> Option<Self> {
        let digits = text.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let some = text.iter().any(|byte| *byte != b'0');
        let text = String::from_utf8(text.to_vec()).ok()?;
        (digits && some && text.len() == format.digits()).then_some(Self(text))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// For libgit2, which knows names of the first format alone.
    pub(crate) fn oid(&self) -> Option<git2::Oid> {
        (self.0.len() == ObjectFormat::Sha1.digits()).then(|| git2::Oid::from_str(&self.0).ok()).flatten()
    }

    /// From libgit2; the null id is none.
    pub(crate) fn of(oid: git2::Oid) -> Option<Self> {
        (!oid.is_zero()).then(|| Self(oid.to_string()))
    }

    /// Enough of it for people.
    pub fn short(&self) -> &str {
        &self.0[..10]
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.short())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_git_writes_itself_is_a_name() {
        let parse = |text: &str| ObjectId::parse(text.as_bytes(), ObjectFormat::Sha1);
        let good = "0123456789abcdef0123456789abcdef01234567";
        assert_eq!(parse(good).unwrap().as_str(), good);
        let null = ObjectFormat::Sha1.null();
        for wrong in ["", "0123", &good.to_uppercase(), &format!("{good}0"), &null, "--exec=x", "HEAD"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
