//! What one column of one row shows: a character, or part of one, and how it looks.

/// A colour as SGR names it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Color(u32);

impl Color {
    /// What the viewer's terminal uses when nothing was asked for.
    pub(crate) const DEFAULT: Self = Self(0);

    pub(crate) const fn indexed(index: u8) -> Self {
        Self(1 << 24 | index as u32)
    }

    pub(crate) const fn rgb(r: u8, g: u8, b: u8) -> Self {
        Self(2 << 24 | (r as u32) << 16 | (g as u32) << 8 | b as u32)
    }

    /// `Ok` is an index into the palette, `Err` red, green and blue; the default colour is neither.
    pub(crate) fn parts(self) -> Option<Result<u8, [u8; 3]>> {
        let [_, r, g, b] = self.0.to_be_bytes();
        match self.0 >> 24 {
            0 => None,
            1 => Some(Ok(b)),
            _ => Some(Err([r, g, b])),
        }
    }
}

/// How a cell looks: colours and attribute bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Style {
    pub(crate) fg: Color,
    pub(crate) bg: Color,
    pub(crate) underline: Color,
    pub(crate) attrs: u16,
}

impl Style {
    pub(crate) const BOLD: u16 = 1 << 0;
    pub(crate) const DIM: u16 = 1 << 1;
    pub(crate) const ITALIC: u16 = 1 << 2;
    pub(crate) const BLINK: u16 = 1 << 3;
    pub(crate) const INVERSE: u16 = 1 << 4;
    pub(crate) const HIDDEN: u16 = 1 << 5;
    pub(crate) const STRIKE: u16 = 1 << 6;
    pub(crate) const OVERLINE: u16 = 1 << 7;
    /// Three bits: 0 none, 1 single, 2 double, 3 curly, 4 dotted, 5 dashed.
    pub(crate) const UNDERLINE_SHIFT: u16 = 8;
    pub(crate) const UNDERLINE: u16 = 7 << Self::UNDERLINE_SHIFT;

    /// What erasing with this pen leaves behind: its background and nothing else.
    pub(crate) fn erased(self) -> Self {
        Self { bg: self.bg, ..Self::default() }
    }
}

/// Which part of a character a cell holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Part {
    #[default]
    Whole,
    /// The left half of a wide character, which holds its text.
    Head,
    /// The right half, which holds nothing.
    Tail,
}

/// One column of one row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cell {
    /// A character or the index of a cluster, and which part of it this is. Zero: never written, or
    /// erased.
    text: u32,
    pub(crate) style: Style,
}

/// Marks `Cell::text` as an index into the table of clusters. Characters end far below these bits.
const CLUSTER: u32 = 1 << 31;
const HEAD: u32 = 1 << 30;
const TAIL: u32 = 1 << 29;
const TEXT: u32 = !(CLUSTER | HEAD | TAIL);

impl Cell {
    pub(crate) fn new(c: char, style: Style) -> Self {
        Self { text: u32::from(c), style }
    }

    /// The two halves of a character two columns wide.
    pub(crate) fn wide(c: char, style: Style) -> [Self; 2] {
        [Self { text: HEAD | u32::from(c), style }, Self { text: TAIL, style }]
    }

    pub(crate) fn blank(style: Style) -> Self {
        Self { text: 0, style: style.erased() }
    }

    pub(crate) fn is_blank(self) -> bool {
        self.text == 0
    }

    /// Looks like a cell that was never written.
    pub(crate) fn is_empty(&self) -> bool {
        matches!(self.text, 0 | 0x20) && self.style == Style::default()
    }

    #[inline]
    pub(crate) fn part(self) -> Part {
        match self.text & (HEAD | TAIL) {
            0 => Part::Whole,
            HEAD => Part::Head,
            _ => Part::Tail,
        }
    }

    /// The character it shows, or the index of its cluster.
    pub(crate) fn text(self) -> Result<char, usize> {
        match self.text & TEXT {
            index if self.text & CLUSTER != 0 => Err(index as usize),
            0 => Ok(' '),
            text => Ok(char::from_u32(text).unwrap_or(' ')),
        }
    }

    /// Shows a cluster from now on; it stays as wide as it was.
    pub(crate) fn set_cluster(&mut self, index: usize) {
        let index = u32::try_from(index).unwrap_or(0) & TEXT;
        self.text = CLUSTER | (self.text & HEAD) | index;
    }
}
