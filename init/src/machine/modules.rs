//! The kernel's modules, in the order that the host has found out: nobody here reads a list of dependencies.

use std::fs;

use anyhow::{Context, Result};
use rustix::{io::Errno, system::init_module};

/// Loads each of them. One that is there already is as good as loaded.
pub(super) fn load(modules: &[String]) -> Result<()> {
    for path in modules {
        let image = fs::read(path).with_context(|| format!("reading the kernel module {path}"))?;
        let loaded = match init_module(unsigned(&image), c"") {
            // A kernel that insists on signatures.
            Err(Errno::KEYREJECTED | Errno::PERM) => init_module(&image, c""),
            loaded => loaded,
        };
        match loaded {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno).with_context(|| format!("loading the kernel module {path}")),
        }
    }
    Ok(())
}

/// What a signed module ends with, behind the signature and what describes it.
const SIGNED: &[u8] = b"~Module signature appended~\n";

/// What describes a signature: eight bytes, and its length with the first byte first.
const DESCRIPTION_BYTES: usize = 12;

/// The module without its signature. Who made this machine has chosen its kernel with the modules, and to check them takes
/// the kernel four times as long as all else that init does before it is ready.
fn unsigned(image: &[u8]) -> &[u8] {
    let find = || {
        let signed = image.strip_suffix(SIGNED)?;
        let (signed, description) = signed.split_last_chunk::<DESCRIPTION_BYTES>()?;
        let [.., a, b, c, d] = *description;
        let bytes = usize::try_from(u32::from_be_bytes([a, b, c, d])).ok()?;
        signed.get(..signed.len().checked_sub(bytes)?)
    };
    find().unwrap_or(image)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_cut_off_and_nothing_else() {
        let description = |bytes: u8| [[0; 8].as_slice(), &[0, 0, 0, bytes]].concat();
        let signed = [b"module", b"sign".as_slice(), &description(4), SIGNED].concat();
        assert_eq!(unsigned(&signed), b"module");
        assert_eq!(unsigned(b"module"), b"module");
        // Longer than all there is, and too short to be one.
        let lying = [b"module".as_slice(), &description(200), SIGNED].concat();
        assert_eq!(unsigned(&lying), lying);
        assert_eq!(unsigned(SIGNED), SIGNED);
    }
}
