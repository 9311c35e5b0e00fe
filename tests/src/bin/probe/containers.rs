//! The classic ways out of containers: what a runtime forgets to cover, hands in by mistake, or can be made to touch.

use std::ffi::{CStr, CString, c_int};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::ptr::null;

use nix::libc::{self, syscall};

use crate::init::opens;
use crate::outcome::{Attempt, Outcome, Plain, any, closed, open, refused, refused_with};

pub(crate) const ALL: &[Attempt] = &[
    ("programs-that-the-kernel-starts", Plain::Depends, || {
        any([
            "/proc/sys/kernel/core_pattern",
            "/proc/sys/kernel/modprobe",
            "/proc/sys/kernel/hotplug",
            "/proc/sys/kernel/poweroff_cmd",
            "/proc/sys/kernel/usermodehelper/bset",
            "/proc/sys/fs/binfmt_misc/register",
            "/sys/kernel/uevent_helper",
            "/proc/1/root/proc/sys/kernel/core_pattern",
            "/proc/self/root/proc/sys/kernel/core_pattern",
        ]
        .map(writes))
    }),
    ("settings-of-the-kernel", Plain::Depends, || {
        any([
            "/proc/sysrq-trigger",
            "/proc/sys/kernel/sysrq",
            "/proc/sys/kernel/hostname",
            "/proc/sys/kernel/ns_last_pid",
            "/proc/sys/kernel/panic",
            "/proc/sys/vm/overcommit_memory",
            "/proc/sys/vm/drop_caches",
            "/proc/sys/net/ipv4/ip_forward",
            "/proc/sys/user/max_user_namespaces",
            "/proc/irq/default_smp_affinity",
            "/proc/bus/pci/devices",
            "/proc/mtrr",
        ]
        .map(writes))
    }),
    ("control-groups", Plain::Depends, control_groups),
    ("disks-of-the-host", Plain::Depends, disks),
    ("devices-of-the-host", Plain::Depends, || {
        any([
            "/dev/kvm",
            "/dev/fuse",
            "/dev/net/tun",
            "/dev/mem",
            "/dev/port",
            "/dev/vhost-net",
            "/dev/loop-control",
        ]
        .map(|path| (path.to_owned(), missing(path))))
    }),
    ("files-by-handles-of-the-root", Plain::Depends, handles),
    ("the-runtimes-binary", Plain::Depends, || any(processes().into_iter().map(|pid| executable(&pid)))),
    ("folders-of-the-runtime", Plain::Depends, working_folders),
    ("descriptors-of-others", Plain::Depends, descriptors_of_others),
    ("sockets-of-engines", Plain::Depends, || {
        any([
            "/run/docker.sock",
            "/var/run/docker.sock",
            "/run/podman/podman.sock",
            "/run/containerd/containerd.sock",
            "/run/crio/crio.sock",
            "/run/dbus/system_bus_socket",
            "/run/systemd/private",
            "/run/user",
        ]
        .map(|path| (path.to_owned(), missing(path))))
    }),
    ("state-of-the-runtime", Plain::Depends, || {
        any([
            "/run/crun",
            "/run/runc",
            "/config.json",
            "/../config.json",
            "/../state",
            "/../binds",
            "/run/agent/spec.json",
            "/.dockerenv",
        ]
        .map(|path| (path.to_owned(), missing(path))))
    }),
    ("processes-of-the-host", Plain::Depends, others),
    ("threads-of-the-kernel", Plain::Depends, threads_of_the_kernel),
    ("namespaces-of-every-process", Plain::Depends, namespaces),
    ("file-systems-of-the-kernel", Plain::Depends, || {
        any([
            c"proc",
            c"sysfs",
            c"cgroup",
            c"cgroup2",
            c"debugfs",
            c"tracefs",
            c"securityfs",
            c"bpf",
            c"binfmt_misc",
            c"devtmpfs",
            c"devpts",
            c"mqueue",
            c"configfs",
            c"fusectl",
            c"overlay",
        ]
        .map(|kind| (kind.to_string_lossy().into_owned(), mounts(kind, c"/tmp"))))
    }),
];

/// Opening is no writing: nothing changes where it works.
fn writes(path: &str) -> (String, Outcome) {
    let outcome = match opens(path, libc::O_WRONLY) {
        Outcome::Odd(why) => closed(format!("not there: {why}")),
        // What is covered is covered with this.
        Outcome::Open(_) if is_null(Path::new(path)) => closed("it is /dev/null"),
        other => other,
    };
    (path.to_owned(), outcome)
}

/// Whether a path leads to /dev/null, with which runtimes cover what is not to be read.
pub(crate) fn is_null(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| found.rdev() == libc::makedev(1, 3))
}

fn missing(path: &str) -> Outcome {
    match fs::symlink_metadata(path) {
        Ok(_) => open("it is there"),
        Err(error) => closed(error.to_string()),
    }
}

