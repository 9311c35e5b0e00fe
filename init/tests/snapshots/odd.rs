//! Repositories and files of every kind.

use std::{
    fs,
    os::unix::{
        fs::{PermissionsExt, symlink},
        net::UnixListener,
    },
    path::Path,
};

use rustix::fs::{CWD, Mode, mkfifoat};
use serde_json::Value;

use crate::scene::Scene;

fn left_out(outcome: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let left = outcome["left_out"].as_array().unwrap();
    let mut left: Vec<_> = left.iter().map(|one| (text(&one["path"]), text(&one["why"]))).collect();
    left.sort();
    left
}

#[test]
fn what_cannot_be_kept_is_said() {
    let scene = Scene::new();
    scene.write("large", vec![7; 2000]);
    scene.write("some", vec![8; 900]);
    scene.write("z", vec![9; 900]);
    mkfifoat(CWD, scene.root.join("pipe"), Mode::from_raw_mode(0o600)).unwrap();
    let _socket = UnixListener::bind(scene.root.join("socket")).unwrap();
    scene.write("sub/.GIT/config", "[core]\n");
    scene.write("git~1", "x");
    scene.write(".gitmodules", "[submodule \"x\"]\n\tpath = x\n\turl = --upload-pack=evil\n");
    symlink("file", scene.root.join(".gitattributes")).unwrap();
    let outcome = scene.outcome(&["--max-file", "1000", "--max-new", "1500"]);
    let expected = [
        (".gitattributes", "refused"),
        (".gitmodules", "refused"),
        ("git~1", "refused"),
        ("large", "too-large"),
        ("pipe", "special"),
        ("socket", "special"),
        ("sub/.GIT/", "refused"),
        ("z", "no-room"),
    ];
    assert_eq!(left_out(&outcome), expected.map(|(path, why)| (path.to_owned(), why.to_owned())));
    let commit = outcome["commit"].as_str().unwrap();
    assert_eq!(scene.names(commit), ["a/b", "file", "some"]);
    let message = scene.git(&["log", "-1", "--format=%b", commit]);
    assert!(message.contains("Left-Out: large (too large)\n"), "{message}");
    // What had no room comes with the next one, and what is still left out is said again.
    let outcome = scene.outcome(&["--max-file", "1000", "--max-new", "1500"]);
    assert!(outcome["outcome"] == "taken" && left_out(&outcome).len() == 7, "{outcome:#}");
    let outcome = scene.outcome(&["--max-file", "1000"]);
    assert!(outcome["outcome"] == "unchanged" && left_out(&outcome).len() == 7, "{outcome:#}");
    scene.fsck();
    // A tree of folders that no path reaches.
    let mut folder = scene.root.clone();
    for _ in 0..600 {
        folder.push("d");
    }
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("f"), "x").unwrap();
    let outcome = scene.outcome(&[]);
    assert!(left_out(&outcome).iter().any(|(path, why)| path.ends_with("d/d/") && why == "too-deep"));
}

