//! The first bytes in each direction. This layout never changes, in any generation.
//!
//! ```text
//! shim -> init   Hello    magic 8 | generation u32 | oldest u32 | features u64 | token 32      56 bytes
//! init -> shim   Welcome  magic 8 | generation u32 | verdict u32 | features u64                24 bytes
//! ```
//! All numbers are little endian. Each side keeps the overlap of the features. The shim states the range
//! of generations it speaks; init answers with the newest that both speak.

/// What both messages begin with.
pub const MAGIC: [u8; 8] = *b"agntshim";

/// Bytes of a [`Hello`].
pub const HELLO_BYTES: usize = 56;

/// Bytes of a [`Welcome`].
pub const WELCOME_BYTES: usize = 24;

/// Bytes of the secret that opens a connection where the address alone does not prove who is calling.
pub const TOKEN_BYTES: usize = 32;

/// The protocol's versions, newest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum Generation {
    /// Status, exec, attach, events, logs, restart, signal, stop.
    First = 1,
}

impl Generation {
    /// What this build speaks best.
    pub const NEWEST: Self = Self::First;
    /// What this build still understands.
    pub const OLDEST: Self = Self::First;
}

/// Abilities that may be missing on either side. Bits are permanent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features(pub u64);

impl Features {
    /// Descriptors can travel over this connection (`SCM_RIGHTS`, unix(7)).
    pub const DESCRIPTORS: Self = Self(1);
    /// Init tells how much of a command's standard input was taken, and a client sends no more than
    /// [`INPUT_WINDOW_BYTES`](crate::message::INPUT_WINDOW_BYTES) beyond that.
    ///
    /// Without it input that no command reads fills everything between both, and what the command writes may never come out:
    /// `vhost-device-vsock` 0.3 sends nothing to a host while it has something from it that the machine has no room for.
    pub const INPUT_WINDOW: Self = Self(2);

    /// The features both sides have.
    #[must_use]
    pub fn overlap(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// What either has.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of `other` is in here.
    pub fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// A secret of [`TOKEN_BYTES`] bytes; all zero where the address alone proves who is calling.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Token(pub [u8; TOKEN_BYTES]);

impl Token {
    /// Compares in a time that does not depend on where the first difference is.
    pub fn matches(&self, other: &Self) -> bool {
        self.0.iter().zip(other.0).fold(0, |acc, (a, b)| acc | (a ^ b)) == 0
    }
}

impl std::fmt::Debug for Token {
    /// Never shows the secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(..)")
    }
}

/// What the shim opens a connection with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The newest generation that the shim speaks.
    pub newest: u32,
    /// The oldest generation that the shim speaks.
    pub oldest: u32,
    /// What the shim can do.
    pub features: Features,
    /// Proves who is calling.
    pub token: Token,
}

/// Whether init goes on with this connection. Numbers are permanent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Verdict {
    /// A request may follow.
    Welcome = 0,
    /// The token is wrong; init closes the connection.
    Denied = 1,
    /// No generation in common; init closes the connection.
    NoCommonGeneration = 2,
    /// Too many connections are open; init closes this one.
    Busy = 3,
}

/// What init answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// The generation both speak from here on; init's newest where there is none in common.
    pub generation: u32,
    /// Whether init goes on.
    pub verdict: Verdict,
    /// What init can do.
    pub features: Features,
}

/// Why bytes are not a handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// Whoever is there is not one of us.
    #[error("the peer does not speak the agent-shim protocol")]
    Magic,
    /// A verdict that no generation knows.
    #[error("unknown handshake verdict {0}")]
    Verdict(u32),
}

impl Hello {
    /// The greeting of this build.
    pub fn new(features: Features, token: Token) -> Self {
        Self { newest: Generation::NEWEST as u32, oldest: Generation::OLDEST as u32, features, token }
    }

    /// The 56 bytes of the greeting.
    pub fn encode(&self) -> [u8; HELLO_BYTES] {
        let mut out = [0; HELLO_BYTES];
        out[..8].copy_from_slice(&MAGIC);
        out[8..12].copy_from_slice(&self.newest.to_le_bytes());
        out[12..16].copy_from_slice(&self.oldest.to_le_bytes());
        out[16..24].copy_from_slice(&self.features.0.to_le_bytes());
        out[24..].copy_from_slice(&self.token.0);
        out
    }

    /// Reads a greeting.
    pub fn decode(bytes: &[u8; HELLO_BYTES]) -> Result<Self, HandshakeError> {
        let mut fields = Fields(bytes);
        fields.magic()?;
        Ok(Self {
            newest: fields.u32(),
            oldest: fields.u32(),
            features: Features(fields.u64()),
            token: Token(fields.take()),
        })
    }
}

