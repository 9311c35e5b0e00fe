//! What a terminal does with what a program writes: text, cursor, margins, screens.
//!
//! It follows xterm where terminals differ. Nothing in here does I/O or knows a viewer.

use super::grid::{Cell, Color, Grid, Style};
use super::modes::{Keyboard, Modes};
use std::mem;
use unicode_width::UnicodeWidthChar;
use vte::Params;

/// The whole state of a terminal, both screens included.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    pub(crate) cols: u16,
    pub(crate) rows: u16,
    /// The screen shown.
    pub(crate) grid: Grid,
    pub(crate) cursor: Cursor,
    /// What DECSC saved on the screen shown.
    pub(crate) saved: Option<Cursor>,
    pub(crate) keyboard: Keyboard,
    /// The primary screen while the alternate one is shown.
    pub(crate) under: Option<Box<Under>>,
    /// First and last row of the scroll region.
    pub(crate) margins: (u16, u16),
    pub(crate) tabs: Vec<bool>,
    pub(crate) autowrap: bool,
    pub(crate) insert: bool,
    /// A line feed also returns.
    pub(crate) newline: bool,
    pub(crate) visible: bool,
    pub(crate) modes: Modes,
    pub(crate) clusters: Clusters,
    pub(crate) replies: Vec<u8>,
    /// The character that REP repeats, while it is the last thing that came.
    last: Option<char>,
    /// The sequence that began last has ended: what follows is text.
    pub(crate) ended: bool,
}

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

/// The primary screen, out of sight.
#[derive(Clone, Debug)]
pub(crate) struct Under {
    pub(crate) grid: Grid,
    pub(crate) saved: Option<Cursor>,
    pub(crate) keyboard: Keyboard,
    /// Where the program goes on when it leaves; `None` where the cursor is shared (1047, 47).
    pub(crate) back: Option<Cursor>,
}

/// How much of what a program asked may wait for an answer to be fetched.
const REPLY_BYTES: usize = 1024;

impl Model {
    pub(crate) fn new(cols: u16, rows: u16) -> Self {
        Self {
            cols,
            rows,
            grid: Grid::new(cols, rows),
            cursor: Cursor::default(),
            saved: None,
            keyboard: Keyboard::default(),
            under: None,
            margins: (0, rows - 1),
            tabs: (0..cols).map(default_tab).collect(),
            autowrap: true,
            insert: false,
            newline: false,
            visible: true,
            modes: Modes::default(),
            clusters: Clusters::default(),
            replies: Vec::new(),
            last: None,
            ended: true,
        }
    }

    /// The primary screen's text breaks anew; the alternate one's owner repaints it.
    pub(crate) fn resize(&mut self, cols: u16, rows: u16) {
        let at = (self.cursor.x, self.cursor.y);
        let pending = self.cursor.pending_wrap && cols == self.cols;
        let place = |cursor: &mut Cursor, (x, y): (u16, u16)| (cursor.x, cursor.y) = (x, y);
        if let Some(under) = &mut self.under {
            let back = under.back.unwrap_or_default();
            let back = under.grid.reflow(cols, rows, (back.x, back.y));
            if let Some(cursor) = &mut under.back {
                place(cursor, back);
                cursor.pending_wrap &= cols == self.cols;
            }
            let at = self.grid.resize(cols, rows, at);
            place(&mut self.cursor, at);
        } else {
            let at = self.grid.reflow(cols, rows, at);
            place(&mut self.cursor, at);
        }
        self.cursor.pending_wrap = pending;
        let saved = [Some(&mut self.saved), self.under.as_mut().map(|under| &mut under.saved)];
        for cursor in saved.into_iter().flatten().flatten() {
            place(cursor, (cursor.x.min(cols - 1), cursor.y.min(rows - 1)));
            cursor.pending_wrap &= cols == self.cols;
        }
        let known = u16::try_from(self.tabs.len()).unwrap_or(u16::MAX);
        self.tabs.truncate(usize::from(cols));
        self.tabs.extend((known..cols).map(default_tab));
        (self.cols, self.rows) = (cols, rows);
        self.margins = (0, rows - 1);
    }
}

fn default_tab(column: u16) -> bool {
    column > 0 && column.is_multiple_of(8)
}

/// Text.
impl Model {
    #[inline]
    fn put_char(&mut self, c: char) {
        if c.is_ascii() {
            if c == '\x7f' {
                return;
            }
            let c = self.cursor.charset().translate(c);
            self.last = Some(c);
            self.put_narrow(c);
        } else {
            self.put_unicode(c);
        }
    }

