//! Makes the binaries appear where people look for them.
//!
//! Naming a target (see `.cargo/config.toml`) moves them to target/TRIPLE/PROFILE; links in target/PROFILE lead there.
//! Whatever goes wrong here is no reason for a build to fail.

use std::{
    env, fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

const BINARIES: [&str; 3] = ["agent-shim", "agent-init", "agent-git"];

/// What git runs for `agent::NAME`: the shim under another name.
const HELPER: &str = "git-remote-agent";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let (Some(out), Ok(triple)) = (env::var_os("OUT_DIR").map(PathBuf::from), env::var("TARGET")) else {
        return;
    };
    // OUT_DIR is target/TRIPLE/PROFILE/build/PACKAGE/out.
    let Some(built) = out.ancestors().nth(3) else { return };
    if let Err(error) = link(&built.join(HELPER), Path::new(BINARIES[0])) {
        println!("cargo::warning=no {HELPER} in {}: {error}", built.display());
    }
    if let Err(error) = link_binaries(built, &triple) {
        println!("cargo::warning=no links to the binaries in {}: {error}", built.display());
    }
}

fn link_binaries(built: &Path, triple: &str) -> io::Result<()> {
    let (Some(profile), Some(of_triple)) = (built.file_name(), built.parent()) else { return Ok(()) };
    // Built without a target they are where people look already.
    let (true, Some(target)) = (of_triple.ends_with(triple), of_triple.parent()) else { return Ok(()) };
    let folder = target.join(profile);
    fs::create_dir_all(&folder)?;
    for binary in BINARIES.iter().chain([&HELPER]) {
        let leads_to = Path::new("..").join(triple).join(profile).join(binary);
        link(&folder.join(binary), &leads_to)?;
    }
    Ok(())
}

fn link(link: &Path, leads_to: &Path) -> io::Result<()> {
    match fs::symlink_metadata(link) {
        // A real file is somebody's build without a target.
        Ok(found) if !found.is_symlink() => Ok(()),
        Ok(_) if fs::read_link(link)? == leads_to => Ok(()),
        Ok(_) => {
            fs::remove_file(link)?;
            symlink(leads_to, link)
        }
        Err(_) => symlink(leads_to, link),
    }
}
