//! Replacing a file so that a reader, a kill and a power cut see the old one or the new one, never a part.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    process,
};

/// What the new content must survive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Survives {
    /// Any kill of ours. What describes processes means nothing after a power cut, and a sync costs more than
    /// all the rest of a write.
    Kill,
    /// A power cut as well.
    PowerCut,
}

/// Replaces `folder/name`. Where it fails the old content stays and no temporary file is left behind.
pub(crate) fn replace(folder: &Path, name: &str, content: &[u8], survives: Survives) -> io::Result<()> {
    let temporary = folder.join(format!(".{name}.{}", process::id()));
    let written = write_new(&temporary, content, survives)
        .and_then(|()| fs::rename(&temporary, folder.join(name)))
        .inspect_err(|_| drop(fs::remove_file(&temporary)));
    written?;
    match survives {
        Survives::Kill => Ok(()),
        Survives::PowerCut => File::open(folder)?.sync_all(),
    }
}

fn write_new(path: &Path, content: &[u8], survives: Survives) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(content)?;
    match survives {
        Survives::Kill => Ok(()),
        Survives::PowerCut => file.sync_all(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::testing::TempDir;

    #[test]
    fn a_file_is_replaced_whole() {
        let folder = TempDir::new();
        for (content, survives) in [(&b"first"[..], Survives::PowerCut), (b"2", Survives::Kill)] {
            replace(folder.path(), "state.json", content, survives).unwrap();
            assert_eq!(fs::read(folder.path().join("state.json")).unwrap(), content);
        }
        assert_eq!(folder.path().read_dir().unwrap().count(), 1, "no temporary file stays");
    }

    #[test]
    fn a_failure_leaves_nothing_behind() {
        let folder = TempDir::new();
        fs::create_dir(folder.path().join("state.json")).unwrap();
        fs::write(folder.path().join("state.json/child"), "").unwrap();
        assert!(replace(folder.path(), "state.json", b"x", Survives::Kill).is_err());
        assert_eq!(folder.path().read_dir().unwrap().count(), 1);
    }
}
