//! What programs say about themselves, as sd_notify(3): ready, stopping, a status, signs of life.
//!
//! Whoever is inside may write here, so every datagram is hostile: bounded, cleaned, and told together with
//! the pid the kernel vouches for. Which pids are believed is decided by who reads this.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, bind, setsockopt, socket, sockopt};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::sys;

/// The longest datagram that is read; a longer one is dropped whole.
pub const DATAGRAM_BYTES: usize = 4096;
/// The longest status that is kept; the rest is cut off.
pub const STATUS_BYTES: usize = 256;

/// One datagram, understood. What init has no use for (MAINPID, FDSTORE, ...) is left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Notice {
    /// `READY=1`: start-up, or a reload, is finished.
    pub ready: bool,
    /// `RELOADING=1`: not ready until the next READY.
    pub reloading: bool,
    /// `STOPPING=1`: it is about to exit.
    pub stopping: bool,
    /// `STATUS=`: a line for people. Printable, whatever was sent.
    pub status: Option<String>,
    /// `WATCHDOG=`
    pub watchdog: Option<Watchdog>,
    /// `WATCHDOG_USEC=`: a new interval. Zero turns the watchdog off.
    pub watchdog_interval: Option<Duration>,
}

/// A sign of life, or a cry for help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watchdog {
    /// `WATCHDOG=1`: still alive.
    Ping,
    /// `WATCHDOG=trigger`: treat it as if it had missed its time.
    Trigger,
}

/// Reads one datagram: lines of `NAME=value`, the last one of a name counts, others are ignored.
pub fn parse(datagram: &[u8]) -> Notice {
    let mut notice = Notice::default();
    for line in datagram.split(|byte| *byte == b'\n') {
        let Some(equals) = line.iter().position(|byte| *byte == b'=') else { continue };
        let (name, value) = (&line[..equals], &line[equals + 1..]);
        match name {
            b"READY" => notice.ready |= value == b"1",
            b"RELOADING" => notice.reloading |= value == b"1",
            b"STOPPING" => notice.stopping |= value == b"1",
            b"STATUS" => notice.status = Some(clean(value)),
            b"WATCHDOG" => match value {
                b"1" => notice.watchdog = Some(Watchdog::Ping),
                b"trigger" => notice.watchdog = Some(Watchdog::Trigger),
                _ => {}
            },
            b"WATCHDOG_USEC" => {
                let micros = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
                notice.watchdog_interval = micros.map(Duration::from_micros).or(notice.watchdog_interval);
            }
            _ => {}
        }
    }
    notice
}

/// The socket that `NOTIFY_SOCKET` names.
///
/// A path, not an abstract name: an abstract one is visible to everything that shares the network namespace,
/// a folder of the sandbox's own to nobody else. Programs of the sandbox may unlink it; they only harm
/// themselves.
pub struct NotifySocket {
    fd: AsyncFd<OwnedFd>,
    path: PathBuf,
}

impl NotifySocket {
    /// Binds `path`, whose folder exists. Needs a runtime with I/O.
    pub fn bind(path: &Path) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = socket(AddressFamily::Unix, SockType::Datagram, flags, None)?;
        // Before it has a name: no datagram may arrive without its sender.
        setsockopt(&fd, sockopt::PassCred, &true)?;
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        bind(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
        Ok(Self { fd: sys::watch(fd, Interest::READABLE)?, path: path.to_owned() })
    }

    /// What goes into `NOTIFY_SOCKET`.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The next datagram and the pid of its sender, in init's PID namespace. Cancel-safe.
    pub async fn next(&mut self) -> io::Result<(u32, Notice)> {
        loop {
            let mut ready = self.fd.readable().await?;
            if let Ok(received) = ready.try_io(|fd| receive(fd.get_ref()))
                && let Some(received) = received?
            {
                return Ok(received);
            }
        }
    }
}

