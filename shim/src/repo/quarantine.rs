//! Where objects are until they are believed: a bare repository of ours, empty but for what came, beside the objects of
//! the repository that they may become part of. Nothing there reads any configuration but the few lines written here.

use std::{
    fs::{self, DirBuilder, File},
    io::{self, Write},
    os::unix::{ffi::OsStrExt, fs::DirBuilderExt},
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant, SystemTime},
};

use rustix::fs::{FlockOperation, flock};

use super::{
    home::HomeRepository,
    host_git::{GitError, HostGit, Running},
    object_id::{ObjectFormat, ObjectId},
    session::{PackSink, SessionError},
    watch::{Progress, Watch},
};

/// What such a folder is called. Git's own begin the same way, so that `git prune` knows what one is.
const PREFIX: &str = "tmp_objdir-agent-shim-";

/// One this old that nobody has locked belongs to nobody.
const LEFT_OVER_AFTER: Duration = Duration::from_hours(1);

/// Why git is to keep a pack whose refs are not there yet.
const KEEP: &str = "agent-shim pull";

/// Tries for a name that nobody has.
const NAME_TRIES: u32 = 100;

/// The files of a pack, in the order in which they appear: with the index it is there, and from the beginning it is kept.
const PACK_FILES: [&str; 4] = ["keep", "pack", "rev", "idx"];

/// Those that matter when the power goes.
const DURABLE: [&str; 3] = ["pack", "rev", "idx"];

/// A quarantine. Removed on drop, whatever is in it.
#[derive(Debug)]
pub(crate) struct Quarantine {
    folder: PathBuf,
    /// Locked for as long as it is used.
    _lock: File,
    home_packs: PathBuf,
    /// The number of the next pack's complaint.
    packs: Vec<String>,
}

/// Files that were moved home, which are taken back on drop unless they are to stay.
#[derive(Debug)]
pub(crate) struct Moved {
    files: Vec<PathBuf>,
    stays: bool,
}

/// `git index-pack` in a quarantine, fed piece by piece.
pub(crate) struct Indexer<'a> {
    /// Objects that it was told of, and bytes so far.
    objects: u32,
    bytes: u64,
    watch: Watch<'a>,
    quarantine: &'a mut Quarantine,
    /// None where there is nothing to index.
    running: Option<Running>,
    has_begun: bool,
}

impl Quarantine {
    /// Makes one beside the objects of `home`.
    pub(crate) fn new(home: &HomeRepository, shallow: &[ObjectId]) -> io::Result<Self> {
        remove_left_over(&home.objects);
        let (folder, lock) = make(&home.objects)?;
        let mut quarantine =
            Self { folder, _lock: lock, home_packs: home.objects.join("pack"), packs: Vec::new() };
        quarantine.fill(home, shallow)?;
        Ok(quarantine)
    }

    fn fill(&mut self, home: &HomeRepository, shallow: &[ObjectId]) -> io::Result<()> {
        for folder in ["refs", "objects", "objects/info", "objects/pack"] {
            DirBuilder::new().mode(0o700).create(self.folder.join(folder))?;
        }
        let config = match home.format {
            ObjectFormat::Sha1 => "[core]\n\trepositoryformatversion = 0\n\tbare = true\n".to_owned(),
            format @ ObjectFormat::Sha256 => format!(
                "[core]\n\trepositoryformatversion = 1\n\tbare = true\n[extensions]\n\tobjectformat = {}\n",
                format.name()
            ),
        };
        fs::write(self.folder.join("config"), config)?;
        fs::write(self.folder.join("HEAD"), "ref: refs/heads/none\n")?;
        let mut alternates = home.as_alternate().as_bytes().to_vec();
        alternates.push(b'\n');
        fs::write(self.folder.join("objects/info/alternates"), alternates)?;
        if !shallow.is_empty() {
            let mut file = File::create(self.folder.join("shallow"))?;
            shallow.iter().try_for_each(|id| writeln!(file, "{id}"))?;
        }
        Ok(())
    }

    /// It as a repository.
    pub(crate) fn git_dir(&self) -> &Path {
        &self.folder
    }

    /// Its objects.
    pub(crate) fn objects(&self) -> PathBuf {
        self.folder.join("objects")
    }

