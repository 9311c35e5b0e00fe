//! qemu, taken over by its machine: what a process in its place can see, reach and change, and what it gets by talking to the
//! parts beside it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::FromRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use nix::libc;

use crate::files::{self, path};
use crate::fuse::Share;
use crate::report::{Report, called};

/// Descriptors that qemu has: what the machine prints, what init reports, the kernel, and the share.
const CONSOLE: i32 = 3;
const REPORT: i32 = 4;
const KERNEL: i32 = 6;
const SHARE: i32 = 9;

/// Programs that a machine's parts are.
const PARTS: [&str; 4] = ["qemu-system-x86_64", "virtiofsd", "vhost-device-vsock", "passt"];

/// For who is called.
const CALL_WITHIN: Duration = Duration::from_secs(3);

/// The keyring of a session, and what is in it.
const SESSION: i32 = -3;
const KEY: &std::ffi::CStr = c"agent-shim-tests";

const PROJECT: &str = "/tree/workspace";

/// What a start that fails must not pass on.
const HOSTILE: &str =
    "\u{1b}]0;taken\u{7}\u{1b}[2J\u{9b}31m\r\nagent-init: error: \u{1b}[31mall is well\u{1b}c\r\n";

pub(crate) fn run(args: &[String]) -> ExitCode {
    let project = Path::new(PROJECT);
    let told = fs::read_to_string(project.join("targets")).unwrap_or_default();
    let mut told = told.lines().map(str::to_owned);
    let mut next = || told.next().unwrap_or_default();
    let (marker, abstract_name, port) = (next(), next(), next());
    let targets: Vec<String> = told.collect();
    Report::to_file(&project.join("part"), |report| {
        report.tell(
            "control: our own project",
            fs::write(project.join("written"), "x").map(|()| String::new()),
        );
        report.tell("our own memory by its name", writes("/proc/self/mem"));
        files::attempt_all(&project.join("attempts"), report);
        report
            .tell("making a mess", files::litter(&project.join("litter"), &targets).map(|()| String::new()));
        report.tell("the marker through links", files::find(&project.join("litter"), &marker));
        for (name, outcome) in places(&targets, &marker) {
            report.tell(&name, outcome);
        }
        for (name, outcome) in rights() {
            report.tell(name, outcome);
        }
        for (name, outcome) in networks(&abstract_name, &port) {
            report.tell(name, outcome);
        }
        report.tell("memory of passt or the first process", memory_of_others());
        if args.iter().any(|arg| arg.contains("vhost-user-fs")) {
            through_the_share(report, &marker, &targets);
        }
    });
    let line = |number| unsafe { File::from_raw_fd(number) };
    let _ = line(REPORT).write_all(b"{\"child-pid\": 1}\n{\"died\": \"\\u001b[2J\"}\n{\"exit-code\": 0}\n");
    let _ = line(CONSOLE).write_all(HOSTILE.as_bytes());
    eprint!("{HOSTILE}");
    ExitCode::from(9)
}

