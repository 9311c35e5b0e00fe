//! A podman for the people of the tests: storage of their own, made once, and in it an image of this machine's own programs,
//! because no registry can be asked.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs::{self, File},
    io::Write,
    os::unix::fs::{DirBuilderExt, PermissionsExt, chown},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Mutex, PoisonError},
};

use anyhow::{Context, bail, ensure};

use crate::{Home, skip};

/// The image. Another number wherever it is made in another way.
pub const IMAGE: &str = "localhost/agent-shim-tests:3";

/// The same without a command or a variable in it.
pub const SILENT_IMAGE: &str = "localhost/agent-shim-tests-silent:1";

/// One with init's way in, and without a shell.
pub const BARE_IMAGE: &str = "localhost/agent-shim-tests-bare:1";

/// What is looked for inside by the tests, as far as it is here.
const PROGRAMS: &[&str] = &[
    "awk",
    "base64",
    "basename",
    "bash",
    "cat",
    "chgrp",
    "chmod",
    "chown",
    "cmp",
    "comm",
    "cp",
    "cut",
    "date",
    "dd",
    "df",
    "dirname",
    "du",
    "echo",
    "env",
    "expr",
    "false",
    "find",
    "git",
    "grep",
    "gzip",
    "head",
    "hostname",
    "id",
    "ipcs",
    "kill",
    "ln",
    "ls",
    "md5sum",
    "mkdir",
    "mkfifo",
    "mknod",
    "mktemp",
    "mount",
    "mv",
    "nice",
    "nohup",
    "od",
    "pgrep",
    "pkill",
    "printenv",
    "printf",
    "prlimit",
    "ps",
    "pwd",
    "python3",
    "readlink",
    "realpath",
    "renice",
    "rm",
    "rmdir",
    "script",
    "sed",
    "seq",
    "setpriv",
    "setsid",
    "sh",
    "sha256sum",
    "sleep",
    "sort",
    "stat",
    "stdbuf",
    "stty",
    "sync",
    "tail",
    "tar",
    "tee",
    "test",
    "timeout",
    "top",
    "touch",
    "tput",
    "tr",
    "true",
    "truncate",
    "tty",
    "umount",
    "uname",
    "uniq",
    "unlink",
    "unshare",
    "wc",
    "which",
    "whoami",
    "xargs",
    "yes",
    "less",
    "perl",
    "vim",
];

/// Folders that come with them.
const FOLDERS: &[&str] = &[
    "/usr/lib/git-core",
    "/usr/share/git-core/templates",
    "/lib/terminfo",
    "/usr/share/terminfo",
    "/usr/lib/locale/C.utf8",
];

/// Links of a merged /usr.
const LINKS: &[&str] = &["bin", "sbin", "lib", "lib64"];

/// One person's podman.
#[derive(Clone, Debug)]
pub struct Podman {
    folder: PathBuf,
    user: u32,
}

impl Podman {
    /// Everyone who can have one here, each with a home that leads to it. Who cannot is counted as skipped.
    pub fn everyone() -> anyhow::Result<Vec<(Home, Podman)>> {
        let mut people = Vec::new();
        for who in Home::everyone() {
            let mut home = Home::new(*who)?;
            if let Some(why) = Podman::missing(home.uid()) {
                skip(&why);
                continue;
            }
            let podman = Podman::of(home.uid())?;
            for (name, value) in podman.variables() {
                home.variable(name, value);
            }
            people.push((home, podman));
        }
        Ok(people)
    }

