//! Calls of the machine's vsock device, held until the device has answered, also where the caller is gone by then.

use std::fs;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use crate::client::HEARD;

/// Calls that are held at once. Those of further callers are held by the kernel, unread.
const MAX_CALLS: usize = 256;

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

    /// Lets go of those that are answered, and takes new ones. Never waits.
    pub(super) fn turn(&mut self) {
        self.held.retain_mut(Call::is_needed);
        while self.held.len() < MAX_CALLS
            && let Ok((line, _)) = self.listener.accept()
        {
            // One that could make us wait is not taken.
            if line.set_nonblocking(true).is_ok() {
                self.held.push(Call { line: Some(line), end: None });
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
                Ok(received) if received.bytes > 0 && byte[0] == HEARD => return false,
                Ok(received) if received.bytes > 0 => {}
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
        rustix::net::getpeername(end).is_ok()
            && poll(&mut [PollFd::new(end, PollFlags::IN)], Some(&Timespec::default())) == Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Entrusted;
    use crate::sandbox::testing::TempDir;
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, connect, socket};
    use std::io::Write;

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
    fn one_that_was_heard_is_the_callers_alone() {
        let mut scene = Scene::new();
        let (socket, entrusted, mut device) = scene.call();
        assert_eq!(scene.held(), 1);
        entrusted.take_back();
        assert_eq!(scene.held(), 0);
        device.write_all(b"more").unwrap();
        drop(socket);
        device.write_all(b"more").unwrap_err();
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
