//! What machines that an attacker has taken over must leave alone: the host's files, and what is said of them there.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use agent_tests::{Home, Layer, Share, Who, copy_program};
use anyhow::{Context, ensure};

/// A word that is in files of the person's outside of the sandbox, and nowhere else.
pub(crate) const MARKER: &str = "the-marker-of-the-host";

/// Attributes that give rights, or that only the host's root can give.
const GIVING: [&str; 3] = ["security.capability", "trusted.", "system.posix_acl"];

/// Something of a person's that no machine may get, and what the kernel said of it.
pub(crate) struct Outside {
    precious: PathBuf,
    before: BTreeMap<PathBuf, String>,
}

impl Outside {
    /// With a person whose sandboxes are machines. `None`, and told, where there are none.
    pub(crate) fn new(who: Who, share: Share) -> anyhow::Result<Option<(Self, Home)>> {
        let machines = Layer::named("microvm").context("a layer of machines")?;
        let Some(kernel) = share.kernel()? else { return Ok(None) };
        let missing = machines.missing();
        if !missing.is_empty() {
            agent_tests::skip(&format!("no {}", missing.join(", ")));
            return Ok(None);
        }
        let mut home = Home::new(who)?;
        home.wait_longer(machines.patience);
        let path = machines.search_path(&home.search_path());
        home.variable("AGENT_SHIM_ISOLATION", "microvm");
        home.variable("AGENT_SHIM_KERNEL", open_to(&home, &kernel)?);
        home.variable("PATH", path);
        let precious = home.project("precious")?;
        for name in ["precious/file", "precious/program", "given-file"] {
            home.file(name, format!("{MARKER}\n").as_bytes())?;
        }
        fs::set_permissions(precious.join("program"), fs::Permissions::from_mode(0o755))?;
        let before = facts(&precious)?;
        Ok(Some((Self { precious, before }, home)))
    }

    /// Paths of the host, as links might name them.
    pub(crate) fn targets(&self) -> Vec<String> {
        ["", "file", "program"].map(|name| self.precious.join(name).display().to_string()).into()
    }

    /// What is outside of the sandbox is as it was, to the time of its last change.
    pub(crate) fn is_unharmed(&self) -> anyhow::Result<()> {
        let now = facts(&self.precious)?;
        ensure!(now == self.before, "{:#?} became {now:#?}", self.before);
        Ok(())
    }
}

/// A copy of the attacker's program under this name, with something behind it.
pub(crate) fn intruder(home: &Home, name: &str, behind: Option<&Path>) -> anyhow::Result<PathBuf> {
    let mut program = fs::read(env!("CARGO_BIN_EXE_intruder"))?;
    if let Some(behind) = behind {
        let behind = fs::read(behind)?;
        program.extend(&behind);
        program.extend((behind.len() as u64).to_le_bytes());
    }
    let draft = home.path().join("intruder.draft");
    fs::write(&draft, program)?;
    let at = home.path().join(name);
    copy_program(&draft, &at)?;
    fs::remove_file(draft)?;
    fs::set_permissions(&at, fs::Permissions::from_mode(0o755))?;
    Ok(at)
}

/// Files below a folder that have the marker in them. No link is followed.
pub(crate) fn marked(folder: &Path) -> Vec<PathBuf> {
    let is_marked = |path: &PathBuf| {
        fs::symlink_metadata(path).is_ok_and(|found| found.is_file())
            && fs::read(path)
                .is_ok_and(|content| content.windows(MARKER.len()).any(|piece| piece == MARKER.as_bytes()))
    };
    all_below(folder).into_iter().filter(is_marked).collect()
}

/// The kernel where an ordinary person can read it: checkouts may be root's alone.
fn open_to(home: &Home, kernel: &Path) -> anyhow::Result<PathBuf> {
    let is_open = |part: &Path| part.metadata().is_ok_and(|part| part.permissions().mode() & 0o001 != 0);
    if kernel.ancestors().skip(1).all(is_open) {
        return Ok(kernel.to_owned());
    }
    let base = kernel.parent().and_then(Path::parent).context("a kernel in a folder called boot")?;
    let copy = home.path().join("kernel");
    copy_program(base, &copy)?;
    Ok(copy)
}

