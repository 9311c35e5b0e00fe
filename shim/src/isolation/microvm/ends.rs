//! What the parts of a machine are connected by: each end goes to one of them, and nobody else has it.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use super::initramfs;
use super::job::{Numbers, wire};
use crate::isolation::launcher::{Failed, failed, file};
use crate::isolation::memory;

/// Longest text that goes into a machine; what is in it has bounds of its own.
const MAX_TEXT_BYTES: u64 = 64 * 1024 * 1024;

/// Ends that no part has yet, by the numbers they are known by, and ours.
pub(super) struct Ends {
    console: UnixStream,
    report: UnixStream,
    /// For who carries the machine's packets.
    carrier: Option<OwnedFd>,
    free: Vec<(i32, OwnedFd)>,
    content: Content,
}

/// What comes out of the machine.
pub(super) struct Lines {
    pub(super) console: UnixStream,
    pub(super) report: UnixStream,
}

/// What the machine boots from. It keeps that open, and needs none of it later.
pub(super) struct Content(Vec<File>);

impl Content {
    /// Gives the memory back, of which a kernel takes up to some sixty megabytes. Init's spec and the token go with it.
    pub(super) fn discard(&mut self) {
        for file in self.0.drain(..) {
            let _ = file.set_len(0);
        }
    }
}

impl Ends {
    /// Takes what was inherited and makes the rest.
    pub(super) fn open(numbers: &Numbers) -> Result<Ends, Failed> {
        let pair = || UnixStream::pair().map_err(failed("making a pair of sockets"));
        let (console, console_inside) = pair()?;
        let (report, report_inside) = pair()?;
        let kernel = file(numbers.kernel).map_err(failed("taking the kernel"))?;
        let initial = File::from(initial(numbers)?);
        let ours = |file: &File| file.try_clone().map_err(failed("keeping what the machine boots from"));
        let content = Content(vec![ours(&kernel)?, ours(&initial)?]);
        let mut free: Vec<(i32, OwnedFd)> = vec![
            (wire::CONSOLE, console_inside.into()),
            (wire::REPORT, report_inside.into()),
            (wire::KERNEL, kernel.into()),
            (wire::INITIAL, initial.into()),
        ];
        let carrier = if let Some(number) = numbers.bridged {
            free.push((wire::NETWORK, file(number).map_err(failed("taking the network device"))?.into()));
            None
        } else {
            let (carrier, card) = pair()?;
            free.push((wire::NETWORK, card.into()));
            Some(carrier.into())
        };
        if let Some(number) = numbers.vhost_vsock {
            free.push((wire::VHOST_VSOCK, file(number).map_err(failed("taking the vsock device"))?.into()));
        }
        Ok(Ends { console, report, carrier, free, content })
    }

    /// Adds one for a part that comes later.
    pub(super) fn put(&mut self, number: i32, fd: OwnedFd) {
        self.free.push((number, fd));
    }

    /// Gives one away.
    pub(super) fn take(&mut self, number: i32, to_carrier: bool) -> Option<OwnedFd> {
        if to_carrier && number == wire::NETWORK {
            return self.carrier.take();
        }
        let place = self.free.iter().position(|(known, _)| *known == number)?;
        Some(self.free.swap_remove(place).1)
    }

    /// Where the machine's output and its report arrive, and what it boots from. What nobody took is closed.
    pub(super) fn ours(self) -> (Lines, Content) {
        (Lines { console: self.console, report: self.report }, self.content)
    }
}

/// The initial file system: what is the same at every start, and what is this one's.
fn initial(numbers: &Numbers) -> Result<OwnedFd, Failed> {
    let read = |number, what: &str| {
        let mut bytes = Vec::new();
        file(number)
            .and_then(|file: File| file.take(MAX_TEXT_BYTES).read_to_end(&mut bytes))
            .map_err(failed(format!("reading {what}")))?;
        Ok(bytes)
    };
    let mut whole = read(numbers.archive, "init's archive")?;
    // An archive begins at a multiple of four.
    whole.resize(whole.len().next_multiple_of(4), 0);
    let (spec, token) = (read(numbers.spec, "init's spec")?, read(numbers.token, "the token")?);
    let sealed = initramfs::tail(&spec, &token).and_then(|tail| {
        whole.extend(tail);
        memory::read_only(&whole)
    });
    sealed.map_err(failed("keeping the initial file system in memory"))
}