/// `None` for a datagram to be dropped: too long, or from a process outside, which has no business here.
fn receive(fd: &OwnedFd) -> io::Result<Option<(u32, Notice)>> {
    let mut buffer = [0; DATAGRAM_BYTES];
    let datagram = sys::receive_datagram(fd, &mut buffer)?;
    let sender = datagram.sender.and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid != 0);
    let whole = buffer.get(..datagram.bytes).filter(|_| !datagram.truncated);
    Ok(sender.zip(whole).map(|(pid, text)| (pid, parse(text))))
}

/// Replaces what is not UTF-8 or would act on a terminal, and cuts at a character.
fn clean(value: &[u8]) -> String {
    let mut text = String::new();
    for character in String::from_utf8_lossy(value).chars() {
        let shown = if character.is_control() { char::REPLACEMENT_CHARACTER } else { character };
        if text.len() + shown.len_utf8() > STATUS_BYTES {
            break;
        }
        text.push(shown);
    }
    text
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use super::*;

    #[test]
    fn the_usual_datagrams() {
        let ready = parse(b"READY=1\nSTATUS=Serving\nMAINPID=5\n");
        assert_eq!(ready, Notice { ready: true, status: Some("Serving".into()), ..Notice::default() });
        assert_eq!(parse(b"WATCHDOG=1").watchdog, Some(Watchdog::Ping));
        assert_eq!(parse(b"WATCHDOG=trigger").watchdog, Some(Watchdog::Trigger));
        assert_eq!(parse(b"WATCHDOG_USEC=1500").watchdog_interval, Some(Duration::from_micros(1500)));
        assert!(parse(b"STOPPING=1").stopping && parse(b"RELOADING=1\n").reloading);
    }

    #[test]
    fn nonsense_means_nothing() {
        for nonsense in
            [b"".as_slice(), b"\n\n=\n", b"READY", b"READY=0", b"ready=1", b" READY=1", b"\xff\xfe=1"]
        {
            assert_eq!(parse(nonsense), Notice::default(), "{nonsense:?}");
        }
        assert_eq!(parse(b"WATCHDOG_USEC=-1\nWATCHDOG_USEC=99999999999999999999").watchdog_interval, None);
        assert_eq!(parse(b"STATUS=a\nSTATUS=b").status.as_deref(), Some("b"));
    }

    #[test]
    fn a_status_is_short_and_harmless() {
        assert_eq!(parse(b"STATUS=a\x1b[2Jb\xff\r").status.as_deref(), Some("a\u{fffd}[2Jb\u{fffd}\u{fffd}"));
        let long = format!("STATUS={}", "\u{fc}".repeat(STATUS_BYTES));
        assert_eq!(parse(long.as_bytes()).status.expect("a status").len(), STATUS_BYTES);
        let uneven = format!("STATUS=x{}", "\u{fc}".repeat(STATUS_BYTES));
        assert_eq!(parse(uneven.as_bytes()).status.expect("a status").len(), STATUS_BYTES - 1);
    }

    #[test]
    fn a_datagram_comes_with_its_sender_and_without_its_descriptors() {
        use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
        let folder = std::env::temp_dir().join(format!("agent-init-notify-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().expect("a runtime");
        runtime.block_on(async {
            let mut socket = NotifySocket::bind(&folder.join("notify")).expect("bound");
            let sender = UnixDatagram::unbound().expect("a socket");
            sender.connect(socket.path()).expect("connected");
            let passed = [sender.as_raw_fd()];
            let (text, rights) = ([io::IoSlice::new(b"READY=1")], [ControlMessage::ScmRights(&passed)]);
            sender.send(&[b'x'; DATAGRAM_BYTES + 1]).expect("sent, to be dropped");
            sendmsg::<()>(sender.as_raw_fd(), &text, &rights, MsgFlags::empty(), None).expect("sent");
            let before = open_descriptors();
            let (pid, notice) = socket.next().await.expect("a datagram");
            assert_eq!((pid, notice.ready), (std::process::id(), true));
            assert_eq!(open_descriptors(), before, "the descriptor that came along was not taken in");
        });
        std::fs::remove_dir_all(&folder).expect("removed");
    }

    fn open_descriptors() -> usize {
        std::fs::read_dir("/proc/self/fd").expect("/proc").count()
    }
}
