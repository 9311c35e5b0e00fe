//! Packs the relocations of init where the C library that is linked into it can unpack them: 90 kB of 2.5 MB.

use std::{env, process::Command};

/// The first glibc that reads them (its NEWS for 2.36, `DT_RELR`).
const FIRST: (u32, u32) = (2, 36);

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // What is asked is this machine's library, which is another one than the target's where they differ.
    let is_for_here = env::var_os("HOST") == env::var_os("TARGET");
    let is_gnu = env::var_os("CARGO_CFG_TARGET_ENV").is_some_and(|env| env == "gnu");
    if is_for_here && is_gnu && glibc().is_some_and(|version| version >= FIRST) {
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}

/// `glibc 2.36`, as getconf(1) says it.
fn glibc() -> Option<(u32, u32)> {
    let said = Command::new("getconf").arg("GNU_LIBC_VERSION").output().ok()?.stdout;
    let said = String::from_utf8(said).ok()?;
    let (major, minor) = said.trim().strip_prefix("glibc ")?.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}
