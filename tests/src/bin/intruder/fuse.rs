//! The share's server as a machine's kernel speaks with it, without the kernel: what that would never ask for is asked here.
//!
//! One queue with one request in it at a time, in memory that both have (vhost-user, virtio 1.2, FUSE 7).

use std::fs::File;
use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use nix::libc;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

/// Where the memory is, as the server is told, and how much there is.
const BASE: u64 = 0x1000_0000;
const BYTES: u64 = 1 << 20;

/// Places in it.
const DESCRIPTORS: u64 = 0;
const AVAILABLE: u64 = 0x1000;
const USED: u64 = 0x2000;
const REQUEST: u64 = 0x4000;
const ANSWER: u64 = 0x40000;
const ANSWER_BYTES: u64 = 0x20000;
const ENTRIES: u16 = 16;

/// The queue that is not for forgetting.
const QUEUE: u32 = 1;

const HEADER_BYTES: usize = 40;
const ANSWER_HEADER_BYTES: usize = 16;

/// Requests.
const LOOKUP: u32 = 1;
const SYMLINK: u32 = 6;
const OPEN: u32 = 14;
const READ: u32 = 15;
const WRITE: u32 = 16;
const INIT: u32 = 26;
const CREATE: u32 = 35;

/// The root folder of the share.
const ROOT: u64 = 1;

/// A conversation with a server.
pub(crate) struct Share {
    line: UnixStream,
    memory: File,
    kick: File,
    call: File,
    asked: u16,
}

impl Share {
    pub(crate) fn new(line: RawFd) -> io::Result<Self> {
        let line = UnixStream::from(unsafe { OwnedFd::from_raw_fd(line) });
        let memory = unsafe { libc::memfd_create(c"memory".as_ptr(), libc::MFD_CLOEXEC) };
        let memory = unsafe { File::from_raw_fd(memory) };
        memory.set_len(BYTES)?;
        let event = || unsafe { File::from_raw_fd(libc::eventfd(0, libc::EFD_CLOEXEC)) };
        let mut share = Self { line, memory, kick: event(), call: event(), asked: 0 };
        share.set_up()?;
        share.ask(INIT, 0, &words(&[7, 38, 1 << 17, 0]))?;
        Ok(share)
    }

    fn set_up(&mut self) -> io::Result<()> {
        let (memory, kick, call) = (self.memory.as_raw_fd(), self.kick.as_raw_fd(), self.call.as_raw_fd());
        self.tell(3, &[], None)?;
        self.tell(1, &[], None)?;
        let mut answer = [0; 20];
        self.line.read_exact(&mut answer)?;
        self.tell(2, &(1_u64 << 32 | 1 << 30).to_le_bytes(), None)?;
        self.tell(16, &0_u64.to_le_bytes(), None)?;
        let region = [1, 0, BYTES, BASE, 0].map(u64::to_le_bytes).concat();
        self.tell(5, &region, Some(memory))?;
        self.tell(8, &words(&[QUEUE, ENTRIES.into()]), None)?;
        self.tell(10, &words(&[QUEUE, 0]), None)?;
        let places = [DESCRIPTORS, USED, AVAILABLE].map(|at| (BASE + at).to_le_bytes()).concat();
        self.tell(9, &[&words(&[QUEUE, 0])[..], &places, &[0; 8]].concat(), None)?;
        self.tell(12, &u64::from(QUEUE).to_le_bytes(), Some(kick))?;
        self.tell(13, &u64::from(QUEUE).to_le_bytes(), Some(call))?;
        self.tell(18, &words(&[QUEUE, 1]), None)
    }

    fn tell(&mut self, what: u32, payload: &[u8], fd: Option<RawFd>) -> io::Result<()> {
        let message = [&words(&[what, 1, payload.len() as u32])[..], payload].concat();
        let fds: Vec<RawFd> = fd.into_iter().collect();
        let rights = [ControlMessage::ScmRights(&fds)];
        let control = if fds.is_empty() { &[][..] } else { &rights };
        sendmsg::<()>(self.line.as_raw_fd(), &[IoSlice::new(&message)], control, MsgFlags::empty(), None)?;
        Ok(())
    }

