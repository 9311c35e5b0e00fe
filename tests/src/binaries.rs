//! Finds the binaries under test, and has them built first where only the tests were.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
    time::UNIX_EPOCH,
};

use nix::unistd::geteuid;

/// Set by whoever has built them already.
pub(crate) const BUILT: &str = "AGENT_TESTS_BUILT";

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

/// Copies a program that is to be run, or a folder of such. Another process does it: this one may be forking in another thread just
/// then, and a child that still holds the copy open for writing makes it "busy" (execve(2), ETXTBSY).
pub fn copy_program(from: &Path, to: &Path) -> anyhow::Result<()> {
    let status = Command::new("cp").arg("-r").arg(from).arg(to).status()?;
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
        if std::env::var_os(BUILT).is_none() {
            build(&folder);
        }
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

/// The binaries in a folder of their own below /tmp, for a checkout in root's home.
fn public_copy(folder: &Path) -> anyhow::Result<PathBuf> {
    let built = ["agent-init", "agent-git", "agent-shim"].map(|name| folder.join(name));
    copy_for_others("as-tests-", &built)
}

/// The folder itself if everybody can get at it, else a copy below /tmp.
pub(crate) fn open_to_others(folder: &Path) -> anyhow::Result<PathBuf> {
    if is_open_to_others(folder) {
        return Ok(folder.to_owned());
    }
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let content: Vec<PathBuf> =
        fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?;
    copy_for_others(&format!("as-{name}-"), &content)
}

/// All test programs share the copy that was made of these files, as old as the newest of them; older copies are removed.
fn copy_for_others(prefix: &str, files: &[PathBuf]) -> anyhow::Result<PathBuf> {
    let newest = files.iter().filter_map(|file| file.metadata().ok()?.modified().ok()).max();
    let stamp =
        newest.and_then(|time| Some(time.duration_since(UNIX_EPOCH).ok()?.as_nanos())).unwrap_or_default();
    let copy = Path::new("/tmp").join(format!("{prefix}{}-{stamp}", geteuid()));
    if copy.metadata().is_ok_and(|copy| copy.uid() == geteuid().as_raw()) {
        return Ok(copy);
    }
    for old in fs::read_dir("/tmp")?.flatten() {
        if old.file_name().to_string_lossy().starts_with(&format!("{prefix}{}-", geteuid())) {
            // Another test program may be removing it too.
            let _ = fs::remove_dir_all(old.path());
        }
    }
    // Whole or not at all: others look for it at the same time.
    let draft = tempfile::Builder::new().prefix("as-bin-").tempdir_in("/tmp")?.keep();
    for file in files {
        copy_program(file, &draft)?;
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
