//! What is in a snapshot, and when there is one.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    time::{Duration, SystemTime},
};

use crate::scene::Scene;

#[test]
fn everything_is_in_it_as_it_is() {
    let scene = Scene::new();
    assert_eq!(scene.outcome(&[])["outcome"], "clean");
    scene.write("file", "changed\r\n");
    scene.write("new/deep/er", "x");
    scene.write(".gitattributes", "* text=auto eol=lf filter=evil\n");
    scene.git(&["config", "core.autocrlf", "input"]);
    for how in ["clean", "smudge", "process"] {
        scene.git(&["config", &format!("filter.evil.{how}"), "touch canary; cat"]);
    }
    fs::remove_file(scene.root.join("a/b")).unwrap();
    fs::create_dir(scene.root.join("empty")).unwrap();
    scene.write("run", "#!/bin/sh\n");
    fs::set_permissions(scene.root.join("run"), fs::Permissions::from_mode(0o755)).unwrap();
    symlink("/etc/passwd", scene.root.join("link")).unwrap();
    symlink("nowhere", scene.root.join("broken")).unwrap();
    scene.write_bytes(b"not\xfftext\n", b"y");
    let commit = scene.taken(&[]);
    assert_eq!(scene.git(&["cat-file", "blob", &format!("{commit}:file")]), "changed");
    assert_eq!(scene.git(&["cat-file", "-s", &format!("{commit}:file")]), "9", "line ends as they are");
    let listed = scene.git(&["ls-tree", "-r", "-z", &commit]);
    for entry in ["100755 blob", "120000 blob", "\trun", "\tlink", "\tbroken", "\tnew/deep/er"] {
        assert!(listed.contains(entry), "{entry}: {listed}");
    }
    assert_eq!(listed.split('\0').filter(|name| !name.is_empty()).count(), 7);
    assert!(!scene.root.join("canary").exists());
    scene.git(&["config", "--unset-all", "core.autocrlf"]);
    fs::write(scene.root.join(".git/info/attributes"), "* -text -filter\n").unwrap();
    assert_eq!(scene.git(&["rev-parse", &format!("{commit}^{{tree}}")]), scene.by_git(false));
    assert_eq!(scene.git(&["rev-parse", &format!("{commit}^")]), scene.git(&["rev-parse", "HEAD"]));
    let message = scene.git(&["log", "-1", "--format=%an %ae %cn%n%B", &commit]);
    assert!(message.starts_with("agent-shim agent-shim@localhost agent-shim\nsnapshot of main"), "{message}");
    scene.fsck();
}

#[test]
fn nothing_is_kept_twice_and_every_change_is() {
    let scene = Scene::new();
    scene.write("x", "1");
    scene.taken(&[]);
    assert_eq!(scene.outcome(&[])["outcome"], "unchanged");
    scene.commit();
    assert_eq!(scene.outcome(&[])["outcome"], "clean");
    assert_eq!(scene.refs().len(), 1);
    // Changes that leave size and time as they were, some of them within one tick of the clock.
    for round in 0..40_u8 {
        scene.write("x", [b'a' + round % 26, round]);
        let past = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        fs::File::options().write(true).open(scene.root.join("x")).unwrap().set_modified(past).unwrap();
        let commit = scene.taken(&[]);
        let there = scene.command("git").args(["cat-file", "blob", &format!("{commit}:x")]).output().unwrap();
        assert_eq!(there.stdout, [b'a' + round % 26, round], "{round}");
    }
    // Kinds that turn into each other.
    fs::remove_file(scene.root.join("x")).unwrap();
    scene.write("x/y", "1");
    assert!(scene.names(&scene.taken(&[])).contains(&"x/y".to_owned()));
    fs::remove_dir_all(scene.root.join("x")).unwrap();
    symlink("file", scene.root.join("x")).unwrap();
    assert!(scene.names(&scene.taken(&[])).contains(&"x".to_owned()));
    fs::set_permissions(scene.root.join("file"), fs::Permissions::from_mode(0o755)).unwrap();
    scene.taken(&[]);
    scene.fsck();
}

/// What the last one saw is of use only while its objects are there.
#[test]
fn objects_that_git_has_removed_are_written_again() {
    let scene = Scene::new();
    scene.write("x", "1");
    scene.taken(&[]);
    let name = scene.refs()[0].clone();
    scene.git(&["update-ref", "-d", &name]);
    scene.git(&["gc", "-q", "--prune=now"]);
    assert_eq!(scene.names(&scene.taken(&[])), ["a/b", "file", "x"]);
    scene.fsck();
    // Packed refs are found as well.
    scene.git(&["pack-refs", "--all"]);
    assert_eq!(scene.outcome(&[])["outcome"], "unchanged");
    // A commit that was amended away.
    scene.commit();
    assert_eq!(scene.outcome(&[])["outcome"], "clean");
    scene.git(&["reset", "-q", "--soft", "HEAD^"]);
    scene.git(&["reflog", "expire", "--expire=now", "--all"]);
    scene.git(&["update-ref", "-d", &scene.refs()[0]]);
    scene.git(&["rm", "-q", "--cached", "x"]);
    scene.git(&["gc", "-q", "--prune=now"]);
    scene.taken(&[]);
    scene.fsck();
}

#[test]
fn old_ones_go() {
    let scene = Scene::new();
    for round in 0..12 {
        scene.write("x", round.to_string());
        scene.taken(&["--keep", "5"]);
        if round == 6 {
            scene.git(&["pack-refs", "--all"]);
        }
    }
    assert_eq!(scene.refs().len(), 5);
    let newest = scene.refs().pop().unwrap();
    assert_eq!(scene.git(&["cat-file", "blob", &format!("{newest}:x")]), "11");
    // What one left that was killed goes an hour later.
    for (name, age) in [("tmp_object_git2_a", 2), ("tmp_object_git2_b", 0), ("tmp_other", 2)] {
        let file = fs::File::create(scene.root.join(".git/objects").join(name)).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_hours(age)).unwrap();
    }
    scene.write("x", "last");
    assert_eq!(scene.outcome(&["--days", "0"])["expired"], 5);
    assert_eq!(scene.refs().len(), 1);
    let is_there = |name: &str| scene.root.join(".git/objects").join(name).exists();
    assert_eq!(["tmp_object_git2_a", "tmp_object_git2_b", "tmp_other"].map(is_there), [false, true, true]);
    scene.fsck();
}