#[test]
fn what_cannot_be_read_is_said() {
    if rustix::process::geteuid().is_root() {
        eprintln!("skipped: root reads everything");
        return;
    }
    let scene = Scene::new();
    scene.write("secret", "x");
    scene.write("closed/x", "x");
    for path in ["secret", "closed"] {
        fs::set_permissions(scene.root.join(path), fs::Permissions::from_mode(0o000)).unwrap();
    }
    scene.write("open", "x");
    let outcome = scene.outcome(&[]);
    fs::set_permissions(scene.root.join("closed"), fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(
        left_out(&outcome).iter().map(|(path, _)| path.as_str()).collect::<Vec<_>>(),
        ["closed/", "secret"]
    );
}

/// A change and a snapshot, in a repository in any state.
fn keeps(scene: &Scene) -> String {
    scene.write("file", "changed in any state");
    let commit = scene.taken(&[]);
    assert_eq!(scene.git(&["cat-file", "blob", &format!("{commit}:file")]), "changed in any state");
    scene.fsck();
    commit
}

#[test]
fn repositories_in_every_state() {
    let unborn = Scene::empty();
    let commit = keeps(&unborn);
    assert_eq!(unborn.git(&["log", "--format=%P", &commit]), "", "it has no parent");

    let detached = Scene::new();
    detached.git(&["checkout", "-q", "--detach"]);
    keeps(&detached);

    let locked = Scene::new();
    for lock in [".git/index.lock", ".git/HEAD.lock", ".git/packed-refs.lock", ".git/refs/heads/main.lock"] {
        fs::write(locked.root.join(lock), "").unwrap();
    }
    keeps(&locked);

    let broken = Scene::new();
    fs::write(broken.root.join(".git/index"), "nonsense").unwrap();
    broken.write("file", "x");
    broken.taken(&[]);

    let interrupted = Scene::new();
    keeps(&interrupted);
    let ours = interrupted.root.join(".git/agent-shim");
    for rubbish in [&b""[..], b"agshim\x00\x01", &[0; 5000]] {
        fs::write(ours.join("index"), rubbish).unwrap();
        fs::write(ours.join("new"), rubbish).unwrap();
        assert_eq!(interrupted.outcome(&[])["outcome"], "unchanged");
    }
    // One that was cut, or has one bit too many, is none.
    let good = fs::read(ours.join("index")).unwrap();
    for at in (0..good.len()).step_by(7) {
        let mut bad = good.clone();
        bad[at] ^= 1 << (at % 8);
        fs::write(ours.join("index"), if at % 2 == 0 { &bad } else { &good[..at] }).unwrap();
        assert_eq!(interrupted.outcome(&[])["outcome"], "unchanged");
    }
}

#[test]
fn where_there_is_no_such_thing_that_is_said() {
    let scene = Scene::new();
    fs::rename(scene.root.join(".git"), scene.root.join(".away")).unwrap();
    assert_eq!(scene.refused(), "no-repository");
    // It is looked for in this folder only.
    let around = scene.root.parent().unwrap();
    scene.git_in(around, &["init", "-q"]);
    assert_eq!(scene.refused(), "no-repository");
    fs::remove_dir_all(&scene.root).unwrap();
    assert_eq!(scene.refused(), "no-repository");
    scene.git_in(around, &["init", "-q", "--bare", "work"]);
    assert_eq!(scene.refused(), "bare");
    fs::remove_dir_all(&scene.root).unwrap();
    scene.git_in(around, &["init", "-q", "--object-format=sha256", "work"]);
    assert_eq!(scene.refused(), "unsupported");
    fs::remove_dir_all(&scene.root).unwrap();
    scene.git_in(around, &["init", "-q", "work"]);
    scene.write(".git/config", "[core\n");
    assert_eq!(scene.refused(), "failed");
    for wrong in [
        &["take", "--nothing", "x"][..],
        &["make", "x"],
        &["take"],
        &["take", "a", "b"],
        &["take", "--keep", "x", "a"],
    ] {
        let output = scene
            .command(env!("CARGO_BIN_EXE_agent-git"))
            .current_dir("/")
            .arg("snapshot")
            .args(wrong)
            .output()
            .unwrap();
        assert_eq!((output.status.code(), output.stdout.len()), (Some(64), 0), "{wrong:?}");
    }
}

#[test]
fn repositories_in_the_repository() {
    let scene = Scene::new();
    let around = scene.root.parent().unwrap().to_owned();
    let other = around.join("other");
    fs::create_dir(&other).unwrap();
    scene.git_in(&other, &["init", "-q", "-b", "main"]);
    fs::write(other.join("in"), "side").unwrap();
    fs::write(other.join("x.min"), "tracked there").unwrap();
    scene.git_in(&other, &["add", "-A"]);
    scene.git_in(&other, &["commit", "-q", "-m", "x"]);
    scene.git(&["submodule", "-q", "add", &other.to_string_lossy(), "sub"]);
    scene.git(&["clone", "-q", &other.to_string_lossy(), "nested"]);
    scene.write(".gitignore", "*.min\n");
    scene.git(&["add", ".gitignore"]);
    scene.git(&["commit", "-q", "-m", "submodule"]);
    let entries = |commit: &str| scene.git(&["ls-tree", commit, "sub", "nested"]);
    let commit = scene.taken(&[]);
    assert!(
        entries(&commit).contains("160000 commit") && entries(&commit).contains("040000 tree"),
        "{}",
        entries(&commit)
    );
    assert_eq!(scene.git(&["ls-tree", "-r", "--name-only", &commit, "nested"]), "nested/in\nnested/x.min");
    assert_eq!(scene.outcome(&[])["outcome"], "unchanged");
    // Changed, with a commit of its own, and without its repository: its files are kept.
    scene.write("sub/in", "changed");
    let changed = scene.taken(&[]);
    assert_eq!(scene.git(&["cat-file", "blob", &format!("{changed}:sub/in")]), "changed");
    assert_eq!(scene.outcome(&[])["outcome"], "unchanged");
    scene.git_in(&scene.root.join("sub"), &["commit", "-q", "-am", "y"]);
    assert_eq!(scene.outcome(&[])["outcome"], "unchanged");
    scene.git_in(&scene.root.join("sub"), &["reset", "-q", "--hard", "HEAD^"]);
    assert!(entries(&scene.taken(&[])).contains("160000 commit"));
    fs::remove_file(scene.root.join("sub/.git")).unwrap();
    let plain = scene.taken(&[]);
    assert_eq!(scene.git(&["cat-file", "blob", &format!("{plain}:sub/in")]), "side");
    // One that is not filled is no removal.
    fs::remove_dir_all(scene.root.join("sub")).unwrap();
    fs::create_dir(scene.root.join("sub")).unwrap();
    assert!(entries(&scene.taken(&[])).contains("160000 commit"));
    scene.fsck();
}

#[test]
fn every_worktree_by_itself() {
    let scene = Scene::new();
    scene.git(&["worktree", "add", "-q", "-b", "fix", ".worktrees/fix"]);
    scene.git(&["worktree", "add", "-q", "-b", "topic/main", ".worktrees/topic/main"]);
    scene.write("x", "1");
    scene.write(".worktrees/fix/y", "2");
    let answer = scene.take(&[]);
    let all: Vec<(String, String)> = answer["snapshots"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| {
            (one["worktree"].as_str().unwrap().to_owned(), one["outcome"].as_str().unwrap().to_owned())
        })
        .collect();
    let expected = [("main", "taken"), ("fix", "taken"), ("main.linked", "clean")];
    assert_eq!(all, expected.map(|(name, outcome)| (name.to_owned(), outcome.to_owned())));
    let commit = |at: usize| answer["snapshots"][at]["commit"].as_str().unwrap().to_owned();
    assert_eq!(scene.names(&commit(0)), ["a/b", "file", "x"]);
    assert_eq!(scene.names(&commit(1)), ["a/b", "file", "y"]);
    // By its branch, its folder, its name.
    for wanted in ["topic/main", "main.linked"] {
        assert_eq!(scene.outcome(&["--worktree", wanted])["worktree"], "main.linked");
    }
    assert_eq!(scene.outcome(&["--worktree", "main"])["outcome"], "unchanged");
    assert_eq!(scene.take(&["--worktree", "nowhere"])["error"]["why"], "no-worktree");
    // A folder that is gone is no worktree any more.
    fs::remove_dir_all(scene.root.join(".worktrees/fix")).unwrap();
    assert_eq!(scene.take(&[])["snapshots"].as_array().unwrap().len(), 2);
    let listed = Scene::answer(&scene.agent_git(&["list"]).output().unwrap());
    assert_eq!((&listed["list"][0]["worktree"], &listed["list"][0]["changed"]), (&"main".into(), &1.into()));
    assert!(!Path::new(&scene.root).join(".worktrees/fix").exists());
    scene.fsck();
}
