//! Finds the binaries under test, and has them built first where only the tests were.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
    time::UNIX_EPOCH,
};

use nix::unistd::geteuid;

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

/// What serves git inside.
pub fn agent_git() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| folder().join("agent-git"))
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
        if is_open_to_others(&folder) {
            folder
        } else {
            public_copy(&folder).expect("a copy of the binaries")
        }
    })
}

/// Whether a user who owns nothing of it can execute what is in a folder.
fn is_open_to_others(folder: &Path) -> bool {
    folder.ancestors().all(|part| part.metadata().is_ok_and(|part| part.permissions().mode() & 0o001 != 0))
}

/// The binaries in a folder of their own below /tmp, for a checkout in root's home. All test programs share the copy that
/// was made of this build; those of older builds are removed.
fn public_copy(folder: &Path) -> anyhow::Result<PathBuf> {
    const PREFIX: &str = "as-tests-";
    let built = ["agent-init", "agent-git", "agent-shim"].map(|name| folder.join(name));
    let newest = built.iter().filter_map(|binary| binary.metadata().ok()?.modified().ok()).max();
    let stamp =
        newest.and_then(|time| Some(time.duration_since(UNIX_EPOCH).ok()?.as_nanos())).unwrap_or_default();
    let copy = Path::new("/tmp").join(format!("{PREFIX}{}-{stamp}", geteuid()));
    if copy.metadata().is_ok_and(|copy| copy.uid() == geteuid().as_raw()) {
        return Ok(copy);
    }
    for old in fs::read_dir("/tmp")?.flatten() {
        if old.file_name().to_string_lossy().starts_with(&format!("{PREFIX}{}-", geteuid())) {
            // Another test program may be removing it too.
            let _ = fs::remove_dir_all(old.path());
        }
    }
    // Whole or not at all: others look for it at the same time.
    let draft = tempfile::Builder::new().prefix("as-bin-").tempdir_in("/tmp")?.keep();
    for binary in &built {
        copy_program(binary, &draft)?;
    }
    fs::set_permissions(&draft, fs::Permissions::from_mode(0o755))?;
    if fs::rename(&draft, &copy).is_err() {
        fs::remove_dir_all(&draft)?;
    }
    Ok(copy)
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
