//! The bytes that bring any terminal of the right size, in any state, to what the model holds.
//!
//! They paint row by row and erase only what is left of a row, inside a synchronized update, so
//! nothing flickers. What is out of sight is painted first: the primary screen, then, if a program
//! shows the alternate one, that on top of it, by the sequence that program used.

use super::cell::{Cell, Part, Style};
use super::cursor::Cursor;
use super::grid::{Grid, Line};
use super::model::Model;
use super::modes::{Keyboard, Modes};
use std::io::Write as _;

/// Paints `model`; what comes after it is taken up in the middle of the sequence `open`.
pub(crate) fn snapshot(model: &Model, open: &[u8]) -> Vec<u8> {
    let mut paint = Paint { model, out: Vec::with_capacity(4096), pen: Style::default() };
    paint.reset();
    match &model.under {
        None => paint.grid(&model.grid),
        Some(under) => {
            paint.grid(&under.grid);
            paint.save_cursor(&under.grid, under.saved.unwrap_or_default());
            under.keyboard.write(&mut paint.out);
            if let Some(back) = under.back {
                paint.place(&under.grid, back, 0);
                paint.attributes(back);
                paint.raw(b"\x1b[?1049h");
                paint.plain();
            } else {
                paint.raw(b"\x1b[?1047h");
            }
            Keyboard::write_reset(&mut paint.out);
            paint.grid(&model.grid);
        }
    }
    // On the alternate screen only what was saved there is: some terminals have one place for both.
    if let Some(saved) = model.saved.or_else(|| model.under.is_none().then(Cursor::default)) {
        paint.save_cursor(&model.grid, saved);
    }
    model.keyboard.write(&mut paint.out);
    paint.tabs();
    paint.state();
    if !model.modes.synchronized {
        paint.raw(b"\x1b[?2026l");
    }
    paint.raw(open);
    paint.out
}

/// Paints what `model` shows on a terminal of another size: as much as it has room for, the cursor's row among it.
/// The stream cannot be taken up from here, since it would fold elsewhere.
pub(crate) fn excerpt(model: &Model, columns: u16, rows: u16) -> Vec<u8> {
    let mut paint = Paint { model, out: Vec::with_capacity(4096), pen: Style::default() };
    paint.reset();
    let cursor = model.cursor;
    let shown = rows.min(model.rows);
    let top = (cursor.y + 1).saturating_sub(shown);
    for y in 0..shown {
        paint.text(format_args!("\x1b[{};1H", y + 1));
        if let Some(line) = model.grid.lines().get(usize::from(top + y)) {
            paint.part_of_line(line, columns.min(model.cols));
        }
        paint.style(Style::default());
        if columns > model.cols {
            paint.raw(b"\x1b[K");
        }
    }
    if rows > shown {
        paint.text(format_args!("\x1b[{};1H\x1b[J", shown + 1));
    }
    paint.text(format_args!("\x1b[{};{}H", cursor.y - top + 1, cursor.x.min(columns - 1) + 1));
    if model.visible {
        paint.raw(b"\x1b[?25h");
    }
    paint.raw(b"\x1b[?2026l");
    paint.out
}

/// A blank screen, for when the model itself cannot be painted.
pub(crate) fn blank() -> Vec<u8> {
    let model = Model::new(1, 1);
    let mut paint = Paint { model: &model, out: Vec::new(), pen: Style::default() };
    paint.reset();
    paint.raw(b"\x1b[H\x1b[2J\x1b[?25h\x1b[?2026l");
    paint.out
}

struct Paint<'a> {
    model: &'a Model,
    out: Vec<u8>,
    /// The style in force in the terminal painted on.
    pen: Style,
}

