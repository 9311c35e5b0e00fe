//! Attempts that are judged from outside, by what PID 1 makes of them.

use std::ffi::c_int;
use std::mem::zeroed;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;

use nix::libc::{self, syscall};

use crate::containers::is_of_the_kernel;
use crate::init::{forged, pidfd_of_init};

/// Every signal by every way that no filter sees: a pidfd, and the kernel's own notifications.
pub(crate) fn signals() {
    let pidfd = pidfd_of_init();
    unsafe {
        for signal in 1..=64 {
            // To the process, its thread, its group: as one thread's the kernel drops details that do not fit.
            for flags in [0, 1, 2, 4] {
                syscall(libc::SYS_pidfd_send_signal, pidfd, signal, 0, flags);
            }
            notified(signal);
        }
        // With the queue of the user full, details of real-time signals get lost, the sender among them.
        let mut all: libc::sigset_t = zeroed();
        libc::sigfillset(&raw mut all);
        libc::sigprocmask(libc::SIG_BLOCK, &raw const all, std::ptr::null_mut());
        let own = libc::getpid();
        for _ in 0..1_000_000 {
            if syscall(libc::SYS_rt_sigqueueinfo, own, 40, forged(40).as_ptr()) != 0 {
                break;
            }
        }
        for signal in 1..=64 {
            // To the process, its thread, its group: as one thread's the kernel drops details that do not fit.
            for flags in [0, 1, 2, 4] {
                syscall(libc::SYS_pidfd_send_signal, pidfd, signal, 0, flags);
            }
            notified(signal);
        }
        libc::kill(-1, libc::SIGWINCH);
    }
    println!("sent");
}

/// Not in libc.
const F_SETSIG: c_int = 10;

/// A descriptor whose news go to init, as a signal of our choice that the kernel sends.
fn notified(signal: c_int) {
    unsafe {
        let mut pipe = [0; 2];
        libc::pipe2(pipe.as_mut_ptr(), libc::O_NONBLOCK);
        libc::fcntl(pipe[0], libc::F_SETOWN, 1);
        libc::fcntl(pipe[0], F_SETSIG, signal);
        libc::fcntl(pipe[0], libc::F_SETFL, libc::O_ASYNC | libc::O_NONBLOCK);
        libc::write(pipe[1], c"x".as_ptr().cast(), 1);
        libc::close(pipe[0]);
        libc::close(pipe[1]);
    }
}

/// Takes descriptors from processes that are just being made, before they run what they are to run.
///
/// A command of its own has pipes, files and terminals; sockets and the like belong to whoever made it.
pub(crate) fn young_children(report: &str, seconds: &str) {
    let seconds = std::time::Duration::from_secs(seconds.parse().expect("seconds"));
    let end = std::time::Instant::now() + seconds;
    let (mut last, mut caught, mut taken) = (unsafe { libc::getpid() }, 0, Vec::new());
    std::fs::write(format!("{report}.began"), "").expect("a file");
    while std::time::Instant::now() < end && caught < 20 {
        // Numbers are given one after the other.
        let Some((pid, pidfd)) = (last + 1..last + 64).find_map(|pid| {
            let pidfd = unsafe { syscall(libc::SYS_pidfd_open, pid, 0) };
            (pidfd >= 0).then_some((pid, pidfd))
        }) else {
            continue;
        };
        last = pid;
        if is_of_the_kernel(&pid.to_string()) {
            continue;
        }
        caught += 1;
        for _ in 0..20 {
            for number in 3..24 {
                let fd = unsafe { syscall(libc::SYS_pidfd_getfd, pidfd, number, 0) };
                if fd >= 0 {
                    let what = std::fs::read_link(format!("/proc/self/fd/{fd}"))
                        .unwrap_or_default()
                        .display()
                        .to_string();
                    if what.starts_with("socket:") || what.starts_with("anon_inode:") {
                        taken.push(format!("{number} of {pid}: {what}"));
                    }
                    unsafe { libc::close(fd as c_int) };
                }
            }
        }
        unsafe { libc::close(pidfd as c_int) };
    }
    std::fs::write(report, format!("caught {caught}\n{}", taken.join("\n"))).expect("a report");
}

/// Datagrams with descriptors in them, more than any table has room for, and others that are nonsense.
pub(crate) fn notifications(socket: &str) {
    let sender = UnixDatagram::unbound().expect("a socket");
    sender.connect(socket).expect("the notification socket");
    let file = std::fs::File::open("/dev/null").expect("/dev/null");
    for round in 0..3000 {
        let text = match round % 4 {
            0 => b"FDSTORE=1\nFDNAME=x".to_vec(),
            1 => b"MAINPID=1\nREADY=1\nSTOPPING=1\nWATCHDOG=trigger".to_vec(),
            2 => vec![b'='; 65_000],
            _ => (0..=255).collect(),
        };
        unsafe {
            let mut space = [0_u64; 8];
            let mut part = libc::iovec { iov_base: text.as_ptr() as *mut _, iov_len: text.len() };
            let mut message: libc::msghdr = zeroed();
            message.msg_iov = &raw mut part;
            message.msg_iovlen = 1;
            message.msg_control = space.as_mut_ptr().cast();
            message.msg_controllen = libc::CMSG_SPACE(4) as usize;
            let header = libc::CMSG_FIRSTHDR(&raw const message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = libc::CMSG_LEN(4) as usize;
            libc::CMSG_DATA(header).cast::<c_int>().write_unaligned(file.as_raw_fd());
            libc::sendmsg(sender.as_raw_fd(), &raw const message, 0);
        }
    }
    println!("sent");
}

/// Makes its parent, init, its debugger: a signal then stops it, and the parent is told by wait(2), as of an exit.
pub(crate) fn not_an_exit() {
    unsafe {
        libc::signal(libc::SIGUSR2, libc::SIG_IGN);
        if libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) == -1 {
            println!("refused");
        }
        println!("began");
        libc::raise(libc::SIGUSR2);
        libc::raise(libc::SIGWINCH);
    }
    println!("went on");
    std::process::exit(7);
}

/// Forks for ever, and so does every child.
pub(crate) fn bomb() {
    println!("began");
    loop {
        unsafe {
            if libc::fork() == -1 {
                libc::usleep(10_000);
            }
        }
    }
}

/// Everything that could act on the terminal of whoever looks: titles, clipboards, answers, C1 in both encodings.
pub(crate) fn hostile_output() {
    const HOSTILE: &[u8] = b"\x1b]0;title\x07\x1b]52;c;cHduZWQ=\x1b\\\x1b[2J\x1b[6n\x1bP$q\x22p\x1b\\\x1bc\xc2\x9b2J\x9b2J\xc2\x9d0;t\xc2\x9c\x08\x7f\x0e\r";
    use std::io::Write;
    let mut out = std::io::stdout();
    let _ = out
        .write_all(b"before ")
        .and_then(|()| out.write_all(HOSTILE))
        .and_then(|()| out.write_all(b"behind\n"));
    let _ = out.flush();
    if let Some(socket) = std::env::var_os("NOTIFY_SOCKET") {
        let message = [b"STATUS=told ".as_slice(), HOSTILE, b"\nREADY=1"].concat();
        let _ = UnixDatagram::unbound().and_then(|sender| sender.send_to(&message, socket));
    }
    unsafe {
        libc::prctl(libc::PR_SET_NAME, c"\x1b]0;name\x07".as_ptr());
        loop {
            libc::pause();
        }
    }
}
