//! A command's standard input on its way from frames into a pipe: what the command has not read yet waits here, so that everything
//! else its client says is heard meanwhile.

use std::collections::VecDeque;

use agent_protocol::{
    failure::{Failure, FailureKind},
    message::INPUT_WINDOW_BYTES,
};

use super::pipe::WriteEnd;

/// Standard input, as far as it has come.
pub(super) struct Input {
    /// Until its end, or until the command has closed it.
    pipe: Option<WriteEnd>,
    waiting: VecDeque<Vec<u8>>,
    /// Of the first piece.
    written: usize,
    received: u64,
    taken: u64,
    ended: bool,
}

impl Input {
    pub(super) fn new(pipe: Option<WriteEnd>) -> Self {
        Self { pipe, waiting: VecDeque::new(), written: 0, received: 0, taken: 0, ended: false }
    }

    /// Whether the command has something to read yet.
    pub(super) fn waits(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// How much of it needs no more room here.
    pub(super) fn taken(&self) -> u64 {
        self.taken
    }

    /// Takes what comes next.
    pub(super) fn add(&mut self, offset: u64, bytes: Vec<u8>) -> Result<(), Failure> {
        let refused = |why| Err(Failure::new(FailureKind::BadRequest, why));
        if offset != self.received {
            return refused("standard input has a gap");
        }
        self.received += bytes.len() as u64;
        if self.received - self.taken > INPUT_WINDOW_BYTES {
            return refused("more standard input than there is room for");
        }
        if self.pipe.is_none() {
            // A command that closed its input gets no more of it; the client goes on reading.
            self.taken = self.received;
        } else if !bytes.is_empty() {
            self.waiting.push_back(bytes);
        }
        Ok(())
    }

    /// Nothing comes behind this.
    pub(super) fn end(&mut self) {
        self.ended = true;
        self.close_at_the_end();
    }

    /// Hands on as much as the command has room for, at least one byte. Waits for as long as it reads nothing. A future of this can be
    /// dropped at any time.
    pub(super) async fn hand_on(&mut self) {
        let (Some(pipe), Some(first)) = (&self.pipe, self.waiting.front()) else { return };
        if let Ok(count) = pipe.write(&first[self.written..]).await {
            self.written += count;
            self.taken += count as u64;
            if self.written == first.len() {
                self.waiting.pop_front();
                self.written = 0;
            }
            self.close_at_the_end();
        } else {
            self.pipe = None;
            self.waiting.clear();
            self.taken = self.received;
        }
    }

    fn close_at_the_end(&mut self) {
        if self.ended && self.waiting.is_empty() {
            self.pipe = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{PipeReader, Read};

    use super::*;

    fn input() -> (Input, PipeReader) {
        let (reader, writer) = std::io::pipe().unwrap();
        (Input::new(Some(WriteEnd::new(writer.into()).unwrap())), reader)
    }

    fn run(test: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap().block_on(test);
    }

    #[test]
    fn pieces_arrive_in_order_and_then_the_end() {
        run(async {
            let (mut input, mut reader) = input();
            input.add(0, b"one ".to_vec()).unwrap();
            input.add(4, Vec::new()).unwrap();
            input.add(4, b"two".to_vec()).unwrap();
            input.end();
            while input.waits() {
                input.hand_on().await;
            }
            assert_eq!(input.taken(), 7);
            let mut all = String::new();
            reader.read_to_string(&mut all).unwrap();
            assert_eq!(all, "one two");
        });
    }

    #[test]
    fn gaps_and_what_there_is_no_room_for_are_refused() {
        run(async {
            let (mut input, _reader) = input();
            input.add(0, vec![0; 100]).unwrap();
            assert!(input.add(99, vec![0]).unwrap_err().to_string().contains("gap"));
            input.add(100, vec![0; usize::try_from(INPUT_WINDOW_BYTES).unwrap() - 100]).unwrap();
            // As much as the pipe has room for makes room here.
            input.hand_on().await;
            assert_eq!(input.taken(), 100);
            input.add(INPUT_WINDOW_BYTES, vec![0; 100]).unwrap();
            let error = input.add(INPUT_WINDOW_BYTES + 100, vec![0]).unwrap_err();
            assert!(error.to_string().contains("room"), "{error}");
        });
    }

    #[test]
    fn what_nobody_reads_takes_no_room() {
        run(async {
            let (mut input, reader) = input();
            input.add(0, vec![0; 1000]).unwrap();
            drop(reader);
            input.hand_on().await;
            assert!(!input.waits());
            for piece in 1..10 {
                input.add(piece * 1000, vec![0; 1000]).unwrap();
            }
            assert_eq!(input.taken(), 10_000);
        });
    }
}
