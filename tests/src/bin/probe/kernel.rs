//! Attempts on the kernel: namespaces, mounts, privileges, and what it offers to everybody.

use std::ffi::{c_int, c_long, c_void};
use std::fs;
use std::ptr::{null, null_mut};

use nix::libc::{self, syscall};

use crate::outcome::{Attempt, Outcome, Plain, any, closed, open, refused};

pub(crate) const ALL: &[Attempt] = &[
    ("unshare-user", Plain::Open, || refused(unsafe { libc::unshare(libc::CLONE_NEWUSER) }.into())),
    ("unshare-anything-else", Plain::Closed, || {
        let kinds = [
            libc::CLONE_NEWNS,
            libc::CLONE_NEWPID,
            libc::CLONE_NEWNET,
            libc::CLONE_NEWUTS,
            libc::CLONE_NEWIPC,
        ];
        any(kinds.map(|kind| (format!("{kind:#x}"), refused(unsafe { libc::unshare(kind) }.into()))))
    }),
    ("clone-user", Plain::Open, || {
        let flags = libc::CLONE_NEWUSER | libc::SIGCHLD;
        cloned(unsafe {
            syscall(libc::SYS_clone, flags, null::<c_void>(), null::<c_void>(), null::<c_void>(), 0)
        })
    }),
    ("clone3-user", Plain::Open, || {
        let mut arguments = [0_u64; 11];
        arguments[0] = libc::CLONE_NEWUSER as u64;
        arguments[4] = libc::SIGCHLD as u64;
        cloned(unsafe { syscall(libc::SYS_clone3, arguments.as_ptr(), size_of_val(&arguments)) })
    }),
    ("mount-in-a-namespace-of-its-own", Plain::Open, || unsafe {
        if libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNS) != 0 {
            return refused(-1);
        }
        mount(c"tmpfs", c"/tmp", 0)
    }),
    ("map-ids", Plain::Closed, || {
        any(["uid_map", "gid_map", "setgroups"].map(|file| {
            let written =
                fs::write(format!("/proc/self/{file}"), if file == "setgroups" { "allow" } else { "0 0 1" });
            (file.to_owned(), written.map_or_else(|error| closed(error.to_string()), |()| open("written")))
        }))
    }),
    ("enter-own-namespaces-again", Plain::Closed, || unsafe {
        any([c"/proc/self/ns/mnt", c"/proc/self/ns/net", c"/proc/self/ns/pid", c"/proc/self/ns/uts"].map(
            |path| {
                let fd = libc::open(path.as_ptr(), libc::O_RDONLY);
                (path.to_string_lossy().into_owned(), refused(libc::setns(fd, 0).into()))
            },
        ))
    }),
    ("mount-tmpfs", Plain::Closed, || mount(c"tmpfs", c"/tmp", 0)),
    ("mount-proc", Plain::Closed, || mount(c"proc", c"/tmp", 0)),
    ("bind-over-init", Plain::Closed, || unsafe {
        refused(libc::mount(c"/tmp".as_ptr(), c"/run".as_ptr(), null(), libc::MS_BIND, null()).into())
    }),
    ("remount-read-write", Plain::Closed, || unsafe {
        any([c"/", c"/usr", c"/proc/sys", c"/dev", c"/etc"].map(|at| {
            let flags = libc::MS_REMOUNT | libc::MS_BIND;
            (
                at.to_string_lossy().into_owned(),
                refused(libc::mount(null(), at.as_ptr(), null(), flags, null()).into()),
            )
        }))
    }),
    ("unmount-what-covers", Plain::Closed, || unsafe {
        any([c"/tmp", c"/proc", c"/dev", c"/"].map(|at| {
            (at.to_string_lossy().into_owned(), refused(libc::umount2(at.as_ptr(), libc::MNT_DETACH).into()))
        }))
    }),
    ("new-mount-interface", Plain::Closed, || unsafe {
        const OPEN_TREE_CLONE: c_int = 1;
        let root = c"/".as_ptr();
        any([
            ("open_tree", refused(syscall(libc::SYS_open_tree, libc::AT_FDCWD, root, OPEN_TREE_CLONE))),
            ("fsopen", refused(syscall(libc::SYS_fsopen, c"tmpfs".as_ptr(), 0))),
            ("fspick", refused(syscall(libc::SYS_fspick, libc::AT_FDCWD, root, 0))),
            (
                "move_mount",
                refused(syscall(
                    libc::SYS_move_mount,
                    libc::AT_FDCWD,
                    c"/tmp".as_ptr(),
                    libc::AT_FDCWD,
                    c"/run".as_ptr(),
                    0,
                )),
            ),
            (
                "mount_setattr",
                refused(syscall(libc::SYS_mount_setattr, libc::AT_FDCWD, root, 0, [0_u64; 4].as_ptr(), 32)),
            ),
        ]
        .map(|(name, outcome)| (name.to_owned(), outcome)))
    }),
    ("pivot-root", Plain::Closed, || {
        refused(unsafe { syscall(libc::SYS_pivot_root, c"/".as_ptr(), c"/tmp".as_ptr()) })
    }),
    ("chroot", Plain::Closed, || refused(unsafe { libc::chroot(c"/".as_ptr()) }.into())),
    ("open-by-handle", Plain::Closed, open_by_handle),
    ("host-name", Plain::Closed, || unsafe {
        any([
            ("host".to_owned(), refused(libc::sethostname(c"escaped".as_ptr(), 7).into())),
            ("domain".to_owned(), refused(libc::setdomainname(c"escaped".as_ptr(), 7).into())),
        ])
    }),
    ("clock", Plain::Closed, || unsafe {
        let mut now: libc::timespec = std::mem::zeroed();
        libc::clock_gettime(libc::CLOCK_REALTIME, &raw mut now);
        refused(libc::clock_settime(libc::CLOCK_REALTIME, &raw const now).into())
    }),
    // A command that no kernel knows: past the check of privileges, there is only EINVAL.
    ("reboot", Plain::Closed, || {
        refused(unsafe { syscall(libc::SYS_reboot, 0xfee1_dead_u32, 672_274_793, 0xdead, 0) })
    }),
    ("swap", Plain::Closed, || refused(unsafe { libc::swapoff(c"/none".as_ptr()) }.into())),
    ("process-accounting", Plain::Closed, || refused(unsafe { libc::acct(null()) }.into())),
    #[cfg(target_arch = "x86_64")]
    ("ports", Plain::Closed, || refused(unsafe { syscall(libc::SYS_iopl, 3) })),
    ("kernel-modules", Plain::Closed, || unsafe {
        any([
            (
                "init_module".to_owned(),
                refused(syscall(libc::SYS_init_module, null::<c_void>(), 0, c"".as_ptr())),
            ),
            ("finit_module".to_owned(), refused(syscall(libc::SYS_finit_module, 0, c"".as_ptr(), 0))),
            ("delete_module".to_owned(), refused(syscall(libc::SYS_delete_module, c"none".as_ptr(), 0))),
            ("kexec_load".to_owned(), refused(syscall(libc::SYS_kexec_load, 0, 0, null::<c_void>(), 0))),
        ])
    }),
    ("kernel-log", Plain::Depends, || refused(unsafe { syscall(libc::SYS_syslog, 10, null::<c_void>(), 0) })),
    ("keyrings", Plain::Open, || unsafe {
        any([
            ("keyctl".to_owned(), refused(syscall(libc::SYS_keyctl, 0, -3, 1))),
            (
                "add_key".to_owned(),
                refused(syscall(libc::SYS_add_key, c"user".as_ptr(), c"x".as_ptr(), c"x".as_ptr(), 1, -2)),
            ),
            (
                "request_key".to_owned(),
                refused(syscall(libc::SYS_request_key, c"user".as_ptr(), c"x".as_ptr(), null::<c_void>(), 0)),
            ),
        ])
    }),
    ("bpf", Plain::Depends, || refused(unsafe { syscall(libc::SYS_bpf, 0, null::<c_void>(), 0) })),
    ("perf-events", Plain::Depends, || {
        refused(unsafe { syscall(libc::SYS_perf_event_open, null::<c_void>(), 1, -1, -1, 0) })
    }),
    ("userfaultfd", Plain::Open, || refused(unsafe { syscall(libc::SYS_userfaultfd, 1) })),
    ("io-uring", Plain::Depends, || {
        let mut parameters = [0_u64; 15];
        refused(unsafe { syscall(libc::SYS_io_uring_setup, 1, parameters.as_mut_ptr()) })
    }),
    ("socket-to-the-machines-host", Plain::Depends, || socket(libc::AF_VSOCK, libc::SOCK_STREAM, 0)),
    ("packet-socket", Plain::Closed, || socket(libc::AF_PACKET, libc::SOCK_RAW, 0)),
    ("raw-socket", Plain::Closed, || socket(libc::AF_INET, libc::SOCK_RAW, 1)),
    ("network-device-down", Plain::Closed, || unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        request.ifr_name[..2].copy_from_slice(&[b'l' as libc::c_char, b'o' as libc::c_char]);
        let fd = libc::socket(libc::AF_INET, libc::SOCK_DGRAM, 0);
        libc::ioctl(fd, libc::SIOCGIFFLAGS, &raw mut request);
        refused(libc::ioctl(fd, libc::SIOCSIFFLAGS, &raw const request).into())
    }),
    ("device-nodes", Plain::Closed, || unsafe {
        any([("memory", libc::S_IFCHR, 1, 1), ("null", libc::S_IFCHR, 1, 3), ("disk", libc::S_IFBLK, 254, 0)]
            .map(|(name, kind, major, minor)| {
                let node =
                    libc::mknod(c"/tmp/escape-node".as_ptr(), kind | 0o600, libc::makedev(major, minor));
                (name.to_owned(), refused(node.into()))
            }))
    }),
    ("become-root", Plain::Closed, || unsafe {
        any([
            ("uid".to_owned(), refused(libc::setresuid(0, 0, 0).into())),
            ("gid".to_owned(), refused(libc::setresgid(0, 0, 0).into())),
            ("groups".to_owned(), refused(libc::setgroups(0, null()).into())),
        ]
        .map(invalid_is_refused))
    }),
    ("give-a-file-to-root", Plain::Closed, || {
        let path = format!("/tmp/escape-{}", std::process::id());
        let changed = fs::write(&path, "").and_then(|()| std::os::unix::fs::chown(&path, Some(0), Some(0)));
        let _ = fs::remove_file(&path);
        changed.map_or_else(|error| closed(error.to_string()), |()| open("it belongs to root"))
    }),
    ("keep-or-raise-capabilities", Plain::Depends, capabilities),
    ("gain-privileges-by-exec", Plain::Closed, || match status("NoNewPrivs").as_str() {
        "1" => closed("no_new_privs is set"),
        other => open(other),
    }),
    ("run-without-the-filter", Plain::Open, || match status("Seccomp").as_str() {
        "2" => closed("a filter is on"),
        other => open(format!("Seccomp: {other}")),
    }),
    ("switch-the-filter-off-by-debugging", Plain::Closed, || unsafe {
        const PTRACE_O_SUSPEND_SECCOMP: c_int = 1 << 21;
        let child = libc::fork();
        if child == 0 {
            libc::pause();
        }
        let outcome =
            refused(syscall(libc::SYS_ptrace, libc::PTRACE_SEIZE, child, 0, PTRACE_O_SUSPEND_SECCOMP));
        libc::kill(child, libc::SIGKILL);
        outcome
    }),
    ("type-into-own-terminal", Plain::Depends, || on_a_terminal(libc::TIOCSTI, c"x".as_ptr())),
    ("type-into-own-terminal-with-high-bits", Plain::Depends, || {
        on_a_terminal(libc::TIOCSTI | 0xdead_beef << 32, c"x".as_ptr())
    }),
    ("paste-into-the-console", Plain::Depends, || on_a_terminal(libc::TIOCLINUX, c"\x02".as_ptr())),
    #[cfg(target_arch = "x86_64")]
    ("calls-of-32-bits", Plain::Depends, || {
        const PRLIMIT64: i64 = 340;
        let mut result = PRLIMIT64;
        unsafe {
            // RBX belongs to the compiler.
            std::arch::asm!(
                "push rbx", "mov ebx, 1", "int 0x80", "pop rbx",
                inlateout("rax") result, in("rcx") 7_i64, in("rdx") 0_i64, in("rsi") 0_i64,
            );
        }
        open(format!("prlimit of init returned {result}"))
    }),
    #[cfg(target_arch = "x86_64")]
    ("calls-of-x32", Plain::Depends, || refused(unsafe { syscall(0x4000_0000 | libc::SYS_getpid) })),
];

