//! Select graphic rendition: the sequence that changes the pen.

use super::cell::{Color, Style};
use vte::Params;

impl Style {
    /// Applies the parameters of one sequence.
    pub(crate) fn select(&mut self, params: &Params) {
        let mut params = params.iter();
        let pen = self;
        while let Some(param) = params.next() {
            match param[0] {
                0 => *pen = Style::default(),
                1 => pen.attrs |= Style::BOLD,
                2 => pen.attrs |= Style::DIM,
                3 => pen.attrs |= Style::ITALIC,
                4 => pen.set_underline(param.get(1).copied().unwrap_or(1)),
                5 | 6 => pen.attrs |= Style::BLINK,
                7 => pen.attrs |= Style::INVERSE,
                8 => pen.attrs |= Style::HIDDEN,
                9 => pen.attrs |= Style::STRIKE,
                21 => pen.set_underline(2),
                22 => pen.attrs &= !(Style::BOLD | Style::DIM),
                23 => pen.attrs &= !Style::ITALIC,
                24 => pen.set_underline(0),
                25 => pen.attrs &= !Style::BLINK,
                27 => pen.attrs &= !Style::INVERSE,
                28 => pen.attrs &= !Style::HIDDEN,
                29 => pen.attrs &= !Style::STRIKE,
                n @ 30..=37 => pen.fg = Color::indexed(low(n - 30)),
                38 => pen.fg = color(param, &mut params).unwrap_or(pen.fg),
                39 => pen.fg = Color::DEFAULT,
                n @ 40..=47 => pen.bg = Color::indexed(low(n - 40)),
                48 => pen.bg = color(param, &mut params).unwrap_or(pen.bg),
                49 => pen.bg = Color::DEFAULT,
                53 => pen.attrs |= Style::OVERLINE,
                55 => pen.attrs &= !Style::OVERLINE,
                58 => pen.underline = color(param, &mut params).unwrap_or(pen.underline),
                59 => pen.underline = Color::DEFAULT,
                n @ 90..=97 => pen.fg = Color::indexed(low(n - 90 + 8)),
                n @ 100..=107 => pen.bg = Color::indexed(low(n - 100 + 8)),
                _ => {}
            }
        }
    }
}

impl Style {
    fn set_underline(&mut self, kind: u16) {
        if kind <= 5 {
            self.attrs = self.attrs & !Self::UNDERLINE | kind << Self::UNDERLINE_SHIFT;
        }
    }
}

fn low(n: u16) -> u8 {
    u8::try_from(n).unwrap_or(u8::MAX)
}

/// The colour after 38, 48 or 58, in its form with colons or with semicolons.
fn color<'a>(param: &[u16], rest: &mut impl Iterator<Item = &'a [u16]>) -> Option<Color> {
    let mut next = || rest.next().and_then(|param| param.first()).copied();
    let rgb = |r: u16, g: u16, b: u16| Some(Color::rgb(low(r), low(g), low(b)));
    match *param {
        [_, 5, index, ..] => Some(Color::indexed(low(index))),
        [_, 2, r, g, b] | [_, 2, _, r, g, b, ..] => rgb(r, g, b),
        [_] => match next()? {
            5 => Some(Color::indexed(low(next()?))),
            2 => rgb(next()?, next()?, next()?),
            _ => None,
        },
        _ => None,
    }
}
