//! The agent's own things are byte for byte what they were, times included.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use crate::scene::Scene;

/// Everything in a folder: mode, size, owner, times, links, content. Left out is what snapshots are made of.
fn everything(root: &Path) -> BTreeMap<PathBuf, (Vec<i64>, Vec<u8>)> {
    let ours = [".git/objects", ".git/refs/agents", ".git/agent-shim", ".git/worktrees/linked/agent-shim"];
    // Something of ours is made in them, so their own times change.
    let beside = [".git", ".git/refs", ".git/worktrees/linked"];
    let mut all = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        let short = folder.strip_prefix(root).unwrap().to_owned();
        let found = fs::symlink_metadata(&folder).unwrap();
        if !beside.iter().any(|beside| short == Path::new(beside)) {
            all.insert(
                short,
                (vec![found.mode().into(), found.mtime(), found.mtime_nsec(), found.ctime_nsec()], vec![]),
            );
        }
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let short = path.strip_prefix(root).unwrap().to_owned();
            let found = fs::symlink_metadata(&path).unwrap();
            if ours.iter().any(|ours| short == Path::new(ours)) {
                continue;
            }
            if found.is_dir() {
                folders.push(path);
                continue;
            }
            let mut marks = vec![
                found.mode().into(),
                found.uid().into(),
                found.nlink().cast_signed(),
                found.ino().cast_signed(),
                found.mtime(),
                found.mtime_nsec(),
                found.ctime(),
                found.ctime_nsec(),
            ];
            // Git's own files are read as every git reads them.
            if !short.starts_with(".git") && !short.starts_with(".worktrees/linked/.git") {
                marks.extend([found.atime(), found.atime_nsec()]);
            }
            let content = if found.is_symlink() {
                fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes()
            } else if found.is_file() {
                read_quietly(&path)
            } else {
                Vec::new()
            };
            all.insert(short, (marks, content));
        }
    }
    all
}

/// Reads without a mark, which the comparison would see.
fn read_quietly(path: &Path) -> Vec<u8> {
    use std::{io::Read, os::unix::fs::OpenOptionsExt};
    let flags = 0o1_000_000; // O_NOATIME
    let mut content = Vec::new();
    let mut file = fs::OpenOptions::new().read(true).custom_flags(flags).open(path).unwrap();
    file.read_to_end(&mut content).unwrap();
    content
}

fn plant(scene: &Scene) {
    let hooks = scene.root.join(".git/hooks");
    fs::create_dir_all(&hooks).unwrap();
    for hook in ["pre-commit", "post-commit", "reference-transaction", "post-index-change", "pre-auto-gc"] {
        fs::write(hooks.join(hook), format!("#!/bin/sh\ntouch {}/canary\n", scene.root.display())).unwrap();
        fs::set_permissions(hooks.join(hook), fs::Permissions::from_mode(0o755)).unwrap();
    }
    scene.git(&["config", "core.fsmonitor", &format!("touch {}/canary; false", scene.root.display())]);
    scene.git(&["config", "core.logAllRefUpdates", "always"]);
    scene.git(&["config", "core.fsync", "all"]);
}

#[test]
fn a_worktree_is_what_it_was_before() {
    let scene = Scene::new();
    scene.git(&["worktree", "add", "-q", "-b", "linked", ".worktrees/linked"]);
    scene.write(".gitignore", "*.o\n.worktrees/\n");
    scene.write("x.o", "ignored");
    scene.commit();
    scene.git(&["checkout", "-q", "-b", "other"]);
    scene.write("file", "theirs\n");
    scene.commit();
    scene.git(&["checkout", "-q", "main"]);
    scene.write("file", "ours\n");
    scene.commit();
    scene.write("staged", "staged");
    scene.git(&["stash", "-q", "-u"]);
    // In the middle of a merge, with conflicts.
    assert!(!scene.command("git").args(["merge", "-q", "other"]).output().unwrap().status.success());
    scene.write("staged", "staged");
    scene.git(&["add", "staged"]);
    scene.write("staged", "changed since");
    scene.write("untracked/deep", "x");
    fs::write(scene.root.join(".worktrees/linked/file"), "in the other").unwrap();
    plant(&scene);
    let before = everything(&scene.root);
    for args in [&[][..], &["--ignored"], &["--worktree", "linked"], &[]] {
        scene.take(args);
        let after = everything(&scene.root);
        for (path, found) in &after {
            assert_eq!(Some(found), before.get(path), "{}", path.display());
        }
        assert_eq!(before.len(), after.len());
    }
    assert_eq!(scene.refs().len(), 4, "{:?}", scene.refs());
    // The same where old ones go, some of them from the packed ones; those are git's own files.
    fs::remove_dir_all(scene.root.join(".git/hooks")).unwrap();
    scene.git(&["config", "--unset", "core.fsmonitor"]);
    scene.git(&["pack-refs", "--all"]);
    scene.write("x", "1");
    scene.take(&["--keep", "1"]);
    assert!(!scene.root.join(".git/logs/refs/agents").exists() && !scene.root.join("canary").exists());
    scene.fsck();
}