/// All that the kernel says of each file but when it was read.
fn facts(folder: &Path) -> anyhow::Result<BTreeMap<PathBuf, String>> {
    let mut facts = BTreeMap::new();
    for path in all_below(folder) {
        let found = fs::symlink_metadata(&path)?;
        let content = if found.is_file() { fs::read(&path)? } else { Vec::new() };
        let fact = format!(
            "{} {:o} {}:{} {} {}.{} {:?} {:?}",
            found.ino(),
            found.mode(),
            found.uid(),
            found.gid(),
            found.nlink(),
            found.ctime(),
            found.ctime_nsec(),
            attributes(&path),
            String::from_utf8_lossy(&content),
        );
        facts.insert(path, fact);
    }
    Ok(facts)
}

/// What a machine must not have made below these folders: another's files, programs with rights, devices.
pub(crate) fn faults_below(folders: &[PathBuf], owner: u32) -> Vec<String> {
    let mut faults = Vec::new();
    for path in folders.iter().flat_map(|folder| all_below(folder)) {
        let Ok(found) = fs::symlink_metadata(&path) else { continue };
        let kind = found.file_type();
        let mut fault = |what: String| faults.push(format!("{}: {what}", path.display()));
        if found.uid() != owner || found.gid() != owner {
            fault(format!("it is {}:{}'s", found.uid(), found.gid()));
        }
        if !kind.is_symlink() && found.mode() & 0o6000 != 0 {
            fault(format!("its mode is {:o}", found.mode()));
        }
        if kind.is_block_device() || kind.is_char_device() {
            fault("it is a device".to_owned());
        }
        if found.nlink() > 1 && found.is_file() {
            fault(format!("it has {} names", found.nlink()));
        }
        for name in attributes(&path) {
            if GIVING.iter().any(|giving| name.starts_with(giving)) {
                fault(format!("it has {name}"));
            }
        }
    }
    faults
}

fn all_below(folder: &Path) -> Vec<PathBuf> {
    let mut all = vec![folder.to_owned()];
    let mut next = 0;
    while let Some(path) = all.get(next).cloned() {
        next += 1;
        // What has gone meanwhile is gone, and what a path is too long for lies too deep for it to matter.
        if fs::symlink_metadata(&path).is_ok_and(|found| found.is_dir()) {
            all.extend(fs::read_dir(&path).into_iter().flatten().flatten().map(|entry| entry.path()));
        }
    }
    all
}

fn attributes(path: &Path) -> Vec<String> {
    let Ok(path) = CString::new(path.as_os_str().as_bytes()) else { return Vec::new() };
    let mut names = vec![0; 4096];
    let count = rustix::fs::llistxattr(&path, &mut names).unwrap_or(0);
    names[..count]
        .split(|byte| *byte == 0)
        .map(|name| String::from_utf8_lossy(name).into_owned())
        .filter(|name| !name.is_empty())
        .collect()
}

/// The lines of a report: name, and whether it was done.
pub(crate) fn outcomes(report: &str) -> Vec<(String, bool, String)> {
    let line = |line: &str| {
        let mut words = line.split('\t').map(str::to_owned);
        Some((words.next()?, words.next()? == "done", words.next().unwrap_or_default()))
    };
    report.lines().filter_map(line).collect()
}

/// The judge sees what it is to see.
#[test]
fn what_must_not_be_is_found() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let own = nix::unistd::geteuid().as_raw();
    fs::write(folder.path().join("plain"), "")?;
    ensure!(faults_below(&[folder.path().to_owned()], own).is_empty());
    fs::write(folder.path().join("program"), "")?;
    fs::set_permissions(folder.path().join("program"), fs::Permissions::from_mode(0o4755))?;
    fs::hard_link(folder.path().join("plain"), folder.path().join("twice"))?;
    let faults = faults_below(&[folder.path().to_owned()], own);
    ensure!(faults.len() == 3, "{faults:?}");
    ensure!(faults_below(&[folder.path().to_owned()], own + 1).len() == 7);
    if nix::unistd::geteuid().is_root() {
        let made = std::process::Command::new("mknod")
            .arg(folder.path().join("device"))
            .args(["c", "1", "3"])
            .status()?;
        ensure!(!made.success() || faults_below(&[folder.path().to_owned()], own).len() == 4);
    }
    Ok(())
}
