//! Environments on disk: what was built, found again without starting a single process.
//!
//! ```text
//! specs/<id>.nix      the expression
//! specs/<id>.json     what was asked for
//! envs/<id>           link to the store path; Nix keeps what it points to
//! envs/<id>.closure   everything the environment consists of; written last
//! envs/<id>.previous  link to what it was before it was built anew
//! envs/<id>.log       what Nix said
//! envs/<id>.lock      held by whoever builds or uses it
//! ```
//!
//! An environment is there if its list is whole and names what the link names, and the store has it. Whatever a kill
//! leaves behind lacks one of these.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use super::{
    closure,
    error::EnvError,
    spec::{EnvId, EnvSpec},
};
use crate::sandbox::{
    atomic::{self, Survives},
    bounded::read_bounded,
    paths::{DataDir, check_folder},
};

/// Largest list that is read: some hundred thousand paths.
pub(crate) const MAX_CLOSURE_BYTES: u64 = 16 * 1024 * 1024;

/// Largest spec that is read.
const MAX_SPEC_BYTES: u64 = 1024 * 1024;

/// How long one who uses an environment waits for one that holds it alone.
const LEASE_PATIENCE: Duration = Duration::from_millis(200);
const LEASE_RETRY: Duration = Duration::from_millis(2);

/// An environment that is there.
#[derive(Clone, Debug)]
pub struct Built {
    /// Its name.
    pub id: EnvId,
    /// The tree that becomes /env.
    pub store_path: PathBuf,
    /// The store it is in, at the same path inside: /nix/store nearly everywhere.
    pub store_dir: PathBuf,
    /// Every store path it needs, itself included, sorted.
    pub closure: Vec<PathBuf>,
    /// While this lives, `env gc` leaves the environment alone, although no record names it yet. Whoever keeps it keeps
    /// others from building it anew, so it is dropped as soon as the record is written.
    lease: Option<Arc<File>>,
}

impl Built {
    pub(super) fn keep(mut self, lease: File) -> Self {
        self.lease = Some(Arc::new(lease));
        self
    }

    /// Stands for one that is not there, where a launch is only shown.
    pub(crate) fn unbuilt(id: EnvId, store_dir: &Path) -> Self {
        let store_path = store_dir.join(format!("{}-not-built-yet", "0".repeat(32)));
        Self { id, store_path, store_dir: store_dir.to_owned(), closure: Vec::new(), lease: None }
    }

    /// An environment that nobody holds, for tests of what is made of one.
    #[cfg(test)]
    pub(crate) fn at(id: EnvId, store_path: PathBuf, closure: Vec<PathBuf>) -> Self {
        let store_dir = store_path.parent().unwrap().to_owned();
        Self { id, store_path, store_dir, closure, lease: None }
    }
}

/// What was asked for, kept for people and for `env list`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredSpec {
    /// Its layout; 1.
    pub version: u32,
    /// As it was asked for by whoever had it built.
    pub spec: EnvSpec,
    /// All its packages.
    pub packages: Vec<String>,
    /// When it was built, RFC 3339.
    pub built_at: String,
}

/// Finds an environment. Reads two files, and starts nothing.
pub fn lookup(data: &DataDir, id: &EnvId) -> Result<Option<Built>, EnvError> {
    let files = Files::new(data);
    files.check()?;
    // The lease first: what is found under it stays. During a build nobody gets one, and what was there before is
    // still good.
    let lease = files.lease(id);
    Ok(files.find(id).map(|built| match lease {
        Some(lease) => built.keep(lease),
        None => built,
    }))
}

/// Names of files.
#[derive(Clone, Debug)]
pub(super) struct Files {
    envs: PathBuf,
    specs: PathBuf,
}

/// How an environment is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lock {
    /// By one that builds or removes it.
    Exclusive,
    /// By any number that use it.
    Shared,
}

impl Files {
    pub(super) fn new(data: &DataDir) -> Self {
        Self { envs: data.path().join("envs"), specs: data.path().join("specs") }
    }

    /// The link to the store path.
    pub(super) fn link(&self, id: &EnvId) -> PathBuf {
        self.envs.join(id.as_str())
    }

    pub(super) fn log(&self, id: &EnvId) -> PathBuf {
        self.envs.join(format!("{id}.log"))
    }

    pub(super) fn expression(&self, id: &EnvId) -> PathBuf {
        self.specs.join(format!("{id}.nix"))
    }

    /// Link to what stood under this name before it was built anew: sandboxes that run may still use it.
    pub(super) fn previous(&self, id: &EnvId) -> PathBuf {
        self.envs.join(format!("{id}.previous"))
    }

    fn closure(&self, id: &EnvId) -> PathBuf {
        self.envs.join(format!("{id}.closure"))
    }

    fn lock_file(&self, id: &EnvId) -> PathBuf {
        self.envs.join(format!("{id}.lock"))
    }