fn mounts(kind: &CStr, at: &CStr) -> Outcome {
    let result = unsafe { libc::mount(kind.as_ptr(), at.as_ptr(), kind.as_ptr(), 0, null()) };
    refused_with(result.into(), &[libc::ENODEV])
}

/// A group's `release_agent` is executed by the kernel, as root of the machine.
fn control_groups() -> Outcome {
    let mut tried: Vec<(String, Outcome)> = Vec::new();
    for controller in [c"memory", c"rdma", c"devices", c"none,name=escape"] {
        let mounted = unsafe {
            libc::mount(
                c"cgroup".as_ptr(),
                c"/tmp".as_ptr(),
                c"cgroup".as_ptr(),
                0,
                controller.as_ptr().cast(),
            )
        };
        tried
            .push((controller.to_string_lossy().into_owned(), refused_with(mounted.into(), &[libc::ENODEV])));
    }
    for folder in ["/sys/fs/cgroup", "/proc/1/root/sys/fs/cgroup", "/tmp"] {
        for file in ["release_agent", "notify_on_release", "cgroup.procs", "devices.allow", "tasks"] {
            tried.push(writes(&format!("{folder}/{file}")));
        }
    }
    any(tried)
}

/// Nodes of every disk that the kernel names, in every place that can be written to.
fn disks() -> Outcome {
    let partitions = fs::read_to_string("/proc/partitions").unwrap_or_default();
    let mut numbers: Vec<(u32, u32)> = partitions
        .lines()
        .filter_map(|line| {
            let mut words = line.split_ascii_whitespace().map(str::parse);
            Some((words.next()?.ok()?, words.next()?.ok()?))
        })
        .collect();
    // Also where the list is covered.
    numbers.extend([(254, 0), (8, 0), (259, 0), (253, 0)]);
    let mut tried = Vec::new();
    for (major, minor) in numbers.into_iter().take(32) {
        for place in ["/tmp", "/dev/shm", "/dev", "/workspace", "/home/sandbox"] {
            let path = CString::new(format!("{place}/escape-disk-{major}-{minor}")).expect("a path");
            let made =
                unsafe { libc::mknod(path.as_ptr(), libc::S_IFBLK | 0o666, libc::makedev(major, minor)) };
            let outcome = refused_with(made.into(), &[libc::ENOENT]);
            unsafe { libc::unlink(path.as_ptr()) };
            tried.push((path.to_string_lossy().into_owned(), outcome));
        }
    }
    any(tried)
}

/// A handle is a number that the file system has for a file. Its root has the same one everywhere, whatever is mounted.
fn handles() -> Outcome {
    const INODE_32: c_int = 1;
    const ROOT_INODES: [u32; 4] = [2, 32, 64, 128];
    let mut tried = Vec::new();
    for place in [c"/workspace", c"/usr", c"/home/sandbox", c"/tmp", c"/run/agent/init", c"/etc/hostname"] {
        let base = unsafe { libc::open(place.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) };
        for inode in ROOT_INODES {
            // Size, type, inode, generation.
            let mut handle = [8_u32, INODE_32 as u32, inode, 0];
            let opened =
                unsafe { syscall(libc::SYS_open_by_handle_at, base, handle.as_mut_ptr(), libc::O_RDONLY) };
            tried.push((format!("{} {inode}", place.to_string_lossy()), refused(opened)));
        }
    }
    any(tried)
}

/// What a process executes can be written through its link, once nobody executes it any more: so the way of a runtime into
/// the sandbox must not be one that leads out.
fn executable(pid: &str) -> (String, Outcome) {
    let link = format!("/proc/{pid}/exe");
    let name = CString::new(link.clone()).expect("a path");
    let outcome = unsafe {
        let handle = libc::open(name.as_ptr(), libc::O_PATH | libc::O_CLOEXEC);
        if handle < 0 {
            return (link, refused(-1));
        }
        let again = CString::new(format!("/proc/self/fd/{handle}")).expect("a path");
        match refused_with(libc::open(again.as_ptr(), libc::O_WRONLY).into(), &[libc::ETXTBSY]) {
            // It is only in use, and would be open to us later.
            Outcome::Closed(_) if libc::access(again.as_ptr(), libc::W_OK) == 0 && !is_own(&link) => {
                open("may be written")
            }
            other => other,
        }
    };
    (link, outcome)
}

/// Whether it lies in a place of the sandbox's own.
fn is_own(link: &str) -> bool {
    let target = fs::read_link(link).unwrap_or_default();
    ["/workspace", "/tmp", "/home/sandbox", "/dev/shm"].iter().any(|own| target.starts_with(own))
}

