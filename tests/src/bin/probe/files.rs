//! Attempts on files: what can be read that should not be there, and what can be written.

use std::ffi::{CStr, CString};
use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::libc;

use crate::containers::is_null;
use crate::init::opens;
use crate::outcome::{Attempt, Outcome, Plain, any, closed, open, print};

pub(crate) const ALL: &[Attempt] = &[
    ("kernel-settings", Plain::Open, || writable_below("/proc/sys", &[])),
    // Pressure thresholds are for everybody, and bounded by the kernel.
    ("files-of-proc", Plain::Depends, || writable_below("/proc", &["/proc/sys", "/proc/pressure"])),
    ("magic-request-key", Plain::Depends, || match opens("/proc/sysrq-trigger", libc::O_WRONLY) {
        Outcome::Odd(_) => closed("this kernel has none"),
        other => other,
    }),
    ("memory-of-the-kernel", Plain::Depends, || {
        any(["/proc/kcore", "/dev/mem", "/dev/kmsg", "/proc/kmsg", "/proc/kpageflags"].map(|path| {
            let found = fs::File::open(path);
            (path.to_owned(), found.map_or_else(|error| closed(error.to_string()), |_| open("opened")))
        }))
    }),
    ("files-of-sys", Plain::Depends, || match fs::read_dir("/sys").map(Iterator::count) {
        Ok(0) => closed("there are none"),
        other => open(format!("{other:?}")),
    }),
    ("devices", Plain::Closed, devices),
    ("replace-init", Plain::Depends, || {
        if !writes(Path::new("/tmp")) {
            return Outcome::Odd("not even our own can be written".into());
        }
        any(["/run/agent/init", "/run/agent", "/run", "/etc/passwd", "/etc", "/usr/bin", "/usr/bin/env", "/"]
            .map(|path| {
                let outcome =
                    if writes(Path::new(path)) { open("can be written") } else { closed("not writable") };
                (path.to_owned(), outcome)
            }))
    }),
];

/// Everything that can be there, and a terminal multiplexer of its own.
const DEVICES: &[&str] = &[
    "core", "fd", "full", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty",
    "urandom", "zero", // Only where bubblewrap's own output is a terminal.
    "console",
];

fn devices() -> Outcome {
    let Ok(entries) = fs::read_dir("/dev") else { return Outcome::Odd("/dev cannot be read".into()) };
    let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    let more: Vec<String> = names.filter(|name| !DEVICES.contains(&name.as_str())).collect();
    if more.is_empty() { closed("none but the usual ones") } else { open(more.join(" ")) }
}

/// Opening is no writing: nothing changes where it works.
fn writable_below(root: &str, except: &[&str]) -> Outcome {
    let mut ways = Vec::new();
    walk(Path::new(root), &mut |path, is_folder| {
        let name = path.to_string_lossy();
        // Processes are judged elsewhere.
        let of_a_process =
            name.strip_prefix("/proc/").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
        if of_a_process || except.iter().any(|part| name.starts_with(part)) {
            return false;
        }
        // Runtimes cover what is not to be read with a device that takes everything.
        if !is_folder
            && !is_null(path)
            && let Outcome::Open(_) = opens(&name, libc::O_WRONLY)
        {
            ways.push(name.into_owned());
        }
        true
    });
    if ways.is_empty() { closed("none can be written") } else { open(ways.join(" ")) }
}

/// Whether something can be written. What a machine shares is read-only on the host, of which access(2) inside knows nothing, so
/// this tries; nothing changes where it works.
fn writes(path: &Path) -> bool {
    let name = CString::new(path.as_os_str().as_bytes()).expect("a path");
    if unsafe { libc::access(name.as_ptr(), libc::W_OK) } != 0 {
        return false;
    }
    let (path, flags) = if path.is_dir() {
        (path.join(format!(".probe-{}", std::process::id())), libc::O_CREAT | libc::O_EXCL)
    } else {
        (path.to_owned(), libc::O_APPEND | libc::O_NONBLOCK | libc::O_NOCTTY)
    };
    let name = CString::new(path.as_os_str().as_bytes()).expect("a path");
    let opened = unsafe { libc::open(name.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC | flags, 0o600) };
    if opened < 0 {
        // It is only in use, and would be open to us later.
        return std::io::Error::last_os_error().raw_os_error() == Some(libc::ETXTBSY);
    }
    unsafe { libc::close(opened) };
    if flags & libc::O_CREAT != 0 {
        unsafe { libc::unlink(name.as_ptr()) };
    }
    true
}

