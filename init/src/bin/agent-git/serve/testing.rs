//! Folders and repositories for tests.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU32, Ordering},
};

use git2::{Oid, Repository, RepositoryInitOptions, Signature, Time};

use super::{Service, Version, place::Place, serve, trouble::Trouble};

/// A folder that is removed on drop.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("agent-git-{}-{}", process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A repository with three commits on `main`, the last a merge, and a tag.
pub(crate) struct Small {
    pub(crate) folder: Folder,
    /// Oldest first.
    pub(crate) commits: Vec<Oid>,
}

impl Small {
    pub(crate) fn new() -> Self {
        let folder = Folder::new();
        let mut options = RepositoryInitOptions::new();
        options.initial_head("main");
        let repository = Repository::init_opts(folder.path(), &options).unwrap();
        let mut commits: Vec<Oid> = Vec::new();
        for (number, parents) in [(0, &[][..]), (1, &[0]), (2, &[0, 1])] {
            let who = Signature::new("A", "a@example.org", &Time::new(1_600_000_000 + number, 0)).unwrap();
            let blob = repository.blob(format!("{number}\n").as_bytes()).unwrap();
            let mut inner = repository.treebuilder(None).unwrap();
            inner.insert("file", blob, 0o100_644).unwrap();
            let mut tree = repository.treebuilder(None).unwrap();
            tree.insert("folder", inner.write().unwrap(), 0o040_000).unwrap();
            let tree = repository.find_tree(tree.write().unwrap()).unwrap();
            let parents: Vec<_> = parents
                .iter()
                .map(|parent: &usize| repository.find_commit(commits[*parent]).unwrap())
                .collect();
            let parents: Vec<_> = parents.iter().collect();
            commits.push(repository.commit(None, &who, &who, "x", &tree, &parents).unwrap());
        }
        repository.reference("refs/heads/main", commits[2], true, "").unwrap();
        let who = Signature::new("A", "a@example.org", &Time::new(1_600_000_000, 0)).unwrap();
        let last = repository.find_object(commits[2], None).unwrap();
        repository.tag("v1", &last, &who, "x", false).unwrap();
        repository.checkout_head(Some(git2::build::CheckoutBuilder::new().force())).unwrap();
        Self { folder, commits }
    }

    /// What a client hears that says all this at once.
    pub(crate) fn hear(
        &self,
        service: Service,
        version: Version,
        said: &[u8],
    ) -> (Vec<u8>, Result<(), Trouble>) {
        let mut heard = Vec::new();
        let served = serve(service, Place::find(self.folder.path()), version, said, &mut heard);
        (heard, served)
    }
}

/// Packets of lines; `0000` and `0001` stand for themselves.
pub(crate) fn packets(lines: &[&str]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for line in lines {
        match *line {
            "0000" | "0001" => bytes.extend_from_slice(line.as_bytes()),
            line => bytes.extend_from_slice(format!("{:04x}{line}", line.len() + 4).as_bytes()),
        }
    }
    bytes
}
