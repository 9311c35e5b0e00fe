//! Attempts against PID 1. Harmless to one that does not defend itself: values are set to what they were.

use std::ffi::{CString, c_int, c_long, c_void};
use std::fs;
use std::io::Read;
use std::mem::zeroed;
use std::path::Path;
use std::ptr::{null, null_mut};

use nix::libc::{self, syscall};

use crate::outcome::{Attempt, Outcome, Plain, any, closed, open, refused, refused_with};

const INIT: c_int = 1;
const HIGH_BITS: u64 = 0xdead_beef << 32;

pub(crate) const ALL: &[Attempt] = &[
    ("ptrace-seize-init", Plain::Open, || {
        refused(unsafe { syscall(libc::SYS_ptrace, libc::PTRACE_SEIZE, INIT, 0, 0) })
    }),
    ("ptrace-attach-init", Plain::Open, || {
        let attached = unsafe { syscall(libc::SYS_ptrace, libc::PTRACE_ATTACH, INIT, 0, 0) };
        let outcome = refused(attached);
        if attached == 0 {
            // Or it stays stopped.
            unsafe {
                libc::waitpid(INIT, null_mut(), libc::__WALL);
                libc::ptrace(libc::PTRACE_DETACH, INIT, 0, 0);
            }
        }
        outcome
    }),
    ("read-memory-of-init", Plain::Open, || {
        let mut byte = 0_u8;
        let local = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
        let remote = libc::iovec { iov_base: mapped_address() as *mut c_void, iov_len: 1 };
        refused(unsafe {
            syscall(
                libc::SYS_process_vm_readv,
                INIT,
                &raw const local,
                1_u64,
                &raw const remote,
                1_u64,
                0_u64,
            )
        })
    }),
    ("write-memory-of-init", Plain::Depends, || {
        let mut byte = 0_u8;
        let local = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 0 };
        let remote = libc::iovec { iov_base: mapped_address() as *mut c_void, iov_len: 0 };
        refused(unsafe {
            syscall(
                libc::SYS_process_vm_writev,
                INIT,
                &raw const local,
                1_u64,
                &raw const remote,
                1_u64,
                0_u64,
            )
        })
    }),
    ("take-descriptors-of-init", Plain::Open, || {
        let pidfd = pidfd_of_init();
        any((0..32)
            .map(|fd| (fd.to_string(), refused(unsafe { syscall(libc::SYS_pidfd_getfd, pidfd, fd, 0) }))))
    }),
    ("namespaces-of-init-by-pidfd", Plain::Depends, || {
        let pidfd = pidfd_of_init();
        any([libc::CLONE_NEWNS, libc::CLONE_NEWPID, libc::CLONE_NEWNET, libc::CLONE_NEWUTS]
            .map(|kind| (format!("{kind:#x}"), refused(unsafe { syscall(libc::SYS_setns, pidfd, kind) }))))
    }),
    ("namespaces-of-init-by-path", Plain::Open, || {
        any(["mnt", "pid", "net", "uts", "ipc", "user", "cgroup", "time", "pid_for_children"]
            .map(|name| (name.to_owned(), opens(&format!("/proc/1/ns/{name}"), libc::O_RDONLY))))
    }),
    ("compare-descriptors-with-init", Plain::Depends, || {
        refused(unsafe { syscall(libc::SYS_kcmp, INIT, libc::getpid(), 0, 0, 0) })
    }),
    ("robust-futexes-of-init", Plain::Open, || unsafe {
        let (mut head, mut len) = (null_mut::<c_void>(), 0_usize);
        refused(syscall(libc::SYS_get_robust_list, INIT, &raw mut head, &raw mut len))
    }),
    ("advise-memory-of-init", Plain::Depends, || {
        let range = libc::iovec { iov_base: (mapped_address() & !0xfff) as *mut c_void, iov_len: 4096 };
        refused(unsafe {
            syscall(libc::SYS_process_madvise, pidfd_of_init(), &raw const range, 1_u64, libc::MADV_COLD, 0)
        })
    }),
    ("share-a-core-with-init", Plain::Depends, || {
        // PR_SCHED_CORE, PR_SCHED_CORE_SHARE_TO; a processor without threads does not know it.
        refused_with(unsafe { libc::prctl(62, 2, INIT, 0, 0) }.into(), &[libc::EINVAL, libc::ENODEV])
    }),
    ("read-what-is-private-of-init", Plain::Open, || any(PRIVATE.iter().map(|name| readable(name)))),
    ("follow-links-of-init", Plain::Open, || {
        any(["cwd", "exe", "root"].map(|link| {
            // A link that could be read, or walked through.
            let path = format!("/proc/1/{link}");
            let found = fs::read_link(&path).map(|target| target.display().to_string());
            let outcome = found.map_or_else(|_| opens(&path, libc::O_PATH), open);
            (link.to_owned(), outcome)
        }))
    }),
    ("write-files-of-init", Plain::Open, write_files_of_init),
    ("prlimit-cpu-of-init", Plain::Open, || prlimit(libc::RLIMIT_CPU, 0)),
    ("prlimit-nofile-of-init", Plain::Open, || prlimit(libc::RLIMIT_NOFILE, 0)),
    ("prlimit-every-limit-of-init", Plain::Open, || {
        any((0..16).map(|resource| (resource.to_string(), prlimit(resource, 0))))
    }),
    ("prlimit-with-high-bits", Plain::Open, || prlimit(libc::RLIMIT_NOFILE, HIGH_BITS)),
    ("affinity-of-init", Plain::Open, || unsafe {
        let all = [u64::MAX; 16];
        refused(syscall(libc::SYS_sched_setaffinity, INIT, size_of_val(&all), all.as_ptr()))
    }),
    ("affinity-with-high-bits", Plain::Open, || unsafe {
        let all = [u64::MAX; 16];
        refused(syscall(
            libc::SYS_sched_setaffinity,
            INIT as u64 | HIGH_BITS,
            size_of_val(&all),
            all.as_ptr(),
        ))
    }),
    ("scheduler-of-init", Plain::Open, || unsafe {
        let other: libc::sched_param = zeroed();
        refused(syscall(libc::SYS_sched_setscheduler, INIT, libc::SCHED_OTHER, &raw const other))
    }),
    ("scheduling-parameters-of-init", Plain::Open, || unsafe {
        let other: libc::sched_param = zeroed();
        refused(syscall(libc::SYS_sched_setparam, INIT, &raw const other))
    }),
    ("scheduling-attributes-of-init", Plain::Open, || unsafe {
        // struct sched_attr, version 0: its size, then SCHED_OTHER with everything zero.
        let attributes = [48_u32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        refused(syscall(libc::SYS_sched_setattr, INIT, attributes.as_ptr(), 0))
    }),
    ("priority-of-init", Plain::Open, || {
        refused(unsafe { syscall(libc::SYS_setpriority, libc::PRIO_PROCESS, INIT, 0) })
    }),
    ("priority-of-the-group-of-init", Plain::Depends, || {
        refused(unsafe { syscall(libc::SYS_setpriority, libc::PRIO_PGRP, INIT, 0) })
    }),
    ("priority-of-the-user", Plain::Open, || {
        any([0, unsafe { libc::getuid() }].map(|user| {
            (user.to_string(), refused(unsafe { syscall(libc::SYS_setpriority, libc::PRIO_USER, user, 0) }))
        }))
    }),
    ("io-priority-of-init", Plain::Open, || {
        refused(unsafe { syscall(libc::SYS_ioprio_set, 1, INIT, 2 << 13 | 4) })
    }),
    ("io-priority-of-the-group-of-init", Plain::Depends, || {
        refused(unsafe { syscall(libc::SYS_ioprio_set, 2, INIT, 2 << 13 | 4) })
    }),
    ("io-priority-of-the-user", Plain::Open, || {
        refused(unsafe { syscall(libc::SYS_ioprio_set, 3, libc::getuid(), 2 << 13 | 4) })
    }),
    ("pages-of-init-to-another-node", Plain::Depends, || unsafe {
        let nodes = 1_u64;
        refused(syscall(libc::SYS_migrate_pages, INIT, 64_u64, &raw const nodes, &raw const nodes))
    }),
    ("move-pages-of-init", Plain::Depends, || unsafe {
        let (page, mut status) = (mapped_address() as *const c_void, 0);
        refused(syscall(
            libc::SYS_move_pages,
            INIT,
            1_u64,
            &raw const page,
            null::<c_int>(),
            &raw mut status,
            0,
        ))
    }),
    ("kill-init-with-every-signal", Plain::Open, || {
        any((1..=64).map(|signal| {
            let ways = unsafe {
                [
                    ("kill", refused(syscall(libc::SYS_kill, INIT, signal))),
                    ("kill, high bits", refused(syscall(libc::SYS_kill, INIT as u64 | HIGH_BITS, signal))),
                    ("tkill", refused(syscall(libc::SYS_tkill, INIT, signal))),
                    ("tgkill", refused(syscall(libc::SYS_tgkill, INIT, INIT, signal))),
                    (
                        "sigqueue",
                        refused(syscall(libc::SYS_rt_sigqueueinfo, INIT, signal, forged(signal).as_ptr())),
                    ),
                    (
                        "tgsigqueue",
                        refused(syscall(
                            libc::SYS_rt_tgsigqueueinfo,
                            INIT,
                            INIT,
                            signal,
                            forged(signal).as_ptr(),
                        )),
                    ),
                ]
            };
            (signal.to_string(), any(ways.map(|(name, outcome)| (name.to_owned(), outcome))))
        }))
    }),
    ("signal-init-with-forged-details", Plain::Open, || {
        let (pidfd, signal) = (pidfd_of_init(), libc::SIGTERM);
        refused(unsafe { syscall(libc::SYS_pidfd_send_signal, pidfd, signal, forged(signal).as_ptr(), 0) })
    }),
    ("signal-a-thread-or-group-of-init", Plain::Depends, || {
        // With a full queue, these lose their sender. A kernel that does not know the flags says so.
        any([1, 2, 4].map(|flags| {
            let sent =
                unsafe { syscall(libc::SYS_pidfd_send_signal, pidfd_of_init(), libc::SIGWINCH, 0, flags) };
            (flags.to_string(), refused_with(sent, &[libc::EINVAL]))
        }))
    }),
    ("join-the-group-of-init", Plain::Depends, || refused(unsafe { libc::setpgid(0, INIT) }.into())),
];

