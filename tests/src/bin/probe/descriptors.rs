//! Attempts on descriptors that were passed in: what else is there, and what reopening them gives.

use std::ffi::CString;
use std::fs;

use nix::libc;

/// Lists all descriptors, each with what it is; the one that lists excepted.
pub(crate) fn list() {
    let mut numbers: Vec<i32> = fs::read_dir("/proc/self/fd")
        .expect("our own descriptors")
        .flatten()
        .filter_map(|entry| entry.file_name().to_string_lossy().parse().ok())
        .collect();
    numbers.sort_unstable();
    for number in numbers {
        if let Ok(target) = fs::read_link(format!("/proc/self/fd/{number}")) {
            println!("{number} {}", target.display());
        }
    }
}

/// Does to the three standard streams what their givers would not like, and tells in a file.
pub(crate) fn reopen(report: &str) {
    let mut told = String::new();
    let mut tell = |line: String| {
        told.push_str(&line);
        told.push('\n');
    };
    for number in 0..3 {
        let target = fs::read_link(format!("/proc/self/fd/{number}")).unwrap_or_default();
        tell(format!("{number} is {}", target.display()));
        let path = CString::new(format!("/proc/self/fd/{number}")).expect("a path");
        for (how, flags) in [("read", libc::O_RDONLY), ("write", libc::O_WRONLY), ("both", libc::O_RDWR)] {
            let fd = unsafe { libc::open(path.as_ptr(), flags | libc::O_NONBLOCK | libc::O_NOCTTY) };
            if fd < 0 {
                continue;
            }
            let mut buffer = [0_u8; 4096];
            if flags != libc::O_WRONLY {
                let read = unsafe { libc::read(fd, buffer.as_mut_ptr().cast(), buffer.len()) };
                let read = usize::try_from(read).unwrap_or(0);
                tell(format!("{number} {how}: {:?}", String::from_utf8_lossy(&buffer[..read])));
            }
            if flags != libc::O_RDONLY && number == 0 {
                unsafe { libc::write(fd, c"written from inside\n".as_ptr().cast(), 20) };
            }
        }
        unsafe {
            libc::ftruncate(number, 0);
            libc::truncate(path.as_ptr(), 0);
            libc::lseek(number, 0, libc::SEEK_SET);
            libc::fchmod(number, 0o777);
            let flags = libc::fcntl(number, libc::F_GETFL);
            libc::fcntl(number, libc::F_SETFL, flags | libc::O_NONBLOCK | libc::O_APPEND | libc::O_ASYNC);
            libc::fcntl(number, libc::F_SETPIPE_SZ, 4096);
            libc::flock(number, libc::LOCK_EX | libc::LOCK_NB);
        }
    }
    fs::write(report, told).expect("a report");
}
