//! Finds the binaries under test, and has them built first where only the tests were.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

/// The shim.
pub fn agent_shim() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| folder().join("agent-shim"))
}

/// Init.
pub fn agent_init() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| folder().join("agent-init"))
}

/// Copies a program that is to be run. Another process does it: this one may be forking in another thread just
/// then, and a child that still holds the copy open for writing makes it "busy" (execve(2), ETXTBSY).
pub fn copy_program(from: &Path, to: &Path) -> anyhow::Result<()> {
    let status = Command::new("cp").arg(from).arg(to).status()?;
    anyhow::ensure!(status.success(), "copying {} to {}: {status}", from.display(), to.display());
    Ok(())
}

/// The folder of the profile that the tests were built in, with fresh binaries in it.
fn folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        // .../target/<triple>/<profile>/deps/<test>
        let test = std::env::current_exe().expect("the test's own path");
        let folder = test.parent().and_then(Path::parent).expect("a profile's folder").to_owned();
        build(&folder);
        folder
    })
}

/// Cargo builds the tests of one package without the binaries of the others.
fn build(folder: &Path) {
    let Some(cargo) = std::env::var_os("CARGO") else { return };
    let mut command = Command::new(cargo);
    command.args(["build", "--quiet", "-p", "agent-init", "-p", "agent-shim", "--bins"]);
    command.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    if folder.ends_with("release") {
        command.arg("--release");
    }
    let status = command.status().expect("cargo starts");
    assert!(status.success(), "building the binaries under test: {status}");
}
