//! A Nix of a person's own: real, without a network, with a store that they can write to.
//!
//! What makes it theirs are variables in the environment of their commands; nothing of the machine's is touched. Tests
//! of one user share a store, which stays from run to run: only the first one waits for builds. Tests that
//! break a store, or empty it, have one for themselves.

use std::{
    fs::{self, File},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, ensure};
use nix::{
    fcntl::{Flock, FlockArg},
    mount::{MntFlags, MsFlags, mount, umount2},
};

use crate::{Home, finish, skip};

/// What a Nix needs to be told to work alone: without a network, without root, without namespaces.
const CONFIGURATION: &str = "\
substituters =
sandbox = false
build-users-group =
fsync-metadata = false
";

/// Packages that most tests need. Building them once, and keeping them, saves each test the time.
const KEPT: [&str; 18] = [
    "bash",
    "cacert",
    "codex",
    "coreutils",
    "curl",
    "diffutils",
    "fd",
    "findutils",
    "fzf",
    "git",
    "gnugrep",
    "gnused",
    "gnutar",
    "jq",
    "nodejs_24",
    "procps",
    "ripgrep",
    "tzdata",
];

/// A folder of another Nix's programs, to run the tests with that.
const OTHER_NIX: &str = "AGENT_TESTS_NIX";

/// So many paths in a shared store are too many: what nobody needs is removed.
const CROWDED: usize = 5_000;

/// All of Nix's programs that start something.
const PROGRAMS: [&str; 12] = [
    "nix",
    "nix-build",
    "nix-channel",
    "nix-collect-garbage",
    "nix-copy-closure",
    "nix-daemon",
    "nix-env",
    "nix-hash",
    "nix-instantiate",
    "nix-prefetch-url",
    "nix-shell",
    "nix-store",
];

/// A person's Nix. All their commands use it.
#[derive(Debug)]
pub struct Nix {
    folder: PathBuf,
    nixpkgs: PathBuf,
    /// Held shared by all tests that use a shared store.
    in_use: Option<Flock<File>>,
}

impl Home {
    /// Gives the person a Nix whose store the tests of their user share. Nothing may be deleted from it. Where there is
    /// no Nix on the machine, that is said and counted.
    pub fn nix(&mut self) -> anyhow::Result<Option<Nix>> {
        if !is_possible() {
            return Ok(None);
        }
        // Another version of Nix may have another idea of what a store is.
        let other = if std::env::var_os(OTHER_NIX).is_some() { "-other" } else { "" };
        let folder = shared(&format!("{}{other}", self.uid()))?;
        let lock = File::create(folder.with_extension(format!("{}.lock", nix::unistd::geteuid())))?;
        let (lock, is_alone) = match Flock::lock(lock, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => (lock, true),
            // Whoever is alone builds what most tests need.
            Err((lock, _)) => (Flock::lock(lock, FlockArg::LockShared).map_err(|(_, errno)| errno)?, false),
        };
        let mut nix = self.adopt(folder)?;
        if is_alone {
            if fs::read_dir(nix.store())?.count() > CROWDED {
                finish(self.command("nix-store", ["--gc"]), b"")?.success()?;
            }
            let mut build = self.command("nix-build", ["--out-link"]);
            build.arg(nix.folder.join("kept")).arg(&nix.nixpkgs);
            build.args(KEPT.iter().flat_map(|package| ["-A", package]));
            finish(build, b"")?.success().context("building what most tests need")?;
            lock.relock(FlockArg::LockShared)?;
        }
        nix.in_use = Some(lock);
        Ok(Some(nix))
    }

    /// Gives the person a Nix with an empty store that nobody else uses.
    pub fn private_nix(&mut self) -> anyhow::Result<Option<Nix>> {
        if !is_possible() {
            return Ok(None);
        }
        let folder = self.path().join("nix");
        self.adopt(folder).map(Some)
    }

