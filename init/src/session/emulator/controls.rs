//! What each control character and sequence does to the model.

use super::cell::{Cell, Style};
use super::cursor::{Charset, Cursor};
use super::model::Model;
use vte::Params;

/// How much of what a program asked may wait for an answer to be fetched.
const REPLY_BYTES: usize = 1024;

impl vte::Perform for Model {
    #[inline]
    fn print(&mut self, c: char) {
        self.ended = true;
        self.put_char(c);
    }

    fn execute(&mut self, byte: u8) {
        self.last = None;
        match byte {
            0x08 => self.go_to_column(self.cursor.x.saturating_sub(1)),
            0x09 => self.tab(1),
            0x0a..=0x0c => self.line_feed(),
            0x0d => self.go_to_column(0),
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
                self.go_to_column(0);
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
                self.go_to_row(0);
                self.go_to_column(0);
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

/// Control sequences.
impl Model {
    fn control(&mut self, final_byte: char, params: &Params) {
        let n = |at: usize| params.iter().nth(at).and_then(|p| p.first()).copied().unwrap_or(0);
        let count = n(0).max(1);
        let Cursor { x, y, pen, .. } = self.cursor;
        let (top, bottom) = self.margins;
        let in_region = (top..=bottom).contains(&y);
        // While a wrap is pending the cursor is past the last column: there is nothing to its right.
        // Programs that erase the rest of a line after filling it rely on that.
        let past = self.cursor.pending_wrap;
        match final_byte {
            '@' if !past => self.grid.insert_cells(x, y, count, pen),
            'A' => self.up(count),
            'B' | 'e' => self.down(count),
            'C' | 'a' => self.go_to_column(x.saturating_add(count)),
            'D' => self.go_to_column(x.saturating_sub(count)),
            'E' => {
                self.down(count);
                self.go_to_column(0);
            }
            'F' => {
                self.up(count);
                self.go_to_column(0);
            }
            'G' | '`' => self.go_to_column(count - 1),
            'H' | 'f' => {
                self.go_to_row(count - 1);
                self.go_to_column(n(1).max(1) - 1);
            }
            'I' => self.tab(count),
            'J' => self.erase_display(n(0)),
            'K' => self.erase_line(n(0)),
            'L' if in_region => self.grid.scroll_down(y, bottom, count, pen),
            'M' if in_region => self.grid.scroll_up(y, bottom, count, pen),
            'P' if !past => self.grid.delete_cells(x, y, count, pen),
            'S' => self.grid.scroll_up(top, bottom, count, pen),
            'T' => self.grid.scroll_down(top, bottom, count, pen),
            'X' if !past => self.grid.erase(y, x, x.saturating_add(count).min(self.cols), pen),
            'Z' => self.back_tab(count),
            'c' if n(0) == 0 => self.reply(b"\x1b[?62;22c"),
            'd' => self.go_to_row(count - 1),
            'g' => match n(0) {
                0 => self.tabs[usize::from(x)] = false,
                3 => self.tabs.fill(false),
                _ => {}
            },
            'h' => self.set_ansi(params, true),
            'l' => self.set_ansi(params, false),
            'm' => self.cursor.pen.select(params),
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
                self.go_to_row(0);
                self.go_to_column(0);
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
            self.go_to_row(0);
            self.go_to_column(0);
        }
    }

    fn erase_display(&mut self, part: u16) {
        let Cursor { y, pen, .. } = self.cursor;
        match part {
            0 => {
                self.erase_line(0);
                self.grid.erase_lines(y + 1..self.rows, pen);
            }
            1 => {
                self.grid.erase_lines(0..y, pen);
                self.erase_line(1);
            }
            2 => self.grid.erase_lines(0..self.rows, pen),
            _ => {}
        }
    }

    fn erase_line(&mut self, part: u16) {
        let Cursor { x, y, pen, .. } = self.cursor;
        match part {
            0 if self.cursor.pending_wrap => {}
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
