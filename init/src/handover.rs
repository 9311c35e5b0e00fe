//! Descriptors from the host, for engines of containers that pass none: init calls a socket in a folder that it is shown,
//! before anything else runs, and gets what it would have inherited elsewhere.
//!
//! The host answers one call and removes the socket. So nothing that init starts later has any path to the host, and
//! nobody but init holds the listening socket: it closes with init, whatever becomes of the engine.

use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::path::Path;
use std::time::Duration;

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketAddrUnix, SocketFlags,
    SocketType, connect, recvmsg, socket_with, sockopt,
};

use crate::sys;

/// The most descriptors that are handed over.
const MAX_DESCRIPTORS: usize = 8;

/// How long the host may take to answer: it waits for nothing else at that time.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// Takes what is handed over and puts each descriptor under its number. Returns the last number, which is the spec's.
pub(crate) fn receive(path: &Path) -> io::Result<RawFd> {
    let (numbers, descriptors) = call(path)?;
    if numbers.is_empty() || numbers.len() != descriptors.len() {
        return Err(invalid("what was handed over is not complete"));
    }
    // All of them out of the way first: one must not take the number that another still has.
    let descriptors = descriptors
        .into_iter()
        .map(|descriptor| Ok(rustix::io::fcntl_dupfd_cloexec(descriptor, 1 + RawFd::from(u8::MAX))?))
        .collect::<io::Result<Vec<OwnedFd>>>()?;
    for (number, descriptor) in numbers.iter().zip(&descriptors) {
        sys::put_descriptor(descriptor.as_fd(), RawFd::from(*number))?;
    }
    Ok(numbers.last().copied().map_or(-1, RawFd::from))
}

/// The numbers, and the descriptors in the same order.
fn call(path: &Path) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(ANSWER_WITHIN))?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    let mut numbers = [0; MAX_DESCRIPTORS];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received =
        recvmsg(&socket, &mut [IoSliceMut::new(&mut numbers)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut descriptors = Vec::with_capacity(MAX_DESCRIPTORS);
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    Ok((numbers[..received.bytes].to_vec(), descriptors))
}

fn invalid(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
    use std::fs::File;
    use std::io::{IoSlice, Read};
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixListener;

    /// The host is another process: its descriptors take no number that init is to use.
    fn out_of_the_way(descriptor: impl Into<OwnedFd>) -> io::Result<OwnedFd> {
        Ok(rustix::io::fcntl_dupfd_cloexec(descriptor.into(), 200)?)
    }

    /// What a host hands over under these numbers, and what comes of it.
    fn handed_over(numbers: &[u8], files: &[&File]) -> io::Result<RawFd> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("socket");
        let listener = UnixListener::from(out_of_the_way(UnixListener::bind(&path)?)?);
        std::thread::scope(|scope| {
            let init = scope.spawn(|| receive(&path));
            let socket = out_of_the_way(listener.accept()?.0)?;
            let raw: Vec<RawFd> = files.iter().map(|file| file.as_raw_fd()).collect();
            let rights = [ControlMessage::ScmRights(&raw)];
            let rights = if raw.is_empty() { &[][..] } else { &rights[..] };
            let text = [IoSlice::new(numbers)];
            sendmsg::<()>(socket.as_raw_fd(), &text, rights, MsgFlags::empty(), None)?;
            drop(socket);
            init.join().map_err(|_| io::ErrorKind::Other)?
        })
    }

    #[test]
    fn each_descriptor_gets_its_number_and_the_last_is_the_specs() {
        let mut spec = tempfile::tempfile().unwrap();
        io::Write::write_all(&mut spec, b"spec").unwrap();
        io::Seek::rewind(&mut spec).unwrap();
        let null = File::open("/dev/null").unwrap();
        // Numbers that no other test of this process can have got.
        assert_eq!(handed_over(&[240, 241], &[&null, &spec]).unwrap(), 241);
        let mut text = String::new();
        File::from(sys::adopt_descriptor(241).unwrap()).read_to_string(&mut text).unwrap();
        assert_eq!(text, "spec");
        drop(sys::adopt_descriptor(240).unwrap());
    }

    /// What arrives has the lowest numbers that are free, which can be those that are asked for.
    #[test]
    fn a_number_that_was_in_use_on_the_way_is_kept() {
        // In a process of its own: in this one other tests take and close descriptors meanwhile.
        if std::env::var_os("ALONE").is_none() {
            let name = "handover::tests::a_number_that_was_in_use_on_the_way_is_kept";
            let mut alone = std::process::Command::new(std::env::current_exe().unwrap());
            let done = alone.args(["--exact", name, "--test-threads=1"]).env("ALONE", "1").output().unwrap();
            assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stdout));
            assert!(String::from_utf8_lossy(&done.stdout).contains("1 passed"));
            return;
        }
        let null = File::open("/dev/null").unwrap();
        // The test's own descriptors take the low numbers, so the next free one is tried, whichever that is now.
        let free = u8::try_from(rustix::io::dup(&null).unwrap().as_raw_fd()).unwrap();
        for number in free..free.saturating_add(6) {
            if sys::adopt_descriptor(RawFd::from(number)).map(std::mem::forget).is_ok() {
                continue;
            }
            handed_over(&[number], &[&null]).unwrap();
            drop(sys::adopt_descriptor(RawFd::from(number)).unwrap());
        }
    }

    #[test]
    fn what_is_not_complete_is_refused() {
        let null = File::open("/dev/null").unwrap();
        assert!(handed_over(&[242, 243], &[&null]).is_err());
        assert!(handed_over(&[242], &[]).is_err());
        assert!(receive(Path::new("/no/socket")).is_err());
    }
}