    /// The same, on a disk of its own with this many bytes. Only root can make one; that is said and counted.
    pub fn nix_on_small_disk(&mut self, bytes: u64) -> anyhow::Result<Option<Nix>> {
        if !is_possible() {
            return Ok(None);
        }
        let folder = self.folder("nix", 0o755)?;
        let options = format!("size={bytes},mode=755,uid={0},gid={0}", self.uid());
        let nothing = None::<&str>;
        if let Err(errno) = mount(nothing, &folder, Some("tmpfs"), MsFlags::MS_NODEV, Some(options.as_str()))
        {
            skip(&format!("a disk of {bytes} bytes cannot be mounted: {errno}"));
            return Ok(None);
        }
        self.adopt(folder).map(Some)
    }

    /// Has all commands of this person find, in place of Nix's programs, others that record how they were started, and
    /// fail.
    pub fn decoy_nix(&mut self) -> anyhow::Result<Decoys> {
        let folder = self.folder("decoys", 0o755)?;
        let record = self.file("decoys/record", b"")?;
        for program in PROGRAMS {
            let script = format!("#!/bin/sh\necho {program} \"$@\" >>'{}'\nexit 97\n", record.display());
            self.program(&format!("decoys/{program}"), &script)?;
        }
        let path = format!("{}:{}", folder.display(), self.search_path());
        self.variable("PATH", path);
        Ok(Decoys { record })
    }

    /// Has all commands of this person find everything that they found before, without these programs.
    pub fn hide_programs(&mut self, hidden: &[&str]) -> anyhow::Result<()> {
        let folder = self.folder("programs", 0o755)?;
        for from in self.search_path().split(':') {
            for program in fs::read_dir(from).into_iter().flatten().flatten() {
                let name = program.file_name();
                let link = folder.join(&name);
                if !hidden.iter().any(|hidden| *hidden == name) && link.symlink_metadata().is_err() {
                    symlink(program.path(), link)?;
                }
            }
        }
        self.variable("PATH", &folder);
        Ok(())
    }

    /// Hides all of Nix's programs.
    pub fn hide_nix(&mut self) -> anyhow::Result<()> {
        self.hide_programs(&PROGRAMS)
    }

    /// Makes what a Nix needs in a folder, and points this person's commands at it.
    fn adopt(&mut self, folder: PathBuf) -> anyhow::Result<Nix> {
        for part in ["", "store", "state", "log", "conf"] {
            let part = folder.join(part);
            if !part.exists() {
                fs::create_dir(&part)?;
                self.give(&part, 0o755)?;
            }
        }
        let configuration = folder.join("conf/nix.conf");
        if fs::read(&configuration).ok().as_deref() != Some(CONFIGURATION.as_bytes()) {
            fs::write(&configuration, CONFIGURATION)?;
            self.give(&configuration, 0o644)?;
        }
        let nix = Nix { nixpkgs: self.copy_of(&stand_in(), "nixpkgs")?, folder, in_use: None };
        for (variable, part) in [
            ("NIX_STORE_DIR", "store"),
            ("NIX_STATE_DIR", "state"),
            ("NIX_LOG_DIR", "log"),
            ("NIX_CONF_DIR", "conf"),
        ] {
            self.variable(variable, nix.folder.join(part));
        }
        if let Ok(other) = std::env::var(OTHER_NIX) {
            self.variable("PATH", format!("{other}:{}", self.search_path()));
        }
        // Nix wants to know what people are called, and this one may be in no /etc/passwd.
        self.variable("USER", "person");
        Ok(nix)
    }

    /// A copy of a folder that this person can read, wherever the original is.
    pub fn copy_of(&self, from: &Path, name: &str) -> anyhow::Result<PathBuf> {
        let to = self.path().join(name);
        if to.exists() {
            fs::remove_dir_all(&to)?;
        }
        self.folder(name, 0o755)?;
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            let file_name = entry.file_name();
            let name = format!("{name}/{}", file_name.to_string_lossy());
            let kind = entry.file_type()?;
            if kind.is_dir() {
                self.copy_of(&entry.path(), &name)?;
            } else if kind.is_symlink() {
                symlink(fs::read_link(entry.path())?, self.path().join(name))?;
            } else {
                self.file(&name, &fs::read(entry.path())?)?;
            }
        }
        Ok(to)
    }
}

