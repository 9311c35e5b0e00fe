//! Signals by name: numbers mean nothing to the person who reads a spec.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A Linux signal, written `SIGTERM` in JSON; `TERM` and `15` are understood too.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Signal(u8);

/// The numbers of x86, Arm and RISC-V.
const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
    "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
    "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

/// What `SIGRTMIN` is to programs of the GNU C library; 32 and 33 belong to its threads.
const RTMIN: u8 = 34;
const MAX: u8 = 64;

impl Signal {
    /// Hang up.
    pub const HUP: Self = Self(1);
    /// Abort.
    pub const ABRT: Self = Self(6);
    /// Kill.
    pub const KILL: Self = Self(9);
    /// Terminate.
    pub const TERM: Self = Self(15);
    /// Continue.
    pub const CONT: Self = Self(18);

    /// The signal of that number, if there is one.
    #[must_use]
    pub fn from_number(number: i32) -> Option<Self> {
        u8::try_from(number).ok().filter(|n| (1..=MAX).contains(n)).map(Self)
    }

    /// Its number.
    #[must_use]
    pub fn number(self) -> i32 {
        i32::from(self.0)
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            n if usize::from(n) <= NAMES.len() => write!(f, "SIG{}", NAMES[usize::from(n) - 1]),
            n if n >= RTMIN => write!(f, "SIGRTMIN+{}", n - RTMIN),
            n => write!(f, "{n}"),
        }
    }
}

impl fmt::Debug for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Signal {
    type Err = UnknownSignal;

    fn from_str(text: &str) -> Result<Self, UnknownSignal> {
        let unknown = || UnknownSignal(text.chars().take(32).collect());
        if let Ok(number) = text.parse() {
            return Self::from_number(number).ok_or_else(unknown);
        }
        let name = text.strip_prefix("SIG").unwrap_or(text);
        if let Some(offset) = name.strip_prefix("RTMIN") {
            let offset = match offset.strip_prefix('+') {
                Some(digits) => digits.parse::<u8>().map_err(|_| unknown())?,
                None if offset.is_empty() => 0,
                None => return Err(unknown()),
            };
            return Self::from_number(i32::from(RTMIN) + i32::from(offset)).ok_or_else(unknown);
        }
        let index = NAMES.iter().position(|known| *known == name).ok_or_else(unknown)?;
        Self::from_number(i32::try_from(index + 1).expect("a short table")).ok_or_else(unknown)
    }
}

/// No signal has that name.
#[derive(Debug, thiserror::Error)]
#[error("unknown signal `{0}`")]
pub struct UnknownSignal(String);

impl From<Signal> for String {
    fn from(signal: Signal) -> Self {
        signal.to_string()
    }
}

impl TryFrom<String> for Signal {
    type Error = UnknownSignal;

    fn try_from(text: String) -> Result<Self, UnknownSignal> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_signal_survives_its_name() {
        for number in 1..=i32::from(MAX) {
            let signal = Signal::from_number(number).unwrap();
            assert_eq!(signal.to_string().parse::<Signal>().unwrap(), signal, "{signal}");
        }
    }

    #[test]
    fn names_with_and_without_prefix_and_numbers_are_understood() {
        for text in ["SIGTERM", "TERM", "15"] {
            assert_eq!(text.parse::<Signal>().unwrap(), Signal::TERM);
        }
        assert_eq!("SIGRTMIN+3".parse::<Signal>().unwrap().number(), 37);
        assert_eq!("RTMIN".parse::<Signal>().unwrap().number(), 34);
    }

    #[test]
    fn nonsense_is_refused() {
        for text in
            ["", "0", "65", "-1", "SIG", "SIGNOPE", "sigterm", "RTMIN+31", "RTMIN+", "RTMIN3", "RTMIN+300"]
        {
            assert!(text.parse::<Signal>().is_err(), "{text}");
        }
    }
}