    fn spec(&self, id: &EnvId) -> PathBuf {
        self.specs.join(format!("{id}.json"))
    }

    /// Refuses folders that somebody else can change: what is in them is mounted and run.
    pub(super) fn check(&self) -> Result<(), EnvError> {
        check_folder(&self.envs)?;
        Ok(check_folder(&self.specs)?)
    }

    /// Makes the folders.
    pub(super) fn ensure(&self) -> Result<(), EnvError> {
        for folder in [&self.envs, &self.specs] {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(folder)
                .map_err(EnvError::io(format!("making {}", folder.display())))?;
        }
        self.check()
    }

    /// Every environment of which there is anything, sorted.
    pub(super) fn ids(&self) -> Result<Vec<EnvId>, EnvError> {
        self.check()?;
        let mut ids = Vec::new();
        for folder in [&self.envs, &self.specs] {
            let entries = match folder.read_dir() {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                entries => entries.map_err(EnvError::io(format!("reading {}", folder.display())))?,
            };
            let stem = |name: &str| name.split_once('.').map_or(name, |(stem, _)| stem).parse::<EnvId>().ok();
            ids.extend(entries.flatten().filter_map(|entry| stem(entry.file_name().to_str()?)));
        }
        ids.sort();
        ids.dedup();
        Ok(ids)
    }

    /// The environment, if it is whole.
    pub(super) fn find(&self, id: &EnvId) -> Option<Built> {
        let store_path = fs::read_link(self.link(id)).ok()?;
        let list = read_bounded(&self.closure(id), MAX_CLOSURE_BYTES).ok()?;
        let closure = closure::parse(&list, &store_path)?;
        let store_dir = store_path.parent()?.to_owned();
        // A collector takes what nothing links to, and a store can be another one than it was.
        let is_there = fs::symlink_metadata(&store_path).is_ok_and(|found| found.is_dir());
        is_there.then(|| Built { id: id.clone(), store_path, store_dir, closure, lease: None })
    }

    /// Where the link points, whether the environment is whole or not.
    pub(super) fn target(&self, id: &EnvId) -> Option<PathBuf> {
        fs::read_link(self.link(id)).ok()
    }

    /// Writes the list, which makes the environment whole.
    pub(super) fn finish(&self, id: &EnvId, store_path: &Path, closure: &[PathBuf]) -> Result<(), EnvError> {
        let name = format!("{id}.closure");
        // After a power cut it is built again, which takes a moment where the store still has it.
        atomic::replace(&self.envs, &name, closure::text(store_path, closure).as_bytes(), Survives::PowerCut)
            .map_err(EnvError::io(format!("writing {}", self.closure(id).display())))
    }

    /// Writes the expression and what was asked for.
    pub(super) fn describe(&self, id: &EnvId, expression: &str, spec: &StoredSpec) -> Result<(), EnvError> {
        let json = serde_json::to_vec_pretty(spec).map_err(io::Error::from);
        let write =
            |name: String, content: &[u8]| atomic::replace(&self.specs, &name, content, Survives::Kill);
        json.and_then(|json| write(format!("{id}.json"), &json))
            .and_then(|()| write(format!("{id}.nix"), expression.as_bytes()))
            .map_err(EnvError::io(format!("writing {}", self.expression(id).display())))
    }