/// A folder of the host as the working folder of anything is a way up to its root.
fn working_folders() -> Outcome {
    let mut tried = Vec::new();
    for pid in processes() {
        for link in ["cwd", "root"] {
            let up = PathBuf::from(format!("/proc/{pid}/{link}")).join("../".repeat(32));
            tried.push((format!("{pid} {link}"), is_other_root(&up)));
        }
    }
    for number in 0..64 {
        let up = PathBuf::from(format!("/proc/self/fd/{number}")).join("../".repeat(32));
        tried.push((format!("descriptor {number}"), is_other_root(&up)));
    }
    any(tried)
}

fn is_other_root(path: &Path) -> Outcome {
    let root = fs::metadata("/").map(|found| (found.dev(), found.ino())).ok();
    match fs::metadata(path) {
        Ok(found) if Some((found.dev(), found.ino())) == root => closed("our own root"),
        Ok(found) => open(format!("another root: {} {}", found.dev(), found.ino())),
        Err(error) => closed(error.to_string()),
    }
}

/// Everything that any process has open, and is a folder or a file of no place of ours.
fn descriptors_of_others() -> Outcome {
    let mut tried = Vec::new();
    for pid in processes().into_iter().filter(|pid| !is_ours(pid)) {
        let folder = format!("/proc/{pid}/fd");
        match fs::read_dir(&folder) {
            Err(error) => tried.push((folder, closed(error.to_string()))),
            Ok(entries) => {
                for entry in entries.flatten() {
                    let opened = fs::File::open(entry.path());
                    let is_folder =
                        opened.is_ok_and(|file| file.metadata().is_ok_and(|found| found.is_dir()));
                    let path = entry.path().display().to_string();
                    tried.push((path, if is_folder { open("a folder") } else { closed("no folder") }));
                }
            }
        }
    }
    if tried.is_empty() { closed("there is nobody else") } else { any(tried) }
}

/// Nobody is there whose parent is not: PID 1 has none. Threads of the kernel are judged by themselves.
fn others() -> Outcome {
    let all = processes();
    let strange: Vec<String> = all
        .iter()
        .filter(|pid| !is_of_the_kernel(pid))
        .filter(|pid| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let parent = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)).unwrap_or("0");
            let expected = if *pid == "1" { parent == "0" } else { all.iter().any(|one| one == parent) };
            // It may have ended since, and its parent with it.
            !expected && Path::new(&format!("/proc/{pid}")).exists() && parent == "0"
        })
        .cloned()
        .collect();
    if strange.is_empty() {
        closed(format!("{} processes, all of init's", all.len()))
    } else {
        open(strange.join(" "))
    }
}

fn threads_of_the_kernel() -> Outcome {
    let threads: Vec<String> = processes().into_iter().filter(|pid| is_of_the_kernel(pid)).collect();
    if threads.is_empty() { closed("there are none") } else { open(threads.join(" ")) }
}

/// By a flag that no program can set for itself: PF_KTHREAD.
pub(crate) fn is_of_the_kernel(pid: &str) -> bool {
    const KTHREAD: u64 = 0x0020_0000;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let flags = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(6)?.parse::<u64>().ok());
    flags.is_some_and(|flags| flags & KTHREAD != 0)
}

/// Looks for processes with this word among their arguments. It comes backwards, so that asking is no answer.
pub(crate) fn processes_with(backwards: &str) {
    let word: String = backwards.chars().rev().collect();
    let found: Vec<String> = processes()
        .into_iter()
        .filter(|pid| {
            let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            command.split(|byte| *byte == 0).any(|part| part == word.as_bytes())
        })
        .collect();
    let outcome = if found.is_empty() { closed("none") } else { open(found.join(" ")) };
    crate::outcome::print("processes-with", &outcome);
}

fn namespaces() -> Outcome {
    let kinds = ["mnt", "pid", "net", "uts", "ipc", "user", "cgroup", "time"];
    let mut tried = Vec::new();
    for pid in processes() {
        for kind in kinds {
            let path = CString::new(format!("/proc/{pid}/ns/{kind}")).expect("a path");
            let entered = unsafe {
                let fd = libc::open(path.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC);
                // Entering the user namespace that one is in is always an error, and no refusal.
                if fd < 0 { -1 } else { libc::setns(fd, 0) }
            };
            let also = [libc::EINVAL, libc::ENOENT];
            tried.push((path.to_string_lossy().into_owned(), refused_with(entered.into(), &also)));
        }
    }
    any(tried)
}

fn processes() -> Vec<String> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name());
    let numbers = names.filter(|name| name.as_bytes().iter().all(u8::is_ascii_digit));
    numbers.map(|name| name.to_string_lossy().into_owned()).collect()
}

/// Whether a process may be looked into because it is this very one, or its parent: the probe.
fn is_ours(pid: &str) -> bool {
    std::process::id().to_string() == pid || unsafe { libc::getppid() }.to_string() == pid
}