    /// Why a person cannot have one here.
    pub fn missing(user: u32) -> Option<String> {
        if !Path::new("/usr/bin/podman").exists() {
            return Some("podman is not installed".to_owned());
        }
        if user == 0 {
            return None;
        }
        // newuidmap asks for the name that has an id, and then for what that name has.
        let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
        let fields = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>());
        let id = user.to_string();
        let name = fields
            .filter(|fields| fields.get(2) == Some(&id.as_str()))
            .find_map(|fields| Some((*fields.first()?).to_owned()));
        let Some(name) = name else {
            return Some(format!("user {user} has no name, and newuidmap wants one"));
        };
        let has = |file: &str| {
            let text = fs::read_to_string(file).unwrap_or_default();
            text.lines().any(|line| line.starts_with(&format!("{name}:")))
        };
        (!has("/etc/subuid") || !has("/etc/subgid"))
            .then(|| format!("{name} has no range in /etc/subuid and /etc/subgid"))
    }

    /// The person's podman, with the images in it. Made by whichever test comes first.
    pub fn of(user: u32) -> anyhow::Result<Podman> {
        static MADE: Mutex<Vec<u32>> = Mutex::new(Vec::new());
        let podman = Podman { folder: format!("/var/tmp/agent-shim-tests-podman-{user}").into(), user };
        let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
        if !made.contains(&user) {
            podman.make().with_context(|| format!("making a podman in {}", podman.folder.display()))?;
            made.push(user);
        }
        Ok(podman)
    }

    /// What the person's commands need in their environment to find it.
    pub fn variables(&self) -> Vec<(&'static str, OsString)> {
        let at = |name: &str| self.folder.join(name).into_os_string();
        vec![
            ("CONTAINERS_CONF", at("containers.conf")),
            ("CONTAINERS_STORAGE_CONF", at("storage.conf")),
            ("XDG_RUNTIME_DIR", at("run")),
        ]
    }

    /// A command of the person's.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = if nix::unistd::geteuid().as_raw() == self.user {
            Command::new("podman")
        } else {
            let id = self.user.to_string();
            let mut command = Command::new("setpriv");
            command.args(["--reuid", &id, "--regid", &id, "--clear-groups", "--", "podman"]);
            command
        };
        command.args(args).env_clear().current_dir("/").envs(self.variables());
        command.env("HOME", self.folder.join("home")).env("PATH", crate::home::SEARCH_PATH);
        command
    }

    /// What a command says, which has to work.
    pub fn say(&self, args: &[&str]) -> anyhow::Result<String> {
        let output = self.command(args).stdin(Stdio::null()).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "podman {args:?}: {}: {said}", output.status);
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }

    fn make(&self) -> anyhow::Result<()> {
        let owner =
            |path: &Path| -> anyhow::Result<()> { Ok(chown(path, Some(self.user), Some(self.user))?) };
        for name in ["", "home", "run", "store", "layers"] {
            let path = self.folder.join(name);
            fs::DirBuilder::new().recursive(true).mode(0o700).create(&path)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o700))?;
            owner(&path)?;
        }
        // Several test programs may want it first.
        let lock = File::create(self.folder.join("lock"))?;
        let _lock =
            nix::fcntl::Flock::lock(lock, nix::fcntl::FlockArg::LockExclusive).map_err(|(_, error)| error)?;
        for (name, text) in [("containers.conf", configuration()?), ("storage.conf", self.storage())] {
            let path = self.folder.join(name);
            fs::write(&path, text)?;
            owner(&path)?;
        }
        let has = |image: &str| -> anyhow::Result<bool> {
            Ok(self.command(&["image", "exists", image]).status()?.success())
        };
        let command = "CMD [\"echo from the image as $(id -u); cat\"]";
        if !has(IMAGE)? {
            self.import(
                IMAGE,
                &programs(PROGRAMS, FOLDERS)?,
                &["ENTRYPOINT [\"/bin/bash\",\"-c\"]", command, "ENV FROM_IMAGE=yes"],
            )?;
        }
        if !has(SILENT_IMAGE)? {
            self.import(SILENT_IMAGE, &programs(&["sh", "cat", "id"], &[])?, &[])?;
        }
        if !has(BARE_IMAGE)? {
            self.import(BARE_IMAGE, &programs(&["cat"], &[])?, &["ENTRYPOINT [\"/usr/bin/cat\"]"])?;
        }
        Ok(())
    }

    fn storage(&self) -> String {
        let folder = self.folder.display();
        format!(
            "[storage]\ndriver = \"overlay\"\ngraphroot = \"{folder}/store\"\nrootless_storage_path = \"{folder}/store\"\n\
             runroot = \"{folder}/layers\"\n"
        )
    }

    /// Has podman make an image of these files of the machine's.
    fn import(&self, name: &str, files: &BTreeSet<PathBuf>, changes: &[&str]) -> anyhow::Result<()> {
        let mut tar = Command::new("tar")
            .args([
                "--create",
                "--directory=/",
                "--no-recursion",
                "--owner=0",
                "--group=0",
                "--null",
                "--files-from=-",
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut args = vec!["import", "--quiet"];
        for change in changes {
            args.extend(["--change", change]);
        }
        args.extend(["-", name]);
        let archive = tar.stdout.take().context("the archive")?;
        let mut list = tar.stdin.take().context("the list")?;
        let mut import = self.command(&args).stdin(archive).stdout(Stdio::null()).spawn()?;
        for file in files {
            let relative = file.strip_prefix("/").unwrap_or(file);
            list.write_all(relative.as_os_str().as_encoded_bytes())?;
            list.write_all(b"\0")?;
        }
        drop(list);
        let (packed, imported) = (tar.wait()?, import.wait()?);
        if !packed.success() || !imported.success() {
            bail!("making the image {name}: tar {packed}, podman {imported}");
        }
        Ok(())
    }
}

/// Settings that make podman work on machines where its own defaults do not: without systemd, with both versions of
/// cgroups, as root without all of root's rights.
fn configuration() -> anyhow::Result<String> {
    let mixed = fs::read_to_string("/sys/fs/cgroup/unified/cgroup.controllers")
        .is_ok_and(|found| !found.trim().is_empty());
    // crun refuses to run there.
    let runtime = if mixed && Path::new("/usr/sbin/runc").exists() { "runtime = \"runc\"\n" } else { "" };
    let (soft, hard) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE)?;
    Ok(format!(
        "[containers]\ndefault_ulimits = [\"nofile={soft}:{hard}\", \"nproc=8192:8192\"]\n\
         [engine]\n{runtime}cgroup_manager = \"cgroupfs\"\nevents_logger = \"none\"\n"
    ))
}