    /// Asks for something, and waits for the answer.
    fn ask(&mut self, what: u32, of: u64, with: &[u8]) -> io::Result<Vec<u8>> {
        use std::os::unix::fs::FileExt;
        self.asked += 1;
        let length = HEADER_BYTES + with.len();
        let header = [
            &words(&[length as u32, what])[..],
            &u64::from(self.asked).to_le_bytes(),
            &of.to_le_bytes(),
            &words(&[0, 0, 1, 0]),
        ];
        self.memory.write_all_at(&[&header.concat()[..], with].concat(), REQUEST)?;
        // The first one is read by the server and goes on with the second, which it writes to.
        let descriptors = [
            &REQUEST.to_le_bytes()[..],
            &words(&[length as u32, 1 | 1 << 16]),
            &ANSWER.to_le_bytes(),
            &words(&[ANSWER_BYTES as u32, 2]),
        ];
        self.memory.write_all_at(&descriptors.concat(), DESCRIPTORS)?;
        let slot = u64::from((self.asked - 1) % ENTRIES);
        self.memory.write_all_at(&[0, 0], AVAILABLE + 4 + 2 * slot)?;
        self.memory.write_all_at(&self.asked.to_le_bytes(), AVAILABLE + 2)?;
        self.kick.write_all(&1_u64.to_ne_bytes())?;
        let mut used = [0; 2];
        let mut looks = 0;
        while u16::from_le_bytes(used) != self.asked {
            looks += 1;
            if looks > 10_000 {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "the server does not answer"));
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
            self.memory.read_exact_at(&mut used, USED + 2)?;
        }
        let mut head = [0; ANSWER_HEADER_BYTES];
        self.memory.read_exact_at(&mut head, ANSWER)?;
        let number = |at: usize| i32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        if number(4) != 0 {
            return Err(io::Error::from_raw_os_error(-number(4)));
        }
        let bytes = usize::try_from(number(0)).unwrap_or(0).saturating_sub(ANSWER_HEADER_BYTES);
        let mut answer = vec![0; bytes.min(ANSWER_BYTES as usize - ANSWER_HEADER_BYTES)];
        self.memory.read_exact_at(&mut answer, ANSWER + ANSWER_HEADER_BYTES as u64)?;
        Ok(answer)
    }

    /// What the server knows under this name, whatever a name is to it.
    pub(crate) fn look_up(&mut self, name: &str) -> io::Result<u64> {
        first(&self.ask(LOOKUP, ROOT, &text(name))?)
    }

    /// The beginning of a file.
    pub(crate) fn read(&mut self, name: &str) -> io::Result<Vec<u8>> {
        let (file, open) = self.open(name, libc::O_RDONLY)?;
        let what = [&open.to_le_bytes()[..], &0_u64.to_le_bytes(), &words(&[4096, 0, 0, 0, 0, 0])].concat();
        self.ask(READ, file, &what)
    }

    /// Writes into a file that is there.
    pub(crate) fn write(&mut self, name: &str, at: u64, bytes: &[u8]) -> io::Result<()> {
        let (file, open) = self.open(name, libc::O_RDWR)?;
        let places = [open.to_le_bytes(), at.to_le_bytes()].concat();
        let what = [&places[..], &words(&[bytes.len() as u32, 0, 0, 0, 0, 0]), bytes].concat();
        self.ask(WRITE, file, &what).map(drop)
    }

    /// Opens it for writing, and no more.
    pub(crate) fn open_for_writing(&mut self, name: &str) -> io::Result<()> {
        self.open(name, libc::O_RDWR).map(drop)
    }

    fn open(&mut self, name: &str, flags: i32) -> io::Result<(u64, u64)> {
        let file = self.look_up(name)?;
        Ok((file, first(&self.ask(OPEN, file, &words(&[flags as u32, 0]))?)?))
    }

    pub(crate) fn create(&mut self, name: &str, mode: u32) -> io::Result<()> {
        let flags = (libc::O_RDWR | libc::O_CREAT | libc::O_EXCL) as u32;
        let what = [&words(&[flags, mode | libc::S_IFREG, 0, 0])[..], &text(name)].concat();
        self.ask(CREATE, ROOT, &what).map(drop)
    }

    pub(crate) fn link(&mut self, name: &str, target: &str) -> io::Result<()> {
        self.ask(SYMLINK, ROOT, &[text(name), text(target)].concat()).map(drop)
    }
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn text(text: &str) -> Vec<u8> {
    [text.as_bytes(), &[0]].concat()
}

fn first(answer: &[u8]) -> io::Result<u64> {
    let (number, _) = answer.split_first_chunk().ok_or(io::ErrorKind::UnexpectedEof)?;
    Ok(u64::from_le_bytes(*number))
}
