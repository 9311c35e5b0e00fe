//! What a terminal does with what a program writes: text, cursor, margins, screens.
//!
//! Where terminals differ it does what tmux and alacritty agree on, else what xterm documents. Nothing in here does I/O or knows a viewer.

use super::cell::{Cell, Color, Part, Style};
use super::clusters::Clusters;
use super::cursor::Cursor;
use super::grid::Grid;
use super::modes::{Keyboard, Modes};
use std::mem;
use unicode_width::UnicodeWidthChar;

/// The whole state of a terminal, both screens included.
#[derive(Clone, Debug)]
#[allow(clippy::struct_excessive_bools, reason = "each is a mode that programs switch by itself")]
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
    pub(super) last: Option<char>,
    /// The sequence that began last has ended: what follows is text.
    pub(crate) ended: bool,
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

impl Model {
    /// The rows shown, without styles and without the blanks at their ends.
    pub(crate) fn text(&self) -> Vec<String> {
        let mut rows = Vec::with_capacity(usize::from(self.rows));
        for line in self.grid.lines() {
            let mut row = String::new();
            for cell in (0..self.cols).map(|x| line.get(x)).filter(|cell| cell.part() != Part::Tail) {
                match cell.text() {
                    Ok(c) => row.push(c),
                    Err(index) => row.extend(self.clusters.chars(index)),
                }
            }
            row.truncate(row.trim_end_matches(' ').len());
            rows.push(row);
        }
        rows
    }
}

/// Text.
impl Model {
    #[inline]
    pub(super) fn put_char(&mut self, c: char) {
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
    pub(super) fn put_narrow(&mut self, c: char) {
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

    pub(super) fn put_unicode(&mut self, c: char) {
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
        // Below the scroll region the last row is written over and over.
        let stuck = self.cursor.y == self.rows - 1 && self.cursor.y != self.margins.1;
        self.grid.line_mut(self.cursor.y).wrapped = !stuck;
        self.go_to_column(0);
        self.index();
    }
}

/// Movement.
impl Model {
    /// Down one row; at the region's bottom the region scrolls instead.
    ///
    /// A wrap stays pending, as in tmux and alacritty.
    pub(super) fn index(&mut self) {
        let (top, bottom) = self.margins;
        if self.cursor.y == bottom {
            self.grid.scroll_up(top, bottom, 1, self.cursor.pen);
        } else if self.cursor.y + 1 < self.rows {
            self.cursor.y += 1;
        }
    }

    pub(super) fn reverse_index(&mut self) {
        let (top, bottom) = self.margins;
        if self.cursor.y == top {
            self.grid.scroll_down(top, bottom, 1, self.cursor.pen);
        } else {
            self.cursor.y = self.cursor.y.saturating_sub(1);
        }
    }

    pub(super) fn line_feed(&mut self) {
        if self.newline {
            self.go_to_column(0);
        }
        self.index();
    }

    /// To an absolute column; past the edge is the edge.
    pub(super) fn go_to_column(&mut self, x: u16) {
        self.cursor.x = x.min(self.cols - 1);
        self.cursor.pending_wrap = false;
    }

    /// To a row, counted from the region's top if origin mode says so.
    pub(super) fn go_to_row(&mut self, y: u16) {
        let (top, bottom) = if self.cursor.origin { self.margins } else { (0, self.rows - 1) };
        self.cursor.y = top.saturating_add(y).min(bottom);
        self.cursor.pending_wrap = false;
    }

    pub(super) fn up(&mut self, n: u16) {
        let limit = if self.cursor.y >= self.margins.0 { self.margins.0 } else { 0 };
        self.cursor.y = self.cursor.y.saturating_sub(n).max(limit);
        self.cursor.pending_wrap = false;
    }

    pub(super) fn down(&mut self, n: u16) {
        let limit = if self.cursor.y <= self.margins.1 { self.margins.1 } else { self.rows - 1 };
        self.cursor.y = self.cursor.y.saturating_add(n).min(limit);
        self.cursor.pending_wrap = false;
    }

    pub(super) fn tab(&mut self, n: u16) {
        for _ in 0..n.min(self.cols) {
            let next = (self.cursor.x + 1..self.cols).find(|x| self.tabs[usize::from(*x)]);
            self.cursor.x = next.unwrap_or(self.cols - 1);
        }
    }

    pub(super) fn back_tab(&mut self, n: u16) {
        for _ in 0..n.min(self.cols) {
            let next = (0..self.cursor.x).rev().find(|x| self.tabs[usize::from(*x)]);
            self.go_to_column(next.unwrap_or(0));
        }
    }

    pub(super) fn restore_cursor(&mut self, saved: Option<Cursor>) {
        let saved = saved.unwrap_or_default();
        self.cursor = Cursor { x: saved.x.min(self.cols - 1), y: saved.y.min(self.rows - 1), ..saved };
        if saved.origin {
            self.cursor.y = self.cursor.y.clamp(self.margins.0, self.margins.1);
        }
    }

    /// Shows the alternate screen, blank; `save` is 1049, which remembers the cursor.
    pub(super) fn enter_alternate(&mut self, save: bool) {
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

    pub(super) fn leave_alternate(&mut self, restore: bool) {
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

    pub(super) fn reset(&mut self) {
        let replies = mem::take(&mut self.replies);
        *self = Self { replies, ..Self::new(self.cols, self.rows) };
    }

    pub(super) fn soft_reset(&mut self) {
        let Cursor { x, y, .. } = self.cursor;
        self.cursor = Cursor { x, y, ..Cursor::default() };
        self.saved = None;
        self.margins = (0, self.rows - 1);
        (self.autowrap, self.insert, self.visible) = (true, false, true);
        self.modes.soft_reset();
    }
}