impl Welcome {
    /// Decides about a greeting: the token first, so that a stranger learns nothing else.
    pub fn answer(hello: &Hello, token: &Token, features: Features) -> Self {
        let newest = Generation::NEWEST as u32;
        let generation = newest.min(hello.newest);
        let verdict = if !token.matches(&hello.token) {
            Verdict::Denied
        } else if generation < (Generation::OLDEST as u32).max(hello.oldest) {
            Verdict::NoCommonGeneration
        } else {
            Verdict::Welcome
        };
        match verdict {
            Verdict::Welcome => Self { generation, verdict, features },
            _ => Self { generation: newest, verdict, features: Features::default() },
        }
    }

    /// The 24 bytes of the answer.
    pub fn encode(&self) -> [u8; WELCOME_BYTES] {
        let mut out = [0; WELCOME_BYTES];
        out[..8].copy_from_slice(&MAGIC);
        out[8..12].copy_from_slice(&self.generation.to_le_bytes());
        out[12..16].copy_from_slice(&(self.verdict as u32).to_le_bytes());
        out[16..].copy_from_slice(&self.features.0.to_le_bytes());
        out
    }

    /// Reads an answer.
    pub fn decode(bytes: &[u8; WELCOME_BYTES]) -> Result<Self, HandshakeError> {
        let mut fields = Fields(bytes);
        fields.magic()?;
        Ok(Self {
            generation: fields.u32(),
            verdict: match fields.u32() {
                0 => Verdict::Welcome,
                1 => Verdict::Denied,
                2 => Verdict::NoCommonGeneration,
                3 => Verdict::Busy,
                other => return Err(HandshakeError::Verdict(other)),
            },
            features: Features(fields.u64()),
        })
    }
}

/// Reads fixed fields off the front; the callers' array lengths say that there are enough bytes.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (field, rest) = self.0.split_first_chunk().unwrap_or((&[0; N], &[]));
        self.0 = rest;
        *field
    }

    fn magic(&mut self) -> Result<(), HandshakeError> {
        if self.take() == MAGIC { Ok(()) } else { Err(HandshakeError::Magic) }
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: Token = Token([9; TOKEN_BYTES]);

    #[test]
    fn hello_bytes_are_frozen() {
        let bytes = Hello::new(Features::DESCRIPTORS, Token([0xab; TOKEN_BYTES])).encode();
        let mut expected = b"agntshim\x01\0\0\0\x01\0\0\0\x01\0\0\0\0\0\0\0".to_vec();
        expected.extend([0xab; TOKEN_BYTES]);
        assert_eq!(bytes[..], expected[..]);
        assert_eq!(Hello::decode(&bytes).unwrap().token, Token([0xab; TOKEN_BYTES]));
    }

    #[test]
    fn welcome_bytes_are_frozen() {
        let welcome = Welcome { generation: 1, verdict: Verdict::Busy, features: Features::DESCRIPTORS };
        let bytes = welcome.encode();
        assert_eq!(bytes[..], b"agntshim\x01\0\0\0\x03\0\0\0\x01\0\0\0\0\0\0\0"[..]);
        assert_eq!(Welcome::decode(&bytes), Ok(welcome));
    }

    #[test]
    fn a_stranger_is_told_so() {
        assert_eq!(Hello::decode(&[0; HELLO_BYTES]), Err(HandshakeError::Magic));
        let mut bytes = Welcome { generation: 1, verdict: Verdict::Welcome, features: Features(0) }.encode();
        bytes[12] = 4;
        assert_eq!(Welcome::decode(&bytes), Err(HandshakeError::Verdict(4)));
    }

    #[test]
    fn a_wrong_token_learns_nothing() {
        let answer =
            Welcome::answer(&Hello::new(Features(0), Token::default()), &SECRET, Features::DESCRIPTORS);
        assert_eq!(answer.verdict, Verdict::Denied);
        assert_eq!(answer.features, Features::default());
    }

    #[test]
    fn generations_meet_at_the_newest_common_one() {
        let verdict = |oldest, newest| {
            let hello = Hello { newest, oldest, features: Features(0), token: SECRET };
            Welcome::answer(&hello, &SECRET, Features(0)).verdict
        };
        assert_eq!(verdict(1, 1), Verdict::Welcome);
        assert_eq!(verdict(1, 7), Verdict::Welcome);
        assert_eq!(verdict(2, 7), Verdict::NoCommonGeneration);
        assert_eq!(verdict(0, 0), Verdict::NoCommonGeneration);
    }
}
