//! Where a stream of data frames leaves us: one of the caller's standard streams.

use std::os::fd::AsFd;

use rustix::{
    event::{PollFd, PollFlags},
    io::Errno,
};

use super::{ConnectionError, endpoint::Endpoint};

/// Writes a stream out, keeping what the caller does not take yet: at most what one look at the socket
/// brought, because the connection is not read while there is such a rest.
#[derive(Debug)]
pub(crate) struct Outlet<'a> {
    endpoint: Endpoint<'a>,
    /// `rest[start..]` is to be written.
    rest: Vec<u8>,
    start: usize,
    /// Offset of the next byte.
    at: u64,
    /// Why nothing is written any more.
    broken: Option<Errno>,
}

impl<'a> Outlet<'a> {
    pub(crate) fn new(endpoint: Endpoint<'a>) -> Self {
        Self { endpoint, rest: Vec::new(), start: 0, at: 0, broken: None }
    }

    /// Says that the stream goes on at another place.
    pub(crate) fn continue_at(&mut self, offset: u64) {
        self.at = offset;
    }

    /// Offset of the next byte.
    pub(crate) fn offset(&self) -> u64 {
        self.at
    }

    /// Takes the next piece of the stream and writes what can be written at once.
    pub(crate) fn take(&mut self, offset: u64, bytes: &[u8]) -> Result<(), ConnectionError> {
        if offset != self.at {
            return Err(ConnectionError::Unexpected {
                what: "stream offset",
                during: "reading the command's output",
            });
        }
        self.at += bytes.len() as u64;
        self.write(bytes);
        Ok(())
    }

    /// Writes bytes that are no part of the stream.
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        let done = if self.is_blocked() { 0 } else { self.attempt(bytes) };
        if self.broken.is_none() && done < bytes.len() {
            self.rest.extend_from_slice(&bytes[done..]);
        }
    }

    /// Whether the caller has not taken everything; no more may come until it has.
    pub(crate) fn is_blocked(&self) -> bool {
        self.start < self.rest.len()
    }

    /// Why the caller takes nothing any more, if that is so.
    pub(crate) fn broken(&self) -> Option<Errno> {
        self.broken
    }

    /// Goes on with what is kept, once poll(2) says that there is room.
    pub(crate) fn flush(&mut self) {
        let rest = std::mem::take(&mut self.rest);
        self.start += self.attempt(&rest[self.start..]);
        if self.broken.is_none() && self.start < rest.len() {
            self.rest = rest;
            return;
        }
        // The memory is kept for the next rest.
        self.rest = rest;
        self.rest.clear();
        self.start = 0;
    }

    /// What to poll for while the caller has not taken everything.
    pub(crate) fn interest(&self) -> PollFd<'_> {
        PollFd::from_borrowed_fd(self.endpoint.as_fd(), PollFlags::OUT)
    }

    fn attempt(&mut self, bytes: &[u8]) -> usize {
        let mut done = 0;
        while done < bytes.len() && self.broken.is_none() {
            match self.endpoint.write(&bytes[done..]) {
                Ok(count) => done += count,
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                Err(error) => self.broken = Some(error),
            }
        }
        done
    }
}
