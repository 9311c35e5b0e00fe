//! The cells of one screen and the moves that rows and cells can make.
//!
//! A line holds cells only as far as they differ; the rest all look like one cell. So clearing,
//! filling and scrolling cost nothing per column: no short sequence that an agent may send makes
//! init touch every cell.

use std::collections::VecDeque;
use std::mem;

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

    pub(crate) fn blank(style: Style) -> Self {
        Self { text: 0, style: style.erased() }
    }

    pub(crate) fn is_blank(self) -> bool {
        self.text == 0
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

/// One row.
#[derive(Clone, Debug, Default)]
pub(crate) struct Line {
    /// As far as something was written.
    cells: Vec<Cell>,
    /// What every column after that looks like; a whole character.
    rest: Cell,
    /// The text goes on in the next row because it reached the edge.
    pub(crate) wrapped: bool,
}

impl Line {
    pub(crate) fn get(&self, x: u16) -> Cell {
        self.cells.get(usize::from(x)).copied().unwrap_or(self.rest)
    }

    /// The cells written and the one that every later column looks like.
    pub(crate) fn cells(&self) -> (&[Cell], Cell) {
        (&self.cells, self.rest)
    }

    pub(crate) fn cells_mut(&mut self) -> &mut [Cell] {
        &mut self.cells
    }

    fn clear(&mut self, style: Style) {
        self.fill(Cell::blank(style));
    }

    fn fill(&mut self, cell: Cell) {
        self.cells.clear();
        self.rest = cell;
        self.wrapped = false;
    }

    /// The cells up to and including column `x` of a row of `cols`, all of them written.
    #[inline]
    fn up_to(&mut self, x: u16, cols: u16) -> &mut [Cell] {
        if self.cells.len() <= usize::from(x) {
            self.extend_to(x, cols);
        }
        &mut self.cells
    }

    #[cold]
    fn extend_to(&mut self, x: u16, cols: u16) {
        let (wanted, limit) = (usize::from(x) + 1, usize::from(cols));
        if wanted > self.cells.capacity() {
            let target = wanted.max(self.cells.capacity() * 2).max(16).min(limit.max(wanted));
            self.cells.reserve_exact(target - self.cells.len());
        }
        self.cells.resize(wanted, self.rest);
    }

    /// Blanks what is left of a wide character once its half at column `x` changes.
    #[inline]
    fn split_wide(&mut self, x: u16) {
        let at = usize::from(x);
        let Some(cell) = self.cells.get(at) else { return };
        let other = match cell.part() {
            Part::Whole => return,
            Part::Head => at + 1,
            Part::Tail => at - 1,
        };
        for at in [at, other] {
            if let Some(cell) = self.cells.get_mut(at) {
                *cell = Cell::new(' ', cell.style);
            }
        }
    }

    /// Drops what lies past a new, smaller width.
    fn truncate(&mut self, cols: u16) {
        self.split_wide_at_boundary(cols);
        self.cells.truncate(usize::from(cols));
    }

    /// A wide character cannot lie across a boundary at which cells are moved apart.
    fn split_wide_at_boundary(&mut self, x: u16) {
        if self.cells.get(usize::from(x)).is_some_and(|cell| cell.part() == Part::Tail) {
            self.split_wide(x);
        }
    }
}

/// All rows of one screen.
#[derive(Clone, Debug)]
pub(crate) struct Grid {
    cols: u16,
    lines: VecDeque<Line>,
}

impl Grid {
    pub(crate) fn new(cols: u16, rows: u16) -> Self {
        Self { cols, lines: vec![Line::default(); usize::from(rows)].into() }
    }

    pub(crate) fn lines(&self) -> &VecDeque<Line> {
        &self.lines
    }

    pub(crate) fn lines_mut(&mut self) -> impl Iterator<Item = &mut Line> {
        self.lines.iter_mut()
    }

    /// Fills every column of every row.
    pub(crate) fn fill(&mut self, cell: Cell) {
        self.lines.iter_mut().for_each(|line| line.fill(cell));
    }

    #[inline]
    pub(crate) fn line_mut(&mut self, y: u16) -> &mut Line {
        &mut self.lines[usize::from(y)]
    }

    /// Writes a narrow cell; what it cuts in half is blanked.
    #[inline]
    pub(crate) fn put(&mut self, x: u16, y: u16, cell: Cell) {
        let cols = self.cols;
        let line = self.line_mut(y);
        let old = &mut line.up_to(x, cols)[usize::from(x)];
        if old.part() == Part::Whole {
            *old = cell;
        } else {
            line.split_wide(x);
            line.cells[usize::from(x)] = cell;
        }
    }

    /// Writes a character two columns wide; the caller has made sure that both exist.
    pub(crate) fn put_wide(&mut self, x: u16, y: u16, c: char, style: Style) {
        self.put(x, y, Cell::new(c, style));
        self.put(x + 1, y, Cell::new(' ', style));
        let cells = &mut self.line_mut(y).cells[usize::from(x)..];
        cells[0].text |= HEAD;
        cells[1].text = TAIL;
    }

    /// The cell that holds the text shown at this column.
    pub(crate) fn text_cell(&mut self, x: u16, y: u16) -> &mut Cell {
        let cols = self.cols;
        let cells = self.line_mut(y).up_to(x, cols);
        let at = usize::from(x);
        let at = if cells[at].part() == Part::Tail { at.saturating_sub(1) } else { at };
        &mut cells[at]
    }

    /// Erases columns `from..to` of a row.
    pub(crate) fn erase(&mut self, y: u16, from: u16, to: u16, style: Style) {
        let cols = self.cols;
        let line = self.line_mut(y);
        if from >= to {
            return;
        }
        line.split_wide_at_boundary(from);
        line.split_wide_at_boundary(to);
        if to >= cols {
            let blank = Cell::blank(style);
            if from > 0 && usize::from(from) > line.cells.len() && line.rest != blank {
                line.up_to(from - 1, cols);
            }
            line.cells.truncate(usize::from(from));
            line.rest = blank;
            line.wrapped = false;
        } else {
            line.up_to(to - 1, cols)[usize::from(from)..usize::from(to)].fill(Cell::blank(style));
        }
    }

    /// Erases whole rows.
    pub(crate) fn erase_lines(&mut self, rows: std::ops::Range<u16>, style: Style) {
        for line in self.lines.range_mut(usize::from(rows.start)..usize::from(rows.end)) {
            line.clear(style);
        }
    }

    /// Moves the cells from `x` on to the right by `n`; those past the edge are lost.
    pub(crate) fn insert_cells(&mut self, x: u16, y: u16, n: u16, style: Style) {
        let cols = self.cols;
        let n = usize::from(n.min(cols - x));
        let line = self.line_mut(y);
        line.split_wide_at_boundary(x);
        let cells = line.up_to(cols - 1, cols);
        cells[usize::from(x)..].rotate_right(n);
        let last = cells.len() - 1;
        cells[usize::from(x)..usize::from(x) + n].fill(Cell::blank(style));
        if cells[last].part() == Part::Head {
            cells[last] = Cell::new(' ', cells[last].style);
        }
    }

    /// Moves the cells after the `n` at `x` to the left; blanks follow at the edge.
    pub(crate) fn delete_cells(&mut self, x: u16, y: u16, n: u16, style: Style) {
        let cols = self.cols;
        let n = n.min(cols - x);
        let line = self.line_mut(y);
        line.split_wide_at_boundary(x);
        line.split_wide_at_boundary(x + n);
        let cells = line.up_to(cols - 1, cols);
        cells[usize::from(x)..].rotate_left(usize::from(n));
        cells[usize::from(cols - n)..].fill(Cell::blank(style));
        line.wrapped = false;
    }

    /// Moves rows `top..=bottom` up by `n`; blank ones follow at the bottom.
    pub(crate) fn scroll_up(&mut self, top: u16, bottom: u16, n: u16, style: Style) {
        let (top, end) = (usize::from(top), usize::from(bottom) + 1);
        let n = usize::from(n).min(end - top);
        if end - top == self.lines.len() {
            self.lines.rotate_left(n);
        } else {
            self.lines.make_contiguous()[top..end].rotate_left(n);
        }
        self.lines.range_mut(end - n..end).for_each(|line| line.clear(style));
    }

    /// Moves rows `top..=bottom` down by `n`; blank ones come in at the top.
    pub(crate) fn scroll_down(&mut self, top: u16, bottom: u16, n: u16, style: Style) {
        let (top, end) = (usize::from(top), usize::from(bottom) + 1);
        let n = usize::from(n).min(end - top);
        if end - top == self.lines.len() {
            self.lines.rotate_right(n);
        } else {
            self.lines.make_contiguous()[top..end].rotate_right(n);
        }
        self.lines.range_mut(top..top + n).for_each(|line| line.clear(style));
    }

    /// Cuts and pads, as terminals do with the alternate screen. `cursor` is moved along.
    pub(crate) fn resize(&mut self, cols: u16, rows: u16, cursor: (u16, u16)) -> (u16, u16) {
        for line in &mut self.lines {
            line.truncate(cols);
            line.wrapped &= cols == self.cols;
        }
        self.cols = cols;
        let (x, y) = cursor;
        let y = self.fit_rows(rows, usize::from(y));
        (x.min(cols - 1), y)
    }

    /// Breaks wrapped text anew at the new width, as terminals do with the primary screen.
    pub(crate) fn reflow(&mut self, cols: u16, rows: u16, cursor: (u16, u16)) -> (u16, u16) {
        if cols == self.cols {
            return self.resize(cols, rows, cursor);
        }
        let (x, y) = (usize::from(cursor.0), usize::from(cursor.1));
        let (mut lines, mut at) = (VecDeque::new(), (0, 0));
        let mut paragraph = Line::default();
        let mut cursor_in = None;
        for (row, mut line) in mem::take(&mut self.lines).into_iter().enumerate() {
            if row == y {
                cursor_in = Some(paragraph.cells.len() + x);
            }
            let goes_on = line.wrapped;
            paragraph.rest = line.rest;
            if paragraph.cells.is_empty() {
                paragraph.cells = mem::take(&mut line.cells);
            } else {
                // The column that a wide character left free at the edge is no part of the text.
                let head = line.cells.first().is_some_and(|cell| cell.part() == Part::Head);
                if head && paragraph.cells.last().is_some_and(|cell| cell.is_blank()) {
                    paragraph.cells.pop();
                }
                paragraph.cells.append(&mut line.cells);
            }
            if goes_on {
                continue;
            }
            let first = lines.len();
            let found = paragraph.fold(cols, cursor_in.take(), &mut lines);
            if let Some((x, y)) = found {
                at = (x, first + y);
            }
            paragraph = Line::default();
        }
        self.lines = lines;
        self.cols = cols;
        let y = self.fit_rows(rows, at.1);
        (at.0.min(cols - 1), y)
    }

    /// Makes it `rows` rows: blank ones below the cursor go first, then those at the top.
    fn fit_rows(&mut self, rows: u16, y: usize) -> u16 {
        let rows = usize::from(rows);
        while self.lines.len() > rows && self.lines.len() > y + 1 {
            self.lines.pop_back();
        }
        let gone = self.lines.len().saturating_sub(rows);
        self.lines.drain(..gone);
        self.lines.resize(rows, Line::default());
        self.lines.shrink_to_fit();
        if let Some(last) = self.lines.back_mut() {
            last.wrapped = false;
        }
        u16::try_from(y.saturating_sub(gone)).unwrap_or(0)
    }
}

impl Line {
    /// Breaks a paragraph into rows and says where in them the cell number `cursor` came to lie.
    fn fold(mut self, cols: u16, cursor: Option<usize>, out: &mut VecDeque<Line>) -> Option<(u16, usize)> {
        let width = usize::from(cols);
        let written =
            self.cells.iter().rposition(|cell| !(cell.is_blank() && cell.style == Style::default()));
        if self.rest == Cell::default() {
            self.cells.truncate(written.map_or(0, |last| last + 1));
        }
        if width == 1 {
            // Nothing wide fits; what it said is lost, as it would be if it were written now.
            self.cells.retain(|cell| cell.part() == Part::Whole);
        }
        let (mut from, mut row, mut found) = (0, 0, None);
        loop {
            let mut to = self.cells.len().min(from + width);
            if to < self.cells.len() && self.cells[to].part() == Part::Tail {
                to -= 1;
            }
            let last = to == self.cells.len();
            if let Some(cursor) = cursor
                && found.is_none()
                && (cursor < to || last)
            {
                found = Some((u16::try_from(cursor.saturating_sub(from)).unwrap_or(cols), row));
            }
            let mut cells = Vec::with_capacity(to - from);
            cells.extend_from_slice(&self.cells[from..to]);
            out.push_back(Line { cells, rest: self.rest, wrapped: !last });
            if last {
                return found;
            }
            (from, row) = (to, row + 1);
        }
    }
}