/// Everything that is to be seen, and the host's files by whatever leads there.
fn places(targets: &[String], marker: &str) -> Vec<(String, io::Result<String>)> {
    let mut tried = Vec::new();
    let names: Vec<String> = fs::read_dir("/")
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    // What a program needs to run, and what is the machine's own.
    let known = [
        "bin", "dev", "lib", "lib32", "lib64", "libx32", "nix", "gnu", "own", "proc", "run", "sbin", "tmp",
        "tree", "usr", "etc",
    ];
    // A program that lies elsewhere is bound in alone, and is there with its folders.
    let others: Vec<String> = names
        .iter()
        .filter(|name| !known.contains(&name.as_str()))
        .flat_map(|name| files::below(&Path::new("/").join(name)))
        .filter(|path| path.file_name().is_none_or(|name| PARTS.iter().all(|part| *part != name)))
        .map(|path| path.display().to_string())
        .collect();
    tried.push(("another file of the host's".to_owned(), found(&others)));
    tried.push((
        "the folder that the host finds the machine in".to_owned(),
        fs::read_dir("/own")
            .map(|entries| format!("{} in it", entries.count()))
            .and_then(|what| fs::write("/own/intruder", "x").map(|()| what)),
    ));
    let mut ways = vec![String::new(), "/tree".to_owned(), "/proc/self/cwd".to_owned()];
    for pid in processes() {
        ways.extend(["root", "cwd"].map(|link| format!("/proc/{pid}/{link}")));
        let numbers = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        ways.extend(numbers.map(|entry| format!("{}/{}", entry.path().display(), "../".repeat(30))));
    }
    let mut reached = Vec::new();
    for target in targets.iter().map(String::as_str).chain([
        "/etc/shadow",
        "/root/.bashrc",
        "/proc/1/environ",
        "/var/log/dpkg.log",
    ]) {
        for way in &ways {
            let at = format!("{way}{target}");
            let content = fs::read(&at).unwrap_or_default();
            let is_hosts =
                target.starts_with("/etc") || target.starts_with("/root") || target.starts_with("/var");
            if content.windows(marker.len().max(1)).any(|piece| piece == marker.as_bytes())
                || is_hosts && !content.is_empty()
            {
                reached.push(at);
            }
        }
    }
    tried.push(("files of the host's".to_owned(), found(&reached)));
    for at in [
        "/usr/intruder",
        "/intruder",
        "/tree/intruder",
        "/tree/usr/intruder",
        "/tree/etc/intruder",
        "/tree/run/intruder",
        "/proc/sys/kernel/core_pattern",
        "/dev/intruder",
        "/bin/env",
        "/tree/usr/bin/env",
    ] {
        let write = OpenOptions::new().write(true).create(true).truncate(false).open(at);
        tried.push((format!("writing to {at}"), write.map(|_| String::new())));
    }
    // It is the machine's kernel, and the next machine's.
    tried.push(("the kernel's image".to_owned(), {
        let at = format!("/proc/self/fd/{KERNEL}");
        OpenOptions::new()
            .write(true)
            .open(at)
            .and_then(|mut file| file.write_all(b"x"))
            .map(|()| String::new())
    }));
    let seen: Vec<String> = processes()
        .into_iter()
        .filter(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).into_owned();
            !["qemu", "virtiofsd", "vsock", "passt", "microvm-launcher"]
                .iter()
                .any(|part| line.contains(part))
                && !line.is_empty()
        })
        .collect();
    tried.push(("processes of the host's".to_owned(), found(&seen)));
    tried
}

fn rights() -> Vec<(&'static str, io::Result<String>)> {
    let mut tried = Vec::new();
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let value = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_default().trim().to_owned()
    };
    let capabilities = ["CapPrm:", "CapEff:", "CapInh:", "CapAmb:"].map(value).concat();
    tried.push((
        "a capability",
        if capabilities.bytes().all(|digit| digit == b'0') {
            Err(io::Error::other("none"))
        } else {
            Ok(capabilities)
        },
    ));
    tried.push((
        "new privileges",
        if value("NoNewPrivs:") == "1" { Err(io::Error::other("none")) } else { Ok(String::new()) },
    ));
    tried.push((
        "a file system",
        called(unsafe {
            libc::mount(c"tmpfs".as_ptr(), c"/tmp".as_ptr(), c"tmpfs".as_ptr(), 0, std::ptr::null())
        }),
    ));
    tried.push((
        "what is below the room",
        in_own_namespaces(|| called(unsafe { libc::umount2(c"/tree".as_ptr(), libc::MNT_DETACH) })),
    ));
    tried.push((
        "what is below the root folder",
        in_own_namespaces(|| {
            called(unsafe { libc::umount2(c"/".as_ptr(), libc::MNT_DETACH) })
                .and_then(|_| fs::read_dir("/home").map(|_| String::new()))
        }),
    ));
    tried.push((
        "writing where it is read-only",
        in_own_namespaces(|| {
            let flags = libc::MS_REMOUNT | libc::MS_BIND;
            called(unsafe {
                libc::mount(
                    std::ptr::null(),
                    c"/tree/usr".as_ptr(),
                    std::ptr::null(),
                    flags,
                    std::ptr::null(),
                )
            })
        }),
    ));
    tried.push((
        "a device in namespaces of its own",
        in_own_namespaces(|| {
            called(unsafe {
                libc::mknod(
                    path(format!("{PROJECT}/device")).as_ptr(),
                    libc::S_IFCHR | 0o666,
                    libc::makedev(1, 3),
                )
            })
        }),
    ));
    tried.push((
        "set-user-id in namespaces of its own",
        in_own_namespaces(|| {
            let at = path(format!("{PROJECT}/program"));
            fs::write(format!("{PROJECT}/program"), "")?;
            called(unsafe { libc::chmod(at.as_ptr(), 0o4755) })
        }),
    ));
    // Its numbers are others, and a filter that counts only the ordinary ones lets them by. Most kernels have none of it.
    tried.push(("set-user-id by the other interface", {
        let at = path(format!("{PROJECT}/written"));
        called(unsafe { libc::syscall(0x4000_0000 | libc::SYS_chmod, at.as_ptr(), 0o4755) })
    }));
    tried.push(("a session's keys", keys()));
    for (name, number) in [
        ("watching other processes", libc::SYS_ptrace),
        ("programs in the kernel", libc::SYS_bpf),
        ("counters of the kernel", libc::SYS_perf_event_open),
        ("faults of its own", libc::SYS_userfaultfd),
        ("queues of calls", libc::SYS_io_uring_setup),
        ("another kernel", libc::SYS_kexec_load),
        ("files by their numbers", libc::SYS_open_by_handle_at),
        ("descriptors of others", libc::SYS_pidfd_getfd),
    ] {
        // To attach to nobody, to describe itself from nowhere: where it is not absent it is an error all the same.
        let called = unsafe { libc::syscall(number, 16, 0, 0, 0, 0) };
        let absent = called == -1 && io::Error::last_os_error().raw_os_error() == Some(libc::ENOSYS);
        tried.push((
            name,
            if absent { Err(io::Error::from_raw_os_error(libc::ENOSYS)) } else { Ok(format!("{called}")) },
        ));
    }
    tried
}

