//! Where text goes and what becomes of it there.

use super::cell::Style;

/// Where text goes and how it looks: what DECSC saves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cursor {
    pub(crate) x: u16,
    pub(crate) y: u16,
    /// The last column was written; the next character goes to the next row first.
    pub(crate) pending_wrap: bool,
    pub(crate) pen: Style,
    /// G0 and G1.
    pub(crate) charsets: [Charset; 2],
    /// Which of them is in use: SO selects G1, SI G0.
    pub(crate) shifted: bool,
    /// Positions count from the scroll region's top and stay inside it.
    pub(crate) origin: bool,
}

/// What a designation makes of ASCII.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Charset {
    #[default]
    Ascii,
    /// DEC special graphics: lines and corners.
    Drawing,
    /// The number sign is a pound sign.
    British,
}

impl Cursor {
    pub(super) fn charset(&self) -> Charset {
        self.charsets[usize::from(self.shifted)]
    }
}

impl Charset {
    pub(super) fn named(byte: u8) -> Self {
        match byte {
            b'0' | b'2' => Self::Drawing,
            b'A' => Self::British,
            _ => Self::Ascii,
        }
    }

    /// The byte that names it in a designation.
    pub(crate) fn name(self) -> char {
        match self {
            Self::Ascii => 'B',
            Self::Drawing => '0',
            Self::British => 'A',
        }
    }

    #[inline]
    pub(super) fn translate(self, c: char) -> char {
        /// From the back quote to the tilde.
        const DRAWING: [char; 31] = [
            '◆', '▒', '␉', '␌', '␍', '␊', '°', '±', '␤', '␋', '┘', '┐', '┌', '└', '┼', '⎺', '⎻', '─', '⎼',
            '⎽', '├', '┤', '┴', '┬', '│', '≤', '≥', 'π', '≠', '£', '·',
        ];
        match (self, c) {
            (Self::Drawing, '`'..='~') => DRAWING[c as usize - '`' as usize],
            (Self::British, '#') => '£',
            _ => c,
        }
    }
}