/// A privileged call that is refused as it should, or whose id has no meaning in this user namespace.
fn invalid_is_refused((name, outcome): (String, Outcome)) -> (String, Outcome) {
    match outcome {
        Outcome::Odd(why) if why.contains("Invalid argument") => (name, closed("the id does not exist here")),
        other => (name, other),
    }
}

fn cloned(pid: c_long) -> Outcome {
    if pid == 0 {
        unsafe { libc::_exit(0) };
    }
    refused(pid)
}

fn mount(kind: &std::ffi::CStr, at: &std::ffi::CStr, flags: u64) -> Outcome {
    refused(unsafe { libc::mount(kind.as_ptr(), at.as_ptr(), kind.as_ptr(), flags, null()) }.into())
}

fn socket(family: c_int, kind: c_int, protocol: c_int) -> Outcome {
    refused(unsafe { libc::socket(family, kind, protocol) }.into())
}

/// The way out of containers of 2014: a handle of a file that no path leads to.
fn open_by_handle() -> Outcome {
    unsafe {
        let mut handle = [0_u32; 34];
        handle[0] = 128;
        let mut mount = 0;
        let root = libc::open(c"/usr".as_ptr(), libc::O_RDONLY | libc::O_DIRECTORY);
        syscall(
            libc::SYS_name_to_handle_at,
            root,
            c"".as_ptr(),
            handle.as_mut_ptr(),
            &raw mut mount,
            libc::AT_EMPTY_PATH,
        );
        refused(syscall(libc::SYS_open_by_handle_at, root, handle.as_mut_ptr(), libc::O_RDONLY))
    }
}

