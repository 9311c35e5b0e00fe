//! What root, or anybody, can do to a folder: make what gives rights away, and what leads or stands somewhere else. The same in a
//! file system of the machine's own is what shows that each attempt is one.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::libc;

use crate::report::{Report, called};

/// A capability for whoever executes the file: all of them, effective (capabilities(7)).
const ALL_CAPABILITIES: [u8; 20] =
    [1, 0, 0, 2, 255, 255, 255, 255, 0, 0, 0, 0, 255, 255, 255, 255, 0, 0, 0, 0];

type Attempt = (&'static str, fn(&Path) -> io::Result<String>);

const ALL: &[Attempt] = &[
    ("a device of characters", |at| make_node(at, libc::S_IFCHR | 0o666, libc::makedev(1, 3))),
    ("a device of blocks", |at| make_node(at, libc::S_IFBLK | 0o666, libc::makedev(254, 0))),
    ("a device without a number", |at| make_node(at, libc::S_IFCHR, 0)),
    ("set-user-id by chmod", |at| mode(&file(at)?, 0o4755)),
    ("set-group-id by chmod", |at| mode(&file(at)?, 0o2755)),
    ("both by chmod", |at| mode(&file(at)?, 0o6777)),
    ("set-user-id by fchmod", |at| {
        File::open(file(at)?)?.set_permissions(Permissions::from_mode(0o4755))?;
        has_bits(at)
    }),
    ("set-user-id by open", |at| {
        OpenOptions::new().write(true).create_new(true).mode(0o4755).open(at)?;
        has_bits(at)
    }),
    ("set-user-id by a file without a name", |at| {
        let folder = at.parent().unwrap_or(at);
        let file = OpenOptions::new().write(true).mode(0o4755).custom_flags(libc::O_TMPFILE).open(folder)?;
        let (from, to) = (path(format!("/proc/self/fd/{}", file.as_raw_fd())), path(at));
        let linked = unsafe {
            libc::linkat(libc::AT_FDCWD, from.as_ptr(), libc::AT_FDCWD, to.as_ptr(), libc::AT_SYMLINK_FOLLOW)
        };
        called(linked)?;
        has_bits(at)
    }),
    ("set-user-id by mknod", |at| {
        make_node(at, libc::S_IFREG | 0o4755, 0)?;
        has_bits(at)
    }),
    ("set-user-id by rename", |at| {
        let first = at.with_extension("first");
        OpenOptions::new().write(true).create_new(true).mode(0o4755).open(&first)?;
        fs::rename(&first, at)?;
        has_bits(at)
    }),
    ("set-group-id of a folder by mkdir", |at| {
        fs::DirBuilder::new().mode(0o2755).create(at)?;
        mode(at, 0o2777)
    }),
    ("a file of root's", |at| give(&file(at)?, 0)),
    ("a file of somebody's", |at| give(&file(at)?, 12_345)),
    ("a link of somebody's", |at| {
        symlink("/nowhere", at)?;
        give(at, 12_345)
    }),
    ("a folder of root's", |at| {
        fs::create_dir(at)?;
        give(at, 0)
    }),
    ("capabilities of a file", |at| attribute(&file(at)?, c"security.capability", &ALL_CAPABILITIES)),
    ("a trusted attribute", |at| attribute(&file(at)?, c"trusted.overlay.opaque", b"y")),
];

/// Makes every attempt in a folder of its own, and leaves what came of it.
pub(crate) fn attempt_all(folder: &Path, report: &mut Report) {
    unsafe { libc::umask(0) };
    let _ = fs::create_dir_all(folder);
    for (name, attempt) in ALL {
        report.tell(name, attempt(&folder.join(name.replace(' ', "-"))));
    }
}

/// Names and kinds of files that a host may stumble over. None of it is forbidden.
pub(crate) fn litter(folder: &Path, targets: &[String]) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    for (number, target) in targets.iter().enumerate() {
        for (kind, target) in [
            ("absolute", target.clone()),
            ("upwards", format!("{}{target}", "../".repeat(40))),
            ("through-proc", format!("/proc/1/root{target}")),
            ("through-self", format!("/proc/self/root{target}")),
            ("through-a-thread", format!("/proc/thread-self/cwd/{}{target}", "../".repeat(40))),
        ] {
            let _ = symlink(target, folder.join(format!("{kind}-{number}")));
        }
    }
    for (number, target) in ["/proc/self/fd", "/proc/self/exe", "/dev/tty", "."].iter().enumerate() {
        let _ = symlink(target, folder.join(format!("special-{number}")));
    }
    for name in
        [&[b'n'; 255][..], b"\xff\xfe", b"new\nline", b"\x1b[2J", b"-rf", b"~", b"%n%n", b"...", b"a\\b"]
    {
        let _ = fs::write(folder.join(std::ffi::OsStr::from_bytes(name)), "named");
    }
    let pipe = path(folder.join("pipe"));
    unsafe { libc::mkfifo(pipe.as_ptr(), 0o666) };
    drop(UnixListener::bind(folder.join("socket")));
    let _ = fs::write(folder.join("secret"), "not to be read")
        .and_then(|()| fs::set_permissions(folder.join("secret"), Permissions::from_mode(0o000)));
    let mut deep = folder.join("deep");
    for _ in 0..24 {
        if fs::create_dir(&deep).is_err() {
            break;
        }
        deep.push("d");
    }
    let hidden = folder.join("closed");
    fs::create_dir(&hidden)?;
    fs::write(hidden.join("file"), "behind a door")?;
    fs::set_permissions(hidden, Permissions::from_mode(0o000))
}

