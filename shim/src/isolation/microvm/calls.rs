//! Calls of the machine's vsock device, held for as long as their callers live and until the device has answered. The device hears
//! of their ends from here, in the one way that it understands.

use std::fs;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, Shutdown, recv, recvmsg, shutdown};

use crate::client::HEARD;

/// Calls that are held at once, each by two descriptors: no process may be without 1024 of those. Those of further callers are held by
/// the kernel, unread.
const MAX_CALLS: usize = 384;

/// What can wait in a connection is less than this many pieces.
const MAX_PIECES: usize = 1024;
const PIECE_BYTES: usize = 64 * 1024;

/// Who takes them.
pub(super) struct Calls {
    listener: UnixListener,
    held: Vec<Call>,
}

/// One call.
struct Call {
    /// To the caller, as long as that lives.
    line: Option<UnixStream>,
    /// The caller's end of the connection to the device.
    end: Option<OwnedFd>,
    /// Whether the caller has heard the device's answer.
    answered: bool,
}

impl Calls {
    /// Takes those that come in at `path`.
    pub(super) fn take(path: &Path) -> io::Result<Calls> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        listener.set_nonblocking(true)?;
        Ok(Calls { listener, held: Vec::new() })
    }

    /// What to wait on.
    pub(super) fn to_watch(&self) -> Vec<PollFd<'_>> {
        let mut fds: Vec<_> = self.held.iter().filter_map(Call::to_watch).collect();
        if self.held.len() < MAX_CALLS {
            fds.push(PollFd::new(&self.listener, PollFlags::IN));
        }
        fds
    }

    /// Hangs up those whose callers are gone, and takes new ones. Never waits.
    pub(super) fn turn(&mut self) {
        self.held.retain_mut(Call::is_needed);
        while self.held.len() < MAX_CALLS
            && let Ok((line, _)) = self.listener.accept()
        {
            // One that could make us wait is not taken.
            if line.set_nonblocking(true).is_ok() {
                self.held.push(Call { line: Some(line), end: None, answered: false });
            }
        }
        self.held.retain_mut(Call::is_needed);
    }
}

impl Call {
    fn to_watch(&self) -> Option<PollFd<'_>> {
        match (&self.line, &self.end) {
            (Some(line), _) => Some(PollFd::new(line, PollFlags::IN)),
            (None, Some(end)) => Some(PollFd::new(end, PollFlags::IN)),
            (None, None) => None,
        }
    }

    /// Hears the caller, or looks at the connection in its place.
    fn is_needed(&mut self) -> bool {
        while let Some(line) = &self.line {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut messages = RecvAncillaryBuffer::new(&mut space);
            let mut byte = [0];
            match recvmsg(line, &mut [IoSliceMut::new(&mut byte)], &mut messages, RecvFlags::CMSG_CLOEXEC) {
                Ok(received) if received.bytes > 0 => self.answered |= byte[0] == HEARD,
                Err(Errno::AGAIN) => return true,
                Err(Errno::INTR) => continue,
                // The caller is gone.
                Ok(_) | Err(_) => self.line = None,
            }
            let given = messages.drain().find_map(|message| match message {
                RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
                _ => None,
            });
            self.end = self.end.take().or(given);
        }
        let Some(end) = &self.end else { return false };
        // It had not called yet, or the device has answered, or hung up.
        let waits = !self.answered
            && rustix::net::getpeername(end).is_ok()
            && poll(&mut [PollFd::new(end, PollFlags::IN)], Some(&Timespec::default())) == Ok(0);
        if !waits {
            hang_up(end);
        }
        waits
    }
}

/// Ends a connection as if all of it had been read. Where something is left unread, the device reads an error in place of the end
/// (unix(7), ECONNRESET), and tells the machine nothing: what runs there for the caller would run for ever.
fn hang_up(end: &OwnedFd) {
    // Whoever is gone cannot be told.
    let _ = shutdown(end, Shutdown::Both);
    let mut piece = vec![0; PIECE_BYTES];
    for _ in 0..MAX_PIECES {
        match recv(end, &mut *piece, RecvFlags::DONTWAIT) {
            Ok((_, 1..)) | Err(Errno::INTR) => {}
            Ok(_) | Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Entrusted;
    use crate::sandbox::testing::TempDir;
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, connect, socket};
    use std::io::{Read, Write};

    struct Scene {
        folder: TempDir,
        device: UnixListener,
        calls: Calls,
    }

    impl Scene {
        fn new() -> Scene {
            let folder = TempDir::new();
            let device = UnixListener::bind(folder.path().join("device")).unwrap();
            let calls = Calls::take(&folder.path().join("device.calls")).unwrap();
            Scene { folder, device, calls }
        }

        fn path(&self) -> Vec<u8> {
            self.folder.path().join("device").into_os_string().into_encoded_bytes()
        }

        fn entrust(&self) -> (OwnedFd, Entrusted) {
            let socket = socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
            let entrusted = Entrusted::give(&self.path(), &socket).unwrap().unwrap();
            (socket, entrusted)
        }

        fn call(&self) -> (OwnedFd, Entrusted, UnixStream) {
            let (socket, entrusted) = self.entrust();
            connect(&socket, &SocketAddrUnix::new(self.path()).unwrap()).unwrap();
            (socket, entrusted, self.device.accept().unwrap().0)
        }

        fn held(&mut self) -> usize {
            self.calls.turn();
            self.calls.held.len()
        }
    }

    #[test]
    fn a_call_outlives_its_caller_until_it_is_answered() {
        let mut scene = Scene::new();
        let (socket, entrusted, mut device) = scene.call();
        assert_eq!(scene.held(), 1);
        drop((socket, entrusted));
        assert_eq!(scene.held(), 1);
        device.write_all(b"OK 1\n").unwrap();
        assert_eq!(scene.held(), 0);
        device.write_all(b"more").unwrap_err();
    }

    #[test]
    fn its_end_is_an_end_to_the_device_also_where_something_is_unread() {
        for heard in [false, true] {
            let mut scene = Scene::new();
            let (socket, mut entrusted, mut device) = scene.call();
            device.set_nonblocking(true).unwrap();
            device.write_all(b"OK 1\n").unwrap();
            if heard {
                entrusted.heard();
            }
            assert_eq!(scene.held(), 1);
            // As much as there is room for.
            while device.write(&[0; 4096]).is_ok() {}
            drop((socket, entrusted));
            assert_eq!(scene.held(), 0, "{heard}");
            assert_eq!(device.read(&mut [0; 1]).unwrap(), 0, "{heard}");
            device.write_all(b"more").unwrap_err();
        }
    }

    #[test]
    fn one_that_the_device_refuses_or_nobody_made_is_let_go() {
        let mut scene = Scene::new();
        let (socket, entrusted, device) = scene.call();
        drop((socket, entrusted));
        drop(scene.entrust());
        assert_eq!(scene.held(), 1);
        drop(device);
        assert_eq!(scene.held(), 0);
    }

    #[test]
    fn there_is_a_bound_and_what_is_beyond_it_waits() {
        let mut scene = Scene::new();
        let callers: Vec<_> = (0..MAX_CALLS + 3).map(|_| scene.entrust()).collect();
        assert_eq!(scene.held(), MAX_CALLS);
        assert_eq!(scene.calls.to_watch().len(), MAX_CALLS);
        drop(callers);
        assert_eq!(scene.held(), 0);
    }
}