/// Runs a program in a session with a key in it.
pub(crate) fn with_key(program: &str, words: &[&str]) {
    const JOIN: i32 = 1;
    unsafe {
        libc::syscall(libc::SYS_keyctl, JOIN, std::ptr::null::<u8>());
        let (kind, name, value) = (c"user", KEY, b"a secret");
        libc::syscall(libc::SYS_add_key, kind.as_ptr(), name.as_ptr(), value.as_ptr(), value.len(), SESSION);
    }
    // The control: who is in the session has it.
    match keys() {
        Ok(_) => panic!("{}", std::process::Command::new(program).args(words).exec()),
        Err(error) => panic!("there is no key to be found: {error}"),
    }
}

/// A key that the person has put there, for programs of the session.
fn keys() -> io::Result<String> {
    const SEARCH: i32 = 10;
    const READ: i32 = 11;
    let key = unsafe { libc::syscall(libc::SYS_keyctl, SEARCH, SESSION, c"user".as_ptr(), KEY.as_ptr(), 0) };
    called(key)?;
    let mut value = [0_u8; 64];
    called(unsafe { libc::syscall(libc::SYS_keyctl, READ, key, value.as_mut_ptr(), value.len()) })
}

fn networks(abstract_name: &str, port: &str) -> Vec<(&'static str, io::Result<String>)> {
    let hidden = std::os::unix::net::SocketAddr::from_abstract_name(abstract_name);
    vec![
        ("a service on the host's loopback", call(&format!("127.0.0.1:{port}"))),
        ("the network", call("192.0.2.1:80")),
        (
            "the network, as far as its kernel knows a way",
            match fs::read_to_string("/proc/self/net/route") {
                Ok(routes) if routes.lines().count() > 1 => Ok(routes),
                _ => Err(io::Error::other("no way")),
            },
        ),
        (
            "an abstract socket of the host's",
            hidden.and_then(|hidden| UnixStream::connect_addr(&hidden)).map(|_| String::new()),
        ),
    ]
}

/// Calls each of these by TCP.
pub(crate) fn dial(addresses: &[&str], report: &mut Report) {
    for address in addresses {
        report.tell(address, call(address));
    }
}

fn call(address: &str) -> io::Result<String> {
    let address: SocketAddr = address.parse().map_err(io::Error::other)?;
    // Passt says that there is a connection before there is one: it has to hold, or to bring something.
    let mut line = TcpStream::connect_timeout(&address, CALL_WITHIN)?;
    line.set_read_timeout(Some(CALL_WITHIN))?;
    match line.read(&mut [0]) {
        Ok(0) => Err(io::Error::other("hung up")),
        Ok(_) => Ok("it speaks".to_owned()),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok("it waits".to_owned()),
        Err(error) => Err(error),
    }
}