fn capabilities() -> Outcome {
    let mut held: Vec<(String, Outcome)> = ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"]
        .map(|set| {
            let value = status(set);
            let none = value.bytes().all(|digit| digit == b'0');
            (set.to_owned(), if none { closed("empty") } else { open(value) })
        })
        .into();
    unsafe {
        // Version 3, ourselves; then all of them, three times.
        let (header, all) = ([0x2008_0522_u32, 0], [u32::MAX; 6]);
        held.push(("capset".into(), refused(syscall(libc::SYS_capset, header.as_ptr(), all.as_ptr()))));
        let raise = libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE, 21, 0, 0);
        held.push(("ambient".into(), refused(raise.into())));
    }
    any(held)
}

/// Makes a terminal its own controlling one, as it has every right to, and then tries more.
fn on_a_terminal(request: libc::Ioctl, argument: *const libc::c_char) -> Outcome {
    unsafe {
        let mut primary = 0;
        let mut terminal = 0;
        libc::setsid();
        if libc::openpty(&raw mut primary, &raw mut terminal, null_mut(), null(), null()) != 0 {
            return Outcome::Odd(std::io::Error::last_os_error().to_string());
        }
        libc::ioctl(terminal, libc::TIOCSCTTY, 0);
        match refused(libc::ioctl(terminal, request, argument).into()) {
            // Not a console.
            Outcome::Odd(why) if request == libc::TIOCLINUX => closed(why),
            other => other,
        }
    }
}

fn status(field: &str) -> String {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.unwrap_or("unknown").trim().to_owned()
}

/// Who runs this, and with what capabilities: for programs that carry more than their caller has.
pub(crate) fn print_privileges() {
    let mine = unsafe { (libc::getuid(), libc::geteuid()) };
    println!("uid {} euid {} capabilities {}", mine.0, mine.1, status("CapEff"));
}

/// System V shared memory, which is in no file system.
pub(crate) fn shared_memory(key: &str, what: &str) {
    let key: c_int = key.parse().expect("a key");
    unsafe {
        match what {
            "create" => {
                let id = libc::shmget(key, 4096, libc::IPC_CREAT | 0o666);
                println!("{}", if id >= 0 { "created" } else { "failed" });
            }
            "remove" => {
                libc::shmctl(libc::shmget(key, 0, 0), libc::IPC_RMID, null_mut());
            }
            _ => println!("{}", if libc::shmget(key, 0, 0) >= 0 { "OPEN" } else { "closed" }),
        }
    }
}
