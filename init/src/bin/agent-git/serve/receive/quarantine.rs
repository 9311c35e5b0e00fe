//! Where objects wait until it is clear that they may stay. Git removes such a folder, too, if we are killed: it knows it by
//! its name.

use std::{
    fs,
    io::{self, Read, Write},
    path::{Path, PathBuf},
    process,
};

use git2::{Indexer, Odb};

use super::stream::Stream;
use crate::serve::trouble::{Outcome, Trouble};

/// What git calls such folders.
const PREFIX: &str = "tmp_objdir-incoming-agent-";

/// The mode of packs; nobody writes to them again.
const PACK_MODE: u32 = 0o444;

/// A folder of objects of its own, removed on drop.
pub(super) struct Quarantine {
    folder: PathBuf,
}

impl Quarantine {
    pub(super) fn new(objects: &Path) -> Outcome<Self> {
        let folder = objects.join(format!("{PREFIX}{}", process::id()));
        // One of an earlier process of that number.
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(folder.join("pack")).map_err(|error| failed(&error))?;
        Ok(Self { folder })
    }

    pub(super) fn path(&self) -> &Path {
        &self.folder
    }

    /// Takes in a pack; what its objects are differences to may be in the repository.
    pub(super) fn take(&self, objects: &Path, from: impl Read) -> Outcome<()> {
        let odb = Odb::new().map_err(|error| broken(&error))?;
        odb.add_disk_alternate(&objects.to_string_lossy()).map_err(|error| broken(&error))?;
        let pack = self.folder.join("pack");
        let mut indexer =
            Indexer::new(Some(&odb), &pack, PACK_MODE, false).map_err(|error| broken(&error))?;
        let mut failure = None;
        let count = Stream::new(from).follow(&mut |bytes| {
            // The rest is heard all the same: a client that is still sending hears nothing.
            if failure.is_none() {
                failure = indexer.write_all(bytes).err();
            }
            Ok(())
        })?;
        if let Some(failure) = failure {
            return Err(Trouble::said(format!("index-pack: {failure}")));
        }
        // There is nothing to index in a pack without objects.
        if count > 0 {
            indexer.commit().map_err(|error| broken(&error))?;
        }
        Ok(())
    }

    /// Everything stays. An index is what makes a pack known, so it comes last.
    pub(super) fn keep(self, objects: &Path) -> Outcome<()> {
        let pack = objects.join("pack");
        fs::create_dir_all(&pack).map_err(|error| failed(&error))?;
        for ending in ["pack", "idx"] {
            for entry in fs::read_dir(self.folder.join("pack")).map_err(|error| failed(&error))? {
                let path = entry.map_err(|error| failed(&error))?.path();
                if let (true, Some(name)) =
                    (path.extension().is_some_and(|is| is == ending), path.file_name())
                {
                    fs::rename(&path, pack.join(name)).map_err(|error| failed(&error))?;
                }
            }
        }
        Ok(())
    }
}

impl Drop for Quarantine {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn failed(error: &io::Error) -> Trouble {
    Trouble::said(format!("cannot write objects: {error}"))
}

fn broken(error: &git2::Error) -> Trouble {
    Trouble::said(format!("index-pack: {}", error.message()))
}