/// Passt has the host's network; the parts that have nothing more than we have are no matter.
fn memory_of_others() -> io::Result<String> {
    let mut open = Vec::new();
    for pid in processes() {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        let is_one = pid == "1" || name.starts_with("passt");
        if is_one && writes(&format!("/proc/{pid}/mem")).is_ok() {
            open.push(format!("{pid} {}", name.trim()));
        }
        let network = path(format!("/proc/{pid}/ns/net"));
        let entered = unsafe {
            let fd = libc::open(network.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC);
            fd >= 0 && libc::setns(fd, libc::CLONE_NEWNET) == 0
        };
        if entered {
            open.push(format!("the network of {pid} {}", name.trim()));
        }
    }
    found(&open)
}

/// What a machine's kernel could ask the share's server for.
fn through_the_share(report: &mut Report, marker: &str, targets: &[String]) {
    let mut share = match Share::new(SHARE) {
        Ok(share) => share,
        Err(error) => return report.tell("control: the share answers", Err(error)),
    };
    report.tell("control: the share answers", share.look_up("workspace").map(|number| number.to_string()));
    report.tell(
        "control: a file by the share",
        share.create("workspace/by-the-share", 0o644).and_then(|()| {
            share.write("workspace/by-the-share", 0, b"written")?;
            let read = share.read("workspace/by-the-share")?;
            if read == b"written" { Ok(String::new()) } else { Err(io::Error::other("it is another")) }
        }),
    );
    for name in ["../own/vsock.sock", "/own/vsock.sock", "workspace/../../own/vsock.sock"] {
        report.tell(&format!("the share: {name}"), share.look_up(name).map(|number| number.to_string()));
    }
    report.tell(
        "the share: a link where the host looks",
        share.link("/own/vsock.sock.not-yet", "/etc/passwd").map(|()| String::new()),
    );
    report.tell(
        "the share: set-user-id",
        share.create("workspace/program-by-the-share", 0o4755).map(|()| String::new()),
    );
    for name in
        ["/usr/by-the-share", "/by-the-share", "../by-the-share", "usr/by-the-share", "etc/by-the-share"]
    {
        report.tell(&format!("the share: making {name}"), share.create(name, 0o644).map(|()| String::new()));
    }
    for target in targets.iter().map(String::as_str).chain(["/etc/shadow"]) {
        for way in ["", "..", "../..", "/proc/self/root", "/proc/1/root"] {
            let name = format!("{way}{target}");
            let content = share.read(&name).and_then(|content| {
                let marked = content.windows(marker.len()).any(|piece| piece == marker.as_bytes());
                if marked || target == "/etc/shadow" {
                    Ok(String::new())
                } else {
                    Err(io::Error::other("another file"))
                }
            });
            report.tell(&format!("the share: reading {name}"), content);
        }
    }
    // Whoever writes there is the server from then on.
    for name in ["/proc/self/mem", "../proc/self/mem", "/proc/thread-self/mem"] {
        report.tell(
            &format!("the share: opening {name}"),
            share.open_for_writing(name).map(|()| String::new()),
        );
    }
}

/// In a child with user and mount namespaces of its own, where it may all that its filter lets it.
fn in_own_namespaces(attempt: impl FnOnce() -> io::Result<String>) -> io::Result<String> {
    let (mut ours, mut theirs) = UnixStream::pair()?;
    if unsafe { libc::fork() } == 0 {
        let (uid, gid) = unsafe { (libc::getuid(), libc::getgid()) };
        let outcome =
            called(unsafe { libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNS) }).and_then(|_| {
                fs::write("/proc/self/setgroups", "deny")?;
                fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
                fs::write("/proc/self/gid_map", format!("0 {gid} 1"))?;
                attempt()
            });
        let said = match outcome {
            Ok(how) => format!("+{how}"),
            Err(error) => format!("-{error}"),
        };
        let _ = theirs.write_all(said.as_bytes());
        unsafe { libc::_exit(0) };
    }
    drop(theirs);
    let mut said = String::new();
    ours.read_to_string(&mut said)?;
    match said.strip_prefix('+') {
        Some(how) => Ok(how.to_owned()),
        None => Err(io::Error::other(said)),
    }
}

fn processes() -> Vec<String> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.bytes().all(|byte| byte.is_ascii_digit())).collect()
}

fn writes(at: &str) -> io::Result<String> {
    OpenOptions::new().write(true).open(at).map(|_| String::new())
}

fn found<T: std::fmt::Debug>(what: &[T]) -> io::Result<String> {
    if what.is_empty() { Err(io::Error::other("nothing")) } else { Ok(format!("{what:?}")) }
}