impl Nix {
    /// The folder of its store, which is not `/nix/store`.
    pub fn store(&self) -> PathBuf {
        self.folder.join("store")
    }

    /// The folder beside the store where its database and its roots are.
    pub fn state(&self) -> PathBuf {
        self.folder.join("state")
    }

    /// The package set that the person can read: a copy of `tests/nixpkgs`, theirs to change.
    pub fn nixpkgs(&self) -> &Path {
        &self.nixpkgs
    }

    /// Builds one package of the set, unfree ones too, without the shim; returns its path in the store.
    pub fn build(&self, home: &Home, package: &str) -> anyhow::Result<PathBuf> {
        let mut build =
            home.command("nix-build", ["--no-out-link", "--arg", "config", "{ allowUnfree = true; }"]);
        build.arg(&self.nixpkgs).args(["-A", package]);
        let path = finish(build, b"")?.success()?.text();
        ensure!(Path::new(&path).starts_with(self.store()), "built in another store: {path}");
        Ok(path.into())
    }

    /// All that a path of the store needs, itself included.
    pub fn closure(&self, home: &Home, path: &Path) -> anyhow::Result<Vec<PathBuf>> {
        let mut query = home.command("nix-store", ["--query", "--requisites"]);
        query.arg(path);
        Ok(finish(query, b"")?.success()?.text().lines().map(PathBuf::from).collect())
    }

    /// The file that the builder of `slow-build` makes when it has begun.
    pub fn slow_build_started(&self) -> PathBuf {
        self.folder.join("slow-build.started")
    }

    /// Lets the builder of `slow-build` end, now or when it begins.
    pub fn release_slow_build(&self) -> anyhow::Result<()> {
        Ok(fs::write(self.folder.join("slow-build.release"), "")?)
    }
}

/// Programs in the place of Nix's.
#[derive(Debug)]
pub struct Decoys {
    record: PathBuf,
}

impl Decoys {
    /// The commands that were started.
    pub fn started(&self) -> anyhow::Result<Vec<String>> {
        Ok(fs::read_to_string(&self.record)?.lines().map(str::to_owned).collect())
    }
}

/// The package set that stands in for nixpkgs.
pub fn stand_in() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("nixpkgs")
}

/// The folder of a store that is shared. Not below /tmp: a sandbox has one of its own, and a store there is a special case.
fn shared(name: &str) -> anyhow::Result<PathBuf> {
    let parent = if nix::unistd::geteuid().is_root() {
        PathBuf::from("/var/lib")
    } else {
        Path::new(&std::env::var_os("HOME").context("a home of the tests' user")?).join(".cache")
    };
    fs::create_dir_all(&parent)?;
    Ok(parent.join(format!("agent-tests-nix-{name}")))
}

/// Whether the package set can be built here. If not, that is said and counted.
fn is_possible() -> bool {
    let has = |program: &str| {
        let folders = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&folders).any(|folder| folder.join(program).exists())
    };
    for program in ["nix-build", "patchelf", "dpkg", "perl"] {
        if !has(program) {
            skip(&format!("no {program} to build the package set with; .ci/setup --tests installs it"));
            return false;
        }
    }
    true
}

/// Prepares the removal of what a person's own Nix left in their folder.
pub(crate) fn make_removable(home: &Path) {
    let folder = home.join("nix");
    if !folder.exists() {
        return;
    }
    // It is a disk of its own, or it is not.
    let _ = umount2(&folder, MntFlags::MNT_DETACH);
    // Nothing in a store may be written to, which would keep an ordinary user from removing it.
    let store = folder.join("store");
    if store.exists() {
        let _ = Command::new("chmod").args(["-R", "u+w"]).arg(store).status();
    }
}