/// What only the owner, or a debugger, may read.
const PRIVATE: &[&str] = &[
    "environ",
    "mem",
    "auxv",
    "io",
    "maps",
    "smaps",
    "smaps_rollup",
    "numa_maps",
    "pagemap",
    "stack",
    "syscall",
    "personality",
    "mountstats",
    "fd",
    "fdinfo",
    "map_files",
    "task/1/environ",
    "task/1/mem",
    "task/1/maps",
    "task/1/fd",
];

fn readable(name: &str) -> (String, Outcome) {
    let path = format!("/proc/1/{name}");
    let outcome = if Path::new(&path).is_dir() {
        match fs::read_dir(&path) {
            Ok(entries) => open(format!("{} entries", entries.count())),
            Err(error) => closed(error.to_string()),
        }
    } else if name.ends_with("mem") {
        opens(&path, libc::O_RDWR)
    } else {
        // The page map of a process has terabytes.
        match fs::File::open(&path).and_then(|mut file| file.read(&mut [0; 64])) {
            Ok(0) => closed("it is empty"),
            Ok(read) => open(format!("{read} bytes")),
            Err(error) => closed(error.to_string()),
        }
    };
    (name.to_owned(), outcome)
}

fn write_files_of_init() -> Outcome {
    let mut ways = Vec::new();
    for folder in ["/proc/1", "/proc/1/task/1", "/proc/1/attr"] {
        let Ok(entries) = fs::read_dir(folder) else { continue };
        for entry in entries.flatten() {
            let path = entry.path().display().to_string();
            if entry.file_type().is_ok_and(|kind| kind.is_file()) {
                // These open for everybody; who may write is decided later.
                let later = path.ends_with("/timerslack_ns") || path.contains("/attr/");
                let written = || {
                    fs::write(&path, "50000")
                        .map_or_else(|error| closed(error.to_string()), |()| open("written"))
                };
                ways.push((path.clone(), if later { written() } else { opens(&path, libc::O_WRONLY) }));
            }
        }
    }
    any(ways)
}

