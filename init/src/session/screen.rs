//! The screen model of a session: bytes in, at any time the bytes that repaint it out.
//!
//! It is fed everything the agent's terminal carries, in any pieces, whether or not somebody
//! watches. A viewer who attaches gets [`Screen::snapshot`] and then the stream from there on.

use super::emulator::{self, Cut, Model};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// The largest screen; one that is asked to be larger is cut. What is between these and the
/// terminals that exist keeps a hostile size from costing more than some megabytes.
pub(crate) const MAX_COLS: u16 = 1000;
/// See [`MAX_COLS`].
pub(crate) const MAX_ROWS: u16 = 500;

/// How much of a sequence that has not ended is kept for the next viewer.
const OPEN_BYTES: usize = 1024;

/// What an agent's terminal shows.
pub(crate) struct Screen {
    parser: vte::Parser,
    model: Model,
    /// The sequence that the stream is in the middle of, from its escape on.
    open: Vec<u8>,
    /// The character that the stream is in the middle of.
    cut: Cut,
    panics: u64,
}

impl Screen {
    /// A blank screen. Sizes are brought into 1 to [`MAX_COLS`] by 1 to [`MAX_ROWS`].
    pub(crate) fn new(cols: u16, rows: u16) -> Self {
        let (cols, rows) = clamp(cols, rows);
        Self {
            parser: vte::Parser::new(),
            model: Model::new(cols, rows),
            open: Vec::new(),
            cut: Cut::default(),
            panics: 0,
        }
    }

    /// Columns and rows; the agent's terminal must be given the same.
    pub(crate) fn size(&self) -> (u16, u16) {
        (self.model.cols, self.model.rows)
    }

    /// Takes the next bytes of the stream, cut anywhere.
    ///
    /// A panic in the parser or the model costs the picture, not the session: the model starts
    /// anew, blank, and the programs inside repaint it.
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        for piece in bytes.chunks(PIECE_BYTES) {
            self.guard(|screen| {
                let mut cut = std::mem::take(&mut screen.cut);
                cut.join(piece, |whole| screen.advance(whole));
                screen.cut = cut;
            });
        }
    }

    /// Changes the size, as the agent's terminal did.
    pub(crate) fn resize(&mut self, cols: u16, rows: u16) {
        let (cols, rows) = clamp(cols, rows);
        if (cols, rows) != self.size() {
            self.guard(|screen| screen.model.resize(cols, rows));
            if self.size() != (cols, rows) {
                self.model = Model::new(cols, rows);
            }
        }
    }

    /// The bytes that bring a terminal of this size, whatever it shows and whatever mode it is in,
    /// to this screen and to the point of the stream that was fed last.
    pub(crate) fn snapshot(&self) -> Vec<u8> {
        let open = self.open_sequence();
        catch_unwind(AssertUnwindSafe(|| emulator::snapshot(&self.model, &open)))
            .unwrap_or_else(|_| emulator::blank())
    }

    /// The bytes that show as much of it as a terminal of another size has room for. The stream cannot go on there.
    pub(crate) fn excerpt(&self, cols: u16, rows: u16) -> Vec<u8> {
        catch_unwind(AssertUnwindSafe(|| emulator::excerpt(&self.model, cols.max(1), rows.max(1))))
            .unwrap_or_else(|_| emulator::blank())
    }

    /// The rows shown, without styles and without the blanks at their ends.
    pub(crate) fn text(&self) -> Vec<String> {
        self.model.text()
    }

    /// The title that a program gave its window, without control characters.
    #[cfg(test)]
    pub(crate) fn title(&self) -> Option<&str> {
        self.model.modes.title.as_deref()
    }

    /// Answers to what programs asked of their terminal. They are for the terminal's input while
    /// no viewer's terminal answers; while one does, fetch them and drop them.
    pub(crate) fn take_replies(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.model.replies)
    }

    /// How often the model had to start anew.
    pub(crate) fn panics(&self) -> u64 {
        self.panics
    }

    fn guard(&mut self, work: impl FnOnce(&mut Self)) {
        if catch_unwind(AssertUnwindSafe(|| work(self))).is_err() {
            let (cols, rows) = self.size();
            *self = Self { panics: self.panics + 1, ..Self::new(cols, rows) };
        }
    }

    fn advance(&mut self, bytes: &[u8]) {
        // An escape begins a sequence wherever it stands, and ends the one it stands in.
        let mut rest = bytes;
        if let Some(at) = bytes.iter().rposition(|byte| *byte == ESCAPE) {
            let (before, sequence) = bytes.split_at(at);
            self.parser.advance(&mut self.model, before);
            self.parser.advance(&mut self.model, &sequence[..1]);
            self.model.ended = false;
            self.open.clear();
            self.open.push(ESCAPE);
            rest = &sequence[1..];
        }
        self.parser.advance(&mut self.model, rest);
        if self.model.ended {
            self.open.clear();
        } else {
            let room = OPEN_BYTES - self.open.len();
            self.open.extend_from_slice(&rest[..rest.len().min(room)]);
        }
    }

    /// What a terminal must have seen last so that it understands the bytes that come next.
    fn open_sequence(&self) -> Vec<u8> {
        let long = self.open.len() == OPEN_BYTES;
        let mut open = match self.open.get(1) {
            // A string too long to keep. With its middle missing it must not be taken for another
            // one, so its end is given a beginning that means nothing to anybody.
            Some(b']') if long => b"\x1b]9999;".to_vec(),
            Some(b'P') if long => b"\x1bP9999z".to_vec(),
            Some(b'X' | b'^' | b'_') if long => self.open[..2].to_vec(),
            Some(b']' | b'P' | b'X' | b'^' | b'_') => self.open.clone(),
            // Controls inside any other sequence took effect when they came.
            _ => self
                .open
                .iter()
                .copied()
                .filter(|byte| *byte == ESCAPE || (b' '..=b'~').contains(byte))
                .collect(),
        };
        open.extend_from_slice(self.cut.bytes());
        open
    }
}

const ESCAPE: u8 = 0x1b;

/// What is parsed at a time: bounds what a panic throws away, and what one look for the last
/// escape and for invalid text has to go through.
const PIECE_BYTES: usize = 4096;

fn clamp(cols: u16, rows: u16) -> (u16, u16) {
    (cols.clamp(1, MAX_COLS), rows.clamp(1, MAX_ROWS))
}

#[cfg(test)]
impl Screen {
    /// Makes a used screen as good as a terminal somebody attaches with: its title and the modes
    /// whose default only it knows are its own, and stay when nobody sets them.
    pub(crate) fn forget_what_no_reset_reaches(&mut self) {
        self.model.modes.forget_what_no_reset_reaches();
    }
}

#[cfg(test)]
mod corpus;
#[cfg(test)]
mod oracle;
#[cfg(test)]
mod tests;