impl Paint<'_> {
    fn raw(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    fn text(&mut self, args: std::fmt::Arguments<'_>) {
        // Writing to a Vec does not fail.
        let _ = self.out.write_fmt(args);
    }

    /// From any state, the middle of a sequence included, to the primary screen with nothing set.
    fn reset(&mut self) {
        // A string that a terminal is in the middle of is abandoned or, where CAN does not do that,
        // ended.
        self.raw(b"\x18\x1b\\\x1b[?2026h");
        Keyboard::write_reset(&mut self.out);
        self.raw(b"\x1b[?1049l\x1b[?25l\x1b[r\x1b[?6l\x1b[?69l\x1b[?7h\x1b[4l\x1b[20l");
        Keyboard::write_reset(&mut self.out);
        Modes::write_reset(&mut self.out);
        self.plain();
    }

    /// The style and the character sets that painting needs.
    fn plain(&mut self) {
        self.raw(b"\x1b[?6l\x1b(B\x1b)B\x0f\x1b[m");
        self.pen = Style::default();
    }

    fn grid(&mut self, grid: &Grid) {
        let mut wrapped = false;
        for (y, line) in grid.lines().iter().enumerate() {
            if !wrapped {
                self.text(format_args!("\x1b[{};1H", y + 1));
            }
            // Where one character fills a row, it cannot be told to forget that it goes on: none does.
            let goes_on = line.wrapped && self.model.cols > 2 && y + 1 < grid.lines().len();
            wrapped = self.line(line, wrapped, goes_on) && goes_on;
        }
        self.style(Style::default());
    }

    /// Paints one row and says whether its last column was printed, so that the next character
    /// wraps: that is how the terminal learns that two rows are one line of text.
    fn line(&mut self, line: &Line, wrapped: bool, goes_on: bool) -> bool {
        let cols = usize::from(self.model.cols);
        let (cells, rest) = line.cells();
        let mut end = if goes_on || !rest.is_empty() { cols } else { cells.len() };
        if end == cells.len() && !goes_on {
            end -= cells.iter().rev().take_while(|cell| cell.is_empty()).count();
        }
        // The wrap only happens when something is printed.
        end = end.max(usize::from(wrapped));
        // A row printed to its end keeps what the terminal knew of it: that its text went on below.
        // Erasing part of it makes it forget.
        let forget_at = (end == cols && !goes_on).then_some(usize::from(wrapped));
        for x in 0..end {
            if forget_at == Some(x) {
                self.style(Style::default());
                self.raw(b"\x1b[K");
            }
            self.cell(cells.get(x).copied().unwrap_or(rest));
        }
        if end < cols {
            self.style(Style::default());
            self.raw(b"\x1b[K");
        }
        end >= cols
    }

    /// Paints the first columns of a row, without half a wide character at their end.
    fn part_of_line(&mut self, line: &Line, columns: u16) {
        for x in 0..columns {
            let cut = x + 1 == columns && line.get(x + 1).part() == Part::Tail;
            self.cell(if cut { Cell::default() } else { line.get(x) });
        }
    }

    fn cell(&mut self, cell: Cell) {
        if cell.part() == Part::Tail {
            return;
        }
        self.style(cell.style);
        let mut buffer = [0; 4];
        match cell.text() {
            Ok(c) => self.raw(c.encode_utf8(&mut buffer).as_bytes()),
            Err(index) => {
                let model = self.model;
                for c in model.clusters.chars(index) {
                    self.raw(c.encode_utf8(&mut buffer).as_bytes());
                }
            }
        }
    }

    /// Changes the style with as few bytes as are sure to work.
    fn style(&mut self, new: Style) {
        if new == self.pen {
            return;
        }
        if new == Style::default() {
            self.pen = new;
            return self.raw(b"\x1b[m");
        }
        let off = self.pen.attrs & !new.attrs != 0
            || self.pen.attrs & Style::UNDERLINE != new.attrs & Style::UNDERLINE;
        self.raw(b"\x1b[");
        let mut old = self.pen;
        if off {
            self.raw(b"0;");
            old = Style::default();
        }
        for (bit, code) in ATTRIBUTES {
            if new.attrs & !old.attrs & bit != 0 {
                self.text(format_args!("{code};"));
            }
        }
        match (new.attrs & Style::UNDERLINE) >> Style::UNDERLINE_SHIFT {
            _ if new.attrs & Style::UNDERLINE == old.attrs & Style::UNDERLINE => {}
            1 => self.raw(b"4;"),
            // Terminals that know only one underline know only one form of it.
            kind => self.text(format_args!("4:{kind};")),
        }
        for (layer, old, new) in
            [(30, old.fg, new.fg), (40, old.bg, new.bg), (50, old.underline, new.underline)]
        {
            if old != new {
                self.color(layer, new.parts());
            }
        }
        // The last semicolon.
        self.out.pop();
        self.raw(b"m");
        self.pen = new;
    }

    fn color(&mut self, layer: u8, color: Option<Result<u8, [u8; 3]>>) {
        match (layer, color) {
            (_, None) => self.text(format_args!("{};", layer + 9)),
            (30 | 40, Some(Ok(index @ 0..=7))) => self.text(format_args!("{};", layer + index)),
            (30 | 40, Some(Ok(index @ 8..=15))) => self.text(format_args!("{};", layer + 60 + index - 8)),
            // With colons: a terminal that does not know 58 must not take its parts for attributes.
            (50, Some(Ok(index))) => self.text(format_args!("58:5:{index};")),
            (50, Some(Err([r, g, b]))) => self.text(format_args!("58:2::{r}:{g}:{b};")),
            (_, Some(Ok(index))) => self.text(format_args!("{};5;{index};", layer + 8)),
            (_, Some(Err([r, g, b]))) => self.text(format_args!("{};2;{r};{g};{b};", layer + 8)),
        }
    }

    /// Puts the cursor where it is, rows counting from `top`. A wrap is pending once the last column
    /// was printed, so it is printed again. Needs plain attributes.
    fn place(&mut self, grid: &Grid, cursor: Cursor, top: u16) {
        let Some(line) = grid.lines().get(usize::from(cursor.y)) else { return };
        let wide = cursor.pending_wrap && line.get(cursor.x).part() == Part::Tail;
        let (row, column) = (cursor.y.saturating_sub(top) + 1, cursor.x + u16::from(!wide));
        self.text(format_args!("\x1b[{row};{column}H"));
        if cursor.pending_wrap {
            self.cell(line.get(column - 1));
        }
    }

    /// Pen and character sets of a cursor.
    fn attributes(&mut self, cursor: Cursor) {
        self.style(cursor.pen);
        for (slot, set) in ['(', ')'].into_iter().zip(cursor.charsets) {
            if set.name() != 'B' {
                self.text(format_args!("\x1b{slot}{}", set.name()));
            }
        }
        if cursor.shifted {
            self.raw(b"\x0e");
        }
    }

    /// Makes `cursor` the saved one. The scroll region is still the whole screen here.
    fn save_cursor(&mut self, grid: &Grid, cursor: Cursor) {
        if cursor.origin {
            self.raw(b"\x1b[?6h");
        }
        self.place(grid, cursor, 0);
        self.attributes(cursor);
        self.raw(b"\x1b7");
        self.plain();
    }

    fn tabs(&mut self) {
        self.raw(b"\x1b[3g");
        for (x, _) in self.model.tabs.iter().enumerate().filter(|(_, stop)| **stop) {
            self.text(format_args!("\x1b[{}G\x1bH", x + 1));
        }
    }

    /// Margins, the cursor, and the modes that would have been in the way of painting.
    fn state(&mut self) {
        let model = self.model;
        let (top, bottom) = model.margins;
        if model.margins != (0, model.rows - 1) {
            self.text(format_args!("\x1b[{};{}r", top + 1, bottom + 1));
        }
        let origin = model.cursor.origin;
        if origin {
            self.raw(b"\x1b[?6h");
        }
        self.place(&model.grid, model.cursor, if origin { top } else { 0 });
        self.attributes(model.cursor);
        if model.insert {
            self.raw(b"\x1b[4h");
        }
        if model.newline {
            self.raw(b"\x1b[20h");
        }
        if !model.autowrap {
            self.raw(b"\x1b[?7l");
        }
        model.modes.write(&mut self.out);
        if model.visible {
            self.raw(b"\x1b[?25h");
        }
    }
}

const ATTRIBUTES: [(u16, u8); 8] = [
    (Style::BOLD, 1),
    (Style::DIM, 2),
    (Style::ITALIC, 3),
    (Style::BLINK, 5),
    (Style::INVERSE, 7),
    (Style::HIDDEN, 8),
    (Style::STRIKE, 9),
    (Style::OVERLINE, 53),
];