/// The same for paths that are named, which shows that it can be open at all.
pub(crate) fn write(paths: &[&str]) {
    print(
        "write",
        &any(paths.iter().map(|path| {
            let outcome =
                if writes(Path::new(path)) { open("can be written") } else { closed("not writable") };
            ((*path).to_owned(), outcome)
        })),
    );
}

/// Where in the whole file system anything can be written.
pub(crate) fn write_anywhere() {
    const OURS: &[&str] = &["/workspace", "/tmp", "/home/sandbox", "/dev/shm", "/dev/pts", "/proc"];
    const DEVICES: &[&str] =
        &["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty"];
    let (mut seen, mut found) = (0_usize, Vec::new());
    walk(Path::new("/"), &mut |path, _| {
        seen += 1;
        if OURS.iter().any(|ours| path == Path::new(ours)) {
            return false;
        }
        if !DEVICES.iter().any(|device| path == Path::new(device)) && writes(path) {
            found.push(path.display().to_string());
        }
        true
    });
    let outcome = if !OURS[..4].iter().all(|ours| writes(Path::new(ours))) || seen < 1000 {
        Outcome::Odd(format!("after {seen} files not even our own can be written"))
    } else if found.is_empty() {
        closed(format!("none of {seen} files"))
    } else {
        open(found.join(" "))
    };
    print("write-anywhere", &outcome);
}

/// Files that give capabilities to whoever runs them, by one who is root in a namespace of their own.
pub(crate) fn plant_capabilities() {
    let (uid, gid) = unsafe { (libc::getuid(), libc::getgid()) };
    // Version 2 with the effective bit, then every capability.
    let value: Vec<u8> =
        [0x0200_0001_u32, u32::MAX, 0, u32::MAX, 0].iter().flat_map(|word| word.to_le_bytes()).collect();
    let (data, size) = (value.as_ptr().cast::<libc::c_void>(), value.len());
    let name = c"security.capability".as_ptr();
    let mut done = Vec::new();
    let mut tell = |call: &str, result: i64| done.push(format!("{call} {result}"));
    unsafe {
        tell("unshare", libc::unshare(libc::CLONE_NEWUSER).into());
        let maps = [
            ("setgroups", "deny".to_owned()),
            ("uid_map", format!("0 {uid} 1")),
            ("gid_map", format!("0 {gid} 1")),
        ];
        for (file, text) in maps {
            tell(file, std::fs::write(format!("/proc/self/{file}"), text).map_or(-1, |()| 0));
        }
        let make = |path: &CStr| libc::open(path.as_ptr(), libc::O_CREAT | libc::O_WRONLY, 0o755);
        let (by_path, by_link, by_number, by_new) = (c"cap-path", c"cap-link", c"cap-number", c"cap-new");
        let number = [by_path, by_link, by_number, by_new].map(make)[2];
        tell("setxattr", libc::setxattr(by_path.as_ptr(), name, data, size, 0).into());
        tell("lsetxattr", libc::lsetxattr(by_link.as_ptr(), name, data, size, 0).into());
        tell("fsetxattr", libc::fsetxattr(number, name, data, size, 0).into());
        // struct xattr_args: value, size, flags.
        let args = [data as u64, size as u64];
        let call =
            libc::syscall(463, libc::AT_FDCWD, by_new.as_ptr(), 0, name, args.as_ptr(), size_of_val(&args));
        tell("setxattrat", call);
    }
    println!("{}", done.join(", "));
}