    #[inline]
    fn put_narrow(&mut self, c: char) {
        if self.cursor.pending_wrap {
            self.wrap();
        }
        let Cursor { x, y, pen, .. } = self.cursor;
        if self.insert {
            self.grid.insert_cells(x, y, 1, pen);
        }
        self.grid.put(x, y, Cell::new(c, pen));
        self.advance(1);
    }

    fn put_unicode(&mut self, c: char) {
        match c.width() {
            None => {}
            Some(0) => self.combine(c),
            Some(1) => {
                self.last = Some(c);
                self.put_narrow(c);
            }
            Some(_) => {
                self.last = Some(c);
                self.put_wide(c);
            }
        }
    }

    fn put_wide(&mut self, c: char) {
        if self.cols < 2 {
            return;
        }
        if self.cursor.pending_wrap {
            self.wrap();
        }
        if self.cursor.x + 2 > self.cols {
            if !self.autowrap {
                return;
            }
            let Cursor { x, y, pen, .. } = self.cursor;
            self.grid.erase(y, x, self.cols, Style { bg: Color::DEFAULT, ..pen });
            self.wrap();
        }
        let Cursor { x, y, pen, .. } = self.cursor;
        if self.insert {
            self.grid.insert_cells(x, y, 2, pen);
        }
        self.grid.put_wide(x, y, c, pen);
        self.advance(2);
    }

    /// Adds a mark to the character before the cursor.
    fn combine(&mut self, mark: char) {
        let Cursor { x, y, pending_wrap, .. } = self.cursor;
        let Some(x) = (if pending_wrap { Some(x) } else { x.checked_sub(1) }) else { return };
        if self.clusters.is_full() {
            let grids = [Some(&mut self.grid), self.under.as_mut().map(|under| &mut under.grid)];
            self.clusters.sweep(grids.into_iter().flatten());
        }
        self.clusters.add(self.grid.text_cell(x, y), mark);
    }

    #[inline]
    fn advance(&mut self, n: u16) {
        if self.cursor.x + n < self.cols {
            self.cursor.x += n;
        } else {
            self.cursor.x = self.cols - 1;
            self.cursor.pending_wrap = self.autowrap;
        }
    }

    fn wrap(&mut self) {
        self.grid.line_mut(self.cursor.y).wrapped = true;
        self.cursor.x = 0;
        self.index();
    }
}

/// Movement.
impl Model {
    /// Down one row; at the region's bottom the region scrolls instead.
    fn index(&mut self) {
        self.cursor.pending_wrap = false;
        let (top, bottom) = self.margins;
        if self.cursor.y == bottom {
            self.grid.scroll_up(top, bottom, 1, self.cursor.pen);
        } else if self.cursor.y + 1 < self.rows {
            self.cursor.y += 1;
        }
    }

    fn reverse_index(&mut self) {
        self.cursor.pending_wrap = false;
        let (top, bottom) = self.margins;
        if self.cursor.y == top {
            self.grid.scroll_down(top, bottom, 1, self.cursor.pen);
        } else {
            self.cursor.y = self.cursor.y.saturating_sub(1);
        }
    }

    fn line_feed(&mut self) {
        if self.newline {
            self.cursor.x = 0;
        }
        self.index();
    }

    /// To an absolute column; past the edge is the edge.
    fn to_column(&mut self, x: u16) {
        self.cursor.x = x.min(self.cols - 1);
        self.cursor.pending_wrap = false;
    }

    /// To a row, counted from the region's top if origin mode says so.
    fn to_row(&mut self, y: u16) {
        let (top, bottom) = if self.cursor.origin { self.margins } else { (0, self.rows - 1) };
        self.cursor.y = top.saturating_add(y).min(bottom);
        self.cursor.pending_wrap = false;
    }

    fn up(&mut self, n: u16) {
        let limit = if self.cursor.y >= self.margins.0 { self.margins.0 } else { 0 };
        self.cursor.y = self.cursor.y.saturating_sub(n).max(limit);
        self.cursor.pending_wrap = false;
    }

    fn down(&mut self, n: u16) {
        let limit = if self.cursor.y <= self.margins.1 { self.margins.1 } else { self.rows - 1 };
        self.cursor.y = self.cursor.y.saturating_add(n).min(limit);
        self.cursor.pending_wrap = false;
    }

    fn tab(&mut self, n: u16) {
        for _ in 0..n.min(self.cols) {
            let next = (self.cursor.x + 1..self.cols).find(|x| self.tabs[usize::from(*x)]);
            self.cursor.x = next.unwrap_or(self.cols - 1);
        }
    }

