//! What becomes of the rows of a screen when its size changes.

use super::cell::{Cell, Part};
use super::grid::{Grid, Line};
use std::collections::VecDeque;
use std::mem;

impl Grid {
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
        let written = self.cells.iter().rposition(|cell| !(cell.is_blank() && cell.is_empty()));
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