/// Sets a limit of init's to what it is, or to ours where it cannot be read.
fn prlimit(resource: libc::__rlimit_resource_t, high_bits: u64) -> Outcome {
    unsafe {
        let mut limit: libc::rlimit64 = zeroed();
        libc::getrlimit64(resource, &raw mut limit);
        let target = INIT as u64 | high_bits;
        syscall(libc::SYS_prlimit64, target, resource, null::<c_void>(), &raw mut limit);
        refused(syscall(libc::SYS_prlimit64, target, resource, &raw const limit, null::<c_void>()))
    }
}

/// An address that init has mapped, where that can be known; an address of ours elsewhere.
fn mapped_address() -> usize {
    let maps = fs::read_to_string("/proc/1/maps").unwrap_or_default();
    let of_init = maps.lines().find(|line| line.contains(" r")).and_then(|line| line.split('-').next());
    let of_init = of_init.and_then(|address| usize::from_str_radix(address, 16).ok());
    of_init.unwrap_or(std::ptr::from_ref(&PRIVATE).addr())
}

pub(crate) fn pidfd_of_init() -> c_long {
    unsafe { syscall(libc::SYS_pidfd_open, INIT, 0) }
}

pub(crate) fn opens(path: &str, flags: c_int) -> Outcome {
    let name = CString::new(path).expect("a path without zero bytes");
    refused(unsafe { libc::open(name.as_ptr(), flags | libc::O_NONBLOCK | libc::O_NOCTTY) }.into())
}

