//! The kernel's modules, in the order that the host has found out: nobody here reads a list of dependencies.

use std::fs::{self, File};

use anyhow::{Context, Result};
use rustix::{io::Errno, system::finit_module};

/// Loads each of them. One that is there already is as good as loaded.
pub(super) fn load(modules: &[String]) -> Result<()> {
    for path in modules {
        let file = File::open(path).with_context(|| format!("opening the kernel module {path}"))?;
        match finit_module(file, c"", 0) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno).with_context(|| format!("loading the kernel module {path}")),
        }
    }
    Ok(())
}

/// What the kernel would otherwise do by itself, as root and with a program that it finds in the sandbox's files; and
/// more modules, which have no business here. A kernel without modules has neither.
const CLOSED: [(&str, &str); 2] =
    [("/proc/sys/kernel/modprobe", "\n"), ("/proc/sys/kernel/modules_disabled", "1")];

/// No module is loaded from here on, by nobody.
pub(super) fn close() {
    for (path, value) in CLOSED {
        let _ = fs::write(path, value);
    }
}