    fn back_tab(&mut self, n: u16) {
        for _ in 0..n.min(self.cols) {
            let next = (0..self.cursor.x).rev().find(|x| self.tabs[usize::from(*x)]);
            self.to_column(next.unwrap_or(0));
        }
    }

    fn restore_cursor(&mut self, saved: Option<Cursor>) {
        let saved = saved.unwrap_or_default();
        self.cursor = Cursor { x: saved.x.min(self.cols - 1), y: saved.y.min(self.rows - 1), ..saved };
        if saved.origin {
            self.cursor.y = self.cursor.y.clamp(self.margins.0, self.margins.1);
        }
    }

    /// Shows the alternate screen, blank; `save` is 1049, which remembers the cursor.
    fn enter_alternate(&mut self, save: bool) {
        if self.under.is_some() {
            return;
        }
        self.under = Some(Box::new(Under {
            grid: mem::replace(&mut self.grid, Grid::new(self.cols, self.rows)),
            saved: self.saved.take(),
            keyboard: mem::take(&mut self.keyboard),
            back: save.then_some(self.cursor),
        }));
    }

    fn leave_alternate(&mut self, restore: bool) {
        let Some(under) = self.under.take() else { return };
        let under = *under;
        self.grid = under.grid;
        self.keyboard = under.keyboard;
        // Entering by 1049 saved the cursor as DECSC does, over what was saved before.
        self.saved = under.back.or(under.saved);
        if restore {
            self.restore_cursor(self.saved);
        }
    }

    fn reset(&mut self) {
        let replies = mem::take(&mut self.replies);
        *self = Self { replies, ..Self::new(self.cols, self.rows) };
    }

    fn soft_reset(&mut self) {
        let Cursor { x, y, .. } = self.cursor;
        self.cursor = Cursor { x, y, ..Cursor::default() };
        self.saved = None;
        self.margins = (0, self.rows - 1);
        (self.autowrap, self.insert, self.visible) = (true, false, true);
        self.modes.soft_reset();
    }
}

/// Control sequences.
impl Model {
    fn control(&mut self, final_byte: char, params: &Params) {
        let n = |at: usize| params.iter().nth(at).and_then(|p| p.first()).copied().unwrap_or(0);
        let count = n(0).max(1);
        let Cursor { x, y, pen, .. } = self.cursor;
        let (top, bottom) = self.margins;
        let in_region = (top..=bottom).contains(&y);
        match final_byte {
            '@' => self.grid.insert_cells(x, y, count, pen),
            'A' => self.up(count),
            'B' | 'e' => self.down(count),
            'C' | 'a' => self.to_column(x.saturating_add(count)),
            'D' => self.to_column(x.saturating_sub(count)),
            'E' => {
                self.down(count);
                self.to_column(0);
            }
            'F' => {
                self.up(count);
                self.to_column(0);
            }
            'G' | '`' => self.to_column(count - 1),
            'H' | 'f' => {
                self.to_row(count - 1);
                self.to_column(n(1).max(1) - 1);
            }
            'I' => self.tab(count),
            'J' => self.erase_display(n(0)),
            'K' => self.erase_line(n(0)),
            'L' if in_region => self.grid.scroll_down(y, bottom, count, pen),
            'M' if in_region => self.grid.scroll_up(y, bottom, count, pen),
            'P' => self.grid.delete_cells(x, y, count, pen),
            'S' => self.grid.scroll_up(top, bottom, count, pen),
            'T' => self.grid.scroll_down(top, bottom, count, pen),
            'X' => self.grid.erase(y, x, x.saturating_add(count).min(self.cols), pen),
            'Z' => self.back_tab(count),
            'c' if n(0) == 0 => self.reply(b"\x1b[?62;22c"),
            'd' => self.to_row(count - 1),
            'g' => match n(0) {
                0 => self.tabs[usize::from(x)] = false,
                3 => self.tabs.fill(false),
                _ => {}
            },
            'h' => self.set_ansi(params, true),
            'l' => self.set_ansi(params, false),
            'm' => self.select_graphics(params),
            'n' => self.report(n(0), ""),
            'r' => self.set_margins(n(0), n(1)),
            's' => self.saved = Some(self.cursor),
            'u' => self.restore_cursor(self.saved),
            _ => {}
        }
    }