/// Makes files that run with the rights of their owner and group, in every way there is.
pub(crate) fn plant_programs() {
    const MODE: libc::mode_t = 0o6755;
    unsafe {
        libc::umask(0);
        let flags = libc::O_CREAT | libc::O_WRONLY;
        libc::open(c"by-openat".as_ptr(), flags, MODE);
        libc::mknod(c"by-mknod".as_ptr(), libc::S_IFREG | MODE, 0);
        #[cfg(target_arch = "x86_64")]
        {
            libc::syscall(libc::SYS_open, c"by-open".as_ptr(), flags, MODE);
            libc::syscall(libc::SYS_creat, c"by-creat".as_ptr(), MODE);
            libc::syscall(libc::SYS_mknod, c"by-old-mknod".as_ptr(), libc::S_IFREG | MODE, 0);
        }
        // struct open_how: flags, mode, resolve.
        let how = [flags as u64, u64::from(MODE), 0];
        libc::syscall(
            libc::SYS_openat2,
            libc::AT_FDCWD,
            c"by-openat2".as_ptr(),
            how.as_ptr(),
            size_of_val(&how),
        );
        let nameless = libc::open(c".".as_ptr(), libc::O_TMPFILE | libc::O_WRONLY, MODE);
        let by_number = CString::new(format!("/proc/self/fd/{nameless}")).expect("a path");
        libc::linkat(
            libc::AT_FDCWD,
            by_number.as_ptr(),
            libc::AT_FDCWD,
            c"by-tmpfile".as_ptr(),
            libc::AT_SYMLINK_FOLLOW,
        );
        for (name, call) in [(c"by-fchmod", 0), (c"by-fchmodat", 1), (c"by-fchmodat2", 2), (c"by-chmod", 3)] {
            let fd = libc::open(name.as_ptr(), flags, 0o755);
            match call {
                0 => libc::fchmod(fd, MODE).into(),
                1 => libc::fchmodat(libc::AT_FDCWD, name.as_ptr(), MODE, 0).into(),
                2 => libc::syscall(452, libc::AT_FDCWD, name.as_ptr(), MODE, 0),
                _ => libc::chmod(name.as_ptr(), MODE).into(),
            };
        }
    }
}

/// Looks for a text in the names and the content of all files, and in what processes say about themselves.
///
/// The text comes backwards, so that being asked for it does not bring it about.
pub(crate) fn hunt(backwards: &str, roots: &[&str]) {
    const MAX_BYTES: u64 = 1 << 20;
    let marker: String = backwards.chars().rev().collect();
    let mut found = Vec::new();
    let contains = |bytes: &[u8]| bytes.windows(marker.len()).any(|window| window == marker.as_bytes());
    for root in roots {
        walk(Path::new(root), &mut |path, is_folder| {
            let name = path.to_string_lossy();
            if name.starts_with("/proc/") {
                let parts: Vec<&str> = name.split('/').collect();
                let process = parts[2].starts_with(|c: char| c.is_ascii_digit());
                if process && parts.len() == 3 {
                    // Not our own, which holds the marker by being asked for it.
                    return parts[2] != std::process::id().to_string();
                }
                if !process || !["environ", "cmdline", "comm", "mountinfo"].contains(&parts[3]) {
                    return false;
                }
            }
            if root == &"/" && name == "/usr" {
                return false;
            }
            let mut content = Vec::new();
            if !is_folder && let Ok(file) = fs::File::open(path) {
                let _ = file.take(MAX_BYTES).read_to_end(&mut content);
            }
            if contains(name.as_bytes()) || contains(&content) {
                found.push(name.into_owned());
            }
            true
        });
    }
    print("hunt", &if found.is_empty() { closed("nowhere") } else { open(found.join(" ")) });
}

/// Reads files by the paths they have on the host, and by detours.
pub(crate) fn read(paths: &[&str]) {
    let detours = [
        "",
        "/proc/1/root",
        "/proc/1/cwd",
        "/proc/self/root",
        "/workspace/../..",
        "/tmp/..",
        "/proc/1/task/1/root",
    ];
    let ways = paths.iter().flat_map(|path| detours.map(|detour| format!("{detour}{path}")));
    print(
        "read",
        &any(ways.map(|path| {
            let outcome = match fs::read(&path) {
                Ok(content) => open(format!("{} bytes", content.len())),
                Err(error) if error.kind() == std::io::ErrorKind::IsADirectory => open("a folder is there"),
                Err(error) => closed(error.to_string()),
            };
            (path, outcome)
        })),
    );
}

/// Visits files and folders, no links and nothing that would wait for a reader or a writer; `false` leaves a
/// folder out.
fn walk(folder: &Path, visit: &mut dyn FnMut(&Path, bool) -> bool) {
    if !visit(folder, true) {
        return;
    }
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => walk(&path, visit),
            Ok(kind) if kind.is_file() => {
                visit(&path, false);
            }
            _ => {}
        }
    }
}