    /// What takes the next pack. Git starts while the pack is still made.
    pub(crate) fn indexer<'a>(
        &'a mut self,
        git: &HostGit,
        watch: Watch<'a>,
        until: Instant,
    ) -> Result<Indexer<'a>, GitError> {
        // The disk is waited for by `make_durable`, while other things are done.
        let mut command = git.on_with(&self.folder, &[("core.fsync", "none")]);
        command.args(["index-pack", "--stdin", "--fix-thin", "--strict", &format!("--keep={KEEP}")]);
        command.stdin(Stdio::piped());
        let running = git.start(command, "index-pack", until)?;
        Ok(Indexer {
            objects: 0,
            bytes: 0,
            watch,
            quarantine: self,
            running: Some(running),
            has_begun: false,
        })
    }

    /// Waits until what came is on the disk. What a ref points to must not be lost with the power.
    pub(crate) fn make_durable(&self) -> io::Result<()> {
        for (pack, kind) in self.packs.iter().flat_map(|pack| DURABLE.map(|kind| (pack, kind))) {
            match File::open(self.folder.join(format!("objects/pack/pack-{pack}.{kind}"))) {
                // Not every git writes all of them.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                file => file?.sync_all()?,
            }
        }
        Ok(())
    }

    /// Moves everything to where it is found from then on. The caller holds the lock of the repository's objects.
    pub(crate) fn move_home(&self) -> io::Result<Moved> {
        let mut moved = Moved { files: Vec::new(), stays: false };
        DirBuilder::new().recursive(true).create(&self.home_packs)?;
        for pack in &self.packs {
            for kind in PACK_FILES {
                let name = format!("pack-{pack}.{kind}");
                let (from, to) = (self.folder.join("objects/pack").join(&name), self.home_packs.join(&name));
                // The name says what is in it, so one that is there is the same; it is somebody else's to remove. But a
                // pull that was killed just then keeps it for nobody.
                if to.exists() || !from.exists() {
                    if kind == "keep" && fs::read(&to).is_ok_and(|text| text.trim_ascii() == KEEP.as_bytes())
                    {
                        moved.files.push(to);
                    }
                    continue;
                }
                fs::rename(&from, &to)?;
                moved.files.push(to);
            }
        }
        File::open(&self.home_packs)?.sync_all()?;
        Ok(moved)
    }
}

impl Drop for Quarantine {
    fn drop(&mut self) {
        // What stays is removed by the next one.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

impl Moved {
    /// The objects are in use: from here on git may do with the packs what it likes.
    pub(crate) fn stay(mut self) {
        self.stays = true;
        for keep in self.files.iter().filter(|file| file.extension().is_some_and(|kind| kind == "keep")) {
            // It only keeps git from repacking it.
            let _ = fs::remove_file(keep);
        }
    }
}

impl Drop for Moved {
    fn drop(&mut self) {
        if !self.stays {
            for file in self.files.iter().rev() {
                // Unreachable objects are no harm.
                let _ = fs::remove_file(file);
            }
        }
    }
}

impl Indexer<'_> {
    /// Where it works.
    pub(crate) fn quarantine(&self) -> &Quarantine {
        self.quarantine
    }

    /// Waits until the whole pack was checked. Returns how many objects it had.
    pub(crate) fn finish(mut self) -> Result<u32, GitError> {
        let Some(mut running) = self.running.take().filter(|_| self.has_begun) else { return Ok(0) };
        running.end_input();
        self.watch.tell(Progress::Checking { objects: self.objects });
        let said = running.output(1024)?;
        let name = said.strip_prefix(b"keep\t").or(said.strip_prefix(b"pack\t"));
        let name = name.and_then(|name| std::str::from_utf8(name).ok()).map(str::trim_end);
        match name {
            Some(name) if !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
                self.quarantine.packs.push(name.to_owned());
                Ok(self.objects)
            }
            _ => {
                Err(GitError::Refused { what: "index-pack", said: "it does not say what it made".to_owned() })
            }
        }
    }
}

impl PackSink for Indexer<'_> {
    fn begin(&mut self, objects: u32) -> Result<(), SessionError> {
        // A pack of nothing is what a server sends that has nothing to add.
        if objects == 0 {
            self.running = None;
        }
        self.has_begun = true;
        self.objects = objects;
        Ok(())
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(), SessionError> {
        self.bytes += bytes.len() as u64;
        self.watch.tell(Progress::Receiving { objects: self.objects, bytes: self.bytes });
        // Where bytes always come, nothing waits that could be called off.
        if self.watch.is_called_off() {
            return Err(SessionError::Io(io::ErrorKind::Interrupted.into()));
        }
        match &mut self.running {
            Some(running) => running.write(bytes).map_err(|error| SessionError::Sink(error.into())),
            None => Ok(()),
        }
    }
}

/// A folder that nobody has, locked.
fn make(objects: &Path) -> io::Result<(PathBuf, File)> {
    let process = std::process::id();
    for number in 0..NAME_TRIES {
        let folder = objects.join(format!("{PREFIX}{process}-{number}"));
        match DirBuilder::new().mode(0o700).create(&folder) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => {
                made?;
                let lock = File::open(&folder)?;
                flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
                return Ok((folder, lock));
            }
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

/// What a pull that was killed has left.
fn remove_left_over(objects: &Path) {
    for entry in fs::read_dir(objects).into_iter().flatten().flatten() {
        let is_ours = entry.file_name().as_bytes().starts_with(PREFIX.as_bytes());
        let is_old = || {
            let modified =
                entry.metadata().and_then(|found| found.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
            modified.elapsed().is_ok_and(|age| age > LEFT_OVER_AFTER)
        };
        if is_ours && is_old() {
            let lock = File::open(entry.path());
            if lock.is_ok_and(|lock| flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok()) {
                // The next one tries again.
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }
}