    fn private_control(&mut self, marker: u8, final_byte: char, params: &Params) {
        let n = |at: usize| params.iter().nth(at).and_then(|p| p.first()).copied().unwrap_or(0);
        match (marker, final_byte) {
            (b'?', 'h') => params.iter().flatten().for_each(|mode| self.set_private(*mode, true)),
            (b'?', 'l') => params.iter().flatten().for_each(|mode| self.set_private(*mode, false)),
            (b'?', 'J') => self.erase_display(n(0)),
            (b'?', 'K') => self.erase_line(n(0)),
            (b'?', 'n') => self.report(n(0), "?"),
            (b'>', 'c') if n(0) == 0 => self.reply(b"\x1b[>1;10;0c"),
            (b'>', 'q') if n(0) == 0 => {
                self.reply(concat!("\x1bP>|agent-init(", env!("CARGO_PKG_VERSION"), ")\x1b\\").as_bytes());
            }
            (b'>', 'm') if n(0) == 4 => self.modes.set_other_keys(n(1)),
            (b'>', 'u') => self.keyboard.push(n(0)),
            (b'<', 'u') => self.keyboard.pop(n(0).max(1)),
            (b'=', 'u') => self.keyboard.change(n(0), n(1)),
            (b' ', 'q') => self.modes.set_cursor_shape(n(0)),
            (b'!', 'p') => self.soft_reset(),
            _ => {}
        }
    }

    fn set_ansi(&mut self, params: &Params, on: bool) {
        for mode in params.iter().flatten() {
            match mode {
                4 => self.insert = on,
                20 => self.newline = on,
                _ => {}
            }
        }
    }

    fn set_private(&mut self, mode: u16, on: bool) {
        match mode {
            6 => {
                self.cursor.origin = on;
                self.to_row(0);
                self.to_column(0);
            }
            7 => {
                self.autowrap = on;
                self.cursor.pending_wrap &= on;
            }
            25 => self.visible = on,
            47 | 1047 | 1049 if on => self.enter_alternate(mode == 1049),
            47 | 1047 | 1049 => self.leave_alternate(mode == 1049),
            1048 if on => self.saved = Some(self.cursor),
            1048 => self.restore_cursor(self.saved),
            _ => self.modes.set_private(mode, on),
        }
    }

    fn set_margins(&mut self, top: u16, bottom: u16) {
        let top = top.max(1) - 1;
        let bottom = if bottom == 0 { self.rows } else { bottom.min(self.rows) } - 1;
        if top < bottom || self.rows == 1 {
            self.margins = (top.min(bottom), bottom);
            self.to_row(0);
            self.to_column(0);
        }
    }

    fn erase_display(&mut self, part: u16) {
        let Cursor { x, y, pen, .. } = self.cursor;
        match part {
            0 => {
                self.grid.erase(y, x, self.cols, pen);
                self.grid.erase_lines(y + 1..self.rows, pen);
            }
            1 => {
                self.grid.erase_lines(0..y, pen);
                self.grid.erase(y, 0, x + 1, pen);
            }
            2 => self.grid.erase_lines(0..self.rows, pen),
            _ => {}
        }
    }

    fn erase_line(&mut self, part: u16) {
        let Cursor { x, y, pen, .. } = self.cursor;
        match part {
            0 => self.grid.erase(y, x, self.cols, pen),
            1 => self.grid.erase(y, 0, x + 1, pen),
            2 => self.grid.erase(y, 0, self.cols, pen),
            _ => {}
        }
    }

    fn repeat(&mut self, n: u16, c: char) {
        for _ in 0..n.max(1).min(self.cols - self.cursor.x) {
            if c.is_ascii() { self.put_narrow(c) } else { self.put_unicode(c) }
        }
    }

