//! Repositories on both sides.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use agent_tests::{Home, Output, Sandbox, Who, agent_shim, layer};
use anyhow::Context;

/// Someone who commits.
const WHO: [&str; 4] = ["-c", "user.name=Agent", "-c", "user.email=agent@example.org"];

/// Runs git as the person, with `git-remote-agent` where git looks for it.
pub(crate) fn git(home: &Home, folder: &Path, args: &[&str]) -> anyhow::Result<Output> {
    let bin = helper(home)?;
    let mut command = home.command("git", WHO.iter().chain(args));
    let places = layer().search_path("/usr/local/bin:/usr/bin:/bin");
    command.current_dir(folder).env("PATH", format!("{}:{places}", bin.display()));
    agent_tests::finish(command, b"")
}

/// A folder with the helper in it, as an installation has it.
fn helper(home: &Home) -> anyhow::Result<PathBuf> {
    let bin = home.path().join("bin");
    fs::create_dir_all(&bin)?;
    fs::set_permissions(&bin, fs::Permissions::from_mode(0o755))?;
    let link = bin.join("git-remote-agent");
    if !link.is_symlink() {
        std::os::unix::fs::symlink(agent_shim(), link)?;
    }
    Ok(bin)
}

/// A repository of the person's with one commit on `main`.
pub(crate) fn repository(home: &Home, name: &str) -> anyhow::Result<PathBuf> {
    let folder = home.project(name)?;
    git(home, &folder, &["init", "-q", "-b", "main"])?.success()?;
    home.file(&format!("{name}/file"), b"one\n")?;
    git(home, &folder, &["add", "file"])?.success()?;
    git(home, &folder, &["commit", "-q", "-m", "one"])?.success()?;
    Ok(folder)
}

/// A sandbox whose workspace is a repository, and a clone of it that the sandbox knows nothing of.
pub(crate) struct Case {
    pub(crate) sandbox: Sandbox,
    pub(crate) clone: PathBuf,
}

impl Case {
    pub(crate) fn start(who: Who) -> anyhow::Result<Self> {
        let home = Home::new(who)?;
        let project = repository(&home, "project")?;
        let clone = home.path().join("clone");
        home.project("clone")?;
        git(&home, home.path(), &["clone", "-q", &project.to_string_lossy(), &clone.to_string_lossy()])?
            .success()?;
        let sandbox = Sandbox::builder().home(home).flags(["--workspace", "bind"]).start()?;
        Ok(Self { sandbox, clone })
    }

    /// Works inside, as an agent does.
    pub(crate) fn inside(&self, script: &str) -> anyhow::Result<Output> {
        let script = format!(
            "set -e; cd /workspace; git config user.name Agent; git config user.email agent@example.org; {script}"
        );
        self.sandbox.sh(&script)?.success()
    }

    pub(crate) fn pull(&self, args: &[&str]) -> anyhow::Result<Output> {
        let into = self.clone.to_string_lossy();
        self.sandbox.tell("pull", &[&["--into", &*into], args].concat())
    }

    /// What a ref of the clone points to; nothing where there is none.
    pub(crate) fn at(&self, name: &str) -> anyhow::Result<String> {
        Ok(git(&self.sandbox, &self.clone, &["rev-parse", "-q", "--verify", name])?.text())
    }

    pub(crate) fn git(&self, args: &[&str]) -> anyhow::Result<Output> {
        git(&self.sandbox, &self.clone, args)
    }
}

/// Everything in a folder, byte for byte. Times are left out: a folder in which something was made and removed again has
/// a new one.
pub(crate) fn contents(folder: &Path) -> anyhow::Result<BTreeMap<PathBuf, (u32, Vec<u8>)>> {
    let mut all = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next).with_context(|| format!("reading {}", next.display()))? {
            let path = entry?.path();
            let found = fs::symlink_metadata(&path)?;
            let content = if found.is_dir() {
                folders.push(path.clone());
                Vec::new()
            } else if found.is_symlink() {
                fs::read_link(&path)?.into_os_string().into_encoded_bytes()
            } else if found.is_file() {
                fs::read(&path)?
            } else {
                // Its kind is in its mode; to read it could take for ever.
                Vec::new()
            };
            all.insert(path, (found.mode(), content));
        }
    }
    Ok(all)
}