    /// What was asked for, where it can be read.
    pub(super) fn stored(&self, id: &EnvId) -> Option<StoredSpec> {
        let bytes = read_bounded(&self.spec(id), MAX_SPEC_BYTES).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    /// Removes all of it. The link goes first: without it the rest means nothing.
    pub(super) fn remove(&self, id: &EnvId) -> io::Result<()> {
        let (previous, lock) = (self.previous(id), self.lock_file(id));
        [self.link(id), previous, self.closure(id), self.log(id), self.expression(id), self.spec(id), lock]
            .iter()
            .try_for_each(|path| remove_file(path))
    }

    /// Removes what stood under this name before.
    pub(super) fn remove_previous(&self, id: &EnvId) -> io::Result<()> {
        remove_file(&self.previous(id))
    }

    /// Holds the environment as one of many. `env gc` looks at it for moments only, a build takes long.
    fn lease(&self, id: &EnvId) -> Option<File> {
        let end = Instant::now() + LEASE_PATIENCE;
        loop {
            match self.try_lock(id, Lock::Shared) {
                Ok(None) if Instant::now() < end && self.lock_file(id).exists() => thread::sleep(LEASE_RETRY),
                other => return other.ok().flatten(),
            }
        }
    }

    /// Holds the environment; `None` where others hold it so that we cannot.
    pub(super) fn try_lock(&self, id: &EnvId, lock: Lock) -> io::Result<Option<File>> {
        let path = self.lock_file(id);
        // One who only uses what is there makes no file for what is not.
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(lock == Lock::Exclusive)
            .truncate(false)
            .mode(0o600)
            .open(&path)?;
        match if lock == Lock::Exclusive { file.try_lock() } else { file.try_lock_shared() } {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        // `env gc` removes the file with the rest, and whoever waited for it holds nothing then.
        let is_ours = |there: &fs::Metadata| -> io::Result<bool> {
            let ours = file.metadata()?;
            Ok((ours.dev(), ours.ino()) == (there.dev(), there.ino()))
        };
        match path.metadata() {
            Ok(there) if is_ours(&there)? => Ok(Some(file)),
            Ok(_) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::{StateError, testing::TempDir};
    use std::os::unix::fs::{PermissionsExt, symlink};

    struct World {
        temp: TempDir,
        data: DataDir,
        files: Files,
        id: EnvId,
        store_path: PathBuf,
    }

    /// A store with one environment in it, which is not known yet.
    fn world() -> World {
        let temp = TempDir::new();
        let data = DataDir::at(temp.path().join("data"));
        let files = Files::new(&data);
        let store_path = temp.path().join("store/abc-environment");
        fs::create_dir_all(&store_path).unwrap();
        let id = EnvSpec { packages: vec!["jq".to_owned()], ..EnvSpec::default() }.id().unwrap();
        World { temp, data, files, id, store_path }
    }

    impl World {
        fn build(&self) -> Vec<PathBuf> {
            self.files.ensure().unwrap();
            drop(self.files.try_lock(&self.id, Lock::Exclusive).unwrap().unwrap());
            let closure = vec![self.store_path.clone(), self.temp.path().join("store/def-jq")];
            symlink(&self.store_path, self.files.link(&self.id)).unwrap();
            self.files.finish(&self.id, &self.store_path, &closure).unwrap();
            closure
        }

        fn found(&self) -> Option<Built> {
            lookup(&self.data, &self.id).unwrap()
        }
    }

    #[test]
    fn what_was_built_is_found() {
        let world = world();
        assert!(world.found().is_none());
        let closure = world.build();
        let built = world.found().unwrap();
        assert_eq!((built.store_path, built.closure), (world.store_path.clone(), closure));
        assert_eq!(built.store_dir, world.temp.path().join("store"));
        assert_eq!(world.files.ids().unwrap(), std::slice::from_ref(&world.id));
    }

    #[test]
    fn what_lacks_a_part_is_not_there() {
        let breakages: [fn(&World); 6] = [
            |world| fs::remove_file(world.files.link(&world.id)).unwrap(),
            |world| fs::remove_file(world.files.closure(&world.id)).unwrap(),
            |world| fs::remove_dir(&world.store_path).unwrap(),
            |world| {
                // Built anew, and killed before the list was written.
                fs::remove_file(world.files.link(&world.id)).unwrap();
                let other = world.temp.path().join("store/xyz-environment");
                fs::create_dir(&other).unwrap();
                symlink(other, world.files.link(&world.id)).unwrap();
            },
            |world| {
                let list = fs::read_to_string(world.files.closure(&world.id)).unwrap();
                fs::write(world.files.closure(&world.id), &list[..list.len() - 3]).unwrap();
            },
            |world| {
                let list = fs::read_to_string(world.files.closure(&world.id)).unwrap();
                fs::write(world.files.closure(&world.id), list.replace("store/def-jq", "store/../../etc"))
                    .unwrap();
            },
        ];
        for (index, break_it) in breakages.iter().enumerate() {
            let world = world();
            world.build();
            break_it(&world);
            assert!(world.found().is_none(), "breakage {index}");
        }
    }

    #[test]
    fn folders_that_others_can_change_are_refused() {
        let world = world();
        world.build();
        fs::set_permissions(world.data.path().join("envs"), fs::Permissions::from_mode(0o777)).unwrap();
        assert!(matches!(lookup(&world.data, &world.id), Err(EnvError::State(StateError::Foreign { .. }))));
    }

    #[test]
    fn what_is_used_is_not_held_by_one_alone() {
        let world = world();
        world.build();
        let (first, second) = (world.found().unwrap(), world.found().unwrap());
        assert!(world.files.try_lock(&world.id, Lock::Exclusive).unwrap().is_none());
        drop((first, second));
        let one = world.files.try_lock(&world.id, Lock::Exclusive).unwrap();
        assert!(one.is_some());
        // While it is built anew, what was there can still be used.
        assert!(world.found().unwrap().lease.is_none());
    }

    #[test]
    fn a_lock_whose_file_was_removed_is_none() {
        let world = world();
        world.build();
        let file = File::open(world.files.lock_file(&world.id)).unwrap();
        world.files.remove(&world.id).unwrap();
        assert!(world.files.ids().unwrap().is_empty());
        // Another one may make the file anew.
        let held = world.files.try_lock(&world.id, Lock::Exclusive).unwrap();
        assert!(held.is_some());
        drop(file);
    }
}