/// Programs with what they are linked to, folders with what is in them, and the links of /usr.
fn programs(names: &[&str], folders: &[&str]) -> anyhow::Result<BTreeSet<PathBuf>> {
    let mut files = BTreeSet::new();
    for link in LINKS.iter().map(|link| Path::new("/").join(link)).filter(|link| link.is_symlink()) {
        files.insert(link);
    }
    let mut found: Vec<PathBuf> =
        names.iter().map(|name| Path::new("/usr/bin").join(name)).filter(|path| path.exists()).collect();
    for folder in folders.iter().map(Path::new).filter(|folder| folder.exists()) {
        add_folder(&folder.canonicalize()?, &mut files, &mut found)?;
    }
    if names.contains(&"python3") {
        let version = Command::new("/usr/bin/python3")
            .args(["-c", "import sys; print('%d.%d' % sys.version_info[:2])"])
            .output();
        if let Ok(version) = version {
            let folder =
                PathBuf::from(format!("/usr/lib/python{}", String::from_utf8_lossy(&version.stdout).trim()));
            if folder.is_dir() {
                add_folder(&folder, &mut files, &mut Vec::new())?;
            }
        }
    }
    if names.contains(&"perl") {
        let places = Command::new("/usr/bin/perl").args(["-e", "print join qq(\\n), @INC"]).output();
        let places =
            places.map(|said| String::from_utf8_lossy(&said.stdout).into_owned()).unwrap_or_default();
        for folder in places.lines().filter(|place| place.starts_with("/usr/")).map(Path::new) {
            if folder.is_dir() {
                files.extend(folder.is_symlink().then(|| folder.to_owned()));
                add_folder(&folder.canonicalize()?, &mut files, &mut Vec::new())?;
            }
        }
    }
    for name in ["/etc/passwd", "/etc/group"] {
        add(Path::new(name), &mut files)?;
    }
    for program in &found {
        add(program, &mut files)?;
        let linked = Command::new("ldd").arg(program).output()?;
        for word in
            String::from_utf8_lossy(&linked.stdout).split_whitespace().filter(|word| word.starts_with('/'))
        {
            add(Path::new(word), &mut files)?;
        }
    }
    Ok(files)
}

/// A file with everything on the way to it, links followed.
fn add(file: &Path, files: &mut BTreeSet<PathBuf>) -> anyhow::Result<()> {
    // A name through a link of the root is the same name below /usr.
    let folder = file.parent().context("a file's folder")?.canonicalize()?;
    let mut next = folder.join(file.file_name().context("a file's name")?);
    for _ in 0..8 {
        files.extend(next.ancestors().skip(1).filter(|path| path.parent().is_some()).map(Path::to_owned));
        files.insert(next.clone());
        let Ok(target) = fs::read_link(&next) else { return Ok(()) };
        let target = next.parent().context("a link's folder")?.join(target);
        let folder = target.parent().context("a target's folder")?.canonicalize()?;
        next = folder.join(target.file_name().context("a target's name")?);
    }
    Ok(())
}

fn add_folder(folder: &Path, files: &mut BTreeSet<PathBuf>, found: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    files.extend(folder.ancestors().filter(|path| path.parent().is_some()).map(Path::to_owned));
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        // What was compiled for this machine only, and tests of its own.
        if kind.is_dir() && !["__pycache__", "test", "idlelib"].iter().any(|name| entry.file_name() == *name)
        {
            add_folder(&entry.path(), files, found)?;
        } else if kind.is_file() && entry.metadata()?.permissions().mode() & 0o111 != 0 {
            found.push(entry.path());
        } else if !kind.is_dir() {
            files.insert(entry.path());
        }
    }
    Ok(())
}
