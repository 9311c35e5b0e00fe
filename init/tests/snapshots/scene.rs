//! A repository in a folder of its own, and the two programs.

use std::{
    ffi::OsStr,
    fs,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use serde_json::Value;
use tempfile::TempDir;

/// Gone with the last of it.
pub(crate) struct Scene {
    _temp: TempDir,
    pub(crate) root: PathBuf,
}

impl Scene {
    /// An empty repository.
    pub(crate) fn empty() -> Self {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().join("work");
        fs::create_dir(&root).unwrap();
        let scene = Self { _temp: temp, root };
        scene.git(&["init", "-q", "-b", "main"]);
        scene
    }

    /// One with a commit.
    pub(crate) fn new() -> Self {
        let scene = Self::empty();
        scene.write("file", "one\n");
        scene.write("a/b", "two\n");
        scene.commit();
        scene
    }

    pub(crate) fn write(&self, path: impl AsRef<Path>, content: impl AsRef<[u8]>) {
        let path = self.root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    /// A name that need not be text.
    pub(crate) fn write_bytes(&self, name: &[u8], content: &[u8]) {
        fs::write(self.root.join(OsStr::from_bytes(name)), content).unwrap();
    }

    pub(crate) fn commit(&self) {
        self.git(&["add", "-A"]);
        self.git(&["commit", "-q", "--allow-empty", "-m", "x"]);
    }

    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin").env("HOME", "/nonexistent");
        command.env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_COUNT", "1");
        command.env("GIT_CONFIG_KEY_0", "protocol.file.allow").env("GIT_CONFIG_VALUE_0", "always");
        for who in ["AUTHOR", "COMMITTER"] {
            command
                .env(format!("GIT_{who}_NAME"), "Agent")
                .env(format!("GIT_{who}_EMAIL"), "agent@example.org");
        }
        command.current_dir(&self.root).stdin(Stdio::null());
        command
    }

    /// Git, which must succeed.
    pub(crate) fn git(&self, args: &[&str]) -> String {
        self.git_in(&self.root, args)
    }

    pub(crate) fn git_in(&self, folder: &Path, args: &[&str]) -> String {
        let output = self.command("git").args(args).current_dir(folder).output().unwrap();
        assert!(output.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// The program under test, ready to be run.
    pub(crate) fn agent_git(&self, args: &[&str]) -> Command {
        let mut command = self.command(env!("CARGO_BIN_EXE_agent-git"));
        // The folder may be what is missing.
        command.current_dir("/").arg("snapshot").args(args).arg(&self.root);
        command
    }

    pub(crate) fn answer(output: &Output) -> Value {
        assert_eq!(output.stdout.split(|byte| *byte == b'\n').count(), 2, "one line: {output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Takes snapshots, and what is said.
    pub(crate) fn take(&self, args: &[&str]) -> Value {
        let output = self.agent_git(&["take"]).args(args).output().unwrap();
        let answer = Self::answer(&output);
        assert_eq!(output.status.success(), answer.get("snapshots").is_some(), "{answer:#}");
        answer
    }

    /// What became of the main worktree.
    pub(crate) fn outcome(&self, args: &[&str]) -> Value {
        self.take(args)["snapshots"][0].clone()
    }

    /// Takes one of the main worktree, which must be new; its commit.
    pub(crate) fn taken(&self, args: &[&str]) -> String {
        let outcome = self.outcome(args);
        assert_eq!(outcome["outcome"], "taken", "{outcome:#}");
        outcome["commit"].as_str().unwrap().to_owned()
    }

    /// What a worktree is like by an outcome: a snapshot, old or new, or the checked-out commit.
    #[allow(clippy::unused_self)] // Read as a question to the scene.
    pub(crate) fn latest(&self, outcome: &Value) -> String {
        match outcome["at_ms"].as_u64() {
            Some(at) => format!("refs/agents/snapshots/main/{at}"),
            None => "HEAD".to_owned(),
        }
    }

    /// Why the whole was refused.
    pub(crate) fn refused(&self) -> String {
        self.take(&[])["error"]["why"].as_str().unwrap_or("it was not refused").to_owned()
    }

    /// The tree that git makes of the same files.
    pub(crate) fn by_git(&self, force: bool) -> String {
        let index = self.root.parent().unwrap().join("index");
        let _ = fs::copy(self.root.join(".git/index"), &index);
        let run = |args: &[&str]| {
            let output = self.command("git").args(args).env("GIT_INDEX_FILE", &index).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8_lossy(&output.stdout).trim().to_owned()
        };
        run(if force { &["add", "-Af"] } else { &["add", "-A"] });
        let tree = run(&["write-tree"]);
        fs::remove_file(index).unwrap();
        tree
    }

    /// Names of all the refs of ours.
    pub(crate) fn refs(&self) -> Vec<String> {
        let refs = self.git(&["for-each-ref", "--format=%(refname)", "refs/agents/"]);
        refs.lines().map(str::to_owned).collect()
    }

    /// Everything that is in a commit, by path.
    pub(crate) fn names(&self, commit: &str) -> Vec<String> {
        let names = self.git(&["ls-tree", "-r", "--name-only", commit]);
        names.lines().map(str::to_owned).collect()
    }

    pub(crate) fn fsck(&self) {
        let said = self.git(&["fsck", "--strict", "--no-dangling"]);
        assert_eq!(said, "");
    }
}