/// What is in a folder and in those below it, without the folders themselves. No link is followed.
pub(crate) fn below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut rest = vec![folder.to_owned()];
    while let Some(path) = rest.pop() {
        if path.symlink_metadata().is_ok_and(|found| found.is_dir()) {
            rest.extend(fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path()));
        } else {
            files.push(path);
        }
    }
    files
}

/// Reads everything that can be reached by the links, and looks for a word.
pub(crate) fn find(folder: &Path, word: &str) -> io::Result<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)?.flatten() {
        let path = entry.path();
        let is_link = fs::symlink_metadata(&path).is_ok_and(|found| found.is_symlink());
        // Of what has no end a piece will do, and what waits for somebody is not waited for.
        let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
        let Ok(file) = OpenOptions::new().read(true).custom_flags(flags).open(&path) else { continue };
        let mut content = Vec::new();
        let _ = io::Read::read_to_end(&mut io::Read::take(file, 1 << 16), &mut content);
        if is_link && content.windows(word.len()).any(|piece| piece == word.as_bytes()) {
            found.push(path.display().to_string());
        }
    }
    if found.is_empty() { Err(io::Error::other("it is nowhere")) } else { Ok(found.join(" ")) }
}

/// A folder and a link take turns under one name, for ever.
pub(crate) fn flip(folder: &Path, targets: &[String]) -> ! {
    let (name, beside, link) = (folder.join("flip"), folder.join("flip-folder"), folder.join("flip-link"));
    let mut turn = 0;
    loop {
        let _ = fs::create_dir_all(&beside);
        let _ = fs::write(beside.join("file"), "inside");
        let _ = fs::remove_file(&link);
        let _ = symlink(&targets[turn % targets.len()], &link);
        for other in [&beside, &link, &beside] {
            let (a, b) = (path(&name), path(other));
            let _ = fs::create_dir(&name);
            unsafe {
                libc::renameat2(
                    libc::AT_FDCWD,
                    a.as_ptr(),
                    libc::AT_FDCWD,
                    b.as_ptr(),
                    libc::RENAME_EXCHANGE,
                );
            }
            let (from, to) = (folder.join("flip-by"), &name);
            let _ = fs::remove_file(&from);
            if symlink(&targets[turn % targets.len()], &from).is_ok() {
                let _ = fs::remove_dir_all(to);
                let _ = fs::rename(&from, to);
                let _ = fs::remove_file(to);
            }
        }
        turn += 1;
    }
}

pub(crate) fn path(path: impl Into<PathBuf>) -> CString {
    CString::new(path.into().into_os_string().into_encoded_bytes()).expect("a path")
}

fn file(at: &Path) -> io::Result<PathBuf> {
    fs::write(at, "#!/bin/sh\n")?;
    Ok(at.to_owned())
}

fn make_node(at: &Path, mode: u32, device: u64) -> io::Result<String> {
    called(unsafe { libc::mknod(path(at).as_ptr(), mode, device) })
}

fn mode(at: &Path, mode: u32) -> io::Result<String> {
    fs::set_permissions(at, Permissions::from_mode(mode))?;
    has_bits(at)
}

/// Whether it really has one of the two: a kernel may leave them out without a word.
fn has_bits(at: &Path) -> io::Result<String> {
    let mode = fs::symlink_metadata(at)?.permissions().mode();
    if mode & 0o6000 == 0 {
        Err(io::Error::other(format!("its mode is {mode:o}")))
    } else {
        Ok(format!("{mode:o}"))
    }
}

fn give(at: &Path, id: u32) -> io::Result<String> {
    std::os::unix::fs::lchown(at, Some(id), Some(id))?;
    let found = std::os::unix::fs::MetadataExt::uid(&fs::symlink_metadata(at)?);
    if found == id { Ok(String::new()) } else { Err(io::Error::other(format!("it is {found}'s"))) }
}

fn attribute(at: &Path, name: &std::ffi::CStr, value: &[u8]) -> io::Result<String> {
    let set =
        unsafe { libc::lsetxattr(path(at).as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    called(set)
}