    fn select_graphics(&mut self, params: &Params) {
        let mut params = params.iter();
        let pen = &mut self.cursor.pen;
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

    fn report(&mut self, what: u16, marker: &str) {
        match what {
            5 if marker.is_empty() => self.reply(b"\x1b[0n"),
            6 => {
                let top = if self.cursor.origin { self.margins.0 } else { 0 };
                let (row, col) = (self.cursor.y.saturating_sub(top) + 1, self.cursor.x + 1);
                self.reply(format!("\x1b[{marker}{row};{col}R").as_bytes());
            }
            _ => {}
        }
    }

    /// Keeps an answer until it is fetched; one more than fits is dropped, as a full pipe would.
    fn reply(&mut self, answer: &[u8]) {
        if self.replies.len() + answer.len() <= REPLY_BYTES {
            self.replies.extend_from_slice(answer);
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

impl vte::Perform for Model {
    #[inline]
    fn print(&mut self, c: char) {
        self.ended = true;
        self.put_char(c);
    }

    fn execute(&mut self, byte: u8) {
        self.last = None;
        match byte {
            0x08 => self.to_column(self.cursor.x.saturating_sub(1)),
            0x09 => self.tab(1),
            0x0a..=0x0c => self.line_feed(),
            0x0d => self.to_column(0),
            0x0e => self.cursor.shifted = true,
            0x0f => self.cursor.shifted = false,
            // These two abandon a sequence.
            0x18 | 0x1a => self.ended = true,
            _ => {}
        }
    }

    fn csi_dispatch(&mut self, params: &Params, intermediates: &[u8], ignore: bool, action: char) {
        self.ended = true;
        let last = self.last.take();
        match intermediates {
            _ if ignore => {}
            [] if action == 'b' => {
                if let Some(c) = last {
                    self.repeat(params.iter().next().map_or(1, |param| param[0]), c);
                }
            }
            [] => self.control(action, params),
            [marker] => self.private_control(*marker, action, params),
            _ => {}
        }
    }

    fn esc_dispatch(&mut self, intermediates: &[u8], ignore: bool, byte: u8) {
        self.ended = true;
        self.last = None;
        match (intermediates, byte) {
            _ if ignore => {}
            ([], b'7') => self.saved = Some(self.cursor),
            ([], b'8') => self.restore_cursor(self.saved),
            ([], b'D') => self.index(),
            ([], b'E') => {
                self.cursor.x = 0;
                self.index();
            }
            ([], b'H') => self.tabs[usize::from(self.cursor.x)] = true,
            ([], b'M') => self.reverse_index(),
            ([], b'Z') => self.reply(b"\x1b[?62;22c"),
            ([], b'c') => self.reset(),
            ([], b'=') => self.modes.set_private(66, true),
            ([], b'>') => self.modes.set_private(66, false),
            ([b'('], set) => self.cursor.charsets[0] = Charset::named(set),
            ([b')'], set) => self.cursor.charsets[1] = Charset::named(set),
            ([b'#'], b'8') => {
                self.margins = (0, self.rows - 1);
                self.grid.fill(Cell::new('E', Style::default()));
                self.to_row(0);
                self.to_column(0);
            }
            _ => {}
        }
    }

    fn osc_dispatch(&mut self, params: &[&[u8]], _bell_terminated: bool) {
        self.ended = true;
        self.last = None;
        if let [b"0" | b"2", title @ ..] = params
            && !title.is_empty()
        {
            self.modes.set_title(title);
        }
    }

    fn unhook(&mut self) {
        self.ended = true;
    }
}

impl Cursor {
    fn charset(&self) -> Charset {
        self.charsets[usize::from(self.shifted)]
    }
}

impl Charset {
    fn named(byte: u8) -> Self {
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
    fn translate(self, c: char) -> char {
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

/// Characters with combining marks, which do not fit into a cell.
///
/// Each belongs to one cell. What cells no longer hold is swept out once there are twice as many
/// as at the last sweep, so there are never more than cells on both screens, and half as many again.
#[derive(Clone, Debug, Default)]
pub(crate) struct Clusters {
    table: Vec<Cluster>,
    sweep_at: usize,
}

/// A character and the marks on it; those past the fifth are dropped.
pub(crate) type Cluster = [char; 6];

/// Fills the places of marks that are not there.
const NO_MARK: char = '\0';

/// With fewer than this a sweep is not worth its while.
const FIRST_SWEEP: usize = 64;

impl Clusters {
    /// The characters of one, in the order they came.
    pub(crate) fn chars(&self, index: usize) -> impl Iterator<Item = char> {
        self.table.get(index).into_iter().flatten().copied().take_while(|c| *c != NO_MARK)
    }

    fn is_full(&self) -> bool {
        self.table.len() >= self.sweep_at.max(FIRST_SWEEP)
    }

    fn add(&mut self, cell: &mut Cell, mark: char) {
        match cell.text() {
            Ok(base) => {
                cell.set_cluster(self.table.len());
                self.table.push([base, mark, NO_MARK, NO_MARK, NO_MARK, NO_MARK]);
            }
            Err(index) => {
                let cluster = self.table.get_mut(index).into_iter().flatten();
                if let Some(free) = cluster.into_iter().find(|c| **c == NO_MARK) {
                    *free = mark;
                }
            }
        }
    }

    fn sweep<'a>(&mut self, grids: impl Iterator<Item = &'a mut Grid>) {
        let old = mem::take(&mut self.table);
        let cells = grids.flat_map(super::grid::Grid::lines_mut).flat_map(super::grid::Line::cells_mut);
        for cell in cells {
            if let Err(index) = cell.text()
                && let Some(cluster) = old.get(index)
            {
                cell.set_cluster(self.table.len());
                self.table.push(*cluster);
            }
        }
        self.sweep_at = self.table.len() * 2;
    }
}