/// A signal whose sender claims to be nobody, with a code that `rt_sigqueueinfo` accepts.
pub(crate) fn forged(signal: c_int) -> [u32; 32] {
    let mut info = [0; 32];
    info[0] = signal.cast_unsigned();
    info[2] = libc::SI_QUEUE.cast_unsigned();
    info
}

/// Attempts on a process of the host by its number there, such as one of another sandbox.
pub(crate) fn another_process(pid: &str) {
    let number: c_int = pid.parse().expect("a pid");
    let gone = [libc::ESRCH, libc::ENOENT];
    let outcomes = unsafe {
        [
            ("signal", refused_with(syscall(libc::SYS_kill, number, 0), &gone)),
            ("ptrace", refused_with(syscall(libc::SYS_ptrace, libc::PTRACE_SEIZE, number, 0, 0), &gone)),
            ("pidfd", refused_with(syscall(libc::SYS_pidfd_open, number, 0), &gone)),
            (
                "limits",
                refused_with(
                    syscall(libc::SYS_prlimit64, number, 7, null::<c_void>(), null::<c_void>()),
                    &gone,
                ),
            ),
            ("priority", refused_with(syscall(libc::SYS_setpriority, libc::PRIO_PROCESS, number, 1), &gone)),
            ("affinity", {
                let all = [u64::MAX; 16];
                refused_with(syscall(libc::SYS_sched_setaffinity, number, 128, all.as_ptr()), &gone)
            }),
        ]
    };
    crate::outcome::print("reach it", &any(outcomes.map(|(name, outcome)| (name.to_owned(), outcome))));
}
