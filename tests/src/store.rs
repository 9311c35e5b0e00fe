//! A person's sandbox with a store of packages in it, started through the isolation layer alone.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::Context;

use crate::{Home, Output, Who, agent_init, copy_program, finish};

/// A person with a store.
pub struct Store {
    home: Home,
    program: PathBuf,
}

/// What of a store a sandbox shows, and by what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// All of it.
    Whole,
    /// A closure, by init, which uses Landlock.
    ByInit,
    /// A closure as a tree of mounts, for an agent that makes namespaces of its own.
    Nested,
    /// A closure as a tree of mounts, because of where the store is.
    BelowTmp,
}

impl View {
    /// Where the store is inside.
    pub fn at(self) -> &'static str {
        match self {
            Self::Whole | Self::ByInit | Self::Nested => "/nix/store",
            Self::BelowTmp => "/tmp/home/nix/store",
        }
    }
}

impl Store {
    /// A new person, with an empty store. `isolated` is the program of that name.
    pub fn new(who: Who, isolated: &Path) -> anyhow::Result<Self> {
        let home = Home::new(who)?;
        let program = home.path().join("isolated");
        copy_program(isolated, &program)?;
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
        home.project("project")?;
        fs::create_dir(home.path().join("store"))?;
        fs::set_permissions(home.path().join("store"), fs::Permissions::from_mode(0o755))?;
        Ok(Self { home, program })
    }

    /// The person.
    pub fn home(&self) -> &Home {
        &self.home
    }

    /// A path of the store on the host.
    pub fn path(&self, name: &str) -> PathBuf {
        self.home.path().join("store").join(name)
    }

    /// Puts a file into it, as Nix would.
    pub fn add(&self, path: &str, content: &[u8], mode: u32) -> anyhow::Result<()> {
        let path = self.path(path);
        fs::create_dir_all(path.parent().context("a file's folder")?)?;
        fs::write(&path, content)?;
        Ok(fs::set_permissions(&path, fs::Permissions::from_mode(mode))?)
    }

    /// Puts a program into it.
    pub fn add_program(&self, path: &str, from: &Path) -> anyhow::Result<()> {
        let path = self.path(path);
        fs::create_dir_all(path.parent().context("a file's folder")?)?;
        copy_program(from, &path)
    }

    /// Puts a link into it.
    pub fn add_link(&self, path: &str, target: &str) -> anyhow::Result<()> {
        Ok(symlink(target, self.path(path))?)
    }

    /// Says which of its paths are the environment's.
    pub fn choose(&self, names: &[String]) -> anyhow::Result<()> {
        self.home.file("closure", names.join("\n").as_bytes()).map(drop)
    }

    /// The command that runs an agent in a sandbox to its end.
    pub fn command(&self, view: View, agent: &[&str]) -> Command {
        let word = match view {
            View::Whole => "whole",
            View::ByInit | View::BelowTmp => "closure",
            View::Nested => "nested",
        };
        let mut command = self.home.command(&self.program, [agent_init(), self.home.path(), &self.path("")]);
        command.args([view.at(), word, "--"]).args(agent);
        command
    }

    /// Runs an agent in a sandbox to its end. Says how the closure is kept, as the first line of its errors.
    pub fn run(&self, view: View, agent: &[&str]) -> anyhow::Result<Output> {
        finish(self.command(view, agent), b"")
    }

    /// Starts an agent that does nothing, for commands beside it.
    pub fn start(&self, view: View) -> anyhow::Result<Started> {
        let mut command = self.command(view, &["sleep", "1000"]);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        Ok(Started { child, socket: self.home.path().join("control.sock") })
    }
}

/// A sandbox that runs. Ends on drop.
pub struct Started {
    child: Child,
    socket: PathBuf,
}

impl Started {
    /// Where init is reached.
    pub fn socket(&self) -> &Path {
        &self.socket
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        // bwrap dies with its parent, and init with bwrap.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
