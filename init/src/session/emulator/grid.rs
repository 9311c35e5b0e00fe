//! The cells of one screen and the moves that rows and cells can make.
//!
//! A line holds cells only as far as they differ; the rest all look like one cell. So clearing,
//! filling and scrolling cost nothing per column: no short sequence that an agent may send makes
//! init touch every cell.

use super::cell::{Cell, Part, Style};
use std::collections::VecDeque;

/// One row.
#[derive(Clone, Debug, Default)]
pub(crate) struct Line {
    /// As far as something was written.
    pub(super) cells: Vec<Cell>,
    /// What every column after that looks like; a whole character.
    pub(super) rest: Cell,
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
    pub(super) fn truncate(&mut self, cols: u16) {
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
    pub(super) cols: u16,
    pub(super) lines: VecDeque<Line>,
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
        self.line_mut(y).cells[usize::from(x)..][..2].copy_from_slice(&Cell::wide(c, style));
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
        // Where its text went on has gone.
        self.lines[end - 1].wrapped = false;
    }
}
